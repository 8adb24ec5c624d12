"""How long training waits for shards in a bucket: the first step from a folder, a cold cache and a warm one, in turn.

    python -m benchmarks.shards [--rounds 3] [--gigabytes 4] [--shards 400] [--latency 50] [--rate 100]

draws a data set, puts it into a fake Cloud Storage behind a proxy that makes each request wait for so many milliseconds and lets so
many megabytes through each second, and writes `benchmarks/results/shards.json`: seconds from the start of the command to the end of
its first step, images a second after it, and of a cold cache when all shards had arrived. It takes three times the data on the disk.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from job.data import manifest, shards
from job.data.manifest import Manifest, Split
from job.data.shards import Record
from job.storage.opening import open_bucket
from tests.stores.proxy import control

HERE = Path(__file__).resolve().parents[1]
IMAGES = 500  # different ones; each stands in the shards many times, under names of its own
SIDE, VALIDATION = 160, 2  # px; shards
ADDRESS = "gs://benchmark/set"
STEPS = 30  # taken after the first, and in a cold cache until all shards are there
NETWORK = ["--size", "32", "--train-sizes", "32", "--filters", "8,16", "--batch", "256", "--precision", "float32"]

CHILD = """
import json, sys, time
from pathlib import Path
from job import commands
from job.cli import read
from job.shutdown import Stop
from job.training.step import Step

began, steps, cache, shards = float(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
stop, times, arrived = Stop(), [], []
take = Step.run

def timed(self, *arguments):
    outcome = take(self, *arguments)
    float(outcome.loss)
    times.append(time.monotonic() - began)
    if len(list(cache.glob("*"))) - len(list(cache.glob("*.*"))) >= shards and not arrived:
        arrived.append(times[-1])
    if len(times) > steps and arrived:
        stop.set()
    return outcome

Step.run = timed
commands.train(read("train", sys.argv[5:], {}), stop)
rate = 256 * steps / (times[-1] - times[-1 - steps])
print("RESULT", json.dumps(dict(first_step=times[0], images_per_second=rate, arrived=arrived[0], steps=len(times))))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--shards", type=int, default=400)
    parser.add_argument("--latency", type=float, default=50.0, help="of each request, ms")
    parser.add_argument("--rate", type=float, default=100.0, help="of the line, MB/s")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, ExitStack() as stack:
        folder = Path(name)
        made = _draw(folder / "set", options.shards, int(options.gigabytes * 1e9))
        proxy = stack.enter_context(_served(folder / "set", options.latency, options.rate * 1e6))
        for number in range(options.rounds):
            cache = folder / f"cache-{number}"
            for case in ("folder", "cold", "warm"):
                data = str(folder / "set") if case == "folder" else ADDRESS
                rows.append(dict(round=number + 1, case=case, **_measured(data, case, folder, cache, len(made), proxy)))
                print(rows[-1], flush=True)
            _remove(cache)
    first = {case: statistics.median(row["first_step"] for row in rows if row["case"] == case) for case in ("folder", "cold", "warm")}
    settings = {key: value for key, value in vars(options).items() if key != "rounds"}
    result = dict(settings=settings, cores=os.cpu_count(), first_step=first, cold_later=first["cold"] - first["folder"], rows=rows)
    Path(__file__).with_name("results").joinpath("shards.json").write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"first step: {first['cold'] - first['folder']:+.1f} s from a cold cache, {first['warm'] - first['folder']:+.1f} s from a warm one"
    )


def _draw(folder: Path, count: int, total: int) -> list[manifest.Shard]:
    """A data set of that many training shards and bytes."""
    folder.mkdir()
    dice = np.random.default_rng(1)
    images = []
    for _ in range(IMAGES):
        coarse = cv2.resize(dice.integers(0, 256, (40, 40, 3), dtype=np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        images.append(cv2.imencode(".jpg", coarse, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
    each = int(total / count / (statistics.mean(map(len, images)) + 170))

    def shard(split: str, k: int, of: int) -> manifest.Shard:
        keys = (f"{split}/{k}/{number}.jpg" for number in range(each))
        drawn = (Record(images[(k * 7 + n) % IMAGES], n % 2, key, hashlib.sha256(key.encode()).hexdigest()) for n, key in enumerate(keys))
        return shards.write(folder, f"{split}-{k:05d}-of-{of:05d}", drawn)

    def split(name: str, of: int) -> Split:
        parts = tuple(shard(name, k, of) for k in range(of))
        positives = of * (each // 2)
        return Split(of * each, (of * each - positives, positives), parts)

    found = Manifest(("a", "b"), {"train": split("train", count), "validation": split("validation", VALIDATION)}, {"side": SIDE})
    manifest.write(folder, found)
    made = [part for name in found.splits for part in found.splits[name].shards]
    print(f"{count} shards, {sum(part.bytes for part in made) / 1e9:.2f} GB, {found.splits['train'].records:,} images", flush=True)
    return made


@contextmanager
def _served(folder: Path, latency: float, rate: float) -> Iterator[str]:
    """The data set in a store; what is given is the endpoint of the slow line to it."""
    with ExitStack() as stack:
        store = stack.enter_context(_program("tests.stores.fake_gcs", folder=folder.parent))
        body = json.dumps(dict(name="benchmark", access="user")).encode()
        urllib.request.urlopen(urllib.request.Request(f"{store}/storage/v1/b", body, {"Content-Type": "application/json"})).close()
        os.environ["STORAGE_EMULATOR_HOST"] = store
        bucket = open_bucket(ADDRESS)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda path: bucket.put(path.name, path), folder.iterdir()))
        proxy = stack.enter_context(_program("tests.stores.proxy", "--to", store, folder=folder.parent))
        control(proxy, "set", latency_ms=latency, bytes_per_second=rate)
        yield proxy


@contextmanager
def _program(module: str, *options: str, folder: Path) -> Iterator[str]:
    """A program that keeps its files in a folder, and the endpoint that it prints."""
    command, environment = [sys.executable, "-m", module, *options], os.environ | {"TMPDIR": str(folder)}
    with subprocess.Popen(command, cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def _measured(data: str, case: str, folder: Path, cache: Path, shards: int, proxy: str) -> dict[str, Any]:
    """One start of `twofold train`, to some steps after its first."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        options = ["--data", data, "--out", f"{out}/run", "--cache-size", "50GB", *NETWORK]
        options += [] if case == "folder" else ["--cache", str(cache)]
        wanted = 0 if case == "folder" else shards
        command = [sys.executable, "-c", CHILD, str(time.monotonic()), str(STEPS), str(cache / "shards"), str(wanted), *options]
        environment = os.environ | {"PYTHONPATH": str(HERE), "STORAGE_EMULATOR_HOST": proxy}
        requests = control(proxy, "counts")["requests"]
        done = subprocess.run(command, cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), "")
        if not line:
            raise SystemExit(f"{case}: no result; {done.stdout[-2000:]}")
        found = json.loads(line.removeprefix("RESULT "))
        found["requests"] = control(proxy, "counts")["requests"] - requests
        if case != "cold":
            del found["arrived"]
        return {key: round(value, 2) for key, value in found.items()}


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main()
