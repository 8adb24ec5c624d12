"""CSV files as people have them: what their columns mean, which files they name, what is refused and in which words."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from job.config.schema import Reading
from job.data.sources import Entry, Listing, open_source, table_files
from job.data.sources.table import Table
from job.data.splits import split_of
from job.errors import UserError

NAMES = [(f"{kind}{number}", kind) for kind in ("cat", "dog") for number in range(10)]


def _put(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _images(folder: Path, *names: str) -> None:
    for name in names:
        _put(folder / name, name.encode())


def _csv(folder: Path, text: str, name: str = "list.csv", encoding: str = "utf-8") -> Path:
    return _put(folder / name, text.encode(encoding))


def _table(path: Path, labels: bool = True, path_column: str = "", label_column: str = "") -> Table:
    return Table(path, Reading(path_column=path_column, label_column=label_column), labels)


def _listing(path: Path, labels: bool = True, path_column: str = "", label_column: str = "") -> Listing:
    """What a CSV lists; that it is also what it reads is checked."""
    table = _table(path, labels, path_column, label_column)
    listing = table.listing
    there = [entry.name for entry in listing.entries if not entry.fault]
    assert [name for name, _ in table.read()] == there
    assert table.files() == [path, *(path.parent / name for name in there)]
    assert len({entry.name for entry in listing.entries}) == len(listing.entries)
    return listing


def _refused(path: Path, labels: bool = True, path_column: str = "", label_column: str = "") -> str:
    """The one line that listing a CSV ends with."""
    with pytest.raises(UserError) as caught:
        _table(path, labels, path_column, label_column).listing  # noqa: B018
    line = str(caught.value)
    assert "\n" not in line
    return line.removeprefix(str(path))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    _images(tmp_path, *(f"images/{name}.jpg" for name, _ in NAMES))
    return tmp_path


def _is_held_back(name: str) -> bool:
    return name.endswith("9")


# For each shape its header, then a row by a name and its class.
SHAPES = {
    "datasets": ("file_name,label", "images/{0}.jpg,{1}"),
    "ids": ("id,label", "{0},{1}"),
    "plural names": ("class index,filepaths,labels,data set", "{2},images/{0}.jpg,{1},{3}"),
    "semicolons": ("path;label", "images/{0}.jpg;{1}"),
    "semicolons and decimal commas": ("path;label;weight", "images/{0}.jpg;{1};0,5"),
    "semicolons and more commas": ("path;label;left, top, right, bottom", "images/{0}.jpg;{1};0,5,10,15"),
    "semicolons and a comma in the header": ("path;label;x,y,z", "images/{0}.jpg;{1};7"),
    "tabs": ("path\tlabel", "images/{0}.jpg\t{1}"),
    "one-hot": ("filename, cat, dog", "images/{0}.jpg, {4}, {2}"),
    "one-hot in decimals": ("filename,cat,dog", "images/{0}.jpg,{4}.0,{2}.0"),
    "backslashes": ("path,label", "images\\{0}.jpg,{1}"),
    "an index": (",path,label", "0,images/{0}.jpg,{1}"),
    "no endings": ("path,label", "images/{0},{1}"),
    "base names": ("path,label", "{0}.jpg,{1}"),
    "absolute paths": ("path,label", "{5}/images/{0}.jpg,{1}"),
    "absolute paths of another machine": ("path,label", "/home/ann/pets/images/{0}.jpg,{1}"),
    "absolute paths of Windows": ("path,label", "C:\\Users\\Ann\\images\\{0}.jpg,{1}"),
    "paths from a folder above": ("path,label", "pets/images/{0}.jpg,{1}"),
    "dots": ("path,label", "./images/{0}.jpg,{1}"),
    "a way round": ("path,label", "images/../images/{0}.jpg,{1}"),
    "a set": ("path,label,set", "images/{0}.jpg,{1},{3}"),
    "blank rows": ("path,label", "images/{0}.jpg,{1}\n,\n\n , "),
    "blank rows above": ("\n , \npath,label", "images/{0}.jpg,{1}"),
    "paths from the root": ("path,label", "/images/{0}.jpg,{1}"),
    "other case": ("path,label", "Images/{0}.JPG,{1}"),
    "quotes and spaces": ('"path", "label"', '"images/{0}.jpg", "{1}"'),
    "a delimiter told to Excel": ("sep=;\npath;label", "images/{0}.jpg;{1}"),
    "a row that ends in delimiters": ("path,label", "images/{0}.jpg,{1},,"),
    "old line ends": ("path,label", "images/{0}.jpg,{1}\r"),
}


def _shape(folder: Path, header: str, row: str) -> str:
    rows = [
        row.format(name, kind, int(kind == "dog"), "test" if _is_held_back(name) else "train", int(kind == "cat"), folder)
        for name, kind in NAMES
    ]
    return "\n".join([header, *rows]) + "\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: str, encoding: str, pets: Path) -> None:
    text = _shape(pets, *SHAPES[shape])
    path = _csv(pets, "\ufeff" + text if encoding == "utf-16-le" else text, encoding=encoding)
    splits = "set" in SHAPES[shape][0]
    wanted = [Entry(f"images/{name}.jpg", kind, ("test" if _is_held_back(name) else "train") if splits else None) for name, kind in NAMES]
    listing = _listing(path)
    assert listing.entries == wanted
    assert bool(listing.splits) is splits


def test_decimals_of_pandas_are_whole_numbers(pets: Path) -> None:
    rows = "".join(f"images/{name}.jpg,{float(kind == 'dog')}\n" for name, kind in NAMES)
    assert Counter(entry.label for entry in _listing(_csv(pets, "path,label\n" + rows)).entries) == {"0": 10, "1": 10}


def test_what_is_said(pets: Path) -> None:
    text = "Path,Label,split,age,sex\nimages/cat0.jpg,cat,train,3,\n images/dog0.jpg , dog ,,4,m\nimages/dog1.jpg,dog,test,,f\n"
    listing = _listing(_csv(pets, text))
    assert listing.entries == [
        Entry("images/cat0.jpg", "cat", "train"),
        Entry("images/dog0.jpg", "dog", None),
        Entry("images/dog1.jpg", "dog", "test"),
    ]
    assert (listing.labels, listing.splits) == ("column Label of list.csv", "column split of list.csv")
    assert listing.notes == ("columns not used: age, sex",)


def test_what_is_said_of_one_hot_and_of_flags(pets: Path) -> None:
    listing = _listing(_csv(pets, "path,cat,dog,is_valid,is_test\nimages/cat0.jpg,1,0,False,True\nimages/dog0.jpg,0,1,False,False\n"))
    assert (listing.labels, listing.splits) == ("columns cat and dog of list.csv", "columns is_valid and is_test of list.csv")
    assert listing.notes == ()


def test_many_columns_that_are_not_used(pets: Path) -> None:
    more = [f"c{number}" for number in range(13)]
    listing = _listing(_csv(pets, f"path,label,{','.join(more)}\nimages/cat0.jpg,cat\n"))
    assert listing.notes == (f"columns not used: {', '.join(more[:10])} and 3 more",)


@pytest.mark.parametrize(
    ("path", "note"),
    [
        ("images/{}.jpg", None),
        ("images\\{}.jpg", "paths found with backslashes read as slashes: 20"),
        ("images/{}", "paths found with an ending added: 20"),
        ("Images/{}.jpg", "paths found by another spelling (upper and lower case, accents): 20"),
        ("{}.jpg", "paths found by file name alone: 20"),
    ],
)
def test_how_paths_were_found_is_said(path: str, note: str | None, pets: Path) -> None:
    listing = _listing(_csv(pets, "path,label\n" + "".join(f"{path.format(name)},{kind}\n" for name, kind in NAMES)))
    assert listing.notes == ((note,) if note else ())


def test_a_path_from_the_root_is_found_by_its_name(tmp_path: Path) -> None:
    _images(tmp_path, "a.jpg")
    listing = _listing(_csv(tmp_path, "path,label\n/a.jpg,cat\n"))
    assert (listing.entries, listing.notes) == ([Entry("a.jpg", "cat")], ("paths found by file name alone: 1",))


@pytest.mark.parametrize("name", ["path", "File Paths", "FILE", "file_name", "image-path", "Image", "image_id", "ID", "'Name'"])
def test_names_of_the_column_of_paths(name: str, pets: Path) -> None:
    assert _listing(_csv(pets, f"{name},label\nimages/cat0.jpg,cat\n")).entries == [Entry("images/cat0.jpg", "cat")]


@pytest.mark.parametrize("header", ["id,filename", "name,image_path", "name,id", "image,path", "image_id,img"])
def test_the_foremost_name_is_the_column_of_paths(header: str, pets: Path) -> None:
    assert _listing(_csv(pets, f"{header},label\nnothing,images/cat0.jpg,cat\n")).entries == [Entry("images/cat0.jpg", "cat")]


@pytest.mark.parametrize("name", ["label", "LABELS", "class", "Class_Name", "class name", "target", "categories", "y", "dx", "Diagnosis"])
def test_names_of_the_column_of_labels(name: str, pets: Path) -> None:
    listing = _listing(_csv(pets, f"path,{name}\nimages/cat0.jpg,cat\n"))
    assert listing.entries == [Entry("images/cat0.jpg", "cat")]
    assert listing.labels == f"column {name} of list.csv"


def test_columns_that_the_user_names(pets: Path) -> None:
    path = _csv(pets, "path,label,Bild Datei,Art\nx,y,images/cat0.jpg,cat\n")
    assert _listing(path, path_column="bild_datei", label_column="art").entries == [Entry("images/cat0.jpg", "cat")]
    what = f"is not a column of {path} (its columns: path, label, Bild Datei, Art)"
    assert _refused(path, path_column="Bild Dateien") == f"--path-column: 'Bild Dateien' {what}; did you mean Bild Datei?"
    assert _refused(path, label_column="species") == f"--label-column: 'species' {what}; name one of them"


def test_the_delimiter_is_found_by_the_columns_that_the_user_names(pets: Path) -> None:
    path = _csv(pets, "Bild;Art;left, top, right\nimages/cat0.jpg;cat;1,2,3\n")
    assert _listing(path, path_column="Bild", label_column="Art").entries == [Entry("images/cat0.jpg", "cat")]


def test_a_column_that_is_called_as_a_file_is(pets: Path) -> None:
    _put(pets / "raw")
    assert _listing(_csv(pets, "path,label,raw\nimages/cat0.jpg,cat,1\n")).entries == [Entry("images/cat0.jpg", "cat")]


def test_a_column_of_labels_that_is_called_as_splits_are(pets: Path) -> None:
    listing = _listing(_csv(pets, "path,set\nimages/cat0.jpg,train\nimages/dog0.jpg,other\n"), label_column="set")
    assert [(entry.label, entry.split) for entry in listing.entries] == [("train", None), ("other", None)]


def test_two_columns_of_labels(pets: Path) -> None:
    rows = [("cat0", "cat", "0", "x"), ("cat1", "cat", "1", "y"), ("dog0", "dog", "1", "z")]
    text = "path,label,target,class\n" + "".join(f"images/{name}.jpg,{','.join(rest)}\n" for name, *rest in rows)
    line = ": its labels could be label (2 values: cat, dog) or target (2 values: 0, 1); name one with --label-column"
    assert _refused(_csv(pets, text)) == line
    listing = _listing(_csv(pets, text), label_column="target")
    assert [entry.label for entry in listing.entries] == ["0", "1", "1"]
    same = _listing(_csv(pets, text.replace("cat,1,y", "cat,0.0,y")))  # one division in two words
    assert [entry.label for entry in same.entries] == ["cat", "cat", "dog"]
    assert same.notes == ("columns not used: target, class",)
    partly = _listing(_csv(pets, text.replace("cat,1,y", "cat,,y")))  # where only one has a label they agree
    assert [entry.label for entry in partly.entries] == ["cat", "cat", "dog"]


@pytest.mark.parametrize(
    ("header", "rows", "line"),
    [
        ("label,target", ("a,0", "b,0", "c,1"), "label (3 values: a, b, c) or target (2 values: 0, 1)"),
        ("label,category", ("cat,in", "cta,out", "dog,in"), "label (3 values: cat, cta, dog) or category (2 values: in, out)"),
        ("target,diagnosis", ("0,a", "1,b", "0,a", "1,a"), "target (2 values: 0, 1) or diagnosis (2 values: a, b)"),
        ("target,y", ("0,1", "1,0", "0,1"), "target (2 values: 0, 1) or y (2 values: 0, 1)"),
        ("class,diagnosis", ("a,x", "a,y", "a,x"), "class (1 value: a) or diagnosis (2 values: x, y)"),
        ("y,label,category", ("0,Cat,in", "0,cats,out", "1,dog,in"), "label (2 values: cat, dog) or category (2 values: in, out)"),
    ],
)
def test_columns_of_which_each_could_be_the_labels(header: str, rows: Sequence[str], line: str, pets: Path) -> None:
    text = f"path,{header}\n" + "".join(f"images/cat{number}.jpg,{row}\n" for number, row in enumerate(rows))
    assert _refused(_csv(pets, text)) == f": its labels could be {line}; name one with --label-column"


@pytest.mark.parametrize(("rows", "count"), [(("cat,in", "dog,in", "cat,out"), 2), (("a,a", "b,c", "c,b"), 3)])
def test_two_columns_of_labels_of_one_name(rows: Sequence[str], count: int, pets: Path) -> None:
    text = "path,label,label\n" + "".join(f"images/cat{number}.jpg,{row}\n" for number, row in enumerate(rows))
    line = _refused(_csv(pets, text))
    assert line.startswith(f": its labels could be label (column 2) ({count} values: ")
    assert line.endswith("; rename one of them")


def test_spellings_of_two_classes(pets: Path) -> None:
    listing = _listing(_csv(pets, "path,label,y\nimages/cat0.jpg,Cat,1\nimages/cat1.jpg,cats,1\nimages/dog0.jpg,dog,0\n"))
    assert listing.labels == "column label of list.csv"
    assert [entry.label for entry in listing.entries] == ["Cat", "cats", "dog"]


@pytest.mark.parametrize("word", ["nan", "NaN", "NA", "n/a", "NULL", "None", "<NA>"])
def test_words_for_no_label(word: str, pets: Path) -> None:
    text = f"path,label,y,split\nimages/cat0.jpg,cat,{word},train\nimages/dog0.jpg,{word},1,test\n"
    assert [entry.label for entry in _listing(_csv(pets, text)).entries] == ["cat", None]
    start = f": has 1 row without a label ({word}), the first in line 3; complete or delete them;"
    assert _refused(_csv(pets, text.replace("test", "train"))).startswith(start)


@pytest.mark.parametrize(
    ("header", "rows", "line"),
    [
        ("animal,male,female", ("cat,1,0", "dog,1,0", "dog,0,1"), "the columns male and female, or animal (2 values: cat, dog)"),
        ("blurry,sharp,animal", ("1,0,cat", "0,1,dog", "0,1,cat"), "the columns blurry and sharp, or animal (2 values: cat, dog)"),
        ("animal,on,off", ("cat,1,0", "dog,1,0", "cow,0,1"), ""),
        ("animal,on,off", ("cat,1,0", "dog,1,0", "cow,0,1", "cow,1,0"), "the columns on and off, or animal (3 values: cat, cow, dog)"),
        ("age,on,off", ("1,1,0", "2,1,0", "3.5,0,1", "3.5,1,0"), ""),
        ("age,on,off", ("1,1,0", "2,1,0", "2,0,1"), "the columns on and off, or age (2 values: 1, 2)"),
        ("sex,cat,dog", ("f,1,0", ",1,0", "m,0,1"), ""),
    ],
)
def test_columns_of_bits_beside_one_that_could_be_the_labels(header: str, rows: Sequence[str], line: str, pets: Path) -> None:
    path = _csv(pets, f"path,{header}\n" + "".join(f"images/cat{number}.jpg,{row}\n" for number, row in enumerate(rows)))
    if line:
        assert _refused(path) == f": its labels could be {line}; name one with --label-column, or delete what is none"
    else:
        assert len(_listing(path).labels.split(" and ")) == 2


def test_flags_of_splits_are_not_one_hot(pets: Path) -> None:
    path = _csv(pets, "path,species,train,test\nimages/cat0.jpg,cat,1,0\nimages/dog0.jpg,dog,0,1\n")
    assert _refused(path).startswith(": has no known column of labels (its columns: path, species, train, test); name one")
    assert [entry.split for entry in _listing(path, label_column="species").entries] == ["train", "test"]


def test_names_of_columns_that_fit_two(pets: Path) -> None:
    path = _csv(pets, "path,my_label,mylabel,x,x\nimages/cat0.jpg,cat,a,1,2\n")
    assert [entry.label for entry in _listing(path, label_column="mylabel").entries] == ["a"]
    line = f"--label-column: 'My Label' could be the columns my_label and mylabel of {path}; write it as it stands there"
    assert _refused(path, label_column="My Label") == line
    line = f"--label-column: 'x' could be the columns x (column 4) and x (column 5) of {path}; rename one of them"
    assert _refused(path, label_column="x") == line


@pytest.mark.parametrize(
    ("header", "rows", "line"),
    [
        ("path,cat,dog,owl", ("1,0,0", "0,1,0"), "has no column of labels, but 3 columns of 0 and 1 instead of two: cat, dog, owl"),
        ("path,cat,dog", ("1,0", "1,1"), "has no column of labels, and not exactly one of cat and dog is 1 in line 3"),
        ("path,cat,dog", ("0,0", "0,1"), "has no column of labels, and not exactly one of cat and dog is 1 in line 2"),
        ("path,cat,dog", ("0,1", "1,2"), "has no known column of labels (its columns: path, cat, dog)"),
        ("path,has_cat", ("0", "1"), "has no known column of labels (its columns: path, has_cat)"),
    ],
)
def test_what_is_not_one_hot(header: str, rows: Sequence[str], line: str, pets: Path) -> None:
    text = "\n".join([header, *(f"images/cat{number}.jpg,{row}" for number, row in enumerate(rows))])
    assert _refused(_csv(pets, text)).startswith(f": {line}; name one with --label-column")


def test_one_hot_without_a_label_in_the_test_split(pets: Path) -> None:
    listing = _listing(_csv(pets, "path,cat,dog,split\nimages/cat0.jpg,TRUE,FALSE,train\nimages/dog0.jpg,,,test\n"))
    assert [entry.label for entry in listing.entries] == ["cat", None]


def test_one_hot_beside_flags_that_are_not_used(pets: Path) -> None:
    listing = _listing(_csv(pets, "path,cat,dog,split,is_test\nimages/cat0.jpg,1,0,train,0\nimages/dog0.jpg,0,1,test,1\n"))
    assert [(entry.label, entry.split) for entry in listing.entries] == [("cat", "train"), ("dog", "test")]


@pytest.mark.parametrize("name", [
    "split", "Splits", "set", "sets", "subset", "data set", "data_set", "partition", "phase", "Usage", "data_split", "dataset_split",
    "Data Split", "train_test", "train/test", "trainval", "split_name", "fold", "group", "stage", "mode", "type", "role", "dataset_type",
    "",
    "which", "name", "test", "eval_set",
])  # fmt: skip
def test_names_of_the_column_of_splits(name: str, pets: Path) -> None:
    listing = _listing(_csv(pets, f"path,label,{name}\nimages/cat0.jpg,cat,Training\nimages/dog0.jpg,dog,val\n"))
    assert [entry.split and split_of(entry.split) for entry in listing.entries] == ["train", "validation"]


@pytest.mark.parametrize(
    ("header", "values", "splits"),
    [
        ("is_valid", ("True", "False"), ("validation", "train")),
        ("isVal", ("1", "0.0"), ("validation", "train")),
        ("is_test", ("yes", ""), ("test", "train")),
        ("is_train", ("1", "0"), ("train", "test")),
        ("is_valid,is_test", ("1,0", "0,1", "0,0"), ("validation", "test", "train")),
        ("is_train,is_test", ("1,0", "0,1", "0,0"), ("train", "test", "validation")),
        ("is_train,is_valid", ("1,0", "0,1", "0,0"), ("train", "validation", "test")),
        ("is_train,is_valid,is_test", ("1,0,0", "0,1,0", "0,0,1"), ("train", "validation", "test")),
        ("split,is_test", ("train,0", "test,1", "val,0", ",1", ",0"), ("train", "test", "val", "test", "train")),
        ("split,is_test,Set", ("train,,TRAIN", ",,test"), ("train", "test")),
        ("test,is_test", ("1,yes", "0,no"), ("test", "train")),
        *(
            (name, ("1", "0"), ("train", "test"))
            for name in ("is_training", "train", "in_train", "istrainset", "train_flag", "Is Training")
        ),
        *((name, ("true", "no"), ("test", "train")) for name in ("test", "testing", "holdout", "for_test", "is_eval", "is_test_set")),
        *((name, ("1", "0"), ("validation", "train")) for name in ("val", "is_dev", "validation")),
    ],
)
def test_splits(header: str, values: Sequence[str], splits: Sequence[str], pets: Path) -> None:
    rows = [f"images/cat{number}.jpg,cat,{value}\n" for number, value in enumerate(values)]
    assert [entry.split for entry in _listing(_csv(pets, f"path,label,{header}\n{''.join(rows)}")).entries] == list(splits)


@pytest.mark.parametrize(
    ("header", "values", "line"),
    [
        ("split", ("train", "red"), ": column split has the unknown split 'red'; use train, validation or test"),
        ("split", ("red", "blue"), ": column split has the unknown split 'blue'; use train, validation or test"),
        ("Set", ("train", "red"), ": column Set has the unknown split 'red'; use train, validation or test"),
        ("is_valid", ("0", "maybe"), ": column is_valid has the value 'maybe'; use true or false"),
        ("in_test", ("0", "maybe"), ": column in_test has the value 'maybe'; use true or false"),
        ("train_test", ("train", "red"), ": column train_test has the unknown split 'red'; use train, validation or test"),
        ("is_valid,is_test", ("0,0", "1,1"), " line 3: is_valid and is_test say more than one split; set exactly one of them"),
        ("is_train,is_valid,is_test", ("0,0,0",), " line 2: is_train, is_valid and is_test say no split; set exactly one of them"),
    ],
)
def test_splits_that_nobody_can_read(header: str, values: Sequence[str], line: str, pets: Path) -> None:
    rows = [f"images/cat{number}.jpg,cat,{value}\n" for number, value in enumerate(values)]
    assert _refused(_csv(pets, f"path,label,{header}\n{''.join(rows)}")).startswith(line)


@pytest.mark.parametrize(
    ("header", "values", "line"),
    [
        ("split,Split", ("train,train", "train,test"), "columns split (train) and Split (test)"),
        ("set,split", ("train,train", "train,val"), "columns split (val) and set (train)"),
        ("split,split", ("train,train", "train,test"), "columns split (column 3) (train) and split (column 4) (test)"),
        ("split,is_test", ("train,0", "train,1"), "columns split (train) and is_test (1)"),
        ("split,is_test", ("test,1", "test,0"), "columns split (test) and is_test (0)"),
        ("type,stage", ("test,test", "train,test", "train,train"), "columns type (train) and stage (test)"),
        ("test,is_test", ("1,1", "1,0"), "columns test (1) and is_test (0)"),
    ],
)
def test_columns_of_splits_that_contradict_each_other(header: str, values: Sequence[str], line: str, pets: Path) -> None:
    rows = "".join(f"images/cat{number}.jpg,cat,{value}\n" for number, value in enumerate(values))
    path = _csv(pets, f"path,label,{header}\n{rows}")
    assert _refused(path).startswith(f" line 3: {line} contradict each other on the split; correct the row")
    assert len(_listing(path, labels=False).entries) == len(values)


@pytest.mark.parametrize("name", ["valid", "is_valid"])
def test_a_flag_that_more_likely_says_which_images_are_sound(name: str, pets: Path) -> None:
    rows = "".join(f"images/cat{number}.jpg,cat,{int(number > 0)}\n" for number in range(5))
    line = f": column {name} is true in 4 of 5 rows, many for a validation split; call it is_validation if it is meant so"
    assert _refused(_csv(pets, f"path,label,{name}\n{rows}")).startswith(line)
    listing = _listing(_csv(pets, f"path,label,is_validation\n{rows}"))
    assert [entry.split for entry in listing.entries] == ["train", *["validation"] * 4]


def test_a_split_that_nobody_can_read_far_below(pets: Path) -> None:
    rows = "".join(f"images/cat0.jpg,cat,train{number}\n" for number in range(70))
    line = _refused(_csv(pets, f"path,label,split\n{rows}images/cat1.jpg,cat,red\n"))
    assert line.startswith(" line 72: column split has the unknown split 'red'; use train")


@pytest.mark.parametrize("values", [("train", "red"), ("test", "A"), ("test", "test"), ("train", "train.jpg")])
def test_a_column_that_may_hold_splits_and_does_not(values: Sequence[str], pets: Path) -> None:
    rows = "".join(f"images/cat{number}.jpg,cat,{value}\n" for number, value in enumerate(values))
    listing = _listing(_csv(pets, f"path,label,stage\n{rows}"))
    assert [entry.split for entry in listing.entries] == [None, None]
    one, other = sorted(values, key=lambda value: split_of(value) is None or "." in value)
    told = f"column stage is not taken for splits: {one} reads as a split, {other} does not"
    assert listing.notes == (("columns not used: stage",) if one == other else ("columns not used: stage", told))


@pytest.mark.parametrize("name", ["invalid", "test_result", "train_label", "no_test", "weight", "id"])
def test_bits_that_are_not_flags_of_splits(name: str, pets: Path) -> None:
    listing = _listing(_csv(pets, f"path,label,{name}\nimages/cat0.jpg,cat,0\nimages/dog0.jpg,dog,1\n"))
    assert [entry.split for entry in listing.entries] == [None, None]


def test_names_of_images_are_not_splits(pets: Path) -> None:
    rows = "".join(f"images/{name}.jpg,{kind},{'test' if _is_held_back(name) else 'train'}_{name}\n" for name, kind in NAMES)
    listing = _listing(_csv(pets, f"path,label,name\n{rows}"))
    assert {entry.split for entry in listing.entries} == {None}
    assert listing.splits == ""


@pytest.mark.parametrize("name", ["set", "dataset", "usage", "phase"])
def test_a_column_that_is_only_called_as_splits_are(name: str, pets: Path) -> None:
    listing = _listing(_csv(pets, f"path,label,{name}\nimages/cat0.jpg,cat,red\nimages/dog0.jpg,dog,blue\n"))
    assert [entry.split for entry in listing.entries] == [None, None]
    assert (listing.splits, listing.notes) == ("", (f"columns not used: {name}",))


@pytest.mark.parametrize("value", ["dev", "eval", "holdout"])
def test_splits_by_other_names(value: str, pets: Path) -> None:
    listing = _listing(_csv(pets, f"path,label,split\nimages/cat0.jpg,cat,{value}\nimages/dog0.jpg,dog,train\n"))
    assert [entry.split for entry in listing.entries] == [value, "train"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ": is empty; give a CSV with a header"),
        ("\n , \n", ": is empty; give a CSV with a header"),
        ("path,label\n", ": lists no images; give a CSV with a row for each image"),
        ("x,label\nimages/cat0.jpg,cat\n", ": has no known column of paths (its columns: x, label); name one with --path-column"),
        ("path,kind\nimages/cat0.jpg,cat\n", ": has no known column of labels (its columns: path, kind); name one with --label-column"),
        ("path|label\nimages/cat0.jpg|cat\n", ": has no known column of paths (its columns: path|label); name one"),
        ("images/cat0.jpg,cat\nimages/dog0.jpg,dog\n", ": has no header: its first line is 'images/cat0.jpg,cat'; add one such as path"),
        ("0\t1\tgone/x.jpg\n", r": has no header: its first line is '0\t1\tgone/x.jpg'; add one such as path,label"),
        ("TRAIN,gs://b/cat0.jpg,cat\n", ": has no header: its first line is 'TRAIN,gs://b/cat0.jpg,cat'; add one such as path,label"),
        ("raw,cat\nraw,dog\n", ": has no header: its first line is 'raw,cat'; add one such as path,label"),
        ("path,label\n,cat\n", " line 2: has no path; complete or delete it"),
        ("path,label\nimages/cat0.jpg,\n", ": has 1 row without a label, the first in line 2; complete or delete them"),
        ("path,label\nimages/cat0.jpg,cat\n\nimages/cat1.jpg\nimages/dog0.jpg,\n", ": has 2 rows without a label, the first in line 4"),
        ("path,label,split\nimages/cat0.jpg,,train\n", ": has 1 row without a label, the first in line 2"),
        ("path,label\nimages/cat0.jpg,cat,1\n", " line 2: has 3 columns, the header 2; write values that hold a delimiter in quotes"),
        ("path,label\nimages/cat0.jpg,cat\nimages/cat0.jpg,dog\n", " line 3: images/cat0.jpg is listed a second time with another label"),
        ("path,label\nimages/cat0.jpg,cat\ncat0,dog\n", " line 3: images/cat0.jpg is listed a second time with another label; keep one"),
        (
            "path,label,split\nimages/cat0.jpg,cat,train\nimages/cat0.jpg,cat,test\n",
            " line 3: images/cat0.jpg is listed a second time with another split",
        ),
        (
            'path,label\n"images/cat0.jpg,cat\nimages/cat1.jpg",cat\n',
            " line 2: a quoted cell of 2 lines begins here and holds delimiters; close the quote",
        ),
        ('path,label\nimages/cat0.jpg,"cat\nbig"\n', " line 2: a label of several lines begins here; close the quote"),
        ('path,label\n"images/\ncat0.jpg",cat\n', " line 2: a path of several lines begins here; close the quote"),
        ("sep=;\npath;label\n;cat\n", " line 3: has no path"),
        (
            'path,label\n"' + "x" * 140_000,
            " line 2: the row that begins here cannot be read as CSV (field larger than field limit (131072)); check",
        ),
    ],
)
def test_mistakes(text: str, line: str, pets: Path) -> None:
    _put(pets / "raw")
    assert _refused(_csv(pets, text)).startswith(line)


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        (("x", '"broken', "x", 'end"', "x"), " line 4: a quoted cell of 3 lines begins here and holds delimiters; close the quote"),
        (("x", "x", "x", '"broken', "x"), " line 6: the row that begins here cannot be read as CSV (unexpected end of data); check"),
        (("x", '"inch', "x", '"inch', "x"), " line 4: the row that begins here cannot be read as CSV (',' expected after '\"'); check"),
        (("x", '"a\nb"', '"c\r\nd\n\ne\nf\ng"', "x", "x"), " line 6: a quoted cell of 6 lines begins here; close the quote"),
        (("x", '"a\nb\nc"', '"broken', 'x"', "x"), " line 7: a quoted cell of 2 lines begins here and holds delimiters; close the quote"),
    ],
)
def test_a_quote_that_is_not_closed_in_a_column_that_nobody_reads(cells: Sequence[str], line: str, pets: Path) -> None:
    text = "\npath,label,note\n" + "".join(f"images/cat{number}.jpg,cat,{cell}\n" for number, cell in enumerate(cells))
    assert _refused(_csv(pets, text)).startswith(line)
    assert _refused(_csv(pets, text), labels=False).startswith(line)


def test_a_note_of_a_few_lines(pets: Path) -> None:
    listing = _listing(_csv(pets, 'path,label,note\nimages/cat0.jpg,cat,"a\nb\n"\nimages/dog0.jpg,dog," ""c"" "\n'))
    assert [entry.label for entry in listing.entries] == ["cat", "dog"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le", "utf-32"])
def test_other_encodings(encoding: str, pets: Path) -> None:
    line = _refused(_csv(pets, "path,label\nimages/cat0.jpg,cät\n", encoding=encoding))
    assert line.startswith(": is not ")
    assert line.endswith("; save it as CSV UTF-8")


def test_another_encoding_far_below(pets: Path) -> None:
    path = _csv(pets, "path,label\n" + "images/cat0.jpg,cat\n" * 20_000)
    path.write_bytes(path.read_bytes() + "images/dog0.jpg,hündin\n".encode("latin-1"))
    assert "is not UTF-8" in _refused(path)


def test_the_same_row_twice_is_one_image(pets: Path) -> None:
    text = "path,label,split\nimages/cat0.jpg,cat,train\ncat0.jpg,CAT,training\n./images//cat0.jpg,cat,train\nimages/dog0.jpg,dog,test\n"
    assert [entry.name for entry in _listing(_csv(pets, text)).entries] == ["images/cat0.jpg", "images/dog0.jpg"]


def test_without_labels(pets: Path) -> None:
    for text in (
        "path\nimages/cat0.jpg\n",
        "id,label,target,split\ncat0,a,0,7\n",
        "path,is_valid\ncat0,maybe\n",
        "file\nimages/a,b;c\td.jpg\ncat0.jpg\n",
    ):
        listing = _listing(_csv(pets, text), labels=False)
        assert [(entry.name, entry.label) for entry in listing.entries if not entry.fault] == [("images/cat0.jpg", None)]
        assert listing.labels == ""
        assert "columns" not in "".join(listing.notes)


def test_accents_as_a_mac_writes_them(tmp_path: Path) -> None:
    for form, other in (("NFC", "NFD"), ("NFD", "NFC")):
        folder = tmp_path / form
        _images(folder, unicodedata.normalize(form, "hündin/müde.jpg"), "hund/a.jpg")
        text = unicodedata.normalize(other, "päth,label\nhündin/müde.jpg,hündin\nMÜDE,hündin\nhund/a.jpg,hund\n")
        listing = _listing(_csv(folder, text), path_column=unicodedata.normalize(form, "päth"))
        assert [entry.name for entry in listing.entries] == [unicodedata.normalize(form, "hündin/müde.jpg"), "hund/a.jpg"]


def test_ham_with_images_in_two_parts(tmp_path: Path) -> None:
    rows = []
    for number in range(12):
        _images(tmp_path, f"HAM10000_images_part_{1 + number % 2}/ISIC_{number:07d}.jpg")
        dx = "mel" if number % 3 == 0 else "nv"
        rows.append(f"HAM_{number},ISIC_{number:07d},{dx},histo,{number}.0,male,back,{'rosendahl' if number % 2 else 'vidir_modern'}\n")
    text = "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset\n" + "".join(rows)
    listing = _listing(_csv(tmp_path, text, "HAM10000_metadata.csv"))
    assert listing.entries[1] == Entry("HAM10000_images_part_2/ISIC_0000001.jpg", "nv")
    assert Counter(entry.label for entry in listing.entries) == {"mel": 4, "nv": 8}
    assert listing.labels == "column dx of HAM10000_metadata.csv"
    assert listing.notes == (
        "columns not used: lesion_id, dx_type, age, sex, localization, dataset",
        "paths found by file name alone: 12",
    )


@pytest.mark.parametrize("name", ["train.csv", "train_labels.csv", "trainLabels.csv", "labels (train).csv"])
@pytest.mark.parametrize("row", ["{}", "{}.jpg", "/kaggle/input/pets/{}.jpg"])
def test_equal_names_in_train_and_test(name: str, row: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        _images(tmp_path, *(f"{split}/{number}.jpg" for number in range(4)))
    text = "id,label\n" + "".join(f"{row.format(number)},{number % 2}\n" for number in range(4))
    assert [entry.name for entry in _listing(_csv(tmp_path, text, name)).entries] == [f"train/{number}.jpg" for number in range(4)]
    for other in ("list.csv", "train_and_test.csv"):
        line = f" line 2: {row.format(0)} could be test/0.jpg or train/0.jpg; write the path of one of them, relative to the CSV"
        assert _refused(_csv(tmp_path, text, other)) == line


def test_equal_names_and_a_column_of_splits(tmp_path: Path) -> None:
    _images(tmp_path, "train/1.jpg", "test/1.jpg", "valid/1.jpg", "valid/2.jpg", "train/2.jpg")
    text = "id,label,split\n1,cat,test\n1,dog,train\n2,cat,validation\n"
    listing = _listing(_csv(tmp_path, text, "train.csv"))
    assert [entry.name for entry in listing.entries] == ["test/1.jpg", "train/1.jpg", "valid/2.jpg"]


def test_names_that_fit_two_files_of_one_split(tmp_path: Path) -> None:
    _images(tmp_path, "train/1.jpg", "train/deep/1.jpg", "test/1.jpg", "here/a.jpg", "here/A.jpg", "masks/x.png", "images/x.jpg")
    for given, first, second in (
        ("1", "test/1.jpg", "train/1.jpg and 1 more"),
        ("here/a.JPG", "here/A.jpg", "here/a.jpg"),
        ("x", "images/x.jpg", "masks/x.png"),
    ):
        line = _refused(_csv(tmp_path, f"path,label\n{given},cat\n", "train.csv").rename(tmp_path / "train.csv"))
        assert line.replace(first, "F").replace(second, "S").startswith((f" line 2: {given} could be F or S;", " line 2: 1 could be F or"))
    assert _listing(_csv(tmp_path, "path,label\nhere/a.jpg,cat\nx.png,dog\n")).entries[0].name == "here/a.jpg"


def test_a_link_to_a_folder_is_no_second_file(tmp_path: Path) -> None:
    _images(tmp_path, "a/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to("../elsewhere")
    assert [entry.name for entry in _listing(_csv(tmp_path, "id,label\n1,cat\n")).entries] == ["a/1.jpg"]
    assert [entry.name for entry in _listing(_csv(tmp_path / "data", "id,label\n2,cat\n")).entries] == ["linked/2.jpg"]


def test_system_folders_and_thumbnails_are_passed_over(tmp_path: Path) -> None:
    _images(tmp_path, "a/1.jpg", "__MACOSX/a/1.jpg", ".cache/1.jpg", "a/@eaDir/1.jpg", "a/thumbs/1.jpg", "a/._1.jpg", "a/1.csv")
    assert [entry.name for entry in _listing(_csv(tmp_path, "id,label\n1,cat\n")).entries] == ["a/1.jpg"]


def test_a_csv_beside_the_folder_of_images(tmp_path: Path) -> None:
    _images(tmp_path, "images/a.jpg", "images/b.jpg", "labels/more/c.jpg", "labels/more/d.jpg")
    text = f"path,label\n../images/a.jpg,cat\n../images/b,dog\n../Images/A.JPG,cat\n{tmp_path}/images/c.jpg,cat\n/d.jpg,cat\n"
    listing = _listing(_csv(tmp_path / "labels", text))
    assert [(entry.name, entry.fault) for entry in listing.entries] == [
        ("../images/a.jpg", ""),
        ("../images/b.jpg", ""),
        (f"{tmp_path}/images/c.jpg", "is not found"),
        ("more/d.jpg", ""),
    ]


def test_an_absolute_path_by_another_way(tmp_path: Path) -> None:
    _images(tmp_path, "real/a.jpg")
    (tmp_path / "way").symlink_to("real")
    path = _csv(tmp_path / "real", f"path,label\n{tmp_path}/real/a.jpg,cat\n{tmp_path}/way/a.jpg,cat\na.jpg,cat\n")
    assert [entry.name for entry in _listing(tmp_path / "way" / path.name).entries] == ["a.jpg"]


def test_missing_files_are_listed(pets: Path) -> None:
    (pets / "images" / "cat3.jpg").unlink()
    (pets / "images" / "dog3.jpg").unlink()
    (pets / "images" / "dog3.jpg").mkdir()
    text = "path,label\n" + "".join(f"images/{name}.jpg,{kind}\n" for name, kind in NAMES)
    listing = _listing(_csv(pets, text))
    assert len(listing.entries) == 20
    assert [entry for entry in listing.entries if entry.fault] == [
        Entry("images/cat3.jpg", "cat", fault="is not found"),
        Entry("images/dog3.jpg", "dog", fault="is not found"),
    ]
    assert listing.notes == ()


@pytest.mark.parametrize(
    ("there", "given", "found"),
    [
        ("dogs/1.jpg", "cats/1.jpg", ""),  # cats is a folder: its 1.jpg is missing
        ("test/cats/1.jpg", "train/cats/1.jpg", ""),
        ("data/test/cats/1.jpg", "train/cats/1.jpg", ""),
        ("data/train/cats/1.jpg", "/old/train/cats/1.jpg", "data/train/cats/1.jpg"),
        ("train/cats/1.jpg", "train/1.jpg", "train/cats/1.jpg"),
        ("pics/1.jpg", "images/1.jpg", "pics/1.jpg"),  # no folder is called images
        ("cats/1.png", "cats/1.jpg", ""),
        ("cats/1.png", "1.jpg", ""),
        ("set/patient1/1.jpg", "old/set/patient2/1.jpg", ""),
        ("set/1.jpg", "old/set/patient2/1.jpg", "set/1.jpg"),
    ],
)
def test_a_missing_file_is_not_another_one_of_its_name(there: str, given: str, found: str, tmp_path: Path) -> None:
    _images(tmp_path, there, "cats/x.jpg", "train/cats/x.jpg", "data/train/cats/x.jpg")
    listing = _listing(_csv(tmp_path, f"path,label\n{given},cat\ncats/x.jpg,cat\n"))
    assert listing.entries[0] == (Entry(found, "cat") if found else Entry(given, "cat", fault="is not found"))


def test_a_file_further_below_in_its_folder(tmp_path: Path) -> None:
    _images(tmp_path, *(f"{folder}/cats/1.jpg" for folder in ("a", "train", "train-2", "z")))
    assert [entry.name for entry in _listing(_csv(tmp_path, "path,label\ntrain/1.jpg,cat\n")).entries] == ["train/cats/1.jpg"]


@pytest.mark.parametrize(
    ("example", "archive", "end"),
    [
        ("no/1.jpg", "", "neither there nor by its name alone below {}; paths are relative to the CSV; correct them, or name another"),
        ("no/1.jpg", "train.zip", "neither there nor by its name alone below {}; unpack train.zip, or name another"),
        ("gs://bucket/1.jpg", "", ": downloads of single images are not read; download them into the folder of the CSV"),
        ("https://x.org/1.jpg?size=2", "", ": downloads of single images are not read; download them into the folder of the CSV"),
    ],
)
def test_nothing_is_found(example: str, archive: str, end: str, pets: Path) -> None:
    if archive:
        _put(pets / archive)
    line = _refused(_csv(pets, f"path,label\n{example},cat\nno/2.jpg,dog\n"))
    start = f": lists 2 files, none of which is found, such as {example.replace('=2', '=...')}"
    assert line.startswith(start)
    assert line.removeprefix(start).lstrip(", ").startswith(end.format(pets))


def test_secrets_of_addresses_are_not_shown(pets: Path) -> None:
    address = "https://ann:PASSWORD@x.org/{}.jpg?sig=SIGNATURE{}"
    rows = [(address.format(*end), "cat") for end in ((1, 1), (1, 2), (2, 1))] + [("https://x.org/3.jpg?page=1", "cat")]
    text = "path,label\n" + "".join(f"{path},{label}\n" for path, label in [*rows, ("https://x.org/3.jpg?page=2", "dog")])
    line = _refused(_csv(pets, text))
    assert line.startswith(": lists 4 files, none of which is found, such as https://x.org/1.jpg?sig=...: downloads")
    listing = _listing(_csv(pets, text + "images/cat0.jpg,cat\n"))
    shown = [f"https://x.org/{end}" for end in ("1.jpg?sig=...", "2.jpg?sig=...", "3.jpg?page=...", "3.jpg?page=... (line 6)")]
    assert [entry.name for entry in listing.entries] == [*shown, "images/cat0.jpg"]
    twice = _refused(_csv(pets, text + f"{address.format(2, 3)},dog\n"))
    assert twice == " line 7: https://x.org/2.jpg?sig=... is listed a second time with another label; keep one"
    header = _refused(_csv(pets, f"{address.format(1, 1)},images/cat0.jpg\n"))
    assert header.startswith(": has no header: its first line is 'https://x.org/1.jpg?sig=...'")
    column = _refused(_csv(pets, f"{address.format(1, 1)},x\n1,2\n"))
    assert column == ": has no known column of paths (its columns: https://x.org/1.jpg?sig=..., x); name one with --path-column"


def test_names_in_errors_are_short_and_in_one_line(pets: Path) -> None:
    long = "x" * 500
    for text in (
        f'"a\nb\n{long}",label\n1,2\n',
        f'path,"a\nb{long}"\n1,2\n',
        f'path,label,split\nimages/cat0.jpg,cat,"{long}\nred"\n',
        f'path,label,"is_\ntest"\nimages/cat0.jpg,cat,{long}\n',
        f'path,label,y\nimages/cat0.jpg,"{long}\na",1\nimages/cat1.jpg,b,1\nimages/cat2.jpg,b,2\n',
        f"path,label\n{long}.jpg,cat\n",
        f"path,label\n{long}.jpg,cat\n{long}.jpg,dog\n",
    ):
        assert len(_refused(_csv(pets, text))) < 420


@pytest.mark.parametrize(
    ("header", "rows", "line"),
    [
        ("image,filename", ("cat0,cat0", "cat1,dog1"), "3: its file could be F/dog1.jpg of column filename, or F/cat1.jpg of column image"),
        ("path,path", ("cat0,dog0",), "2: its file could be F/cat0.jpg of column path (column 1), or F/dog0.jpg of column path (column 2)"),
        ("path,id", ("cat0,dog0",), "2: its file could be F/cat0.jpg of column path, or F/dog0.jpg of column id"),
    ],
)
def test_two_columns_of_paths_that_name_two_files(header: str, rows: Sequence[str], line: str, pets: Path) -> None:
    rows = [",".join(f"images/{cell}.jpg" for cell in row.split(",")) + ",cat\n" for row in rows]
    path = _csv(pets, f"{header},label\n{''.join(rows)}")
    fix = "rename one of them" if header == "path,path" else "name one with --path-column"
    for labels in (True, False):
        assert _refused(path, labels) == f" line {line.replace('F/', 'images/')}; {fix}"
    if header == "image,filename":
        assert [entry.name for entry in _listing(path, path_column="image").entries] == ["images/cat0.jpg", "images/cat1.jpg"]


@pytest.mark.parametrize("header", ["path,filename", "path,path", "file,id"])
def test_two_columns_of_paths_of_which_one_names_no_file(header: str, pets: Path) -> None:
    rows = "".join(f"images,{name}.jpg,{kind}\n" for name, kind in NAMES)
    listing = _listing(_csv(pets, f"{header},label\n{rows}"))
    assert [entry.name for entry in listing.entries] == [f"images/{name}.jpg" for name, _ in NAMES]
    assert listing.notes[1].startswith("paths are read from column ")
    assert listing.notes[1].endswith(" is found")
    few = "".join(f"images,{name if number < 10 else 'gone'}.jpg,cat\n" for number, (name, _) in enumerate(NAMES))
    assert ", none of which is found, such as images" in _refused(_csv(pets, f"{header},label\n{few}"))


def test_two_columns_of_paths_that_name_one_file(pets: Path) -> None:
    (pets / "link.jpg").symlink_to("images/cat0.jpg")
    listing = _listing(_csv(pets, "path,image,id,label\nimages/cat0.jpg,link.jpg,cat0,cat\nimages/dog0.jpg,,gone,dog\n"))
    assert [entry.name for entry in listing.entries] == ["images/cat0.jpg", "images/dog0.jpg"]


def test_a_file_that_is_deleted_meanwhile(pets: Path) -> None:
    table = _table(_csv(pets, "path,label\nimages/cat0.jpg,cat\nimages/dog0.jpg,dog\n"))
    assert len(table.listing.entries) == 2
    (pets / "images" / "dog0.jpg").unlink()
    with pytest.raises(UserError) as caught:
        list(table.read())
    assert str(caught.value) == f"{pets}/images/dog0.jpg: was just deleted; rerun"


def test_content_is_that_of_the_file(pets: Path) -> None:
    found = dict(_table(_csv(pets, "id,label\ncat0,cat\nimages/dog0.jpg,dog\n")).read())
    assert found == {"images/cat0.jpg": b"images/cat0.jpg", "images/dog0.jpg": b"images/dog0.jpg"}


@pytest.mark.parametrize("name", ["list.csv", "list.TSV", "list.tab", "list.txt", "list.lst"])
def test_a_csv_by_any_ending(name: str, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _csv(pets, "path\tlabel\nimages/cat0.jpg\tcat\n", name)
    assert open_source(str(path), pets).listing.entries == [Entry("images/cat0.jpg", "cat")]
    monkeypatch.chdir(pets)
    assert open_source(name, pets).listing.entries == [Entry("images/cat0.jpg", "cat")]


def test_many_files_of_one_name_are_found_without_comparing_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, compared = 1000, 0
    for number in range(count):
        _put(tmp_path / f"set/patient{number}/view.jpg")
    fold = table_files._fold

    def counting(name: str) -> str:
        nonlocal compared
        compared += 1
        return fold(name)

    monkeypatch.setattr(table_files, "_fold", counting)
    text = "path,label\n" + "".join(f"data/set/patient{number}/view.jpg,{number % 2}\n" for number in range(count + 100))
    listing = _table(_csv(tmp_path, text)).listing
    assert sum(entry.fault != "" for entry in listing.entries) == 100
    assert count < compared < 50 * count
