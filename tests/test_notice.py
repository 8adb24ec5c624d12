"""The notice that a machine will go, from metadata servers on the loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from job.machine import notice
from job.shutdown import Stop


class Metadata:
    """A machine's metadata server, of both clouds; `taken` is set when the machine will go. `seen` are the requests."""

    def __init__(self) -> None:
        self.taken, self.broken, self.tokens = threading.Event(), threading.Event(), 0
        self.seen: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None:
                pass

            def do_PUT(self) -> None:
                assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
                server.tokens += 1
                self._answer(200, f"token {server.tokens}")

            def do_GET(self) -> None:
                server.seen.append(self.path)
                url = urlsplit(self.path)
                if server.broken.is_set():
                    self._answer(503, "later")
                elif url.path == "/latest/meta-data/spot/instance-action":
                    known = self.headers["X-aws-ec2-metadata-token"] == f"token {server.tokens}"
                    going = '{"action": "terminate",\n "time": "2030-01-01T00:00:00Z"}'
                    status = (200 if server.taken.is_set() else 404) if known else 401
                    self._answer(status, going if status == 200 else "none")
                else:
                    assert url.path == "/computeMetadata/v1/instance/preempted"
                    assert self.headers["Metadata-Flavor"] == "Google"
                    if "wait_for_change" in url.query:
                        assert parse_qs(url.query)["last_etag"] == ["abc"]
                        server.taken.wait(5)
                    self._answer(200, "TRUE" if server.taken.is_set() else "FALSE")

            def _answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("ETag", "abc")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs=dict(poll_interval=0.02))

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    server = Metadata()
    monkeypatch.setenv("GCE_METADATA_HOST", server.host)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{server.host}/")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # which no question may go through
    monkeypatch.setattr(notice, "PAUSE", 0.05)
    server.thread.start()
    yield server
    server.taken.set()
    server.http.shutdown()
    server.thread.join()
    server.http.server_close()


def _eventually(condition: Any) -> bool:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


@pytest.mark.parametrize(
    ("cloud", "words"),
    [
        ("gce", "this machine is preempted"),
        ("ec2", 'this machine will go ({"action": "terminate", "time": "2030-01-01T00:00:00Z"})'),
    ],
)
def test_a_notice_is_a_stop(metadata: Metadata, cloud: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    stop = Stop()
    with notice.heard(cloud, stop):
        assert _eventually(lambda: len(metadata.seen) > 1)
        assert not stop
        metadata.tokens += 1  # the token that was given has run out
        metadata.taken.set()
        assert _eventually(lambda: bool(stop))
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"{cloud} gives notice that {words}: stopping"


@pytest.mark.parametrize("cloud", ["gce", "ec2"])
def test_a_server_that_fails_is_told_of_once_and_asked_again(metadata: Metadata, cloud: str, capsys: pytest.CaptureFixture[str]) -> None:
    stop = Stop()
    metadata.broken.set()
    with notice.heard(cloud, stop):
        assert _eventually(lambda: len(metadata.seen) > 3)
        metadata.taken.set()
        metadata.broken.clear()
        assert _eventually(lambda: bool(stop))
    warned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    line = f"warning: the metadata server of {cloud} does not answer (HTTP Error 503: Service Unavailable); asking again every 0.05 s"
    assert warned == [line]


def test_what_comes_after_the_end_is_not_heard(metadata: Metadata) -> None:
    stop = Stop()
    with notice.heard("gce", stop):
        assert _eventually(lambda: len(metadata.seen) > 1)
    metadata.taken.set()
    assert _eventually(lambda: not any(thread.name == "notice" for thread in threading.enumerate()))
    assert not stop


@pytest.mark.parametrize(
    ("firmware", "cloud"),
    [
        (dict(product_name="Google Compute Engine\n", sys_vendor="Google"), "gce"),
        (dict(product_name="Pixelbook", sys_vendor="Google"), "off"),
        (dict(product_name="m5.large", sys_vendor="Amazon EC2"), "ec2"),
        (dict(product_name="HVM domU", sys_vendor="Xen", bios_version="4.11.amazon"), "ec2"),
        (dict(product_name="Virtual Machine", sys_vendor="Microsoft Corporation", bios_version="\xff"), "off"),
        ({}, "off"),
    ],
)
def test_the_cloud_is_known_by_the_firmware(firmware: dict[str, str], cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "DMI", tmp_path)
    for name, text in firmware.items():
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    assert notice.cloud("auto") == cloud
    assert notice.cloud("gce") == "gce"
    before = threading.active_count()
    if cloud == "off":
        with notice.heard("auto", Stop()):
            assert threading.active_count() == before
