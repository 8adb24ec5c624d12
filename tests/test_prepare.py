"""From photographs to shards: the same bytes always, what is excluded, what splits hold."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from job.cli import main
from job.config.options import build
from job.config.schema import Prepare, PrepareConfig, Reading
from job.data import manifest
from job.data.shards import Reader, Record
from job.errors import MachineError, UserError
from job.prepare import key, prepare
from job.storage import local
from tests.preparing import bytes_of, draw_image, draw_pets, prepared

ROOT = Path(__file__).resolve().parents[1]


def _refused(source: Path, out: Path, **values: Any) -> str:
    with pytest.raises(UserError) as caught:
        prepared(source, out, **values)
    assert caught.value.code == 2
    return str(caught.value)


def _records(out: Path) -> dict[str, list[Record]]:
    found = manifest.read(out)
    records = {}
    for name, split in found.splits.items():
        reader = Reader(out, split.shards)
        records[name] = [reader[k] for k in range(len(reader))]
        reader.close()
    return records


def _aside(out: Path) -> dict[str, str]:
    with (out / "report" / "set-aside.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file", "reason"]
    return {row[0]: row[1] for row in rows[1:]}


def test_what_a_data_set_holds(shards: Path, drawn: Path) -> None:
    found = manifest.read(shards)
    records = _records(shards)
    assert found.classes == ("crosses", "rings")
    assert sum(map(len, records.values())) == 120
    for name, split in found.splits.items():
        labels = Counter(record.label for record in records[name])
        assert (labels[0], labels[1]) == split.classes
    for record in records["train"]:
        data = (drawn / record.key).read_bytes()
        assert record.sha256 == hashlib.sha256(data).hexdigest()
        assert record.label == record.key.startswith("rings/")
        assert record.image[:2] == b"\xff\xd8"
    assert len(found.splits["train"].shards) == 16
    assert [len(found.splits[name].shards) for name in ("validation", "test")] == [1, 1]
    sizes = [shard.records for shard in found.splits["train"].shards]
    assert max(sizes) - min(sizes) <= 1
    assert not (shards / ".work").exists()
    named = {"manifest.json", "report", ".lock"} | {f for s in found.splits.values() for x in s.shards for f in (x.file, x.index)}
    assert {path.name for path in shards.iterdir()} == named


def test_the_same_bytes_for_one_worker_four_workers_and_a_zip(drawn: Path, shards: Path, tmp_path: Path) -> None:
    one, four = tmp_path / "one", tmp_path / "four"
    prepared(drawn, one, workers=1)
    prepared(drawn, four, workers=4)
    assert bytes_of(one) == bytes_of(four) == bytes_of(shards)
    with zipfile.ZipFile(tmp_path / "drawn.zip", "w") as archive:
        for path in sorted(drawn.rglob("*.jpg"), reverse=True):  # another order
            archive.write(path, path.relative_to(drawn).as_posix())
    packed = prepared(tmp_path / "drawn.zip", tmp_path / "packed")
    assert packed.fingerprint == manifest.read(shards).fingerprint


def test_fewer_images_than_shards_give_a_shard_each(tmp_path: Path) -> None:
    found = prepared(draw_pets(tmp_path / "pets", 5), tmp_path / "out", val=0, test=0)
    assert [shard.records for shard in found.splits["train"].shards] == [1] * 10
    assert list(found.splits) == ["train"]


def test_bad_files_are_listed_and_too_many_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets, out = draw_pets(tmp_path / "pets", 10), tmp_path / "out"
    (pets / "cats" / "bad.jpg").write_bytes(b"<html>404</html>")
    (pets / "dogs" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    argv = ["prepare", str(pets), "--out", str(out), "--val", "0", "--side", "8", "--workers", "1"]
    with pytest.raises(SystemExit) as left:
        main(argv)
    assert left.value.code == 2
    what = "lists 2 of 22 images that cannot be read (it is a web page, not an image)"
    line = f"{what}, more than --max-bad 0.01; fix or delete them, or give --max-bad 0.091"
    assert capsys.readouterr().err == f"twofold: {out}/report/set-aside.csv: {line}\n"
    assert _aside(out).keys() == {"cats/bad.jpg", "dogs/phone.heic"}
    assert not manifest.exists(out)
    with pytest.raises(SystemExit) as left:
        main([*argv, "--max-bad", "0.091"])
    assert left.value.code == 0
    assert "excluded: 2 images (2 cannot be read), listed in" in capsys.readouterr().out
    assert _aside(out)["cats/bad.jpg"] == "it is a web page, not an image"
    assert _aside(out)["dogs/phone.heic"].startswith(("the HEIC is truncated or corrupt", "HEIC needs an extra"))
    assert manifest.read(out).splits["train"].records == 20


def test_one_copy_is_kept_of_each_image(tmp_path: Path) -> None:
    source = tmp_path / "set"
    for split in ("train", "val", "test"):
        for kind in ("cats", "dogs"):
            for k in range(3):
                draw_image(source / split / kind / f"{k}.png", hash_seed(split, kind, k))
    in_test = (source / "test/cats/0.png").read_bytes()
    in_val = (source / "val/dogs/1.png").read_bytes()
    in_train = (source / "train/dogs/2.png").read_bytes()
    for name, data in {
        "train/cats/a.png": in_test, "val/cats/a.png": in_test, "train/dogs/a.png": in_val, "train/dogs/9.png": in_train,
        "train/dogs/b.png": in_train,
    }.items():  # fmt: skip
        (source / name).write_bytes(data)
    found = prepared(source, tmp_path / "out", max_bad=0)
    assert _aside(tmp_path / "out") == {
        "train/cats/a.png": "a copy of test/cats/0.png",
        "val/cats/a.png": "a copy of test/cats/0.png",
        "train/dogs/a.png": "a copy of val/dogs/1.png",
        "train/dogs/9.png": "a copy of train/dogs/2.png",
        "train/dogs/b.png": "a copy of train/dogs/2.png",
    }
    assert {name: split.classes for name, split in found.splits.items()} == {"train": (3, 3), "validation": (3, 3), "test": (3, 3)}
    keys = {name: {record.key for record in records} for name, records in _records(tmp_path / "out").items()}
    assert "test/cats/0.png" in keys["test"]
    assert "val/dogs/1.png" in keys["validation"]


def hash_seed(*words: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:4], "little")


def test_an_image_under_both_labels_is_set_aside_on_both_sides(tmp_path: Path) -> None:
    pets = draw_pets(tmp_path / "pets", 6)
    shutil.copy(pets / "cats" / "0.png", pets / "dogs" / "cat.png")
    found = prepared(pets, tmp_path / "out", val=0, test=0, max_bad=0)
    assert found.splits["train"].classes == (5, 6)
    assert _aside(tmp_path / "out") == {
        "cats/0.png": "the same image is also in the other class, as dogs/cat.png",
        "dogs/cat.png": "the same image is also in the other class, as cats/0.png",
    }


def test_a_test_split_leaves_the_validation_split_as_it_is(tmp_path: Path) -> None:
    pets = draw_pets(tmp_path / "pets", 40)
    prepared(pets, tmp_path / "without", val=0.3, test=0)
    prepared(pets, tmp_path / "with", val=0.3, test=0.3)
    without, having = ({name: {r.key for r in rs} for name, rs in _records(tmp_path / out).items()} for out in ("without", "with"))
    assert having["validation"] == without["validation"]
    assert having["train"] | having["test"] == without["train"]


def test_the_shares_of_the_splits_are_about_those_asked_for(tmp_path: Path) -> None:
    found = prepared(draw_pets(tmp_path / "pets", 200), tmp_path / "out", val=0.2, test=0.1)
    assert 0.14 < found.splits["validation"].records / 400 < 0.26
    assert 0.06 < found.splits["test"].records / 400 < 0.14


def test_splits_of_the_source_are_kept_and_the_missing_one_is_cut_from_train(tmp_path: Path) -> None:
    source = tmp_path / "set"
    for k in range(30):
        for n, kind in enumerate(("cats", "dogs")):
            draw_image(source / "training_set" / kind / f"{k}.png", 4 * k + n)
            draw_image(source / "test_set" / kind / f"{k}.png", 4 * k + n + 2)
    prepared(source, tmp_path / "out", val=0.2, test=0.5)
    records = _records(tmp_path / "out")
    assert {r.key for r in records["test"]} == {p.relative_to(source).as_posix() for p in (source / "test_set").rglob("*.png")}
    assert all(r.key.startswith("training_set/") for name in ("train", "validation") for r in records[name])
    assert 0 < len(records["validation"]) < 30


def test_too_few_images_and_an_empty_class_in_a_split_of_the_source(tmp_path: Path) -> None:
    source = draw_pets(tmp_path / "set" / "train", 20).parent
    draw_image(source / "val" / "cats" / "x.png", 999)
    assert _refused(source, tmp_path / "out", test=0) == "split validation: holds no image of dogs; add some, or rename its folder"
    few = draw_pets(tmp_path / "few", 2)
    assert prepared(few, tmp_path / "out2", test=0).splits["validation"].classes == (1, 1)
    assert _refused(few, tmp_path / "out3") == "class cats: has 2 images to train on, and needs 3; give more images"


@pytest.mark.parametrize("damage", ["shard", "index", "cut", "all"])
def test_a_data_set_that_lacks_files_is_prepared_again(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    pets, out = draw_pets(tmp_path / "pets", 12), tmp_path / "set"
    prepared(pets, out)
    before, shard = bytes_of(out), manifest.read(out).splits["train"].shards[1]
    lost = {"shard": [shard.file], "index": [shard.index], "cut": [], "all": [name for name in before if name.startswith("train-")]}[damage]
    for name in lost:
        (out / name).unlink()
    if damage == "cut":
        os.truncate(out / shard.file, 20)
    capsys.readouterr()
    assert "holds a data set prepared with side" in _refused(pets, out, side=64)
    prepared(pets, out)
    said = capsys.readouterr().out
    assert re.search(rf"^warning: {out}/train-.*(is missing from the data set|has 20 of .* bytes); preparing it again$", said, re.M), said
    assert bytes_of(out) == before
    prepared(pets, out)
    assert capsys.readouterr().out == f"{out} is already prepared\n"


def test_a_source_may_be_named_in_several_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pets, out = draw_pets(tmp_path / "pets", 12), tmp_path / "set"
    monkeypatch.chdir(tmp_path)
    prepared(pets, out)
    capsys.readouterr()
    for named in ("pets", "./pets/", "pets/../pets", f"{pets}/cats/.."):
        prepared([named], out)
        assert capsys.readouterr().out == f"{out} is already prepared\n"


def test_a_finished_folder_says_so_and_is_not_touched(shards: Path, drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in shards.rglob("*") if path.name != ".lock"}
    assert prepared(drawn, shards) == manifest.read(shards)
    assert capsys.readouterr().out == f"{shards} is already prepared\n"
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in shards.rglob("*") if path.name != ".lock"} == before


def test_other_settings_are_refused(shards: Path, drawn: Path, tmp_path: Path) -> None:
    before = bytes_of(shards)
    fix = "; give another --out, or delete the folder"
    assert _refused(drawn, shards, side=48) == f"{shards}: holds a data set prepared with side = 40, not 48" + fix
    assert _refused(drawn, shards, positive="crosses") == f"{shards}: holds a data set prepared with positive = '', not 'crosses'" + fix
    assert "prepared with sources = " in _refused(tmp_path, shards)
    assert bytes_of(shards) == before


def test_the_number_of_workers_is_no_setting(shards: Path, drawn: Path) -> None:
    assert prepared(drawn, shards, workers=7) == manifest.read(shards)


_WATCHED = """
import json, os, sys
written = set()
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path, mode, flags = arguments
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (mode is None and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            written.add(os.path.abspath(os.fsdecode(path)))
    elif event in ("os.remove", "os.rmdir"):
        path, folder = arguments
        written.add(os.path.abspath(os.path.join(os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else "", os.fsdecode(path))))
    elif event in ("os.mkdir", "os.rename", "os.symlink", "os.link", "os.truncate", "os.chmod"):
        written.update(os.path.abspath(os.fsdecode(a)) for a in arguments[:2] if isinstance(a, (str, bytes)))
sys.dont_write_bytecode = True
sys.addaudithook(watch)
from job.cli import main
try:
    main(sys.argv[1:])
finally:
    print(json.dumps(sorted(written)))
"""


def test_nothing_is_written_outside_out(drawn: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as archive:
        for path in sorted(drawn.rglob("*.jpg")):
            archive.write(path, path.relative_to(drawn).as_posix())
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "inner.zip", "train.zip")
    home = tmp_path / "home"
    home.mkdir()
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED, "prepare", str(tmp_path / "all.zip"), "--out", str(tmp_path / "out"), "--side", "40"],
        cwd=home, env={**os.environ, "HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout.splitlines()[-1])
    assert any(name.endswith("manifest.json") for name in written)
    assert [name for name in written if not (name + "/").startswith(f"{tmp_path}/out/") and not name.startswith("/dev/")] == []
    assert sorted(path for path in tmp_path.rglob("*") if tmp_path / "out" not in (path, *path.parents)) == before


def test_several_sources_make_one_data_set(tmp_path: Path) -> None:
    one, two = draw_pets(tmp_path / "one", 10), draw_pets(tmp_path / "two", 10, first=50)
    prepared([str(one), str(two)], tmp_path / "out", val=0, test=0, positive="cat")
    keys = {record.key for record in _records(tmp_path / "out")["train"]}
    assert len(keys) == 40
    assert {"one/cats/0.png", "two/dogs/55.png"} <= keys
    assert manifest.read(tmp_path / "out").classes == ("dogs", "cats")


def test_class_folders_given_one_by_one(tmp_path: Path) -> None:
    pets = draw_pets(tmp_path / "pets", 10)
    found = prepared([str(pets / "cats"), str(pets / "dogs")], tmp_path / "out", val=0, test=0)
    assert found.classes == ("cats", "dogs")
    assert found.splits["train"].classes == (10, 10)


def test_unlabelled_images_are_counted_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets = draw_pets(tmp_path / "pets" / "train", 10).parent
    for k in range(3):
        draw_image(pets / "test1" / f"{k}.png", 5000 + k)
    found = prepared(pets, tmp_path / "out", val=0, test=0)
    assert "skipped: 3 images (of the test split, without a class), such as test1/0.png\n" in capsys.readouterr().out
    assert {name: split.records for name, split in found.splits.items()} == {"train": 20}


def test_a_csv_decides_labels_and_splits(tmp_path: Path) -> None:
    pets = draw_pets(tmp_path / "pets", 6)
    rows = [f"pets/{kind}/{k}.png,{kind[:3]},{'test' if k < 2 else 'train'}" for kind in ("cats", "dogs") for k in range(6)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    found = prepared(tmp_path / "list.csv", tmp_path / "out", val=0)
    assert found.classes == ("cat", "dog")
    assert {name: split.classes for name, split in found.splits.items()} == {"train": (4, 4), "test": (2, 2)}
    assert pets.exists()


def test_a_full_disk_is_seen_before_shards_are_written(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(local.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(MachineError, match=r"the shards would take about .* kB, the disk has 1\.0 kB free"):
        prepared(drawn, tmp_path / "out")
    assert list((tmp_path / "out").glob("*.tfrecord")) == []


def test_no_source_and_no_out(drawn: Path) -> None:
    with pytest.raises(UserError, match="prepare: no source given; name a folder"):
        prepare([], build(PrepareConfig, {"out": "x"}))
    with pytest.raises(UserError, match="--out: no folder given for the shards; add --out DIR"):
        prepare([str(drawn)], build(PrepareConfig, {}))


def test_a_thousand_real_photographs(originals: Path, tmp_path: Path) -> None:
    found = prepared(originals, tmp_path / "out", side=64, val=0.1, test=0)
    assert found.classes == ("cat", "dog")
    assert sum(split.records for split in found.splits.values()) == 1000
    assert len(found.splits["train"].shards) == 16
    assert _aside(tmp_path / "out") == {}
    for record in _records(tmp_path / "out")["validation"]:
        assert min(cv2.imdecode(np.frombuffer(record.image, np.uint8), cv2.IMREAD_COLOR).shape[:2]) <= 64


def test_a_cache_tells_data_sets_apart_by_their_source_and_settings(tmp_path: Path) -> None:
    first = key([str(tmp_path / "pets")], Prepare(), Reading())
    assert re.fullmatch("[0-9a-f]{16}", first)
    assert key([str(tmp_path / "pets")], Prepare(), Reading()) == first
    others = {
        key([str(tmp_path / "more")], Prepare(), Reading()),
        *(key([str(tmp_path / "pets")], Prepare(**v), Reading()) for v in ({"val": 0.2}, {"side": 64})),
    }
    assert len(others - {first}) == 3
