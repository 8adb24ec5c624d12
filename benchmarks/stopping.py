"""How long it takes from SIGTERM until a run is saved where it lives: in a folder, in S3, in Cloud Storage.

    python -m benchmarks.stopping [--tries 20]

draws its images, starts the stores, and writes `benchmarks/results/stopping.csv`, a row for each stop, and `stopping.md`, the table of
them. It is the command line with its default network in images of 40 px, stopped at any moment, and resumed for the next
try. The clock runs until the process has ended; then the checkpoint of the last step taken, its records and the summary are there, or
this fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.stores import ROOT, environment, stores, write_rows, write_table
from benchmarks.windows import draw_data
from job.errors import INTERRUPTED
from job.runs import checkpoints, records
from job.storage.opening import open_bucket
from tests.stores.fixtures import Store

STEPS = 5  # that a start takes at least before it is stopped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=20)
    options = parser.parse_args()
    with stores() as places, tempfile.TemporaryDirectory(prefix="stopping-") as name:
        draw_data(Path(name))
        cases: dict[str, Store | None] = {"local": None, **places}
        rows = [row for case in cases for row in _stopped(Path(name), case, cases[case], options.tries)]
    write_rows("stopping", rows)
    about = f"Seconds from SIGTERM to the end of the process, all saved, {options.tries} tries each."
    write_table("stopping", about, ("where", "median", "longest", "shortest"), [_summary(case, rows) for case in cases])


def _stopped(folder: Path, case: str, place: Store | None, tries: int) -> Iterator[dict[str, Any]]:
    """A run that is stopped and resumed, again and again, at any moment: in a step, in a save, in an upload."""
    out, cache, rng = f"{place.url}/run" if place else str(folder / "run"), folder / f"cache of {case}", random.Random(1)
    command = [sys.executable, "-m", "job.cli", "train", "--data", str(folder / "data"), "--out", out, "--cache", str(cache)]
    command += ["--size", "48", "--train-sizes", "40", "--batch", "64", "--epochs", "1000", "--log-every", "1"]
    for number in range(1, tries + 1):
        with subprocess.Popen(
            command, cwd=ROOT, env=environment(place), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            before = _step(out, cache)
            while _step(out, cache) < before + STEPS and process.poll() is None:
                time.sleep(0.02)
            time.sleep(rng.random())
            process.send_signal(signal.SIGTERM)
            asked = time.monotonic()
            said, _ = process.communicate()
            seconds = time.monotonic() - asked
        if process.returncode != INTERRUPTED:
            raise RuntimeError(f"{case}: ended with {process.returncode}: {said[-2000:]}")
        step = _saved(out, place)
        if step != _step(out, cache):
            raise RuntimeError(f"{case}: took {_step(out, cache)} steps, and {step} are saved")
        row = {"where": case, "try": number, "step": step, "seconds": round(seconds, 3)}
        print(row, flush=True)
        yield row


def _step(out: str, cache: Path) -> int:
    """The last step that is logged on this machine."""
    here = next(cache.glob("runs/*/copy"), None) if "://" in out else Path(out)
    lines = (here / records.METRICS).read_bytes().splitlines() if here and (here / records.METRICS).exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith(b"}")), default=0)


def _saved(out: str, place: Store | None) -> int:
    """The step of the newest checkpoint where the run lives, every hash checked, with its summary and its records."""
    if place is None:
        return _newest(Path(out))
    os.environ.update(place.environment)
    with tempfile.TemporaryDirectory() as name:
        bucket = open_bucket(out)
        for found in list(bucket.list()):
            path = Path(name, found.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            bucket.fetch(found.name, path)
        return _newest(Path(name))


def _newest(folder: Path) -> int:
    newest = checkpoints.names(folder / records.CHECKPOINTS)[0]
    step = checkpoints.load(folder / records.CHECKPOINTS, newest).state.step
    summary = records.read_summary(folder)
    recorded = json.loads((folder / records.METRICS).read_text().splitlines()[-1])["step"]
    if summary is None or summary.status != "interrupted" or summary.steps != step or recorded != step:
        raise RuntimeError(f"{folder}: the checkpoint is of step {step}, the records end with {recorded}, the summary says {summary}")
    return step


def _summary(case: str, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    seconds = [row["seconds"] for row in rows if row["where"] == case]
    return case, f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}", f"{min(seconds):.2f}"


if __name__ == "__main__":
    main()
