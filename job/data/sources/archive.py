"""Images in a zip or a tar of any compression, read without unpacking; archives inside archives are opened too.

An archive may be made to fill memory or disk: a member's size is checked before it is read, and it is read in small
pieces, since what an archive says of its sizes need not be true.
"""

from __future__ import annotations

import errno
import hashlib
import lzma
import os
import shutil
import struct
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, Self, TypeVar, cast

from job.data import signatures
from job.data.sources import names, zip_names
from job.data.sources.walk import Member, Walk
from job.errors import Corrupt, UserError
from job.storage import local

# what the readers of archives raise for damage; plain OSError from bz2 and gzip too
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, struct.error)


IMAGE_BYTES = 512 << 20  # the largest image that is read; no photograph comes near
RATIO, RATIO_FROM = 200, 32 << 20  # a member that unpacks to more than this many times its packed size, where it is large
DEPTH = 8  # archives inside archives
_TAIL = 1 << 16  # bytes
_END = struct.Struct("<4s4H2LH")  # the record at a zip's end
_HEADER_BYTES = 1 << 20  # of a tar's extended header, which tarfile reads whole
_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)

T = TypeVar("T")


class _Refused(Exception):
    """An archive that is not read for something that it holds, which is its text."""


class _Header(tarfile.TarInfo):
    """A member of a tar, checked before tarfile reads on."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _HEADERS and member.size > _HEADER_BYTES:
            raise _Refused(f"an extended header of {local.size(member.size)}")
        return member


class _Packed(NamedTuple):
    """A file in an archive, not read yet; `packed` is what it takes there, or that archive's own size."""

    name: str
    open: Callable[[], IO[bytes]]
    size: int
    packed: int
    piece: int
    is_link: bool
    is_encrypted: bool

    @property
    def leads_out(self) -> bool:
        parts = self.name.replace("\\", "/").split("/")
        return parts[0] == "" or ".." in parts or parts[0].endswith(":")


class Archive(Walk):
    """Every image in an archive, by its path within it (`train.zip/train/cat.0.jpg` in a nested one)."""

    def __init__(self, path: Path, scratch: Path, zip_encoding: str = "", where: str = "") -> None:
        """
        Args:
            zip_encoding: that of names which do not say theirs and are not UTF-8.
            where: its address, if it came from a bucket.
        """
        self.path, self.where = path, where or str(path)
        self._anew = "upload it again" if where else "download it again"
        self._scratch, self._encoding = scratch, zip_names.known(zip_encoding)

    has_archives = True
    tries = 1  # of what turns out corrupt

    def files(self) -> list[Path]:
        return [self.path]

    def members(self) -> Iterator[Member]:
        yield from self.below("")

    def below(self, prefix: str) -> Iterator[Member]:
        """Its members, their names after a prefix."""
        yield from self._members(self.path, prefix)

    def _members(self, file: Path | IO[bytes], prefix: str) -> Iterator[Member]:
        with self._explained(prefix):
            yield from self._zip(file, prefix) if self._kind(file, prefix) == "zip" else self._tar(file, prefix)

    def refresh(self) -> None:
        """Get ready for a further try."""

    def _tried(self, work: Callable[[], T], prefix: str) -> T:
        """What `work` gives, tried again where it comes out corrupt."""
        for _ in range(self.tries - 1):
            with suppress(Corrupt), self._explained(prefix):
                return work()
            self.refresh()
        with self._explained(prefix):
            return work()

    @contextmanager
    def _explained(self, prefix: str) -> Iterator[None]:
        """What the readers of archives raise, in our words."""
        try:
            yield
        except NotImplementedError as error:
            raise UserError(self.where, f"cannot be read ({error})", "unpack it and give the folder") from None
        except _Refused as error:
            raise UserError(self.where, f"holds {error}", "do not use this archive, or unpack it and give the folder") from None
        except (*_DAMAGE, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the disk's fault, not the archive's
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
            raise Corrupt(self.where, f"{prefix or 'the archive'} is corrupt ({reason})", self._anew) from None

    def _kind(self, file: Path | IO[bytes], prefix: str) -> str:
        if isinstance(file, Path):
            with file.open("rb") as opened:
                first = opened.read(signatures.FIRST)
        else:
            first = file.read(signatures.FIRST)
            file.seek(0)
        kind, what = signatures.archive_kind(first), prefix.rstrip("/") or "the file"
        if signatures.is_lfs_pointer(first):
            raise UserError(self.where, f"{what} is a Git LFS pointer, not the archive", "run git lfs pull")
        if not kind:
            raise UserError(self.where, f"{what} is not an archive, whatever its name says", f"rename it, or {self._anew}")
        if kind in ("7z", "rar"):
            raise UserError(self.where, f"is or holds a {kind} archive, which cannot be read", "unpack it and give the folder")
        if kind == "zstd" and sys.version_info < (3, 14):
            raise UserError(self.where, "is compressed with zstd, which this Python cannot read", "unpack it with zstd -d")
        return kind

    def _zip(self, file: Path | IO[bytes], prefix: str) -> Iterator[Member]:
        with self._tried(partial(zipfile.ZipFile, file), prefix) as archive:
            self._check_start(archive)
            for member in archive.infolist():
                if member.is_dir():
                    continue
                opened = partial(archive.open, member)
                encrypted = bool(member.flag_bits & 1)
                try:
                    inner = zip_names.of_zip(member, self._encoding).replace("\\", "/")  # some Windows programs write backslashes
                except zip_names.Unreadable as error:
                    inner = self._unread(error, None if encrypted else opened)
                is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
                # bzip2 and LZMA unpack a whole piece at once, and a small one may unpack to megabytes
                piece = 1 << 16 if member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else 1 << 12
                packed = _Packed(inner, opened, member.file_size, member.compress_size, piece, is_link, encrypted)
                yield from self._opened(packed, prefix, (member.CRC, member.file_size))

    def _tar(self, file: Path | IO[bytes], prefix: str) -> Iterator[Member]:
        opened: dict[str, Any] = {"name": file} if isinstance(file, Path) else {"fileobj": file}
        if self._encoding:
            opened["encoding"] = self._encoding
        whole = file.stat().st_size if isinstance(file, Path) else os.fstat(file.fileno()).st_size
        with tarfile.open(mode="r:*", tarinfo=_Header, **opened) as archive:
            for member in archive:
                if member.isdir():
                    continue
                content = partial(cast("Callable[[tarfile.TarInfo], IO[bytes]]", archive.extractfile), member)
                try:
                    name = zip_names.of_tar(member.name.removeprefix("./"))
                except zip_names.Unreadable as error:
                    name = self._unread(error, content if member.isfile() else None)
                yield from self._opened(_Packed(name, content, member.size, whole, 1 << 16, not member.isfile(), False), prefix, None)
            self._check_end(archive)

    def _unread(self, error: zip_names.Unreadable, opened: Callable[[], IO[bytes]] | None) -> str:
        """A stand-in for a name that cannot be read, where it is not an image's."""
        name = error.raw.decode("ascii", "replace")

        def first() -> bytes:
            if opened is None:
                return b""
            with opened() as file:
                return file.read(signatures.FIRST)

        if names.what(name, first) in (names.IMAGE, names.ARCHIVE, names.CLOSED):
            raise error.explained(self.where, self._encoding)
        return name

    def _opened(self, packed: _Packed, prefix: str, identity: Hashable) -> Iterator[Member]:
        """A member as it is, or what is in it where it is an archive itself."""
        name = prefix + packed.name
        what = names.what(packed.name.replace("\\", "/"), bytes)
        if what == names.IMAGE:
            self._check(packed)
            yield Member(name, partial(self._first, packed, prefix), partial(self._content, packed, prefix, what), identity, special=what)
        elif what == names.ARCHIVE:
            self._check(packed)
            yield from self._nested(packed, prefix)
        elif packed.is_encrypted:
            yield Member(name, bytes, bytes, special="encrypted")
        elif packed.leads_out or packed.is_link:
            yield Member(name, bytes, bytes, special="a link or device in an archive")
        else:
            yield Member(name, partial(self._first, packed, prefix), partial(self._content, packed, prefix, ""), identity)

    def _first(self, packed: _Packed, prefix: str) -> bytes:
        with self._explained(prefix), packed.open() as file:
            return file.read(signatures.FIRST)

    def _content(self, packed: _Packed, prefix: str, known: str) -> bytes:
        if not known:  # it was no image to judge by its name, and was not checked for one
            with self._explained(prefix):
                self._check(packed)

        def unpacked() -> bytes:
            with packed.open() as file:
                content = b"".join(iter(partial(file.read, packed.piece), b""))
            if len(content) != packed.size:
                raise EOFError(f"{packed.name} is cut short")
            return content

        return self._tried(unpacked, prefix)

    @staticmethod
    def _check_start(archive: zipfile.ZipFile) -> None:
        """Refuse two zips one after another, of which zipfile reads the last."""
        start = min((member.header_offset for member in archive.infolist()), default=0)
        file = cast(IO[bytes], archive.fp)
        file.seek(max(0, start - _TAIL - 22))
        if b"PK\x05\x06" in file.read(min(start, _TAIL + 22)):
            raise _Refused("several archives, one after another")

    @staticmethod
    def _check_end(archive: tarfile.TarFile) -> None:
        """Tell the end of a tar, blocks of zeros, from a cut or a corrupt header, at which tarfile stops as quietly."""
        file = cast(IO[bytes], archive.fileobj)
        if file.tell() != archive.offset + tarfile.BLOCKSIZE or file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise EOFError("it ends in the middle")
        while rest := file.read(1 << 16):  # gzip compares its checksum at the end
            if rest.strip(b"\0"):
                raise _Refused("more after its end, as where archives are written one after another")

    def _nested(self, packed: _Packed, prefix: str) -> Iterator[Member]:
        name = prefix + packed.name
        if sum(map(names.is_archive, name.split("/"))) > DEPTH:
            raise _Refused(f"archives inside archives, more than {DEPTH} deep")
        local.require_space(self._scratch, packed.size, f"unpacking {name}")
        # seeking in a compressed member reads it again from its start, so it is copied out first
        with tempfile.TemporaryFile(dir=self._scratch) as copy:

            def copied() -> None:
                copy.seek(0)
                with packed.open() as inner:
                    shutil.copyfileobj(inner, copy, packed.piece)
                copy.truncate()
                copy.seek(0)

            self._tried(copied, prefix)
            yield from self._members(copy, name + "/")

    def _check(self, packed: _Packed) -> None:
        """Refuse a member that no honest archive of images holds."""
        if packed.leads_out:
            raise UserError(self.where, f"the member {packed.name!r} leads out of the archive", "do not use this archive")
        if packed.is_link:
            raise UserError(self.where, f"the member {packed.name!r} is a link or a device", "pack the files themselves")
        if packed.is_encrypted:
            raise UserError(self.where, "the archive is encrypted", "unpack it and give the folder")
        if not names.is_archive(packed.name) and packed.size > IMAGE_BYTES:
            raise _Refused(f"{packed.name} of {local.size(packed.size)}, larger than any image ({local.size(IMAGE_BYTES)})")
        if packed.size > RATIO_FROM and packed.size > RATIO * packed.packed:
            raise _Refused(f"{packed.name}, which unpacks from {local.size(packed.packed)} to {local.size(packed.size)}")


def _start_of_directory(file: IO[bytes]) -> int:
    """Where a zip's directory begins, which stands at its end; read by hand, since zipfile makes an object of each member first."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL - _END.size))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if 0 <= at <= len(tail) - _END.size:
        length, start = _END.unpack_from(tail, at)[5:7]
        if start + length <= size:  # else it is of more than 4 GB, and says so elsewhere
            return int(size - len(tail) + at - length)
    with zipfile.ZipFile(file) as archive:
        return archive.start_dir


def state(file: Path) -> str:
    """What an archive says of its members, as a short text that differs where one of them does; empty if it is no archive.

    A zip has a directory with a checksum of each; of a tar, which has none, the time of change and the last bytes count.
    """
    digest = hashlib.sha256()
    try:
        with file.open("rb") as opened:
            kind = signatures.archive_kind(opened.read(signatures.FIRST))
            if kind == "zip":
                opened.seek(_start_of_directory(opened))
                digest.update(opened.read())
            elif kind:
                status = os.fstat(opened.fileno())
                opened.seek(max(0, status.st_size - _TAIL))
                digest.update(b"%d " % status.st_mtime_ns + opened.read())
            else:
                return ""
    except (*_DAMAGE, NotImplementedError):
        return ""
    return digest.hexdigest()
