"""What came from the web: its name, whether it is a file at all, and whether all of it came.

A server answers with a page, a message or half a file as readily as with the file. What is told here is deleted by the
caller, so that the next start downloads it again.
"""

from __future__ import annotations

import bz2
import gzip
import html
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import collapse_rfc2231_value
from pathlib import Path
from typing import IO, Any

from job.console import console
from job.data import signatures
from job.data.sources import names
from job.data.sources.address import last_part, redacted, shown
from job.errors import MachineError, UserError
from job.shutdown import Stop
from job.storage import local

_PIECE = 1 << 20
_NAME_BYTES = 150
_RATIO, _RATIO_FROM = 200, 32 << 20  # what unpacks to more than this many times its size, where it is large, is made to fill the disk
_DAMAGE = (zipfile.BadZipFile, tarfile.HeaderError, zlib.error, lzma.LZMAError, EOFError, ValueError, struct.error)

_ARCHIVE_ENDINGS = {
    "zip": ".zip", "tar": ".tar", "gzip": ".tar.gz", "bzip2": ".tar.bz2", "xz": ".tar.xz", "zstd": ".tar.zst", "7z": ".7z", "rar": ".rar",
}  # fmt: skip
_IMAGE_ENDINGS = (
    (b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"RIFF", ".webp"), (b"BM", ".bmp"), (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"), (b"II+\0", ".tif"), (b"MM\0+", ".tif"), (b"P", ".pnm"), (b"\0\0\0\x0cjP", ".jp2"), (b"\xff\x4f", ".jp2"),
)  # fmt: skip
_NO_DATA = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
_OPENERS: dict[str, Callable[[Path], Any]] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}


@dataclass(frozen=True)
class Answer:
    """What a server says of a file. `sized`: it told the length, so that a cut is noticed; `last`: of the address that answered."""

    validator: str = ""
    stated: str = ""
    last: str = ""
    kind: str = ""
    encoding: str = ""
    sized: bool = False


def describe(headers: Any, url: str, where: str) -> Answer:
    """Read an answer's headers.

    Args:
        url: the address that answered, after redirects.
        where: what errors name.

    Raises:
        UserError: the server packed the file for the way in a form that is not read.
    """
    encoding = (headers.get("Content-Encoding") or "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip"):
        raise UserError(
            where, f"the server packed it as {encoding[:40]!r}, which is not read", "download it with a browser and give the file"
        )
    validator = headers.get("ETag") or headers.get("Last-Modified") or ""
    given = [value for key, value in headers.get_params([], "content-disposition") if key.lower() == "filename"]
    given.sort(key=lambda value: isinstance(value, str))  # filename* first: filename is for old programs
    return Answer(
        "" if validator.startswith("W/") else validator, collapse_rfc2231_value(given[0]) if given else "", last_part(url),
        headers.get_content_type(), encoding.removeprefix("identity"),
    )  # fmt: skip


def name_of(path: Path, answer: Answer, url: str) -> str:
    """What to call a file that came: never empty, hidden or a path, and with an ending that tells its kind."""
    first = _first(path)
    stated, *others = (_clean(text) for text in (answer.stated, answer.last, last_part(url)))
    name = stated or next((other for other in others if other and _has_ending(other, first)), others[0] or others[1]) or "download"
    return name if _has_ending(name, first) else name + _ending(first, answer)


def check(path: Path, name: str, answer: Answer, url: str, stop: Stop) -> None:
    """Refuse what is no file, and what is not all of one.

    Raises:
        UserError: it is a page, a message or a pointer.
        MachineError: it is cut short.
        Interrupted: `stop` was set.
    """
    first = _first(path)
    _check_kind(path, first, name, url)
    kind = signatures.archive_kind(first)
    if not first or not _is_whole(path, kind, answer.sized, stop):
        raise MachineError(shown(url), "is empty" if not first else "was cut short on the way", "rerun to download it again")
    if not answer.sized and kind not in ("zip", "tar", *_OPENERS):
        console.log(f"warning: the server told no length of {name}, so whether all of it came is not known")


def unpack(path: Path, target: Path, url: str, stop: Stop) -> None:
    """Unpack what the server packed for the way alone.

    Raises:
        MachineError: it is cut short or corrupt.
        UserError: it is made to fill the disk.
    """
    try:
        _unpack(path, target, url, stop)
    except (*_DAMAGE, gzip.BadGzipFile):
        target.unlink()
        raise MachineError(shown(url), "was cut short on the way, or is corrupt", "rerun to download it again") from None
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _unpack(path: Path, target: Path, url: str, stop: Stop) -> None:
    limit, written = max(_RATIO_FROM, _RATIO * path.stat().st_size), 0
    with gzip.open(path) as packed, target.open("wb") as file:
        while piece := packed.read(_PIECE):
            stop.check()
            written += len(piece)
            if written > limit:
                raise UserError(shown(url), f"unpacks to more than {local.size(limit)}", "check the address")
            file.write(piece)


def is_packed(path: Path, answer: Answer) -> bool:
    """Whether the server packed it for the way; some say so of what they did not pack."""
    return answer.encoding != "" and signatures.archive_kind(_first(path)) == "gzip"


def _first(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(signatures.FIRST)


def _clean(text: str) -> str:
    name = text.replace("\\", "/").rstrip("/").rpartition("/")[2]
    name = "".join(letter for letter in name if letter.isprintable())
    return name.encode("utf-8", "ignore")[-_NAME_BYTES:].decode("utf-8", "ignore").strip(" .")


def _has_ending(name: str, first: bytes) -> bool:
    """Whether a name's ending is of the sort of its content."""
    if signatures.archive_kind(first):
        return name.lower().endswith(names.ARCHIVES + names.CLOSED_ARCHIVES)
    if signatures.is_image(first):
        return name.lower().endswith(names.IMAGES)
    return name.lower().endswith((".csv", *names.ARCHIVES, *names.CLOSED_ARCHIVES, *names.IMAGES))


def _ending(first: bytes, answer: Answer) -> str:
    kind = signatures.archive_kind(first)
    if kind:
        return _ARCHIVE_ENDINGS[kind]
    if signatures.is_heif(first):
        return ".avif" if signatures.is_avif(first) else ".heic"
    if signatures.is_image(first):
        return next(ending for mark, ending in _IMAGE_ENDINGS if first.startswith(mark))
    return ".csv" if answer.kind == "text/csv" else ""


def _check_kind(path: Path, first: bytes, name: str, url: str) -> None:
    text = _as_text(first)
    start = text.lstrip("\ufeff \t\r\n")
    if signatures.is_page(first) or (start.startswith("<?xml") and "<html" in start.lower()):
        title = _title(path, url)
        wanted = "an image" if name.lower().endswith(names.IMAGES) else "an archive"
        what = f"is a web page{f' ({title})' if title else ''}, not {wanted}"
        raise UserError(shown(url), what, "open it in a browser and copy the address of the download itself")
    if signatures.is_lfs_pointer(first) or signatures.is_annex_pointer(first):
        what = f"is a pointer of {'Git LFS' if signatures.is_lfs_pointer(first) else 'git-annex'}, not the file itself"
        raise UserError(shown(url), what, "copy the address of the download from the file's page")
    if not start or signatures.is_image(first):
        return
    kind = "an XML answer" if start[0] == "<" else "a JSON answer" if re.match(r'\{\s*["}]|\[\s*["\[{\]]', start) else "text"
    if kind == "text" and name.lower().endswith(".csv"):
        return
    raise UserError(shown(url), f"the server sent {kind}, not a file: {_excerpt(start, url)}", "check the address")


def _as_text(first: bytes) -> str:
    """The first bytes where they are text, else nothing; a letter may be cut at their end."""
    try:
        text = first.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(first) < signatures.FIRST or error.start < len(first) - 3:
            return ""
        text = first[: error.start].decode("utf-8")
    return "" if re.search(r"[\0-\x08\x0e-\x1f\x7f]", text) else text


def _title(path: Path, url: str) -> str:
    with path.open("rb") as file:
        match = re.search(rb"<title[^>]*>(.{0,400}?)</title", file.read(1 << 16), re.I | re.S)
    title = _excerpt(html.unescape(match.group(1).decode("utf-8", "replace")), url) if match else ""
    return title if len(title) <= 60 else ""


def _excerpt(text: str, url: str) -> str:
    """The first words of an answer, in one line and without what the address keeps secret."""
    text = redacted(re.sub(r"^<\?xml[^>]*>", "", text), url)
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:80]


def _is_whole(path: Path, kind: str, sized: bool, stop: Stop) -> bool:
    """Whether an archive reaches its end; one whose length the server told is read no further than costs nothing."""
    try:
        if kind == "zip":
            return _zip_is_whole(path, sized)
        if sized or kind not in ("tar", *_OPENERS):
            return True
        if kind == "tar":
            with path.open("rb") as file:
                return _tar_is_whole(file, stop)
        with _OPENERS[kind](path) as stream:
            is_tar = signatures.archive_kind(stream.read(signatures.FIRST)) == "tar"
            stream.seek(0)
            whole = not is_tar or _tar_is_whole(stream, stop)
            while stream.read(_PIECE):  # the checksum is at the end
                stop.check()
            return whole
    except _DAMAGE:
        return False
    except OSError as error:
        if error.errno is not None:  # the disk's fault, not the archive's
            raise
        return False


def _zip_is_whole(path: Path, sized: bool) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            offsets = [member.header_offset for member in archive.infolist()]
    except NotImplementedError:  # a kind that is not read has its directory too
        return True
    # a cut one may end in the directory of a zip within it, whose members do not begin where the file does
    return sized or min(offsets, default=0) == 0


def _tar_is_whole(stream: IO[bytes], stop: Stop) -> bool:
    """Whether a tar ends in a block of zeros after a member, not in the middle of one, or with one."""
    while block := stream.read(tarfile.BLOCKSIZE):
        stop.check()
        if not block.strip(b"\0"):
            return len(block) == tarfile.BLOCKSIZE
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if member.type == tarfile.GNUTYPE_SPARSE:  # more headers may follow; no tar of images has one
            return True
        left = 0 if member.type in _NO_DATA else -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        while left > 0:
            piece = stream.read(min(left, _PIECE))
            if not piece:
                return False
            stop.check()
            left -= len(piece)
    return False
