"""Sources that change, move or vanish after they were prepared, and a cache that several processes fill."""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from job.config.options import build
from job.config.schema import Config
from job.console import console
from job.data import manifest
from job.data.sources import contents
from job.errors import Interrupted, UserError
from job.prepare import key, prepared_shards
from job.runs import records
from job.shutdown import Stop
from job.storage import lock
from tests.preparing import Soon, bytes_of, draw_image, draw_pets, prepared


def _changes(pets: Path) -> list[tuple[str, Callable[[], Any]]]:
    image = pets / "cats" / "0.png"
    status = image.stat()
    other = bytes(255 - byte for byte in image.read_bytes())

    def moved() -> None:
        (pets / "cats" / "1.png").rename(pets / "dogs" / "moved.png")

    return [
        ("an image was added", lambda: draw_image(pets / "cats" / "new.png", 999)),
        ("an image was removed", lambda: (pets / "cats" / "new.png").unlink()),
        ("an image was corrected at the same size", lambda: image.write_bytes(other)),
        ("an image was moved to the other class", moved),
        ("an image became smaller", lambda: (image.write_bytes(b"small"), os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns)))),
    ]


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_contents_differ_with_each_change_of_the_images_alone(kind: str, tmp_path: Path) -> None:
    pets = draw_pets(tmp_path / "pets", 2)
    source = pets
    if kind == "csv":
        source = tmp_path / "list.csv"
        names = [f"pets/{kind}/{k}.png,{kind}" for kind in ("cats", "dogs") for k in range(2)]
        source.write_text("\n".join(["path,label", *names, "pets/cats/new.png,cats", "pets/dogs/moved.png,dogs"]) + "\n")
    seen = [contents(str(source))]
    assert re.fullmatch(r"\d+ files, [\d,]+ bytes, state [0-9a-f]{12}", seen[0])
    (pets / "notes.txt").write_text("not an image")
    assert contents(str(source)) == seen[0]
    for what, change in _changes(pets):
        change()
        seen.append(contents(str(source)))
        assert seen[-1] not in seen[-2:-1], what
    moved = tmp_path / "elsewhere"
    shutil.copytree(pets, moved / "pets")
    if kind == "csv":
        shutil.copy2(source, moved)
    assert contents(str(moved / source.relative_to(tmp_path))) == seen[-1]  # times are kept, and the place does not count


def test_contents_of_an_archive_and_of_what_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"one")
    before = contents(str(path))
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert contents(str(path)) != before
    for text in ("kaggle:owner/set", "https://host/a.zip", str(tmp_path / "gone")):
        assert contents(text) == ""


def test_a_finished_folder_whose_source_has_changed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets, out = draw_pets(tmp_path / "pets", 10), tmp_path / "out"
    prepared(pets, out, val=0, test=0)
    before = bytes_of(out)
    draw_image(pets / "cats" / "new.png", 999)
    state = r"[\d,]+ bytes, state \w+"
    line = rf"{out}: {pets} has changed since it was prepared here: 20 files, {state}; now 21 files, {state}"
    with pytest.raises(UserError) as caught:
        prepared(pets, out, val=0, test=0)
    assert caught.value.code == 2
    assert re.fullmatch(line + "; give another --out, or delete the folder", str(caught.value))
    assert bytes_of(out) == before
    shutil.rmtree(pets)
    capsys.readouterr()
    prepared(pets, out, val=0, test=0)  # what is gone cannot have been corrected
    assert capsys.readouterr().out == f"{out} is already prepared\n"


def _config(data: Path | str, cache: str = "", **values: Any) -> Config:
    config: Config = build(Config, {"data": str(data), "cache": cache, "val": 0.0, "side": 40, "workers": 1, **values})
    return config


def test_a_cache_has_an_entry_for_each_state_of_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets, run, cache = draw_pets(tmp_path / "pets", 5), tmp_path / "run", str(tmp_path / "cache")
    first = prepared_shards(_config(pets, cache), run, Stop(), started=None)
    assert prepared_shards(_config(pets, cache), run, Stop(), started=None) == first
    assert f"{first} is already prepared\n" in capsys.readouterr().out
    draw_pets(pets, 2, first=50)
    second = prepared_shards(_config(pets, cache), run, Stop(), started=None)
    assert second != first
    assert [manifest.read(path).splits["train"].records for path in (first, second)] == [10, 14]
    assert first.parent == second.parent == tmp_path / "cache"


def test_a_started_run_keeps_its_shards_whatever_became_of_their_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets, run = draw_pets(tmp_path / "pets", 5), tmp_path / "run"
    own = prepared_shards(_config(pets), run, Stop(), started=None)
    assert own == run / "data"
    before = bytes_of(own)

    def kept(data: Path | str) -> str:
        capsys.readouterr()
        assert prepared_shards(_config(data), run, Stop(), started=run) == own
        assert bytes_of(own) == before
        return capsys.readouterr().out

    assert kept(pets) == ""
    with pytest.raises(
        UserError, match=r"elsewhere/pets is not what this was started with: .*/run/data, made of .*/pets; leave --data out to resume"
    ):
        kept(tmp_path / "elsewhere" / "pets")  # what it was made of is there still
    renamed = pets.rename(tmp_path / "animals")
    assert kept(renamed) == ""
    assert kept(pets) == f"warning: {pets} is not found; the shards that were made of it are kept, in {own}\n"
    renamed.rename(pets)
    draw_image(pets / "cats" / "new.png", 999)
    assert re.fullmatch(
        rf"warning: {pets} has changed since it was prepared: 10 files, .*; now 11 files, .*; resuming with the shards in {own}\n",
        kept(pets),
    )
    for other in (str(draw_pets(tmp_path / "others", 5, first=70)), "kaggle:owner/set", str(tmp_path / "README")):
        with pytest.raises(UserError) as caught:
            prepared_shards(_config(other), run, Stop(), started=run)
        fix = "leave --data out to resume, or give a new --out"
        assert str(caught.value) == f"--data: {other} is not what this was started with: {own}, made of {pets}; {fix}"


def test_a_started_run_keeps_its_entry_of_the_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets, run, cache = draw_pets(tmp_path / "pets", 5), tmp_path / "run", str(tmp_path / "cache")
    own = prepared_shards(_config(pets, cache), run, Stop(), started=None)
    run.mkdir()
    records.write_config(run, _config(own, cache))
    draw_image(pets / "cats" / "new.png", 999)
    assert prepared_shards(_config(pets, cache), run, Stop(), started=run) == own
    assert "has changed since it was prepared" in capsys.readouterr().out
    assert os.listdir(cache) == [own.name]


def test_a_cache_that_another_process_fills_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pets, cache = draw_pets(tmp_path / "pets", 5), str(tmp_path / "cache")
    config, said = _config(pets, cache), threading.Event()
    entry = Path(cache) / f"shards-{key([str(pets)], config.prepare, config.reading)}"
    entry.mkdir(parents=True)
    monkeypatch.setattr(lock, "WAIT", 0.001)
    lines: list[str] = []

    def log(line: str, **_: Any) -> None:
        lines.append(line)
        if line.startswith("waiting for "):
            said.set()

    monkeypatch.setattr(console, "log", log)
    with ThreadPoolExecutor(1) as pool, lock.only_writer(entry):
        with pytest.raises(Interrupted):
            prepared_shards(config, tmp_path / "run", Soon(0.02), started=None)
        said.clear()
        second = pool.submit(prepared_shards, config, tmp_path / "run", Stop(), started=None)
        assert said.wait(5)
        assert not second.done()
        with pytest.raises(lock.InUse):  # the same --out by hand is refused as ever
            prepared(pets, entry)
    assert second.result() == entry  # the first died, so the second prepared
    assert lines.count(f"waiting for process {os.getpid()} on {socket.gethostname()} to prepare {entry}") == 2
    assert manifest.read(entry).splits["train"].records == 10


def test_a_source_that_is_not_there_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        prepared(tmp_path / "petz", tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_what_a_kill_after_the_end_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    pets, out = draw_pets(tmp_path / "pets", 5), tmp_path / "set"
    prepared(pets, out, val=0, test=0)
    (out / ".work").mkdir()
    (out / ".work" / "spool").write_bytes(b"much")
    prepared(pets, out, val=0, test=0)
    assert not (out / ".work").exists()
