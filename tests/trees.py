"""Random trees of images as people keep them, with what their maker meant: each image's class and split.

A tree is built on the disk, as a folder or as an archive of one. `Tree.clear` says that the names leave no doubt.
"""

from __future__ import annotations

import os
import random
import shutil
import tarfile
import unicodedata
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from job.data.class_names import same_class

JPEG = b"\xff\xd8\xff\xe0"
PAIRS = (
    ("cats", "dogs"), ("Cat", "Dog"), ("NORMAL", "PNEUMONIA"), ("hot_dog", "not_hot_dog"), ("Positive", "Negative"), ("0", "1"),
    ("Hündin", "Rüde"), ("Parasitized", "Uninfected"), ("benign", "malignant"), ("class 0", "class 1"), ("猫", "狗"), ("yes", "no"),
    ("healthy leaf", "sick leaf"), ("with_mask", "without_mask"), ("crack", "no-crack"), ("male", "female"),
)  # fmt: skip
SPLITS = {
    "train": (
        "train", "Training", "training_set", "seg_train", "train_images", "Train Data", "pets_train", "train1", "TrainSet 2024",
        "training-data",
    ),
    "validation": ("val", "valid", "validation", "dev", "Validation Set", "seg_val", "val1", "devel", "x-valid"),
    "test": ("test", "Testing", "test_set", "eval", "holdout", "held-out", "my test", "test2", "evaluation", "seg_test", "TestSet 2024"),
}  # fmt: skip
WRAPPERS = ("data", "PetImages", "my project", "archive", "dataset_2024", "images", "home", "chest_xray", "v1", "raw data")
PARTS = (("part1", "part2"), ("images_a", "images_b"), ("2022", "2023"), ("100CANON", "101CANON"), ("patient_01", "patient_02"))
DEEPER = (("2022", "2023"), ("edited",), ("raw", "edited"), ("a/b/c",), ("persian", "siamese", "poodle"), ("100APPLE",))
CAMERA = (
    "IMG_{:04d}",
    "DSC_{:04d}",
    "PXL_20230101_{:09d}",
    "{:08x}",
    "image ({})",
    "{}",
    "scan_{:03d}",
    "IMG-20240101-WA{:04d}",
    "photo{}",
)
JUNK = (
    "Thumbs.db", ".DS_Store", "._1.jpg", ".ipynb_checkpoints/1-checkpoint.jpg", ".thumbnails/1.jpg", "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
    "__MACOSX/1.jpg", ".hidden.jpg", "desktop.ini",
)  # fmt: skip
OTHERS = ("readme.txt", "labels.csv", "notes.md", "model.bin", "photo.dng")


@dataclass
class Tree:
    """What was made: where it is, what each image means (class and split), and what must not be an image of the data set."""

    path: Path
    classes: tuple[str, str]
    images: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    clear: bool = True
    doomed: bool = False  # a third class: it must be refused


def make(seed: int, folder: Path) -> Tree:
    """The tree of a seed, below `folder`."""
    draw = random.Random(seed)
    root = folder / "pets"
    tree = Tree(root, draw.choice(PAIRS))
    _images(tree, draw)
    _extras(tree, draw)
    for name in [*tree.images, *tree.others]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"words" if name.endswith(OTHERS) else JPEG + name.encode("utf-8"))
    container = draw.choice(("folder", "folder", "zip", "tar"))
    if container == "folder":
        _link(tree, draw, folder)
    else:
        _pack(tree, container, folder)
    return tree


def _images(tree: Tree, draw: random.Random) -> None:
    """The labelled images: wrappers, splits, classes and folders below, in one order of levels."""
    in_names = draw.random() < 0.2 and all(name.replace("_", "").isalpha() for name in tree.classes)  # classes by file names alone
    splits = draw.choice(([None], [None], ["train", "test"], ["train", "validation", "test"], ["train", "validation"], ["train"]))
    spelled = {split: draw.choice(SPLITS[split]) for split in splits if split}
    above = [draw.choice(WRAPPERS) for _ in range(draw.choice((0, 0, 1, 1, 2)))]
    parts = draw.choice(PARTS) if draw.random() < 0.15 else ("",)
    deeper = draw.choice(DEEPER) if draw.random() < 0.25 else ("",)
    split_first, camera = draw.random() < 0.8 or in_names, draw.choice(CAMERA)
    # two parts, and folders of the same names below both classes, may be taken for the classes themselves
    tree.clear = parts == ("",) and len(deeper) == 1 and "/" not in deeper[0]
    number = 0
    for split in splits:
        for part in parts:
            for name in tree.classes:
                if draw.random() < 0.3:
                    name = unicodedata.normalize("NFD", name)
                for _ in range(draw.randint(4, 9) if split in (None, "train") else draw.randint(2, 4)):
                    number += 1
                    below = draw.choice(deeper) if draw.random() < 0.5 else ""
                    levels = [spelled.get(split or "", ""), "" if in_names else name]
                    file = f"{name}.{number}" if in_names else camera.format(number)
                    path = [*above, part, *(levels if split_first else levels[::-1]), below, file + draw.choice((".jpg", ".JPEG", ".png"))]
                    tree.images["/".join(p for p in path if p)] = (name, split)


def _extras(tree: Tree, draw: random.Random) -> None:
    """Junk, other files, an unlabelled test folder, a third class, images beside the classes, folders beside the splits."""
    folders = sorted({name.rsplit("/", 1)[0] if "/" in name else "" for name in tree.images})
    for junk in draw.sample(JUNK, draw.randint(0, 4)) + draw.sample(OTHERS, draw.randint(0, 2)):
        tree.others.add(f"{draw.choice(folders)}/{junk}".lstrip("/"))
    kind, classes = draw.random(), {same_class(name) for name in tree.classes}
    if kind < 0.1 and all(split != "test" for _, split in tree.images.values()):
        tree.others |= {f"{draw.choice(SPLITS['test'])}/{sub}{k}.jpg" for sub in ("", "unknown/") for k in range(5)}
        tree.clear = False
    elif kind < 0.2:
        own = [name for name in tree.images if any(same_class(part) in classes for part in name.split("/")[:-1])]
        for k, name in enumerate(draw.sample(own, min(6, len(own)))):
            parts = ["zebras" if same_class(part) in classes else part for part in name.split("/")[:-1]]
            tree.others.add("/".join([*parts, f"z{k}.jpg"]))
            tree.doomed = True
    elif kind < 0.25:
        tree.others.add("logo.jpg")
        tree.clear = False
    elif kind < 0.3:
        extra = draw.choice(("extra", "more", "trainval", "unsorted"))
        for k in range(6):
            name = draw.choice(tree.classes)
            tree.images[f"{extra}/{name}/x{k}.jpg"] = (name, None)
        tree.clear = False


def _link(tree: Tree, draw: random.Random, folder: Path) -> None:
    """Some folders become links to elsewhere, and some links lead back or nowhere."""
    inner = sorted(
        path for path in tree.path.rglob("*") if path.is_dir() and not any(p.startswith((".", "@", "_")) for p in path.parts[-2:])
    )
    if inner and draw.random() < 0.3:
        chosen, store = draw.choice(inner), folder / "store" / "real"
        store.parent.mkdir()
        shutil.move(chosen, store)
        chosen.symlink_to(store)
    if inner and draw.random() < 0.2:
        place = draw.choice([path for path in inner if path.exists()])
        with_loop = place / "back"
        if not with_loop.exists():
            with_loop.symlink_to(tree.path)
    if draw.random() < 0.1:
        os.mkfifo(tree.path / "pipe.jpg")


def _pack(tree: Tree, kind: str, folder: Path) -> None:
    packed = folder / f"pets.{kind}"
    files = [path for path in sorted(tree.path.rglob("*")) if path.is_file()]
    if kind == "zip":
        with zipfile.ZipFile(packed, "w") as archive:
            for path in files:
                archive.write(path, path.relative_to(tree.path))
    else:
        with tarfile.open(packed, "w") as tar:
            for path in files:
                tar.add(path, path.relative_to(tree.path))
    tree.path = packed
