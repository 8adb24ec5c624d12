"""Images a second of `twofold prepare`, with one worker and with all cores, in turn.

    python benchmarks/prepare.py SOURCE [--rounds 3]

writes `benchmarks/results/prepare.csv`: the whole command's seconds, including hashing, decoding, encoding and writing.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from job.machine.devices import cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for round_number in range(1, options.rounds + 1):
        for workers in (1, cores()):
            with tempfile.TemporaryDirectory() as folder:
                command = [
                    sys.executable,
                    "-m",
                    "job.cli",
                    "prepare",
                    options.source,
                    "--out",
                    folder,
                    "--workers",
                    str(workers),
                    "--quiet",
                ]
                started = time.monotonic()
                subprocess.run(command, check=True)
                seconds = time.monotonic() - started
                manifest = json.loads((Path(folder) / "manifest.json").read_text())
                images = sum(split["records"] for split in manifest["splits"].values())
            rows.append(
                dict(
                    round=round_number, workers=workers, images=images, seconds=round(seconds, 2), images_per_second=round(images / seconds)
                )
            )
            print(rows[-1])
    with Path(__file__).with_name("results").joinpath("prepare.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
