"""What a file is by its first bytes, whatever its name says."""

from __future__ import annotations

FIRST = 512  # bytes that tell: a tar's mark stands at 257

_ARCHIVES = (
    (b"PK\x03\x04", "zip"), (b"PK\x05\x06", "zip"), (b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"), (b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!\x1a\x07", "rar"),
)  # fmt: skip
_IMAGES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
    b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51",
)  # fmt: skip
_HEVC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis")
_HEIF_BRANDS = (b"mif1", b"msf1")  # of the family, whichever of the two
_AVIF_BRANDS = (b"avif", b"avis", b"avio")
_NAMES = (
    (b"\xff\xd8", "JPEG"), (b"\x89PNG", "PNG"), (b"GIF8", "GIF"), (b"RIFF", "WebP"), (b"II", "TIFF"), (b"MM", "TIFF"), (b"BM", "BMP"),
    (b"\0\0\0\x0cjP", "JPEG 2000"), (b"\xff\x4f", "JPEG 2000"), (b"P", "PNM"),
)  # fmt: skip
_OTHERS = (
    (0, b"\xff\x0a", "a JPEG XL image"), (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"), (128, b"DICM", "a DICOM file"),
    (0, b"8BPS", "a Photoshop file"), (0, b"%PDF", "a PDF"), (0, b"v/1\x01", "an OpenEXR image"),
    (0, b"#?RADIANCE", "a Radiance HDR image"), (0, b"#?RGBE", "a Radiance HDR image"), (0, b"PF\n", "a PFM image"),
    (0, b"Pf\n", "a PFM image"), (0, b"P7\n", "a PAM image"), (0, b"\x59\xa6\x6a\x95", "a Sun raster image"),
    (8, b"CR\x02\0", "a camera raw file"), (4, b"ftypcrx ", "a camera raw file"), (0, b"FUJIFILMCCD-RAW", "a camera raw file"),
    (0, b"IIU\0", "a camera raw file"), (0, b"IIRO", "a camera raw file"), (0, b"IIRS", "a camera raw file"),
    (0, b"MMOR", "a camera raw file"), (0, b"FOVb", "a camera raw file"), (0, b"\0MRM", "a camera raw file"),
    (6, b"HEAPCCDR", "a camera raw file"), (4, b"ftypisom", "a video"), (4, b"ftypmp4", "a video"), (4, b"ftypqt  ", "a video"),
)  # fmt: skip


def archive_kind(first: bytes) -> str:
    """`zip`, `tar`, `gzip`, `bzip2`, `xz`, `zstd`, `7z` or `rar`; empty for anything else."""
    return next((kind for mark, kind in _ARCHIVES if first.startswith(mark)), "tar" if first[257:262] == b"ustar" else "")


def is_image(first: bytes) -> bool:
    """Whether it begins as an image of a format that is read (HEIC, where its extra is installed)."""
    if first.startswith(_IMAGES):
        return True
    if first[:4] == b"RIFF":
        return first[8:12] == b"WEBP"
    if first[:2] == b"BM":  # two letters alone would take text for a bitmap
        return len(first) >= 18 and int.from_bytes(first[14:18], "little") in (12, 40, 52, 56, 64, 108, 124)
    if first[:1] == b"P" and first[1:2] in b"123456" and first[2:3].isspace():
        return first[2:].lstrip()[:1].isdigit() or first[2:].lstrip()[:1] == b"#"
    return is_heif(first)


def is_heif(first: bytes) -> bool:
    """Whether it is of the family of HEIC and AVIF."""
    return any(brand in _HEVC_BRANDS + _HEIF_BRANDS + _AVIF_BRANDS for brand in _brands(first))


def is_avif(first: bytes) -> bool:
    """Whether it is an AVIF: by its brand, or by one that it is compatible with where its brand is not that of HEIC."""
    brands = _brands(first)
    return brands[:1] != [] and brands[0] not in _HEVC_BRANDS and any(brand in _AVIF_BRANDS for brand in brands)


def _brands(first: bytes) -> list[bytes]:
    """The brand of an ISO media file, and those that it is compatible with; none of any other file."""
    if first[4:8] != b"ftyp":
        return []
    compatible = first[16 : int.from_bytes(first[:4], "big")]
    return [first[8:12], *(compatible[at : at + 4] for at in range(0, len(compatible), 4))]


def image_kind(first: bytes) -> str:
    """The format that it begins as, among those that are read; empty for anything else."""
    if is_heif(first):
        return "AVIF" if is_avif(first) else "HEIC"
    return next((name for mark, name in _NAMES if first.startswith(mark)), "") if is_image(first) else ""


def other_kind(first: bytes) -> str:
    """What it is, of the kinds of images that are not read, with its article; empty for anything else."""
    start = first.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<svg", b"<?xml", b"<!doctype svg")):
        return "an SVG file" if b"<svg" in start or b"doctype svg" in start else ""
    return next((words for at, mark, words in _OTHERS if first.startswith(mark, at)), "")


def is_page(first: bytes) -> bool:
    """Whether it is a web page."""
    start = first.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<!--"))


def is_lfs_pointer(first: bytes) -> bool:
    """Whether it is what Git LFS leaves in place of a file that was not pulled."""
    return first.startswith(b"version https://git-lfs.github.com/spec/")


def is_annex_pointer(first: bytes) -> bool:
    """Whether it is what git-annex leaves in place of a file whose content is elsewhere."""
    return first.startswith((b"/annex/objects/", b"../.git/annex/objects/", b".git/annex/objects/"))
