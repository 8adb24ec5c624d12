"""Classes and splits, read off the names in a source."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.data.class_names import same_class
from job.data.labels import Wanted
from job.data.layout import Layout, find
from job.data.sources import Entry
from job.data.splits import split_of
from job.errors import UserError


def _find(*names: str, positive: str = "", classes: tuple[str, str] | None = None) -> Layout:
    return find([Entry(name) for name in names], "pets", Wanted(positive=positive, model=classes))


def _refused(*names: str, positive: str = "", classes: tuple[str, str] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        _find(*names, positive=positive, classes=classes)
    assert caught.value.code == 2
    return str(caught.value)


def _facts(found: Layout) -> dict[str, tuple[str, str | None]]:
    return {p.name: (found.classes[p.label], p.split) for p in found.images}


@pytest.mark.parametrize(
    ("names", "classes", "facts"),
    [
        (["cats/x.jpg", "dogs/y.jpg"], ("cats", "dogs"), {"cats/x.jpg": ("cats", None), "dogs/y.jpg": ("dogs", None)}),
        (
            ["train/cats/x.jpg", "train/dogs/x.jpg", "test/cats/y.jpg"],
            ("cats", "dogs"),
            {"train/cats/x.jpg": ("cats", "train"), "train/dogs/x.jpg": ("dogs", "train"), "test/cats/y.jpg": ("cats", "test")},
        ),
        (
            ["PetImages/Cat/1.jpg", "PetImages/Dog/1.jpg"],
            ("Cat", "Dog"),
            {"PetImages/Cat/1.jpg": ("Cat", None), "PetImages/Dog/1.jpg": ("Dog", None)},
        ),
        (["cat.0.jpg", "dog.0.jpg"], ("cat", "dog"), {"cat.0.jpg": ("cat", None), "dog.0.jpg": ("dog", None)}),
        (["cat (1).jpg", "dog (2).jpg"], ("cat", "dog"), {"cat (1).jpg": ("cat", None), "dog (2).jpg": ("dog", None)}),
        (["pics/cat_0.jpg", "pics/dog_0.jpg"], ("cat", "dog"), {"pics/cat_0.jpg": ("cat", None), "pics/dog_0.jpg": ("dog", None)}),
        (
            ["training_set/training_set/cats/1.jpg", "training_set/training_set/dogs/1.jpg", "test_set/test_set/dogs/2.jpg"],
            ("cats", "dogs"),
            {
                "training_set/training_set/cats/1.jpg": ("cats", "train"),
                "training_set/training_set/dogs/1.jpg": ("dogs", "train"),
                "test_set/test_set/dogs/2.jpg": ("dogs", "test"),
            },
        ),
        (
            ["train.zip/train/cat.0.jpg", "train.zip/train/dog.0.jpg"],
            ("cat", "dog"),
            {"train.zip/train/cat.0.jpg": ("cat", "train"), "train.zip/train/dog.0.jpg": ("dog", "train")},
        ),
        (
            ["cats.zip/1.jpg", "dogs.tar.gz/1.jpg"],
            ("cats", "dogs"),
            {"cats.zip/1.jpg": ("cats", None), "dogs.tar.gz/1.jpg": ("dogs", None)},
        ),
        (
            ["cats/persian/1.jpg", "cats/siamese/1.jpg", "dogs/poodle/1.jpg"],
            ("cats", "dogs"),
            {"cats/persian/1.jpg": ("cats", None), "cats/siamese/1.jpg": ("cats", None), "dogs/poodle/1.jpg": ("dogs", None)},
        ),
        (
            ["a/Cats/1.jpg", "a/Cats/2.jpg", "b/cat/1.jpg", "b/DOG/1.jpg"],
            ("Cats", "DOG"),
            {"a/Cats/1.jpg": ("Cats", None), "a/Cats/2.jpg": ("Cats", None), "b/cat/1.jpg": ("Cats", None), "b/DOG/1.jpg": ("DOG", None)},
        ),
    ],
)
def test_layouts(names: list[str], classes: tuple[str, str], facts: dict[str, tuple[str, str | None]]) -> None:
    if names[0].startswith("a/"):  # folders a and b are two as well, so the user says which
        found = _find(*names, positive="dog")
    else:
        found = _find(*names)
    assert found.classes == classes
    assert _facts(found) == facts
    assert found.unlabelled == []


def test_kaggle_s_competition_has_an_unlabelled_test_folder() -> None:
    found = _find("train/cat.0.jpg", "train/dog.0.jpg", "test1/1.jpg", "test1/2.jpg")
    assert _facts(found) == {"train/cat.0.jpg": ("cat", "train"), "train/dog.0.jpg": ("dog", "train")}
    assert found.unlabelled == ["test1/1.jpg", "test1/2.jpg"]


def test_unlabelled_test_images_beside_class_folders() -> None:
    found = _find("train/cats/1.jpg", "train/dogs/1.jpg", "test/1.jpg")
    assert found.unlabelled == ["test/1.jpg"]
    assert len(found.images) == 2


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("training_set", "train"),
        ("train-set", "train"),
        ("val", "validation"),
        ("valid", "validation"),
        ("validation", "validation"),
        ("validation_set", "validation"),
        ("Test", "test"),
        ("test1", "test"),
        ("testing", "test"),
        ("test_set", "test"),
        ("trains", None),
        ("contest", None),
        ("values", None),
        ("tester", None),
        ("valley", None),
    ],
)
def test_split_names(name: str, split: str | None) -> None:
    assert split_of(name) == split
    found = _find(f"{name}/cats/1.jpg", f"{name}/dogs/1.jpg")
    assert {p.split for p in found.images} == {split}
    assert found.classes == ("cats", "dogs")


def test_one_three_and_no_classes() -> None:
    fix = "; put each class's images in a folder of its own, two in all"
    several = "; name the two that you want with --classes A,B, or" + fix[1:]
    assert _refused("cats/1.jpg", "cats/2.jpg") == "pets: 1 class found instead of two: cats (2)" + fix
    three = _refused("birds/1.jpg", "cats/1.jpg", "cats/2.jpg", "dogs/1.jpg")
    assert three == "pets: 3 classes found instead of two: birds (1), cats (2), dogs (1)" + several
    assert _refused("1.jpg", "2.jpg") == "pets: no classes found instead of two" + fix
    assert _refused("train/1.jpg", "test/2.jpg") == "pets: no classes found instead of two" + fix
    many = _refused(*(f"kind{chr(97 + k)}/1.jpg" for k in range(12)))
    assert "12 classes found instead of two: kinda (1)" in many
    assert ", ...;" in many


def test_empty() -> None:
    assert _refused() == "pets: no image found; give folders, one for each class, with JPEG, PNG or WebP files"


def test_positive_swaps_and_must_be_there() -> None:
    names = ("cats/1.jpg", "dogs/1.jpg")
    swapped = _find(*names, positive="Cat")
    assert swapped.classes == ("dogs", "cats")
    assert [p.label for p in swapped.images] == [1, 0]
    assert _refused(*names, positive="bird") == "--positive: 'bird' is not among the classes cats (1), dogs (1); name one of them"


def test_two_levels_that_could_be_the_classes_need_positive() -> None:
    names = ("setA/cats/1.jpg", "setA/dogs/1.jpg", "setB/cats/1.jpg", "setB/dogs/1.jpg")
    assert _refused(*names) == "pets: the classes could be setA and setB or cats and dogs; name the two with --classes"
    assert _find(*names, positive="dogs").classes == ("cats", "dogs")
    assert _find(*names, positive="setA").classes == ("setB", "setA")


def test_the_level_that_labels_nearly_all_images_holds_the_classes() -> None:
    names = [f"{kind}/{k}.jpg" for kind in ("cats", "dogs") for k in range(20)]
    names += [f"{folder}/{k}.jpg" for folder in ("cats/edited shots", "dogs/unedited") for k in range(3)]
    assert _find(*names).classes == ("cats", "dogs")
    assert _find(*names, "logo.jpg").others == ["logo.jpg"]
    line = _refused(*names, *(f"misc{k}.jpg" for k in range(4)))
    assert line.startswith("pets: the classes cannot be told: cats (23), dogs (23) in the names of folders label 46 of 50 images")


def test_two_names_for_one_division_are_a_question() -> None:
    names = [f"{folder}/{k}.jpg" for folder in ("first/cats", "second/dogs") for k in range(3)]
    line = "pets: the classes could be first and second or cats and dogs; name the two with --classes"
    assert _refused(*names) == line
    assert _find(*names, positive="cat").classes == ("dogs", "cats")


def test_a_model_s_classes_are_matched_and_others_refused() -> None:
    model = ("cat", "dog")
    found = _find("Dogs/1.jpg", "Cats/1.jpg", classes=model)
    assert found.classes == model
    assert [p.label for p in found.images] == [1, 0]
    assert [p.label for p in _find("cats/1.jpg", "cats/2.jpg", classes=("dog", "cat")).images] == [1, 1]
    line = "pets: its classes are birds (1), cats (1), the model knows cat and dog; give images of these two classes"
    assert _refused("birds/1.jpg", "cats/1.jpg", classes=model) == line
    assert "its classes are not to be seen" in _refused("1.jpg", classes=model)


def test_a_model_s_class_is_found_among_other_folders() -> None:
    found = _find("shelter/cats/persian/1.jpg", "shelter/cats/siamese/1.jpg", classes=("cat", "dog"))
    assert [p.label for p in found.images] == [0, 0]


def test_a_model_s_class_is_found_in_file_names_in_any_folder() -> None:
    found = _find("inbox/cat.1.jpg", "outbox/cat.2.jpg", classes=("cat", "dog"))
    assert [p.label for p in found.images] == [0, 0]
    line = _refused("a/ox/1.jpg", "b/hen/1.jpg", classes=("cat", "dog"))
    assert "the model knows cat and dog" in line
    assert "--positive" not in line


def test_a_csv_s_labels_and_splits_win_over_folders() -> None:
    entries = [Entry("x/cats/1.jpg", "Dog", "valid"), Entry("x/dogs/1.jpg", "cat"), Entry("train/2.jpg", "cats")]
    found = find(entries, "list.csv")
    assert _facts(found) == {"x/cats/1.jpg": ("Dog", "validation"), "x/dogs/1.jpg": ("cat", None), "train/2.jpg": ("cat", "train")}
    with pytest.raises(UserError, match=r"list\.csv: 1\.jpg has the unknown split 'blue'; use train, validation or test"):
        find([Entry("1.jpg", "cat", "blue"), Entry("2.jpg", "dog")], "list.csv")


def test_class_names_compare_without_case_and_a_final_s() -> None:
    assert same_class(" Cats ") == same_class("cat") == "cat"
    assert same_class("s") == "s"
    assert same_class("cat") != same_class("bat")


_WORDS = st.sampled_from(["cat", "dog", "ring", "cross", "apple", "pear", "Zebra", "ox"])


@settings(deadline=None, max_examples=100)
@given(
    st.lists(_WORDS, min_size=2, max_size=2, unique=True),
    st.lists(st.sampled_from(["photos", "train", "PetImages"]), max_size=2),
    st.data(),
)
def test_the_positive_class_does_not_depend_on_order_or_depth(pair: list[str], above: list[str], data: st.DataObject) -> None:
    names = ["/".join([*above, word, f"{k}.jpg"]) for word in pair for k in range(3)]
    found = _find(*data.draw(st.permutations(names)))
    assert found.classes == tuple(sorted(pair, key=str.lower))
    assert all(f"/{found.classes[p.label]}/" in f"/{p.name}" for p in found.images)
    assert {p.split for p in found.images} == {"train" if "train" in above else None}


def _each(folder: str, count: int = 10, name: str = "{}.jpg") -> list[str]:
    return [f"{folder}/{name.format(k)}" for k in range(count)]


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ([*_each("PetImages/Cat"), *_each("PetImages/Dog"), *_each("later", 3)], "the classes could be PetImages and later or cat and dog"),
        (
            [*_each("PetImages", 10, "cat.{}.jpg"), *_each("PetImages", 10, "dog.{}.jpg"), *_each("later", 3)],
            "could be PetImages and later",
        ),
        (
            [n for h in ("h_east", "h_west") for kind in ("flu", "well", "lungs") for n in _each(f"{h}/{kind}")],
            "could be h_east and h_west or",
        ),
        ([*_each("sick/images"), *_each("sick/masks"), *_each("well/images")], "the folder masks does not look like one of photographs"),
        ([*_each("CXR_png"), *_each("masks")], "the classes cannot be told: CXR_png (10), masks (10)"),
        (
            [*_each("train/cats"), *_each("train/dogs"), *_each("train_masks/cats"), *_each("train_masks/dogs")],
            "the folder train_masks does",
        ),
        ([*_each("cats/100EOS5D"), *_each("cats/101EOS5D")], "1 class found instead of two: cats (20)"),
        ([*_each("cats/May 2023"), *_each("cats/June 2023")], "1 class found instead of two: cats (20)"),
        ([*_each("Photos Part 1 of 2"), *_each("Photos Part 2 of 2")], "the classes cannot be told"),
        (["cats/hot dog 1.jpg", "cats/hot_dog 2.jpg"], "1 class found instead of two"),
        (
            [*_each("test_tube"), *_each("beaker"), *_each("flask")],
            "3 classes found instead of two: beaker (10), flask (10), test_tube (10)",
        ),
        (["train/with_mask/1.jpg", "train/no_mask/1.jpg", "test/with mask/2.jpg", "test/no mask/2.jpg"], "4 classes found instead of two"),
        (
            [*_each("cats", 5, "train_{}.jpg"), *_each("dogs", 5, "test_{}.jpg")],
            "the files' names begin with the names of splits (test, train)",
        ),
        ([*_each("valid", 1), *_each("expired"), *_each("fake")], "the split validation (folder valid) holds 1 image without a class"),
        ([*_each("vaild/cats"), *_each("vaild/dogs"), *_each("more/cats"), *_each("more/dogs")], "the folder vaild looks like a split"),
    ],
)
def test_what_may_be_something_else_is_refused(names: list[str], line: str) -> None:
    assert line in _refused(*names)


@pytest.mark.parametrize(
    ("names", "classes", "splits"),
    [
        ([*_each("mask/mask"), *_each("mask/no_mask")], ("mask", "no_mask"), {None}),
        ([*_each("cats/persian"), *_each("cats/siamese"), *_each("dogs/poodle"), *_each("dogs/beagle")], ("cats", "dogs"), {None}),
        (
            [*_each("treino/cats"), *_each("treino/dogs"), *_each("validação/cats"), *_each("validação/dogs")],
            ("cats", "dogs"),
            {"train", "validation"},
        ),
        ([*_each("训练集/猫"), *_each("训练集/狗"), *_each("测试集/猫"), *_each("测试集/狗")], ("狗", "猫"), {"train", "test"}),
        ([*_each("test_tube"), *_each("beaker")], ("beaker", "test_tube"), {None}),
        (
            [n for kind in ("benign", "malignant") for zoom in ("100X", "40X") for n in _each(f"{kind}/{zoom}")],
            ("benign", "malignant"),
            {None},
        ),
        (
            [*_each("-".join("abcdefghijkl").replace("-", "/") + "/cats"), *_each("-".join("abcdefghijkl").replace("-", "/") + "/dogs")],
            ("cats", "dogs"),
            {None},
        ),
    ],
)
def test_what_is_plain_is_read(names: list[str], classes: tuple[str, str], splits: set[str | None]) -> None:
    found = _find(*names)
    assert found.classes == classes
    assert {image.split for image in found.images} == splits
    assert len(found.images) == len(names)
    for image in found.images:
        assert f"/{found.classes[image.label]}/" in f"/{image.name}"


def test_folders_that_mean_nothing_are_named() -> None:
    found = _find(
        *(name for part in ("learn", "check") for kind in ("cats", "dogs", "cats/old ones") for name in _each(f"{part}/{kind}")),
        positive="dog",
    )
    assert found.folders == "learn (30), check (30), old ones (20)"


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["cats/cats/1.jpg", "cats/dogs/1.jpg"], [0, 1]),
        (["dogs/train/cat/1.jpg", "dogs/train/dog/1.jpg"], [0, 1]),
        (["train/dogs/1.jpg", "train/dogs/2.jpg", "test/cats/1.jpg"], [1, 1, 0]),
    ],
)
def test_a_model_s_classes_are_looked_for_at_the_level_that_has_both(names: list[str], labels: list[int]) -> None:
    assert [image.label for image in _find(*names, classes=("cat", "dog")).images] == labels


def test_a_model_s_classes_in_folders_and_in_files_must_agree() -> None:
    line = _refused("dogs/cat.0.jpg", "dogs/dog.0.jpg", "dogs/cat.1.jpg", classes=("cat", "dog"))
    assert line == "pets: its folders and its files are named after different classes; sort them by one of the two"
