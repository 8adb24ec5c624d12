"""An archive from the web, downloaded with resumption and checked: `https://host/file.zip#sha256=...`."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from job.console import console
from job.errors import MachineError, UserError
from job.storage import local

TRIES = 6
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds between tries, doubled each time
TIMEOUT = 60.0  # seconds without a byte
_CHUNK = 1 << 20


def download(text: str, scratch: Path) -> Path:
    """Fetch an archive into `scratch`, going on where a cut connection or a killed run left off.

    Raises:
        UserError: there is no such file, it is refused, or its checksum differs.
        MachineError: the server or the network stays away.
    """
    url, _, fragment = text.partition("#")
    wanted = _checksum(text, fragment)
    parts = _address(url)
    if parts.scheme == "http" and not wanted and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise UserError(url, "plain http can be tampered with", "use https, or add #sha256=... to it")
    name = Path(urllib.parse.unquote(parts.path)).name
    folder = scratch / "web" / hashlib.sha256(url.encode()).hexdigest()[:12]  # two addresses may end in the same name
    target = folder / (name or "download")
    partial = target.with_name(target.name + ".part")
    if target.exists():
        found = local.sha256_of(target)
        if wanted in ("", found):
            console.log(f"{url} was downloaded before: SHA-256 {found}")
            return target
    local.make_folder(folder)
    console.log(f"downloading {url}")
    wait = FIRST_WAIT
    for attempt in range(1, TRIES + 1):
        try:
            _fetch(url, partial)
            break
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise UserError(url, f"the server refuses it ({error.code} {error.reason})", "check the address and your access") from None
            if error.code < 500 and error.code not in (408, 429):
                raise UserError(url, f"the server answers {error.code} {error.reason}", "check the address") from None
            fault = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (28, 30):  # the disk's fault, not the network's
                raise
            fault = str(getattr(error, "reason", error)) or type(error).__name__
        if attempt == TRIES:
            raise MachineError(url, f"gave up after {TRIES} tries ({fault})", "check the network and run the same command again")
        console.log(f"download interrupted ({fault}): going on in {wait:g} s")
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT)
    found = local.sha256_of(partial)
    if wanted and found != wanted:
        partial.unlink()
        _state(partial).unlink(missing_ok=True)
        raise UserError(url, f"has SHA-256 {found}, not {wanted}", "check the address and the checksum")
    console.log(f"downloaded {local.size(partial.stat().st_size)}, SHA-256 {found}")
    partial.rename(target)
    _state(partial).unlink(missing_ok=True)
    return target


def _address(url: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.hostname and parts.port != 0 and re.fullmatch(r"[!-~]+", url):
            return parts
    except ValueError:
        pass
    raise UserError(url, "is no web address", "write https://host/file.zip, with %20 for a space")


def _checksum(text: str, fragment: str) -> str:
    if not fragment:
        return ""
    match = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if not match:
        raise UserError(text, f"#{fragment} is no checksum", "write #sha256= and 64 hexadecimal digits")
    return match.group(1).lower()


def _state(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def _fetch(url: str, partial: Path) -> None:
    """Get what is missing of the file; raises where the connection ends early."""
    have = partial.stat().st_size if partial.exists() else 0
    validator = ""
    if have and _state(partial).exists():
        validator = json.loads(_state(partial).read_text())["validator"]
    request = urllib.request.Request(url, headers={"User-Agent": "twofold"})
    if have and validator:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", validator)
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
            return  # all of it is there
        if error.code != 416 or not have:
            raise
        partial.unlink()  # no range of it is to be had
        _fetch(url, partial)
        return
    with answer:
        resumed = answer.status == 206
        length = int(answer.headers.get("Content-Length") or 0)
        total = length + have if resumed else length
        validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        local.write_json(_state(partial), {"validator": "" if validator.startswith("W/") else validator})
        local.require_space(partial.parent, length, "the download")
        with partial.open("ab" if resumed else "wb") as file, console.progress("downloading", max(1, total >> 20), "MB") as bar:
            written = have if resumed else 0
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                bar.advance((written + len(chunk) >> 20) - (written >> 20))
                written += len(chunk)
        if length and written != total:
            raise http.client.IncompleteRead(b"", total - written)
