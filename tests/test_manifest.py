"""The manifest is the commit: what is missing, unfinished, of another version, or damaged is said in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from job.data import manifest
from job.errors import UserError


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shards, tmp_path / "set")


def _refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        manifest.read(folder)
    assert caught.value.code == 2
    return str(caught.value)


def _edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / manifest.NAME
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_round_trip(copy: Path) -> None:
    found = manifest.read(copy)
    assert found.classes == ("crosses", "rings")
    assert list(found.splits) == ["train", "validation", "test"]
    for split in found.splits.values():
        assert split.records == sum(split.classes) == sum(shard.records for shard in split.shards)
    manifest.write(copy, found)
    assert manifest.read(copy) == found
    document = json.loads((copy / "manifest.json").read_text())
    assert document.keys() == {"format", "version", "classes", "splits", "settings", "fingerprint"}
    assert document["splits"]["train"]["shards"][0].keys() == {"file", "records", "bytes", "sha256", "index"}
    assert document["fingerprint"] == found.fingerprint


def test_missing(tmp_path: Path) -> None:
    line = f"{tmp_path}: is not a data set: manifest.json not found; make one with twofold prepare"
    assert _refused(tmp_path) == line
    assert _refused(tmp_path / "nowhere").startswith(f"{tmp_path}/nowhere: is not a data set: ")


@pytest.mark.parametrize("trace", ["shard", "work"])
def test_unfinished(copy: Path, trace: str) -> None:
    (copy / manifest.NAME).unlink()
    if trace == "work":
        shutil.rmtree(copy)
        (copy / ".work").mkdir(parents=True)
    assert manifest.unfinished(copy)
    assert _refused(copy) == f"{copy}: this data set is unfinished; rerun the same twofold prepare to finish it"


def test_another_version_and_another_format(copy: Path) -> None:
    _edit(copy, lambda d: d.update(version=9))
    wanted = "is of version 9, this program reads version 1; prepare the data again, or install the twofold that made it"
    assert _refused(copy) == f"{copy}/manifest.json: {wanted}"
    _edit(copy, lambda d: d.update(format="web-app"))
    assert "is not a manifest of this program" in _refused(copy)


def test_a_shard_cut_short(copy: Path) -> None:
    shard = manifest.read(copy).splits["train"].shards[3]
    path = copy / shard.file
    path.write_bytes(path.read_bytes()[:-7])
    line = f"{path}: has {shard.bytes - 7:,} of {shard.bytes:,} bytes; rerun its twofold prepare, or copy it in full"
    assert _refused(copy) == line


@pytest.mark.parametrize("kind", ["file", "index"])
def test_a_missing_shard_or_index(copy: Path, kind: str) -> None:
    path = copy / getattr(manifest.read(copy).splits["test"].shards[0], kind)
    path.unlink()
    assert _refused(copy) == f"{path}: is missing from the data set; rerun its twofold prepare, or copy it in full"


def _swap(document: dict[str, Any]) -> None:
    document["classes"].reverse()


def _fewer(document: dict[str, Any]) -> None:
    document["splits"]["train"]["shards"].pop()


def _count(document: dict[str, Any]) -> None:
    document["splits"]["train"]["classes"][0] += 1


@pytest.mark.parametrize("change", [_swap, _fewer, _count])
def test_an_edited_manifest(copy: Path, change: Callable[[dict[str, Any]], None]) -> None:
    _edit(copy, change)
    assert _refused(copy) == f"{copy}/manifest.json: was changed after it was written; prepare the data again"


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("splits"),
        lambda d: d.pop("version"),
        lambda d: d.pop("fingerprint"),
        lambda d: d.update(splits=[]),
        lambda d: d.update(splits={"train": 3}),
        lambda d: d.update(classes=["one"]),
        lambda d: d.update(classes=7),
        lambda d: d["splits"]["train"]["shards"][0].pop("sha256"),
        lambda d: d["splits"]["train"]["shards"][0].update(more=1),
        lambda d: d["splits"]["train"].update(shards=None),
    ],
)
def test_a_manifest_with_parts_missing_or_of_another_kind(copy: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    _edit(copy, change)
    line = _refused(copy)
    assert line.startswith(f"{copy}/manifest.json: is corrupt (")
    assert line.endswith("; prepare the data again")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[" * 5])
def test_a_manifest_that_is_no_json(copy: Path, content: bytes) -> None:
    (copy / manifest.NAME).write_bytes(content)
    assert _refused(copy).startswith(f"{copy}/manifest.json: is corrupt (")


def test_a_manifest_of_other_json(copy: Path) -> None:
    (copy / manifest.NAME).write_text("[]")
    assert "is not a manifest of this program; make the data set with twofold prepare" in _refused(copy)


def test_verify_names_the_first_shard_that_differs(copy: Path) -> None:
    shards = manifest.read(copy).splits["train"].shards
    manifest.verify(copy, shards)
    for shard in shards[2:4]:
        content = bytearray((copy / shard.file).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / shard.file).write_bytes(content)
    assert manifest.read(copy)  # sizes are as they were
    with pytest.raises(UserError) as caught:
        manifest.verify(copy, shards)
    what = "its SHA-256 differs from the manifest's, so it is corrupt"
    assert str(caught.value) == f"{copy / shards[2].file}: {what}; delete that file and rerun its twofold prepare, or copy it again"


def test_a_split_that_is_not_there(copy: Path) -> None:
    found = manifest.read(copy)
    with pytest.raises(UserError) as caught:
        found.split("tset", copy)
    assert str(caught.value) == f"{copy}: has no split tset; it has train, validation, test"


def test_the_fingerprint_names_the_content_not_the_settings(copy: Path) -> None:
    found = manifest.read(copy)
    moved = manifest.Manifest(found.classes, found.splits, {**found.settings, "max_bad": 0.5})
    assert moved.fingerprint == found.fingerprint
    assert manifest.Manifest(found.classes[::-1], found.splits, found.settings).fingerprint != found.fingerprint
