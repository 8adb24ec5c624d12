"""Layouts of public data sets, rebuilt with drawn images from what is known of them: each is prepared with no option."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from job.data.shards import Reader
from tests.preparing import draw_image, prepared

Facts = dict[str, tuple[str, str | None]]  # by key: class, and split where the source names one


class _Maker:
    """Draws images below a folder and notes what they mean."""

    def __init__(self, root: Path) -> None:
        self.root, self.facts, self.count = root, Facts(), 0

    def draw(self, name: str, label: str = "", split: str | None = None, seed: int | None = None) -> None:
        self.count += 1
        draw_image(self.root / name, self.count if seed is None else seed)
        if label:
            self.facts[name] = (label, split)

    def text(self, name: str, content: str = "words\n") -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(content)


def _packed(root: Path, *folders: str) -> None:
    """Folders become zips beside them, as Kaggle and Drive give them out."""
    for folder in folders:
        with zipfile.ZipFile(root / f"{folder}.zip", "w") as archive:
            for path in sorted((root / folder).rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(root))
        shutil.rmtree(root / folder)


def _dogs_vs_cats_folders(make: _Maker) -> list[str]:
    """Kaggle, salader/dogs-vs-cats: train and test with a folder for each class."""
    for split, count in (("train", 8), ("test", 4)):
        for kind in ("cat", "dog"):
            for k in range(count):
                make.draw(f"{split}/{kind}s/{kind}.{k}.png", f"{kind}s", split)
    return ["."]


def _dogs_vs_cats_competition(make: _Maker) -> list[str]:
    """Kaggle's competition dogs-vs-cats: archives in an archive, classes in file names, an unlabelled test."""
    for kind in ("cat", "dog"):
        for k in range(8):
            make.draw(f"train/{kind}.{k}.png")
            make.facts[f"train.zip/train/{kind}.{k}.png"] = (kind, "train")
    for k in range(5):
        make.draw(f"test1/{k}.png")
    make.text("sampleSubmission.csv", "id,label\n1,0\n")
    _packed(make.root, "train", "test1")
    return ["."]


def _pet_images(make: _Maker) -> list[str]:
    """Microsoft's kagglecatsanddogs: PetImages with numbered files, a damaged one and Thumbs.db in each class."""
    for kind in ("Cat", "Dog"):
        for k in range(120):
            make.draw(f"PetImages/{kind}/{k}.png", kind)
        make.text(f"PetImages/{kind}/Thumbs.db")
    make.text("PetImages/Cat/666.jpg", "")
    make.text("readme[1].txt")
    make.text("MSR-LA - 3467.docx")
    return ["."]


def _chest_x_ray(make: _Maker) -> list[str]:
    """Kaggle, chest-xray-pneumonia: the whole set three times, once doubled in itself and once as a Mac's leavings."""
    for split, folder, count in (("train", "train", 6), ("validation", "val", 3), ("test", "test", 4)):
        for number, (label, name) in enumerate((("NORMAL", "IM-0{}-0001"), ("PNEUMONIA", "person{}_bacteria_1"))):
            for k in range(count):
                seed = 1000 * count + 100 * number + k
                key = f"{folder}/{label}/{name.format(k)}.jpeg"
                make.draw(f"chest_xray/chest_xray/{key}", label, split, seed)  # of two copies, the first by name is kept
                make.draw(f"chest_xray/{key}", seed=seed)
                make.text(f"chest_xray/__MACOSX/chest_xray/{folder}/{label}/._{name.format(k)}.jpeg")
        make.text(f"chest_xray/chest_xray/{folder}/.DS_Store")
    return ["."]


def _hot_dog(make: _Maker) -> list[str]:
    """Kaggle, hotdog-nothotdog."""
    for split in ("train", "test"):
        for label in ("hotdog", "nothotdog"):
            for k in range(6):
                make.draw(f"hotdog-nothotdog/hotdog-nothotdog/{split}/{label}/{k}.png", label, split)
    return ["."]


def _cracks(make: _Maker) -> list[str]:
    """Concrete crack images: Negative and Positive, numbered alike."""
    for label in ("Negative", "Positive"):
        for k in range(8):
            make.draw(f"{label}/{k:05d}{'_1' if k > 5 else ''}.png", label)
    make.text("Concrete Crack Images for Classification_readme.txt")
    return ["."]


def _malaria(make: _Maker) -> list[str]:
    """Kaggle, cell-images-for-detecting-malaria: the set stands once more within itself."""
    for label in ("Parasitized", "Uninfected"):
        for k in range(8):
            seed = hash_of(label, k)
            make.draw(f"cell_images/cell_images/{label}/C{k}P60ThinF_IMG_2015{k}_cell_{k}.png", seed=seed)
            make.draw(f"cell_images/{label}/C{k}P60ThinF_IMG_2015{k}_cell_{k}.png", label, seed=seed)
        make.text(f"cell_images/{label}/Thumbs.db")
    return ["."]


def hash_of(label: str, number: int) -> int:
    return sum(map(ord, label)) * 100 + number


def _skin(make: _Maker) -> list[str]:
    """A list as HAM10000's: ids without endings, images in two folders, a column `dataset` that is no split."""
    rows = []
    for k in range(16):
        label = "melanoma" if k % 2 else "nevus"
        make.draw(f"HAM10000_images_part_{1 + k // 8}/ISIC_{k:07d}.png", label)
        rows.append(f"HAM_{k:07d},ISIC_{k:07d},{label},histo,{40 + k},male,back,{'vidir_modern' if k % 3 else 'rosendahl'}")
    make.text("HAM10000_metadata.csv", "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset\n" + "\n".join(rows) + "\n")
    return ["HAM10000_metadata.csv"]


def _histopathology(make: _Maker) -> list[str]:
    """IDC: a folder for each patient, and in it 0 and 1; one image lies beside them."""
    for patient in (8863, 8864, 8865, 9073):
        for label in ("0", "1"):
            for k in range(5):
                make.draw(f"IDC_regular_ps50_idx5/{patient}/{label}/{patient}_idx5_x{k}51_y1251_class{label}.png", label)
    make.draw("IDC_regular_ps50_idx5/8863/8863_overview.png")
    return ["."]


def _roboflow(make: _Maker) -> list[str]:
    """A folder-structure export of Roboflow: train, valid and test, file names that end in a hash."""
    for split, folder, count in (("train", "train", 6), ("validation", "valid", 3), ("test", "test", 3)):
        for label in ("ripe", "unripe"):
            for k in range(count):
                make.draw(f"{folder}/{label}/img_{k}_jpg.rf.{k:032x}.png", label, split)
    make.text("README.roboflow.txt")
    make.text("README.dataset.txt")
    return ["."]


def _drive_parts(make: _Maker) -> list[str]:
    """Google Drive cuts a folder into parts; the first holds one class alone."""
    parts = ("pets-20240101T120000Z-001", "pets-20240101T120000Z-002")
    for part, label, count in ((parts[0], "cats", 9), (parts[1], "dogs", 7), (parts[1], "cats", 2)):
        for k in range(count):
            make.draw(f"{part}/pets/{label}/IMG_{k:04d}{part[-1]}.png", label)
            make.facts[f"{part}.zip/pets/{label}/IMG_{k:04d}{part[-1]}.png"] = make.facts.pop(
                f"{part}/pets/{label}/IMG_{k:04d}{part[-1]}.png"
            )
    for part in parts:
        with zipfile.ZipFile(make.root / f"{part}.zip", "w") as archive:
            for path in sorted((make.root / part).rglob("*.png")):
                archive.write(path, path.relative_to(make.root / part))
        shutil.rmtree(make.root / part)
    return [f"{part}.zip" for part in parts]


@pytest.mark.parametrize(
    ("layout", "classes"),
    [
        (_dogs_vs_cats_folders, ("cats", "dogs")),
        (_dogs_vs_cats_competition, ("cat", "dog")),
        (_pet_images, ("Cat", "Dog")),
        (_chest_x_ray, ("NORMAL", "PNEUMONIA")),
        (_hot_dog, ("hotdog", "nothotdog")),
        (_cracks, ("Negative", "Positive")),
        (_malaria, ("Parasitized", "Uninfected")),
        (_skin, ("melanoma", "nevus")),
        (_histopathology, ("0", "1")),
        (_roboflow, ("ripe", "unripe")),
        (_drive_parts, ("cats", "dogs")),
    ],
)
def test_a_public_layout_is_prepared_with_no_option(
    layout: Callable[[_Maker], list[str]], classes: tuple[str, str], tmp_path: Path
) -> None:
    make = _Maker(tmp_path / "set")
    sources = [str(make.root / name) for name in layout(make)]
    found = prepared(sources, tmp_path / "out", val=0.1, test=0)
    assert found.classes == classes
    got = {}
    for name, split in found.splits.items():
        with Reader(tmp_path / "out", split.shards) as reader:
            got |= {reader[k].key: (classes[reader[k].label], name) for k in range(len(reader))}
    assert got.keys() == make.facts.keys()
    cut = {"train"} if "validation" in {split for _, split in make.facts.values()} else {"train", "validation"}
    for key, (label, split) in make.facts.items():
        assert got[key][0] == label
        assert got[key][1] in ({split} if split in ("test", "validation") else cut)
