"""What saving costs training, into a folder, S3 and Cloud Storage, beside Keras's `BackupAndRestore`.

    python -m benchmarks.saving [--rounds 5] [--window 12]

draws its images, starts the stores, and writes `benchmarks/results/saving.csv`, a row for each window of training, and `saving.md`, the
table of them. The job is the real one with its default network, 1.9 million parameters, in images of 40 px, so that a checkpoint of
23 MB is large beside a step. In each round one process trains a window without saving, one with one save, and one with a save
every 10 steps, in an order that changes; each pair of windows gives a ratio. What one save costs is told from the steps around it in
the same window, since the machine is slower in one minute than in the next by more than that; at one a minute it is that share of
60 s. `BackupAndRestore` saves into a folder, in `model.fit` on the same network and batches. What the stores themselves do is done by
the same cores, and counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.stores import ROOT, environment, stores, write_rows, write_table
from benchmarks.windows import MANY, OFF, ONE, draw_data
from tests.stores.fixtures import Store

MINUTE = 60.0
KERAS = "Keras, local"
HEADER = (
    "where", "step", "rate with one save a window", "cost of a save", "rate at one a minute", "rate at one every 10 steps",
    "pause without saving", "with one save", "with one every 10 steps",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--window", type=float, default=12.0, help="seconds")
    options = parser.parse_args()
    with stores() as places, tempfile.TemporaryDirectory(prefix="saving-") as name:
        draw_data(Path(name))
        cases: dict[str, Store | None] = {"local": None, **places, KERAS: None}
        rows = [row for case in cases for row in _trained(Path(name), case, cases[case], options.window, options.rounds)]
    write_rows("saving", rows)
    about = f"Windows of {options.window:g} s: medians of {options.rounds} pairs, and the longest pause between two steps."
    write_table("saving", about, HEADER, [_summary(case, rows) for case in cases])


def _trained(folder: Path, case: str, place: Store | None, window: float, rounds: int) -> list[dict[str, Any]]:
    """The windows of one process."""
    rows = folder / "rows.json"
    command = [
        sys.executable, "-m", "benchmarks.metered", "keras" if case == KERAS else "job", "--data", str(folder / "data"),
        "--out", f"{place.url}/run" if place else str(folder / f"run of {case}"), "--cache", str(folder / "cache"), "--window", str(window),
        "--rounds", str(rounds), "--rows", str(rows),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment(place), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{case}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    found = [{"where": case, **row} for row in json.loads(rows.read_text())]
    for row in found:
        print(row, flush=True)
    return found


def _summary(case: str, windows: list[dict[str, Any]]) -> tuple[str, ...]:
    def of(kind: str) -> list[dict[str, Any]]:
        return [row for row in sorted(windows, key=lambda row: row["round"]) if (row["where"], row["saving"]) == (case, kind)]

    def step(row: dict[str, Any]) -> float:
        return float(row["seconds"] / row["steps"])

    without, once, often = of(OFF), of(ONE), of(MANY)
    ratio, ratio_often = (statistics.median(step(a) / step(b) for a, b in zip(without, rows, strict=True)) for rows in (once, often))
    cost = statistics.median(row["cost"] for row in once)
    pauses = (max(row["longest_pause"] for row in rows) for rows in (without, once, often))
    return (
        case, f"{statistics.median(map(step, without)) * 1000:.0f} ms", f"{ratio:.1%}", f"{cost * 1000:.0f} ms",
        f"{1 - cost / MINUTE:.2%}", f"{ratio_often:.1%}", *(f"{pause * 1000:.0f} ms" for pause in pauses),
    )  # fmt: skip


if __name__ == "__main__":
    main()
