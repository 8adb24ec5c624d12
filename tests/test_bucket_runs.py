"""The commands on folders in buckets, as users run them: prepare, train, evaluate, predict, visualize, sweep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from job.storage import lease
from job.storage.bucket import Bucket, Stat
from job.storage.opening import open_bucket
from tests.conftest import SMALL
from tests.stores.fixtures import Store, proxied

TRAIN = [
    word
    for name, value in SMALL.items()
    for word in (f"--{name.replace('_', '-')}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value))
]


@pytest.fixture(params=["gcs_store", pytest.param("s3_store", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    found: Store = request.getfixturevalue(request.param)
    found.use(monkeypatch)
    return found


def command(cache: Path, *words: object) -> list[str]:
    return [sys.executable, "-m", "job.cli", *map(str, words), "--cache", str(cache)]


def run(cache: Path, *words: object, code: int = 0, seconds: float = 180) -> tuple[str, str]:
    """A command on a machine whose cache is given; returns what it says on standard output and standard error."""
    done = subprocess.run(command(cache, *words), capture_output=True, text=True, timeout=seconds)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


def start(cache: Path, *words: object, **environment: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command(cache, *words), stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environment})


def until(process: subprocess.Popen[str], there: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert process.poll() is None, "it ended too early: " + "".join(process.communicate())
        assert time.monotonic() < end
        time.sleep(0.02)


def listed(bucket: Bucket, prefix: str = "") -> dict[str, Stat]:
    return {found.name: found for found in bucket.list(prefix)}


def summary(bucket: Bucket, folder: str = "") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bucket.read(f"{folder}summary.json"))
    return found


def records(bucket: Bucket, folder: str = "") -> list[dict[str, Any]]:
    return [json.loads(line) for line in bucket.read(f"{folder}metrics.jsonl").splitlines()]


def test_a_run_in_a_bucket_from_source_to_answers(store: Store, drawn: Path, tmp_path: Path) -> None:
    """Prepared and trained on one machine, interrupted, gone on with on another, evaluated and asked on a third."""
    out, bucket = f"{store.url}/run", open_bucket(f"{store.url}/run")
    first = start(tmp_path / "one", "train", "--data", drawn, "--out", out, *TRAIN, "--epochs", 40, "--save-every", "5steps", "--side", 40)
    until(first, lambda: len([name for name in listed(bucket, "checkpoints/") if name.endswith("checkpoint.json")]) > 1)
    first.send_signal(signal.SIGTERM)
    said = "".join(first.communicate(timeout=60))
    assert first.returncode == 75, said
    assert "requests, " in said
    before = summary(bucket)
    assert before["status"] == "interrupted"
    named = next(name for name in listed(bucket) if f"step-{before['steps']:08d}-" in name)
    assert named, "what was saved at the signal is in the bucket"

    said, _ = run(tmp_path / "two", "train", "--data", drawn, "--out", out, "--log-every", 1)
    assert f"resuming from step {before['steps']:,} of" in said
    assert "preparing" not in said, "the shards are in the bucket"
    assert f"{tmp_path}/two/runs" not in said, "whatever is said names the bucket, not the copy"
    after = summary(bucket)
    assert (after["status"], after["epochs"]) == ("done", 40)
    steps = [record["step"] for record in records(bucket) if record["kind"] == "step"]
    assert steps == list(range(1, after["steps"] + 1)), "each step once"
    config = bucket.read("config.toml").decode()
    assert f'out = "{out}"' in config
    assert f"{tmp_path}/two/runs" not in config

    said, _ = run(tmp_path / "two", "train", "--out", out)
    assert "is already finished" in said

    said, errors = run(tmp_path / "three", "train", "--out", out, "--epochs", 41, code=2)
    assert errors.startswith("twofold: --epochs: 41 differs from the run's 40 in ")
    assert "fetching" not in said

    figures = json.loads(run(tmp_path / "three", "evaluate", f"{out}/", "--json")[0])
    assert figures["accuracy"] == after["val_accuracy"]
    assert figures["chose"] == figures["images"]
    rows = run(tmp_path / "three", "predict", out, *sorted(drawn.glob("*/*.jpg"))[:3], *sorted(drawn.glob("*/*.png"))[:3])[0].splitlines()
    assert len(rows) == 4
    plot = f"{store.url}/plots/maps.png"
    for _ in range(2):  # the second replaces the first
        run(tmp_path / "three", "visualize", f"{out}/", next(iter(sorted(drawn.rglob("*.*g")))), "--out", plot)
        assert open_bucket(store.url).read("plots/maps.png").startswith(b"\x89PNG")
    again = run(tmp_path / "three", "evaluate", f"{out}/nothing", code=2)[1]
    assert again == f"twofold: {out}/nothing: is not a run folder; name the --out of a twofold train\n"


def test_a_report_that_cannot_be_written_is_a_warning(
    s3_store: Store, s3_reader: Store, run_copy: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the right to read alone, evaluate and predict do all but that."""
    s3_store.use(monkeypatch)
    bucket = open_bucket(s3_store.url)
    for path in run_copy.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(run_copy).parts):
            bucket.put(path.relative_to(run_copy).as_posix(), path)
    s3_reader.use(monkeypatch)
    out, errors = run(tmp_path / "one", "evaluate", s3_store.url, "--data", shards, "--split", "all")
    assert "accuracy" in out
    assert ("could not be written" in errors) == ("no mistakes to draw" not in errors)
    assert "wrote" not in errors
    assert "mistakes are in" not in errors


@pytest.fixture
def run_copy(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue("run")
    return found


def test_a_preparation_that_was_killed_goes_on_from_the_shards_that_are_there(store: Store, drawn: Path, tmp_path: Path) -> None:
    out, bucket = f"{store.url}/set", open_bucket(f"{store.url}/set")
    with proxied(store) as slow:
        slow.proxy.limit(60_000)
        first = start(tmp_path / "one", "prepare", drawn, "--out", out, "--side", 40, **slow.environment)
        until(first, lambda: len([name for name in listed(bucket) if name.endswith(".tfrecord")]) > 3)
        first.kill()
        first.communicate()
    before = listed(bucket)
    assert "manifest.json" not in before
    bucket.delete(lease.NAME, before[lease.NAME].version)  # else its life is waited for
    error = run(tmp_path / "two", "train", "--data", out, "--out", tmp_path / "run", code=2)[1]
    assert "is unfinished; rerun the same twofold prepare to finish it" in error
    run(tmp_path / "two", "prepare", drawn, "--out", out, "--side", 40)
    after = listed(bucket)
    assert "manifest.json" in after
    kept = [name for name in before if name.endswith((".tfrecord", ".npy"))]
    assert kept
    assert all(after[name].version == before[name].version for name in kept), "what was there is not written again"
    run(tmp_path / "two", "prepare", drawn, "--out", tmp_path / "local", "--side", 40)
    ours, theirs = json.loads(bucket.read("manifest.json")), json.loads((tmp_path / "local" / "manifest.json").read_text())
    assert ours["fingerprint"] == theirs["fingerprint"]

    whole = {name: bucket.read(name) for name in after if name != lease.NAME}
    for lost in (["train-00001-of-00016.tfrecord"], [*whole]):  # by hand
        stays = {name: found.version for name, found in listed(bucket).items() if name.endswith(".tfrecord") and name not in lost}
        for name in lost:
            bucket.delete(name, listed(bucket)[name].version)
        said, _ = run(tmp_path / "two", "prepare", drawn, "--out", out, "--side", 40)
        assert (f"warning: {out}/train-00001-of-00016.tfrecord is missing" in said.replace(": is", " is")) == (len(lost) == 1)
        assert {name: bucket.read(name) for name in listed(bucket) if name != lease.NAME} == whole
        assert {name: found.version for name, found in listed(bucket).items() if name in stays} == stays, "what was there is not sent again"
    said, _ = run(tmp_path / "three", "prepare", drawn, "--out", out, "--side", 40)
    assert f"{out} is already prepared" in said


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "keras-tuner"])
def test_a_sweep_in_a_bucket_is_killed_and_goes_on_elsewhere(store: Store, drawn: Path, tmp_path: Path, engine: str) -> None:
    out, bucket = f"{store.url}/sweep", open_bucket(f"{store.url}/sweep")
    own = ("--threads", "--workers")  # a sweep has others
    sweepable = [word for flag, value in zip(TRAIN[::2], TRAIN[1::2], strict=True) if flag not in own for word in (flag, value)]
    words = ["sweep", "--data", drawn, "--out", out, "--trials", 4, "--engine", engine, "--search", "random", "--side", 40]
    words += sweepable
    first = start(tmp_path / "one", *words)
    until(first, lambda: "trials.csv" in listed(bucket) and b"\n0001," in bucket.read("trials.csv"), 300)
    first.kill()
    first.communicate()
    said, _ = run(tmp_path / "two", *words, seconds=400)
    assert "was held by process" in said
    rows = bucket.read("trials.csv").decode().splitlines()
    assert len(rows) == 5, rows
    best = run(
        tmp_path / "three", "train", "--config", f"{out}/best.toml", "--data", f"{out}/data", "--out", f"{store.url}/best", "--epochs", 1
    )[0]
    assert "validation accuracy" in best
    figures = json.loads(run(tmp_path / "three", "evaluate", f"{out}/trials/0001", "--json")[0])
    assert figures["images"] > 0
