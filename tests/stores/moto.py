"""Moto, a second S3 server of other descent, while inside `with`: quick to start, but it checks no signature and no hash.

For what a test wants of a server without rights and without SeaweedFS's 2.5 s; conditional headers it honors on put, get, delete and
on multipart uploads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from moto.server import ThreadedMotoServer

from tests.stores.seaweed import s3_client


@contextlib.contextmanager
def moto(*buckets: str) -> Iterator[str]:
    """The endpoint of a server that has these buckets; moto keeps its state for the whole process."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        with contextlib.closing(s3_client(endpoint, "any", "any")) as client:
            for bucket in buckets:
                client.create_bucket(Bucket=bucket)
        yield endpoint
    finally:
        server.stop()
