"""Names of classes: how they are compared, how a file's name tells one, and names that are never one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from job.data.splits import split_of

_IN_FILE_NAME = re.compile(r"([^\W\d_]+(?:[ _-][^\W\d_]+)*)[._ -]*\(?\d+\)?$")
_NOTHING = frozenset((  # what cameras, scanners and programs call files, and what people call folders of them
    "img", "imgs", "image", "images", "dsc", "dscn", "dscf", "dsci", "pxl", "photo", "photos", "pic", "pics", "pict", "picture",
    "pictures", "frame", "frames", "scan", "scans", "mvi", "vid", "video", "gopr", "dji", "cimg", "whatsapp", "screenshot", "capture",
    "snapshot", "untitled", "unnamed", "file", "files", "download", "downloads", "upload", "uploads", "data", "dataset", "datasets",
    "folder", "part", "parts", "batch", "camera", "dcim", "edited", "copy", "of", "jpg", "jpeg", "png", "dir", "raw",
    "jpegimages", "jpegimage",
    "fb", "snapchat", "received", "viber", "th", "maxresdefault", "istockphoto", "gettyimages", "shutterstock", "sam", "kif", "hpim",
    "epsn", "scn", "foto", "fotos", "bild", "bilder", "imagen", "imagem", "immagine", "unsorted", "misc", "other", "others", "extra",
    "new", "more", "full", "size", "px", "original", "originals", "resized", "cropped",
))  # fmt: skip
_CAMERA_FOLDER = re.compile(r"\d{3}[A-Z0-9_]{5}", re.IGNORECASE)  # `100CANON`, `101APPLE`, as cameras number them


_LETTER = re.compile("[a-z]")
_LONE_LETTER = re.compile(r"(?<=[\W_])[a-z](?![^\W_])")
_TIME = re.compile(
    r"(?<![^\W\d_])(jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?|sept?(ember)?|oct(ober)?|nov(ember)?|dec(ember)?"
    r"|mon(day)?|tue(sday)?|wed(nesday)?|thu(rsday)?|fri(day)?|sat(urday)?|sun(day)?)(?![^\W\d_])"
)
_CAMERA_FILE = re.compile(r"_?[A-Z]{1,6}[_-]?\d{4,}")  # `_MG_0001`, `IMGP1234`, `P1010001`


@lru_cache(maxsize=65536)
def same_class(name: str) -> str:
    """The form in which class names are compared: without case, a final s, or the way in which accents are stored."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).strip().casefold())
    return folded[:-1] if len(folded) > 1 and folded.endswith("s") else folded


@lru_cache(maxsize=65536)
def is_no_class(name: str) -> bool:
    """Whether a name is a camera's, a date or number, or says only that there are files: `DSC`, `images 2`, `2023-05`, `part1`."""
    if _CAMERA_FOLDER.fullmatch(name):
        return True
    digits = re.sub(r"[\W_]", "", name)
    if digits.isdigit():
        return len(digits) > 2  # 0 and 1 are classes in many a data set
    words = re.findall(r"[^\W\d_]+", name.lower())
    if words and all(word in ("x", "px") for word in words):
        return any(letter.isdigit() for letter in name)  # `64x64`, `400X`, `224px`
    return any(word in _NOTHING for word in words) and all(word in _NOTHING or _LETTER.fullmatch(word) for word in words)


def in_file_name(file: str, sure: frozenset[str] = frozenset()) -> str | None:
    """The class that a file's name tells, as in `cat.0.jpg` and `hot dog (12).png`; None where it tells none.

    Args:
        sure: names that are classes for sure, in the form of `same_class`: a camera's word among them is one too.
    """
    match = _IN_FILE_NAME.match(unicodedata.normalize("NFC", file.rsplit(".", 1)[0]))
    name = match.group(1) if match else ""
    if same_class(name) in sure:
        return name
    return None if not name or is_no_class(name) or split_of(name, alone=True) or _LETTER.fullmatch(name.lower()) else name


def is_camera_file(file: str) -> bool:
    """Whether a file's name may be a camera's: a few capital letters and a number."""
    return _CAMERA_FILE.match(file) is not None


_KINDS = frozenset(("class", "label", "category", "type", "kind", "grade", "group", "species", "stage", "level"))


def only_numbered(found: Iterable[str]) -> bool:
    """Whether names differ by numbers, dates or letters for numbers alone, as parts of one thing do: `pets-001`, `Part 1 of 2`, `set_b`."""
    bases = {_LONE_LETTER.sub(" ", _TIME.sub(" ", re.sub(r"\d+", " ", name.casefold()))) for name in found}
    bases = {" ".join(re.findall(r"[^\W_]+", base)) for base in bases}
    base = next(iter(bases))
    return len(bases) == 1 and (base not in _KINDS if base else not all(re.fullmatch(r"\d{1,2}|[a-z]", name.casefold()) for name in found))


def same_letters(found: Iterable[str]) -> bool:
    """Whether names are one name with other signs between its words: `hot dog` and `hot_dog`."""
    return len({re.sub(r"[\W_]+", "", name.casefold()) for name in found}) == 1


_ABOUT_IMAGES = re.compile(
    r"(?<![^\W_])(masks?|labels|annotations?|ground ?truths?|gt|gtfine|trimaps?|segmentations?|segmentationclass|overlays?|heatmaps?)"
    r"(?![^\W_])"
)


@lru_cache(maxsize=65536)
def is_about_images(name: str) -> bool:
    """Whether a folder's name says that it holds masks or the like, which are no photographs."""
    return _ABOUT_IMAGES.search(re.sub(r"[\W_]+", " ", name.lower())) is not None
