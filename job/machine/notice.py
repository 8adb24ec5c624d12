"""The notice of a cloud that this machine will be taken away: heard from its metadata server, it is a stop."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from job.console import console
from job.shutdown import Stop

DMI = Path("/sys/class/dmi/id")  # who made the machine, as its firmware says
PAUSE = 5.0  # seconds between two questions
LONG = 60  # seconds that Google's server holds a question until the answer changes
_direct = build_opener(ProxyHandler({}))  # a metadata server is of this machine, and no proxy reaches it


def cloud(chosen: str) -> str:
    """The cloud whose notices are heard: `gce`, `ec2`, or `off`. For `auto`, by the machine's firmware."""
    if chosen != "auto":
        return chosen
    if _firmware("product_name") == "Google Compute Engine":
        return "gce"
    return "ec2" if any("amazon" in _firmware(name).lower() for name in ("sys_vendor", "bios_version")) else "off"


def _firmware(name: str) -> str:
    try:
        return (DMI / name).read_text(errors="replace").strip()
    except OSError:
        return ""


@contextmanager
def heard(chosen: str, stop: Stop) -> Iterator[None]:
    """While inside, a notice of the cloud sets `stop`. `chosen` is the option `--notice`."""
    where = cloud(chosen)
    if where == "off":
        yield
        return
    ended = threading.Event()
    server = _Google() if where == "gce" else _Amazon()
    threading.Thread(target=_listen, args=(where, server, stop, ended), name="notice", daemon=True).start()
    try:
        yield
    finally:
        ended.set()  # a question under way is left to its end


class _Server(Protocol):
    """A metadata server. `ask` gives the notice in words, or nothing; `pause` are the seconds until it is asked again."""

    pause: float

    def ask(self) -> str: ...


def _listen(where: str, server: _Server, stop: Stop, ended: threading.Event) -> None:
    warned = False
    while not ended.is_set():
        try:
            notice, pause = server.ask(), server.pause
        except (OSError, ValueError, http.client.HTTPException) as error:
            if not warned and not ended.is_set():
                console.log(f"warning: the metadata server of {where} does not answer ({error}); asking again every {PAUSE:g} s")
            notice, pause, warned = "", PAUSE, True
        if notice and not ended.is_set():
            console.log(f"{where} gives notice that {notice}: stopping")
            stop.set()
            return
        ended.wait(pause)


class _Google:
    """Google Compute Engine: a question is held until the answer changes from the one that is known."""

    def __init__(self) -> None:
        self.pause, self._seen = 0.0, ""
        self._url = f"http://{os.environ.get('GCE_METADATA_HOST') or 'metadata.google.internal'}/computeMetadata/v1/instance/preempted"

    def ask(self) -> str:
        held = f"?wait_for_change=true&timeout_sec={LONG}&last_etag={self._seen}" if self._seen else ""
        with _direct.open(Request(self._url + held, headers={"Metadata-Flavor": "Google"}), timeout=LONG + 10) as answer:
            self._seen = answer.headers.get("ETag", "")
            self.pause = 0.0 if self._seen else PAUSE
            return "this machine is preempted" if answer.read(100).strip() == b"TRUE" else ""


class _Amazon:
    """Amazon EC2, by version 2 of its metadata service: each question shows a token."""

    def __init__(self) -> None:
        self.pause, self._token = PAUSE, ""
        self._base = (os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or "http://169.254.169.254").rstrip("/")

    def ask(self) -> str:
        if not self._token:
            self._token = self._open("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}).decode("ascii")
        try:
            answer = self._open("GET", "/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": self._token})
        except HTTPError as error:
            if error.code == 404:  # there is none
                return ""
            self._token = ""  # it may have run out
            raise
        return f"this machine will go ({' '.join(answer.decode(errors='replace').split())})"

    def _open(self, method: str, path: str, headers: dict[str, str]) -> bytes:
        with _direct.open(Request(self._base + path, method=method, headers=headers), timeout=PAUSE) as answer:
            return bytes(answer.read(10_000))
