"""The names in archives, whatever code page they were written in: never letters that nobody wrote.

A zip says of each name whether it is UTF-8, and may give it a second time, in UTF-8. Where it does neither, a Mac
wrote UTF-8 all the same, and Windows the code page of its user, which only the user knows.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from contextlib import suppress

from job.errors import UserError

_UTF8 = 0x800  # the flag
_UNICODE_PATH = 0x7075  # the extra field
_MARK = struct.pack("<H", _UNICODE_PATH)
_TRIED = ("gbk", "shift_jis", "euc_kr", "cp1251", "cp866", "cp850", "cp1252", "cp437", "big5")


class Unreadable(ValueError):
    """A name in a code page that the archive does not tell; `raw` are its bytes."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def explained(self, where: str, encoding: str) -> UserError:
        if encoding:
            return UserError("--zip-encoding", f"{encoding} does not fit the names in {where}", _proposals(self.raw))
        return UserError(where, "the names in it are in a code page that it does not tell", _proposals(self.raw))


def of_zip(member: zipfile.ZipInfo, encoding: str) -> str:
    """The name of a zip's member.

    Raises:
        Unreadable: it is not UTF-8, and `encoding` is empty or does not fit.
    """
    if member.flag_bits & _UTF8 or (member.filename.isascii() and _MARK not in member.extra):
        return member.filename
    raw = member.orig_filename.split("\0")[0].encode("cp437")  # as zipfile decoded it
    given = _unicode_path(member.extra, raw)  # also where the first name is ASCII, with signs in place of letters
    if given or raw.isascii():
        return given or member.filename
    try:
        return raw.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        raise Unreadable(raw) from None


def of_tar(name: str) -> str:
    """The name of a tar's member, as tarfile read it.

    Raises:
        Unreadable: it is not in the encoding that it was read in.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise Unreadable(name.encode("utf-8", "surrogateescape")) from None
    return name


def known(encoding: str) -> str:
    """The encoding, if Python knows it, or none.

    Raises:
        UserError: it does not.
    """
    try:
        b"x".decode(encoding or "utf-8", "replace")
    except (LookupError, UnicodeError):
        raise UserError("--zip-encoding", f"{encoding!r} is not an encoding", "give one such as gbk, shift_jis or cp850") from None
    return encoding


def _unicode_path(extra: bytes, raw: bytes) -> str:
    """The name in UTF-8 that may stand in an extra field, if it was made for this very name; else empty."""
    while len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_PATH and len(field) > 5 and field[0] == 1 and struct.unpack("<I", field[1:5])[0] == zlib.crc32(raw):
            with suppress(UnicodeDecodeError):
                return field[5:].decode("utf-8")
    return ""


def _proposals(raw: bytes) -> str:
    """How the name would read in some encodings, for the user to choose."""
    read_as: dict[str, str] = {}
    for encoding in _TRIED:
        with suppress(UnicodeDecodeError):
            text = raw.decode(encoding)
            if text.isprintable() and text not in read_as.values():
                read_as[encoding] = text
    shown = ", ".join(f"{encoding} ({text})" for encoding, text in read_as.items())
    return f"give the one that reads right with --zip-encoding: {shown}" if shown else "give their encoding with --zip-encoding"
