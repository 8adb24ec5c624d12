"""Web servers on the loopback that misbehave on demand: files with ranges, and a stand-in for Kaggle."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import json
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, cast

ALWAYS = 1_000_000


@dataclass
class Blob:
    data: bytes
    etag: str
    modified: str
    ranges: bool = True
    sized: bool = True
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """What goes wrong with a path, `times` requests long: the answer's status, or the connection cut after some bytes.

    `stalls` keeps it open and silent instead, until the server ends.
    """

    times: int
    status: int = 0
    cut: int = -1
    stalls: bool = False
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """One request as it came, and the status that it got."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    status: int = 0

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


class Server:
    """Serves named bytes while inside `with`; `requests` is its log."""

    def __init__(self) -> None:
        self.blobs: dict[str, Blob] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[Request] = []
        self.ended = threading.Event()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs=dict(poll_interval=0.02))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.ended.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def url(self, path: str) -> str:
        return self.address + path

    def serve(
        self,
        path: str,
        data: bytes,
        etag: str | None = None,
        modified: float = 1.7e9,
        ranges: bool = True,
        sized: bool = True,
        **headers: str,
    ) -> None:
        """Hold a file. `sized=False` sends it without its length; an underscore in a header's name is a hyphen."""
        tag = f'"{hashlib.md5(data).hexdigest()}"' if etag is None else etag
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.blobs[path] = Blob(data, tag, email.utils.formatdate(modified, usegmt=True), ranges, sized, named)

    def cut(self, path: str, after: int, times: int = 1) -> None:
        self.faults.setdefault(path, []).append(Fault(times, cut=after))

    def stall(self, path: str, after: int, times: int = 1) -> None:
        self.faults.setdefault(path, []).append(Fault(times, cut=after, stalls=True))

    def answer(self, path: str, status: int, times: int = ALWAYS, **headers: str) -> None:
        self.faults.setdefault(path, []).append(Fault(times, status=status, headers=headers))

    def gets(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.method == "GET" and request.path == path]

    def next_fault(self, path: str) -> Fault | None:
        for fault in self.faults.get(path, ()):
            if fault.times:
                fault.times -= 1
                return fault
        return None

    def post(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        return 405, {}, b""


class _Http(ThreadingHTTPServer):
    owner: Server
    daemon_threads = False  # so that closing waits for the threads and nothing outlives a test

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle is part of the play; anything else is a fault of the test's."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    timeout = 5

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        owner, request = self._noted()
        fault = owner.next_fault(request.path)
        blob = owner.blobs.get(request.path)
        if fault is not None and fault.status:
            self._send(request, fault.status, fault.headers, b"the server says no")
        elif blob is None:
            self._send(request, 404, {}, b"")
        else:
            status, headers, body = _part(blob, request)
            self._send(request, status, headers, body, fault.cut if fault is not None else -1, blob.sized)
            if fault is not None and fault.stalls:
                owner.ended.wait(20)

    def do_POST(self) -> None:
        owner, request = self._noted()
        fault = owner.next_fault(request.path)
        if fault is not None and fault.status:
            self._send(request, fault.status, fault.headers, b"the server says no")
        else:
            self._send(request, *owner.post(request))

    def _noted(self) -> tuple[Server, Request]:
        owner = cast(_Http, self.server).owner
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path.split("?")[0], headers, body)
        owner.requests.append(request)
        return owner, request

    def _send(self, request: Request, status: int, headers: Mapping[str, str], body: bytes, cut: int = -1, sized: bool = True) -> None:
        request.status = status
        self.send_response(status)
        for name, value in {**({"Content-Length": str(len(body))} if sized else {}), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if cut < 0 else body[:cut])


def _part(blob: Blob, request: Request) -> tuple[int, dict[str, str], bytes]:
    """The whole or the range asked for, as RFC 9110 has it."""
    size = len(blob.data)
    headers = {"Last-Modified": blob.modified, "Content-Type": "application/octet-stream", **blob.headers}
    if blob.etag:
        headers["ETag"] = blob.etag
    if not blob.ranges:
        return 200, headers, blob.data
    headers["Accept-Ranges"] = "bytes"
    if request.range is None or request.headers.get("if-range", blob.etag) not in (blob.etag, blob.modified):
        return 200, headers, blob.data
    start = int(request.range.removeprefix("bytes=").removesuffix("-"))
    if start >= size:
        return 416, {"Content-Range": f"bytes */{size}"}, b""
    return 206, {**headers, "Content-Range": f"bytes {start}-{size - 1}/{size}"}, blob.data[start:]


class FakeKaggle(Server):
    """As much of Kaggle as a download needs: the token's introspection, and the redirect to the archive.

    `refuse` is the status that every asked-for archive gets instead.
    """

    TOKEN, USER, KEY = "KGAT_good", "tester", "0123456789abcdef"
    DATASET = "/api/v1/datasets.DatasetApiService/DownloadDataset"
    COMPETITION = "/api/v1/competitions.CompetitionApiService/DownloadDataFiles"
    INTROSPECT = "/api/v1/security.OAuthService/IntrospectToken"

    def __init__(self) -> None:
        super().__init__()
        self.refuse = 0

    def dataset(self, owner: str, name: str, data: bytes, **options: Any) -> str:
        """Hold a data set; gives the path of its archive."""
        path = f"/blobs/datasets/{owner}/{name}/archive.zip"
        self.serve(path, data, **options)
        return path

    def competition(self, name: str, data: bytes) -> str:
        path = f"/blobs/competitions/{name}/bundle/archive.zip"
        self.serve(path, data)
        return path

    def post(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        asked = json.loads(request.body or b"{}")
        if request.path == self.INTROSPECT:
            known = asked.get("token") == self.TOKEN
            return _json(200, {"active": known, "username": self.USER if known else ""})
        if not self._knows(request.headers.get("authorization", "")):
            return _json(401, {"code": 401, "message": "Unauthenticated"})
        if self.refuse:
            return _json(self.refuse, {"code": self.refuse, "message": "no"})
        if request.path == self.DATASET:
            version = f"/{asked['datasetVersionNumber']}" if asked.get("datasetVersionNumber") else ""
            path = f"/blobs/datasets/{asked['ownerSlug']}/{asked['datasetSlug']}{version}/archive.zip"
        elif request.path == self.COMPETITION:
            path = f"/blobs/competitions/{asked['competitionName']}/bundle/archive.zip"
        else:
            return _json(404, {"code": 404, "message": "no such call"})
        if path not in self.blobs:
            return _json(404, {"code": 404, "message": "Not found"})
        return 302, {"Location": f"{self.url(path)}?signature=abc"}, b""

    def _knows(self, authorization: str) -> bool:
        basic = base64.b64encode(f"{self.USER}:{self.KEY}".encode()).decode()
        return authorization in (f"Bearer {self.TOKEN}", f"Basic {basic}")


def _json(status: int, value: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()
