"""Whole jobs that meet on one run in a bucket, at the lease's own life: minutes each, so slow."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from job.storage import lease
from job.storage.bucket import Bucket
from job.storage.opening import open_bucket
from tests.stores.fixtures import Store
from tests.test_bucket_runs import TRAIN, listed, records, start, summary, until

pytestmark = pytest.mark.slow

LONG = [*TRAIN, "--epochs", "4000", "--save-every", "20steps"]


@pytest.fixture(params=["gcs_store", "s3_store"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    found: Store = request.getfixturevalue(request.param)
    found.use(monkeypatch)
    return found


def fence(bucket: Bucket) -> int:
    standing = lease.read(bucket)
    assert standing is not None
    assert standing.document is not None
    return standing.document.fence


def trains(process: subprocess.Popen[str], bucket: Bucket, number: int) -> None:
    """Wait until a job commits checkpoints under a fence."""
    until(process, lambda: any(f"-{number:04d}/checkpoint.json" in name for name in listed(bucket, "checkpoints/")), 240)


def ended(process: subprocess.Popen[str], code: int, seconds: float = 120) -> str:
    out, errors = process.communicate(timeout=seconds)
    assert process.returncode == code, out + errors
    return errors


def test_of_two_jobs_that_start_at_once_one_goes_on_three_times(store: Store, shards: Path, tmp_path: Path) -> None:
    for number in range(3):
        out, bucket = f"{store.url}/{number}", open_bucket(f"{store.url}/{number}")
        jobs = [start(tmp_path / f"{number}-{k}", "train", "--data", shards, "--out", out, *LONG) for k in range(2)]
        while all(job.poll() is None for job in jobs):
            time.sleep(0.1)
        loser, winner = sorted(jobs, key=lambda job: job.poll() is None)
        error = ended(loser, 2)
        assert error.startswith(f"twofold: {out}: is in use by process {winner.pid} on "), error
        trains(winner, bucket, 1)
        winner.send_signal(signal.SIGTERM)
        ended(winner, 75)
        assert fence(bucket) == 1


def test_a_dead_owner_is_taken_over(store: Store, shards: Path, tmp_path: Path) -> None:
    bucket = open_bucket(store.url)
    dead = start(tmp_path / "one", "train", "--data", shards, "--out", store.url, *LONG)
    trains(dead, bucket, 1)
    dead.kill()
    dead.communicate()
    heir = start(tmp_path / "two", "train", "--data", shards, "--out", store.url, "--save-every", "20steps", "--log-every", 1)
    trains(heir, bucket, 2)
    heir.send_signal(signal.SIGTERM)
    ended(heir, 75)
    steps = [record["step"] for record in records(bucket) if record["kind"] == "step"]
    assert steps == list(range(1, summary(bucket)["steps"] + 1))


def test_a_stale_owner_that_wakes_after_two_minutes_commits_nothing_that_is_read(store: Store, shards: Path, tmp_path: Path) -> None:
    bucket = open_bucket(store.url)
    stale = start(tmp_path / "one", "train", "--data", shards, "--out", store.url, *LONG)
    trains(stale, bucket, 1)
    stale.send_signal(signal.SIGSTOP)
    heir = start(tmp_path / "two", "train", "--data", shards, "--out", store.url, "--save-every", "20steps", "--log-every", 1)
    trains(heir, bucket, 2)
    time.sleep(60)
    stale.send_signal(signal.SIGCONT)
    error = ended(stale, 2)
    assert error.startswith(f"twofold: {store.url}: was taken over by process {heir.pid} on "), error
    before = {found.name: found.version for found in bucket.list("checkpoints/") if "-0001/" in found.name}
    heir.send_signal(signal.SIGTERM)
    ended(heir, 75)
    after = summary(bucket)
    assert f"process {heir.pid}" in str(after.get("process", "")) or str(heir.pid) in json.dumps(after)
    steps = [record["step"] for record in records(bucket) if record["kind"] == "step"]
    assert steps == list(range(1, after["steps"] + 1))
    last = start(tmp_path / "three", "train", "--data", shards, "--out", store.url, "--stop-after", 1)
    out, errors = last.communicate(timeout=240)
    assert f"resuming from step {after['steps']:,} of" in out, out + errors
    assert not any(name in before for name in listed(bucket, "checkpoints/") if f"step-{after['steps']:08d}-0001" in name)
