"""A `prepare` that is stopped or killed, and goes on to the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from job.data import manifest
from job.errors import Interrupted, UserError
from job.shutdown import Stop
from tests.preparing import bytes_of, prepared

ROOT = Path(__file__).resolve().parents[1]


def test_a_stop_is_taken_and_the_same_call_goes_on_to_the_same_bytes(drawn: Path, shards: Path, tmp_path: Path) -> None:
    out, stop = tmp_path / "out", Stop()
    stop.set()
    with pytest.raises(Interrupted):
        prepared(drawn, out, stop)
    assert manifest.unfinished(out)
    with pytest.raises(UserError, match="this data set is unfinished; rerun the same twofold prepare to finish it"):
        manifest.read(out)
    prepared(drawn, out)
    assert bytes_of(out) == bytes_of(shards)


def test_a_stop_while_shards_are_written(drawn: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from job.data import shards as shards_module

    out, stop, write = tmp_path / "out", Stop(), shards_module.write

    def stopping(folder: Path, name: str, records: Any) -> manifest.Shard:
        if name.startswith("train-00005"):
            stop.set()
        return write(folder, name, records)

    monkeypatch.setattr(shards_module, "write", stopping)
    with pytest.raises(Interrupted):
        prepared(drawn, out, stop)
    assert (out / "train-00004-of-00016.tfrecord").exists()
    assert manifest.unfinished(out)
    prepared(drawn, out)
    assert bytes_of(out) == bytes_of(shards)


_SLOWED = """
import sys
from job.data import shards
from job.cli import main
from job.data.sources.folder import Folder

def hang():
    print("reached", flush=True)
    sys.stdin.read()

read, write = Folder.read, shards.write
def slow_read(self):
    for number, item in enumerate(read(self)):
        if number == 70:
            hang()
        yield item
def slow_write(folder, name, records):
    if name.startswith("train-00007"):
        records = list(records)
        def cut():
            yield records[0]
            hang()
        return write(folder, name, cut())
    return write(folder, name, records)
if sys.argv[1] == "reading":
    Folder.read = slow_read
elif sys.argv[1] == "writing":
    shards.write = slow_write
else:
    from job.data import manifest
    manifest.write = lambda *_: hang()
main(sys.argv[2:])
"""


@pytest.mark.parametrize("phase", ["reading", "writing", "committing"])
def test_killed_and_started_again_gives_the_same_bytes(phase: str, drawn: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = ["prepare", str(drawn), "--out", str(out), "--side", "40", "--val", "0.25", "--test", "0.15", "--workers", "2", "--quiet"]
    with subprocess.Popen(
        [sys.executable, "-c", _SLOWED, phase, *argv], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reached\n"
        with pytest.raises(UserError, match=f"is in use by process {process.pid} on "):
            prepared(drawn, out)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "manifest.json").exists()
    assert manifest.unfinished(out)
    with pytest.raises(UserError, match="this data set is unfinished; rerun the same twofold prepare to finish it"):
        manifest.read(out)
    prepared(drawn, out)
    assert bytes_of(out) == bytes_of(shards)


def test_what_a_killed_prepare_with_other_settings_left_is_cleared(drawn: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("train-00016-of-00017.tfrecord", "train-00016-of-00017.index.npy"):
        (out / name).write_bytes(b"left behind")
    prepared(drawn, out)
    assert bytes_of(out) == bytes_of(shards)


def test_a_folder_of_other_things_is_refused_and_left_as_it_is(drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "lost+found").mkdir(parents=True)
    for name in ("train-00016-of-00017.tfrecord", "mine.tfrecord"):
        (out / name).write_bytes(b"the user's own")
    with pytest.raises(UserError) as caught:
        prepared(drawn, out)
    assert str(caught.value) == f"{out}: holds other files, such as mine.tfrecord; name a new folder with --out"
    assert {path.name for path in out.iterdir() if path.is_file() and path.name != ".lock"} == {
        "train-00016-of-00017.tfrecord",
        "mine.tfrecord",
    }
