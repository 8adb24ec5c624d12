"""A bucket in memory, for what is to be tested without a store: the mirror, the lease, their faults. Versions are counted."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from job.storage.bucket import Conflict, Missing, Stat


class MemoryBucket:
    """`fault` is called before each call with its name and the object's, and may raise; `after` is called when it is done.

    With `etags` versions are hashes of the content, as with S3, and not counted.
    """

    address = "gs://memory/folder"

    def __init__(self, etags: bool = False) -> None:
        self.etags = etags
        self.objects: dict[str, tuple[bytes, str, str]] = {}
        self.calls: list[tuple[str, str, float]] = []
        self.fault: Callable[[str, str], None] = lambda call, name: None
        self.after: Callable[[str, str], None] = lambda call, name: None
        self._count, self._lock = 0, threading.Lock()

    def _begin(self, call: str, name: str) -> None:
        with self._lock:
            self.calls.append((call, name, time.monotonic()))
        self.fault(call, name)

    def _found(self, name: str, version: str) -> tuple[bytes, str, str]:
        found = self.objects.get(name)
        if found is None or (version and found[1] != version):
            raise Missing(name)
        return found

    def stat(self, name: str) -> Stat | None:
        self._begin("stat", name)
        found = self.objects.get(name)
        return None if found is None else Stat(name, len(found[0]), found[1], found[2])

    def read(self, name: str, start: int = 0, length: int | None = None, version: str = "") -> bytes:
        self._begin("read", name)
        content = self._found(name, version)[0]
        return content[start:] if length is None else content[start : start + length]

    def fetch(self, name: str, path: Path, version: str = "") -> Stat:
        self._begin("fetch", name)
        content, at, sha256 = self._found(name, version)
        path.write_bytes(content)
        return Stat(name, len(content), at, sha256)

    def _write(self, call: str, name: str, content: bytes | Path, version: str | None, sha256: str) -> str:
        self._begin(call, name)
        data = content.read_bytes() if isinstance(content, Path) else content
        if sha256:
            assert hashlib.sha256(data).hexdigest() == sha256, name
        with self._lock:
            found = self.objects.get(name)
            if (found[1] if found else None) != version:
                raise Conflict(name)
            self._count += 1
            made = hashlib.md5(data).hexdigest() if self.etags else str(self._count)
            self.objects[name] = (data, made, sha256 or hashlib.sha256(data).hexdigest())
        self.after(call, name)
        return made

    def put(self, name: str, content: bytes | Path, sha256: str = "") -> str:
        return self._write("put", name, content, None, sha256)

    def replace(self, name: str, content: bytes | Path, version: str, sha256: str = "") -> str:
        return self._write("replace", name, content, version, sha256)

    def delete(self, name: str, version: str) -> None:
        self._begin("delete", name)
        with self._lock:
            found = self.objects.get(name)
            if found is not None and found[1] != version:
                raise Conflict(name)
            self.objects.pop(name, None)
        self.after("delete", name)

    def list(self, prefix: str = "", after: str = "") -> Iterator[Stat]:
        self._begin("list", prefix)
        for name in sorted(self.objects):
            if name.startswith(prefix) and name > after:
                yield Stat(name, len(self.objects[name][0]), self.objects[name][1])

    def content(self) -> dict[str, bytes]:
        """What it holds, but for the lease."""
        return {name: found[0] for name, found in sorted(self.objects.items()) if name != "lease.json"}
