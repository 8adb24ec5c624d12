"""A run in a bucket of which one object is damaged, begun on a fresh machine: it falls back and says why, or ends with 2 in one line."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import job.train
from job.config.options import build as build_config
from job.config.schema import Config
from job.data import location
from job.errors import UserError
from job.runs import checkpoints, place, records, starts
from job.shutdown import Stop
from job.storage import lease, mirror
from job.storage.opening import open_bucket
from job.storage.retrying import Retrying
from job.training.runlog import RunLog
from tests.conftest import SMALL
from tests.memory_bucket import MemoryBucket
from tests.mirroring import contents
from tests.stores.fixtures import Store

ADDRESS = "gs://memory/folder"
LIFE = 0.1


class Began(Exception):
    """The network would be built now."""


def _flipped(content: bytes, seed: int) -> bytes:
    at = random.Random(seed).randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << seed % 8]) + content[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "deleted": lambda content: None,
    "emptied": lambda content: b"",
    "cut by a byte": lambda content: content[:-1],
    "cut in half": lambda content: content[: len(content) // 2],
    "longer": lambda content: content + b"x",
    "zeros": lambda content: bytes(len(content)),
    "no text": lambda content: b"\xff\xfe" + content,
    "a list": lambda content: b"[]\n",
    "null": lambda content: b"null\n",
    "an empty object": lambda content: b"{}\n",
    "another type within": lambda content: b'{"step": [1], "status": 3, "classes": 7, "steps": "x", "kind": "step", "format": {}}\n',
    **{f"flip {seed}": lambda content, seed=seed: _flipped(content, seed) for seed in range(8)},  # type: ignore[misc]
}


@pytest.fixture(scope="module")
def objects(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, str, str]]:
    """A run that was interrupted after its last step, as its first machine has left it."""
    bucket = MemoryBucket()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, "open_bucket", lambda text, stop: Retrying(bucket, stop))
        patch.setattr(mirror, "SECOND", 0.01)
        with place.opened(ADDRESS, tmp_path_factory.mktemp("first"), Stop(), 5, LIFE) as where:
            for name, content in contents(run).items():
                (where.path / name).parent.mkdir(parents=True, exist_ok=True)
                (where.path / name).write_bytes(content)
            summary = json.loads((run / "summary.json").read_bytes())
            (where.path / "summary.json").write_text(json.dumps({**summary, "status": "interrupted"}))
    assert len([name for name in bucket.objects if name.endswith("/state.npz")]) > 1
    return bucket.objects


@pytest.fixture
def bucket(objects: dict[str, tuple[bytes, str, str]], monkeypatch: pytest.MonkeyPatch) -> MemoryBucket:
    made = MemoryBucket()
    made.objects = dict(objects)
    monkeypatch.setattr(place, "open_bucket", lambda text, stop: Retrying(made, stop))
    monkeypatch.setattr(location, "open_bucket", lambda text, stop: Retrying(MemoryBucket(), stop))  # below the run there are no shards
    monkeypatch.setattr(mirror, "SECOND", 0.01)
    return made


def named(bucket: MemoryBucket) -> list[str]:
    """The checkpoints, the newest first."""
    found = {name.rpartition("/")[0] for name in bucket.objects if name.startswith("checkpoints/")}
    return sorted(found, key=lambda name: name.split("-")[::-1], reverse=True)


def damage(bucket: MemoryBucket, name: str, kind: str) -> None:
    content, version, _ = bucket.objects.pop(name)
    damaged = DAMAGES[kind](content)
    if damaged is not None:
        bucket.objects[name] = (damaged, f"{version} damaged", "")


def begin(cache: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`train` up to where the network would be built; returns the checkpoint that it goes on from."""
    found: list[Any] = []
    newest = checkpoints.newest
    monkeypatch.setattr(checkpoints, "newest", lambda folder: found.append(newest(folder)) or found[0])

    def build(resolved: Any, chosen: Any, folder: Path, *rest: Any) -> None:
        latest = found[0]
        assert latest is not None, "it would begin afresh"
        RunLog(folder, latest.state.step, latest.state.epoch).close()
        raise Began

    monkeypatch.setattr(job.train, "build", build)
    stop = Stop()
    config = build_config(Config, {**SMALL, "data": str(shards), "out": ADDRESS})
    try:
        with place.opened(ADDRESS, cache, stop, 5, LIFE) as where:
            job.train.train(config, given=set(), stop=stop, where=where)
    except Began:
        return f"checkpoints/{found[0].name}"
    finally:
        monkeypatch.setattr(checkpoints, "newest", newest)
    raise AssertionError("it did not begin")


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("file", ["state.npz", "checkpoint.json"])
def test_of_the_newest_checkpoint(
    bucket: MemoryBucket,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    kind: str,
) -> None:
    newest, before = named(bucket)[:2]
    damage(bucket, f"{newest}/{file}", kind)
    assert begin(tmp_path, shards, monkeypatch) == before
    said = capsys.readouterr().out
    assert f"{ADDRESS}/{newest}: the checkpoint is damaged (" in said or f"says that {newest} was written, and it is not listed" in said


@pytest.mark.parametrize("file", ["state.npz", "checkpoint.json"])
@pytest.mark.parametrize("kind", ["deleted", "cut in half", "flip 1"])
def test_where_no_checkpoint_is_whole_it_ends_with_2(
    bucket: MemoryBucket, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, kind: str
) -> None:
    for name in named(bucket):
        damage(bucket, f"{name}/{file}", kind)
    before = bucket.content()
    with pytest.raises(UserError) as raised:
        begin(tmp_path, shards, monkeypatch)
    assert "checkpoints are damaged; restore them" in str(raised.value) or "no checkpoint is listed; restore it" in str(raised.value)
    assert str(raised.value).startswith(ADDRESS)
    assert "\n" not in str(raised.value)
    assert {name: content for name, content in bucket.content().items() if name in before and name != "log.txt"} == {
        name: content for name, content in before.items() if name != "log.txt"
    }


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("file", [records.SUMMARY, records.METRICS, starts.NAME, lease.NAME])
def test_of_what_can_be_made_anew(
    bucket: MemoryBucket, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, kind: str
) -> None:
    damage(bucket, file, kind)
    assert begin(tmp_path, shards, monkeypatch) == named(bucket)[0]


@pytest.mark.parametrize("kind", DAMAGES)
def test_of_the_configuration(bucket: MemoryBucket, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """It is refused, or as good as it was."""
    damage(bucket, records.CONFIG, kind)
    error = ""
    try:
        assert begin(tmp_path, shards, monkeypatch) == named(bucket)[0]
    except UserError as raised:
        error = str(raised)
    if not kind.startswith(("flip", "cut by a byte", "longer")):
        assert error, "that is no configuration of the run"
    if error:
        assert ADDRESS in error
        assert "\n" not in error
        assert str(tmp_path) not in error


def test_all_at_once_but_one_checkpoint(bucket: MemoryBucket, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (records.SUMMARY, records.METRICS, lease.NAME, f"{named(bucket)[0]}/state.npz"):
        damage(bucket, name, "zeros")
    assert begin(tmp_path, shards, monkeypatch) == named(bucket)[1]


def test_a_run_goes_on_from_the_checkpoint_before_and_ends_as_if_nothing_were_damaged(
    bucket: MemoryBucket, run: Path, shards: Path, tmp_path: Path
) -> None:
    newest = named(bucket)[0]
    damage(bucket, f"{newest}/state.npz", "cut in half")
    stop = Stop()
    with place.opened(ADDRESS, tmp_path, stop, 5, LIFE) as where:
        summary = job.train.train(build_config(Config, {**SMALL, "data": str(shards), "out": ADDRESS}), given=set(), stop=stop, where=where)
    was = records.read_summary(run)
    assert was is not None
    assert (summary.status, summary.steps, summary.validation) == ("done", was.steps, was.validation)
    lines = [json.loads(line) for line in bucket.objects[records.METRICS][0].splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, was.steps + 1)), "each step once"
    assert newest not in {name.rpartition("/")[0] for name in bucket.objects}, "what was damaged is deleted"


def test_the_command_on_a_damaged_run(gcs_store: Store, objects: dict[str, tuple[bytes, str, str]], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        gcs_store.use(patch)
        bucket = open_bucket(gcs_store.url)
        for name, (content, _, _) in objects.items():
            bucket.put(name, content[:100] if name == records.CONFIG else content)
    command = [sys.executable, "-m", "job.cli", "train", "--out", gcs_store.url, "--cache", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env={**os.environ, **gcs_store.environment})
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith(f"twofold: {gcs_store.url}/config.toml")
    assert done.stderr.count("\n") == 1
