"""Images a second of `twofold prepare`, with one worker and with all cores, in turn; beside another checkout if one is given.

    python benchmarks/prepare.py SOURCE [--rounds 3] [--against CHECKOUT]

writes `benchmarks/results/prepare.csv`: the whole command's seconds, including listing, hashing, decoding, encoding and
writing. With `--against`, each round runs the other checkout too, in an order that changes, and the last lines are the
ratios of the seconds (this / other): the median over the rounds.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from job.machine.devices import cores

HERE = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout of twofold, run with the same packages")
    options = parser.parse_args()
    trees = {"this": HERE} | ({"other": options.against.resolve()} if options.against else {})
    rows = []
    for number in range(1, options.rounds + 1):
        for workers in (1, cores()):
            for name in sorted(trees, reverse=number % 2 == 0):
                rows.append(_measured(trees[name], options.source.resolve(), workers) | dict(round=number, tree=name))
                print(rows[-1], flush=True)
    with Path(__file__).with_name("results").joinpath("prepare.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("round", "tree", "workers", "images", "seconds", "images_per_second"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for workers in sorted({row["workers"] for row in rows}) if options.against else ():
        seconds = {name: [row["seconds"] for row in rows if row["workers"] == workers and row["tree"] == name] for name in trees}
        ratios = [this / other for this, other in zip(seconds["this"], seconds["other"], strict=True)]
        print(f"{workers} workers: {statistics.median(ratios):.3f} of the other's seconds")


def _measured(tree: Path, source: Path, workers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "job.cli", "prepare", str(source), "--out", folder, "--workers", str(workers), "--quiet"]
        started = time.monotonic()
        subprocess.run(command, check=True, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)})
        seconds = time.monotonic() - started
        manifest = json.loads((Path(folder) / "manifest.json").read_text())
    images = sum(split["records"] for split in manifest["splits"].values())
    return dict(workers=workers, images=images, seconds=round(seconds, 2), images_per_second=round(images / seconds))


if __name__ == "__main__":
    main()
