"""Upload and download of 64 MB through a bucket of ours, beside the ways that the store's own client has.

    python -m benchmarks.transfer [--rounds 5] [--megabytes 64]

starts the stores, and writes `benchmarks/results/transfer.csv`, a row for each transfer, and `transfer.md`, the medians. All ways
take their turn in each round, in an order that changes; all read from a file, or write one. CPU is this process's, its
threads included, the store's left out; what ours does more is the SHA-256 that it notes with each object and holds it to.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c

from benchmarks.stores import BUCKET, stores, write_rows, write_table
from job.storage.opening import open_bucket
from tests.stores.fixtures import Store

OURS = "ours"
COLUMNS = ("round", "store", "direction", "way", "seconds", "cpu_seconds", "bytes")


@dataclass(frozen=True)
class Way:
    """A way to upload a file as an object, or to download an object into a file."""

    store: str
    direction: str
    name: str
    move: Callable[[str, Path], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=64)
    options = parser.parse_args()
    with stores() as places, tempfile.TemporaryDirectory() as name:
        for place in places.values():
            os.environ.update(place.environment)
        file = Path(name) / "content"
        file.write_bytes(os.urandom(options.megabytes << 20))
        rows = list(_measured(places, file, options.rounds))
    write_rows("transfer", rows)
    about = f"Transfers of {options.megabytes} MB, medians of {options.rounds}; the ratio is the median of each round's."
    write_table("transfer", about, ("store", "direction", "way", "MB/s", "CPU s/GB", "ours / this way"), list(_summary(rows)))


def _measured(places: dict[str, Store], file: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """A row for each transfer; the first round warms up and is left out."""
    ways = [*_gs_ways(), *_s3_ways(places["s3"])]
    for name, place in places.items():
        bucket = open_bucket(place.url)
        ways += [Way(name, "upload", OURS, bucket.put), Way(name, "download", OURS, bucket.fetch)]
        bucket.put("stored", file)
    arrived, wanted = file.with_name("arrived"), file.read_bytes()
    for number in range(rounds + 1):
        for turn in range(len(ways)):
            way = ways[(turn + number) % len(ways)]
            upload = way.direction == "upload"
            began, cpu = time.monotonic(), time.process_time()
            way.move(f"sent-{number}" if upload else "stored", file if upload else arrived)
            spent, cpu = time.monotonic() - began, time.process_time() - cpu
            bucket = open_bucket(places[way.store].url)
            if upload:
                there = bucket.stat(f"sent-{number}")
                assert there is not None
                assert there.size == len(wanted)
                bucket.delete(there.name, there.version)
            else:
                assert arrived.read_bytes() == wanted, f"{way.name}: other bytes arrived"
                arrived.unlink()
            if number:
                row = (number, way.store, way.direction, way.name, round(spent, 4), round(cpu, 4), len(wanted))
                yield dict(zip(COLUMNS, row, strict=True))


def _gs_ways() -> list[Way]:
    from google.cloud.storage import Client

    client = Client(project="benchmark")
    bucket = client.bucket(BUCKET)

    def by_session(name: str, path: Path) -> None:
        """The client's session without the client's own reader: what the bytes cost at least, their checksum included."""
        checksum, buffer = google_crc32c.Checksum(), memoryview(bytearray(1 << 20))
        url = f"{client.api_endpoint}/download/storage/v1/b/{BUCKET}/o/place%2F{name}?alt=media"
        with client._http.get(url, stream=True) as response, path.open("wb") as out:
            while count := response.raw.readinto(buffer):
                checksum.update(bytes(buffer[:count]))
                out.write(buffer[:count])

    return [
        Way("gs", "upload", "upload_from_filename", lambda name, path: bucket.blob(f"place/{name}").upload_from_filename(str(path))),
        Way(
            "gs", "upload", "upload_from_filename, no checksum",
            lambda name, path: bucket.blob(f"place/{name}").upload_from_filename(str(path), checksum=None),
        ),
        Way("gs", "download", "download_to_filename", lambda name, path: bucket.blob(f"place/{name}").download_to_filename(str(path))),
        Way(
            "gs", "download", "download_to_filename, single shot",
            lambda name, path: bucket.blob(f"place/{name}").download_to_filename(str(path), single_shot_download=True),
        ),
        Way("gs", "download", "session, readinto", by_session),
    ]  # fmt: skip


def _s3_ways(place: Store) -> list[Way]:
    import boto3

    client = boto3.client("s3")

    def put(name: str, path: Path) -> None:
        with path.open("rb") as file:
            client.put_object(Bucket=BUCKET, Key=f"place/{name}", Body=file)

    def get(name: str, path: Path) -> None:
        with closing(client.get_object(Bucket=BUCKET, Key=f"place/{name}")["Body"]) as body, path.open("wb") as file:
            while piece := body.read(1 << 20):
                file.write(piece)

    return [
        Way("s3", "upload", "upload_file", lambda name, path: client.upload_file(str(path), BUCKET, f"place/{name}")),
        Way("s3", "upload", "put_object", put),
        Way("s3", "download", "download_file", lambda name, path: client.download_file(BUCKET, f"place/{name}", str(path))),
        Way("s3", "download", "get_object", get),
    ]


def _summary(rows: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Medians of each way, and how the rate of ours compares with it."""
    ways: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        ways.setdefault((row["store"], row["direction"], row["way"]), []).append(row)
    for (store, direction, way), found in sorted(ways.items(), key=lambda item: (*item[0][:2], item[0][2] != OURS, item[0][2])):
        ours = [row["seconds"] for row in ways[store, direction, OURS]]
        seconds, size = [row["seconds"] for row in found], rows[0]["bytes"]
        cpu = statistics.median(row["cpu_seconds"] for row in found) / size * 1e9
        ratio = statistics.median(other / own for own, other in zip(ours, seconds, strict=True))
        rate = size / 1e6 / statistics.median(seconds)
        yield store, direction, way, f"{rate:,.0f}", f"{cpu:.2f}", "" if way == OURS else f"{ratio:.2f}"


if __name__ == "__main__":
    main()
