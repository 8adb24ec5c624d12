"""The manifest: what a data set holds. Written last, it is the data set's commit.

`manifest.json` names the classes, and for each split its shards with their sizes and hashes. A folder with shards
but without it is unfinished.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from job.errors import UserError
from job.storage import local

NAME = "manifest.json"
FORMAT, VERSION = "twofold-shards", 1
SPLITS = ("train", "validation", "test")
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Shard:
    """One TFRecord file; `index` is the file of its records' offsets and lengths."""

    file: str
    records: int
    bytes: int
    sha256: str
    index: str


@dataclass(frozen=True)
class Split:
    """`classes` counts the records of [negative, positive]."""

    records: int
    classes: tuple[int, int]
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Manifest:
    """`classes` is [negative, positive]; `settings` are those of prepare; `fingerprint` names the content."""

    classes: tuple[str, str]
    splits: dict[str, Split]
    settings: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        content = {"classes": self.classes, "splits": {n: asdict(s) for n, s in self.splits.items()}}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def split(self, name: str, folder: object) -> Split:
        """A split by name, or an error that lists those there are."""
        if name not in self.splits:
            raise UserError(str(folder), f"has no split {name}", f"it has {', '.join(self.splits)}")
        return self.splits[name]


class Incomplete(UserError):
    """Files of a data set are missing or cut short; the same `prepare` makes them again."""


AGAIN = "rerun its twofold prepare, or copy it in full"


class Remote(Protocol):
    """A data set that lies elsewhere than in a local folder (`remote_shards.py`). As text it is its address."""

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """The bytes of those of its files that are there."""
        ...

    def document(self) -> bytes | None:
        """The manifest; None where there is none."""
        ...

    def has_shards(self) -> bool:
        """Whether a shard is there, of a data set that is finished or not."""
        ...


def write(folder: Path, manifest: Manifest) -> None:
    document = {"format": FORMAT, "version": VERSION, **asdict(manifest), "fingerprint": manifest.fingerprint}
    local.write_json(folder / NAME, document)


def exists(folder: Path | Remote) -> bool:
    return (folder / NAME).is_file() if isinstance(folder, Path) else folder.document() is not None


def unfinished(folder: Path | Remote) -> bool:
    """Whether a prepare was started here and has not committed."""
    if exists(folder):
        return False
    return (folder / ".work").exists() or any(folder.glob("*.tfrecord")) if isinstance(folder, Path) else folder.has_shards()


def read(folder: Path | Remote) -> Manifest:
    """Read a manifest and check that its shards are there in full size.

    Raises:
        UserError: the data set is missing, unfinished, of another version or corrupt.
        Incomplete: shards of it are missing or cut short.
    """
    manifest = described(folder)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    sizes = _sizes(folder, [name for shard in shards for name in (shard.file, shard.index)])
    for shard in shards:
        for name in (shard.file, shard.index):
            if name not in sizes:
                raise Incomplete(f"{folder}/{name}", "is missing from the data set", AGAIN)
        if sizes[shard.file] != shard.bytes:
            raise Incomplete(f"{folder}/{shard.file}", f"has {sizes[shard.file]:,} of {shard.bytes:,} bytes", AGAIN)
    return manifest


def described(folder: Path | Remote) -> Manifest:
    """Read a manifest alone, whether its shards are there or not.

    Raises:
        UserError: it is missing, unfinished, of another version or corrupt.
    """
    text = _text(folder)
    if text is None:
        if unfinished(folder):
            raise UserError(str(folder), "this data set is unfinished", "rerun the same twofold prepare to finish it")
        raise UserError(str(folder), f"is not a data set: {NAME} not found", "make one with twofold prepare")
    return _parsed(text, f"{folder}/{NAME}")


def _text(folder: Path | Remote) -> bytes | None:
    if not isinstance(folder, Path):
        return folder.document()
    return (folder / NAME).read_bytes() if (folder / NAME).is_file() else None


def _sizes(folder: Path | Remote, names: Iterable[str]) -> dict[str, int]:
    if not isinstance(folder, Path):
        return folder.sizes(names)
    return {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}


def _parsed(text: bytes, where: str) -> Manifest:
    try:
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise UserError(where, "is not a manifest of this program", "make the data set with twofold prepare")
        if document["version"] != VERSION:
            raise UserError(
                where, f"is of version {document['version']}, this program reads version {VERSION}",
                "prepare the data again, or install the twofold that made it",
            )  # fmt: skip
        splits = {
            name: Split(s["records"], tuple(s["classes"]), tuple(Shard(**shard) for shard in s["shards"]))
            for name, s in document["splits"].items()
        }
        negative, positive = document["classes"]
        manifest = Manifest((negative, positive), splits, document["settings"])
        for shard in (shard for split in splits.values() for shard in split.shards):
            if not _SHA256.fullmatch(shard.sha256):  # it names files in the cache
                raise ValueError(f"the SHA-256 of {shard.file} is none")
        if document["fingerprint"] != manifest.fingerprint:
            raise UserError(where, "was changed after it was written", "prepare the data again")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(where, f"is corrupt ({error})", "prepare the data again") from None
    return manifest


def verify(folder: Path | Remote, shards: tuple[Shard, ...]) -> None:
    """Compare the SHA-256 of shards with the manifest's; of a data set that is elsewhere, that is done as they arrive.

    Raises:
        UserError: for the first that differs.
    """
    if isinstance(folder, Path):
        for shard in shards:
            if local.sha256_of(folder / shard.file) != shard.sha256:
                raise differs(folder, shard)


def differs(folder: Path | Remote, shard: Shard) -> UserError:
    """The error of a shard whose content is not what the manifest says."""
    what = "its SHA-256 differs from the manifest's, so it is corrupt"
    return UserError(f"{folder}/{shard.file}", what, "delete that file and rerun its twofold prepare, or copy it again")
