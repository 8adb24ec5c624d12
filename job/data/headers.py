"""What the headers of image files say: size, orientation, the transparent grey of a PNG, the tags of a TIFF."""

from __future__ import annotations

import re

from job.data import signatures

_ORIENTATION, _WIDTH, _HEIGHT = 0x0112, 0x0100, 0x0101


def tag(tiff: bytes, number: int) -> int | None:
    """The first value of a tag in the first directory of a TIFF (or of an EXIF block, which is one), None without it."""
    order = "little" if tiff[:2] == b"II" else "big"

    def value(at: int, length: int) -> int:
        return int.from_bytes(tiff[at : at + length], order)  # type: ignore[arg-type]

    first = value(4, 4)
    for entry in range(value(first, 2)):
        at = first + 2 + 12 * entry
        if value(at, 2) == number:
            return value(at + 8, 2 if value(at + 2, 2) == 3 else 4)  # type 3 is a short
    return None


def orientation(exif: bytes) -> int:
    """The orientation (1 to 8) in an EXIF block, 1 where it holds none."""
    start = exif.find(b"II*\0") if b"II*\0" in exif[:16] else exif.find(b"MM\0*")
    found = None if start < 0 else tag(exif[start:], _ORIENTATION)
    return found if found is not None and 1 <= found <= 8 else 1


def transparent_grey(png: bytes) -> int | None:
    """The grey value that a PNG without alpha declares transparent, as OpenCV gives it: 8 bits below 8, else as it stands."""
    depth, color_type = png[24:26] if len(png) > 26 else (0, 255)
    if color_type != 0:
        return None
    at = 8
    while (name := png[at + 4 : at + 8]) not in (b"IDAT", b""):
        if name == b"tRNS":
            value = int.from_bytes(png[at + 8 : at + 10], "big") & ((1 << depth) - 1)
            return value if depth >= 8 else value * 255 // ((1 << depth) - 1)
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    return None


def size(data: bytes) -> tuple[int, int]:
    """Width and height by the header alone; (0, 0) where it does not tell."""
    if data.startswith(b"\x89PNG"):
        return _pair(data, 16, 4)
    if data.startswith(b"GIF8"):
        return _pair(data, 6, 2, "little")
    if data.startswith(b"BM"):
        return _pair(data, 18, 4, "little")
    if data.startswith((b"II*\0", b"MM\0*")):
        return tag(data, _WIDTH) or 0, tag(data, _HEIGHT) or 0
    if data.startswith(b"\xff\xd8"):
        return _of_jpeg(data)
    if signatures.is_heif(data[: signatures.FIRST]):  # a size for each image in the file, thumbnails and tiles too
        found = [_pair(data, match.end(), 4) for match in re.finditer(rb"ispe\0{4}", data[:65536])]
        return max(found, key=lambda pair: pair[0] * pair[1], default=(0, 0))
    netpbm = re.match(rb"P[1-6]\s+(?:#[^\n]*\n\s*)*(\d{1,10})\s+(\d{1,10})\s", data[:1000])
    return (int(netpbm[1]), int(netpbm[2])) if netpbm else (0, 0)


def _pair(data: bytes, at: int, length: int, order: str = "big") -> tuple[int, int]:
    one, other = (int.from_bytes(data[k : k + length], order) for k in (at, at + length))  # type: ignore[arg-type]
    return one, other


def _of_jpeg(data: bytes) -> tuple[int, int]:
    at = 2
    while data[at : at + 1] == b"\xff":
        marker = int.from_bytes(data[at + 1 : at + 2], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame
            height, width = _pair(data, at + 5, 2)
            return width, height
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0, 0
