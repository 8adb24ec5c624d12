"""Files whole or absent, one writer, and the room on the disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from job.storage.lock import only_writer
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
        wanted = f"{tmp_path}: is in use by process {holder.pid} on {socket.gethostname()}; wait for it, stop it, or give another --out"
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


def _watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """Each sync, rename and closing to come: what, of which path, and that file's size just then."""
    seen: list[tuple[str, str, int]] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        seen.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size))
        fsync(descriptor)

    def replaced(old: Path, new: Path) -> None:
        seen.append(("rename", str(new), os.stat(old).st_size))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return seen


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_file_is_synced_whole_before_its_rename_and_the_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, before, seen = tmp_path / "a", _descriptors(), _watched(monkeypatch)
    local.write_atomic(path, b"12345")
    assert [(what, size) for what, _, size in seen[:2]] == [("sync", 5), ("rename", 5)]
    assert [(what, name) for what, name, _ in seen[1:]] == [("rename", str(path)), ("sync", str(tmp_path))]
    assert Path(seen[0][1]).parent == tmp_path
    assert _descriptors() == before


def test_shards_are_synced_whole_and_the_manifest_and_the_folder_after_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from job.data import manifest, shards

    before, seen = _descriptors(), _watched(monkeypatch)
    shard = shards.write(tmp_path, "train-00000-of-00001", [shards.Record(b"image", k % 2, str(k), "") for k in range(9)])
    sizes = [(tmp_path / name).stat().st_size for name in (shard.file, shard.index)]
    assert [(what, size) for what, _, size in seen] == [("sync", sizes[0]), ("sync", sizes[1]), ("rename", sizes[1]), ("rename", sizes[0])]
    assert [name for _, name, _ in seen[2:]] == [str(tmp_path / name) for name in (shard.index, shard.file)]
    manifest.write(tmp_path, manifest.Manifest(("a", "b"), {"train": manifest.Split(9, (5, 4), (shard,))}, {}))
    assert [what for what, *_ in seen[4:]] == ["sync", "rename", "sync"]
    assert seen[-1][1] == str(tmp_path)
    assert _descriptors() == before


class _Failing:
    """A function that raises errors of these numbers first, and then does what it did before."""

    def __init__(self, function: Callable[..., Any], *numbers: int) -> None:
        self.function, self.numbers, self.calls = function, list(numbers), 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.numbers:
            number = self.numbers.pop(0)
            raise OSError(number, os.strerror(number), str(arguments[0]))
        return self.function(*arguments, **options)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "RETRY_WAITS", (0.0, 0.001, 0.002))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT])
def test_a_rename_that_fails_for_a_moment_is_tried_again(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    failing = _Failing(os.replace, number, number, number)
    monkeypatch.setattr(os, "replace", failing)
    local.write_atomic(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert failing.calls == 4


def test_a_rename_that_keeps_failing_is_one_line_of_the_machine(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", _Failing(os.replace, *[errno.ESTALE] * 9))
    (tmp_path / "new").write_text("old")
    with pytest.raises(MachineError) as caught:
        local.write_atomic(tmp_path / "new", "new")
    assert caught.value.code == 69
    assert str(caught.value).startswith(
        f"{tmp_path}/new: could not be renamed from .new.{os.getpid()}.tmp in 4 tries (Stale file handle); "
    )
    assert os.listdir(tmp_path) == ["new"]
    assert (tmp_path / "new").read_text() == "old"


def test_a_rename_that_cannot_succeed_is_not_tried_again(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = _Failing(os.replace, errno.ENOSPC)
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="No space"):
        local.rename(tmp_path / "old", tmp_path / "new")
    with pytest.raises(FileNotFoundError):
        local.rename(tmp_path / "old", tmp_path / "new")
    assert failing.calls == 2


def test_a_rename_whose_answer_was_lost(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").mkdir()
    replace, calls = os.replace, 0

    def lossy(old: Path, new: Path) -> None:
        nonlocal calls
        calls += 1
        replace(old, new)
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr(os, "replace", lossy)
    local.rename(tmp_path / "old", tmp_path / "new")
    assert os.listdir(tmp_path) == ["new"]
    assert calls == 2  # the second meets the first one's result


@pytest.mark.parametrize(
    ("number", "warns"),
    [(errno.EINVAL, False), (errno.ENOSYS, False), (errno.EBADF, False), (errno.ENOTSUP, False), (errno.EIO, True), (errno.ESTALE, True)],
)
@pytest.mark.parametrize("fails", ["open", "fsync"])
def test_a_folder_that_cannot_be_synced_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, warns: bool, fails: str
) -> None:
    before = _descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, fails, _Failing(getattr(os, fails), number))
        local.sync_folder(tmp_path)
    line = f"warning: {tmp_path} could not be synced ({os.strerror(number)}): a power cut now may lose its newest files\n"
    assert capsys.readouterr().out == (line if warns else "")
    assert _descriptors() == before


def test_a_full_disk_while_a_folder_is_synced_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", _Failing(os.fsync, errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        local.sync_folder(tmp_path)


def test_a_tree_is_removed_in_a_second_try(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.setattr(os, "rmdir", _Failing(os.rmdir, errno.EBUSY))
    local.remove_tree(tmp_path / "a")
    local.remove_tree(tmp_path / "a")  # there is none any more
    assert os.listdir(tmp_path) == []
    assert capsys.readouterr().out == ""


def test_a_tree_that_stays_is_named_in_a_warning(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(os, "rmdir", _Failing(os.rmdir, errno.ENOTEMPTY, errno.ENOTEMPTY))
    local.remove_tree(tmp_path / "a")
    assert capsys.readouterr().out == f"warning: {tmp_path}/a could not be deleted (Directory not empty): delete it later\n"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    import fcntl

    monkeypatch.setattr(lock, "_warned", set())
    monkeypatch.setattr(fcntl, "flock", _Failing(fcntl.flock, number, number))
    before = _descriptors()
    for _ in range(2):
        with lock.only_writer(tmp_path):
            pass
    assert capsys.readouterr().out == f"warning: the file system of {tmp_path} has no locks: start no second process on this folder\n"
    assert _descriptors() == before


def test_a_folder_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(lock, "WAIT", 0.001)
    first = lock.only_writer(tmp_path)
    first.__enter__()
    held_by: list[str] = []

    def waiting(who: str) -> None:
        held_by.append(who)
        if len(held_by) == 3:
            first.__exit__(None, None, None)

    with lock.only_writer(tmp_path, waiting), pytest.raises(lock.InUse), lock.only_writer(tmp_path):
        pass
    assert held_by == [f"process {os.getpid()} on {socket.gethostname()}"] * 3


def test_what_is_raised_ends_the_wait(tmp_path: Path) -> None:
    before = _descriptors()

    def waiting(who: str) -> None:
        raise KeyError

    with lock.only_writer(tmp_path), pytest.raises(KeyError), lock.only_writer(tmp_path, waiting):
        pass
    with lock.only_writer(tmp_path):
        pass
    assert _descriptors() == before


@pytest.mark.parametrize("when", ["before it is opened", "before it is locked"])
def test_a_folder_that_its_last_holder_deletes_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    import fcntl

    folder = tmp_path / "run"
    if when == "before it is locked":
        folder.mkdir()
        flock = fcntl.flock

        def deleted_first(file: Any, how: int) -> None:
            monkeypatch.setattr(fcntl, "flock", flock)
            local.remove_tree(folder)
            flock(file, how)

        monkeypatch.setattr(fcntl, "flock", deleted_first)
    with lock.only_writer(folder), pytest.raises(lock.InUse), lock.only_writer(folder):
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
        assert str(caught.value) == f"{folder}: is a file, not a folder; name another folder"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, f"the file system failed ({os.strerror(errno.EIO)})"),
        (errno.ESTALE, f"the file system failed ({os.strerror(errno.ESTALE)})"),
        (errno.ETIMEDOUT, f"the file system failed ({os.strerror(errno.ETIMEDOUT)})"),
        (errno.ENOTCONN, f"the file system failed ({os.strerror(errno.ENOTCONN)})"),
        (errno.EREMOTEIO, f"the file system failed ({os.strerror(errno.EREMOTEIO)})"),
        (errno.EDQUOT, "the disk is full"),
    ],
)
def test_faults_of_a_disk_in_words(number: int, words: str) -> None:
    error = from_os_error(OSError(number, "x", "/data/f"))
    assert error is not None
    assert error.code == 69
    assert str(error).startswith(f"/data/f: {words}; ")
    assert from_os_error(OSError(errno.ENOENT, "x", "/data/f")) is None
