"""Sweeps from end to end, with both engines: what is refused, what comes out, what a kill and a stop leave."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from job.cli import main
from job.runs import records
from tests import sweeping
from tests.sweeping import ENGINES

CONCURRENT = "--concurrent: keras-tuner runs one trial at a time; leave it out, or use --engine ray"
NO_GPU = "there is no GPU on this machine; leave it out to train on the CPU"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--monitor", "loss"), "--monitor: 'loss' is not one of log_loss, accuracy, auc, brier; did you mean log_loss?"),
        (("--engine", "optuna"), "--engine: 'optuna' is not one of ray, keras-tuner; known: ray, keras-tuner"),
        (("--search", "hyperband"), "--search: ray has no hyperband; use one of tpe, random, or another --engine"),
        (("--concurrent", "2", "--engine", "keras-tuner"), CONCURRENT),
        (("--time-budget", "2 hours"), "--time-budget: '2 hours' is not a length of time; give a number with s, m or h, as 90m"),
        (("--first-rung", "5"), "--first-rung: 5 lies beyond --epochs 4; give at most that"),
        (("--stop-after", "2"), "--stop-after: is for one run, not for a sweep; use it with twofold train"),
        (("--dry-run",), "--dry-run: is for one run, not for a sweep; use it with twofold train"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(options: tuple[str, ...], line: str, shards: Path, tmp_path: Path, capsys: Any) -> None:
    assert _refused(sweeping.command(tmp_path, shards, *options), capsys) == f"twofold: {line}\n"
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("space", "line"),
    [
        ("dropuot = { uniform = [0.0, 0.6] }", "dropuot: unknown field; did you mean dropout?"),
        ("dropout = { uniform = [0.6, 0.1] }", "dropout: the range from 0.6 to 0.1 is empty; let the first number be the smaller one"),
    ],
)
def test_a_mistake_in_the_space_is_one_line(space: str, line: str, shards: Path, tmp_path: Path, capsys: Any) -> None:
    words = sweeping.command(tmp_path, shards, space=space)
    assert _refused(words, capsys) == f"twofold: {tmp_path}/space.toml {line}\n"
    assert not (tmp_path / "sweep").exists()


def _refused(words: list[str], capsys: Any) -> str:
    """What stands on standard error, of a command that leaves with 2."""
    with pytest.raises(SystemExit) as left:
        main(words[3:])
    said = capsys.readouterr()
    assert (left.value.code, said.out) == (2, "")
    return str(said.err)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--gpus-per-trial", "0.25"), f"--gpus-per-trial 0.25: {NO_GPU}\n"),
        (("--gpus-per-trial", "1", "--engine", "keras-tuner"), f"--gpus-per-trial 1: {NO_GPU}\n"),
        (("--cpus-per-trial", "999"), "--cpus-per-trial: 999 asked for, there are "),
    ],
)
def test_what_the_machine_lacks_is_one_line(options: tuple[str, ...], line: str, shards: Path, tmp_path: Path) -> None:
    done = sweeping.run(sweeping.command(tmp_path, shards, *options))
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.startswith(f"twofold: {line}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "sweep" / "trials").exists()


def test_the_folder_of_a_run_takes_no_sweep(shards: Path, run: Path, tmp_path: Path, capsys: Any) -> None:
    words = sweeping.command(tmp_path, shards, "--out", run)
    assert _refused(words, capsys) == f"twofold: {run}: is the folder of a run; name another --out for the sweep\n"


def test_gpus_that_train_refuses_a_sweep_refuses_too(shards: Path, tmp_path: Path) -> None:
    done = sweeping.run(sweeping.command(tmp_path, shards, "--gpus", "1"))
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr == "twofold: --gpus 1: TensorFlow sees none on this machine; use --gpus none\n"


def test_the_folder_of_a_sweep_takes_no_run(shards: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "sweep.json").touch()
    with pytest.raises(SystemExit) as left:
        main(["train", "--data", str(shards), "--out", str(tmp_path)])
    assert left.value.code == 2
    assert capsys.readouterr().err == f"twofold: {tmp_path}: is the folder of a sweep; name another --out for the run\n"


def test_a_space_is_refused_before_a_source_is_prepared(drawn: Path, tmp_path: Path, capsys: Any) -> None:
    words = sweeping.command(tmp_path, drawn, space="dropuot = { uniform = [0.0, 0.6] }")
    assert _refused(words, capsys) == f"twofold: {tmp_path}/space.toml dropuot: unknown field; did you mean dropout?\n"
    assert not (tmp_path / "sweep").exists()


def test_a_cluster_that_is_not_there_is_one_line(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{bound.getsockname()[1]}")  # nothing listens there
        done = sweeping.run(sweeping.command(tmp_path, shards))
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr == "twofold: Ray: did not start ([Errno 111] Connection refused); check RAY_ADDRESS and the network\n"


def test_a_data_folder_that_is_none(tmp_path: Path) -> None:
    done = sweeping.run(sweeping.command(tmp_path, tmp_path / "nothing"))
    assert (done.returncode, done.stdout) == (2, "")
    assert str(tmp_path / "nothing") in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "sweep" / "trials").exists()


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("keras-tuner", "keras_tuner")])
def test_an_engine_that_is_not_installed_names_the_pip_line(
    engine: str, package: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else name)
    line = f"twofold: --engine {engine}: {package} is not installed; pip install 'twofold[cpu,sweep]' (or gpu for cpu)\n"
    assert _refused(sweeping.command(tmp_path, shards, "--engine", engine), capsys) == line


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sweep_that_is_killed_goes_on_and_its_trials_are_ordinary_runs(engine: str, shards: Path, tmp_path: Path) -> None:
    """-9 to it and its workers in the middle: no finished trial runs twice, the counts are right, and a trial in a
    reused worker has the bits of a process of its own."""
    out = tmp_path / "sweep"
    search = ("--first-rung", 2) if engine == "ray" else ("--reduction", 2)
    words = sweeping.command(tmp_path, shards, "--engine", engine, "--trials", 6, *search)
    first = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    sweeping.wait(lambda: len(sweeping.ended(out)) >= 2, first)
    sweeping.kill(sweeping.family(first.pid))
    first.communicate()
    before = {id: (row, sweeping.written(out / "trials" / id)) for id, row in sweeping.ended(out).items()}
    assert 2 <= len(before) < 6
    second = sweeping.run(words)
    assert (second.returncode, second.stderr) == (0, "")
    assert f"going on: {len(before)} ended before" in second.stdout
    rows = sweeping.table(out)
    assert list(rows) == [f"{number:04d}" for number in range(1, 7)]
    assert {row["status"] for row in rows.values()} <= {"done", "stopped"}
    assert rows["0001"]["status"] == "done"
    for id, (row, when) in before.items():
        assert rows[id] == row
        if row["status"] == "done":  # a stopped one may have been cut down while it wrote that it stops
            assert sweeping.written(out / "trials" / id) == when
    for id, row in rows.items():
        assert records.read_summary(out / "trials" / id).status == row["status"]
    assert (out / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    last = max(rows)  # it ran in a process that had run others
    _train_again(out / "trials" / last, tmp_path / "fresh", int(rows[last]["epochs"]))
    best = min((row for row in rows.values() if row["status"] == "done"), key=lambda row: float(row["log_loss"]))
    assert f"# trial {best['trial']} of 6" in (out / "best.toml").read_text()
    assert 'out = ""' in (out / "best.toml").read_text()
    taken = sweeping.run(
        [sys.executable, "-m", "job.cli", "train", "--config", str(out / "best.toml"), "--out", str(tmp_path / "best"), "--threads=1"]
    )
    assert (taken.returncode, taken.stderr) == (0, "")
    sweeping.same_bits(out / "trials" / best["trial"], tmp_path / "best")


def _train_again(trial: Path, out: Path, epochs: int) -> None:
    """The same configuration by `twofold train`, as far as the trial went, has its bits."""
    again = [
        sys.executable,
        "-m",
        "job.cli",
        "train",
        "--config",
        str(trial / "config.toml"),
        "--out",
        str(out),
        "--stop-after",
        str(epochs),
    ]
    done = sweeping.run(again)
    assert (done.returncode, done.stderr) == (0, "")
    sweeping.same_bits(trial, out)


@pytest.mark.parametrize("engine", ENGINES)
def test_trials_that_fail_are_recorded_and_sigterm_saves(engine: str, shards: Path, tmp_path: Path) -> None:
    """One is not finite, one is killed; then a polite stop leaves with 75, and the same command finishes."""
    out = tmp_path / "sweep"
    space = "lr = { choices = [1e30, 2e30] }\noptimizer = { choices = ['sgd', 'adam'] }\n"
    options = ("--engine", engine, "--search", "random", "--trials", 4, "--concurrent", 1, "--epochs", 6)
    words = sweeping.command(tmp_path, shards, *options, space=space)
    first = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    sweeping.wait(lambda: (out / "trials" / "0001" / records.METRICS).exists(), first)
    holder = (out / "trials" / "0001" / ".lock").read_text().split()[1]
    os.kill(int(holder), signal.SIGKILL)
    sweeping.wait(lambda: len(sweeping.ended(out)) >= 2, first)
    first.send_signal(signal.SIGTERM)
    stdout, stderr = first.communicate(timeout=120)
    if first.returncode == 75:
        assert (stderr, "the same command goes on" in stdout) == ("", True)
        first = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        stdout, stderr = first.communicate(timeout=300)
    rows = sweeping.table(out)
    assert len(rows) == 4
    assert rows["0001"]["status"] == "failed"
    assert rows["0001"]["reason"].startswith("its process was killed")
    for id in ("0002", "0003", "0004"):
        assert rows[id]["status"] == "failed"
        assert "the loss or its gradient is not finite" in rows[id]["reason"]
    assert first.returncode == 2
    assert stderr.startswith("twofold: sweep: all 4 trials failed, the first so: its process was killed")


def test_sigterm_saves_the_running_trials_and_the_same_command_goes_on(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    words = sweeping.command(tmp_path, shards, "--trials", 2, "--first-rung", 12, "--epochs", 12)
    first = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    sweeping.wait(lambda: all(records.read_metrics(out / "trials" / id) for id in ("0001", "0002")), first)
    os.killpg(first.pid, signal.SIGTERM)  # to all of its group, as `timeout` and systemd do: Ray must outlive it
    stdout, stderr = first.communicate(timeout=120)
    assert (first.returncode, stderr) == (75, "")
    assert "the same command goes on" in stdout
    stopped = {id: records.read_summary(out / "trials" / id) for id in ("0001", "0002")}
    assert {summary.status for summary in stopped.values()} == {"interrupted"}
    second = sweeping.run([*words, "--time-budget", "1s"])
    assert (second.returncode, second.stderr) == (0, "")
    assert "the time budget" in second.stdout
    third = sweeping.run(words)
    assert third.returncode == 0, third.stderr
    assert [row["status"] for row in sweeping.table(out).values()] == ["done"] * 2
    rows = sweeping.table(out)
    fourth = sweeping.run(words)  # it is done
    assert (fourth.returncode, sweeping.table(out)) == (0, rows)
    other = sweeping.run(sweeping.command(tmp_path, shards, "--trials", 2, "--first-rung", 12, "--epochs", 13))
    assert (other.returncode, other.stdout) == (2, "")
    assert other.stderr.startswith("twofold: --epochs: 13 differs from the sweep's 12 in ")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_ten_trials_in_reused_workers_have_the_bits_of_ten_processes(engine: str, shards: Path, tmp_path: Path) -> None:
    words = sweeping.command(tmp_path, shards, "--engine", engine, "--trials", 10, "--search", "random", "--first-rung", 4)
    done = sweeping.run(words)
    assert (done.returncode, done.stderr) == (0, "")
    rows = sweeping.table(tmp_path / "sweep")
    holders = {(tmp_path / "sweep" / "trials" / id / ".lock").read_text() for id in rows}
    assert len(holders) <= 2, "the workers were not reused"
    assert len(rows) == 10
    for id in rows:
        _train_again(tmp_path / "sweep" / "trials" / id, tmp_path / id, 4)
