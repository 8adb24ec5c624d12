"""Images in a zip, tar or tar.gz, read without unpacking; archives inside archives are opened too.

An archive may be made to fill memory or disk: a member's size is checked before it is read, and it is read in small
pieces, since what an archive says of its sizes need not be true.
"""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Self, cast

from job.data.sources import ARCHIVES, Entry, is_archive, is_image
from job.errors import UserError
from job.storage import local

# what the readers of archives raise for damage; plain OSError from bz2 and gzip too
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, struct.error)


IMAGE_BYTES = 512 << 20  # the largest image that is read; no photograph comes near
RATIO, RATIO_FROM = 200, 32 << 20  # a member that unpacks to more than this many times its packed size, where it is large
DEPTH = 8  # archives inside archives
_HEADER_BYTES = 1 << 20  # of a tar's extended header, which tarfile reads whole
_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class _Oversized(Exception):
    """A member that is not read for its size; its text is the reason."""


class _Member(tarfile.TarInfo):
    """A member of a tar, checked before tarfile reads on."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _HEADERS and member.size > _HEADER_BYTES:
            raise _Oversized(f"an extended header of {local.size(member.size)}")
        return member


class Archive:
    """Every image in an archive, by its path within it (`train.zip/train/cat.0.jpg` in a nested one)."""

    def __init__(self, path: Path, scratch: Path) -> None:
        self.path = path
        self._scratch = scratch

    def files(self) -> list[Path]:
        return [self.path]

    def entries(self) -> list[Entry]:
        return [Entry(name) for name, _ in self._members(self.path, self.path.name, "", names_only=True)]

    def read(self) -> Iterator[tuple[str, bytes]]:
        yield from self._members(self.path, self.path.name, "", names_only=False)

    def _members(self, file: Path | IO[bytes], name: str, prefix: str, names_only: bool) -> Iterator[tuple[str, bytes]]:
        walk = self._zip if name.lower().endswith(".zip") else self._tar
        try:
            yield from walk(file, prefix, names_only)
        except NotImplementedError as error:
            raise UserError(str(self.path), f"cannot be read ({error})", "unpack it and give the folder") from None
        except _Oversized as error:
            raise UserError(str(self.path), f"holds {error}", "do not use this archive, or unpack it and give the folder") from None
        except (*_DAMAGE, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the disk's fault, not the archive's
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
            raise UserError(str(self.path), f"{prefix or 'the archive'} is corrupt ({reason})", "download it again") from None

    def _zip(self, file: Path | IO[bytes], prefix: str, names_only: bool) -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                if member.is_dir() or not self._wanted(member.filename):
                    continue
                self._check(member.filename, is_link=(member.external_attr >> 16) & 0o170000 == 0o120000)
                if member.flag_bits & 1:
                    raise UserError(str(self.path), "the archive is encrypted", "unpack it and give the folder")
                _check_size(member.filename, member.file_size, member.compress_size)
                name = prefix + member.filename.replace("\\", "/")  # some Windows programs write backslashes
                # bzip2 and LZMA unpack a whole piece at once, and a small one may unpack to megabytes
                piece = 1 << 16 if member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else 1 << 12
                if is_archive(name):
                    with archive.open(member) as inner:
                        yield from self._nested(inner, member.file_size, piece, name, names_only)
                elif names_only:
                    yield name, b""
                else:
                    with archive.open(member) as inner:
                        yield name, b"".join(iter(partial(inner.read, piece), b""))

    def _tar(self, file: Path | IO[bytes], prefix: str, names_only: bool) -> Iterator[tuple[str, bytes]]:
        opened = {"name": file} if isinstance(file, Path) else {"fileobj": file}
        packed = file.stat().st_size if isinstance(file, Path) else os.fstat(file.fileno()).st_size
        with tarfile.open(mode="r:*", tarinfo=_Member, **opened) as archive:
            for member in archive:
                if member.isdir() or not self._wanted(member.name):
                    continue
                self._check(member.name, is_link=not member.isfile())
                _check_size(member.name, member.size, packed)
                if is_archive(member.name):
                    inner = cast(IO[bytes], archive.extractfile(member))
                    yield from self._nested(inner, member.size, 1 << 16, prefix + member.name, names_only)
                elif names_only:
                    yield prefix + member.name.removeprefix("./"), b""
                else:
                    content = cast(IO[bytes], archive.extractfile(member)).read()
                    if len(content) != member.size:
                        raise EOFError(f"{member.name} is cut short")
                    yield prefix + member.name.removeprefix("./"), content
            self._check_end(archive)

    @staticmethod
    def _check_end(archive: tarfile.TarFile) -> None:
        """Tell the end of a tar, blocks of zeros, from a cut or a corrupt header, at which tarfile stops as quietly."""
        file = cast(IO[bytes], archive.fileobj)
        if file.tell() != archive.offset + tarfile.BLOCKSIZE or file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise EOFError("it ends in the middle")
        while file.read(1 << 16):  # gzip compares its checksum at the end
            pass

    def _nested(self, inner: IO[bytes], size: int, piece: int, name: str, names_only: bool) -> Iterator[tuple[str, bytes]]:
        if sum(part.lower().endswith(ARCHIVES) for part in name.split("/")) > DEPTH:
            raise _Oversized(f"archives inside archives, more than {DEPTH} deep")
        local.require_space(self._scratch, size, f"unpacking {name}")
        # seeking in a compressed member reads it again from its start, so it is copied out first
        with tempfile.TemporaryFile(dir=self._scratch) as copy:
            shutil.copyfileobj(inner, copy, piece)
            copy.seek(0)
            yield from self._members(copy, name, name + "/", names_only)

    def _wanted(self, name: str) -> bool:
        return is_image(name) or (is_archive(name) and "__MACOSX" not in name.split("/"))

    def _check(self, name: str, is_link: bool) -> None:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
            raise UserError(str(self.path), f"the member {name!r} leads out of the archive", "do not use this archive")
        if is_link:
            raise UserError(str(self.path), f"the member {name!r} is a link or a device", "pack the files themselves")


def _check_size(name: str, size: int, packed: int) -> None:
    """Refuse a member by its size; `packed` is what it takes in the archive, or that archive's own size."""
    if not is_archive(name) and size > IMAGE_BYTES:
        raise _Oversized(f"{name} of {local.size(size)}, larger than any image ({local.size(IMAGE_BYTES)})")
    if size > RATIO_FROM and size > RATIO * packed:
        raise _Oversized(f"{name}, which unpacks from {local.size(packed)} to {local.size(size)}")
