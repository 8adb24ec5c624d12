"""Files whole or absent, one writer, and the room on the disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from job.errors import MachineError, UserError, from_os_error
from job.storage import local, lock


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    local.write_atomic(path, "old")
    local.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("fails", ["sync", "replace"])
def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    path = tmp_path / "a.json"
    local.write_atomic(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(*((local, "sync") if fails == "sync" else (os, "replace")), full)
    with pytest.raises(OSError, match="No space") as caught:
        local.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]
    worded = from_os_error(caught.value)
    assert worded is not None
    assert worded.code == 69
    assert str(worded) == f"{path}: the disk is full; free some space and rerun to resume"


def test_write_json_is_read_back(tmp_path: Path) -> None:
    import json

    local.write_json(tmp_path / "a", {"é": [1, None]})
    assert json.loads((tmp_path / "a").read_text(encoding="utf-8")) == {"é": [1, None]}


_HOLD = """
import sys
from pathlib import Path
from job.storage.local import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    import socket

    with subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError) as caught, lock.only_writer(tmp_path):
            pass
        wanted = f"{tmp_path}: is in use by process {holder.pid} on {socket.gethostname()}; wait for it, stop it, or name another --out"
        assert str(caught.value) == wanted
        assert caught.value.code == 2
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with (
        lock.only_writer(tmp_path),
        pytest.raises(UserError, match=f"in use by process {os.getpid()} on "),
        lock.only_writer(tmp_path),
    ):
        pass
    with lock.only_writer(tmp_path):
        pass


def test_an_error_within_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lock.only_writer(tmp_path):
        raise KeyError
    with lock.only_writer(tmp_path):
        pass


def test_require_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(local.shutil, "disk_usage", lambda _: usage(100, 50, 5_000_000))
    local.require_space(tmp_path, 5_000_000, "the shards")
    with pytest.raises(MachineError) as caught:
        local.require_space(tmp_path, 5_000_001, "the shards")
    assert caught.value.code == 69
    line = "the shards would take about 5.0 MB, the disk has 5.0 MB free; free some space or name another --out"
    assert str(caught.value) == f"{tmp_path}: {line}"


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (1_500_000, "1.5 MB"), (2e9, "2.0 GB"), (3.2e12, "3.2 TB"), (5e15, "5000.0 TB")],
)
def test_sizes_in_words(count: float, words: str) -> None:
    assert local.size(count) == words


def test_make_folder_over_a_file(tmp_path: Path) -> None:
    local.make_folder(tmp_path / "a" / "b")
    local.make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError) as caught:
            local.make_folder(folder)
        assert str(caught.value) == f"{folder}: is a file, not a folder; name a folder with --out"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "the file system failed (Input/output error)"),
        (errno.EDQUOT, "the disk is full"),
    ],
)
def test_faults_of_a_disk_in_words(number: int, words: str) -> None:
    error = from_os_error(OSError(number, "x", "/data/f"))
    assert error is not None
    assert error.code == 69
    assert str(error).startswith(f"/data/f: {words}; ")
    assert from_os_error(OSError(errno.ENOENT, "x", "/data/f")) is None
