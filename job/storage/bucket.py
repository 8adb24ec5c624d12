"""What a bucket does: objects by name, each written whole, each write naming the version that it replaces.

`gs.py` and `s3.py` stand behind it; `tests/test_bucket.py` holds both to it. A version is opaque: Google Cloud Storage has
generations, S3 hashes of the content, so that there equal bytes have equal versions. Who compares and swaps puts a counter
and a token of its own into the bytes (`lease.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Conflict(Exception):
    """The object is not of the version that was named, or is there where it should be absent."""


class Missing(Exception):
    """There is no such object, or no such version of it any more."""


class Unavailable(Exception):
    """The store failed in a way that passes: the same call may be tried again. Its text is the kind of fault, in a few words.

    `wait` are the seconds that the store asked for (Retry-After); 0 where it did not.
    """

    def __init__(self, kind: str, wait: float = 0.0) -> None:
        super().__init__(kind)
        self.wait = wait


@dataclass(frozen=True)
class Stat:
    """An object. `sha256` is what its writer noted of the content; empty for objects of other programs and where a store does
    not say it: in listings, and Google's along with the bytes (`fetch`)."""

    name: str
    size: int
    version: str
    sha256: str = ""


class Bucket(Protocol):
    """The objects whose names begin with a prefix; names are given and returned without it.

    Every method raises UserError where the caller may not do it or the bucket does not exist, Unavailable for what passes.
    A file for `content` must not change meanwhile.
    """

    @property
    def address(self) -> str:
        """As the user writes it: gs://bucket/prefix, without a slash at the end."""
        ...

    def stat(self, name: str) -> Stat | None:
        """What is there now; None where nothing is."""
        ...

    def read(self, name: str, start: int = 0, length: int | None = None, version: str = "") -> bytes:
        """Bytes of an object, all by default, of that very version where one is named; fewer where it ends before, none past it.

        Of a part, no store knows a hash: whoever reads parts checks them.

        Raises:
            Missing: it is gone, or of another version.
        """
        ...

    def fetch(self, name: str, path: Path, version: str = "") -> Stat:
        """An object into a file, which is whole or absent: a temporary name, checked by the store's own hash, renamed.

        Raises:
            Missing: it is gone, or of another version.
        """
        ...

    def put(self, name: str, content: bytes | Path, sha256: str = "") -> str:
        """Write an object that is not there yet; returns its version.

        Raises:
            Conflict: it is there already.
        """
        ...

    def replace(self, name: str, content: bytes | Path, version: str, sha256: str = "") -> str:
        """Write an object in place of that very version; returns the new one.

        Raises:
            Conflict: it is of another version by now, or gone.
        """
        ...

    def delete(self, name: str, version: str) -> None:
        """Delete an object of that very version; one that is gone already is no error.

        Raises:
            Conflict: it is of another version by now.
        """
        ...

    def list(self, prefix: str = "", after: str = "") -> Iterator[Stat]:
        """The objects whose names begin with `prefix`, in the order of their names, those up to `after` left out.

        The order is the store's: of bytes with Google and Amazon, folder by folder with SeaweedFS. Whoever needs one sorts.
        """
        ...
