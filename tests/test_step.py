"""The step: two replicas equal one device in turn; what is not finite changes nothing; XLA and float16."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.training.step import SCALE, Step
from tests.replicas import InTurn, take_steps
from tests.stepping import PLAIN, SIZE, make_batch, make_step


def _in_a_process_of_its_own(case: str, folder: Path) -> None:
    command = [sys.executable, "-m", "tests.replicas", case, str(folder)]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same steps on two replicas, on replicas that exchange nothing, on one device in turn, and on one at once."""
    folder = tmp_path_factory.mktemp("taken")
    _in_a_process_of_its_own("replicas", folder)
    take_steps({"turns": InTurn, "plain": Step}, folder)
    return {name: dict(np.load(folder / f"{name}.npz")) for name in ("mirrored", "silent", "turns", "plain")}


def test_two_replicas_equal_one_device_that_takes_the_halves_in_turn(taken: Any) -> None:
    mirrored, turns = taken["mirrored"], taken["turns"]
    assert float(mirrored["_apart"]) == 0.0, "the replicas' own copies drifted apart"
    assert mirrored.keys() == turns.keys()
    for name in turns:
        np.testing.assert_allclose(mirrored[name], turns[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_comparison_finds_a_missing_all_reduce(taken: Any) -> None:
    silent, turns = taken["silent"], taken["turns"]
    assert float(silent["_apart"]) > 1e-4
    assert any(not np.allclose(silent[name], turns[name], rtol=1e-5, atol=1e-6) for name in turns if "kernel" in name)
    assert any(not np.allclose(silent[name], turns[name], rtol=1e-5, atol=1e-6) for name in turns if "moving" in name)


@pytest.mark.slow
def test_xla_gives_the_same_steps(taken: Any, tmp_path: Path) -> None:
    _in_a_process_of_its_own("xla", tmp_path)
    compiled = np.load(tmp_path / "xla.npz")
    for name, expected in taken["plain"].items():
        np.testing.assert_allclose(compiled[name], expected, rtol=2e-3, atol=2e-4, err_msg=name)


def test_a_batch_that_is_not_finite_changes_nothing() -> None:
    step = make_step()
    images, labels, noise = make_batch(step)
    step.run(images, labels, noise, 0.05, 0, SIZE)
    before = step.arrays()
    outcome = step.run(images, np.full(8, np.nan, np.float32), noise, 0.05, 1, SIZE)
    assert not bool(outcome.finite)
    for name, array in step.arrays().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_float16_and_bfloat16_follow_float32() -> None:
    losses, norms = {}, {}
    for precision in ("float32", "bfloat16", "float16"):
        step = make_step(**PLAIN, precision=precision, optimizer="sgd")
        batch = make_batch(step)
        outcomes = [step.run(*batch, 0.02, k, SIZE) for k in range(4)]
        losses[precision], norms[precision] = ([float(getattr(o, figure)) for o in outcomes] for figure in ("loss", "norm"))
        assert step.arrays()["loss/scale"] == (SCALE if precision == "float16" else 1.0)
    for precision in ("bfloat16", "float16"):
        np.testing.assert_allclose(losses[precision], losses["float32"], rtol=0.03)
        np.testing.assert_allclose(norms[precision], norms["float32"], rtol=0.1)


def test_clipping_bounds_what_a_step_changes() -> None:
    moved = {}
    for clip in (0.0, 1e-3):
        step = make_step(**PLAIN, optimizer="sgd", momentum=0.0, clip=clip)
        before = step.arrays()
        step.run(*make_batch(step), 1.0, 0, SIZE)
        trained = [n for n in before if n.startswith("weights/") and "moving" not in n]
        moved[clip] = float(np.sqrt(sum(np.sum((step.arrays()[n] - before[n]) ** 2) for n in trained)))
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert moved[0.0] > 0.01


def test_class_weights_weigh_both_images_of_a_mixup_by_their_own_class() -> None:
    step = make_step(**{**PLAIN, "smoothing": 0.1})
    step.class_weights = (0.5, 3.0)
    targets, logits = np.array([0.0, 1.0, 0.3], np.float32), np.array([0.7, -1.1, 0.4], np.float32)
    positive, negative = (np.log1p(np.exp(-logits)), np.log1p(np.exp(logits)))  # losses of an answer of 1 and of 0
    ones, zeros = 0.95 * positive + 0.05 * negative, 0.05 * positive + 0.95 * negative  # smoothed
    expected = 3.0 * targets * ones + 0.5 * (1 - targets) * zeros
    np.testing.assert_allclose(step._losses(targets, logits), expected, rtol=1e-5)


def test_a_float16_step_that_overflowed_does_not_count_for_adam() -> None:
    """After an overflow at the first step, the second changes the weights as a first one does."""
    moved = []
    for first in (float("inf"), None):
        step = make_step(**PLAIN, optimizer="adam", precision="float16")
        number = 0
        if first is not None:
            step.state["loss/scale"].assign(first)
            assert not bool(step.run(*make_batch(step), 0.01, number, SIZE).finite)
            number += 1
        step.state["loss/scale"].assign(1024.0)
        before = step.arrays()
        assert bool(step.run(*make_batch(step), 0.01, number, SIZE).finite)
        assert float(step.state["optimizer/updates"]) == 1.0
        moved.append(step.arrays()["weights/head/bias"] - before["weights/head/bias"])
    np.testing.assert_array_equal(moved[0], moved[1])


def test_a_run_may_take_up_and_leave_float16() -> None:
    whole, half = make_step(precision="float32"), make_step(precision="float16")
    half.load(whole.arrays())
    assert float(half.state["loss/scale"]) == SCALE
    whole.load(half.arrays())
