"""`import twofold`: the example of docs/python.md as a notebook runs it, errors, threads, Ctrl-C."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import twofold
from job import commands
from job.config.options import Request
from job.console import console
from job.errors import Interrupted
from job.machine import devices
from job.shutdown import Stop
from tests.conftest import THREADS

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "python.md").read_text()


class Notebook:
    """What a notebook puts in place of standard output: it has no descriptor, and does not know of terminals."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, drawn: Path) -> Callable[[str], str]:
    """A session in a folder that holds `pets`; runs the blocks of the page that have that mark, and gives back what is printed."""
    for theirs, ours in (("cats", "crosses"), ("dogs", "rings")):
        shutil.copytree(drawn / ours, tmp_path / "pets" / theirs)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "cores", lambda: THREADS)
    namespace: dict[str, Any] = {"twofold": twofold}

    def run(mark: str) -> str:
        screen = Notebook()
        monkeypatch.setattr(sys, "stdout", screen)
        for block in re.findall(rf"^```python{mark}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
            exec(block, namespace)
        return screen.text

    return run


def test_the_example_of_the_page_runs_as_in_a_notebook(notebook: Callable[[str], str], tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    text = notebook("")
    assert "classes: 60 cats and 60 dogs" in text
    assert "epoch 2/2: loss" in text
    assert re.search(r"^done 0\.\d+ Metrics\(", text, re.MULTILINE)
    assert len(re.findall(r"^pets/cats/\S+ (cats|dogs) 0\.\d+$", text, re.MULTILINE)) == 60
    assert "('cats', 'dogs') {'train':" in text
    assert text.endswith("epocs: unknown option; did you mean epochs?\n")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    assert Path.cwd() == tmp_path


@pytest.mark.slow
def test_the_sweep_of_the_page_runs(notebook: Callable[[str], str]) -> None:
    twofold.prepare("pets", out="shards", side=40)
    text = notebook(" sweep")
    assert re.search(r"^\(0\.\d+, '000\d'\)$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: twofold.train(epocs=5), "epocs: unknown option; did you mean epochs?"),
        (lambda: twofold.train(pretrained=True), "pretrained: unknown option; see --help"),
        (lambda: twofold.train(epochs=0), "epochs: 0 is below 1; give at least 1"),
        (lambda: twofold.train(data="x"), "--out: no run folder given; add --out RUN"),
        (lambda: twofold.train(data="x", out="r", dense=(8,)), "--dense: has no effect: the residual model has no dense layers; "),
        (lambda: twofold.evaluate("nowhere"), "nowhere: is not a run folder; name the --out of a twofold train"),
        (lambda: twofold.evaluate("nowhere", json=True), "json: is how the command line prints; remove it"),
        (lambda: twofold.sweep(data="x", out="s", threads=1), "--threads: has no effect: a trial has its own; use --cpus-per-trial"),
        (lambda: twofold.prepare(out="shards"), "prepare: no source given; "),
    ],
)
def test_a_mistake_is_an_error_of_one_line(call: Callable[[], object], line: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(twofold.Error) as caught:
        call()
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
    assert [*tmp_path.iterdir()] == []


def test_it_works_in_any_thread(drawn: Path, tmp_path: Path) -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(twofold.prepare(drawn, out=tmp_path / "shards", side=40, log_format="json")))
    thread.start()
    thread.join()
    (manifest,) = found
    assert manifest.classes == ("crosses", "rings")
    assert not console.json


@pytest.fixture
def _heard() -> Iterator[None]:
    """Python hears Ctrl-C, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heard")
def test_ctrl_c_in_a_notebook_waits_until_all_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []

    def slow(request: Request, stop: Stop) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while not stop:
            pass
        saved.append(True)
        raise Interrupted

    monkeypatch.setattr(commands, "train", slow)
    with pytest.raises(KeyboardInterrupt):
        twofold.train(out="run")
    assert saved == [True]


@pytest.mark.usefixtures("_heard")
def test_what_fails_while_it_saves_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(request: Request, stop: Stop) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while not stop:
            pass
        raise OSError("disk")

    monkeypatch.setattr(commands, "train", broken)
    with pytest.raises(OSError, match="disk"):
        twofold.train(out="run")
