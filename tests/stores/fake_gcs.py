"""A fake of the Cloud Storage JSON API over HTTP: `FakeGcs` in Python, `python -m tests.stores.fake_gcs --port N` as a program.

google-cloud-storage speaks to it where STORAGE_EMULATOR_HOST names its endpoint. Written after the API's reference; what it does
not know it refuses with 501, so that no precondition and no filter is ignored in silence. Buckets are made by `objects.create`,
or by the API with a member `access` of our own (`objects.ACCESS`).
"""

from __future__ import annotations

import argparse
import email.utils
import json
import re
import tempfile
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.stores.objects import Conditions, Object, Objects, Receiver, Refused
from tests.stores.threads import Listener, until_terminated

QUANTUM = 256 << 10  # a resumable upload keeps whole multiples of this, until its end
CONDITIONS = ("GenerationMatch", "GenerationNotMatch", "MetagenerationMatch", "MetagenerationNotMatch")
WRITABLE = ("contentType", "contentEncoding", "contentDisposition", "contentLanguage", "cacheControl", "metadata", "customTime")
# Parameters that are heard, and those that change nothing here.
KNOWN = {
    *(prefix + name for prefix in ("if", "ifSource") for name in CONDITIONS),
    *("generation", "sourceGeneration", "prefix", "delimiter", "startOffset", "endOffset", "maxResults", "pageToken"),
    *("uploadType", "upload_id", "name", "alt", "project", "rewriteToken"),
    *("projection", "prettyPrint", "fields", "userProject", "key", "quotaUser"),
}


@dataclass
class Upload:
    """A resumable upload that has begun."""

    bucket: str
    name: str
    resource: dict[str, Any]
    conditions: Conditions
    receiver: Receiver
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: Object | None = None


class FakeGcs:
    """The server, while inside `with`; `objects` is what it keeps."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fake-gcs-")
        self.objects = Objects(Path(self._folder.name))
        self.uploads: dict[str, Upload] = {}
        self._listener = Listener((host, port), _Handler)
        self._listener.owner = self

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.server_address[1]}"

    def hang_up(self) -> None:
        """End all connections that there are."""
        self._listener.hang_up()

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.stop()
        for upload in self.uploads.values():
            if upload.done is None:
                upload.receiver.drop()
        self._folder.cleanup()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16  # headers and a small body leave together
    query: dict[str, str]
    left: int  # bytes of the request's body not read yet

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.query = dict(parse_qsl(url.query, keep_blank_values=True))
        self.left = int(self.headers.get("Content-Length") or 0)
        try:
            if "Transfer-Encoding" in self.headers:
                self.close_connection = True
                raise Refused(411, "required", "A request must have a Content-Length.")
            if unknown := self.query.keys() - KNOWN:
                raise Refused(501, "notImplemented", f"This fake does not know the parameter {', '.join(sorted(unknown))}.")
            for method, pattern, answer in ROUTES:
                if method == self.command and (match := pattern.fullmatch(url.path)):
                    answer(self, **{name: unquote(value) for name, value in match.groupdict().items()})
                    return
            raise Refused(501, "notImplemented", f"This fake does not know {self.command} {url.path}.")
        except Refused as refused:
            self._refuse(refused)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    @property
    def _owner(self) -> FakeGcs:
        return cast(FakeGcs, cast(Listener, self.server).owner)

    @property
    def _objects(self) -> Objects:
        return self._owner.objects

    def _number(self, name: str) -> int | None:
        value = self.query.get(name)
        if value is not None and not value.isdecimal():
            raise Refused(400, "invalidParameter", f"Invalid value for {name}: {value}.")
        return None if value is None else int(value)

    def _conditions(self, prefix: str = "if") -> Conditions:
        return Conditions(*(self._number(prefix + name) for name in CONDITIONS))

    def _body(self) -> dict[str, Any]:
        data = self.rfile.read(self.left)
        self.left = 0
        try:
            return cast(dict[str, Any], json.loads(data or b"{}"))
        except ValueError:
            raise Refused(400, "parseError", "Parse Error") from None

    # Answers

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        while self.left > 0 and (data := self.rfile.read(min(self.left, 1 << 20))):  # else the next request would begin with it
            self.left -= len(data)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _json(self, value: dict[str, Any]) -> None:
        self._send(200, json.dumps(value).encode(), Content_Type="application/json; charset=UTF-8")

    def _refuse(self, refused: Refused) -> None:
        if refused.status == 304:
            self._send(304)
        elif self.query.get("alt") == "media":  # there the API answers in plain words
            self._send(refused.status, refused.message.encode(), Content_Type="text/html; charset=UTF-8")
        else:
            one = {"message": refused.message, "domain": "global", "reason": refused.reason}
            body = {"error": {"code": refused.status, "message": refused.message, "errors": [one]}}
            self._send(refused.status, json.dumps(body).encode(), Content_Type="application/json; charset=UTF-8")

    # Buckets

    def list_buckets(self) -> None:
        self._json({"kind": "storage#buckets", "items": [bucket.resource() for bucket in self._objects.buckets.values()]})

    def create_bucket(self) -> None:
        wanted = self._body()
        self._json(self._objects.create(wanted["name"], wanted.get("access", "open")).resource())

    def get_bucket(self, bucket: str) -> None:
        self._json(self._objects.bucket(bucket, "buckets.get").resource())

    def delete_bucket(self, bucket: str) -> None:
        if self._objects.bucket(bucket, "buckets.delete").objects:
            raise Refused(409, "conflict", "The bucket you tried to delete is not empty.")
        self._objects.drop(bucket)
        self._send(204)

    # Objects

    def list_objects(self, bucket: str) -> None:
        self._number("maxResults")
        self._json(self._objects.list(bucket, self.query))

    def get_object(self, bucket: str, name: str) -> None:
        if self.query.get("alt") == "media":
            self.download(bucket, name)
        else:
            self._json(self._objects.get(bucket, name, self._number("generation"), self._conditions()).resource())

    def download(self, bucket: str, name: str) -> None:
        found, file = self._objects.open(bucket, name, self._number("generation"), self._conditions())
        with file:
            size = found.content.size
            part = _range(self.headers.get("Range"), size)
            start, end = part or (0, size)
            if part is not None and start >= end:
                self._send(416, b"The requested range cannot be satisfied.", Content_Range=f"bytes */{size}")
                return
            hashes = [f"crc32c={found.content.crc32c}"] + ([f"md5={found.content.md5}"] if found.content.md5 else [])
            self.send_response(206 if part else 200)
            for header, value in {
                "Content-Length": str(end - start),
                **({"Content-Range": f"bytes {start}-{end - 1}/{size}"} if part else {}),
                "Content-Type": found.fields.get("contentType", "application/octet-stream"),
                "Accept-Ranges": "bytes",
                "ETag": found.resource()["etag"],
                "Last-Modified": email.utils.formatdate(found.generation / 1e6, usegmt=True),
                "X-Goog-Hash": ",".join(hashes),
                "X-Goog-Generation": str(found.generation),
                "X-Goog-Metageneration": str(found.metageneration),
                "X-Goog-Stored-Content-Length": str(size),
                "X-Goog-Stored-Content-Encoding": found.fields.get("contentEncoding", "identity"),
                "X-Goog-Storage-Class": "STANDARD",
            }.items():
                self.send_header(header, value)
            self.end_headers()
            self.wfile.flush()
            if end > start:
                self.connection.sendfile(file, start, end - start)

    def patch_object(self, bucket: str, name: str) -> None:
        fields = _fields(self._body())
        whole = self.command == "PUT"
        self._json(self._objects.patch(bucket, name, self._number("generation"), fields, self._conditions(), whole).resource())

    def delete_object(self, bucket: str, name: str) -> None:
        self._objects.delete(bucket, name, self._number("generation"), self._conditions())
        self._send(204)

    def compose(self, bucket: str, name: str) -> None:
        wanted = self._body()
        fields = _fields(wanted.get("destination", {}))
        self._json(self._objects.compose(bucket, name, wanted["sourceObjects"], fields, self._conditions()).resource())

    def rewrite(self, bucket: str, name: str, to_bucket: str, to_name: str) -> None:
        made = self._copied(bucket, name, to_bucket, to_name)
        size = str(made.content.size)
        done = {"kind": "storage#rewriteResponse", "totalBytesRewritten": size, "objectSize": size, "done": True}
        self._json({**done, "resource": made.resource()})

    def copy(self, bucket: str, name: str, to_bucket: str, to_name: str) -> None:
        self._json(self._copied(bucket, name, to_bucket, to_name).resource())

    def _copied(self, bucket: str, name: str, to_bucket: str, to_name: str) -> Object:
        fields = _fields(self._body())
        found, file = self._objects.open(bucket, name, self._number("sourceGeneration"), self._conditions("ifSource"))
        with file, self._objects.receiver() as receiver:
            receiver.copy(file, found.content.size)
            return self._objects.put(to_bucket, to_name, receiver.content(), fields or found.fields, self._conditions())

    # Uploads

    def upload(self, bucket: str) -> None:
        kind = self.query.get("uploadType")
        if kind == "resumable":
            self._begin(bucket)
        elif kind == "media":
            with self._objects.receiver() as receiver:
                whole = receiver.copy(self.rfile, self.left)
                fields = {"contentType": self.headers.get("Content-Type", "application/octet-stream")}
                self._finish(bucket, self.query.get("name"), fields, receiver, whole)
        elif kind == "multipart":
            self._multipart(bucket)
        else:
            raise Refused(400, "invalidParameter", f"Invalid uploadType: {kind}.")

    def _finish(self, bucket: str, name: str | None, resource: dict[str, Any], receiver: Receiver, whole: bool) -> None:
        """Make an object of an upload in one request."""
        self.left = 0
        if not whole:
            self.close_connection = True
            raise Refused(400, "invalid", "The request ended before its body did.")
        if not name:
            raise Refused(400, "required", "Required parameter: name")
        self._json(self._commit(bucket, name, resource, receiver, self._conditions()).resource())

    def _commit(self, bucket: str, name: str, resource: dict[str, Any], receiver: Receiver, conditions: Conditions) -> Object:
        content = receiver.content()
        said = dict(part.strip().split("=", 1) for part in (self.headers.get("X-Goog-Hash") or "").split(",") if part)
        content.check(said.get("crc32c"), said.get("md5"))
        content.check(None, self.headers.get("Content-MD5"))
        content.check(resource.get("crc32c"), resource.get("md5Hash"))
        return self._objects.put(bucket, name, content, _fields(resource), conditions)

    def _multipart(self, bucket: str) -> None:
        """A body of two parts: the resource, and the content."""
        match = re.search(r'boundary="?([^";]+)', self.headers.get("Content-Type", ""))
        if match is None:
            raise Refused(400, "badContent", "Missing multipart boundary.")
        boundary = b"--" + match[1].encode()
        self._line(boundary)
        while self._line() != b"":
            pass
        lines = []
        while (line := self._line()) != boundary:
            lines.append(line)
        try:
            resource = json.loads(b"\n".join(lines) or b"{}")
        except ValueError:
            raise Refused(400, "parseError", "Parse Error") from None
        while (line := self._line()) != b"":
            name, _, value = line.decode().partition(":")
            if name.lower() == "content-type":
                resource.setdefault("contentType", value.strip())
        with self._objects.receiver() as receiver:
            tail = min(self.left, len(boundary) + 64)  # the end of the content is in it, and the last boundary
            whole = receiver.copy(self.rfile, self.left - tail)
            last, found, _ = self.rfile.read(tail).rpartition(b"\r\n" + boundary + b"--")
            receiver.write(last)
            self._finish(bucket, self.query.get("name", resource.get("name")), resource, receiver, whole and bool(found))

    def _line(self, expected: bytes | None = None) -> bytes:
        line = self.rfile.readline(min(self.left, 1 << 20))
        self.left -= len(line)
        if not line.endswith(b"\n") or expected not in (None, line.rstrip(b"\r\n")):
            raise Refused(400, "badContent", "Malformed multipart body.")
        return line.rstrip(b"\r\n")

    def _begin(self, bucket: str) -> None:
        resource = self._body()
        name = self.query.get("name", resource.get("name"))
        if not name:
            raise Refused(400, "required", "Required parameter: name")
        if "X-Upload-Content-Type" in self.headers:
            resource.setdefault("contentType", self.headers["X-Upload-Content-Type"])
        conditions = self._conditions()
        self._objects.may_put(bucket, name, conditions)
        key = uuid.uuid4().hex
        self._owner.uploads[key] = Upload(bucket, name, resource, conditions, self._objects.receiver())
        where = f"http://{self.headers['Host']}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={key}"
        self._send(200, Location=where, X_GUploader_UploadID=key)

    def upload_chunk(self, bucket: str) -> None:
        """Bytes of a resumable upload, or the question how many there are."""
        upload = self._owner.uploads.get(self.query.get("upload_id", ""))
        if upload is None:
            raise Refused(404, "notFound", "No such upload.")
        spoken = self.headers.get("Content-Range", f"bytes 0-{self.left - 1}/{self.left}")
        match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", spoken)
        if match is None:
            raise Refused(400, "invalid", f"Invalid Content-Range: {spoken}.")
        total = None if match[3] == "*" else int(match[3])
        with upload.lock:
            if upload.done is None:
                whole = match[1] is None or self._take(upload, int(match[1]), int(match[2]) + 1 == total)
                if whole and total == upload.receiver.size:
                    try:
                        with upload.receiver:
                            upload.done = self._commit(upload.bucket, upload.name, upload.resource, upload.receiver, upload.conditions)
                    except Refused:
                        del self._owner.uploads[self.query["upload_id"]]
                        raise
            if upload.done is not None:  # who asks again gets the same answer
                self._json(upload.done.resource())
            else:
                size = upload.receiver.size
                self._send(308, **({"Range": f"bytes=0-{size - 1}"} if size else {}))

    def _take(self, upload: Upload, start: int, last: bool) -> bool:
        """Take the bytes of a chunk that are new; of one that is not the last, or was cut off, whole quanta."""
        known = upload.receiver.size - start
        if known < 0:
            raise Refused(400, "invalid", f"Invalid request: the upload has {upload.receiver.size} bytes, the chunk starts at {start}.")
        skipped = self.rfile.read(min(known, self.left))
        length = self.left - len(skipped)
        whole = upload.receiver.copy(self.rfile, length if last else length // QUANTUM * QUANTUM, QUANTUM)
        self.left = length % QUANTUM if whole and not last else 0
        self.close_connection = self.close_connection or not whole
        return whole

    def cancel_upload(self, bucket: str) -> None:
        upload = self._owner.uploads.pop(self.query.get("upload_id", ""), None)
        if upload is None:
            raise Refused(404, "notFound", "No such upload.")
        if upload.done is None:
            upload.receiver.drop()
        self._send(499)


def _fields(resource: dict[str, Any]) -> dict[str, Any]:
    return {name: resource[name] for name in WRITABLE if name in resource}


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """Where the bytes that are asked for begin and end; None where all are, as by a header that is no range."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if match is None or match[0] == "bytes=-":
        return None
    if match[1] == "":
        return size - min(size, int(match[2])), size
    return int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)


_O = r"/b/(?P<bucket>[^/]+)/o/(?P<name>[^/]+)"
_TO = r"/b/(?P<to_bucket>[^/]+)/o/(?P<to_name>[^/]+)"
ROUTES: list[tuple[str, re.Pattern[str], Callable[..., None]]] = [
    (method, re.compile(path), answer)
    for method, path, answer in [
        ("GET", r"/storage/v1/b", _Handler.list_buckets),
        ("POST", r"/storage/v1/b", _Handler.create_bucket),
        ("GET", r"/storage/v1/b/(?P<bucket>[^/]+)", _Handler.get_bucket),
        ("DELETE", r"/storage/v1/b/(?P<bucket>[^/]+)", _Handler.delete_bucket),
        ("GET", r"/storage/v1/b/(?P<bucket>[^/]+)/o/?", _Handler.list_objects),
        ("POST", rf"/storage/v1{_O}/compose", _Handler.compose),
        ("POST", rf"/storage/v1{_O}/rewriteTo{_TO}", _Handler.rewrite),
        ("POST", rf"/storage/v1{_O}/copyTo{_TO}", _Handler.copy),
        ("GET", rf"/storage/v1{_O}", _Handler.get_object),
        ("PATCH", rf"/storage/v1{_O}", _Handler.patch_object),
        ("PUT", rf"/storage/v1{_O}", _Handler.patch_object),
        ("DELETE", rf"/storage/v1{_O}", _Handler.delete_object),
        ("GET", rf"/download/storage/v1{_O}", _Handler.download),
        ("POST", r"/upload/storage/v1/b/(?P<bucket>[^/]+)/o", _Handler.upload),
        ("PUT", r"/upload/storage/v1/b/(?P<bucket>[^/]+)/o", _Handler.upload_chunk),
        ("DELETE", r"/upload/storage/v1/b/(?P<bucket>[^/]+)/o", _Handler.cancel_upload),
    ]
]


def main() -> None:
    parser = argparse.ArgumentParser(description="a fake of the Cloud Storage JSON API")
    parser.add_argument("--port", type=int, default=0, help="where it listens; 0 takes a free one, which is printed")
    parser.add_argument("--host", default="127.0.0.1")
    given = parser.parse_args()
    with FakeGcs(given.host, given.port) as server:
        print(server.endpoint, flush=True)
        until_terminated()


if __name__ == "__main__":
    main()
