"""A bucket of Google Cloud Storage.

google-cloud-storage finds the credentials and the endpoint; the few requests of its JSON API are made here, over its session.
Its own calls hide Retry-After, read bodies 8 kB at a time or all at once, send 64 MB as one write that one time limit bounds, and
do not tell a bucket that is missing from an object that is.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import re
import secrets
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import google_crc32c

from job.errors import UserError
from job.storage import transfer
from job.storage.bucket import Conflict, Missing, Stat, Unavailable

LATE_SECONDS = 60.0  # that a metadata server may take to come up
LOG_IN = "run gcloud auth application-default login, or bind a service account (Workload Identity)"
EMULATOR = "STORAGE_EMULATOR_HOST"

_LIMITED = ("rateLimitExceeded", "userRateLimitExceeded", "backendError")  # reasons of a 403 that passes
_HASH = re.compile("crc32c|md5|hash|checksum", re.I)


class GsBucket:
    """Versions are generations: no two are equal, whatever the bytes. Objects are read as they are stored, compressed or not."""

    def __init__(self, bucket: str, prefix: str) -> None:
        import google.cloud.storage  # type: ignore[import-untyped]  # noqa: F401  where it is not installed, it is better known now

        self._bucket, self._start = bucket, f"{prefix}/" if prefix else ""
        self.address = f"gs://{bucket}/{prefix}".rstrip("/")
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        self._asked: float | None = None  # when credentials were looked for first

    def stat(self, name: str) -> Stat | None:
        try:
            found = self._json("read", name, "GET", self._object(name))
        except Missing:
            return None
        return Stat(name, int(found["size"]), found["generation"], found.get("metadata", {}).get("sha256", ""))

    def read(self, name: str, start: int = 0, length: int | None = None, version: str = "") -> bytes:
        if length == 0:
            return b""
        asked = transfer.range_header(start, length)
        with self._media(name, version, asked) as response:
            if response.status_code == 416:
                return b""
            if asked:
                transfer.check_range(response.headers.get("content-range", ""), start, length)
            body = b"".join(transfer.pieces(response.raw, _length(response)))
        if not asked:
            checked = _Checked(response.headers)
            checked.update(body)
            checked.verify()
        return body

    def fetch(self, name: str, path: Path, version: str = "") -> Stat:
        with self._media(name, version, {}) as response, transfer.arriving(path) as file:
            headers = response.headers
            checked = _Checked(headers)
            for piece in transfer.pieces(response.raw, _length(response)):
                checked.update(piece)
                file.write(piece)
            checked.verify()
        return Stat(name, checked.size, headers.get("x-goog-generation", version), headers.get("x-goog-meta-sha256", ""))

    def put(self, name: str, content: bytes | Path, sha256: str = "") -> str:
        return self._write(name, content, "0", sha256)

    def replace(self, name: str, content: bytes | Path, version: str, sha256: str = "") -> str:
        return self._write(name, content, version, sha256)

    def delete(self, name: str, version: str) -> None:
        with (
            suppress(Missing),
            self._request("delete", name, "DELETE", self._object(name), {"ifGenerationMatch": version}) as response,
        ):
            response.content  # noqa: B018  of no length; read, so that the connection is kept

    def list(self, prefix: str = "", after: str = "") -> Iterator[Stat]:
        asked = {"prefix": self._start + prefix, "maxResults": str(transfer.PAGE), "fields": "items(name,size,generation),nextPageToken"}
        if after:
            asked["startOffset"] = self._start + after
        while True:
            found = self._json("list", prefix, "GET", f"/storage/v1/b/{quote(self._bucket, safe='')}/o", asked)
            for item in found.get("items", ()):
                name = item["name"][len(self._start) :]
                if name and name != after:
                    yield Stat(name, int(item["size"]), item["generation"])
            if "nextPageToken" not in found:
                return
            asked["pageToken"] = found["nextPageToken"]

    def _object(self, name: str) -> str:
        return f"/storage/v1/b/{quote(self._bucket, safe='')}/o/{quote(self._start + name, safe='')}"

    def _media(self, name: str, version: str, headers: dict[str, str]) -> Any:
        asked = {"alt": "media", **({"generation": version} if version else {})}
        # what is stored compressed is sent as it is: its size and hash are known only so
        return self._request("read", name, "GET", "/download" + self._object(name), asked, {"Accept-Encoding": "gzip", **headers}, also=416)

    def _write(self, name: str, content: bytes | Path, version: str, sha256: str) -> str:
        noted = {
            "name": self._start + name,
            "crc32c": base64.b64encode(_crc32c(content)).decode(),
            "metadata": {"sha256": sha256 or transfer.hash_of(content)},
        }
        with transfer.Outgoing(content) as outgoing:
            body = _Related(json.dumps(noted).encode(), outgoing)
            asked = {"uploadType": "multipart", "ifGenerationMatch": version}
            path = f"/upload/storage/v1/b/{quote(self._bucket, safe='')}/o"
            try:
                written = self._json("write", name, "POST", path, asked, {"Content-Type": body.kind}, body)
            except Unavailable:
                if outgoing.failed is not None:
                    raise outgoing.failed from None
                raise
        return str(written["generation"])

    def _json(self, verb: str, name: str, *request: Any) -> Any:
        with self._request(verb, name, *request) as response:
            body = b"".join(transfer.pieces(response.raw, _length(response)))
        try:
            return json.loads(body)
        except ValueError:
            raise Unavailable("unreadable answer") from None

    def _request(
        self,
        verb: str,
        name: str,
        method: str,
        path: str,
        asked: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: _Related | None = None,
        also: int = 200,
    ) -> Any:
        """The answer to one request, its body not yet read; `also` is a status that the caller knows what to do with."""
        import google.auth.exceptions
        import requests

        reached = self._connected()
        try:
            response = reached.session.request(
                method, reached.endpoint + path, params=asked, data=body,
                headers={"Accept-Encoding": "identity", **(headers or {})}, stream=True, allow_redirects=False,
                timeout=(transfer.CONNECT_SECONDS, transfer.READ_SECONDS),
            )  # fmt: skip
        except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema):
            raise UserError(self.address, f"invalid endpoint {reached.endpoint}", f"begin {EMULATOR} with http://") from None
        except requests.exceptions.RequestException as error:
            raise Unavailable(transfer.fault(error, self.address)) from error
        except google.auth.exceptions.GoogleAuthError as error:
            raise self._refused_credentials(verb, error) from error
        if response.status_code < 300 or response.status_code == also:
            return response
        with response:
            raise self._error(verb, name, response)

    def _error(self, verb: str, name: str, response: Any) -> Exception:
        """What an answer that is no success means."""
        code, where = response.status_code, f"{self.address}/{name}".rstrip("/")
        message, reasons = _told(response)
        if transfer.passes(code) or any(reason in _LIMITED for reason in reasons):
            return Unavailable(transfer.status(code), transfer.retry_after(response.headers))
        if code == 412:
            return Conflict()
        if code == 404:
            if verb in ("write", "list") or "bucket does not exist" in message:  # to these two nothing else can be missing
                return UserError(f"gs://{self._bucket}", "the bucket does not exist", "correct the name or create it first")
            return Missing()
        if code == 401 and self._connected().anonymous:
            return UserError(self.address, f"cannot {verb}: no credentials were found", LOG_IN)
        if code == 401:
            return UserError(self.address, f"cannot {verb}: the credentials were refused", LOG_IN)
        if code == 403 and "scope" in message:
            told = f"cannot {verb}: the access scopes of this machine do not allow it"
            return UserError(self.address, told, "give it the scope cloud-platform, or bind a service account (Workload Identity)")
        if code == 403:
            role = "roles/storage.objectViewer" if verb in ("read", "list") else "roles/storage.objectUser"
            return UserError(self.address, f"cannot {verb}: permission denied", f"grant {role} on gs://{self._bucket}")
        if code == 400 and verb == "write" and _HASH.search(message):
            return Unavailable(transfer.WRONG_HASH)
        return UserError(where, f"cannot {verb}: {transfer.status(code)} ({message})", "correct the address or the settings of the bucket")

    def _connected(self) -> _Connection:
        """Made at the first request: looking for credentials may take requests itself."""
        with self._lock:
            if self._connection is None:
                self._connection = self._connect()
            return self._connection

    def _connect(self) -> _Connection:
        import google.auth.exceptions
        import requests
        from google.cloud.storage import Client

        for name in ("google.auth", "urllib3"):  # each failed try would be a line of theirs; ours are counted
            logging.getLogger(name).setLevel(logging.ERROR)
        anonymous = EMULATOR in os.environ
        try:
            with warnings.catch_warnings(action="ignore"):  # that a user's own credentials have no quota project
                client = Client(project=None)
        except google.auth.exceptions.DefaultCredentialsError as error:
            if "default credentials were not found" not in str(error):
                raise UserError(self.address, f"the credentials cannot be read ({_line(str(error))})", LOG_IN) from error
            self._await_metadata()
            client, anonymous = Client.create_anonymous_client(), True
        except google.auth.exceptions.GoogleAuthError as error:
            raise self._refused_credentials("connect", error) from error
        # there is no public way to the session that has the credentials; without any it would try to renew them
        session = requests.Session() if anonymous else client._http
        if not getattr(session, "is_mtls", False):
            for scheme in ("http://", "https://"):
                session.mount(scheme, requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=transfer.CONNECTIONS))
        return _Connection(session, client.api_endpoint.rstrip("/"), anonymous)

    def _await_metadata(self) -> None:
        """Where a metadata server may yet come up, as in a pod that has just started, none is not yet an answer."""
        self._asked = self._asked or time.monotonic()
        expected = "GCE_METADATA_HOST" in os.environ or "KUBERNETES_SERVICE_HOST" in os.environ
        if expected and time.monotonic() - self._asked < LATE_SECONDS:
            raise Unavailable("no credentials yet: the metadata server does not answer")

    def _refused_credentials(self, verb: str, error: Any) -> Exception:
        from google.auth.exceptions import TimeoutError, TransportError

        if isinstance(error.__cause__ or error, (TransportError, TimeoutError)) or error.retryable:
            return Unavailable(f"no access token ({transfer.fault(error, self.address)})")
        return UserError(self.address, f"cannot {verb}: the credentials are expired or revoked", LOG_IN)


@dataclass(frozen=True)
class _Connection:
    session: Any  # of requests
    endpoint: str
    anonymous: bool


class _Related:
    """What an upload sends: a description, then the content, as parts of one body. It can be sent again."""

    def __init__(self, described: bytes, outgoing: transfer.Outgoing) -> None:
        boundary = secrets.token_hex(16)
        self.kind = f"multipart/related; boundary={boundary}"
        self._head = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n".encode() + described
            + f"\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
        )  # fmt: skip
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._outgoing = outgoing

    def __len__(self) -> int:
        return len(self._head) + len(self._outgoing) + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        self._outgoing.seek(0)
        yield self._head
        while piece := self._outgoing.read(transfer.SENT_PIECE):
            yield piece
        yield self._tail


class _Checked:
    """The size and the hash that the store sends along with a whole object, against what arrives."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._known = dict(part.strip().split("=", 1) for part in headers.get("x-goog-hash", "").split(",") if "=" in part)
        self._length = headers.get("x-goog-stored-content-length", "")
        self.size = 0
        self._kind = "crc32c" if "crc32c" in self._known else "md5"
        self._hash = google_crc32c.Checksum() if self._kind == "crc32c" else hashlib.md5(usedforsecurity=False)

    def update(self, piece: bytes) -> None:
        self._hash.update(piece)
        self.size += len(piece)

    def verify(self) -> None:
        if self._length not in ("", str(self.size)):
            raise Unavailable(transfer.CUT)
        if self._known.get(self._kind) not in (None, base64.b64encode(self._hash.digest()).decode()):
            raise Unavailable(transfer.WRONG_HASH)


def _crc32c(content: bytes | Path) -> bytes:
    checksum = google_crc32c.Checksum()
    with transfer.Outgoing(content) as outgoing:
        while piece := outgoing.read(transfer.PIECE):
            checksum.update(piece)
    return bytes(checksum.digest())


def _length(response: Any) -> int | None:
    length = response.headers.get("content-length")
    return None if length is None else int(length)


def _told(response: Any) -> tuple[str, list[str]]:
    """The message of a refusal in one line, and its reasons in the API's words."""
    try:
        text = b"".join(transfer.pieces(response.raw, None)).decode(errors="replace")
        error = json.loads(text)["error"]
        return _line(error.get("message", "")), [item.get("reason", "") for item in error.get("errors", ())]
    except Unavailable:
        return "", []
    except (ValueError, KeyError, TypeError, AttributeError):
        return _line(text), []


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
