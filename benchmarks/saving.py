"""What saving costs training, into a folder, S3 and Cloud Storage, and how long it takes from SIGTERM until all is there.

    python -m benchmarks.saving [--rounds 5] [--window 12] [--tries 20]

draws its images, starts the stores, and writes `benchmarks/results/saving.csv`, a row for each window of training, `stopping.csv`, a
row for each stop, and their tables, `saving.md` and `stopping.md`. The job is the real one with its default network, 1.9 million
parameters in images of 40 px, so that a checkpoint is large beside a step. In each round the same process trains a window without
saving, one with one save, and one with a save every 10 steps, in an order that changes; each pair of windows gives a ratio. What one
save costs is measured once a window; at one a minute it is that share of 60 s. Beside it stands Keras's `BackupAndRestore` into a folder,
with `model.fit` on the same network and batches. What the stores themselves do is done by the same cores, and counted.
"""

from __future__ import annotations

import argparse
import csv
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

from benchmarks.stores import RESULTS, ROOT, environment, stores, write_table
from benchmarks.windows import MANY, OFF, ONE, SETTINGS
from job.config.options import build
from job.config.schema import PrepareConfig
from job.errors import INTERRUPTED
from job.prepare import prepare
from job.runs import checkpoints, records
from job.shutdown import Stop
from job.smoke import draw
from job.storage.opening import open_bucket
from tests.stores.fixtures import Store

IMAGES = 800  # of each class
MINUTE = 60.0
KERAS = "Keras, local"
STEPS = 5  # that a start takes at least before it is stopped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--window", type=float, default=12.0, help="seconds")
    parser.add_argument("--tries", type=int, default=20)
    options = parser.parse_args()
    with stores() as places, tempfile.TemporaryDirectory(prefix="saving-") as name:
        folder = Path(name)
        draw(folder / "images", IMAGES, SETTINGS["size"])
        prepare([str(folder / "images")], build(PrepareConfig, dict(out=str(folder / "data"), side=SETTINGS["size"])), Stop())
        everywhere: dict[str, Store | None] = {"local": None, **places}
        windows = []
        for case, place in (*everywhere.items(), (KERAS, None)):
            windows += _trained(folder, case, place, options.window, options.rounds)
        _write("saving", windows)
        about = f"Medians of {options.rounds} rounds of windows of {options.window:g} s."
        header = ("where", "step", "rate, one save a window", "cost of a save", "rate at one a minute", "rate, every 10 steps", *PAUSES)
        write_table("saving", about, header, [_summary(case, windows) for case in (*everywhere, KERAS)])
        stops = [row for case, place in everywhere.items() for row in _stopped(folder, case, place, options.tries)]
        _write("stopping", stops)
        about = f"Seconds from SIGTERM to the end of the process, {options.tries} tries each; all is where it should be then."
        write_table("stopping", about, ("where", "median", "longest", "shortest"), [_stops(case, stops) for case in everywhere])


PAUSES = ("longest pause: no saving", "one save", "every 10 steps")


def _write(name: str, rows: list[dict[str, Any]]) -> None:
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _trained(folder: Path, case: str, place: Store | None, window: float, rounds: int) -> list[dict[str, Any]]:
    """The windows of one process."""
    rows = folder / "rows.json"
    command = [
        sys.executable, "-m", "benchmarks.metered", "keras" if case == KERAS else "job", "--data", str(folder / "data"),
        "--out", _out(folder, case, place, "trained"), "--cache", str(folder / "cache"), "--window", str(window),
        "--rounds", str(rounds), "--rows", str(rows),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment(place), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{case}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    found = [{"where": case, **row} for row in json.loads(rows.read_text())]
    for row in found:
        print(row, flush=True)
    return found


def _out(folder: Path, case: str, place: Store | None, name: str) -> str:
    return f"{place.url}/{name}" if place else str(folder / case.replace(", ", "-") / name)


def _summary(case: str, windows: list[dict[str, Any]]) -> tuple[str, ...]:
    def of(kind: str) -> list[dict[str, Any]]:
        return [row for row in sorted(windows, key=lambda row: row["round"]) if (row["where"], row["saving"]) == (case, kind)]

    def step(row: dict[str, Any]) -> float:
        return float(row["seconds"] / row["steps"])

    without, once, often = of(OFF), of(ONE), of(MANY)
    ratio, ratio_often = (statistics.median(step(a) / step(b) for a, b in zip(without, rows, strict=True)) for rows in (once, often))
    cost = statistics.median(b["seconds"] - b["steps"] * step(a) for a, b in zip(without, once, strict=True))
    pauses = (max(row["longest_pause"] for row in rows) for rows in (without, once, often))
    return (
        case, f"{statistics.median(map(step, without)) * 1000:.0f} ms", f"{ratio:.1%}", f"{cost * 1000:.0f} ms",
        f"{1 - cost / MINUTE:.2%}", f"{ratio_often:.1%}", *(f"{pause * 1000:.0f} ms" for pause in pauses),
    )  # fmt: skip


def _stopped(folder: Path, case: str, place: Store | None, tries: int) -> Iterator[dict[str, Any]]:
    """A run that is stopped and resumed, again and again, at any moment: in a step, in a save, in an upload."""
    out, cache, rng = _out(folder, case, place, "stopped"), folder / f"cache-{case}", random.Random(1)
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


def _stops(case: str, stops: list[dict[str, Any]]) -> tuple[str, ...]:
    seconds = [row["seconds"] for row in stops if row["where"] == case]
    return case, f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}", f"{min(seconds):.2f}"


if __name__ == "__main__":
    main()
