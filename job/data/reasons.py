"""Why a file does not decode, in words that say what to do about it."""

from __future__ import annotations

from job.data import headers, signatures

PIXELS = 2**30  # OpenCV's limits
SIDE = 2**20
PNG_SIDE = 1_000_000  # libpng's
AVIF_PIXELS, AVIF_SIDE = 2**28, 2**15  # libavif's

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
