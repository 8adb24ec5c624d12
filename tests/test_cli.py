"""The command as a user types it: help, errors with their exit codes, one command from photographs to predictions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from job import commands
from job.cli import main
from job.errors import Interrupted
from job.runs import records
from job.storage import lock

QUICK = ["--size=32", "--train-sizes=32", "--filters=8,16", "--epochs=1", "--batch=16", "--precision=float32", "--threads=2"]


def _twofold(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "job.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **environment})


@dataclass(frozen=True)
class Left:
    """What a command in this process left: its exit code and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str]) -> Callable[..., Left]:
    """The command in this process, which spares the start of Python and TensorFlow."""

    def command(*arguments: object) -> Left:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main([*map(str, arguments)])
        printed = capfd.readouterr()
        return Left(int(left.value.code or 0), printed.out, printed.err)

    return command


NO_SOURCE = "twofold: prepare: no source given; name a folder, an archive, gs://..., s3://..., kaggle:owner/dataset or https://..."


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["trian"], 2, "twofold: trian: unknown command; did you mean train?"),
        (["train", "--epocs", "5"], 2, "twofold: --epocs: unknown option; did you mean --epochs?"),
        (["train", "--epochs"], 2, "twofold: --epochs: expected one argument; see twofold train --help"),
        (["train", "--epochs", "five"], 2, "twofold: --epochs: 'five' is not a whole number; give N"),
        (["train", "--batch", "0"], 2, "twofold: --batch: 0 is below 1; give at least 1"),
        (["train", "--model", "clasic"], 2, "twofold: --model: 'clasic' is not one of classic, residual; did you mean classic?"),
        (["train", "--gpus", "two"], 2, "twofold: --out: no run folder given; add --out RUN"),
        (["predict", "--epochs", "5", "run"], 2, "twofold: --epochs: unknown option; it belongs to twofold train"),
        (["prepare", "--out", "x"], 2, NO_SOURCE),
        (["evaluate", "nowhere"], 2, "twofold: nowhere: is not a run folder; name the --out of a twofold train"),
        (["evaluate"], 2, "twofold: evaluate: RUN not given; see twofold evaluate --help"),
        (["smoke", "more"], 2, "twofold: more: is one argument too many for twofold smoke; see --help"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code(here: Callable[..., Left], arguments: list[str], code: int, line: str, tmp_path: Path) -> None:
    if "--gpus" in arguments:
        arguments = [*arguments, "--data", str(tmp_path)]
    done = here(*arguments)
    assert (done.returncode, done.stderr) == (code, line + "\n")
    assert done.stdout == ""


def test_train_without_data_explains_in_three_lines_how_to_get_some(here: Callable[..., Left]) -> None:
    done = here("train")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 3
    assert "kaggle:salader/dogs-vs-cats" in done.stderr


def test_mistakes_in_a_file_and_in_the_environment(
    here: Callable[..., Left], tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "c.toml"
    for text, line in {
        "[schedule]\nepochs = 'five'": f"{file} [schedule] epochs: 'five' is a text, not a whole number; give N without quotation marks",
        "[schedule]\nepochs = 2.5": f"{file} [schedule] epochs: 2.5 is not a whole number; give N",
        "[model]\nbatchnorm = 1": f"{file} [model] batchnorm: 1 is not true or false; give true or false",
        "[shedule]\nepochs = 5": f"{file} [shedule]: unknown table; did you mean schedule?",
        "[schedule]\nepoch = 5": f"{file} [schedule] epoch: unknown key; did you mean epochs?",
        "[model]\nepochs = 5": f"{file} [model] epochs: unknown key; it belongs under [schedule]",
        "epochs = 5": f"{file} [epochs]: unknown key outside a table; put it under [schedule]",
    }.items():
        file.write_text(text)
        done = here("train", "--data", shards, "--out", tmp_path / "run", "--config", file)
        assert (done.returncode, done.stderr) == (2, f"twofold: {line}\n")
    monkeypatch.setenv("TWOFOLD_EPOCS", "5")
    done = here("train")
    assert (done.returncode, done.stderr) == (2, "twofold: TWOFOLD_EPOCS: unknown environment variable; did you mean TWOFOLD_EPOCHS?\n")
    assert not (tmp_path / "run").exists()


def test_gpus_that_are_not_there_leave_with_69_and_no_run(here: Callable[..., Left], shards: Path, tmp_path: Path) -> None:
    done = here("train", "--data", shards, "--out", tmp_path / "run", "--gpus", "all", *QUICK)
    expected = (
        "twofold: --gpus all: TensorFlow sees none on this machine; use --gpus none for the CPU, or check the driver and the gpu extra; "
        "in a container --gpus all stands before the image's name too (docker run --gpus all IMAGE train --gpus all)\n"
    )
    assert (done.returncode, done.stderr) == (69, expected)
    assert not (tmp_path / "run").exists()


def test_gpus_are_missed_before_a_source_is_prepared(here: Callable[..., Left], drawn: Path, tmp_path: Path) -> None:
    done = here("train", "--data", drawn, "--out", tmp_path / "run", "--gpus", "1", *QUICK)
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr == "twofold: --gpus 1: TensorFlow sees none on this machine; use --gpus none\n"
    assert not (tmp_path / "run").exists()


def test_a_source_is_prepared_into_the_cache_and_its_log_is_json(drawn: Path, tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    command = ("train", "--data", drawn, "--out", run, "--cache", cache, "--val=0.3", "--side=40", "--log-format=json", *QUICK)
    done = _twofold(*command)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["severity"] for line in lines} == {"INFO"}
    (epoch,) = [line for line in lines if "val_log_loss" in line]
    assert epoch["message"].startswith("epoch 1/1: loss ")
    assert not (run / "data").exists()
    (shards,) = cache.iterdir()
    assert (shards / "manifest.json").exists()
    for path in shards.iterdir():  # what is in a cache can be made again
        path.unlink() if path.is_file() else shutil.rmtree(path)
    again = _twofold(*command, "--stop-after=1", "--quiet")
    assert (again.returncode, again.stdout, (shards / "manifest.json").exists()) == (0, "", True)


def test_a_batch_that_does_not_divide_names_the_nearest(here: Callable[..., Left], shards: Path, tmp_path: Path) -> None:
    done = here("train", "--data", shards, "--out", tmp_path / "run", "--replicas", "3", *QUICK)
    assert (done.returncode, done.stderr) == (2, "twofold: --batch: 16 does not divide over 3 replicas; use 15 or 18\n")


@pytest.fixture
def mounted(tmp_path: Path) -> Any:
    """A tmpfs of 1 MB; needs the right to mount."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("this process may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_with_69_and_the_old_checkpoint(mounted: Path, shards: Path, drawn: Path) -> None:
    done = _twofold("prepare", drawn, "--out", mounted / "set", "--side", "40")
    assert done.returncode == 0, done.stderr
    filler = mounted / "filler"
    filler.write_bytes(b"0" * 300_000)
    done = _twofold("train", "--data", shards, "--out", mounted / "run", "--epochs=9", "--save-every=1steps", *QUICK[:3], *QUICK[4:])
    assert done.returncode == 69, done.stdout + done.stderr
    assert "the disk is full; free some space and rerun to resume" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_read_only_mount_leaves_with_69(mounted: Path, drawn: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    done = _twofold("prepare", drawn, "--out", mounted / "set")
    assert done.returncode == 69
    assert "the file system is read-only; name a folder that can be written with --out" in done.stderr


def test_one_command_goes_from_images_to_a_model_and_the_others_use_it(here: Callable[..., Left], drawn: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ("train", "--data", drawn, "--out", run, "--val", "0.3", "--side", "40", *QUICK)
    done = _twofold(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert "classes: 60 crosses and 60 rings" in done.stdout
    for name in ("config.toml", "environment.json", "metrics.jsonl", "history.csv", "curves.png", "model.keras", "summary.json", "log.txt"):
        assert (run / name).exists(), name
    assert "oneDNN" not in done.stdout
    again = here(*command)
    assert (again.returncode, "preparing" in again.stdout, "already finished" in again.stdout) == (0, False, True)
    figures = here("evaluate", run)
    assert (figures.returncode, "accuracy" in figures.stdout, "evaluating" in figures.stderr) == (0, True, True)
    listed = here("predict", run, drawn / "rings", "--format", "csv")
    assert (listed.returncode, len(listed.stdout.splitlines())) == (0, 61)
    drawing = here("visualize", run, next((drawn / "rings").iterdir()), "--out", tmp_path / "f.png")
    assert (drawing.returncode, drawing.stdout, (tmp_path / "f.png").exists()) == (0, "", True)
    missing = here("predict", run, tmp_path / "none.jpg")
    assert (missing.returncode, missing.stdout) == (2, "")
    taken = here("train", "--config", run / "config.toml", "--out", tmp_path / "second", "--epochs", "1")
    assert taken.returncode == 0, taken.stderr


def test_file_names_that_are_no_text_go_all_the_way(
    here: Callable[..., Left], drawn: Path, shards: Path, tmp_path: Path, run: Path
) -> None:
    pets = Path(os.fsdecode(os.fsencode(tmp_path) + b"/p\xe9ts"))
    for name in ("crosses", "rings"):
        (pets / name).mkdir(parents=True)
        for number, path in enumerate(sorted((drawn / name).iterdir())[:4]):
            Path(os.fsdecode(os.fsencode(pets / name) + b"/$\xe9_%d\xe7\x8c\xab.jpg" % number)).write_bytes(path.read_bytes())
    for command in (
        ("prepare", pets, "--out", tmp_path / "set", "--val", "0.5"),
        ("predict", run, pets),
        ("evaluate", run, "--data", pets),
    ):
        done = here(*command)
        assert done.returncode == 0, done.stderr
    done = here("train", "--data", shards, "--out", pets / "run", *QUICK)
    assert done.returncode == 2
    assert done.stderr.endswith("is not valid UTF-8, so config.toml cannot hold it; rename that folder\n")


def test_a_refused_start_leaves_the_folder_of_the_other(
    here: Callable[..., Left], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with ExitStack() as other:

        def meanwhile(*_: object) -> str:  # another start takes the folder, after this one saw none
            run.mkdir()
            other.enter_context(lock.only_writer(run))
            (run / records.LOG).write_text("the other's line\n")
            return str(shards)

        monkeypatch.setattr(commands, "_shards", meanwhile)
        done = here("train", "--data", shards, "--out", run, *QUICK)
        assert (done.returncode, f"{run}: is in use by " in done.stderr) == (2, True)
        assert (run / records.LOG).read_text() == "the other's line\n"


def test_a_start_that_comes_to_nothing_leaves_no_folder_but_one_that_was_there(
    here: Callable[..., Left], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def interrupted(*_: object, **__: object) -> None:
        run.mkdir(exist_ok=True)
        (run / records.LOG).write_text("")
        raise Interrupted

    monkeypatch.setattr("job.train.train", interrupted)
    done = here("train", "--data", shards, "--out", run, *QUICK)
    assert (done.returncode, done.stdout, run.exists()) == (75, "interrupted; rerun to resume\n", False)
    run.mkdir()
    here("train", "--data", shards, "--out", run, *QUICK)
    assert run.exists()


def test_a_folder_of_other_things_is_no_run(here: Callable[..., Left], drawn: Path, tmp_path: Path) -> None:
    pets = tmp_path / "pets"
    shutil.copytree(drawn, pets)
    done = here("train", "--data", pets, "--out", pets, *QUICK)
    line = f"twofold: {pets}: is not a run folder, and holds other files, such as crosses; name a new folder with --out\n"
    assert (done.returncode, done.stderr) == (2, line)
    assert sorted(path.name for path in pets.iterdir()) == ["crosses", "rings"]


def _unread(*arguments: object) -> int:
    """The exit code of a command in this process whose output is a pipe that nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as left:
            main([*map(str, arguments)])
    return int(left.value.code or 0)


def test_work_goes_on_when_nobody_reads_its_log(shards: Path, drawn: Path, tmp_path: Path) -> None:
    assert _unread("prepare", drawn, "--out", tmp_path / "set", "--side=40") == 0
    assert (tmp_path / "set" / "manifest.json").exists()
    assert _unread("prepare", tmp_path / "none", "--out", tmp_path / "other") == 2
    run = tmp_path / "run"
    assert _unread("train", "--data", shards, "--out", run, *QUICK) == 0
    assert records.read_summary(run).status == "done"  # type: ignore[union-attr]
    assert "epoch 1/1: loss " in (run / records.LOG).read_text()


def test_a_result_that_nobody_reads_is_not_done(run: Path, drawn: Path) -> None:
    assert _unread("evaluate", run, "--json") == 141
    assert _unread("predict", run, drawn / "rings", "--format=csv") == 141
    assert _unread("predict", run, "nowhere.jpg") == 2
    assert _unread("train", "--help-all") == 141


def test_options_that_ready_shards_cannot_follow_are_refused_or_named(
    here: Callable[..., Left], shards: Path, run: Path, tmp_path: Path
) -> None:
    why = f"{shards} is already prepared, with 0.25; leave --val out, or prepare the images anew with a new --out"
    refused = f"twofold: --val: has no effect: {why}\n"
    for command in (
        ("train", "--data", shards, "--out", tmp_path / "new"),
        ("train", "--out", run),
        ("sweep", "--data", shards, "--out", tmp_path / "s"),
    ):
        done = here(*command, "--val", "0.5")
        assert (done.returncode, done.stderr) == (2, refused)
    file = tmp_path / "shared.toml"
    file.write_text("[prepare]\nval = 0.5\n")
    done = here("train", "--data", shards, "--out", run, "--config", file, "--val", "0.25")
    assert (done.returncode, "note: " in done.stdout) == (0, False)
    done = here("train", "--out", run, "--config", file)
    assert done.returncode == 0
    assert f"note: without effect here: val ({shards} is already prepared)\n" in done.stdout
    assert not (tmp_path / "new").exists()
