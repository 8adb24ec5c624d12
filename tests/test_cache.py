"""The cache: its bound holds, the least recently used go first, processes share it, and the killed leave nothing behind."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from job.errors import UserError
from job.storage.cache import Cache, default_folder
from job.storage.lock import InUse

ROOT = Path(__file__).resolve().parents[1]


def _name(k: int) -> str:
    return hashlib.sha256(str(k).encode()).hexdigest()


def _make(size: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(b"x" * size)


def _here(cache: Cache) -> list[int]:
    return [k for k in range(100) if (cache.folder / _name(k)).exists()]


def _add(cache: Cache, k: int, size: int = 10) -> bool:
    made = cache.add(_name(k), size, _make(size))
    if made:
        os.utime(cache.folder / _name(k), ns=(0, k + 1))  # the clock of a file system may be coarse
    return made


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 100)
    assert cache.find(_name(1)) is None
    assert _add(cache, 1)
    assert cache.add(_name(1), 10, lambda path: pytest.fail("made twice"))
    found = cache.find(_name(1))
    assert found is not None
    assert found.read_bytes() == b"x" * 10
    assert [path.name for path in cache.folder.iterdir()] == [_name(1)]
    cache.drop(_name(1))
    assert cache.find(_name(1)) is None
    cache.drop(_name(1))


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 50)
    for k in range(5):
        assert _add(cache, k)
    assert _here(cache) == [0, 1, 2, 3, 4]
    assert cache.find(_name(0)) is not None  # used now
    assert _add(cache, 5)
    assert _here(cache) == [0, 2, 3, 4, 5]
    assert _add(cache, 6, 25)
    assert _here(cache) == [0, 5, 6]


def test_what_is_needed_stays_and_what_has_no_room_is_not_made(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 50)
    for k in range(5):
        _add(cache, k)
    cache.needed = frozenset(_name(k) for k in (0, 1, 3, 4, 9))
    assert _add(cache, 9)
    assert _here(cache) == [0, 1, 3, 4, 9]
    assert not cache.add(_name(8), 10, lambda path: pytest.fail("no room"))
    assert not Cache(tmp_path / "other", 50).add(_name(7), 51, lambda path: pytest.fail("no room"))
    assert _here(cache) == [0, 1, 3, 4, 9], "nothing is evicted for what does not fit"
    assert not [*tmp_path.glob("*.part")]


def test_files_of_others_are_never_deleted(tmp_path: Path) -> None:
    for name in ("manifest.json", "train-00000-of-00001.tfrecord", _name(1)[:-1], "x" + _name(1), "data.part"):
        (tmp_path / name).write_bytes(b"y" * 60)
    os.mkdir(tmp_path / "mine.part.part")
    before = sorted(path.name for path in tmp_path.iterdir())
    cache = Cache(tmp_path, 20)
    assert _add(cache, 1)
    assert _add(cache, 2)
    assert _add(cache, 3)
    assert _here(cache) == [2, 3]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in map(_name, (2, 3))) == before


def test_parts_count_so_that_the_bound_holds_while_several_arrive(tmp_path: Path) -> None:
    cache, most = Cache(tmp_path, 55), 0
    gate = threading.Barrier(4)

    def make(path: Path) -> None:
        nonlocal most
        gate.wait(timeout=10)
        path.write_bytes(b"x" * 10)
        most = max(most, sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file() and file.name != ".lock"))
        gate.wait(timeout=10)

    def fill(thread: int) -> None:
        for k in range(5):
            assert cache.add(_name(10 * thread + k), 10, make)

    threads = [threading.Thread(target=fill, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 40 <= most <= 55
    assert len(_here(cache)) == 5


def test_an_entry_under_way_elsewhere_is_in_use(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(path: Path) -> None:
        begun.set()
        go_on.wait(10)
        path.write_bytes(b"first")

    first, second = Cache(tmp_path, 100), Cache(tmp_path, 100)
    thread = threading.Thread(target=first.add, args=(_name(1), 5, slow))
    thread.start()
    begun.wait(10)
    with pytest.raises(InUse):
        second.add(_name(1), 5, _make(5))
    assert second.add(_name(2), 5, _make(5)), "another entry need not wait"
    go_on.set()
    thread.join()
    assert second.add(_name(1), 5, lambda path: pytest.fail("made twice"))
    assert (tmp_path / _name(1)).read_bytes() == b"first"


def test_a_killed_maker_blocks_nobody_and_leaves_nothing(tmp_path: Path) -> None:
    script = f"""
import time
from pathlib import Path
from job.storage.cache import Cache
def make(path):
    path.write_bytes(b"half")
    path.with_name(".17.tmp").write_bytes(b"half")
    print("begun", flush=True)
    time.sleep(60)
Cache(Path({str(tmp_path)!r}), 100).add({_name(1)!r}, 60, make)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        with pytest.raises(InUse):
            Cache(tmp_path, 100).add(_name(1), 60, _make(60))
        assert not Cache(tmp_path, 100).add(_name(2), 60, _make(60)), "what is under way counts with its whole size"
        process.send_signal(signal.SIGKILL)
    cache = Cache(tmp_path, 100)
    assert [*tmp_path.iterdir()] == []
    assert cache.add(_name(1), 60, _make(60))
    assert [path.name for path in tmp_path.iterdir()] == [_name(1)]


def test_one_process_evicts_what_another_reads_on(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 20)
    _add(cache, 1)
    with (tmp_path / _name(1)).open("rb") as file:
        _add(Cache(tmp_path, 20), 2, 15)
        assert _here(cache) == [2]
        assert file.read() == b"x" * 10


def test_a_full_disk_evicts_once_and_then_fails(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    for k in range(4):
        _add(cache, k)
    tries = []

    def make(path: Path) -> None:
        tries.append(_here(cache))
        path.write_bytes(b"x" * 15)
        if len(tries) < 2:
            raise OSError(errno.ENOSPC, "full")

    assert cache.add(_name(9), 15, make)
    assert tries == [[0, 1, 2, 3], [2, 3]]

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        cache.add(_name(8), 15, full)
    assert not [*tmp_path.glob("*.part")]


def test_what_a_maker_raises_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 100)

    def broken(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        cache.add(_name(1), 10, broken)
    assert [*tmp_path.iterdir()] == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        Cache(tmp_path / "file" / "cache", 100)
    wanted = f"{tmp_path}/file/cache: cannot be used as a cache (Not a directory); name another folder with --cache"
    assert str(caught.value) == wanted


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder("") == tmp_path / "xdg" / "twofold"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder("") == tmp_path / "home" / ".cache" / "twofold"
    monkeypatch.chdir(tmp_path)
    assert default_folder("here") == tmp_path / "here"
