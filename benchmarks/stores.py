"""Stores for benchmarks, each a process of its own on this machine: SeaweedFS for s3, the tests' fake Cloud Storage for gs."""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from job.machine.devices import cores
from tests.stores.fixtures import Store, gcs_place, s3_place
from tests.stores.seaweed import WRITER, seaweed

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results")
BUCKET = "benchmark"


@contextmanager
def stores() -> Iterator[dict[str, Store]]:
    """An empty place in each store, by its scheme."""
    with seaweed(BUCKET) as s3, _fake_gcs() as gs:
        yield {"s3": s3_place(f"s3://{BUCKET}/place", s3, *WRITER), "gs": gcs_place(f"gs://{BUCKET}/place", gs)}


@contextmanager
def _fake_gcs() -> Iterator[str]:
    """The fake as a program, so that its work is not done under this process's lock."""
    command = [sys.executable, "-m", "tests.stores.fake_gcs"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()) as process:
        try:
            assert process.stdout is not None
            endpoint = process.stdout.readline().strip()
            made = urllib.request.Request(f"{endpoint}/storage/v1/b", json.dumps({"name": BUCKET, "access": "user"}).encode())
            made.add_header("Content-Type", "application/json")
            urllib.request.urlopen(made).close()
            yield endpoint
        finally:
            process.terminate()


def environment(store: Store | None = None) -> dict[str, str]:
    """What a process of a benchmark finds: this checkout, and the way to a store."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2", **(store.environment if store else {})}


def write_rows(name: str, rows: list[dict[str, Any]]) -> None:
    """Keep what was measured in `benchmarks/results/NAME.csv`."""
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_table(name: str, about: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table in Markdown, and keep it in `benchmarks/results/NAME.md`."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, tuple("---" for _ in header), *rows)]
    text = "\n".join([f"{about} On {cores()} cores ({_processor()}), the stores on the same.", "", *lines, ""])
    print(text, flush=True)
    (RESULTS / f"{name}.md").write_text(text)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
