"""The drill: what it plans, what it finds, and short ones of the real job; long ones are slow."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from job.config.options import build
from job.config.schema import DrillConfig
from job.drill import command, kills
from job.drill import run as runs
from job.drill.comparison import compare
from job.drill.kills import Kill, plan
from job.errors import Interrupted, MachineError, ProofError, UserError
from job.runs import checkpoints, records
from job.shutdown import Stop
from job.storage.opening import open_bucket
from tests import drilling
from tests.stores.fixtures import Store, proxied

FAKE = "import runpy; runpy.run_module('tests.drilling', run_name='__main__')"


def drill(out: Path | str = "", **options: object) -> None:
    command.drill(build(DrillConfig, dict(out=str(out), **options)), Stop())


# What is planned


@pytest.mark.parametrize("in_bucket", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_half_of_the_kills_are_by_sigkill_and_half_of_the_starts_on_a_fresh_machine(in_bucket: bool, seed: int) -> None:
    found = plan(24, 600, seed, in_bucket)
    assert Counter(kill.signal for kill in found) == {signal.SIGKILL: 12, signal.SIGTERM: 12}
    assert sum(kill.fresh for kill in found) == (12 if in_bucket else 0)
    counts = Counter(kill.point for kill in found)
    assert counts.keys() == kills.POINTS.keys() - (set() if in_bucket else {kills.UPLOAD})
    assert min(counts[point] for point in counts if point != kills.END) >= 3
    steps = [kill.step for kill in found]
    assert steps == sorted(steps)
    assert (found[-1].point, found[-1].signal, steps[-1]) == (kills.END, signal.SIGKILL, 600)
    assert len({kill.share for kill in found}) == 24


def test_the_points_follow_from_the_seed() -> None:
    assert plan(5, 600, 1, True) == plan(5, 600, 1, True)
    assert plan(5, 600, 1, True) != plan(5, 600, 2, True)


# What is compared


@pytest.fixture
def pair(run: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A finished run, and a copy that was trained at another time."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    _change_records(copy, lambda rows: [{**row, "time": 0.0, "seconds": 1.0, "images_per_second": 2.0} for row in rows])
    summary = json.loads((copy / records.SUMMARY).read_text())
    (copy / records.SUMMARY).write_text(json.dumps({**summary, "seconds": 1.0, "images_per_second": 2.0, "updated": 3.0, "process": "x"}))
    return run, copy


def _change_records(folder: Path, change: Callable[[list[dict[str, object]]], list[dict[str, object]]]) -> None:
    (folder / records.METRICS).write_text("".join(json.dumps(row) + "\n" for row in change(records.read_metrics(folder))))


def test_equal_runs_are_equal_whatever_their_times(pair: tuple[Path, Path]) -> None:
    found = compare(*pair)
    assert found.differences == ()
    assert found.arrays > 10
    assert found.weights > 5
    assert (found.steps, found.epochs) == (len({r["step"] for r in records.read_metrics(pair[0])}), 2)


def test_one_bit_of_one_array_is_found(pair: tuple[Path, Path]) -> None:
    folder = pair[1] / records.CHECKPOINTS
    newest = checkpoints.newest(folder)
    assert newest is not None
    name = sorted(newest.arrays)[3]
    array = np.array(newest.arrays[name])
    array.reshape(-1).view(np.uint8)[0] ^= 1
    shutil.rmtree(folder / str(newest.name))
    checkpoints.save(folder, checkpoints.Checkpoint({**newest.arrays, name: array}, newest.state, newest.fence, newest.settings))
    assert compare(*pair).differences == (f"the last checkpoint differs in 1 of {len(newest.arrays)} entries, such as {name}",)


def test_one_bit_of_the_exported_model_is_found(pair: tuple[Path, Path]) -> None:
    path = pair[1] / "model.keras"
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    raw = io.BytesIO(members["model.weights.h5"])
    names: list[str] = []
    with h5py.File(raw, "r+") as weights:
        weights.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) and item.size else None)
        weights[names[0]][...] = np.nextafter(weights[names[0]][()], np.float32(9e9))
    with zipfile.ZipFile(path, "w") as file:
        for name, content in (members | {"model.weights.h5": raw.getvalue()}).items():
            file.writestr(name, content)
    (line,) = compare(*pair).differences
    assert line.startswith("model.keras differs in 1 of ")
    assert line.endswith(f"such as {names[0]}")


def test_records_that_are_missing_or_doubled_or_differ_are_found(pair: tuple[Path, Path]) -> None:
    def spoil(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        steps = [row for row in rows if row["kind"] == "step"]
        epochs = [row for row in rows if row["kind"] == "epoch"]
        steps[3]["loss"] = np.nextafter(steps[3]["loss"], 9.0)
        return [*steps[:5], *steps[6:], *epochs, epochs[1]]

    _change_records(pair[1], spoil)
    count = compare(*pair).steps
    assert compare(*pair).differences == (
        "the killed run recorded step 6 0 times (1 such steps)",
        f"the records of each step differs in 2 of {count} entries, such as 4",
        "the killed run recorded epoch 2 2 times (1 such epochs)",
    )


def test_another_summary_is_found(pair: tuple[Path, Path]) -> None:
    summary = json.loads((pair[1] / records.SUMMARY).read_text())
    (pair[1] / records.SUMMARY).write_text(json.dumps({**summary, "best_step": 1}))
    assert [line.partition(" differs")[0] for line in compare(*pair).differences] == [records.SUMMARY]


# How it kills, on a job that takes no TensorFlow


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(runs, "PROGRAM", FAKE)
    monkeypatch.setattr(runs, "PATIENCE", 2.0)
    monkeypatch.setattr(command, "IMAGES", 30)
    monkeypatch.setattr(command, "epoch_end", lambda *_: drilling.STEPS)
    monkeypatch.setitem(kills.POINTS, kills.RESTORE, 0.3)
    monkeypatch.setitem(kills.POINTS, kills.END, 0.0)


@pytest.mark.usefixtures("fake")
def test_a_job_that_resumes_exactly_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drill(tmp_path / "out", kills=5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("drill: a job of 300 steps runs undisturbed, then again in another folder, killed 5 times and started anew")
    starts = [line for line in lines if line.startswith("drill: start ")]
    assert len(starts) == 6
    assert Counter(word for line in starts for word in ("SIGKILL", "SIGTERM") if word in line) == {"SIGKILL": 3, "SIGTERM": 2}
    assert starts[-1].endswith("to the end, step 300")
    assert any(line.startswith("drill: equal to the last bit after 5 kills: 1 array of the last checkpoint") for line in lines)
    twice = sum(int(line.split("cost: ")[1].split(" ")[0]) for line in lines if "cost: " in line)
    assert 0 < twice < 300
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"undisturbed", "killed"}
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("order", "the last checkpoint differs in 1 of 1 entries, such as weights/a"),
        ("repeats", "the killed run recorded step"),
        ("ends", "ended with 2: out: is broken; mend it"),
        ("deaf", "runs 2 s after SIGTERM"),
    ],
)
def test_a_job_that_does_not_is_found_out(fault: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRILLED", fault)
    found = [Kill(signal.SIGKILL, kills.BETWEEN, 51, 0.0, False), Kill(signal.SIGTERM, kills.BETWEEN, 161, 0.0, False)]
    monkeypatch.setattr(command.kills, "plan", lambda *_: found)
    with pytest.raises(ProofError, match=words):
        drill(tmp_path / "out", kills=2)
    (kept,) = (tmp_path / "temporary").iterdir()
    assert len(list((kept / "killed-starts").glob("start-*.txt"))) >= 2, "the logs are kept"


@pytest.mark.usefixtures("fake")
def test_at_most_three_kills_come_before_a_new_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All during a restore: the job refuses a fifth start without a new checkpoint, so the drill must let one come."""
    monkeypatch.setattr(command.kills, "plan", lambda *_: [Kill(signal.SIGKILL, kills.RESTORE, 0, 0.1, False)] * 5)
    drill(tmp_path / "out", kills=5)


@pytest.mark.usefixtures("fake")
def test_what_the_undisturbed_run_ends_with_is_what_the_drill_ends_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "PROGRAM", "import sys; print('twofold: disk: is full; free some', file=sys.stderr); sys.exit(69)")
    with pytest.raises(MachineError, match="drill: the undisturbed run ended with 69: disk: is full; free some"):
        drill(tmp_path / "out")


@pytest.mark.usefixtures("fake")
def test_a_stop_ends_the_process_under_way_and_leaves_nothing_behind(tmp_path: Path) -> None:
    stop, pids = Stop(), []

    def watch() -> None:
        while not (tmp_path / "out" / "killed" / records.METRICS).exists():
            time.sleep(0.01)
        pids.append(int((tmp_path / "out" / "killed" / ".lock").read_text().split()[1]))
        stop.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    with pytest.raises(Interrupted):
        command.drill(build(DrillConfig, dict(out=str(tmp_path / "out"), kills=5)), stop)
    watcher.join()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_folder_that_holds_anything_is_refused(tmp_path: Path, gcs_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("")
    gcs_store.use(monkeypatch)
    open_bucket(gcs_store.url).put("mine.txt", b"")
    for out in (str(tmp_path), gcs_store.url):
        with pytest.raises(UserError) as raised:
            drill(out)
        assert str(raised.value) == f"{out}: holds other files, such as mine.txt; name a new or empty folder with --out"


# The job itself


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "IMAGES", 200)
    monkeypatch.setattr(command, "STEPS", 40)
    monkeypatch.setattr(command, "STEPS_PER_KILL", 10)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_a_run_on_a_disk_is_killed_and_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    drill(kills=2)
    assert "equal to the last bit after 2 kills" in capsys.readouterr().out


@pytest.mark.usefixtures("short")
def test_a_run_in_a_bucket_is_killed_and_loses_nothing(
    gcs_store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gcs_store.use(monkeypatch)
    drill(gcs_store.url, kills=2)
    said = capsys.readouterr().out
    assert "equal to the last bit after 2 kills" in said
    assert "on a fresh machine" in said
    assert "sent to the bucket" in said


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_25_kills_on_a_disk(replicas: int, capsys: pytest.CaptureFixture[str]) -> None:
    drill(kills=25, replicas=replicas)
    assert "equal to the last bit after 25 kills" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gcs_store", "s3_store"])
def test_25_kills_in_a_bucket(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store: Store = request.getfixturevalue(kind)
    store.use(monkeypatch)
    drill(store.url, kills=25)
    assert "equal to the last bit after 25 kills" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gcs_store", "s3_store"])
def test_500_faults_on_the_way_to_a_bucket(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with proxied(request.getfixturevalue(kind)) as store:
        store.use(monkeypatch)
        store.proxy.faults.chaos(seed=1, probability=0.6, total=500)
        drill(store.url, kills=12)
        assert store.proxy.faults.counts()["chaos_left"] == 0
    assert "equal to the last bit after 12 kills" in capsys.readouterr().out
