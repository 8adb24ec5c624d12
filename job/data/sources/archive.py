"""Images in a zip, tar or tar.gz, read without unpacking; archives inside archives are opened too."""

from __future__ import annotations

import errno
import lzma
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from job.data.sources import Entry, is_archive, is_image
from job.errors import UserError

# what the readers of archives raise for damage; plain OSError from bz2 and gzip too
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, struct.error)


class Archive:
    """Every image in an archive, by its path within it (`train.zip/train/cat.0.jpg` in a nested one)."""

    def __init__(self, path: Path, scratch: Path) -> None:
        self.path = path
        self._scratch = scratch

    def entries(self) -> list[Entry]:
        return [Entry(name) for name, _ in self._members(self.path, self.path.name, "", names_only=True)]

    def read(self) -> Iterator[tuple[str, bytes]]:
        yield from self._members(self.path, self.path.name, "", names_only=False)

    def _members(self, file: Path | IO[bytes], name: str, prefix: str, names_only: bool) -> Iterator[tuple[str, bytes]]:
        walk = self._zip if name.lower().endswith(".zip") else self._tar
        try:
            yield from walk(file, prefix, names_only)
        except NotImplementedError as error:
            raise UserError(str(self.path), f"can't be read ({error})", "unpack it and give the folder") from None
        except (*_DAMAGE, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the disk's fault, not the archive's
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
            raise UserError(str(self.path), f"{prefix or 'the archive'} is damaged ({reason})", "download it again") from None

    def _zip(self, file: Path | IO[bytes], prefix: str, names_only: bool) -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                if member.is_dir() or not self._wanted(member.filename):
                    continue
                self._check(member.filename, is_link=(member.external_attr >> 16) & 0o170000 == 0o120000)
                if member.flag_bits & 1:
                    raise UserError(str(self.path), "the archive is encrypted", "unpack it and give the folder")
                name = prefix + member.filename.replace("\\", "/")  # some Windows programs write backslashes
                if is_archive(name):
                    with archive.open(member) as inner:
                        yield from self._nested(inner, name, names_only)
                else:
                    yield name, b"" if names_only else archive.read(member)

    def _tar(self, file: Path | IO[bytes], prefix: str, names_only: bool) -> Iterator[tuple[str, bytes]]:
        opened = {"name": file} if isinstance(file, Path) else {"fileobj": file}
        with tarfile.open(mode="r:*", **opened) as archive:
            for member in archive:
                if member.isdir() or not self._wanted(member.name):
                    continue
                self._check(member.name, is_link=not member.isfile())
                if is_archive(member.name):
                    yield from self._nested(cast(IO[bytes], archive.extractfile(member)), prefix + member.name, names_only)
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
        """Tell the end of a tar, blocks of zeros, from a cut or a damaged header, at which tarfile stops as quietly."""
        file = cast(IO[bytes], archive.fileobj)
        if file.tell() != archive.offset + tarfile.BLOCKSIZE or file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise EOFError("it ends in the middle")
        while file.read(1 << 16):  # gzip compares its checksum at the end
            pass

    def _nested(self, inner: IO[bytes], name: str, names_only: bool) -> Iterator[tuple[str, bytes]]:
        # seeking in a compressed member reads it again from its start, so it is copied out first
        with tempfile.TemporaryFile(dir=self._scratch) as copy:
            shutil.copyfileobj(inner, copy, 1 << 20)
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
