"""A folder in a bucket: written by one process at a time, found again by any machine, on real stores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from job.errors import Unsent, UserError
from job.runs import place
from job.shutdown import Stop
from job.storage import lease, lock
from job.storage.bucket import Bucket
from job.storage.opening import open_bucket
from tests.mirroring import contents, save, whole
from tests.stores.fixtures import Store

LIFE = 2.0


@pytest.fixture(params=["gcs_store", "s3_store"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    found: Store = request.getfixturevalue(request.param)
    found.use(monkeypatch)
    return found


def objects(bucket: Bucket) -> dict[str, bytes]:
    return {found.name: bucket.read(found.name) for found in bucket.list() if found.name != lease.NAME}


def test_a_local_folder_is_itself(tmp_path: Path) -> None:
    with place.opened(str(tmp_path / "run"), tmp_path / "cache", Stop(), 5) as where:
        assert (where.path, where.fence, where.mirror) == (tmp_path / "run", None, None)
        where.settle()
    assert not (tmp_path / "cache").exists()


def test_what_is_refused_by_its_names_is_neither_fetched_nor_written(store: Store, tmp_path: Path) -> None:
    bucket = open_bucket(store.url)
    bucket.put("holiday.mp4", b"film")
    bucket.put("pets/cat.jpg", b"cat")
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "holiday.mp4").write_bytes(b"film")

    def accept(names: set[str]) -> None:
        raise UserError("--out", f"holds {', '.join(sorted(names))}", "")

    for text, held in ((store.url, "holiday.mp4, pets"), (str(tmp_path / "local"), "holiday.mp4")):
        with (
            pytest.raises(UserError, match=f"--out: holds {held}$"),
            place.opened(text, tmp_path / "one", Stop(), 5, LIFE, accept=accept),
        ):
            raise AssertionError("it was opened")
    assert [found.name for found in bucket.list()] == ["holiday.mp4", "pets/cat.jpg"], "no lease, no probe"
    assert list((tmp_path / "one").rglob("*.mp4")) == []


def test_what_is_refused_by_what_it_says_costs_no_arrays(store: Store, tmp_path: Path) -> None:
    with place.opened(store.url, tmp_path / "one", Stop(), 5, LIFE) as where:
        save(where.path, 1, [])
        (where.path / "config.toml").write_text("a = 1")
        before = contents(where.path)
    arrays = {name for name in before if name.endswith("/state.npz")}
    assert arrays

    def check(folder: Path) -> None:
        assert {*contents(folder)} == {*before} - arrays
        raise UserError("--a", "differs from the run's", "")

    for _ in range(2):
        with pytest.raises(UserError, match="--a: differs"), place.opened(store.url, tmp_path / "two", Stop(), 5, LIFE, check=check):
            raise AssertionError("it was opened")
    with place.opened(store.url, tmp_path / "two", Stop(), 5, LIFE) as where:
        assert contents(where.path) == before


def test_what_nothing_came_of_leaves_nothing(store: Store, tmp_path: Path) -> None:
    bucket = open_bucket(store.url)
    with pytest.raises(UserError, match="no"), place.opened(store.url, tmp_path / "one", Stop(), 5, LIFE):
        raise UserError("train", "no", "")
    with place.opened(store.url, tmp_path / "one", Stop(), 5, LIFE):
        pass
    assert list(bucket.list()) == []
    with place.opened(store.url, tmp_path / "one", Stop(), 5, LIFE) as where:
        save(where.path, 1, [])
    assert where.fence == 1
    with place.opened(store.url, tmp_path / "two", Stop(), 5, LIFE) as where:
        assert where.fence == 2
    assert lease.NAME in {found.name for found in bucket.list()}, "a lease with a history is kept"


def test_a_second_machine_finds_all_that_the_first_has_written(store: Store, tmp_path: Path) -> None:
    with place.opened(store.url, tmp_path / "one", Stop(), 5, LIFE) as where:
        assert where.fence == 1
        save(where.path, 1, [])
        save(where.path, 2, [1])
        (where.path / "config.toml").write_text("a = 1")
        (where.path / "curves.png").write_bytes(b"png")
        before = contents(where.path)
    assert objects(open_bucket(store.url)) == before
    with place.opened(store.url, tmp_path / "two", Stop(), 5, LIFE) as where:
        assert where.fence == 2
        found = contents(where.path)
        assert found == {name: content for name, content in before.items() if name != "curves.png"}, "plots are drawn anew"
        save(where.path, 3, [2])
        save(where.path, 4, [3])
    assert {name for name in objects(open_bucket(store.url)) if name.endswith("state.npz")} == {
        "checkpoints/step-00000003-0001/state.npz",
        "checkpoints/step-00000004-0001/state.npz",
    }, "what the first machine has written is pruned by the second"


def test_the_machine_that_wrote_last_fetches_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with place.opened(store.url, tmp_path / "one", Stop(), 5, LIFE) as where:
        save(where.path, 1, [])
    fetched: list[str] = []
    monkeypatch.setattr("job.storage.retrying.Retrying.fetch", lambda self, name, path, version="": fetched.append(name))
    with place.opened(store.url, tmp_path / "one", Stop(), 5, LIFE) as where:
        assert "summary.json" in contents(where.path)
    assert fetched == []


def test_what_was_not_sent_when_a_process_died_is_sent_by_the_next_on_its_machine(store: Store, tmp_path: Path) -> None:
    kill_while_writing(store, tmp_path / "one", 3)
    (copy,) = (tmp_path / "one" / "runs").glob("*/copy")
    save(copy, 9, [3])  # as if it had come to be in the moment of death
    began = time.monotonic()
    with place.opened(store.url, tmp_path / "one", Stop(), 5) as where:
        assert time.monotonic() - began < 30, "the lease of this machine's own dead process is not waited for"
        assert "checkpoints/step-00000009-0001/checkpoint.json" in contents(where.path)
    whole(objects(open_bucket(store.url)))
    assert "checkpoints/step-00000009-0001/checkpoint.json" in objects(open_bucket(store.url))


def kill_while_writing(store: Store, cache: Path, step: int, life: float = 60.0) -> None:
    """A process that writes a checkpoint, waits until it is sent, and is killed."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom job.runs import place\nfrom job.shutdown import Stop\n"
        "from tests.mirroring import save\n"
        f"with place.opened({store.url!r}, Path({str(cache)!r}), Stop(), 5, {life}) as where:\n"
        f"    save(where.path, {step}, [])\n    where.settle()\n    print('sent', flush=True)\n    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, **store.environment})
    assert process.stdout is not None
    while (line := process.stdout.readline()) != "sent\n":
        assert line, "it ended before it had written"
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_dead_owner_is_taken_over_by_another_machine_and_a_stale_one_commits_nothing_that_is_read(store: Store, tmp_path: Path) -> None:
    """Two caches are two machines; the first one's renewals stop, as those of a process do that was stopped with SIGSTOP."""
    with (  # noqa: PT012  it is raised at the end
        pytest.raises(lock.InUse, match="was taken over by process"),
        place.opened(store.url, tmp_path / "one", Stop(), 5, LIFE) as stale,
    ):
        save(stale.path, 5, [])
        stale.settle()
        assert stale.mirror is not None
        stale.mirror.lease.stop()
        with stale.mirror._changed, place.opened(store.url, tmp_path / "two", Stop(), 5, LIFE) as where:  # it sleeps meanwhile
            assert where.fence == 2
            assert "checkpoints/step-00000005-0001/checkpoint.json" in contents(where.path)
            save(where.path, 6, [5])
            where.settle()
            save(stale.path, 7, [5])
        time.sleep(1.5)
    found = objects(open_bucket(store.url))
    assert json.loads(found["summary.json"])["best"] == 6
    with place.opened(store.url, tmp_path / "three", Stop(), 5, LIFE) as where:
        assert not any("00000007" in name for name in contents(where.path)), "what the stale one wrote does not count"


def test_a_checkpoint_of_a_lower_fence_that_was_not_inherited_is_ignored(store: Store, tmp_path: Path) -> None:
    with place.opened(store.url, tmp_path / "one", Stop(), 5, LIFE) as where:
        save(where.path, 1, [])
    with place.opened(store.url, tmp_path / "two", Stop(), 5, LIFE):
        pass
    bucket = open_bucket(store.url)
    for name in ("state.npz", "checkpoint.json"):  # late, by the first
        bucket.put(f"checkpoints/step-00000008-0001/{name}", bucket.read(f"checkpoints/step-00000001-0001/{name}"))
    with place.opened(store.url, tmp_path / "three", Stop(), 5, LIFE) as where:
        names = contents(where.path).keys()
        assert "checkpoints/step-00000001-0001/checkpoint.json" in names
        assert not any("00000008" in name for name in names)


def test_where_the_lease_says_that_a_checkpoint_was_written_and_none_is_listed_nothing_starts_afresh(store: Store, tmp_path: Path) -> None:
    with place.opened(store.url, tmp_path / "one", Stop(), 5, LIFE) as where:
        save(where.path, 1, [])
    bucket = open_bucket(store.url)
    for found in list(bucket.list("checkpoints/")):
        bucket.delete(found.name, found.version)
    with (
        pytest.raises(UserError, match="its lease says that checkpoints/step-00000001-0001 was written, and no checkpoint is listed"),
        place.opened(store.url, tmp_path / "two", Stop(), 5, LIFE),
    ):
        pass


@pytest.mark.parametrize("damage", ["deleted", "corrupt"])
def test_without_its_lease_a_run_goes_on_from_what_is_listed(store: Store, tmp_path: Path, damage: str) -> None:
    with place.opened(store.url, tmp_path / "one", Stop(), 5, LIFE) as where:
        save(where.path, 1, [])
    bucket = open_bucket(store.url)
    found = bucket.stat(lease.NAME)
    assert found is not None
    bucket.replace(lease.NAME, b"\x00garbage", found.version) if damage == "corrupt" else bucket.delete(lease.NAME, found.version)
    with place.opened(store.url, tmp_path / "two", Stop(), 5, LIFE) as where:
        assert where.fence == 2
        assert "checkpoints/step-00000001-0001/checkpoint.json" in contents(where.path)


def test_of_those_who_race_for_a_folder_one_goes_on(store: Store, tmp_path: Path) -> None:
    """Ten rounds here, as many more as are asked for by hand: fresh, given up, and died."""
    rounds = int(os.environ.get("ROUNDS", "6"))
    for number in range(rounds):
        url = f"{store.url}/{number}"
        bucket = open_bucket(url)
        if number % 3:
            taken = lease.acquire(bucket, lambda before: (1, ()), Stop(), life=0.3)
            if number % 3 == 1:
                taken.release()
        winners, losers = race(url, tmp_path / str(number), 3)
        assert (len(winners), len(losers)) == (1, 2), number
        assert all(f"is in use by {winners[0]}" in loser for loser in losers), (winners, losers)


def race(url: str, folder: Path, count: int) -> tuple[list[str], list[str]]:
    """The holders, and what the others were told."""
    barrier, over = threading.Barrier(count), threading.Event()

    def attempt(number: int) -> tuple[str, str]:
        barrier.wait()
        try:
            with place.opened(url, folder / str(number), Stop(), 5, 1.0) as where:
                over.wait(20)
                assert where.mirror is not None
                assert not where.mirror.lost
                return where.mirror.lease.document.holder, ""
        except lock.InUse as error:
            return "", str(error)
        finally:
            refused.append(number)
            if len(refused) == count - 1:
                over.set()

    refused: list[int] = []
    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(attempt, range(count)))
    return [holder for holder, _ in found if holder], [words for holder, words in found if not holder]


def test_two_processes_of_one_machine_do_not_share_a_copy(store: Store, tmp_path: Path) -> None:
    with place.opened(store.url, tmp_path / "one", Stop(), 5, LIFE):
        with pytest.raises(lock.InUse) as raised, place.opened(store.url, tmp_path / "one", Stop(), 5, LIFE):
            pass
        assert str(raised.value).startswith(f"{store.url}: is in use by process {os.getpid()} on ")


def test_what_cannot_be_sent_in_the_grace_is_said_with_where_it_lies(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()
    with pytest.raises(Unsent) as raised, place.opened(store.url, tmp_path / "one", stop, 3, LIFE) as where:  # noqa: PT012
        where.settle()
        monkeypatch.setattr("job.storage.retrying.Retrying.put", away(store))
        save(where.path, 1, [])
        stop.set()
    copy = next((tmp_path / "one" / "runs").glob("*/copy"))
    assert raised.value.code == 75
    assert str(raised.value) == (
        f"{store.url}: 4 files (2.1 kB) could not be sent: {store.url}: is away; all lies in {copy}; "
        "rerun the same command on this machine to send it"
    )


def away(store: Store) -> Callable[..., str]:
    def put(self: object, name: str, content: object, sha256: str = "") -> str:
        raise UserError(store.url, "is away", "wait")

    return put


def test_local_copies_are_bounded_and_what_is_unsent_or_in_use_stays(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "one"
    for name in ("a", "b", "c"):
        with place.opened(f"{store.url}/{name}", cache, Stop(), 5, LIFE) as where:
            save(where.path, 1, [], size=100_000)
    homes = sorted((cache / "runs").iterdir(), key=lambda home: (home / "sent.json").stat().st_mtime_ns)
    (homes[1] / "copy" / "summary.json").write_text("changed, and not sent")
    with place.opened(f"{store.url}/d", cache, Stop(), 5, LIFE, bound=10_000):
        assert not homes[0].exists()
        assert homes[1].exists()
        assert not homes[2].exists()
    with place.opened(f"{store.url}/b", cache, Stop(), 5, LIFE), place.opened(f"{store.url}/d", cache, Stop(), 5, LIFE, bound=0):
        assert homes[1].exists()
    with place.opened(f"{store.url}/a", cache, Stop(), 5, LIFE) as where:
        assert "checkpoints/step-00000001-0001/state.npz" in contents(where.path), "it is fetched again"
