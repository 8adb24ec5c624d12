"""A proxy before a store that makes faults: `Proxy` in Python, `python -m tests.stores.proxy --to URL --port N` as a program.

It leaves requests as they are, `Host` too, so that signatures stay valid and the addresses that a store gives lead through it.
Other processes set it by JSON (`control`): POST `/_proxy/rules` (a Rule), `/_proxy/chaos` (a Chaos), `/_proxy/set` (`latency_ms`,
`bytes_per_second`, `away`), DELETE `/_proxy/rules`; GET `/_proxy/counts`, `/_proxy/log`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import socket
import threading
import time
import urllib.request
from collections.abc import Iterable
from socketserver import BaseRequestHandler
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import urlsplit

from tests.stores.faults import Entry, Faults, Rule
from tests.stores.threads import Listener, until_terminated
from tests.stores.wire import Head, Piece, Wire

CONTROL = "/_proxy/"
BURST = 0.02  # seconds of bandwidth that an idle line saves up, since no sleep is exact
SLICE = 64 << 10  # bytes sent at once over a line that is limited
REASONS = {429: ("rateLimitExceeded", "TooManyRequests"), 401: ("required", "InvalidToken"), 403: ("forbidden", "AccessDenied")}


class Reset(ConnectionError):
    """Both connections of a request are to be reset."""


class Line:
    """The bandwidth of one direction, shared by all connections."""

    def __init__(self) -> None:
        self.rate = 0.0  # bytes a second; 0 is no limit
        self._free = 0.0
        self._lock = threading.Lock()

    def send(self, to: socket.socket, data: bytes | memoryview) -> None:
        if not self.rate:
            to.sendall(data)
            return
        for start in range(0, len(data), SLICE):
            part = data[start : start + SLICE]
            with self._lock:
                now = time.monotonic()
                self._free = max(self._free, now - BURST) + len(part) / self.rate
                wait = self._free - now
            if wait > 0:
                time.sleep(wait)
            to.sendall(part)


class Proxy:
    """Stands before the store at `to`, while inside `with`; `faults` has the rules and the log."""

    def __init__(self, to: str, host: str = "127.0.0.1", port: int = 0) -> None:
        url = urlsplit(to)
        self.store = (url.hostname or "127.0.0.1", url.port or 80)
        self.faults = Faults()
        self.latency_ms = 0.0
        self.up, self.down = Line(), Line()
        self._away_until = 0.0
        self.stopped = threading.Event()
        self._listener = Listener((host, port), _Handler)
        self._listener.owner = self

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.server_address[1]}"

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stopped.set()
        self._listener.stop()

    def limit(self, bytes_per_second: float) -> None:
        """The bandwidth of each direction; 0 is no limit."""
        self.up.rate = self.down.rate = bytes_per_second

    def away(self, seconds: float) -> None:
        """Reset all connections, and those that come within these seconds; 0 ends it."""
        self._away_until = time.monotonic() + seconds
        if seconds:
            self._listener.hang_up()

    @property
    def is_away(self) -> bool:
        return time.monotonic() < self._away_until


class _Handler(BaseRequestHandler):
    """One connection of a client, with its own to the store."""

    def handle(self) -> None:
        self.proxy = cast(Proxy, cast(Listener, self.server).owner)
        self.client = Wire(self.request)
        self.store: Wire | None = None
        try:
            while (head := self.client.head()) is not None:
                method, path, _ = head.first
                if path.startswith(CONTROL):
                    self._control(head, method, path.removeprefix(CONTROL))
                    more = True
                else:
                    more = self._pass(head, self.proxy.faults.begin(method, path))
                if not more or head.last:
                    return
        except OSError:  # Reset, or one of the two has gone
            self.client.reset()
        finally:
            self._hang_up()

    def _connect(self) -> Wire:
        """A connection to the store: the one that there is, unless the store has closed it."""
        if self.store is not None and self.store.readable():
            self._hang_up()
        if self.store is None:
            self.store = Wire(socket.create_connection(self.proxy.store, timeout=10))
            self.store.socket.settimeout(None)
            cast(Listener, self.server).connections.add(self.store.socket)
        return self.store

    def _hang_up(self) -> None:
        if self.store is not None:
            cast(Listener, self.server).connections.discard(self.store.socket)
            self.store.socket.close()
            self.store = None

    # What the proxy is told

    def _control(self, head: Head, method: str, what: str) -> None:
        body = b"".join(piece for piece, _ in self.client.body(head.length or 0, head.chunked))
        proxy, fields = self.proxy, json.loads(body or b"{}")
        answer: Any = {}
        match method, what:
            case "GET", "counts":
                answer = proxy.faults.counts()
            case "GET", "log":
                answer = proxy.faults.entries()
            case "POST", "rules":
                proxy.faults.add(**fields)
            case "DELETE", "rules":
                proxy.faults.clear()
            case "POST", "chaos":
                proxy.faults.chaos(**fields)
            case "POST", "set":
                proxy.latency_ms = fields.get("latency_ms", proxy.latency_ms)
                proxy.limit(fields.get("bytes_per_second", proxy.up.rate))
                if "away" in fields:
                    self._respond(200, {}, b"{}")
                    proxy.away(fields["away"])
                    return
            case _:
                self._respond(404, {}, b"{}")
                return
        self._respond(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _respond(self, status: int, headers: dict[str, str], body: bytes, head_only: bool = False) -> None:
        lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in headers.items()), f"Content-Length: {len(body)}"]
        self.request.sendall("\r\n".join([*lines, "", ""]).encode() + (b"" if head_only else body))

    # What passes through

    def _pass(self, head: Head, entry: Entry) -> bool:
        """One request and its response; False where the connection ends with it."""
        proxy = self.proxy
        if proxy.is_away:
            entry.fault = "away"
            raise Reset
        rule = proxy.faults.take(entry.method, entry.path, _writes(head))
        fault = rule.fault if rule else ""
        delay = proxy.latency_ms / 1000 + (rule.seconds if rule and fault == "latency" else 0)
        if delay:
            proxy.stopped.wait(delay)
        if rule and (fault in ("latency", "reset") or fault.isdecimal()):
            entry.fault = fault
        if fault == "reset":
            raise Reset
        if rule and fault.isdecimal():
            self._status(head, entry, rule)
            return True
        answered = self._forward(head, entry, fault)
        return self._answer(head, entry, rule) and answered

    def _status(self, head: Head, entry: Entry, rule: Rule) -> None:
        """An error in place of the store's answer, in the words of either API."""
        if "expect" in head.headers:
            self.request.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        for _ in self.client.body(head.length or 0, head.chunked):
            pass
        entry.status = int(rule.fault)
        json_reason, xml_reason = REASONS.get(entry.status, ("backendError", "SlowDown" if entry.status == 503 else "InternalError"))
        if entry.path.startswith(("/storage/", "/upload/", "/download/", "/batch/")):
            error = {"message": "made by the proxy", "reason": rule.reason or json_reason}
            body = json.dumps({"error": {"code": entry.status, "message": error["message"], "errors": [error]}}).encode()
            headers = {"Content-Type": "application/json"}
        else:
            body = f"<Error><Code>{rule.reason or xml_reason}</Code><Message>made by the proxy</Message></Error>".encode()
            headers = {"Content-Type": "application/xml"}
        if rule.retry_after is not None:
            headers["Retry-After"] = f"{rule.retry_after:g}"
        self._respond(entry.status, headers, body, head_only=entry.method == "HEAD")

    def _forward(self, head: Head, entry: Entry, fault: str) -> bool:
        """Send a request on; False where the store has answered before it had all."""
        store = self._connect()
        store.socket.sendall(head.raw)
        if "expect" in head.headers and not self._expects(store):
            return False
        body = self.client.body(head.length or 0, head.chunked)
        at = -1
        if fault in ("flip-request", "cut-request"):
            entry.fault = fault
            at = self._middle(head) if fault == "flip-request" else (head.length or 0) // 2
        sent, early = 0, False
        for piece, own in body:
            if early or _answers(store):
                early = True  # the rest is read and dropped, so that the client gets to the answer
                continue
            if own and sent <= at < sent + len(piece):
                if fault == "cut-request":
                    self.proxy.up.send(store.socket, piece[: at - sent])
                    store.reset()
                    raise Reset
                piece = _flipped(piece, at - sent)
            try:
                self.proxy.up.send(store.socket, piece)
            except ConnectionError:
                early = True
                continue
            sent += len(piece) if own else 0
            entry.sent = sent
        return not early

    def _expects(self, store: Wire) -> bool:
        """Wait until the client sends its body, told to by the store or not; False where the store answers instead."""
        while not self.client.ahead:
            ready = select.select([self.request, store.socket], [], [])[0]
            if self.request in ready:
                return True
            if _answers(store):
                return False
            self.request.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _middle(self, head: Head) -> int:
        """The middle of the content in a request's body; a multipart one has the object's description before it."""
        length = head.length or 0
        if "multipart/related" not in head.headers.get("content-type", ""):
            return length // 2
        begin = self.client.peek(min(length, 16 << 10))
        start = begin.find(b"\r\n\r\n", begin.find(b"\r\n\r\n") + 4) + 4
        end = length - len(begin.partition(b"\r\n")[0]) - 4
        return (start + max(start, end)) // 2

    def _answer(self, head: Head, entry: Entry, rule: Rule | None) -> bool:
        """Send the store's response back; False where the connection ends with it."""
        store = self.store
        if store is None:
            raise Reset
        while (response := store.head()) is not None and response.first[1].startswith("1"):
            pass  # 100 to a client that did not wait for it
        if response is None:
            raise Reset
        status = int(response.first[1])
        empty = entry.method == "HEAD" or status in (204, 304)
        length = 0 if empty else response.length
        body = store.body(length, response.chunked and not empty)
        fault = rule.fault if rule else ""
        if fault == "lost":
            for _ in body:
                pass
            entry.fault = fault
            raise Reset
        at = -1
        if rule and fault in ("cut", "stall", "flip"):
            if not empty and length != 0 and (fault != "flip" or _is_content(response, status)):
                at = (length or 0) // 2
                entry.fault = fault
            else:
                self.proxy.faults.give_back(rule)
        entry.status = status
        self.request.sendall(response.raw)
        whole = self._relay(body, entry, rule, at)
        more = whole and not response.last and (length is not None or response.chunked)
        if not more:
            self._hang_up()
        return more

    def _relay(self, body: Iterable[Piece], entry: Entry, rule: Rule | None, at: int) -> bool:
        """Send a body back; False where it was cut."""
        for piece, own in body:
            here = at - entry.received
            if rule and own and 0 <= here < len(piece):
                if rule.fault == "flip":
                    piece = _flipped(piece, here)
                else:
                    self.proxy.down.send(self.request, piece[:here])
                    entry.received += here
                    piece = piece[here:]
                    if rule.fault == "cut":
                        return False
                    if self.client.readable(rule.seconds):  # it has gone
                        raise Reset
            self.proxy.down.send(self.request, piece)
            entry.received += len(piece) if own else 0
        return True


def _answers(store: Wire) -> bool:
    """Whether a response has begun to come; 100 is none, and taken away (werkzeug sends it twice)."""
    while store.readable():
        if not store.peek(12).startswith(b"HTTP/1.1 100"):
            return True
        store.head()
    return False


def _flipped(piece: bytes | memoryview, at: int) -> bytes:
    changed = bytearray(piece)
    changed[at] ^= 1
    return bytes(changed)


def _writes(head: Head) -> bool:
    """Whether a request has an object's content: a fault of other bodies would be none of the content's."""
    method, path, _ = head.first
    content = method == "PUT" or (method == "POST" and ("uploadType=multipart" in path or "uploadType=media" in path))
    return content and (head.chunked or bool(head.length))


def _is_content(response: Head, status: int) -> bool:
    """Whether a response has an object's content, rather than a list or a description."""
    return status in (200, 206) and ("x-goog-generation" in response.headers or "etag" in response.headers)


def control(endpoint: str, what: str, method: str = "", **fields: Any) -> Any:
    """Tell a proxy of another process, or ask it: control(endpoint, "rules", fault="503", n=2), control(endpoint, "counts")."""
    data = json.dumps(fields).encode() if fields else None
    request = urllib.request.Request(f"{endpoint}{CONTROL}{what}", data=data, method=method or ("POST" if fields else "GET"))
    with contextlib.closing(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10)) as answer:
        return json.loads(answer.read())


def main() -> None:
    parser = argparse.ArgumentParser(description="a proxy before a store that makes faults")
    parser.add_argument("--to", required=True, help="the store's endpoint")
    parser.add_argument("--port", type=int, default=0, help="where it listens; 0 takes a free one, which is printed")
    parser.add_argument("--host", default="127.0.0.1")
    given = parser.parse_args()
    with Proxy(given.to, given.host, given.port) as proxy:
        print(proxy.endpoint, flush=True)
        until_terminated()


if __name__ == "__main__":
    main()
