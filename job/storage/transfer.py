"""Bytes on their way to and from a bucket: watched for a drip, whole or absent as files; the network's faults in a few words."""

from __future__ import annotations

import email.utils
import errno
import hashlib
import http.client
import io
import os
import re
import secrets
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from job.errors import MachineError
from job.storage.bucket import Unavailable
from job.storage.local import rename, sha256_of

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0  # of silence; a body that drips is never silent, so it is watched besides
CONNECTIONS = 64  # kept open: 32 threads, and those that hand over
PAGE = 1000  # objects of a listing in one answer, the most that there may be
PIECE = 256 * 1024
SENT_PIECE = 64 * 1024  # each must leave within the socket's time limit, on a thin line too
WINDOW = 30.0  # seconds over which a body must keep its pace
SLOWEST = 1000  # bytes a second, also where 32 threads share a thin line

CUT = "answer cut short"
WRONG_HASH = "hash mismatch"


class Pace:
    """Notices a body that drips: each single byte is in time for the socket, all of them never are."""

    def __init__(self) -> None:
        self._since, self._count = time.monotonic(), 0

    def passed(self, count: int) -> None:
        self._count += count
        spent = time.monotonic() - self._since
        if spent >= WINDOW:
            if self._count < SLOWEST * spent:
                raise Unavailable(f"less than {SLOWEST} bytes a second")
            self._since, self._count = time.monotonic(), 0


class Outgoing:
    """Content to be sent, as clients read it: again from its start where they must.

    Clients wrap what `read` raises in errors of the network, so the first such error is kept as `failed`. urllib3 asks for
    16 kB at a time and takes what it gets; larger pieces cost less.
    """

    def __init__(self, content: bytes | Path) -> None:
        self._file: IO[bytes] = io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
        self.size = self._file.seek(0, io.SEEK_END)
        self.failed: Exception | None = None
        self.seek(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self.size

    def read(self, count: int = -1) -> bytes:
        try:
            piece = self._file.read(max(count, SENT_PIECE) if count > 0 else count)
            self._pace.passed(len(piece))
            return piece
        except (OSError, Unavailable) as error:
            self.failed = self.failed or error
            raise

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._pace = Pace()
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


@contextmanager
def arriving(path: Path) -> Iterator[io.BufferedRandom]:
    """A file that gets its name when it is whole; until then there is only a temporary one, and none where anything fails."""
    temporary = path.with_name(f".{os.getpid()}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("w+b") as file:
            yield file
        rename(temporary, path)
    except BaseException:
        with suppress(OSError):  # the first fault is the one to report
            temporary.unlink()
        raise


def pieces(raw: Any, expected: int | None) -> Iterator[bytes]:
    """The body of an answer as it arrives, in any sizes; `raw` is urllib3's.

    Raises:
        Unavailable: it breaks off, has another length than expected, or drips.
    """
    import urllib3

    pace, count = Pace(), 0
    while True:
        try:
            piece = raw.read1(PIECE)
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(fault(error, "store")) from error
        if not piece:
            break
        count += len(piece)
        pace.passed(len(piece))
        yield piece
    if expected is not None and count != expected:
        raise Unavailable(CUT)


def hash_of(content: bytes | Path) -> str:
    """The SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256_of(content)


def range_header(start: int, length: int | None) -> dict[str, str]:
    """What asks for a part of an object; nothing where it is all of it."""
    if length is not None:
        return {"Range": f"bytes={start}-{start + length - 1}"}
    return {"Range": f"bytes={start}-"} if start else {}


def check_range(header: str, start: int, length: int | None) -> None:
    """Hold the Content-Range of an answer to what was asked for: all of it, or all there is.

    Raises:
        Unavailable: it is another range, or none.
    """
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", header)
    if found is None:
        raise Unavailable("range ignored")
    first, last, size = map(int, found.groups())
    if first != start or last != min(size, size if length is None else start + length) - 1:
        raise Unavailable(CUT)


def fault(error: BaseException, where: str) -> str:
    """What the network did, in a few words.

    Raises:
        MachineError: it does not pass: the store's certificate is not one that this machine trusts.
    """
    import urllib3

    made_of = [*_chain(error)]
    for inner in made_of:
        if isinstance(inner, ssl.SSLCertVerificationError):
            raise MachineError(
                where, f"the certificate of the store is not trusted ({inner.verify_message})",
                "name its CA with REQUESTS_CA_BUNDLE (gs) or AWS_CA_BUNDLE (s3)",
            ) from None  # fmt: skip
    kinds: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
        (CUT, (http.client.IncompleteRead, urllib3.exceptions.IncompleteRead)),
        ("connection refused", (ConnectionRefusedError,)),
        ("host name not found", (socket.gaierror,)),
        ("connection reset", (ConnectionError, ssl.SSLEOFError)),
        ("timed out", (TimeoutError,)),
    )
    for kind, types in kinds:
        if any(isinstance(inner, types) for inner in made_of):
            return kind
    if any(isinstance(inner, OSError) and inner.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH) for inner in made_of):
        return "network unreachable"
    # last, since urllib3 counts all that fails while connecting among these
    return "timed out" if any(isinstance(inner, urllib3.exceptions.TimeoutError) for inner in made_of) else "connection failed"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it was made of; clients wrap one in another, each in its own way."""
    seen: set[int] = set()
    ahead: list[Any] = [error]
    while ahead:
        inner = ahead.pop(0)
        if isinstance(inner, BaseException) and id(inner) not in seen:
            seen.add(id(inner))
            ahead += [*inner.args, getattr(inner, "reason", None), inner.__cause__, inner.__context__]
            yield inner


def status(code: int) -> str:
    """`503 Service Unavailable`."""
    try:
        return f"{code} {http.HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


def passes(code: int) -> bool:
    """Whether an answer of that status may be another one when asked again."""
    return code in (408, 429) or (code >= 500 and code != 501)  # what is not implemented stays so


def retry_after(headers: Mapping[str, str]) -> float:
    """The seconds that the store asks to be left alone; 0 where it does not. Names of headers are taken in lower case."""
    text = {name.lower(): value for name, value in headers.items()}.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(text))
    with suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return 0.0
