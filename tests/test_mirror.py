"""The mirror: the bucket becomes what the folder is, in an order in which a reader always finds what is spoken of."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from job.errors import MachineError
from job.shutdown import Stop
from job.storage import lease, local
from job.storage.mirror import Mirror
from job.storage.sent import Sent
from tests.memory_bucket import MemoryBucket
from tests.mirroring import contents, save, whole


@contextmanager
def mirrored(bucket: MemoryBucket, root: Path, minute: float = 60.0, lost: Callable[[], None] = lambda: None) -> Iterator[Mirror]:
    root.mkdir(exist_ok=True)
    sent = Sent(root.parent / "sent.json")
    taken = lease.acquire(bucket, lambda before: (1, ()), Stop(), sent.tokens, life=60)
    sent.tokens, sent.whole = [taken.document.token], True
    known = {found.name: found for found in bucket.list() if found.name != lease.NAME}
    mirror = Mirror(bucket, root, taken, sent, known, minute)
    mirror.start(lost)
    try:
        yield mirror
    finally:
        mirror.close()
        taken.stop()


def soon(mirror: Mirror, seconds: float = 10) -> None:
    assert mirror.flush(time.monotonic() + seconds) == []


def test_the_bucket_becomes_what_the_folder_is(tmp_path: Path) -> None:
    bucket, root = MemoryBucket(), tmp_path / "copy"
    with mirrored(bucket, root) as mirror:
        (root / "report").mkdir()
        (root / "report" / "a b+c%.csv").write_text("1")
        (root / ".lock").write_text("hidden")
        (root / ".work").mkdir()
        (root / ".work" / "spool").write_text("hidden")
        (root / "big.tfrecord").write_bytes(random.Random(1).randbytes(9 << 20))
        save(root, 1, [])
        soon(mirror)
        assert bucket.content() == contents(root)
        save(root, 2, [])
        (root / "big.tfrecord").write_bytes(b"other")
        soon(mirror)
        assert bucket.content() == contents(root), "what was pruned is deleted, what has changed is replaced"


def test_at_every_moment_a_reader_finds_what_is_spoken_of(tmp_path: Path) -> None:
    """Checkpoints come and go while the store fails, and each write is followed by a look at all that is there."""
    bucket, root, chance = MemoryBucket(), tmp_path / "copy", random.Random(3)
    wrong: list[str] = []

    def look(call: str, name: str) -> None:
        try:
            whole({name: found[0] for name, found in list(bucket.objects.items())})
        except (AssertionError, KeyError) as error:
            wrong.append(f"{call} {name}: {error}")

    def fail(call: str, name: str) -> None:
        if name != lease.NAME and chance.random() < 0.1:
            raise MachineError("gs://memory", "is away", "wait")

    bucket.after, bucket.fault = look, fail
    with mirrored(bucket, root) as mirror:
        for step in range(1, 60):
            save(root, step, [step - 1, step // 10 * 10])
            mirror.kick()
            time.sleep(0.02)
        bucket.fault = lambda call, name: None
        soon(mirror, 60)
        assert wrong == []
        assert bucket.content() == contents(root)


def test_a_file_that_grows_is_sent_once_a_minute_and_no_name_more_than_once_a_second(tmp_path: Path) -> None:
    bucket, root = MemoryBucket(), tmp_path / "copy"
    with mirrored(bucket, root, minute=3.0) as mirror:
        save(root, 1, [])
        soon(mirror)
        before = len(bucket.calls)
        for number in range(25):
            with (root / "log.txt").open("a") as log:
                log.write(f"{number}\n")
            local.write_json(root / "summary.json", {"best": 1, "number": number})
            mirror.kick()
            time.sleep(0.1)
        times: dict[str, list[float]] = {}
        for call, name, at in bucket.calls[before:]:
            if call in ("put", "replace"):
                times.setdefault(name, []).append(at)
        assert len(times["log.txt"]) == 1
        assert len(times["summary.json"]) >= 2
        assert all(b - a >= 0.99 for moments in times.values() for a, b in itertools.pairwise(moments))
        soon(mirror)
        assert bucket.content() == contents(root)


def test_a_store_that_was_away_is_caught_up_with_in_one_go(tmp_path: Path) -> None:
    bucket, root = MemoryBucket(), tmp_path / "copy"

    def away(call: str, name: str) -> None:
        if name != lease.NAME:
            raise MachineError("gs://memory", "is away", "wait")

    with mirrored(bucket, root) as mirror:
        save(root, 1, [])
        soon(mirror)
        bucket.fault = away
        for step in range(2, 40):
            save(root, step, [step - 1])
            mirror.kick()
        assert mirror.flush(time.monotonic() + 0.5) != []
        bucket.fault = lambda call, name: None
        before = len(bucket.calls)
        soon(mirror, 30)
        sent = [name for call, name, _ in bucket.calls[before:] if call in ("put", "replace")]
        assert len([name for name in sent if name.endswith("state.npz")]) == 2, "only what is still there"
        assert bucket.content() == contents(root)


def test_a_conflict_on_a_file_is_resolved_where_the_lease_is_ours(tmp_path: Path) -> None:
    bucket, root = MemoryBucket(), tmp_path / "copy"
    lost = threading.Event()
    with mirrored(bucket, root, lost=lost.set) as mirror:
        save(root, 1, [])
        soon(mirror)
        bucket.objects["summary.json"] = (b"somebody else's", "900", "")
        bucket.objects["starts.json"] = (b"somebody else's", "901", "")
        del bucket.objects["metrics.jsonl"]
        (root / "starts.json").write_text("ours")
        save(root, 2, [1])
        soon(mirror)
        assert bucket.content() == contents(root)
        assert not lost.is_set()


def test_a_writer_that_lost_its_lease_writes_and_deletes_nothing_more(tmp_path: Path) -> None:
    bucket, root = MemoryBucket(), tmp_path / "copy"
    lost = threading.Event()
    with mirrored(bucket, root, lost=lost.set) as mirror:
        save(root, 1, [])
        soon(mirror)
        taken = lease.Document("process 9 on elsewhere", "other", 2)
        bucket.objects[lease.NAME] = (taken.content(), "900", "")
        bucket.objects["summary.json"] = (b'{"best": 1, "of": "the other"}', "901", "")
        before = bucket.content()
        save(root, 2, [])
        mirror.flush(time.monotonic() + 5)
        assert lost.wait(5)
        assert mirror.lost == "process 9 on elsewhere"
        after = bucket.content()
        assert after["summary.json"] == before["summary.json"]
        assert before.keys() <= after.keys(), "nothing was deleted"


def test_deleting_waits_for_the_successor(tmp_path: Path) -> None:
    """Its upload fails again and again: the one before stays until it is there."""
    bucket, root = MemoryBucket(), tmp_path / "copy"

    def refuse(call: str, name: str) -> None:
        if "00000002" in name:
            raise MachineError("gs://memory", "is away", "wait")

    with mirrored(bucket, root) as mirror:
        save(root, 1, [])
        soon(mirror)
        bucket.fault = refuse
        save(root, 2, [])
        assert mirror.flush(time.monotonic() + 1.5) != []
        assert "checkpoints/step-00000001-0001/checkpoint.json" in bucket.objects
        bucket.fault = lambda call, name: None
        soon(mirror)
        assert bucket.content() == contents(root)


def test_a_folder_that_somebody_emptied_empties_no_bucket(tmp_path: Path) -> None:
    bucket, root = MemoryBucket(), tmp_path / "copy"
    with mirrored(bucket, root) as mirror:
        save(root, 1, [])
        (root / "tensorboard").mkdir()
        (root / "tensorboard" / "events.1").write_text("x")
        soon(mirror)
        before = bucket.content()
        local.remove_tree(root)
        root.mkdir()
        soon(mirror)
        time.sleep(0.1)
        assert bucket.content() == before


def test_what_an_earlier_start_has_sent_is_not_sent_again(tmp_path: Path) -> None:
    """As by a preparation that makes the same shards anew on another machine."""
    bucket, root = MemoryBucket(), tmp_path / "copy"
    with mirrored(bucket, root) as mirror:
        for number in range(5):
            (root / f"train-{number}.tfrecord").write_bytes(random.Random(number).randbytes(10_000))
        soon(mirror)
        mirror.lease.release()
    root = tmp_path / "other" / "copy"
    root.mkdir(parents=True)
    for number in range(6):
        (root / f"train-{number}.tfrecord").write_bytes(random.Random(number).randbytes(10_000))
    before = len(bucket.calls)
    with mirrored(bucket, root) as mirror:
        soon(mirror)
        sent = [name for call, name, _ in bucket.calls[before:] if call in ("put", "replace") and name != lease.NAME]
        assert sent == ["train-5.tfrecord"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tokens": 1}', '{"tokens": ["x"], "whole": true, "sent": {"a": [1]}}', "\x00"])
def test_a_broken_table_of_what_was_sent_is_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "sent.json").write_text(text)
    sent = Sent(tmp_path / "sent.json")
    assert (sent.tokens, sent.whole, sent.mark("a"), sent.version("a")) == ([], False, None, "")


def test_the_table_is_read_as_it_was_saved(tmp_path: Path) -> None:
    bucket, root = MemoryBucket(), tmp_path / "copy"
    with mirrored(bucket, root) as mirror:
        save(root, 1, [])
        soon(mirror)
        token = mirror.lease.document.token
    sent = Sent(tmp_path / "sent.json")
    assert (sent.tokens, sent.whole) == ([token], True)
    assert all(sent.version(name) == found[1] for name, found in bucket.objects.items() if name != lease.NAME)
