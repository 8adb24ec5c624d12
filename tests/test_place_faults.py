"""A folder in a bucket after mishaps: half of it sent, half of it fetched, changed by hand, or the store in the way; some 8 seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from job.config.schema import Cache
from job.errors import JobError, MachineError, Unsent, UserError
from job.runs import checkpoints, place, reading
from job.shutdown import Stop
from job.storage import lease, local, lock, mirror
from job.storage.bucket import Conflict
from job.storage.lock import InUse
from job.storage.retrying import Retrying
from tests.memory_bucket import MemoryBucket
from tests.mirroring import contents, save
from tests.stores.fixtures import Store, proxied

LIFE = 1.0


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> MemoryBucket:
    """What lies behind every address."""
    made = MemoryBucket()
    for module in (place, reading):
        monkeypatch.setattr(module, "open_bucket", lambda text, stop: Retrying(made, stop))
    monkeypatch.setattr(mirror, "SECOND", 0.01)
    return made


@contextmanager
def opened(cache: Path, stop: Stop | None = None) -> Iterator[place.Place]:
    with place.opened("gs://memory/folder", cache, Stop() if stop is None else stop, 3, LIFE) as where:
        yield where


def copy_in(cache: Path) -> Path:
    (copy,) = cache.glob("runs/*/copy")
    return copy


def put(bucket: MemoryBucket, name: str, content: bytes) -> None:
    """As somebody else would."""
    bucket.objects[name] = (content, f"by hand {len(bucket.calls)}", "")


def steps(root: Path) -> list[int]:
    return sorted(name.step for name in checkpoints.names(root / "checkpoints"))


def test_a_checkpoint_of_which_half_was_sent_is_no_damaged_one(bucket: MemoryBucket, tmp_path: Path) -> None:
    with opened(tmp_path / "one") as where:
        (where.path / "config.toml").write_text("a = 1")
    put(bucket, "checkpoints/step-00000005-0001/state.npz", b"all of it")
    with opened(tmp_path / "two") as where:
        assert checkpoints.newest(where.path / "checkpoints") is None
        assert where.fence == 2
        save(where.path, 1, [])
    assert not any("00000005" in name for name in bucket.objects), "it is deleted once there is a whole one"


def test_what_is_left_of_an_old_copy_is_no_damaged_checkpoint(bucket: MemoryBucket, tmp_path: Path) -> None:
    with opened(tmp_path / "one") as where:
        save(where.path, 1, [])
    bucket.objects.clear()
    with opened(tmp_path / "one") as where:
        assert contents(where.path) == {}
        assert checkpoints.newest(where.path / "checkpoints") is None


@pytest.mark.parametrize("gone", ["", "checkpoints", "checkpoints/step-00000002-0001", "summary.json", "metrics.jsonl"])
def test_what_somebody_deleted_of_the_copy_is_fetched_again(bucket: MemoryBucket, tmp_path: Path, gone: str) -> None:
    with opened(tmp_path / "one") as where:
        save(where.path, 1, [])
        save(where.path, 2, [1])
        before = contents(where.path)
    path = copy_in(tmp_path / "one") / gone
    local.remove_tree(path) if path.is_dir() else path.unlink()
    with opened(tmp_path / "one") as where:
        assert contents(where.path) == before


def test_what_could_not_be_sent_outlives_a_start_that_failed_too(bucket: MemoryBucket, tmp_path: Path) -> None:
    """It took the lease, and ended before it had done anything."""

    def away(call: str, name: str) -> None:
        if call in ("put", "replace") and "00000002" in name:
            raise MachineError("gs://memory", "is away", "wait")

    stop = Stop()
    with pytest.raises(Unsent), opened(tmp_path / "one", stop) as where:  # noqa: PT012
        save(where.path, 1, [])
        where.settle()
        bucket.fault = away
        save(where.path, 2, [1])
        stop.set()

    def full(folder: Path, needed: int, purpose: str) -> None:
        raise MachineError(str(folder), "the disk is full", "free some space")

    bucket.fault = lambda call, name: None
    (copy_in(tmp_path / "one") / "summary.json").unlink()  # so that there is something to fetch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "require_space", full)
        with pytest.raises(MachineError, match="the disk is full"), opened(tmp_path / "one"):
            pass
    with opened(tmp_path / "one") as where:
        assert steps(where.path) == [1, 2]
    assert "checkpoints/step-00000002-0001/checkpoint.json" in bucket.objects


def test_what_was_changed_or_deleted_in_the_bucket_by_hand(bucket: MemoryBucket, tmp_path: Path) -> None:
    with opened(tmp_path / "one") as where:
        save(where.path, 1, [])
        (where.path / "config.toml").write_text("epochs = 1")
        (where.path / "report").mkdir()
        (where.path / "report" / "metrics.json").write_text("old")
        whole = contents(where.path)
    put(bucket, "config.toml", b"epochs = 2")
    put(bucket, "report/metrics.json", b"by an evaluation")
    put(bucket, "checkpoints/step-00000001-0001/state.npz", b"damaged")
    del bucket.objects["metrics.jsonl"]
    with opened(tmp_path / "one") as where:
        assert (where.path / "config.toml").read_text() == "epochs = 2", "nothing newer is here"
        assert (where.path / "checkpoints/step-00000001-0001/state.npz").read_bytes() != b"damaged", "a checkpoint never changes"
    assert bucket.content() == {**whole, "config.toml": b"epochs = 2", "report/metrics.json": b"by an evaluation"}


def test_a_lease_of_which_nothing_was_committed_yet_still_says_what_was_before(bucket: MemoryBucket, tmp_path: Path) -> None:
    with opened(tmp_path / "one") as where:
        save(where.path, 1, [])
    with opened(tmp_path / "two"):
        pass
    for name in [name for name in bucket.objects if "step" in name]:
        del bucket.objects[name]
    with pytest.raises(UserError, match="step-00000001-0001 was written, and no checkpoint is listed"), opened(tmp_path / "three"):
        pass


def test_where_the_newest_is_gone_the_one_before_is_taken_and_that_is_said(
    bucket: MemoryBucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(tmp_path / "one") as where:
        save(where.path, 1, [])
        save(where.path, 2, [1])
    del bucket.objects["checkpoints/step-00000002-0001/checkpoint.json"]
    with opened(tmp_path / "two") as where:
        assert steps(where.path) == [1]
    said = "gs://memory/folder: its lease says that checkpoints/step-00000002-0001 was written, and it is not listed; falling back"
    assert said in capsys.readouterr().out


def test_objects_with_names_that_no_file_of_ours_has(bucket: MemoryBucket, tmp_path: Path) -> None:
    with opened(tmp_path / "one") as where:
        save(where.path, 1, [])
        before = contents(where.path)
    outside = tmp_path / "outside"
    names = [
        "checkpoints/",
        "report/",
        f"{outside}/a",
        f"/{outside}/checkpoints/step-00000009-0009/b",
        "../c",
        "x/../../d",
        "a//e",
        "checkpoints",
    ]
    names += ["../checkpoints/step-00000009-0009/checkpoint.json", "summary.json/f"]
    for name in names:
        put(bucket, name, b"{}")
    put(bucket, "notes/a b+c%é?*.txt", b"of the user")
    del bucket.objects["summary.json"]
    with opened(tmp_path / "two") as where:
        found = contents(where.path)
        assert found.pop("notes/a b+c%é?*.txt") == b"of the user"
        assert found.pop("summary.json/f") == b"{}"
        assert found == {name: content for name, content in before.items() if name != "summary.json"}
    with reading.opened("gs://memory/folder", Cache(cache=str(tmp_path / "three")), Stop()) as folder:
        assert steps(folder) == [1]
    assert not outside.exists()
    assert not any(path.name in "cdef" for path in tmp_path.rglob("*") if path.parent.name not in ("summary.json",))


@pytest.mark.parametrize("call", ["put", "replace", "delete"])
def test_a_store_that_refuses_for_ever_is_not_asked_for_ever(bucket: MemoryBucket, tmp_path: Path, call: str) -> None:
    def refuse(made: str, name: str) -> None:
        if (made == call and name.startswith("checkpoints/step-00000001")) or (call == "replace" == made and name == "summary.json"):
            raise Conflict(name)

    stop = Stop()
    ends = opened(tmp_path / "one", stop)
    where = ends.__enter__()
    bucket.fault = refuse
    save(where.path, 1, [])
    where.settle(0.3 if call == "put" else 30)
    save(where.path, 2, [1] if call == "put" else [])
    where.settle(0.3)
    stop.set()
    if call == "delete":
        assert ends.__exit__(None, None, None) is False
        assert "checkpoints/step-00000002-0001/checkpoint.json" in bucket.objects
    else:
        with pytest.raises(Unsent, match=r"could not be sent: .* changed 5 times while it was written"):
            ends.__exit__(None, None, None)
    assert len(bucket.calls) < 2000


def test_the_lease_is_renewed_while_a_long_copy_is_fetched(bucket: MemoryBucket, tmp_path: Path) -> None:
    with opened(tmp_path / "one") as where:
        save(where.path, 1, [])
    slow = threading.Event()

    def wait(call: str, name: str) -> None:
        if call == "fetch":
            slow.set()
            time.sleep(2 * LIFE)

    bucket.fault = wait
    outcome: list[object] = []

    def second() -> None:
        slow.wait(10)
        try:
            with opened(tmp_path / "three"):
                outcome.append("took it over")
        except InUse as error:
            outcome.append(error)

    other = threading.Thread(target=second)
    other.start()
    with opened(tmp_path / "two") as where:
        assert steps(where.path) == [1]
        other.join()
    assert [type(found) for found in outcome] == [InUse]


@pytest.mark.parametrize("kind", [UserError, MachineError])
def test_a_cache_that_cannot_be_used_is_named(
    bucket: MemoryBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[JobError]
) -> None:
    if kind is UserError:  # it is a file; else another user's
        (tmp_path / "runs").write_text("")
    else:
        monkeypatch.setattr(
            lock, "only_writer", lambda folder: (_ for _ in ()).throw(PermissionError(13, "Permission denied", str(folder)))
        )
    with pytest.raises(kind) as raised, opened(tmp_path):
        pass
    assert str(raised.value).startswith(f"{tmp_path}: cannot be used as a cache (")
    assert str(raised.value).endswith("; name another folder with --cache")
    assert bucket.calls == []


def test_a_thread_that_meets_what_nobody_thought_of_goes_on(bucket: MemoryBucket, tmp_path: Path) -> None:
    left = ["once"]

    def surprise(call: str, name: str) -> None:
        if name == "summary.json" and left:
            left.pop()
            raise ZeroDivisionError

    bucket.fault = surprise
    with opened(tmp_path / "one") as where:
        save(where.path, 1, [])
    assert "summary.json" in bucket.objects


@pytest.mark.parametrize("kind", ["gcs_store", "s3_store"])
def test_at_its_end_a_process_waits_for_no_store_beyond_its_grace(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Nothing is ever answered any more: neither uploads under way nor renewals of the lease hold it up."""
    store: Store = request.getfixturevalue(kind)
    code = (
        "import sys\nfrom pathlib import Path\nfrom job.errors import JobError\nfrom job.runs import place\nfrom job.shutdown import Stop\n"
        "from tests.mirroring import save\nstop = Stop()\ntry:\n"
        f"    with place.opened({store.url!r}, Path({str(tmp_path)!r}), stop, 3, 2.0) as where:\n"
        "        where.settle()\n        print('ready', flush=True)\n        sys.stdin.readline()\n"
        "        save(where.path, 1, [])\n        stop.set()\n"
        "except JobError as error:\n    print(error, flush=True)\n    sys.exit(error.code)\n"
    )
    with proxied(store) as place_:
        environment = {**os.environ, **place_.environment}
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True, env=environment) as process:
            assert process.stdout is not None
            while (line := process.stdout.readline()) != "ready\n":
                assert line, "it ended too early"
            place_.proxy.faults.add("latency", n=1000, seconds=3600)
            said, _ = process.communicate("\n", timeout=20)
    assert process.returncode == 75, said
    assert "4 files (2.1 kB) could not be sent: the time was up" in said


def test_every_flip_in_a_lease_is_noticed(tmp_path: Path) -> None:
    content = lease.Document("process 1 on host", "ab" * 16, 3, ("checkpoints/step-00000001-0002",), "x", 7).content()
    assert json.loads(content)["fence"] == 3
    for at in range(len(content)):
        for bit in (0, 3):
            with pytest.raises(ValueError):
                lease.Document.read(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
