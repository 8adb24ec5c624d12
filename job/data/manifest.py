"""The manifest: what a data set holds. Written last, it is the data set's commit.

`manifest.json` names the classes, and for each split its shards with their sizes and hashes. A folder with shards
but without it is unfinished.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from job.errors import UserError
from job.storage import local

NAME = "manifest.json"
FORMAT, VERSION = "twofold-shards", 1
SPLITS = ("train", "validation", "test")


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

    def split(self, name: str, folder: Path) -> Split:
        """A split by name, or an error that lists those there are."""
        if name not in self.splits:
            raise UserError(str(folder), f"has no split {name}", f"it has {', '.join(self.splits)}")
        return self.splits[name]


def write(folder: Path, manifest: Manifest) -> None:
    document = {"format": FORMAT, "version": VERSION, **asdict(manifest), "fingerprint": manifest.fingerprint}
    local.write_json(folder / NAME, document)


def exists(folder: Path) -> bool:
    return (folder / NAME).is_file()


def unfinished(folder: Path) -> bool:
    """Whether a prepare was started here and has not committed."""
    return not exists(folder) and ((folder / ".work").exists() or any(folder.glob("*.tfrecord")))


def read(folder: Path) -> Manifest:
    """Read a manifest and check that its shards are there in full size.

    Raises:
        UserError: the data set is missing, unfinished, of another version or corrupt.
    """
    path = folder / NAME
    if not path.is_file():
        if unfinished(folder):
            raise UserError(str(folder), "this data set is unfinished", "rerun the same twofold prepare to finish it")
        raise UserError(str(folder), f"is not a data set: {NAME} not found", "make one with twofold prepare")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise UserError(str(path), "is not a manifest of this program", "make the data set with twofold prepare")
        if document["version"] != VERSION:
            raise UserError(
                str(path), f"is of version {document['version']}, this program reads version {VERSION}",
                "prepare the data again, or install the twofold that made it",
            )  # fmt: skip
        splits = {
            name: Split(s["records"], tuple(s["classes"]), tuple(Shard(**shard) for shard in s["shards"]))
            for name, s in document["splits"].items()
        }
        negative, positive = document["classes"]
        manifest = Manifest((negative, positive), splits, document["settings"])
        if document["fingerprint"] != manifest.fingerprint:
            raise UserError(str(path), "was changed after it was written", "prepare the data again")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(str(path), f"is corrupt ({error})", "prepare the data again") from None
    for split in splits.values():
        for shard in split.shards:
            _check_size(folder, shard)
    return manifest


def _check_size(folder: Path, shard: Shard) -> None:
    path = folder / shard.file
    if not path.is_file() or not (folder / shard.index).is_file():
        missing = path if not path.is_file() else folder / shard.index
        raise UserError(str(missing), "is missing from the data set", "prepare the data again, or copy it in full")
    found = path.stat().st_size
    if found != shard.bytes:
        raise UserError(str(path), f"has {found:,} of {shard.bytes:,} bytes", "prepare the data again, or copy it in full")


def verify(folder: Path, shards: tuple[Shard, ...]) -> None:
    """Compare the SHA-256 of shards with the manifest's.

    Raises:
        UserError: for the first that differs.
    """
    for shard in shards:
        if local.sha256_of(folder / shard.file) != shard.sha256:
            raise UserError(
                str(folder / shard.file), "its SHA-256 differs from the manifest's, so it is corrupt",
                "prepare the data again, or copy it again",
            )  # fmt: skip
