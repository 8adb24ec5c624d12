"""Why a file does not decode, in words that say what to do about it."""

from __future__ import annotations

from job.data import headers, signatures

PIXELS = 2**30  # OpenCV's limits
SIDE = 2**20
PNG_SIDE = 1_000_000  # libpng's
AVIF_PIXELS, AVIF_SIDE = 2**28, 2**15  # libavif's

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JP2 = (b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")
_BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA, _FORMAT = 0x0102, 0x0106, 0x0115, 0x0152, 0x0153
_FORMATS = {2: "signed numbers", 3: "floating point numbers", 5: "complex numbers", 6: "complex numbers"}
_CMYK = 12

_POINTERS = (
    (signatures.is_lfs_pointer, "it is a Git LFS pointer, not the image: run git lfs pull"),
    (signatures.is_annex_pointer, "it is a git-annex pointer, not the image: run git annex get"),
    (signatures.is_page, "it is a web page, not an image"),
)


class Undecodable(ValueError):
    """A file that is not an image, or a corrupt one; its text is the reason."""


def reason(data: bytes) -> str:
    """Why a file that did not decode may not have."""
    first = data[: signatures.FIRST]
    pointer = next((words for is_one, words in _POINTERS if is_one(first)), "")
    if pointer:
        return pointer
    other = signatures.other_kind(first)
    if other:
        return f"it is {other}, which is not read: convert it to PNG or JPEG"
    archive = signatures.archive_kind(first)
    if archive:
        return f"it is an archive ({archive}), not an image: unpack it"
    return too_large(data) or _corrupt(data)


def unread(data: bytes) -> str:
    """Why an image would decode to other than what it shows, by its header; empty where nothing says so."""
    if not signatures.is_image(data[: signatures.FIRST]):
        return reason(data)
    what = _unread_tiff(data) if data.startswith(_TIFF) else _unread_jp2(data) if data.startswith(_JP2) else ""
    return f"it is {what}, which is not read: convert it to PNG" if what else ""


def _unread_tiff(data: bytes) -> str:
    number = next((_FORMATS[kind] for kind in headers.tags(data, _FORMAT) if kind in _FORMATS), "")
    if number:
        return f"a TIFF of {number}"
    kind, samples, extra = headers.tag(data, _PHOTOMETRIC), headers.tag(data, _SAMPLES) or 1, headers.tags(data, _EXTRA)
    if kind in (8, 9, 10):
        return "a TIFF of Lab colors"
    if kind in (0, 1) and samples > 1:
        if any(one in (1, 2) for one in extra):
            return "a grey TIFF with alpha"
        if not extra or headers.tag(data, _BITS) != 8:  # else the others are said to be neither color nor alpha
            return f"a grey TIFF of {samples:,} samples a pixel"
    return ""


def _unread_jp2(data: bytes) -> str:
    depths = headers.components(data)
    if any(depth < 0 for depth in depths):
        return "a JPEG 2000 image of signed numbers"
    if len(set(depths)) > 1:
        return "a JPEG 2000 image whose components differ in depth"
    if headers.color_space(data) == _CMYK:
        return "a JPEG 2000 image of CMYK colors"
    return "a grey JPEG 2000 image with alpha" if len(depths) == 2 else ""


def too_large(data: bytes) -> str:
    """Which limit an image's size is beyond, by its header; empty where it is beyond none."""
    width, height = headers.size(data)
    side, pixels = PNG_SIDE if data.startswith(b"\x89PNG") else SIDE, PIXELS
    if signatures.is_avif(data[: signatures.FIRST]):
        side, pixels = AVIF_SIDE, AVIF_PIXELS
    if max(width, height) <= side and width * height <= pixels:
        return ""
    limit = f"{side:,} a side" if max(width, height) > side else f"the {pixels:,} that are read"
    return f"it is {width:,} x {height:,} pixels, more than {limit}: make it smaller, or cut it up"


def _corrupt(data: bytes) -> str:
    if data.startswith(b"\xff\xd8"):
        return "the JPEG is truncated or corrupt" if data[-2:] != b"\xff\xd9" else "the JPEG is corrupt"
    kind = signatures.image_kind(data[: signatures.FIRST])
    if kind == "TIFF":
        return "the TIFF is truncated or corrupt, or of a kind that is not read"
    return f"the {kind} is truncated or corrupt" if kind else "it is not an image that can be read, or it is corrupt"
