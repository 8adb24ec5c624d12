"""Trials in their workers: how one ends, what it leaves open, its share of the memory; and Ray on this machine."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from job.config.options import build, replace
from job.config.schema import Config
from job.console import console
from job.errors import Interrupted, MachineError, OutOfMemory, UserError
from job.machine import devices
from job.runs import records
from job.shutdown import Stop
from tests.conftest import small
from tuning import local_ray, space, trial
from tuning.plan import Plan
from tuning.state import START, Trial
from tuning.trial import Outcome


def _plan(out: Path, base: Config | None = None, **changes: Any) -> Plan:
    base = build(Config, {}) if base is None else base
    values: dict[str, Any] = dict(
        out=out, base=base, space=space.read(None, base, 1000, ()), start=None, trials=4, search="tpe", first_rung=1, reduction=3,
        concurrent=2, gpus=0, cpus=1,
    )  # fmt: skip
    return Plan(**values | changes)


def _raise(error: BaseException) -> Any:
    def train(*arguments: Any, **options: Any) -> None:
        os.write(1, b"what a library prints")
        raise error

    return train


def _full(path: str) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", path)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Interrupted(), Outcome("interrupted")),
        (UserError("--lr", "is too high", "lower it"), Outcome("failed", "--lr: is too high; lower it")),
        (OutOfMemory("step 1", "out of memory", "try --batch 8"), Outcome("failed", "step 1: out of memory; try --batch 8")),
        (MemoryError(), Outcome("failed", "out of memory ()")),
        (MachineError("--gpus 1", "none", "use the CPU"), Outcome("fault", "--gpus 1: none; use the CPU")),
        (_full("/x"), Outcome("fault", "/x: the disk is full; free some space and rerun to resume")),
        (OSError(errno.ENOTDIR, "Not a directory", "/x"), Outcome("failed", "NotADirectoryError: [Errno 20] Not a directory: '/x'")),
        (RuntimeError("first line\nsecond line"), Outcome("failed", "RuntimeError: first line")),
    ],
)
def test_how_a_trial_ends_is_an_outcome(error: BaseException, outcome: Outcome, tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
    monkeypatch.setattr("job.train.train", _raise(error))
    monkeypatch.setattr(trial, "_clear", lambda: None)  # it takes seconds, and there is nothing to forget
    assert trial.run(build(Config, dict(out=str(tmp_path / "run"))), lambda epoch: False, Stop()) == outcome
    assert not console.quiet, "the console of the process that runs trials is left quiet"
    assert "a library prints" not in capfd.readouterr().out
    assert "what a library prints" in (tmp_path / "run" / records.LOG).read_text()


def test_out_of_memory_within_tensorflow_is_a_failed_trial(tmp_path: Path, monkeypatch: Any) -> None:
    from job.machine.libraries import tf

    error = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[9,9]\n" + "more\n" * 70)
    monkeypatch.setattr("job.train.train", _raise(error))
    monkeypatch.setattr(trial, "_clear", lambda: None)  # it takes seconds, and there is nothing to forget
    outcome = trial.run(build(Config, dict(out=str(tmp_path / "run"))), lambda epoch: False, Stop())
    assert outcome == Outcome("failed", "out of memory (OOM when allocating tensor with shape[9,9])")


def _tiny(shards: Path, out: Path, **changes: Any) -> Config:
    network = dict(model="classic", size=16, train_sizes=(16,), filters=(4,), dense=(4,), optimizer="sgd")
    return small(shards, out, **network | changes)


def test_trials_one_after_another_leave_no_descriptor_open(shards: Path, tmp_path: Path) -> None:
    open_after = []
    for number in range(3):
        config = _tiny(shards, tmp_path / str(number), epochs=1)
        assert trial.run(config, lambda epoch: False, Stop()) == Outcome("done")
        open_after.append(len(os.listdir("/proc/self/fd")))
    assert open_after[2] == open_after[1]


def test_memory_is_divided_when_a_trial_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is free then and by the trials that this machine can run, which may be one of a cluster."""
    monkeypatch.setattr(devices, "cores", lambda: 8)
    plan = _plan(tmp_path, concurrent=4)
    for free, memory in ((16, 2.0), (8, 1.0)):
        monkeypatch.setattr(devices, "free_memory", lambda free=free: free << 30)
        assert plan.config("0002", {}).feed.memory == memory
    monkeypatch.setattr(devices, "cores", lambda: 2)
    assert plan.config("0002", {}).feed.memory == 2.0
    given = _plan(tmp_path, replace(plan.base, memory=0.3))
    assert given.config("0002", {}).feed.memory == 0.3


def test_a_promoted_trial_starts_from_its_parents_newest_and_best_checkpoint(shards: Path, tmp_path: Path) -> None:
    parent, child = tmp_path / "parent", tmp_path / "child"
    config = _tiny(shards, parent, epochs=3, stop_after=2)
    assert trial.run(config, lambda epoch: False, Stop()) == Outcome("stopped")
    trial.inherit(parent, child)
    assert trial.run(replace(config, out=str(child), stop_after=0), lambda epoch: False, Stop()) == Outcome("done")
    ours, theirs = records.read_epochs(child), records.read_epochs(parent)
    assert ours[:2] == theirs
    assert len(ours) == 3


@pytest.mark.filterwarnings("ignore")
def test_asha_compares_new_trials_with_those_of_an_earlier_start(shards: Path, run: Path, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from ray import tune

    from tuning import engine_ray

    known = records.read_epochs(run)
    plan = _plan(tmp_path, replace(Config(), epochs=9))
    ended = [Trial(id, {}, status="stopped", epochs=known[:1]) for id in (START, "0002", "0003")]
    score = known[0].validation.log_loss
    for told, worse in ((ended, "STOP"), (ended[:1], "CONTINUE")):  # the starting configuration alone is no measure
        asha = tune.schedulers.ASHAScheduler(time_attr="epoch", metric="score", mode="min", max_t=9, grace_period=1, reduction_factor=3)
        engine_ray._fill(asha, plan, told)
        new: Any = SimpleNamespace(trial_id="new")
        asha.on_trial_add(None, new)  # type: ignore[arg-type]
        assert asha.on_trial_result(None, new, {"epoch": 1, "score": score + 1}) == worse  # type: ignore[arg-type]


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder whose name is short enough for the sockets of a Ray within."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def _made(monkeypatch: pytest.MonkeyPatch, base: Path | str) -> Path:
    monkeypatch.setenv("TMPDIR", str(base))
    folder, held = local_ray._folder()
    os.close(held)
    return folder


def test_rays_folder_is_short_enough_for_its_sockets(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _made(monkeypatch, base).parent == base
    (too_long := tmp_path / ("x" * 64)).mkdir()
    for unusable in (too_long, base / "missing"):
        folder = _made(monkeypatch, unusable)
        folder.rmdir()
        assert folder.parent == Path("/tmp")
    longest = local_ray.LONGEST + len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
    assert longest == 107, "bytes that the name of a Unix socket may have"


def test_without_a_folder_for_ray_one_line_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkdtemp", _raise(PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(MachineError) as caught:
        local_ray._folder()
    assert str(caught.value) == "TMPDIR: there is no folder for Ray's sockets; set it to one that can be written, of at most 26 bytes"


def test_the_folders_of_killed_sweeps_are_removed_and_no_others(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    abandoned, in_use, other = base / "twofold-abandone", base / "twofold-in_use__", base / "twofold-of-the-user"
    for folder in (abandoned, in_use, other):
        (folder / "session").mkdir(parents=True)
    held = os.open(in_use, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    link = base / "twofold-linked__"
    link.symlink_to(other)
    made = _made(monkeypatch, base)
    os.close(held)
    assert sorted(base.iterdir()) == sorted([made, in_use, other, link])
    assert (other / "session").exists()


def test_a_ray_that_does_not_start_is_one_line_and_the_environment_is_restored(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(base))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    before = dict(os.environ)
    with local_ray.started(cores=-1) as address:
        assert os.environ["RAY_AUTH_MODE"] == "disabled"
        with pytest.raises(MachineError) as caught:
            address()
    assert str(caught.value).startswith("Ray: did not start (")
    assert str(caught.value).endswith("; use --engine keras-tuner, which needs no Ray")
    assert dict(os.environ) == before
    assert list(base.iterdir()) == []
