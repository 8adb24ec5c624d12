"""An archive from the web, downloaded with resumption and checked: `https://host/file.zip#sha256=...`."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import queue
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from job.console import console
from job.errors import MachineError, UserError
from job.shutdown import Stop
from job.storage import local

TRIES = 6
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds between tries, doubled each time
TIMEOUT = 60.0  # seconds without a byte
LOOK = 0.2  # seconds between two looks at the stop
_CHUNK = 1 << 20
_QUEUED = 8  # chunks read and not written yet

T = TypeVar("T")


def download(text: str, scratch: Path, stop: Stop) -> Path:
    """Fetch an archive into `scratch`, resuming where a cut connection or a killed run left off.

    Raises:
        UserError: there is no such file, it is refused, or its checksum differs.
        MachineError: the server or the network does not answer.
        Interrupted: `stop` was set; the same call resumes.
    """
    url, _, fragment = text.partition("#")
    wanted = _checksum(text, fragment)
    parts = _address(url)
    if parts.scheme == "http" and not wanted and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise UserError(url, "plain http can be tampered with", "use https, or add #sha256=... to it")
    name = Path(urllib.parse.unquote(parts.path)).name
    folder = scratch / "web" / hashlib.sha256(url.encode()).hexdigest()[:12]  # two addresses may end in the same name
    target = folder / (name or "download")
    if target.exists():
        found = local.sha256_of(target)
        if wanted in ("", found):
            console.log(f"{url} is already downloaded: SHA-256 {found}")
            return target
    local.make_folder(folder)
    console.log(f"downloading {url}")
    part = fetch(url, target, url, stop)
    found = local.sha256_of(part)
    if wanted and found != wanted:
        discard(part)
        raise UserError(url, f"has SHA-256 {found}, not {wanted}", "check the address and the checksum")
    console.log(f"downloaded {local.size(part.stat().st_size)}, SHA-256 {found}")
    local.rename(part, target)
    discard(part)
    return target


def fetch(url: str, target: Path, where: str, stop: Stop) -> Path:
    """Get a file in several tries, resuming one that was begun for `target` before.

    Args:
        where: what errors name; a signed address is a secret.

    Returns:
        The whole file, beside `target`, for the caller to check and to rename.
    """
    part = target.with_name(target.name + ".part")
    wait = FIRST_WAIT
    for attempt in range(1, TRIES + 1):
        try:
            _fetch(url, part, where, stop)
            return part
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise UserError(
                    where, f"the server refuses it ({error.code} {error.reason})", "check the address and your access"
                ) from None
            if error.code < 500 and error.code not in (408, 429):
                raise UserError(where, f"the server answers {error.code} {error.reason}", "check the address") from None
            fault = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):  # the disk, not the network
                raise
            fault = str(getattr(error, "reason", error)) or type(error).__name__
        if attempt < TRIES:
            console.log(f"download interrupted ({fault}): resuming in {wait:g} s")
            _pause(wait, stop)
            wait = min(2 * wait, LONGEST_WAIT)
    raise MachineError(where, f"gave up after {TRIES} tries ({fault})", "check the network and rerun to resume")


def discard(part: Path) -> None:
    """Delete what a download leaves beside its file."""
    part.unlink(missing_ok=True)
    _state(part).unlink(missing_ok=True)


def watched(work: Callable[[], Iterable[T]], stop: Stop, timeout: float) -> Generator[T, None, None]:
    """What `work` gives, from a thread of its own, so that a silent network keeps nobody from stopping.

    The thread ends with its next item once this generator is closed.

    Raises:
        TimeoutError: nothing came for `timeout` seconds.
        Interrupted: `stop` was set.
    """
    arrived: queue.Queue[Callable[[], T] | None] = queue.Queue(_QUEUED)
    closed = threading.Event()

    def put(item: Callable[[], T] | None) -> None:
        while not closed.is_set():
            with suppress(queue.Full):
                arrived.put(item, timeout=LOOK)
                return

    def run() -> None:
        try:
            for item in work():
                put(partial(_given, item))
                if closed.is_set():
                    return
            put(None)
        except BaseException as error:
            put(partial(_raised, error))

    threading.Thread(target=run, name="download", daemon=True).start()
    try:
        last = time.monotonic()
        while True:
            stop.check()
            try:
                item = arrived.get(timeout=LOOK)
            except queue.Empty:
                if time.monotonic() - last > timeout:
                    raise TimeoutError("timed out") from None
                continue
            if item is None:
                return
            yield item()
            last = time.monotonic()
    finally:
        closed.set()


def _given(item: T) -> T:
    return item


def _raised(error: BaseException) -> NoReturn:
    raise error


def _pause(seconds: float, stop: Stop) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        stop.check()
        time.sleep(min(left, LOOK))


def _address(url: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.hostname and parts.port != 0 and re.fullmatch(r"[!-~]+", url):
            return parts
    except ValueError:
        pass
    raise UserError(url, "is not a valid web address", "write https://host/file.zip, with %20 for a space")


def _checksum(text: str, fragment: str) -> str:
    if not fragment:
        return ""
    match = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if not match:
        raise UserError(text, f"#{fragment} is not a valid checksum", "write #sha256= and 64 hexadecimal digits")
    return match.group(1).lower()


def _state(part: Path) -> Path:
    return part.with_name(part.name + ".json")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect, but never from https to anything that others can read and change."""

    def __init__(self, where: str) -> None:
        self.where = where

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        refuse_downgrade(self.where, req.full_url, newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def refuse_downgrade(where: str, old: str, new: str) -> None:
    """Refuse a redirect that leaves https."""
    if old.lower().startswith("https:") and not new.lower().startswith("https:"):
        host = urllib.parse.urlsplit(new).hostname
        raise UserError(
            where, f"the server redirects from https to plain {new.partition(':')[0]} on {host}", "find an address that stays on https"
        )


def _fetch(url: str, part: Path, where: str, stop: Stop) -> None:
    """Get what is missing of the file; raises where the connection ends early."""
    have = part.stat().st_size if part.exists() else 0
    validator = ""
    if have and _state(part).exists():
        validator = json.loads(_state(part).read_text())["validator"]
    request = urllib.request.Request(url, headers={"User-Agent": "twofold"})
    if have and validator:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", validator)
    opener = urllib.request.build_opener(_Redirects(where))

    def answered() -> Iterator[Any]:
        """The answer, then its content in chunks."""
        with opener.open(request, timeout=TIMEOUT) as answer:
            yield answer
            while chunk := answer.read1(_CHUNK):
                yield chunk

    with closing(watched(answered, stop, TIMEOUT)) as answers:
        try:
            answer = next(answers)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
                return  # all of it is there
            if error.code != 416 or not have:
                raise
            part.unlink()  # the server has no such range
            _fetch(url, part, where, stop)
            return
        _store(answer, answers, have if answer.status == 206 else 0, part)


def _store(answer: Any, chunks: Iterable[bytes], have: int, part: Path) -> None:
    """Write the chunks of an answer after the first `have` bytes, which it leaves out."""
    length = int(answer.headers.get("Content-Length") or 0)
    total = have + length
    validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    local.write_json(_state(part), {"validator": "" if validator.startswith("W/") else validator})
    local.require_space(part.parent, length, "the download")
    with part.open("ab" if have else "wb") as file, console.progress("downloading", max(1, total >> 20), "MB") as bar:
        written = have
        for chunk in chunks:
            file.write(chunk)
            bar.advance((written + len(chunk) >> 20) - (written >> 20))
            written += len(chunk)
    if length and written != total:
        raise http.client.IncompleteRead(b"", total - written)
