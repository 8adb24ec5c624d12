"""Accuracy and time of `twofold train` over seeds; runs that are finished already are only collected.

    python benchmarks/accuracy.py NAME --data SHARDS --runs DIR [--seeds 1,2,3] [-- options of twofold train]

writes `benchmarks/results/NAME.csv`, a row a seed, and `NAME.png`, the validation curves. Where the shards have a test
split its accuracy stands beside.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).with_name("results")
TWOFOLD = [sys.executable, "-m", "job.cli"]
COLUMNS = (
    "seed",
    "val_accuracy",
    "val_log_loss",
    "val_images",
    "test_accuracy",
    "test_images",
    "epochs",
    "seconds",
    "precision",
    "threads",
    "processor",
)


def main() -> None:
    own, rest = sys.argv[1:], []
    if "--" in own:
        own, rest = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", required=True, type=Path)
    parser.add_argument("--seeds", default="1,2,3")
    options = parser.parse_args(own)
    rows = [_row(options.data, options.runs / f"{options.name}-{seed}", seed, rest) for seed in options.seeds.split(",")]
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{options.name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    shutil.copy(options.runs / f"{options.name}-{rows[0]['seed']}" / "curves.png", RESULTS / f"{options.name}.png")
    for split in ("val", "test"):
        found = [float(r[f"{split}_accuracy"]) for r in rows if r[f"{split}_accuracy"] != ""]
        if found:
            print(f"{split}: mean {sum(found) / len(found):.4f} of {len(found)} (lowest {min(found):.4f})")


def _row(data: str, run: Path, seed: str, rest: list[str]) -> dict[str, object]:
    subprocess.run([*TWOFOLD, "train", "--data", data, "--out", str(run), "--seed", seed, *rest], check=True)
    summary, place = (json.loads((run / name).read_text()) for name in ("summary.json", "environment.json"))
    row = {**{k: summary.get(k, "") for k in COLUMNS}, "seed": seed, **{k: place[k] for k in ("precision", "threads", "processor")}}
    test = subprocess.run([*TWOFOLD, "evaluate", str(run), "--data", data, "--split", "test", "--json"], capture_output=True, text=True)
    if test.returncode == 0:
        figures = json.loads(test.stdout)
        row |= {"test_accuracy": figures["accuracy"], "test_images": figures["images"]}
    return row


if __name__ == "__main__":
    main()
