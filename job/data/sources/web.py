"""A file from the web, downloaded with resumption and checked: `https://host/file.zip#sha256=...`."""

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
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from job.console import console
from job.data.sources import Listing, Source, arrival
from job.data.sources.address import checksum, credentials, redacted, shown, valid
from job.errors import Corrupt, JobError, MachineError, UserError
from job.shutdown import Stop
from job.storage import local

TRIES = 6
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds between tries, doubled each time
TIMEOUT = 60.0  # seconds without a byte
LOOK = 0.2  # seconds between two looks at the stop
_CHUNK = 1 << 20
_SENT = ".sent"
_QUEUED = 8  # chunks read and not written yet

T = TypeVar("T")


def download(text: str, scratch: Path, stop: Stop) -> Path:
    """Fetch a file into `scratch`, resuming where a cut connection or a killed run left off, or find it there.

    Raises:
        UserError: there is no such file, it is refused, its checksum differs, or what came is no file.
        MachineError: the server or the network does not answer, or not all of the file came.
        Interrupted: `stop` was set; the same call resumes.
    """
    url, wanted = text.partition("#")[0], checksum(text)
    parts = valid(url)
    if parts.scheme == "http" and not wanted and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise UserError(shown(url), "plain http can be tampered with", "use https, or add #sha256=... to it")
    folder = scratch / "downloads" / hashlib.sha256(credentials(url)[0].encode()).hexdigest()[:12]  # two addresses may end in the same name
    there = _finished(folder)
    if there is not None:
        found = local.sha256_of(there)
        if wanted in ("", found, _sent(folder)):
            console.log(f"{shown(url)} is already downloaded: SHA-256 {found}")
            return there
    local.make_folder(folder)
    console.log(f"downloading {shown(url)}")
    part = folder / ".part"
    chain = [url]
    answer = fetch(url, part, shown(url), stop, chain)
    try:
        file, name, sent, found = _checked(part, answer, chain, wanted, stop)
    except JobError:
        discard(part)
        raise
    console.log(f"downloaded {local.size(file.stat().st_size)}, SHA-256 {found}")
    if there is not None:
        there.unlink()
    (folder / _SENT).unlink(missing_ok=True)
    if sent != found:
        local.write_atomic(folder / _SENT, sent)
    local.rename(file, folder / name)
    discard(part)
    return folder / name


class Downloaded:
    """A source that came from the web. Where its reader finds it corrupt it is deleted, so that the next start downloads it again."""

    def __init__(self, text: str, file: Path, source: Source) -> None:
        """`text` is its address, which errors name."""
        self._where, self._file, self._source = shown(text), file, source

    @property
    def listing(self) -> Listing:
        with self._deleted_if_corrupt():
            return self._source.listing

    def files(self) -> list[Path]:
        return self._source.files()

    def read(self) -> Iterator[tuple[str, bytes]]:
        with self._deleted_if_corrupt():
            yield from self._source.read()

    @contextmanager
    def _deleted_if_corrupt(self) -> Iterator[None]:
        try:
            yield
        except Corrupt:
            self._file.unlink(missing_ok=True)
            raise UserError(self._where, f"{self._file.name} is corrupt and was deleted", "rerun to download it again") from None


def _checked(part: Path, answer: arrival.Answer, chain: list[str], wanted: str, stop: Stop) -> tuple[Path, str, str, str]:
    """The file that came, unpacked where it was packed for the way, its name, and the SHA-256 of what was sent and of itself."""
    url = chain[0]
    file, sent = part, local.sha256_of(part)
    found = sent
    if arrival.is_packed(part, answer):
        file = part.with_name(".unpacked")
        arrival.unpack(part, file, url, stop)
        answer, found = replace(answer, sized=True), local.sha256_of(file)
    name = arrival.name_of(file, answer, url)
    try:
        arrival.check(file, name, answer, chain, stop)
        if wanted not in ("", sent, found):
            raise UserError(shown(url), f"has SHA-256 {found}, not {wanted}", "check the address and the checksum")
    except JobError:
        file.unlink()
        raise
    return file, name, sent, found


def _finished(folder: Path) -> Path | None:
    """The finished file of a download: the only one in its folder that is not hidden."""
    return next((path for path in folder.iterdir() if not path.name.startswith(".")), None) if folder.is_dir() else None


def _sent(folder: Path) -> str:
    """The SHA-256 of the finished file as it was sent; empty where that is its own."""
    return (folder / _SENT).read_text() if (folder / _SENT).exists() else ""


def fetch(url: str, part: Path, where: str, stop: Stop, chain: list[str] | None = None) -> arrival.Answer:
    """Get a file into `part` in several tries, resuming one that was begun before; the caller checks and renames it.

    Args:
        where: what errors name; a signed address is a secret.
        chain: takes the addresses that were asked after it, which may hold secrets too; these are kept nowhere else.

    Returns:
        What the server said of the file.
    """
    wait, chain = FIRST_WAIT, [url] if chain is None else chain
    for attempt in range(1, TRIES + 1):
        try:
            return _fetch(url, part, where, stop, chain)
        except urllib.error.HTTPError as error:
            fault = f"{error.code} {http.client.responses.get(error.code, '')}".strip()  # the server's own words may repeat the address
            if error.code in (401, 403):
                raise UserError(where, f"the server refuses it ({fault})", "check the address and your access") from None
            if error.code < 500 and error.code not in (408, 429):
                raise UserError(where, f"the server answers {fault}", "check the address") from None
        except (http.client.InvalidURL, ValueError):
            raise UserError(where, "is not a valid web address, or leads to one that is not", "check the address") from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):  # the disk, not the network
                raise
            fault = redacted(str(getattr(error, "reason", error)), *chain) or type(error).__name__
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


def _state(part: Path) -> Path:
    return part.with_name(part.name + ".json")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect, but never from https to anything that others can read and change, nor with a password to another host."""

    def __init__(self, where: str, chain: list[str]) -> None:
        """`chain` takes the addresses that are led to."""
        self.where, self.chain = where, chain

    def http_error_302(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except Exception:  # an address that is refused, or is none
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        refuse_downgrade(self.where, req.full_url, newurl)
        bare, authorization = credentials(newurl)
        self.chain.append(newurl)
        request = super().redirect_request(req, fp, code, msg, headers, bare)
        if not authorization and _origin(req.full_url) == _origin(bare):
            authorization = req.get_header("Authorization") or ""
        if request is not None and authorization:
            request.add_unredirected_header("Authorization", authorization)
        return request


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower()


def refuse_downgrade(where: str, old: str, new: str) -> None:
    """Refuse a redirect that leaves https."""
    if old.lower().startswith("https:") and not new.lower().startswith("https:"):
        host = urllib.parse.urlsplit(new).hostname
        raise UserError(
            where, f"the server redirects from https to plain {new.partition(':')[0]} on {host}", "find an address that stays on https"
        )


def _fetch(url: str, part: Path, where: str, stop: Stop, chain: list[str]) -> arrival.Answer:
    """Get what is missing of the file; raises where the connection ends early."""
    have = part.stat().st_size if part.exists() else 0
    before = arrival.Answer(**json.loads(_state(part).read_text())) if have and _state(part).exists() else arrival.Answer()
    bare, authorization = credentials(url)
    request = urllib.request.Request(bare, headers={"User-Agent": "twofold", "Accept-Encoding": "identity"})
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    if have and before.validator:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", before.validator)
    opener = urllib.request.build_opener(_Redirects(where, chain))

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
                return replace(before, sized=True)  # all of it is there
            if error.code != 416 or not have:
                raise
            part.unlink()  # the server has no such range
            return _fetch(url, part, where, stop, chain)
        if answer.status == 206:
            if not (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
                part.unlink(missing_ok=True)
                raise http.client.HTTPException("the server sent another part of the file")
            if have:
                return _store(answer, answers, part, have, before)
        discard(part)  # before the new answer is noted, or a kill would leave it with the old bytes
        return _store(answer, answers, part, 0, arrival.describe(answer.headers, answer.geturl(), where))


def _store(answer: Any, chunks: Iterable[bytes], part: Path, have: int, described: arrival.Answer) -> arrival.Answer:
    """Write the chunks of an answer after the first `have` bytes, which it leaves out."""
    total = _total(answer, have)
    described = replace(described, sized=total is not None)
    local.write_json(_state(part), asdict(described))
    local.require_space(part.parent, (total or have) - have, "the download")
    with part.open("ab" if have else "wb") as file, console.progress("downloading", max(1, (total or 0) >> 20), "MB") as bar:
        written = have
        for chunk in chunks:
            file.write(chunk)
            bar.advance((written + len(chunk) >> 20) - (written >> 20))
            written += len(chunk)
    if total is not None and written != total:
        raise http.client.IncompleteRead(b"", total - written)
    return described


def _total(answer: Any, have: int) -> int | None:
    """How long the whole file is; None where the server does not say."""
    ranged = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.headers.get("Content-Range") or "")
    if answer.status == 206 and ranged:
        return int(ranged[1])
    length = answer.headers.get("Content-Length") or ""
    return have + int(length) if length.isdecimal() and not answer.headers.get("Transfer-Encoding") else None
