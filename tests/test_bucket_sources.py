"""Sources in buckets: what is listed and read is what a folder gives, of one version, and faults on the way change nothing."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.config.options import build
from job.config.schema import EvaluateConfig, PredictConfig, Reading
from job.data.sources import bucket, contents, open_source, ranged
from job.data.sources.ahead import MOST, MOST_BYTES, Threads, in_order
from job.data.sources.objects import Objects
from job.data.survey import survey
from job.errors import Corrupt, Interrupted, UserError
from job.evaluate import evaluate
from job.predict import rows
from job.prepare import _compare, prepared_shards
from job.shutdown import Stop
from job.storage.bucket import Bucket, Stat
from job.storage.opening import open_bucket
from job.visualize import visualize
from tests.conftest import small
from tests.preparing import draw_image, draw_pets, prepared
from tests.stores import objects as fake
from tests.stores.fixtures import Proxied, Store, proxied


@pytest.fixture(params=["gs", "s3"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    found: Store = request.getfixturevalue("gcs_store" if request.param == "gs" else "s3_store")
    found.use(monkeypatch)
    return found


@pytest.fixture
def gcs(gcs_store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    gcs_store.use(monkeypatch)
    return gcs_store


@pytest.fixture
def faulty(gcs_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxied]:
    with proxied(gcs_store) as found:
        found.use(monkeypatch)
        yield found


def _send(url: str, content: Path | dict[str, bytes]) -> None:
    """Put the files of a folder, or objects, below an address."""
    to = open_bucket(url)
    files = content if isinstance(content, dict) else _files(content)
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(to.put, files, files.values()))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _zip(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _all(text: str, scratch: Path, **reading: str) -> tuple[Any, dict[str, bytes]]:
    source = open_source(text, scratch, reading=Reading(**reading))
    listing = source.listing
    return (listing.entries, listing.skipped.reasons, listing.tables, listing.notes, listing.has_archives), dict(source.read())


def _refused(text: str, scratch: Path) -> str:
    with pytest.raises(UserError) as caught:
        _all(text, scratch)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two classes with all that folders hold besides."""
    folder = draw_pets(tmp_path_factory.mktemp("source") / "pets", 12)
    draw_image(folder / "cats" / "über +100% #1?.png", 101)
    shutil.copy(folder / "cats" / "1.png", folder / "dogs" / "without an ending")
    (folder / "dogs" / "note").write_text("no image")
    (folder / "dogs" / "empty").touch()
    (folder / "readme.txt").write_text("pets")
    (folder / "labels.csv").write_text("path,label\n")
    for name in (".DS_Store", "cats/Thumbs.db", "@eaDir/cats/1.png", "thumbs/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    for name in ("config.toml", "environment.json", "log.txt", "curves.png", "whatever"):
        (folder / "run").mkdir(exist_ok=True)
        (folder / "run" / name).write_bytes(b"x")
    more = {
        f"{kind}/{k}.png": draw_image(folder.parent / "more" / f"{kind}{k}.png", k + 200) for k in range(3) for kind in ("cats", "dogs")
    }
    (folder / "more.zip").write_bytes(_zip(more | {"inner.zip": _zip(more)}))
    return folder


@pytest.fixture(scope="module")
def local(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return prepared(pets, tmp_path_factory.mktemp("local") / "set").fingerprint


@pytest.mark.parametrize("kind", ["prefix", "zip", "large zip", "tar"])
def test_a_data_set_is_the_same_from_anywhere(
    kind: str, store: Store, pets: Path, local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _files(pets)
    url = f"{store.url}/pets" + {"prefix": "", "tar": ".tar.gz"}.get(kind, ".zip")
    _send(
        store.url, {"pets.tar.gz": _tar(files)} if kind == "tar" else {"pets.zip": _zip(files)} if "zip" in kind else _named("pets", files)
    )
    if kind == "large zip":
        monkeypatch.setattr(bucket, "WHOLE", 1000)
        monkeypatch.setattr(ranged, "BLOCK", 1000)
    made = prepared([url], tmp_path / "set")
    assert made.fingerprint == local
    assert made.settings["sources"] == [url]
    assert not (tmp_path / "set" / ".work").exists()


def _named(prefix: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{prefix}/{name}": data for name, data in files.items()}


def test_a_prefix_is_listed_as_a_folder_is(store: Store, pets: Path, tmp_path: Path) -> None:
    _send(f"{store.url}/pets", pets)
    _send(store.url, {"pets-2/1.png": b"of another prefix"})
    here = _all(str(pets), tmp_path)
    assert _all(f"{store.url}/pets", tmp_path) == here
    assert _all(f"{store.url}/pets/", tmp_path) == here
    files = _all(store.url, tmp_path)[1]
    assert set(files) == {"pets-2/1.png", *(f"pets/{name}" for name in here[1])}
    assert survey([f"{store.url}/pets"], tmp_path).lines() == survey([str(pets)], tmp_path).lines()


def test_markers_of_folders_are_passed_over(gcs: Store, tmp_path: Path) -> None:
    _send(gcs.url, {"pets": b"", "pets/": b"", "pets/cats/": b"", "pets/cats_$folder$": b"", "pets/cats/1.png": b"one"})
    (_, skipped, *_), files = _all(f"{gcs.url}/pets", tmp_path)
    assert (files, skipped) == ({"cats/1.png": b"one"}, {})
    assert contents(f"{gcs.url}/pets").startswith("1 file, 3 bytes, state ")


@pytest.mark.parametrize("name", ["list.csv", "below/list.csv"])
def test_a_csv_names_objects_beside_it(name: str, gcs: Store, pets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "here" / name.rpartition("/")[0]
    shutil.copytree(pets, folder)
    url = f"{gcs.url}/{name}".rpartition("/")[0]
    rows = [
        "cats/0.png,cat",
        "cats\\1.png,cat",
        "DOGS/0.png,dog",
        "dogs/1,dog",
        "elsewhere/dogs/2.png,dog",
        "cats/99.png,cat",
        "cats/0.png,cat",
    ]
    _send(url, {f"{odd}x{k}.png": b"odd" for k, odd in enumerate(("/", "cats//", "./", "../", "a/../"))})
    (folder / "list.csv").write_text("\n".join(["path,label", *rows]))
    _send(gcs.url, tmp_path / "here")
    here = _all(str(folder / "list.csv"), tmp_path)
    assert _all(f"{gcs.url}/{name}", tmp_path) == here
    assert len(here[1]) == 5
    before = contents(f"{gcs.url}/{name}")
    assert before.startswith("6 files, ")
    _send(url, {"more.csv": b"path,label\n%s/dogs/3.png,dog\ngs://other/cats/3.png,cat\n../cats/4.png,cat" % url.encode()})
    (entries, _, _, notes, _), files = _all(f"{url}/more.csv", tmp_path)
    assert notes == ("paths found by file name alone: 2",)
    assert [entry.name for entry in entries] == ["dogs/3.png", "cats/3.png", "cats/4.png"]
    assert files["dogs/3.png"] == (pets / "dogs" / "3.png").read_bytes()
    _send(url, {"none.csv": b"path,label\n77.png,dog\nx0.png,cat\n"})
    assert f"none.csv: lists 2 files, none of which is found, such as 77.png, neither there nor by its name alone below {url};" in _refused(
        f"{url}/none.csv", tmp_path
    )
    open_bucket(url).replace("dogs/0.png", b"another", open_bucket(url).stat("dogs/0.png").version)  # type: ignore[union-attr]
    assert contents(f"{gcs.url}/{name}") != before


def test_what_is_not_there(gcs: Store, tmp_path: Path) -> None:
    nothing = f"{gcs.url}/pets: no such object, and nothing below that name; see what is there with "
    assert _refused(f"{gcs.url}/pets", tmp_path).startswith(nothing)
    assert contents(f"{gcs.url}/pets") == ""
    with pytest.raises(UserError, match="no such object"):
        prepared([f"{gcs.url}/pets"], tmp_path / "set")
    assert not (tmp_path / "set").exists()
    _send(gcs.url, {"cut.zip": b"PK\3\4 and no more", "empty.jpg": b"", "letter.doc": b"words", "part.zip.001": b"x", "no.zip": b"words"})
    assert _refused(f"{gcs.url}/cut.zip", tmp_path).endswith("cut.zip: the archive is corrupt (File is not a zip file); upload it again")
    assert _refused(f"{gcs.url}/no.zip", tmp_path).endswith("is not an archive, whatever its name says; rename it, or upload it again")
    assert "letter.doc: is neither images nor an archive of them; give a folder" in _refused(f"{gcs.url}/letter.doc", tmp_path)
    assert "is one part of an archive" in _refused(f"{gcs.url}/part.zip.001", tmp_path)
    assert _all(f"{gcs.url}/empty.jpg", tmp_path)[1] == {"empty.jpg": b""}


def test_what_may_not_be_read(gcs: Store, gcs_objects: fake.Objects, tmp_path: Path) -> None:
    gcs_objects.create("closed-bucket", "closed")
    gcs_objects.create("public-bucket", "public")
    assert "permission denied" in _refused("gs://closed-bucket/pets", tmp_path)
    assert "the bucket does not exist" in _refused("gs://no-such-bucket/pets", tmp_path)
    assert "no such object" in _refused("gs://public-bucket/pets", tmp_path)
    with pytest.raises(UserError, match="no valid bucket name"):
        contents("gs://me:secret@bucket/pets")


def test_what_changes_while_it_is_read(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{k:03}.png": b"%d" % k for k in range(20)}
    _send(f"{store.url}/pets", files)
    _send(store.url, {"pets.zip": _zip(files)})
    at = open_bucket(store.url)
    monkeypatch.setattr(bucket, "WHOLE", 0)
    opened = [open_source(f"{store.url}/{name}", tmp_path) for name in ("pets", "pets.zip")]
    assert [len(source.listing.entries) for source in opened] == [20, 20]
    for name in ("pets/007.png", "pets.zip"):
        at.replace(name, b"another", at.stat(name).version)  # type: ignore[union-attr]
    for source, name in zip(opened, ("pets/007.png", "pets.zip"), strict=True):
        with pytest.raises(UserError) as caught:
            [*source.read()]
        assert str(caught.value) == f"{store.url}/{name}: was changed or deleted since it was listed; rerun"


def test_changes_are_noticed(store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _send(f"{store.url}/pets", draw_pets(tmp_path / "pets", 8))
    url, out, at = f"{store.url}/pets", tmp_path / "set", open_bucket(f"{store.url}/pets")
    prepared([url], out)
    at.put("readme.txt", b"words")
    at.put("run/config.toml", b"x")
    at.put("run/environment.json", b"x")
    at.put("run/log.txt", b"x")
    at.put("run/curves.png", b"x")
    prepared([f"{url}/"], out)
    assert f"{out} is already prepared" in capfd.readouterr().out
    found = at.stat("cats/0.png")
    assert found is not None
    changes = (
        lambda: at.replace("cats/0.png", draw_image(tmp_path / "x.png", 99), found.version),
        lambda: at.put("cats/without an ending", b"x"),
        lambda: at.put("more.zip", b"x"),
        lambda: at.delete("cats/0.png", at.stat("cats/0.png").version),  # type: ignore[union-attr]
    )
    states = [contents(url)]
    for change in changes:
        change()
        states.append(contents(url))
    assert len(set(states)) == 5
    with pytest.raises(UserError, match=r"pets has changed since it was prepared here: 16 files, .*; now 17 files"):
        prepared([url], out)


def test_what_is_fetched_is_fetched_once(gcs: Store, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _send(gcs.url, {"pets.tar.gz": _tar(_files(pets))})
    with proxied(gcs) as through:
        through.use(monkeypatch)
        source = open_source(f"{gcs.url}/pets.tar.gz", tmp_path)
        assert len(source.listing.entries) == len([*source.read()])
        again = open_source(f"{gcs.url}/pets.tar.gz", tmp_path)
        assert again.listing.entries == source.listing.entries
        whole = [entry for entry in through.proxy.faults.log if entry.received > 1000]
        assert len(whole) == 1


def test_faults_on_the_way_change_nothing(faulty: Proxied, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _send(f"{faulty.url}/pets", pets)
    faulty.proxy.faults.chaos(seed=1, probability=0.3, total=60, kinds=("503", "429", "reset", "cut", "latency"), seconds=0.01)
    assert _all(f"{faulty.url}/pets", tmp_path) == _all(str(pets), tmp_path)
    assert faulty.proxy.faults.counts()["faults"] != {}


def test_a_large_zip_comes_by_ranges_and_is_read_again_where_it_is_damaged(
    faulty: Proxied, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "WHOLE", 0)
    monkeypatch.setattr(ranged, "BLOCK", 1000)
    data = _zip(_files(pets))
    _send(faulty.url, {"pets.zip": data})
    source = open_source(f"{faulty.url}/pets.zip", tmp_path)
    listing = source.listing
    for skip in (0, 5):
        faulty.proxy.faults.add("flip", method="GET", path="alt=media", skip=skip)
    faulty.proxy.faults.add("cut", method="GET", path="alt=media", skip=2)
    read = dict(source.read())
    assert faulty.proxy.faults.counts()["faults"] == {"flip": 2, "cut": 1}
    assert read == _all(str(pets), tmp_path)[1]
    assert len(listing.entries) == len(read)
    assert list(tmp_path.iterdir()) == []


class Memory:
    """A bucket in memory that notes what it is asked for, and answers as `answer` says."""

    address = "gs://bucket"

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects, self.asked = objects, list[tuple[str, int, int | None]]()
        self.answer: Callable[[bytes], bytes] = lambda data: data

    def read(self, name: str, start: int = 0, length: int | None = None, version: str = "") -> bytes:
        self.asked.append((name, start, length))
        return self.answer(self.objects[name][start : None if length is None else start + length])

    def list(self, prefix: str = "", after: str = "") -> Iterator[Stat]:
        return (Stat(name, len(data), "1") for name, data in sorted(self.objects.items()) if name.startswith(prefix))

    def below(self, prefix: str = "", stop: Stop | None = None) -> Objects:
        return Objects(cast(Bucket, self), prefix, Stop() if stop is None else stop)


def test_a_zip_by_ranges_is_asked_for_once(tmp_path: Path) -> None:
    files = {f"{kind}/{k}.png": os.urandom(90_000) for k in range(300) for kind in ("cats", "dogs")}
    memory = Memory({"pets.zip": _zip(files)})
    source = ranged.RangedZip(memory.below(), "pets.zip", tmp_path, "")
    assert {entry.name for entry in source.listing.entries} == files.keys()
    assert sum(length or 0 for *_, length in memory.asked) <= 3 * ranged.BLOCK  # its two ends
    memory.asked.clear()
    assert dict(source.read()) == files
    starts = [start for _, start, _ in memory.asked]
    blocks = range(0, len(memory.objects["pets.zip"]), ranged.BLOCK)
    assert len(blocks) > ranged.KEPT
    assert sorted(set(starts)) == [*blocks]
    assert len(starts) <= len(blocks) + 1 + ranged.AHEAD  # the last ones were asked for first, for the directory


def test_a_zip_that_is_damaged_in_the_bucket(tmp_path: Path) -> None:
    data = bytearray(_zip({"cats/1.png": os.urandom(1000)}))
    data[500] ^= 1
    memory = Memory({"pets.zip": bytes(data)})
    source = ranged.RangedZip(memory.below(), "pets.zip", tmp_path, "")
    assert len(source.listing.entries) == 1
    with pytest.raises(Corrupt, match=r"^gs://bucket/pets.zip: the archive is corrupt \(Bad CRC-32.*\); upload it again$"):
        [*source.read()]


@given(
    content=st.binary(max_size=60),
    steps=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 40))),
    block=st.integers(1, 16),
)
def test_a_file_by_ranges_is_a_file(content: bytes, steps: list[tuple[int, int]], block: int) -> None:
    memory = Memory({"x": content})
    with pytest.MonkeyPatch.context() as patch, Threads(2, Stop()) as threads:
        patch.setattr(ranged, "BLOCK", block)
        ours, theirs = ranged.Ranged(partial(memory.below().read, "x"), len(content), threads), io.BytesIO(content)
        for at, count in steps:
            assert ours.seek(at) == theirs.seek(at)
            assert ours.read(count) == theirs.read(count)
            assert ours.tell() == theirs.tell()
        assert ours.seek(0, os.SEEK_END) == len(content)
        assert ours.seek(-len(content), os.SEEK_CUR) == 0
        assert ours.read() == content


def test_first_bytes_are_asked_for_only_where_names_do_not_tell(tmp_path: Path) -> None:
    names = ("cats/1.jpg", "cats/2.JPEG", "dogs/3", "notes.txt", "empty", "shards/manifest.json", "shards/train-00000-of-00016.tfrecord")
    memory = Memory({name: b"" if name == "empty" else b"\xff\xd8\xff" + bytes(2000) for name in names})
    source = bucket.Prefix(memory.below(), tmp_path, "")
    assert [entry.name for entry in source.listing.entries] == ["cats/1.jpg", "cats/2.JPEG", "dogs/3", "notes.txt"]
    assert sorted(memory.asked) == [("dogs/3", 0, 512), ("notes.txt", 0, 512)]
    memory.asked.clear()
    assert len([*source.read()]) == 4
    assert len(memory.asked) == 4


@pytest.mark.parametrize(("size", "count"), [(1, MOST), (MOST_BYTES // 4, 4), (2 * MOST_BYTES, 1)])
def test_many_at_a_time_in_order_and_a_bounded_way_ahead(size: int, count: int) -> None:
    under_way, began, all_there, lock = 0, list[int](), threading.Event(), threading.Lock()

    def work(number: int) -> int:
        nonlocal under_way
        with lock:
            under_way += 1
            if under_way == min(32, count):
                all_there.set()
        assert all_there.wait(30), "fewer at a time than may be"
        return number

    def numbers() -> Iterator[int]:
        for number in range(1000):
            began.append(number)
            yield number

    with Threads(32, Stop()) as threads:
        results = in_order(threads, work, numbers(), lambda number: size)
        for number in range(3):
            assert next(results) == (number, number)
            assert len(began) == count + 1 + number
        assert [number for number, _ in results] == [*range(3, 1000)]


def test_a_silent_store_keeps_nobody_from_stopping(tmp_path: Path) -> None:
    memory, stop, release = Memory({f"{k}.png": b"x" for k in range(100)}), Stop(), threading.Event()

    def silent(data: bytes) -> bytes:
        stop.set()
        release.wait(60)
        return data

    memory.answer = silent
    with pytest.raises(Interrupted), closing(memory.below("", stop).contents([f"{k}.png" for k in range(100)])) as found:
        next(found)
    release.set()


def test_an_error_ends_what_has_not_begun(tmp_path: Path) -> None:
    memory, release = Memory({f"{k:03}.png": b"x" for k in range(200)}), threading.Event()
    objects = memory.below()

    def failing(data: bytes) -> bytes:
        if len(memory.asked) == 1:
            raise UserError("here", "failed", "")
        release.wait(10)
        return data

    memory.answer = failing
    with pytest.raises(UserError, match="failed"):
        [*objects.contents(objects.files)]
    asked = len(memory.asked)
    release.set()
    assert asked < 100
    with Threads(1, Stop()) as threads:  # time for the others to go on, if they would
        threads.result(threads.submit(partial(threading.Event().wait, 0.2)))
    assert len(memory.asked) <= asked + 1


def test_what_uses_a_run(gcs: Store, run: Path, drawn: Path, tmp_path: Path) -> None:
    names = ("crosses/0.jpg", "crosses/1.jpg", "rings/0.jpg")
    images = {name: path.read_bytes() for name, path in zip(names, sorted(drawn.rglob("*.jpg"))[59:], strict=False)}
    _send(f"{gcs.url}/new", images)
    _send(gcs.url, {"new.zip": _zip(images), "list.csv": b"path\nnew/rings/0.jpg\n"})
    config = build(PredictConfig, {})
    for text, wanted in (
        ("new", [f"new/{name}" for name in names]),
        ("new/", [f"new/{name}" for name in names]),
        ("new/rings/0.jpg", ["new/rings/0.jpg"]),
        ("new.zip", [f"new.zip/{name}" for name in names]),
        ("list.csv", ["new/rings/0.jpg"]),
    ):
        assert [row["file"] for row in rows(run, [f"{gcs.url}/{text}"], config)] == [f"{gcs.url}/{name}" for name in wanted]
    assert evaluate(run, build(EvaluateConfig, {"data": f"{gcs.url}/new"}))["images"] == 3
    visualize(run, f"{gcs.url}/new/rings/0.jpg", str(tmp_path / "seen.png"))
    assert (tmp_path / "seen.png").exists()
    with pytest.raises(UserError, match="new: is not an image"):
        visualize(run, f"{gcs.url}/new", str(tmp_path / "seen.png"))


def test_a_run_goes_on_where_its_source_is_away(
    faulty: Proxied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The shards that were made of it are there."""
    url = f"{faulty.url}/pets"
    _send(url, draw_pets(tmp_path / "pets", 8))
    config = small(cast(Path, url), tmp_path / "run", side=40, val=0.25)
    assert prepared_shards(config, tmp_path / "run", Stop(), None) == tmp_path / "run" / "data"
    own = tmp_path / "run" / "data"
    capfd.readouterr()
    _compare(own, f"{url}/", Reading(), Stop())
    assert capfd.readouterr().out == ""
    faulty.proxy.faults.add("403", n=1)
    _compare(own, url, Reading(), Stop())
    said = capfd.readouterr().out
    assert said.startswith("warning: gs://")
    assert said.endswith(f"; resuming with the shards in {own}\n")
