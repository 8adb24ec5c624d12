"""Damage to what a run folder holds beside its checkpoints: nothing starts afresh, and nothing else than one line is raised."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.cli import main
from job.config import options
from job.config.options import build
from job.config.resolve import recorded, resolve
from job.config.schema import Config
from job.errors import UserError
from job.metrics import measure
from job.runs import checkpoints, records, starts
from job.runs.checkpoints import Checkpoint
from job.runs.records import Epoch, Summary
from job.runs.state import State
from job.storage import lock
from job.train import train
from job.training import resume
from job.training.runlog import RunLog
from tests.conftest import SMALL, small
from tests.damage import KINDS, damage

TIMES = 40  # for each kind of damage
METRICS = measure(np.array([0.0, 1.0, 1.0]), np.array([-1.0, 2.0, -0.5]))


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The folder of a run with a checkpoint, written without training."""
    config = build(Config, {**SMALL, "data": str(tmp_path / "data"), "out": str(tmp_path / "run")})
    resolved = resolve(config, 100)
    folder = tmp_path / "run"
    folder.mkdir()
    records.write_config(folder, recorded(config, resolved))
    checkpoints.save(folder / records.CHECKPOINTS, Checkpoint({}, State(fingerprint="f", step=3), 1, resume.settings(resolved)))
    return folder


def _merged(folder: Path) -> dict[str, Any]:
    """The settings of a resumed run, where none are given."""
    resume.require_configuration(folder)
    return resume.settings(resolve(resume.merge(folder, Config(), {"out"}), 100))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a folder"])
def test_a_configuration_that_is_not_the_runs_is_one_line(begun: Path, kind: str) -> None:
    """Or what was damaged did not shape the weights, or may change."""
    rng = np.random.default_rng(1)
    whole, right = (begun / records.CONFIG).read_bytes(), _merged(begun)
    said = []
    for _ in range(TIMES):
        (begun / records.CONFIG).write_bytes(whole)
        damage(kind, begun / records.CONFIG, rng)
        try:
            assert _merged(begun) == right
        except UserError as error:
            said.append(str(error))
    assert all(line.startswith(f"{begun / records.CONFIG}") and "\n" not in line for line in said)
    assert len(said) >= {"a bit": TIMES // 2, "longer": 0}.get(kind, TIMES * 3 // 4)


def test_a_configuration_that_was_edited_names_what_to_set_back(begun: Path) -> None:
    config = begun / records.CONFIG
    whole = config.read_text()
    for old, new, line in (
        ("batch = 16", "batch = 17", " batch: is 17, and the run was trained with 16; set it to that to resume"),
        ("filters = [8, 16]", "filters = [8, 17]", " filters: is 8,17, and the run was trained with 8,16; set it to that to resume"),
        ("lr = 0.05\n", "", " lr: is missing or auto, and the run was trained with 0.05; set it to that to resume"),
    ):
        config.write_text(whole.replace(old, new))
        with pytest.raises(UserError) as error:
            _merged(begun)
        assert str(error.value) == f"{config}{line}"
    config.unlink()
    fix = "is missing, and the run has checkpoints; restore it, copy that of a run with the same options, or start in a new --out"
    with pytest.raises(UserError) as error:
        _merged(begun)
    assert str(error.value) == f"{config}: {fix}"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a folder"])
def test_a_damaged_summary_is_none_or_has_values_of_the_right_types(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(2)
    summary = Summary(status="stopped", steps=9, best_step=7, classes=("a", "b"), fingerprint="f", validation=METRICS)
    for _ in range(TIMES):
        records.write_summary(tmp_path, summary)
        damage(kind, tmp_path / records.SUMMARY, rng)
        found = records.read_summary(tmp_path)
        assert found is None or (isinstance(found.steps, int) and found.status == "stopped" and math.isfinite(found.accuracy))


@pytest.mark.parametrize("changed", [dict(status="x"), dict(best_step="7"), dict(steps=-1), dict(classes=["a"]), dict(val_accuracy="1")])
def test_a_summary_of_other_types_is_none(tmp_path: Path, changed: dict[str, Any]) -> None:
    records.write_summary(tmp_path, Summary(status="done", classes=("a", "b"), validation=METRICS))
    document = json.loads((tmp_path / records.SUMMARY).read_text())
    assert records.read_summary(tmp_path) is not None
    (tmp_path / records.SUMMARY).write_text(json.dumps(document | changed))
    assert records.read_summary(tmp_path) is None


def _log(folder: Path, epochs: int = 3) -> list[dict[str, Any]]:
    """Write the records of some epochs of two steps; returns them."""
    folder.mkdir()
    log = RunLog(folder, 0, 0)
    for number in range(1, epochs + 1):
        for step in (2 * number - 1, 2 * number):
            log.add_step(step, dict(loss=0.5, accuracy=0.75))
        log.add_epoch(
            Epoch(
                epoch=number, step=2 * number, train_loss=0.4, train_accuracy=0.8, learning_rate=0.1, images_per_second=9.0,
                seconds=float(number), validation=METRICS,
            )
        )  # fmt: skip
    log.close()
    return records.read_metrics(folder)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a folder"])
def test_of_damaged_records_is_kept_what_can_be(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(3)
    written = _log(tmp_path / "run")
    whole = (tmp_path / "run" / records.METRICS).read_bytes()
    lines = whole.splitlines()
    for number in range(6):
        (tmp_path / "run" / records.METRICS).write_bytes(whole)
        damage(kind, tmp_path / "run" / records.METRICS, rng)
        path = tmp_path / "run" / records.METRICS
        left = set(path.read_bytes().split(b"\n")) if path.exists() else set()
        log = RunLog(tmp_path / "run", 6, 3)
        if not number:
            log.draw()
        log.close()
        kept = records.read_metrics(tmp_path / "run")
        assert all(record in kept for record, line in zip(written, lines, strict=True) if line in left)
        assert len(kept) <= len(written)
        capsys.readouterr()


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe garbage", b"[1, 2]", b"7", b"{}", b'{"kind": "step"}', b'{"kind": "step", "step": 2, "time": "x"}',
        b'{"kind": "step", "step": 2.5, "time": 1.0}', b'{"kind": "step", "step": 2, "time": 1%s}' % (b"0" * 400),
        b'{"kind": "epoch", "step": 2, "epoch": 1, "time": 1.0}', b'{"kind": "other", "step": 2, "time": 1.0}',
        b'{"kind": "step", "step": 2, "time": 1.0, "\\ud800": 1}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_line_that_is_no_record_is_told_of_and_left_out(tmp_path: Path, line: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    written = _log(tmp_path / "run", epochs=1)
    path = tmp_path / "run" / records.METRICS
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + b"\n" + line + b"\n" + b"".join(rest) + b'{"kind": "st')  # and what a kill leaves
    RunLog(tmp_path / "run", 2, 1).close()
    assert capsys.readouterr().out == "warning: metrics.jsonl: 2 lines corrupt, left out of the run's records\n"
    assert records.read_metrics(tmp_path / "run") == written


def test_events_are_rotated_and_no_name_is_used_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from job.training import runlog

    monkeypatch.setattr(runlog, "ROTATE", 300)
    monkeypatch.setattr("time.time", lambda: 1.7e9)  # as a clock that jumps back to the same second may give it
    folder = tmp_path / "run" / "tensorboard"
    _log(tmp_path / "run", epochs=6)
    before = {path.name for path in folder.iterdir()}
    assert len(before) > 3
    assert max(path.stat().st_size for path in folder.iterdir()) < 1500
    RunLog(tmp_path / "run", 12, 6).close()
    assert not before & {path.name for path in folder.iterdir()}
    steps = [event.step for event in EventAccumulator(str(folder)).Reload().Scalars("step/loss")]
    assert sorted(steps) == list(range(1, 13))


def test_garbage_in_the_lock_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_bytes(b"\xff\x00\xfe" * 100)
    assert lock.holder(tmp_path) is None
    with lock.only_writer(tmp_path):
        (tmp_path / ".lock").write_bytes(b"\xff garbage")
        with pytest.raises(lock.InUse, match=r"is in use by . garbage"), lock.only_writer(tmp_path):
            pass
        assert lock.holder(tmp_path) == "\ufffd garbage"


def test_a_run_whose_other_files_are_garbage_goes_on_exactly(shards: Path, run: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    assert train(small(shards, out, stop_after=1)).status == "stopped"
    for name in (records.SUMMARY, ".lock", starts.NAME, records.LOG, "history.csv", "curves.png", "environment.json"):
        (out / name).write_bytes(b"\xff\x00garbage\n")
    lines = (out / records.METRICS).read_bytes().splitlines(keepends=True)
    (out / records.METRICS).write_bytes(b"".join((lines[0], b"\xff\x00garbage\n", *lines[2:])))
    assert train(small(shards, out)).status == "done"
    assert "1 line corrupt, left out" in capsys.readouterr().out
    ours, theirs = (checkpoints.newest(folder / records.CHECKPOINTS) for folder in (out, run))
    assert ours is not None
    assert theirs is not None
    for name, array in theirs.arrays.items():
        np.testing.assert_array_equal(ours.arrays[name], array, err_msg=name)
    assert records.read_epochs(out)[-1].validation == records.read_epochs(run)[-1].validation


@pytest.mark.parametrize("damaged", ["no configuration", "no TOML", "no checkpoint at all", "no whole checkpoint"])
def test_what_cannot_be_mended_is_2_in_one_line_and_no_fresh_start(
    shards: Path, run: Path, tmp_path: Path, damaged: str, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    summary = records.read_summary(out)
    assert summary is not None
    records.write_summary(out, replace(summary, status="running"))
    folder, config = out / records.CHECKPOINTS, out / records.CONFIG
    lines: dict[str, tuple[Callable[[], Any], str]] = {
        "no configuration": (config.unlink, f"{config}: is missing, and the run has checkpoints; restore it, "),
        "no TOML": (lambda: config.write_bytes(b"\x00\xff"), f"{config}: is not valid TOML ("),
        "no checkpoint at all": (lambda: shutil.rmtree(folder), f"{folder}: holds no checkpoint, and summary.json says that one of step "),
        "no whole checkpoint": (
            lambda: [(folder / str(name) / "state.npz").write_bytes(b"") for name in checkpoints.names(folder)],
            f"{folder}: all 2 checkpoints are damaged; restore them, or start in a new --out",
        ),
    }  # fmt: skip
    lines[damaged][0]()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name not in (records.LOG, ".lock")}
    words = ["train", "--data", str(shards), "--out", str(out), *(f"--{name.replace('_', '-')}={_word(v)}" for name, v in SMALL.items())]
    with pytest.raises(SystemExit) as left:
        main(words)
    printed = capfd.readouterr().err
    assert (left.value.code, printed.count("\n")) == (2, 1)
    assert printed.startswith(f"twofold: {lines[damaged][1]}")
    assert {path: path.read_bytes() for path in before} == before


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_an_older_runs_configuration_is_taken_as_it_is(begun: Path) -> None:
    """Its checkpoints say nothing of options, and its interval between them is a number of minutes."""
    for name in checkpoints.names(begun / records.CHECKPOINTS):
        shutil.rmtree(begun / records.CHECKPOINTS / str(name))
    checkpoints.save(begun / records.CHECKPOINTS, Checkpoint({}, State(fingerprint="f", step=3)))
    config = begun / records.CONFIG
    lines = [line for line in config.read_text().splitlines() if not line.startswith(("grace", "step_timeout", "notice"))]
    config.write_text("\n".join("save_every = 5.0" if line.startswith("save_every") else line for line in lines) + "\n")
    assert options.leaves(records.read_config(begun))["save_every"] == "5.0"
    assert resume.merge(begun, Config(), {"out"}).schedule.batch == 16
