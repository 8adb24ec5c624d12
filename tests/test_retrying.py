"""Retrying: what passes is tried again within a budget, and a lost response is no lost race; some 5 seconds."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from job.errors import MACHINE, Interrupted, MachineError, UserError
from job.shutdown import Stop
from job.storage import retrying
from job.storage.bucket import Conflict, Missing, Stat, Unavailable
from job.storage.opening import open_bucket
from job.storage.retrying import Retrying
from tests.stores.fixtures import Store, proxied

DOWN = Unavailable("503 Service Unavailable")
LOST = "lost"  # the store does it, and the answer does not arrive


class Memory:
    """A bucket in memory; `faults` are met by its next requests, one each, before they are carried out or (LOST) after."""

    address = "gs://memory/run"

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, Stat]] = {}
        self.faults: list[Exception | str | None] = []
        self.asked: list[str] = []
        self._version = 0

    def _do(self, what: str, act: Callable[[], Any]) -> Any:
        self.asked.append(what)
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        result = act()
        if fault == LOST:
            raise Unavailable("connection reset")
        return result

    def stat(self, name: str) -> Stat | None:
        found: Stat | None = self._do("stat", lambda: self.objects.get(name, (b"", None))[1])
        return found

    def read(self, name: str, start: int = 0, length: int | None = None, version: str = "") -> bytes:
        return bytes(self._do("read", lambda: self._found(name)[start:]))

    def fetch(self, name: str, path: Path, version: str = "") -> Stat:
        self._do("fetch", lambda: path.write_bytes(self._found(name)))
        return self.objects[name][1]

    def put(self, name: str, content: bytes | Path, sha256: str = "") -> str:
        return str(self._do("put", lambda: self._write(name, content, "", sha256)))

    def replace(self, name: str, content: bytes | Path, version: str, sha256: str = "") -> str:
        return str(self._do("replace", lambda: self._write(name, content, version, sha256)))

    def delete(self, name: str, version: str) -> None:
        def act() -> None:
            if name in self.objects and self.objects[name][1].version != version:
                raise Conflict
            self.objects.pop(name, None)

        self._do("delete", act)

    def list(self, prefix: str = "", after: str = "") -> Iterator[Stat]:
        self.asked.append("list")
        for name in sorted(self.objects):
            if name > after:
                if self.faults and (fault := self.faults.pop(0)):
                    raise fault if isinstance(fault, Exception) else Unavailable(fault)
                yield self.objects[name][1]

    def _found(self, name: str) -> bytes:
        if name not in self.objects:
            raise Missing
        return self.objects[name][0]

    def _write(self, name: str, content: bytes | Path, version: str, sha256: str) -> str:
        if (self.objects[name][1].version if name in self.objects else "") != version:
            raise Conflict
        self._version += 1
        data = content if isinstance(content, bytes) else content.read_bytes()
        self.objects[name] = (data, Stat(name, len(data), str(self._version), sha256))
        return str(self._version)


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The longest waits, noted and not waited."""
    noted: list[float] = []
    monkeypatch.setattr(retrying._Patience, "_pause", lambda self, seconds: noted.append(seconds))
    monkeypatch.setattr(retrying._dice, "uniform", lambda low, high: high)
    return noted


# Patience


def test_what_passes_is_tried_again(memory: Memory, waits: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bucket = Retrying(memory)
    calls: list[Callable[[], Any]] = [
        lambda: bucket.put("a", b"first"),
        lambda: bucket.stat("a"),
        lambda: bucket.read("a"),
        lambda: bucket.fetch("a", tmp_path / "a"),
        lambda: bucket.replace("a", b"second", "1"),
        lambda: list(bucket.list()),
        lambda: bucket.delete("a", "2"),
    ]
    for call in calls:
        memory.faults = [DOWN, Unavailable("timed out"), DOWN]
        call()
        assert memory.faults == []
    assert memory.objects == {}
    assert waits == [0.2, 0.4, 0.8] * len(calls)
    assert bucket.counts.requests == len(memory.asked) == 4 * len(calls)
    assert (bucket.counts.sent, bucket.counts.received) == (11, 10)
    line = "28 requests, 11 bytes sent, 10 bytes received; 21 faults retried (503 Service Unavailable 14, timed out 7)"
    assert bucket.counts.summary() == line
    said = "warning: gs://memory/run: {}; retrying for up to 2 min\n"
    assert capsys.readouterr().out == said.format("503 Service Unavailable") + said.format("timed out")


def test_waits_double_up_to_a_limit(memory: Memory, waits: list[float]) -> None:
    memory.faults = [DOWN] * 10
    Retrying(memory, budget=None).stat("a")
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10, 10]
    memory.faults = [DOWN] * 2000
    Retrying(memory, budget=None).stat("a")
    assert waits[-1] == 10


def test_waits_are_random(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[float] = []
    monkeypatch.setattr(retrying._Patience, "_pause", lambda self, seconds: noted.append(seconds))
    state = random.getstate()
    memory.faults = [DOWN] * 30
    Retrying(memory, budget=None).stat("a")
    assert len(set(noted)) == 30
    assert all(wait <= min(10, 0.2 * 2**number) for number, wait in enumerate(noted))
    assert random.getstate() == state  # those numbers belong to others


def test_the_store_says_when_to_come_back(memory: Memory, waits: list[float]) -> None:
    memory.faults = [Unavailable("429 Too Many Requests", 7), Unavailable("429 Too Many Requests", 3600)]
    Retrying(memory).stat("a")
    assert waits == [7, 60]
    memory.faults = [Unavailable("429 Too Many Requests", 60)]
    Retrying(memory, budget=5).stat("a")
    assert waits[2] == pytest.approx(5, abs=1)


def test_the_budget_is_spent(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(retrying, "time", clock)
    monkeypatch.setattr(retrying._dice, "uniform", lambda low, high: high)
    memory.faults = [DOWN] * 1000
    with pytest.raises(MachineError) as caught:
        Retrying(memory).stat("a")
    assert str(caught.value) == "gs://memory/run: unreachable for 2 min (503 Service Unavailable, 18 times); check the network, then rerun"
    assert caught.value.code == MACHINE
    assert now[0] == 1120
    with pytest.raises(MachineError, match=r"unreachable for 0 s \(503 Service Unavailable, 1 time\); check the network, then rerun"):
        Retrying(memory, budget=0).stat("a")


def test_a_stop_ends_the_waiting(memory: Memory) -> None:
    stop = Stop()
    bucket = Retrying(memory, stop, budget=None)
    stop.set()
    assert bucket.stat("a") is None  # it is looked at between tries alone
    memory.faults = [DOWN]
    with pytest.raises(Interrupted):
        bucket.stat("a")
    memory.faults = [DOWN]
    assert bucket.within(5).stat("a") is None
    assert bucket.counts.faults == {str(DOWN): 2}


def test_what_does_not_pass_is_not_tried_again(memory: Memory, waits: list[float]) -> None:
    bucket = Retrying(memory)
    memory.faults = [UserError("a", "b", "c"), OSError(28, "No space left on device")]
    with pytest.raises(UserError):
        bucket.stat("a")
    with pytest.raises(OSError, match="No space left"):
        bucket.stat("a")
    with pytest.raises(Missing):
        bucket.read("a")
    assert waits == []


def test_a_listing_goes_on_where_it_broke_off(memory: Memory, waits: list[float]) -> None:
    names = [f"{number:02d}" for number in range(20)]
    for name in names:
        memory.put(name, b"")
    memory.faults = [None, None, DOWN, DOWN, None, None, None, DOWN]
    assert [found.name for found in Retrying(memory, budget=None).list()] == names
    assert waits == [0.2, 0.4, 0.2]


# Lost responses


@pytest.mark.parametrize("faults", [[LOST], [DOWN, LOST], [LOST, DOWN], [LOST, None, DOWN]])
@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize("hashed", [False, True])
def test_a_lost_response_is_no_lost_race(
    memory: Memory, waits: list[float], tmp_path: Path, faults: list[Any], from_file: bool, hashed: bool
) -> None:
    bucket, content = Retrying(memory), b"first"
    (tmp_path / "a").write_bytes(content)
    given = tmp_path / "a" if from_file else content
    sha256 = hashlib.sha256(content).hexdigest()
    memory.faults = list(faults)
    assert bucket.put("a", given, sha256 if hashed else "") == "1"
    assert memory.objects["a"][1] == Stat("a", 5, "1", sha256)
    memory.faults = []
    assert bucket.replace("a", b"second", "1") == "2"
    memory.faults = list(faults)
    assert bucket.replace("a", given, "2", sha256 if hashed else "") == "3"
    memory.faults = list(faults)
    bucket.delete("a", "3")
    assert memory.objects == {}
    assert bucket.counts.sent == 16


def test_a_lost_race_is_one(memory: Memory, waits: list[float]) -> None:
    """Refused at once, of equal content too; after a fault, where another's content is there."""
    memory.put("a", b"first", hashlib.sha256(b"first").hexdigest())
    bucket = Retrying(memory)
    with pytest.raises(Conflict):
        bucket.put("a", b"first")
    assert "stat" not in memory.asked
    for content in (b"other", b"sixth"):
        memory.faults = [DOWN]
        with pytest.raises(Conflict):
            bucket.put("a", content)
        memory.faults = [DOWN]
        with pytest.raises(Conflict):
            bucket.replace("a", content, "7")
    memory.faults = [DOWN]
    with pytest.raises(Conflict):
        bucket.delete("a", "7")
    assert memory.objects["a"][0] == b"first"


# Through the proxy


@pytest.fixture(params=["gcs_store", "s3_store"])
def store(request: pytest.FixtureRequest) -> Store:
    place: Store = request.getfixturevalue(request.param)
    return place


def test_sixty_faults_lose_nothing(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(retrying, "LONGEST_WAIT", 0.1)
    content = random.Random(0).randbytes(200_000)
    with proxied(store) as place:
        place.use(monkeypatch)
        bucket = open_bucket(place.url)
        place.proxy.faults.chaos(seed=1, probability=0.4, total=60, seconds=0.05)

        def work(number: int) -> None:
            name = f"{number:02d}"
            first = bucket.put(name, content[number:])
            second = bucket.replace(name, content[: number + 1], first)
            assert bucket.read(name, version=second) == content[: number + 1]
            third = bucket.replace(name, content[number:], second)
            bucket.fetch(name, tmp_path / name)
            assert (tmp_path / name).read_bytes() == content[number:]
            if number % 2:
                bucket.delete(name, third)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(40)))
        assert [found.name for found in bucket.list()] == [f"{number:02d}" for number in range(0, 40, 2)]
        made = place.proxy.faults.counts()["faults"]
        assert sum(made.values()) == 60
        assert len(made) >= 9
        assert 40 <= bucket.counts.faults.total() <= 60  # a short stall, for one, is none


def test_a_race_with_lost_responses_has_one_winner(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.01)
    with proxied(store) as place:
        place.use(monkeypatch)
        bucket = open_bucket(place.url)
        for turn in range(5):
            place.proxy.faults.add("lost", n=3, method="POST" if place.url.startswith("gs") else "PUT")

            def outcome(writer: int, turn: int = turn) -> str:
                try:
                    return bucket.put(f"{turn}", f"{turn} {writer}".encode())
                except Conflict:
                    return ""

            with ThreadPoolExecutor(8) as pool:
                won = [*pool.map(outcome, range(8))]
            place.proxy.faults.clear()
            [version] = filter(None, won)
            assert bucket.read(f"{turn}", version=version) == f"{turn} {won.index(version)}".encode()


def test_an_outage_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxied(store) as place:
        place.use(monkeypatch)
        bucket = open_bucket(place.url)
        version = bucket.put("a", b"first")
        place.proxy.away(1)
        with ThreadPoolExecutor(2) as pool:
            written, read = pool.submit(partial(bucket.replace, "a", b"second", version)), pool.submit(partial(bucket.read, "a"))
        assert bucket.read("a", version=written.result()) == b"second"
        assert read.result() in (b"first", b"second")
        assert set(bucket.counts.faults) == {"connection reset"}
        place.proxy.away(60)
        with pytest.raises(
            MachineError,
            match=r"unreachable for 0 s \(connection reset, \d+ times?\); check the network and [A-Z0-9_]+=http:.*, then rerun",
        ):
            bucket.within(0.3).stat("a")
