"""HTTP/1.1 messages as they pass through: heads read and kept to the byte, bodies in pieces that are never collected."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

PIECE = 256 << 10  # bytes of a body at once
AHEAD = 16 << 10  # bytes read at once in search of a head's or a line's end
Piece = tuple[bytes | memoryview, bool]  # some bytes, and whether they are the body's own rather than its framing


class Ended(ConnectionError):
    """The other side has closed in the middle of a message."""


@dataclass
class Head:
    """The first line of a message and its headers, and the bytes that they came as."""

    raw: bytes
    first: tuple[str, str, str]
    headers: dict[str, str]

    @property
    def chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "")

    @property
    def length(self) -> int | None:
        """What Content-Length says."""
        value = self.headers.get("content-length")
        return None if value is None else int(value)

    @property
    def last(self) -> bool:
        """Whether the connection ends with this message."""
        return self.headers.get("connection", "").lower() == "close" or "HTTP/1.0" in self.first


class Wire:
    """A connection, and what was read of it ahead."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.ahead = b""
        self._buffer = bytearray(PIECE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def readable(self, seconds: float = 0) -> bool:
        """Whether there is something to read: bytes, or the end."""
        return bool(self.ahead) or bool(select.select([self.socket], [], [], seconds)[0])

    def reset(self) -> None:
        """Close with RST: what is under way is lost, and the other side sees an error."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def head(self) -> Head | None:
        """The next message's head; None where the other side has closed instead."""
        while b"\r\n\r\n" not in self.ahead:
            if not (data := self.socket.recv(AHEAD)):
                if self.ahead:
                    raise Ended("closed in the middle of a head")
                return None
            self.ahead += data
        raw, _, self.ahead = self.ahead.partition(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        one, two, three = [*first.split(" ", 2), "", ""][:3]
        return Head(raw + b"\r\n\r\n", (one, two, three), {name.lower(): value.strip() for name, _, value in pairs})

    def peek(self, size: int) -> bytes:
        """The next bytes, without taking them."""
        while len(self.ahead) < size and (data := self.socket.recv(AHEAD)):
            self.ahead += data
        return self.ahead[:size]

    def body(self, length: int | None, chunked: bool) -> Iterator[Piece]:
        """The pieces of a body: of that length, in chunks, or until the end of the connection. Each is valid until the next."""
        if chunked:
            return self._chunks()
        return ((piece, True) for piece in self._pieces(length))

    def _pieces(self, length: int | None) -> Iterator[bytes | memoryview]:
        view = memoryview(self._buffer)
        left = length
        while left is None or left > 0:
            most = PIECE if left is None else min(PIECE, left)
            piece: bytes | memoryview
            if self.ahead:
                piece, self.ahead = self.ahead[:most], self.ahead[most:]
            else:
                piece = view[: self.socket.recv_into(view, most)]
                if not piece:
                    if left is None:
                        return
                    raise Ended("closed in the middle of a body")
            left = None if left is None else left - len(piece)
            yield piece

    def _chunks(self) -> Iterator[Piece]:
        while True:
            line = self._line()
            yield line, False
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            for piece in self._pieces(size):
                yield piece, True
            yield self._line(), False
        while (line := self._line()) != b"\r\n":  # trailers
            yield line, False
        yield line, False

    def _line(self) -> bytes:
        while b"\n" not in self.ahead:
            if not (data := self.socket.recv(AHEAD)):
                raise Ended("closed in the middle of a chunk")
            self.ahead += data
        line, _, self.ahead = self.ahead.partition(b"\n")
        return line + b"\n"
