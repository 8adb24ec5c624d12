"""A sweep at the size of the tests: its command, its table, and what its trials left in their folders."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from job.runs import checkpoints, records

SPACE = """
dropout = { uniform = [0.0, 0.6] }
filters = { times = [0.5, 2.0] }
augment = { uniform = [0.0, 1.0] }
lr = { times = [0.25, 4.0] }
"""
START = """
[model]
size = 24
filters = [8, 16]

[schedule]
epochs = 4
batch = 16
train_sizes = [24]

[machine]
precision = "float32"
"""
ENGINES = ("ray", "keras-tuner")


def command(folder: Path, shards: Path, *options: object, space: str = SPACE, start: str = START) -> list[str]:
    """`twofold sweep` into `folder/sweep`; trials have one thread each."""
    (folder / "space.toml").write_text(space)
    (folder / "start.toml").write_text(start)
    common = ["--data", shards, "--out", folder / "sweep", "--space", folder / "space.toml", "--config", folder / "start.toml"]
    return [sys.executable, "-m", "job.cli", "sweep", *map(str, [*common, "--cpus-per-trial", 1, *options])]


SCRIPT = """
import sys
import threading
from job import commands
from job.cli import read
from job.shutdown import Stop
request, rows = read("sweep", sys.argv[1:], {}), []
thread = threading.Thread(target=lambda: rows.extend(commands.sweep(request, Stop())))
thread.start()
thread.join()
print(len(rows), "rows")
"""  # what a user's script or notebook may do: call a sweep off the main thread, with no guard against being imported


def script(folder: Path, words: list[str]) -> list[str]:
    """The same sweep, called by a script."""
    (folder / "script.py").write_text(SCRIPT)
    return [sys.executable, str(folder / "script.py"), *words[4:]]


def run(words: list[str], seconds: float = 400, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=seconds, env={**os.environ, **environment})


def start(words: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a sweep as `timeout` and systemd do, in a process group of its own."""
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, start_new_session=True, env={**os.environ, **environment})


def table(out: Path) -> dict[str, dict[str, str]]:
    """The rows of trials.csv by trial."""
    with (out / "trials.csv").open() as file:
        return {row["trial"]: row for row in csv.DictReader(file)}


def ended(out: Path) -> dict[str, dict[str, str]]:
    """Those that have ended; none before there is a table."""
    return {id: row for id, row in table(out).items() if row["status"] != "unfinished"} if (out / "trials.csv").exists() else {}


def weights(run: Path) -> dict[str, Any]:
    folder = run / "checkpoints"
    return checkpoints.load(folder, checkpoints.names(folder)[0]).arrays


def same_bits(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def written(trial: Path) -> dict[str, int]:
    """When a run's records and checkpoints were written."""
    paths = [trial / records.METRICS, *(trial / "checkpoints").rglob("*")]
    return {str(path): path.stat().st_mtime_ns for path in paths}


def family(pid: int) -> list[int]:
    """A process and all below it, those of Ray too."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            child, _, rest = stat.read_text().partition(" ")
        except OSError:
            continue
        children.setdefault(int(rest.rpartition(")")[2].split()[1]), []).append(int(child))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait(condition: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 200) -> Any:
    """Wait for something while a process runs."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)
    return found
