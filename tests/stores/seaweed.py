"""SeaweedFS, a real S3 server, while inside `with`: conditional headers, signatures, rights and hashes are its own.

Started with `-s3.autoCreateBucket=false` it answers a put into a missing bucket as S3 does, and with the identities below it refuses
unknown keys, wrong secrets and what a reader may not do. One answer differs: If-Match on a missing key is 412 (S3: 404).
It is ready after some 2.5 s, most of it pauses of its own; killed in the end, since it takes 15 s to go gracefully.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

WRITER = ("writer", "writer-secret")  # access key and its secret
READER = ("reader", "reader-secret")
PUBLIC = "public"  # the bucket that anyone may read

IDENTITIES = {
    "identities": [
        {"name": "writer", "credentials": [dict(accessKey=WRITER[0], secretKey=WRITER[1])], "actions": ["Admin"]},
        {"name": "reader", "credentials": [dict(accessKey=READER[0], secretKey=READER[1])], "actions": ["Read", "List"]},
        {"name": "anonymous", "actions": [f"Read:{PUBLIC}", f"List:{PUBLIC}"]},
    ]
}
PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc")


@contextlib.contextmanager
def seaweed(*buckets: str) -> Iterator[str]:
    """The endpoint of a server that has these buckets, and `PUBLIC`."""
    with tempfile.TemporaryDirectory(prefix="seaweed-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        process = stack.enter_context(_process(folder, ports))
        endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        client = s3_client(endpoint, *WRITER)
        stack.callback(client.close)
        deadline = time.monotonic() + 60
        for bucket in (PUBLIC, *buckets):
            _make(client, bucket, process, deadline, folder / "log")
        yield endpoint


def s3_client(endpoint: str, key: str, secret: str) -> Any:
    """A client that tries once."""
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=60, s3={"addressing_style": "path"})
    secrets = dict(aws_access_key_id=key, aws_secret_access_key=secret)
    return boto3.session.Session().client("s3", endpoint_url=endpoint, region_name="us-east-1", config=config, **secrets)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def _process(folder: Path, ports: dict[str, int]) -> Iterator[subprocess.Popen[bytes]]:
    weed = shutil.which("weed", path=str(Path(sys.executable).parent))
    if weed is None:
        raise FileNotFoundError("weed: not found beside Python; run make setup")
    identities = folder / "identities.json"
    identities.write_text(json.dumps(IDENTITIES))
    options = {
        "dir": folder,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        **ports,
        "filer.localSocket": folder / "filer.sock",
        "s3.localSocket": folder / "s3.sock",
        "s3.config": identities,
        "s3.iam": "false",
        "s3.autoCreateBucket": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "volume.max": 0,  # as many as there is space for: each bucket takes some
        "master.volumeSizeLimitMB": 1024,
        "master.peers": "none",  # it need not look for others: a second less
        "master.telemetry": "false",
    }
    command = [weed, "server", "-filer", "-s3", *(f"-{name}={value}" for name, value in options.items())]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for kind, port in ports.items():  # it puts these into /tmp, wherever it is told to live
            if kind.endswith(".grpc"):
                Path(f"/tmp/seaweedfs-{kind.split('.')[0]}-grpc-{port}.sock").unlink(missing_ok=True)


def _make(client: Any, bucket: str, process: subprocess.Popen[bytes], deadline: float, log: Path) -> None:
    """Make a bucket and write into it, as soon as the server is ready for it."""
    while True:
        try:
            client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="ready", Body=b"")
            client.delete_object(Bucket=bucket, Key="ready")
            return
        except (BotoCoreError, ClientError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"SeaweedFS does not start: {log.read_text()[-2000:]}") from None
            time.sleep(0.05)
