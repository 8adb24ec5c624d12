"""What came from the web: its name, whether it is a file at all, and whether all of it came.

A server answers with a page, a message or half a file as readily as with the file. What is told here is deleted by the
caller, so that the next start downloads it again.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import html
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import collapse_rfc2231_value
from itertools import islice
from pathlib import Path
from typing import IO, Any

from job.addresses import is_plain
from job.console import console
from job.data import signatures
from job.data.sources import names, table_columns, table_text
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
# what says nothing of a packing, though servers say it where one belongs
_NOT_PACKED = ("", "identity", "none", "null", "binary", "utf-8", "utf8", "7bit", "8bit", "chunked", "aws-chunked")
_TABLE_TYPES = {"text/csv": ".csv", "text/tab-separated-values": ".tsv"}
_OFFICE = (b"xl/", b"[Content_Types].xml", b"_rels/", b"docProps/", b"customXml/", b"mimetype")  # names that such a zip begins with
_CLOSED_TABLES = (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"PAR1")  # XLS, Parquet
_VALUE = re.compile(r"""([?&;])([\w.%-]+)=([^\s&;"'<>]+)""")
_ROWS = 20  # of a CSV that are looked at
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
    said = [word.strip() for word in (headers.get("Content-Encoding") or "").lower().split(",")]
    encoding = ", ".join(word for word in said if word not in _NOT_PACKED)
    if encoding not in ("", "gzip", "x-gzip"):
        raise UserError(
            where, f"the server packed it as {encoding[:40]!r}, which is not read", "download it with a browser and give the file"
        )
    validator = headers.get("ETag") or headers.get("Last-Modified") or ""
    given = [value for key, value in headers.get_params([], "content-disposition") if key.lower() == "filename"]
    given.sort(key=lambda value: isinstance(value, str))  # filename* first: filename is for old programs
    return Answer(
        "" if validator.startswith("W/") else validator,
        collapse_rfc2231_value(given[0]).partition("?")[0] if given else "",  # some state a name with the query of the address
        last_part(url), headers.get_content_type(), encoding,
    )  # fmt: skip


def name_of(path: Path, answer: Answer, url: str) -> str:
    """What to call a file that came: never empty, hidden or a path, and with an ending that tells its kind."""
    first = _first(path)
    stated, *others = (_clean(text) for text in (answer.stated, answer.last, last_part(url)))
    name = stated or next((other for other in others if other and _has_ending(other, first)), others[0] or others[1]) or "download"
    return name if _has_ending(name, first) else name + _ending(first, answer)


def check(path: Path, name: str, answer: Answer, chain: Sequence[str], stop: Stop) -> None:
    """Refuse what is no file, what is of no kind that is read, and what is not all of one.

    Args:
        chain: the address that was given and those that it led to; errors name the first and hold the secrets of none.

    Raises:
        UserError: it is a page, a message or a pointer, or neither images nor an archive or a list of them.
        MachineError: it is cut short.
        Interrupted: `stop` was set.
    """
    first = _first(path)
    kind = signatures.archive_kind(first)
    if first:
        _check_words(path, first, name, chain)
        _check_kind(path, first, name, chain[0])
    if not first or not _is_whole(path, kind, answer.sized, stop):
        raise MachineError(shown(chain[0]), "is empty" if not first else "was cut short on the way", "rerun to download it again")
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
    return name.lower().endswith((*names.TABLES, *names.ARCHIVES, *names.CLOSED_ARCHIVES, *names.IMAGES))


def _ending(first: bytes, answer: Answer) -> str:
    kind = signatures.archive_kind(first)
    if kind:
        return _ARCHIVE_ENDINGS[kind]
    if signatures.is_heif(first):
        return ".avif" if signatures.is_avif(first) else ".heic"
    if signatures.is_image(first):
        return next(ending for mark, ending in _IMAGE_ENDINGS if first.startswith(mark))
    return _TABLE_TYPES.get(answer.kind, "")


def _check_words(path: Path, first: bytes, name: str, chain: Sequence[str]) -> None:
    """Refuse what is written for people or programs in place of the file."""
    start = _as_text(first).lstrip("\ufeff \t\r\n")
    where = shown(chain[0])
    if signatures.is_page(start.encode() or first) or (start.startswith("<?xml") and "<html" in start.lower()):
        title = _title(path, chain)
        wanted = "an image" if name.lower().endswith(names.IMAGES) else "an archive"
        what = f"is a web page{f' ({title})' if title else ''}, not {wanted}"
        raise UserError(where, what, "open it in a browser and copy the address of the download itself")
    if signatures.is_lfs_pointer(first) or signatures.is_annex_pointer(first):
        what = f"is a pointer of {'Git LFS' if signatures.is_lfs_pointer(first) else 'git-annex'}, not the file itself"
        raise UserError(where, what, "copy the address of the download from the file's page")
    if not start or signatures.is_image(first) or signatures.archive_kind(first):
        return
    kind = "an XML answer" if start[0] == "<" else "a JSON answer" if re.match(r'\{\s*["}]|\[\s*["\[{\]]', start) else "text"
    if kind == "text" and name.lower().endswith(names.TABLES) and _is_list(path):
        return
    raise UserError(where, f"the server sent {kind}, not a file: {_excerpt(start, chain)}", "check the address")


def _is_list(path: Path) -> bool:
    """Whether it is a table that may list images: with a known column, names of images, or columns and rows."""
    try:
        sheet = table_text.read(path, str(path), table_columns.KNOWN)
        if any(table_text.loose(name) in table_columns.KNOWN for name in sheet.header):
            return True
        rows = [row for _, row in islice(sheet.rows(), _ROWS)]
    except UserError:
        return False
    return any(names.is_image(value) for row in (sheet.header, *rows) for value in row) or (len(sheet.header) > 1 and rows != [])


def _check_kind(path: Path, first: bytes, name: str, url: str) -> None:
    """Refuse what no reader of ours takes."""
    kind = signatures.archive_kind(first)
    if first.startswith(_CLOSED_TABLES) or (kind == "zip" and first[30:].startswith(_OFFICE) and _is_sheet(path)):
        raise UserError(shown(url), "is a table of a kind that is not read", "save it as CSV")
    if kind in ("7z", "rar"):
        raise UserError(shown(url), f"is a {kind} archive, which cannot be read", "unpack it and give the folder")
    if kind in _OPENERS and not _holds_tar(path, kind, url):
        raise UserError(shown(url), f"is a file packed with {kind}, not an archive", "unpack it and give what it holds")
    if kind or signatures.is_image(first) or _as_text(first):
        return
    if names.is_archive(name) and (_is_tar(first) or zipfile.is_zipfile(path)):  # an old tar, or a zip behind a program
        return
    if name.lower().endswith(names.TABLES):
        raise UserError(shown(url), "is not text in UTF-8, or in UTF-16 with a byte order mark", "save it as CSV UTF-8")
    what = signatures.other_kind(first) or "of a kind that is not known"
    raise UserError(shown(url), f"is {what}: neither images nor an archive of them", "check the address")


def _is_sheet(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            held = set(archive.namelist())
    except (*_DAMAGE, NotImplementedError):
        return False
    return "xl/workbook.xml" in held or {"mimetype", "content.xml"} <= held


def _holds_tar(path: Path, kind: str, url: str) -> bool:
    try:
        with _OPENERS[kind](path) as stream:
            return _is_tar(stream.read(tarfile.BLOCKSIZE))
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's fault, not the archive's
            raise
        raise MachineError(shown(url), "was cut short on the way, or is corrupt", "rerun to download it again") from None


def _is_tar(first: bytes) -> bool:
    """Whether it begins with a tar's header, those without a mark included."""
    try:
        tarfile.TarInfo.frombuf(first[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _as_text(first: bytes) -> str:
    """The first bytes where they are text, else nothing; a letter may be cut at their end."""
    marked = first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if marked or (len(first) > 1 and b"" in (first[:64:2].strip(b"\0"), first[1:64:2].strip(b"\0"))):  # a page need not have the mark
        coding = "utf-16" if marked else "utf-16-be" if first[:1] == b"\0" else "utf-16-le"
    else:
        coding = "utf-8"
    try:
        text = codecs.getincrementaldecoder(coding)().decode(first, final=len(first) < signatures.FIRST)
    except UnicodeDecodeError:
        return ""
    return "" if re.search(r"[\0-\x08\x0e-\x1f\x7f]", text) else text


def _title(path: Path, chain: Sequence[str]) -> str:
    with path.open("rb") as file:
        match = re.search(rb"<title[^>]*>(.{0,400}?)</title", file.read(1 << 16), re.I | re.S)
    title = _excerpt(html.unescape(match.group(1).decode("utf-8", "replace")), chain) if match else ""
    return title if len(title) <= 60 else ""


def _excerpt(text: str, chain: Sequence[str]) -> str:
    """The first words of an answer, in one line and without what the addresses keep secret."""
    text = redacted(re.sub(r"^<\?xml[^>]*>", "", text), *chain)
    # what an address held that was asked before a kill is known no more
    text = _VALUE.sub(lambda match: match[0] if is_plain(match[2], match[3]) else f"{match[1]}{match[2]}=...", text)
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
