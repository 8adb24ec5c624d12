"""Which files of a source are images, by one rule for folders and archives alike.

A name decides where it can; a file whose name says nothing is known by its first bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from job.data import signatures

IMAGES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif", ".jp2",
    ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".hif",
)  # fmt: skip
ARCHIVES = (
    ".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tbz", ".tar.zst", ".tzst",
)  # fmt: skip
CLOSED_ARCHIVES = (".7z", ".rar")  # nothing here reads what they hold
TABLES = (".csv", ".tsv", ".tab")
_UNREAD = (  # photographs that no decoder here reads, though some begin as a TIFF does
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".jxl", ".dcm", ".psd", ".svg",
    ".exr", ".hdr", ".nii", ".nii.gz", ".svs",
)  # fmt: skip
_SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
_SYSTEM_FOLDERS = (
    "__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "lost+found", "system volume information", "__pycache__",
    "_vti_cnf", "recycler", "@recently-snapshot", "#snapshot", "lost.dir", "found.000", "network trash folder", "@tmp",
    "ipod photo cache", "node_modules", "site-packages", "temporary items", "thumbnail cache",
)  # fmt: skip
_SMALL_COPIES = ("thumbnails", "thumbs", "_thumbs")
_A_SHARD = "a shard"
_OURS = ({"config.toml", "environment.json", "log.txt"}, {"sweep.json", "trials.csv"}, {"manifest.json", _A_SHARD})
_MARKS = frozenset().union(*_OURS)
_SHARD = re.compile(r"(train|validation|test)-\d{5}-of-\d{5}\.(tfrecord|index\.npy)")

# What a file is to us; any other word is the reason why it is passed over, and empty means: without a word.
IMAGE, ARCHIVE, CLOSED, TABLE = "image", "archive", "closed archive", "table"
OTHER = "not an image"
_UNSAID = "not to be told by its name"


_PART = re.compile(r".*\.(zip|7z|rar|tar|tgz|tar\.(gz|xz|bz2))\.\d{2,3}|.*\.[zr]\d\d|.*\.part\d+\.rar", re.I | re.S)
_MASK = re.compile(r"(.+?)[ _-](?:masks?|gt|seg|segmentation|labels?|trimap)(?:_\d+)?\.\w+", re.I | re.S)
_STEM = re.compile(f"(.*?)(?:{'|'.join(re.escape(e) for e in sorted((*ARCHIVES, *TABLES), key=len, reverse=True))})", re.I | re.S)


def stem(name: str) -> str:
    """The name of an archive or a table without its ending; any other name as it is."""
    match = _STEM.fullmatch(name)
    return match.group(1) if match else name


def is_image(name: str) -> bool:
    """Whether a name is an image's by its ending."""
    return name.lower().endswith(IMAGES)


def is_archive(name: str) -> bool:
    """Whether a name is that of an archive that can be read, by its ending."""
    return name.lower().endswith(ARCHIVES)


def of_mask(name: str) -> str:
    """The name, without its ending, of the image that this one may be the mask of (`benign (1)_mask.png`); empty for others."""
    match = _MASK.fullmatch(name)
    return match.group(1) if match else ""


def is_part(name: str) -> bool:
    """Whether a name is that of one part of an archive that was cut, by its ending."""
    return _PART.fullmatch(name) is not None


def is_system_folder(name: str) -> bool:
    """Whether a folder is hidden, or made by a system or a program for itself."""
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in _SYSTEM_FOLDERS


def is_told(name: str) -> bool:
    """Whether the name alone says what the file is."""
    return _by_name(name) != _UNSAID


def what(name: str, first: Callable[[], bytes]) -> str:
    """What the file of this path is: one of the words above, or why it is passed over.

    Args:
        name: its path within the source.
        first: gives its first `signatures.FIRST` bytes; called only where the name does not say enough.
    """
    said = _by_name(name)
    if said != _UNSAID:
        return said
    if signatures.is_image(first()):
        return IMAGE
    return TABLE if name.lower().endswith(TABLES) else OTHER


@lru_cache(maxsize=1 << 18)  # a name is asked about when it is listed and when it is read
def _by_name(name: str) -> str:
    *folders, file = name.split("/")
    lower = file.lower()
    if any(map(is_system_folder, folders)) or lower in _SYSTEM_FILES or lower.startswith((".ds_store", "._")):
        return ""
    if any(folder.lower() in _SMALL_COPIES for folder in folders):
        return "in a folder of thumbnails"
    if lower.startswith("."):
        return "hidden" if lower.endswith(IMAGES) else "not downloaded from iCloud" if lower.endswith(".icloud") else ""
    if lower.endswith(_UNREAD):
        return "of a kind that is not read: convert it to JPEG or PNG"
    if is_part(lower):
        return CLOSED
    for kind, endings in ((IMAGE, IMAGES), (ARCHIVE, ARCHIVES), (CLOSED, CLOSED_ARCHIVES)):
        if lower.endswith(endings):
            return kind
    return _UNSAID


def our_folders(paths: Iterable[str]) -> list[str]:
    """The outermost folders among these paths that are runs, sweeps and data sets of this program, each with a / at its end."""
    files: dict[str, set[str]] = {}
    for path in paths:
        folder, _, file = path.rpartition("/")
        if file in _MARKS or _SHARD.fullmatch(file):
            files.setdefault(f"{folder}/" if folder else "", set()).add(file if file in _MARKS else _A_SHARD)
    ours: list[str] = []
    for folder in sorted(folder for folder, found in files.items() if any(found >= kind for kind in _OURS)):
        if not ours or not folder.startswith(ours[-1]):
            ours.append(folder)
    return ours
