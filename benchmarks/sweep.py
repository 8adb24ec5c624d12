"""What a sweep finds and what it costs: both engines on real images, from a small starting configuration.

    python benchmarks/sweep.py NAME --data SHARDS --runs DIR [options of twofold sweep]

writes `benchmarks/results/sweep-NAME.csv` (the table of trials) and `.png`, and prints the best beside the starting
configuration: on the validation images that chose it, on the test images that chose nothing, and the steps taken
beside those of as many full trials. The results of a sweep that is already finished are only collected.
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
START = """[model]
size = 64
filters = [32, 64, 128]

[schedule]
epochs = 9
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", required=True, type=Path)
    options, rest = parser.parse_known_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    start = options.runs / "start.toml"
    start.write_text(START)
    out = options.runs / f"sweep-{options.name}"
    subprocess.run([*TWOFOLD, "sweep", "--data", options.data, "--out", str(out), "--config", str(start), *rest], check=True)
    RESULTS.mkdir(exist_ok=True)
    shutil.copy(out / "trials.csv", RESULTS / f"sweep-{options.name}.csv")
    shutil.copy(out / "sweep.png", RESULTS / f"sweep-{options.name}.png")
    with (out / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    whole = int(rows[0]["steps"])  # the starting configuration runs to its end
    spent = sum(int(row["steps"]) for row in rows)
    best = (out / "best.toml").read_text().split()[2]  # its first line: # trial NUMBER of ...
    print(f"{len(rows)} trials, {spent:,} steps: {spent / (whole * len(rows)):.0%} of as many full trials' {whole * len(rows):,}")
    print(f"{sum(float(row['seconds']) for row in rows):,.0f} seconds of trials")
    for what, trial in (("starting configuration", rows[0]["trial"]), ("best", best)):
        row = next(row for row in rows if row["trial"] == trial)
        print(f"{what} ({trial}), validation: log loss {float(row['val_log_loss']):.4f}, accuracy {float(row['val_accuracy']):.4f}")
        command = [*TWOFOLD, "evaluate", str(out / "trials" / trial), "--data", options.data, "--split", "test", "--json"]
        evaluated = subprocess.run(command, capture_output=True, text=True)
        if evaluated.returncode == 0:
            metrics = json.loads(evaluated.stdout)
            interval = f"{metrics['accuracy_low']:.4f} to {metrics['accuracy_high']:.4f}"
            print(f"{what} ({trial}), test: log loss {metrics['log_loss']:.4f}, accuracy {metrics['accuracy']:.4f} ({interval})")


if __name__ == "__main__":
    main()
