"""Checkpoints: whole or absent, verified, kept as asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from job.errors import UserError
from job.runs import checkpoints
from job.runs.checkpoints import Checkpoint
from job.runs.state import State


def _make(step: int) -> Checkpoint:
    arrays = {"weights/a": np.full((2, 3), step, np.float32), "loss/scale": np.float32(1.5)}
    return Checkpoint(arrays, State(fingerprint="f", step=step, seconds=0.1 + step))


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, _make(7))
    back = checkpoints.newest(tmp_path)
    assert back is not None
    assert back.state == _make(7).state
    np.testing.assert_array_equal(back.arrays["weights/a"], _make(7).arrays["weights/a"])
    assert back.arrays["loss/scale"].shape == ()


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path / "never") is None


def test_the_same_step_is_replaced(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, _make(7))
    checkpoints.save(tmp_path, Checkpoint({"weights/a": np.zeros(1)}, State(fingerprint="again", step=7)))
    back = checkpoints.newest(tmp_path)
    assert back is not None
    assert back.state.fingerprint == "again"
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000007"]


@pytest.mark.parametrize("damage", ["cut", "flip", "no state", "no json", "half json", "other version"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (3, 5):
        checkpoints.save(tmp_path, _make(step))
    state, record = tmp_path / "step-00000005" / "state.npz", tmp_path / "step-00000005" / "checkpoint.json"
    data = state.read_bytes()
    if damage == "cut":
        state.write_bytes(data[:-1])
    elif damage == "flip":
        state.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    elif damage == "no state":
        state.unlink()
    elif damage == "no json":
        record.unlink()
    elif damage == "half json":
        record.write_text(record.read_text()[:40])
    else:
        record.write_text(record.read_text().replace('"version": 2', '"version": 1'))
    back = checkpoints.newest(tmp_path)
    assert back is not None
    assert back.state.step == 3
    assert "warning:" in capsys.readouterr().out


def test_all_damaged_is_an_error_and_no_fresh_start(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, _make(3))
    (tmp_path / "step-00000003" / "state.npz").unlink()
    with pytest.raises(UserError, match="all 1 checkpoints are damaged; restore them, or start in a new --out"):
        checkpoints.newest(tmp_path)


def test_an_unfinished_save_does_not_count(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, _make(3))
    (tmp_path / ".step-00000009.tmp").mkdir()
    assert checkpoints.steps(tmp_path) == [3]
    checkpoints.save(tmp_path, _make(9))
    assert checkpoints.steps(tmp_path) == [9, 3]


def test_prune_keeps_what_is_named(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        checkpoints.save(tmp_path, _make(step))
    checkpoints.prune(tmp_path, {1, 4})
    assert checkpoints.steps(tmp_path) == [4, 1]
