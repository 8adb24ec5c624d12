"""One writer at a time in a bucket: the lease is taken, renewed, given up, taken over, and never held by two."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import pytest

from job.errors import Interrupted, UserError
from job.shutdown import Stop
from job.storage import lease
from job.storage.bucket import Conflict
from job.storage.lease import Document, Lease, acquire
from job.storage.lock import InUse
from tests.memory_bucket import MemoryBucket

LIFE = 0.6


def nothing(before: Document | None) -> tuple[int, tuple[str, ...]]:
    return 1, ()


def take(bucket: MemoryBucket, inherit: lease.Inherit = nothing, own: Collection[str] = (), life: float = LIFE) -> Lease:
    return acquire(bucket, inherit, Stop(), own, life)


def held(bucket: MemoryBucket) -> Document:
    standing = lease.read(bucket)
    assert standing is not None
    assert standing.document is not None
    return standing.document


def test_a_free_lease_is_taken_at_once_and_a_held_one_is_refused_by_its_holders_name() -> None:
    bucket = MemoryBucket()
    first = take(bucket)
    first.keep(lambda: None)
    with pytest.raises(InUse, match=r"gs://memory/folder: is in use by process \d+ on .*; wait for it, stop it, or give another --out"):
        take(bucket)
    assert not first.lost
    first.release()
    assert held(bucket).released
    second = take(bucket)
    assert second.document.fence == first.document.fence + 1


def test_an_owner_that_died_is_taken_over_once_its_life_has_passed() -> None:
    bucket = MemoryBucket()
    dead = take(bucket)
    began = time.monotonic()
    second = take(bucket)
    assert time.monotonic() - began >= LIFE
    assert second.document.fence == 2
    with pytest.raises(InUse, match="was taken over by process"):
        dead.check() if not dead.sure else dead.renew()
    assert dead.lost == second.document.holder


def test_a_life_is_the_holders_own_not_the_takers() -> None:
    bucket = MemoryBucket()
    take(bucket, life=1.0)
    began = time.monotonic()
    take(bucket, life=0.1)
    assert time.monotonic() - began >= 1.0


def test_this_machines_own_dead_process_is_taken_over_at_once() -> None:
    bucket = MemoryBucket()
    dead = take(bucket, life=60)
    assert take(bucket, own=[dead.document.token], life=60).document.fence == 2


def test_a_stop_ends_the_wait() -> None:
    bucket = MemoryBucket()
    take(bucket, life=60)
    stop = Stop()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(Interrupted):
        acquire(bucket, nothing, stop, life=60)


def test_of_many_that_race_for_a_lease_one_wins() -> None:
    for number in range(30):
        bucket = MemoryBucket()
        if number % 3 == 1:
            take(bucket).release()
        elif number % 3 == 2:
            take(bucket, life=0.05)
        won, lost = race(bucket, 4)
        assert (won, lost) == (1, 3), number


def race(bucket: MemoryBucket, count: int) -> tuple[int, int]:
    barrier = threading.Barrier(count)

    def attempt(_: int) -> Lease | None:
        barrier.wait()
        try:
            taken = take(bucket)
        except InUse:
            return None
        taken.keep(lambda: None)
        return taken

    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(attempt, range(count)))
    winners = [one for one in found if one is not None]
    for winner in winners:
        winner.release()
    return len(winners), count - len(winners)


def test_renewals_change_the_version_though_they_say_the_same() -> None:
    bucket = MemoryBucket()
    taken = take(bucket)
    seen = set()
    for _ in range(5):
        seen.add(bucket.objects[lease.NAME][0])
        taken.renew()
    assert len(seen) == 5, "equal bytes would be equal versions on S3"


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": "twofold-lease"}', b"null"])
def test_a_corrupt_lease_is_waited_for_and_taken_over(damage: bytes) -> None:
    bucket = MemoryBucket()
    take(bucket)
    bucket.objects[lease.NAME] = (damage, "1000", "")
    found: list[Document | None] = []

    def inherit(before: Document | None) -> tuple[int, tuple[str, ...]]:
        found.append(before)
        return 8, ("checkpoints/step-00000001-0007",)

    taken = take(bucket, inherit)
    assert found == [None]
    assert (taken.document.fence, taken.document.kept) == (8, ("checkpoints/step-00000001-0007",))


def test_any_flip_in_a_lease_is_read_as_a_lease_or_as_corrupt() -> None:
    content = Document("process 1 on host", "ab" * 16, 3, ("checkpoints/step-00000001-0002",), "x", 7).content()
    chance = random.Random(1)
    for _ in range(2000):
        data = bytearray(content)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            assert isinstance(Document.read(bytes(data)), Document)
        except ValueError:
            continue


@pytest.mark.parametrize("damage", ["deleted", "corrupt"])
def test_a_holder_writes_a_lease_anew_that_was_deleted_or_broken(damage: str) -> None:
    bucket = MemoryBucket()
    taken = take(bucket)
    if damage == "deleted":
        del bucket.objects[lease.NAME]
    else:
        bucket.objects[lease.NAME] = (b"{", "1000", "")
    taken.renew()
    assert held(bucket).token == taken.document.token


def test_a_lost_response_does_not_look_like_a_lost_lease() -> None:
    bucket = MemoryBucket()
    taken = take(bucket)

    def lose(call: str, name: str) -> None:
        bucket.after = lambda call, name: None
        raise Conflict(name)  # as a client that tries again after a lost response finds it

    bucket.after = lose
    taken.renew()
    assert not taken.lost
    assert held(bucket).token == taken.document.token


def test_nothing_is_committed_on_a_lease_that_is_not_sure() -> None:
    bucket = MemoryBucket()
    stale = take(bucket)
    take(bucket)
    time.sleep(LIFE)
    assert not stale.sure
    with pytest.raises(InUse):
        stale.check()
    with pytest.raises(InUse):
        stale.verify()


def test_the_thread_renews_and_says_when_the_lease_is_lost() -> None:
    bucket = MemoryBucket()
    taken = take(bucket)
    lost = threading.Event()
    taken.keep(lost.set)
    time.sleep(2 * LIFE)
    assert taken.sure
    bucket.objects[lease.NAME] = (Document("process 9 on elsewhere", "other", 5).content(), "1000", "")
    assert lost.wait(2 * LIFE)
    assert taken.lost == "process 9 on elsewhere"


@pytest.mark.parametrize("error", [UserError("gs://memory", "is away", "wait"), AttributeError("what no client should raise")])
def test_a_store_that_is_away_makes_it_unsure_and_not_lost(error: Exception) -> None:
    bucket = MemoryBucket()
    taken = take(bucket)
    taken.keep(lambda: None)

    def away(call: str, name: str) -> None:
        raise error

    bucket.fault = away
    time.sleep(LIFE)
    assert not taken.sure
    assert not taken.lost
    bucket.fault = lambda call, name: None
    time.sleep(LIFE / 2)
    assert taken.sure


def test_of_two_that_take_over_the_one_that_is_late_refuses() -> None:
    bucket = MemoryBucket()
    dead = take(bucket, life=0.1)
    inner: list[Lease] = []

    def slow(before: Document | None) -> tuple[int, tuple[str, ...]]:
        if not inner:
            inner.append(take(bucket, own=[dead.document.token]))
        return 1, ()

    with pytest.raises(InUse, match="is in use by process"):
        take(bucket, slow)
    assert held(bucket).token == inner[0].document.token


def test_the_document_says_what_it_said() -> None:
    document = Document("process 1 on höst", "t", 3, ("a", "b"), "b", 9, 5.0, released=True)
    assert Document.read(document.content()) == document
    assert json.loads(document.content())["format"] == lease.FORMAT
