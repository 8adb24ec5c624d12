"""Buckets as Cloud Storage keeps them: generations, preconditions, hashes, permissions; no HTTP (that is fake_gcs.py)."""

from __future__ import annotations

import base64
import bisect
import hashlib
import itertools
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import google_crc32c

BLOCK = 1 << 20  # bytes read or written at once
PAGE = 1000  # names in a listing, at most

READS = frozenset({"objects.get", "objects.list"})
WRITES = frozenset({"objects.create", "objects.delete", "objects.update"})
# What a bucket lets its callers do, and the status of a refusal: 401 to who has no credentials, 403 to who may not.
ACCESS: dict[str, tuple[frozenset[str], int]] = {
    "open": (READS | WRITES | {"buckets.get", "buckets.delete"}, 403),
    "user": (READS | WRITES, 403),  # the role storage.objectUser: the bucket itself can't be asked for
    "public": (READS, 401),
    "read-only": (READS, 403),
    "no-delete": (READS | {"objects.create"}, 403),  # overwriting is deleting
    "closed": (frozenset(), 403),
    "anonymous": (frozenset(), 401),
}


class Refused(Exception):
    """An answer that is an error: its status, its reason in the words of the API, its message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


@dataclass(frozen=True)
class Conditions:
    """The preconditions of a request: what the generation must be, and must not be; the same of the metageneration."""

    generation: int | None = None
    not_generation: int | None = None
    metageneration: int | None = None
    not_metageneration: int | None = None

    def check(self, found: Object | None, reading: bool = False) -> None:
        """Refuse with 412; with 304 where a reader has that version already. What is absent has the generation 0."""
        generation, metageneration = (found.generation, found.metageneration) if found else (0, 0)
        if self.generation not in (None, generation) or self.metageneration not in (None, metageneration):
            raise Refused(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
        if generation == self.not_generation or (found and metageneration == self.not_metageneration):
            status = 304 if reading else 412
            raise Refused(status, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")


@dataclass(frozen=True)
class Content:
    """Bytes that have arrived in a file, and their hashes."""

    path: Path
    size: int
    crc32c: str
    md5: str | None  # None of what was composed

    def check(self, crc32c: str | None, md5: str | None) -> None:
        """Hold them to what the sender says of them."""
        for name, said, found in (("CRC32C", crc32c, self.crc32c), ("MD5 hash", md5, self.md5)):
            if said is not None and said != found:
                raise Refused(400, "invalid", f'Provided {name} "{said}" doesn\'t match calculated {name} "{found}".')


@dataclass(frozen=True)
class Object:
    bucket: str
    name: str
    content: Content
    generation: int
    metageneration: int
    created: str
    updated: str
    fields: dict[str, Any]  # what the writer may set: contentType, metadata, cacheControl, …
    components: int = 0

    def resource(self) -> dict[str, Any]:
        """The object as the JSON API describes it."""
        shown = {
            "kind": "storage#object",
            "id": f"{self.bucket}/{self.name}/{self.generation}",
            "name": self.name,
            "bucket": self.bucket,
            "generation": str(self.generation),
            "metageneration": str(self.metageneration),
            "storageClass": "STANDARD",
            "size": str(self.content.size),
            "crc32c": self.content.crc32c,
            "md5Hash": self.content.md5,
            "etag": base64.b64encode(f"{self.generation}/{self.metageneration}".encode()).decode(),
            "componentCount": self.components or None,
            "timeCreated": self.created,
            "updated": self.updated,
            **self.fields,
        }
        return {name: value for name, value in shown.items() if value is not None}


@dataclass
class Bucket:
    name: str
    access: str = "open"
    objects: dict[str, Object] = field(default_factory=dict)

    def resource(self) -> dict[str, Any]:
        return {"kind": "storage#bucket", "id": self.name, "name": self.name, "location": "US", "access": self.access}


class Objects:
    """All buckets. Every check with its write happens under one lock; the bytes lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.buckets: dict[str, Bucket] = {}
        self._lock = threading.RLock()
        self._generation = 0
        self._files = itertools.count()

    def create(self, name: str, access: str = "open") -> Bucket:
        """A new bucket; `access` is a key of ACCESS and may be changed later."""
        with self._lock:
            if access not in ACCESS:
                raise Refused(400, "invalid", f"Unknown access {access!r}: one of {', '.join(ACCESS)}.")
            if name in self.buckets:
                raise Refused(409, "conflict", "Your previous request to create the named bucket succeeded and you already own it.")
            return self.buckets.setdefault(name, Bucket(name, access))

    def drop(self, name: str) -> None:
        """Delete a bucket and what is in it."""
        with self._lock:
            for found in self.buckets.pop(name).objects.values():
                found.content.path.unlink()

    def bucket(self, name: str, *permissions: str) -> Bucket:
        """The bucket, for a caller who needs these permissions."""
        with self._lock:
            if name not in self.buckets:
                raise Refused(404, "notFound", "The specified bucket does not exist.")
            bucket = self.buckets[name]
            allowed, status = ACCESS[bucket.access]
            for permission in permissions:
                if permission not in allowed:
                    who, reason = ("Anonymous caller", "required") if status == 401 else ("The caller", "forbidden")
                    message = f"{who} does not have storage.{permission} access to the Google Cloud Storage "
                    raise Refused(status, reason, message + f"{permission.split('.')[0][:-1]}: {name} (or it may not exist).")
            return bucket

    def get(self, bucket: str, name: str, generation: int | None, conditions: Conditions, permission: str = "objects.get") -> Object:
        """An object as it is now; of another generation there is none, since old ones are not kept."""
        with self._lock:
            found = self.bucket(bucket, permission).objects.get(name)
            if found is None or generation not in (None, found.generation):
                raise Refused(404, "notFound", f"No such object: {bucket}/{name}")
            conditions.check(found, reading=permission == "objects.get")
            return found

    def open(self, bucket: str, name: str, generation: int | None, conditions: Conditions) -> tuple[Object, IO[bytes]]:
        """An object and its bytes, which stay readable when it is replaced meanwhile."""
        with self._lock:
            found = self.get(bucket, name, generation, conditions)
            return found, found.content.path.open("rb")

    def may_put(self, bucket: str, name: str, conditions: Conditions) -> None:
        """Refuse what `put` would refuse by now."""
        with self._lock:
            there = self.bucket(bucket, "objects.create").objects.get(name)
            if there is not None:
                self.bucket(bucket, "objects.delete")
            conditions.check(there)

    def put(self, bucket: str, name: str, content: Content, fields: dict[str, Any], conditions: Conditions, components: int = 0) -> Object:
        """Make the content the object of that name."""
        with self._lock:
            self.may_put(bucket, name, conditions)
            objects = self.bucket(bucket).objects
            replaced, now = objects.get(name), _now()
            self._generation = max(self._generation + 1, time.time_ns() // 1000)
            objects[name] = Object(bucket, name, content, self._generation, 1, now, now, fields, components)
            if replaced is not None:
                replaced.content.path.unlink()
            return objects[name]

    def patch(self, bucket: str, name: str, generation: int | None, fields: dict[str, Any], conditions: Conditions, whole: bool) -> Object:
        """Change what the writer may set; with `whole` what is not named is dropped. Its generation stays."""
        with self._lock:
            found = self.get(bucket, name, generation, conditions, "objects.update")
            changed = fields if whole else {**found.fields, **fields}
            if not whole and fields.get("metadata") is not None:
                both = {**found.fields.get("metadata", {}), **fields["metadata"]}
                changed["metadata"] = {key: value for key, value in both.items() if value is not None}
            patched = replace(found, fields=changed, metageneration=found.metageneration + 1, updated=_now())
            self.bucket(bucket).objects[name] = patched
            return patched

    def delete(self, bucket: str, name: str, generation: int | None, conditions: Conditions) -> None:
        with self._lock:
            found = self.get(bucket, name, generation, conditions, "objects.delete")
            del self.bucket(bucket).objects[name]
            found.content.path.unlink()

    def list(self, bucket: str, query: dict[str, str]) -> dict[str, Any]:
        """A page of names in the order of their bytes; what `delimiter` folds together counts as one."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        limit = min(PAGE, int(query.get("maxResults", PAGE)))
        after = base64.urlsafe_b64decode(query["pageToken"]) if "pageToken" in query else b""
        with self._lock:
            objects = dict(self.bucket(bucket, "objects.list").objects)
        names = sorted(name.encode() for name in objects if name.startswith(prefix))
        start = max(bisect.bisect_left(names, query.get("startOffset", "").encode()), bisect.bisect_right(names, after))
        end = bisect.bisect_left(names, query["endOffset"].encode()) if query.get("endOffset") else len(names)
        items: list[dict[str, Any]] = []
        prefixes: list[str] = []
        last = b""
        for number in range(start, end):
            name = names[number].decode()
            folded, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            folder = prefix + folded + delimiter
            if found and (folder in prefixes or after.startswith(folder.encode())):
                continue
            if len(items) + len(prefixes) == limit:
                token = base64.urlsafe_b64encode(last).decode()
                return {"kind": "storage#objects", "items": items, "prefixes": prefixes, "nextPageToken": token}
            if found:
                prefixes.append(folder)
            else:
                items.append(objects[name].resource())
            last = names[number]
        return {"kind": "storage#objects", "items": items, "prefixes": prefixes}

    def compose(self, bucket: str, name: str, sources: list[dict[str, Any]], fields: dict[str, Any], conditions: Conditions) -> Object:
        """Join objects of a bucket into one."""
        if not 1 <= len(sources) <= 32:
            raise Refused(400, "invalid", "The number of source components provided must be between 1 and 32.")
        self.may_put(bucket, name, conditions)
        with self.receiver() as receiver:
            components = 0
            for source in sources:
                match = source.get("objectPreconditions", {}).get("ifGenerationMatch")
                of = Conditions(generation=int(match)) if match is not None else Conditions()
                wanted = int(source["generation"]) if source.get("generation") else None
                found, file = self.open(bucket, source["name"], wanted, of)
                components += max(1, found.components)
                with file:
                    receiver.copy(file, found.content.size)
            return self.put(bucket, name, replace(receiver.content(), md5=None), fields, conditions, components)

    def receiver(self) -> Receiver:
        """A place for bytes that arrive."""
        return Receiver(self.folder / f"{next(self._files):08d}")


class Receiver:
    """Bytes on their way into a file, hashed as they come. As a context it removes the file if something goes wrong in it."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        self._file = path.open("wb")
        self._md5, self._crc32c = hashlib.md5(), google_crc32c.Checksum()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        if error is not None:
            self.path.unlink()

    def drop(self) -> None:
        self._file.close()
        self.path.unlink()

    def copy(self, source: IO[bytes], length: int, quantum: int = 1) -> bool:
        """Take `length` bytes; where the source ends before, as many as make whole quanta, and False."""
        left = length
        while left:
            data = source.read(min(left, BLOCK))
            whole = len(data) == min(left, BLOCK)
            self.write(data if whole else data[: len(data) // quantum * quantum])
            if not whole:
                return False
            left -= len(data)
        return True

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._md5.update(data)
        self._crc32c.update(data)
        self.size += len(data)

    def content(self) -> Content:
        self._file.flush()
        crc32c = base64.b64encode(self._crc32c.digest()).decode()
        return Content(self.path, self.size, crc32c, base64.b64encode(self._md5.digest()).decode())


def _now() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
