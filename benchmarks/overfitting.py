"""The story of `classic`: the seed's settings over-fit, dropout and augmentation make them over-fit less.

    python benchmarks/overfitting.py --data SHARDS --runs DIR [--size 64] [--epochs 12]

trains both (runs that are finished already are only collected), and writes `docs/overfitting.png` and
`benchmarks/results/overfitting.csv`. Training accuracy here is that of the epoch's own augmented batches.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
CASES = {
    "seed's settings": ["--no-batchnorm", "--dropout", "0", "--augment", "0"],
    "BatchNorm, dropout 0.4, augmentation 0.5": ["--dropout", "0.4", "--augment", "0.5"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", required=True, type=Path)
    parser.add_argument("--size", default="64")
    parser.add_argument("--epochs", default="12")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for number, (case, flags) in enumerate(CASES.items()):
        run = options.runs / f"classic-{number}"
        common = ["--model", "classic", "--size", options.size, "--epochs", options.epochs, "--data", options.data, "--out", str(run)]
        subprocess.run([sys.executable, "-m", "job.cli", "train", *common, *flags], check=True)
        with (run / "history.csv").open() as file:
            rows += [{"case": case, **row} for row in csv.DictReader(file)]
    columns = ("case", "epoch", "train_loss", "train_accuracy", "val_log_loss", "val_accuracy", "val_images", "seconds")
    with (ROOT / "benchmarks" / "results" / "overfitting.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, ROOT / "docs" / "overfitting.png", options.size)


def draw(rows: list[dict[str, Any]], path: Path, size: str) -> None:
    """Training beside validation, a column a case; accuracy above, loss below, the same scale in a row."""
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    axes = figure.subplots(2, len(CASES), sharex=True, sharey="row")
    for column, case in enumerate(CASES):
        own = [row for row in rows if row["case"] == case]
        at = [int(row["epoch"]) for row in own]
        for line, (training, validation, title) in enumerate(
            (("train_accuracy", "val_accuracy", "accuracy"), ("train_loss", "val_log_loss", "loss"))
        ):
            axis = axes[line][column]
            axis.plot(at, [float(row[training]) for row in own], color="#c25e00", marker=".", label="training")
            axis.plot(at, [float(row[validation]) for row in own], color="#0b5fa5", marker=".", label="validation")
            axis.grid(alpha=0.25)
            axis.set_ylabel(title if column == 0 else "")
            axis.spines[["top", "right"]].set_visible(False)
        axes[0][column].set_title(f"classic, {case}", fontsize=10)
        axes[1][column].set_xlabel(f"epoch ({size} px)")
    axes[0][0].legend(frameon=False)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
