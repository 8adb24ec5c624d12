"""What `prepare` says before it starts: classes, splits and where they were read from, what is skipped; and `--dry-run`."""

from __future__ import annotations

import io
import os
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from job.cli import main
from job.config.schema import Reading
from job.data.labels import Wanted
from job.data.sources import contents
from job.data.survey import survey
from job.errors import UserError
from tests.preparing import draw_image, draw_pets

JPEG = b"\xff\xd8\xff"


def _put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(JPEG + name.encode())
    return root


def _each(folder: str, count: int, ending: str = ".jpg") -> list[str]:
    return [f"{folder}/{k}{ending}" for k in range(count)]


def _refused(wanted: Wanted | None, *sources: Path) -> str:
    with pytest.raises(UserError) as caught:
        survey([str(source) for source in sources], sources[0].parent, wanted=wanted)
    assert caught.value.code == 2
    return str(caught.value).replace(str(sources[0].parent) + "/", "")


def test_the_block_names_classes_splits_and_what_is_skipped(tmp_path: Path) -> None:
    root = _put(
        tmp_path / "pets", *_each("seg_train/cats", 5), *_each("seg_train/dogs", 4), *_each("dev/cats", 2), *_each("dev/dogs", 2),
        *_each("test2/unknown", 3), "seg_train/cats/.ipynb_checkpoints/0-checkpoint.jpg", "seg_train/cats/.0.jpg", "x.dng",
    )  # fmt: skip
    (root / "notes.txt").write_text("words")
    (root / "list.csv").write_text("a,b")
    assert survey([str(root)], tmp_path).lines() == [
        "classes: 7 cats and 6 dogs (by the names of folders); positive class: dogs",
        "splits: 9 train (folder seg_train), 4 validation (folder dev)",
        "skipped: 2 files (not an image), such as list.csv",
        "skipped: 1 file (hidden), such as seg_train/cats/.0.jpg",
        "skipped: 1 file (of a kind that is not read: convert it to JPEG or PNG), such as x.dng",
        "skipped: 3 images (of the test split, without a class), such as test2/unknown/0.jpg",
    ]


def test_two_classes_of_three_by_name(tmp_path: Path) -> None:
    root = _put(tmp_path / "pets", *_each("birds", 3), *_each("cats/2022", 3), *_each("dogs", 3), "logo.jpg")
    assert _refused(None, root).startswith("pets: 3 classes found instead of two: birds (3), cats")
    found = survey([str(root)], tmp_path, wanted=Wanted(pair=("Dog", "cat")))
    assert found.layout.classes == ("cats", "dogs")
    assert found.lines()[-1] == "skipped: 4 images (of no class, or of another), such as birds/0.jpg"
    assert {name.split("/")[0] for name, _ in found.read()} == {"cats", "dogs"}
    line = _refused(Wanted(pair=("cats", "hens")), root)
    assert line.startswith("--classes: no image of hens is found in pets, only of cats (3); name two")


@pytest.mark.parametrize(
    ("names", "pair", "classes"),
    [
        (["photo/1.jpg", "photo/2.jpg", "scan/1.jpg"], ("photo", "scan"), ("photo", "scan")),
        (["IMG_1.jpg", "IMG_2.jpg", "DSC_1.jpg"], ("IMG", "DSC"), ("DSC", "IMG")),
        (["train/train/1.jpg", "train/test/1.jpg", "val/train/2.jpg", "val/test/2.jpg"], ("train", "test"), ("test", "train")),
        (["cats/extra/1.jpg", "download/cats/2.jpg", "download/dogs/3.jpg"], ("cats", "dogs"), ("cats", "dogs")),
    ],
)
def test_classes_that_are_named_are_classes_whatever_they_read_like(
    names: list[str], pair: tuple[str, str], classes: tuple[str, str], tmp_path: Path
) -> None:
    root = _put(tmp_path / "set", *names)
    assert _refused(None, root)
    found = survey([str(root)], tmp_path, wanted=Wanted(pair=pair)).layout
    assert found.classes == classes
    assert len(found.images) == len(names)
    for image in found.images:
        assert found.classes[image.label] in image.name.rsplit("/", 1)[-1] + "/" + image.name.rsplit("/", 1)[0]


def test_a_folder_below_both_classes_is_refused(tmp_path: Path) -> None:
    root = _put(tmp_path / "set", *_each("cats", 3), *_each("dogs/cats", 3), *_each("birds", 3))
    assert _refused(Wanted(pair=("cats", "dogs")), root) == (
        "set: dogs/cats/0.jpg is below both cats and dogs; move it, or give other --classes"
    )


def test_sources_together(tmp_path: Path) -> None:
    for part, label in (("pets-001", "cats"), ("pets-002", "dogs")):
        with zipfile.ZipFile(tmp_path / f"{part}.zip", "w") as archive:
            for k in range(3):
                archive.writestr(f"pets/{label}/IMG_{k}.jpg", JPEG + f"{part}{k}".encode())
    parts = [str(tmp_path / f"pets-00{k}.zip") for k in (1, 2)]
    assert survey(parts, tmp_path).layout.classes == ("cats", "dogs")
    flat = [tmp_path / "flat-1.zip", tmp_path / "flat-2.zip"]
    for path in flat:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("IMG_1.jpg", JPEG + path.name.encode())
    assert "flat-1 (1), flat-2 (1)" in _refused(None, *flat)
    for name in ("cats.zip", "dogs.zip"):
        flat[0].rename(tmp_path / name) if name == "cats.zip" else flat[1].rename(tmp_path / name)
    assert survey([str(tmp_path / "cats.zip"), str(tmp_path / "dogs.zip")], tmp_path).layout.classes == ("cats", "dogs")


def test_a_class_called_like_a_split(tmp_path: Path) -> None:
    root = _put(tmp_path / "u", *(f"{split}/{kind}/{k}.jpg" for split in ("train", "val") for kind in ("bus", "train") for k in range(3)))
    assert "if train is a class, add --positive train" in _refused(None, root)
    for wanted in (Wanted(positive="train"), Wanted(pair=("bus", "train"))):
        found = survey([str(root)], tmp_path, wanted=wanted)
        assert found.lines() == [
            "classes: 6 bus and 6 train (by the names of folders); positive class: train",
            "splits: 6 train (folder train), 6 validation (folder val)",
        ]
    assert len(survey([str(root)], tmp_path, wanted=Wanted(model=("bus", "train"))).layout.images) == 12


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ("extra/cats", "the folder extra stands beside the split test and cannot be read as a split"),
        ("trainval/dogs", "the folder trainval stands beside the split test and cannot be read as a split"),
    ],
)
def test_a_folder_beside_a_split_is_never_merged_into_train(extra: str, line: str, tmp_path: Path) -> None:
    splits = [name for split in ("train", "test") for kind in ("cats", "dogs") for name in _each(f"{split}/{kind}", 3)]
    root = _put(tmp_path / "set", *splits, *_each(extra, 3))
    assert _refused(None, root) == f"set: {line}; rename it to train, validation or test, or move it away"


def test_class_folders_beside_a_test_folder_are_no_splits(tmp_path: Path) -> None:
    root = _put(tmp_path / "set", *_each("cats", 3), *_each("dogs", 3), *_each("test/cats", 2), *_each("test/dogs", 2))
    assert survey([str(root)], tmp_path).lines() == [
        "classes: 5 cats and 5 dogs (by the names of folders); positive class: dogs",
        "splits: 4 test (folder test), 6 in none",
    ]


def _cli(*argv: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in argv])
    return int(str(left.value.code))


def test_a_dry_run_says_it_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets = draw_pets(tmp_path / "pets", 8)
    assert _cli("prepare", pets, "--dry-run", "--test", "0.2") == 0
    assert capsys.readouterr().out.splitlines() == [
        "classes: 8 cats and 8 dogs (by the names of folders); positive class: dogs",
        "validation: 10% of the training images of each class, by a hash of their content",
        "test: 20% of the training images of each class, by a hash of their content",
    ]
    assert _cli("prepare", pets, "--dry-run", "--out", tmp_path / "out", "--classes", "cats") == 2
    assert capsys.readouterr().err == "twofold: --classes: cats are not two classes; name two, as in --classes cats,dogs\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets"]


def test_a_prepare_that_is_refused_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_image(tmp_path / "pets" / "cats" / "1.png", 1)
    assert _cli("prepare", tmp_path / "pets", "--out", tmp_path / "out") == 2
    assert "1 class found instead of two: cats (1)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_left_to_train_on_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets = draw_pets(tmp_path / "pets" / "test", 4).parent
    assert _cli("prepare", pets, "--dry-run") == 2
    assert "no image is left to train on (test: folder test); add some, or give that folder itself" in capsys.readouterr().err


def test_a_zip_is_told_by_its_directory(tmp_path: Path) -> None:
    path, time_of_change = tmp_path / "a.zip", time.time() - 1000

    def pack(content: bytes) -> str:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(zipfile.ZipInfo("cats/1.jpg"), content)
        os.utime(path, (time_of_change, time_of_change))
        return contents(str(path))

    before = pack(b"one")
    assert pack(b"two") != before  # of the same size and time
    assert pack(b"one") == before
    os.utime(path)  # copied without its time
    assert contents(str(path)) == before


def test_a_tar_that_changes_within_its_size_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"

    def pack(content: bytes) -> str:
        with tarfile.open(path, "w") as archive:
            member = tarfile.TarInfo("cats/1.jpg")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        return contents(str(path))

    before, size = pack(b"one"), path.stat().st_size
    assert pack(b"two!") != before
    assert path.stat().st_size == size


def test_sources_of_one_name_are_told_apart_by_the_folders_above(tmp_path: Path) -> None:
    for split in ("train", "test"):
        _put(tmp_path / split / "images", *_each("cats", 3), *_each("dogs", 3))
    found = survey([str(tmp_path / split / "images") for split in ("train", "test")], tmp_path)
    assert found.lines()[1] == "splits: 6 train (folder train), 6 test (folder test)"


def test_options_of_other_sources_are_named(tmp_path: Path) -> None:
    root = _put(tmp_path / "pets", *_each("cats", 3), *_each("dogs", 3))
    reading = Reading(path_column="a", label_column="b", zip_encoding="gbk")
    line = "note: without effect here: --path-column, --label-column, --zip-encoding"
    assert line in survey([str(root)], tmp_path, reading=reading).lines()
    with zipfile.ZipFile(root / "more.zip", "w") as archive:
        archive.writestr("cats/9.jpg", JPEG)
    assert line.removesuffix(", --zip-encoding") in survey([str(root)], tmp_path, reading=reading).lines()


def test_the_commonest_reason_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets = draw_pets(tmp_path / "pets", 4)
    for k in range(3):
        (pets / "cats" / f"{k}.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert _cli("prepare", pets, "--out", tmp_path / "out") == 2
    assert (
        "lists 3 of 11 images that cannot be read (it is a Git LFS pointer, not the image: run git lfs pull), more"
        in capsys.readouterr().err
    )


def test_names_with_a_beginning_like_a_split_s_are_never_learnt_from_unasked(tmp_path: Path) -> None:
    daten = _put(tmp_path / "a", *(n for s in ("Trainingsdaten", "Testdaten") for c in ("Hund", "Katze") for n in _each(f"{s}/{c}", 3)))
    assert survey([str(daten)], tmp_path).lines()[1] == "splits: 6 train (folder Trainingsdaten), 6 test (folder Testdaten)"
    other = _put(tmp_path / "b", *(n for s in ("Lernfotos", "Testfotografien") for c in ("Hund", "Katze") for n in _each(f"{s}/{c}", 3)))
    assert "the folder Testfotografien looks like a split" in _refused(Wanted(pair=("Hund", "Katze")), other)


def test_a_csv_beside_a_folder_of_images_is_pointed_at(tmp_path: Path) -> None:
    root = _put(tmp_path / "c", *_each("images", 5, ".JPG"))
    (root / "labels.csv").write_text("path,label")
    assert "1 class found instead of two: images (5); if labels.csv lists the classes, give that file" in _refused(None, root)


def test_a_source_given_by_a_dot_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _put(tmp_path, *_each("cats", 3), *_each("dogs", 3))
    monkeypatch.chdir(tmp_path / "cats")
    assert survey([".", "../dogs"], tmp_path).layout.classes == ("cats", "dogs")


def test_data_given_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli("train", "--data", "a", "--data=b", "--out", "run") == 2
    assert capsys.readouterr().err.startswith("twofold: --data: is given twice; prepare several sources together: twofold prepare A B")
