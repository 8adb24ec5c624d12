"""The job in a container: read-only, without privileges, network or a GPU, on one core and 3 GB."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from job.runs import records
from job.smoke import draw
from tests.containers.podman import CONFINED, ENVIRONMENT, IMAGE, image, podman, python, started

pytestmark = pytest.mark.containers

USER = 4242  # any number will do

ORPHAN = """
import os, subprocess, time
subprocess.run(["sh", "-c", "sleep 0.2 &"])
time.sleep(1)
states = [open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] for pid in os.listdir("/proc") if pid.isdigit()]
print(states.count("Z"))
"""
MACHINE = """
import json
from job.machine import devices
print(json.dumps([devices.cores(), devices.free_memory()]))
"""
WAITING = """
import signal, sys, time
def handle(number, frame):
    print(signal.Signals(number).name)
    sys.exit(75)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, handle)
print("ready")
time.sleep(60)
"""
TRAIN = (
    "train", "--data", "/photographs", "--out", "/twofold/run", "--cache", "/twofold/cache", "--size", "32", "--filters", "8,16,32",
    "--epochs", "20", "--batch", "16",
)  # fmt: skip
SWEEP = (
    "sweep", "--data", "/photographs", "--out", "/twofold/sweep", "--cache", "/twofold/cache", "--size", "32", "--filters", "8,16",
    "--epochs", "2", "--batch", "16", "--trials", "2",
)  # fmt: skip


@pytest.fixture
def mounted(tmp_path: Path) -> tuple[Path, list[str]]:
    """A folder to work in, owned by the container's user, and the options that mount it beside drawn photographs."""
    photographs, work = tmp_path / "photographs", tmp_path / "work"
    draw(photographs, 100, 48)
    work.mkdir()
    os.chown(work, USER, USER)
    return work, ["--user", f"{USER}:{USER}", "--volume", f"{photographs}:/photographs:ro", "--volume", f"{work}:/twofold"]


def _tree(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_smoke_passes() -> None:
    with started("smoke") as container:
        code, (out, errors) = container.ends(), container.said()
    assert (code, errors) == (0, "")
    assert "smoke: passed" in out


def test_the_job_sees_its_own_core_and_memory() -> None:
    cores, memory = python(MACHINE)
    assert cores == 1
    assert 2.5 * 2**30 < memory <= 3 * 2**30


def test_a_gpu_that_is_not_there_is_one_line() -> None:
    with started("train", "--data", "/tmp", "--out", "/tmp/run", "--gpus", "all") as container:
        code, (out, errors) = container.ends(), container.said()
    assert code == 69
    assert errors.startswith("twofold: --gpus all: ")
    assert errors.count("\n") == 1
    assert out == ""


def test_a_stopped_training_goes_on_to_the_end(mounted: tuple[Path, list[str]]) -> None:
    """And nothing is written but the run folder and the cache."""
    work, options = mounted
    before = _tree(work.parent / "photographs")
    with started(*TRAIN, options=[*CONFINED, *options]) as first:
        first.says("epoch 2/")
        first.kill("SIGTERM")
        code, (out, errors) = first.ends(), first.said()
    assert (code, errors) == (75, "")
    assert "rerun to resume" in out
    assert records.read_summary(work / "run").status == "interrupted"
    with started(*TRAIN, options=[*CONFINED, *options]) as second:
        code, (out, errors) = second.ends(), second.said()
    assert (code, errors) == (0, "")
    assert "resuming from step" in out
    assert (work / "run" / "model.keras").exists()
    assert {path.name for path in work.iterdir()} == {"run", "cache"}
    assert _tree(work.parent / "photographs") == before


def test_a_stopped_sweep_goes_on_to_the_end(mounted: tuple[Path, list[str]]) -> None:
    """Ray's own processes must not get the signal: the sweep stops its trials, and they save."""
    work, options = mounted
    with started(*SWEEP, options=[*CONFINED, *options]) as first:
        first.says("trial 0001")
        first.kill("SIGTERM")
        code, (out, errors) = first.ends(), first.said()
    assert (code, errors) == (75, ""), out
    with started(*SWEEP, options=[*CONFINED, *options]) as second:
        code, (out, errors) = second.ends(), second.said()
    assert (code, errors) == (0, ""), out
    assert len((work / "sweep" / "trials.csv").read_text().splitlines()) == 3
    assert {path.name for path in work.iterdir()} == {"sweep", "cache"}


def test_ctrl_c_on_a_terminal_is_one_signal(mounted: tuple[Path, list[str]]) -> None:
    """A second Ctrl-C would leave at once, with nothing saved since the last checkpoint."""
    work, options = mounted
    ours, theirs = pty.openpty()
    name = f"twofold-test-{uuid4().hex[:12]}"
    command = ["podman", "run", "--interactive", "--tty", "--pull=never", "--name", name, *CONFINED, *options, IMAGE, *TRAIN]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown, pressed, end = b"", False, time.monotonic() + 180
    try:
        while process.poll() is None:
            assert time.monotonic() < end, shown.decode()
            shown += _next(ours)
            if b"epoch 2/" in shown and not pressed:
                pressed = os.write(ours, b"\x03") == 1
        assert process.returncode == 75, shown.decode()
    finally:
        process.kill()
        os.close(ours)
        podman("rm", "--force", "--time", "0", name)
    assert records.read_summary(work / "run").status == "interrupted"


def _next(terminal: int) -> bytes:
    """What the terminal shows within a fifth of a second."""
    if not select.select([terminal], [], [], 0.2)[0]:
        return b""
    try:
        return os.read(terminal, 4096)
    except OSError:  # closed at the other end
        return b""


@pytest.mark.parametrize("sent", ["SIGTERM", "SIGINT"])
def test_both_signals_of_a_graceful_shutdown_reach_the_job(sent: str) -> None:
    """Without a terminal, Ctrl-C comes as SIGINT to the init alone."""
    with started("-c", WAITING, entry=[*image()["Entrypoint"][:-1], "python"]) as container:
        container.says("ready")
        container.kill(sent)
        assert container.ends() == 75
        assert container.said()[0].split() == ["ready", "SIGTERM"]


@pytest.mark.parametrize(("init", "zombies"), [(True, 0), (False, 1)])
def test_the_init_reaps_orphans(init: bool, zombies: int) -> None:
    """Python alone does not, so this sees the difference."""
    entry: Sequence[str] = [*image()["Entrypoint"][:-1], "python"] if init else ["python"]
    with started("-c", ORPHAN, entry=entry) as container:
        code, (out, errors) = container.ends(), container.said()
    assert (code, errors) == (0, "")
    assert json.loads(out) == zombies
