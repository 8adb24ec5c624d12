"""The smoke test: it passes within its time, and fails loudly where nothing is learnt."""

from __future__ import annotations

import subprocess
import sys

import pytest

NOT_LEARNING = """
from job import smoke
from job.cli import main
smoke.IMAGES = 60
smoke.SETTINGS |= dict(lr=1e-9, size=32, train_sizes=(32,), filters=(8, 16), epochs=3, precision="float32")
main(["smoke"])
"""


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)


def test_it_fails_loudly_when_it_does_not_learn() -> None:
    done = _run("-c", NOT_LEARNING)
    assert done.returncode == 1
    assert done.stderr.startswith("twofold: smoke: it did not learn: validation accuracy 0.")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_it_learns_stops_resumes_and_evaluates() -> None:
    done = _run("-m", "job.cli", "smoke")
    assert (done.returncode, done.stderr) == (0, "")
    assert "interrupted in the middle of an epoch; resuming" in done.stdout
    assert "smoke: passed in" in done.stdout
