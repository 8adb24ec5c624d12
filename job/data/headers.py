"""What the headers of image files say: size, orientation, depth, alpha, the transparent grey of a PNG, the tags of a TIFF."""

from __future__ import annotations

import re

from job.data import signatures

_ORIENTATION, _WIDTH, _HEIGHT = 0x0112, 0x0100, 0x0101


def tag(tiff: bytes, number: int) -> int | None:
    """The first value of a tag in the first directory of a TIFF (or of an EXIF block, which is one), None without it."""
    return next(iter(tags(tiff, number)), None)


def tags(tiff: bytes, number: int) -> list[int]:
    """The values of a tag in the first directory of a TIFF, 16 at most."""
    order = "little" if tiff[:2] == b"II" else "big"
    big = tiff[2:4] in (b"+\0", b"\0+")  # BigTIFF: eight bytes where there were four
    word, entry = (8, 20) if big else (4, 12)

    def value(at: int, length: int) -> int:
        return int.from_bytes(tiff[at : at + length], order)  # type: ignore[arg-type]

    first, head = value(word, word), 8 if big else 2
    for at in range(first + head, min(first + head + entry * value(first, head), len(tiff)), entry):
        if value(at, 2) == number:
            length = {1: 1, 3: 2, 16: 8}.get(value(at + 2, 2), 4)
            count, start = max(1, min(value(at + 4, word), 16)), at + 4 + word
            if count * length > word:  # too many to stand here
                start = value(start, word)
            return [value(start + k * length, length) for k in range(count)]
    return []


def orientation(exif: bytes) -> int:
    """The orientation (1 to 8) in an EXIF block, 1 where it holds none."""
    start = exif.find(b"II*\0") if b"II*\0" in exif[:16] else exif.find(b"MM\0*")
    found = None if start < 0 else tag(exif[start:], _ORIENTATION)
    return found if found is not None and 1 <= found <= 8 else 1


def exif(png: bytes) -> bytes:
    """The EXIF block of a PNG, empty without one."""
    at = 8
    while (name := png[at + 4 : at + 8]) != b"":
        length = int.from_bytes(png[at : at + 4], "big")
        if name == b"eXIf":
            return png[at + 8 : at + 8 + length]
        at += 12 + length
    return b""


def top(pnm: bytes) -> int | None:
    """The largest value that a PGM or PPM declares, None where its header does not tell."""
    found = re.match(rb"P[2356]" + rb"\s+(?:#[^\n]*\n\s*)*(\d{1,10})" * 3, pnm[:65536])
    return int(found[3]) if found else None


def bmp_has_alpha(bmp: bytes) -> bool:
    """Whether a BMP names the bits of its alpha: a fourth byte alone is filling."""
    length, bits = int.from_bytes(bmp[14:18], "little"), int.from_bytes(bmp[28:30], "little")
    masked = int.from_bytes(bmp[30:34], "little") in (3, 6)
    return bmp[:2] == b"BM" and length >= 56 and bits == 32 and masked and bmp[66:70] != bytes(4)


def components(jp2: bytes) -> list[int]:
    """Of each component of a JPEG 2000 image its bits, negative where it holds a sign."""
    at = jp2.find(b"\xff\x4f\xff\x51")
    depths = jp2[at + 42 : at + 42 + 3 * int.from_bytes(jp2[at + 40 : at + 42], "big") : 3] if at >= 0 else b""
    return [-(depth & 127) - 1 if depth & 128 else depth + 1 for depth in depths]


def kinds_of_components(jp2: bytes) -> list[int]:
    """What a JPEG 2000 file says of its components: 0 a color, 1 alpha, 2 alpha that is in the colors already; maybe nothing."""
    header = jp2[: max(jp2.find(b"jp2c"), 0)]
    at = header.find(b"cdef") + 4
    count = int.from_bytes(header[at : at + 2], "big") if at >= 4 else 0
    found = sorted(_pair(header, at + 2 + 6 * k, 2) for k in range(min(count, 16)))
    return [kind for _, kind in found]


def color_space(jp2: bytes) -> int:
    """The number of a JPEG 2000 file's color space, 0 where it has none."""
    at = jp2[: max(jp2.find(b"jp2c"), 0)].find(b"colr\1")
    return int.from_bytes(jp2[at + 7 : at + 11], "big") if at >= 0 else 0


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
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
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
