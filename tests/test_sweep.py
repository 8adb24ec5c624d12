"""Sweeps from end to end, with both engines: what is refused, what comes out, what a kill and a stop leave."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from job.cli import main
from job.runs import records
from tests import sweeping
from tests.sweeping import ENGINES
from tuning import sweep
from tuning.plan import Plan
from tuning.state import SweepState
from tuning.status import StatusTable
from tuning.trial import Outcome

# What does not depend on the engine is tried with one; the other one is for `make test-slow`
ONE_ENGINE = ("ray", pytest.param("keras-tuner", marks=pytest.mark.slow))

CONCURRENT = "--concurrent: keras-tuner runs one trial at a time; remove it, or use --engine ray"
NEITHER = "is neither a share of one GPU nor a whole number; give 0.5, 1 or 2, for example"
NO_GPU = "there is no GPU on this machine; remove it to train on the CPU"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--monitor", "logloss"), "--monitor: 'logloss' is not one of log_loss, accuracy, auc, brier; did you mean log_loss?"),
        (("--engine", "optuna"), "--engine: 'optuna' is not one of ray, keras-tuner; known: ray, keras-tuner"),
        (("--search", "hyperband"), "--search: ray has no hyperband; use one of tpe, random, or another --engine"),
        (("--concurrent", "2", "--engine", "keras-tuner"), CONCURRENT),
        (("--time-budget", "2 hours"), "--time-budget: '2 hours' is not a length of time; give a number with s, m or h, as 90m"),
        (("--first-rung", "5"), "--first-rung: 5 is more than --epochs 4; give at most that"),
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
        ("dropout = { uniform = [0.6, 0.1] }", "dropout: the range from 0.6 to 0.1 is empty; give the smaller number first"),
    ],
)
def test_a_mistake_in_the_space_is_one_line_before_anything_is_prepared(
    space: str, line: str, drawn: Path, tmp_path: Path, capsys: Any
) -> None:
    words = sweeping.command(tmp_path, drawn, space=space)
    assert _refused(words, capsys) == f"twofold: {tmp_path}/space.toml {line}\n"
    assert not (tmp_path / "sweep").exists()


def _refused(words: list[str], capsys: Any, code: int = 2) -> str:
    """What stands on standard error, of a command that exits with a code and prints nothing else."""
    with pytest.raises(SystemExit) as left:
        main(words[3:])
    printed = capsys.readouterr()
    assert (left.value.code, printed.out) == (code, "")
    return str(printed.err)


Search = Callable[[Plan, SweepState, StatusTable, Any, int, Callable[[], None]], None]


def _engine(monkeypatch: pytest.MonkeyPatch, search: Search, cores: int = 2, gpus: float = 0) -> None:
    """Put an engine of the test's own in the place of both."""

    @contextmanager
    def engine(config: Any, stop: Any) -> Iterator[tuple[Search, int, float]]:
        yield search, cores, gpus

    monkeypatch.setattr(sweep, "_engine", engine)


def _nothing(*arguments: Any) -> None:
    raise AssertionError("no trial may start")


@pytest.mark.parametrize(
    ("options", "gpus", "code", "line"),
    [
        (("--gpus-per-trial", "0.25"), 0, 69, f"--gpus-per-trial 0.25: {NO_GPU}"),
        (("--gpus-per-trial", "3"), 2, 69, "--gpus-per-trial 3: there are 2; give at most 2"),
        (("--gpus-per-trial", "1.5"), 2, 2, f"--gpus-per-trial: 1.5 {NEITHER}"),
        (("--gpus", "1"), 0, 69, "--gpus 1: TensorFlow sees none on this machine; use --gpus none"),
        (("--cpus-per-trial", "9"), 0, 69, "--cpus-per-trial 9: there are 2 cores; give at most 2"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_machine_lacks_is_one_line(
    engine: str, options: tuple[str, ...], gpus: int, code: int, line: str,
    shards: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    _engine(monkeypatch, _nothing, gpus=gpus)
    assert _refused(sweeping.command(tmp_path, shards, "--engine", engine, *options), capsys, code) == f"twofold: {line}\n"
    assert not (tmp_path / "sweep").exists()


def test_the_folder_of_a_run_takes_no_sweep(shards: Path, run: Path, tmp_path: Path, capsys: Any) -> None:
    words = sweeping.command(tmp_path, shards, "--out", run)
    assert _refused(words, capsys) == f"twofold: {run}: is the folder of a run; name another --out for the sweep\n"


def test_the_folder_of_a_sweep_takes_no_run(shards: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "sweep.json").touch()
    words = ["", "", "", "train", "--data", str(shards), "--out", str(tmp_path)]
    assert _refused(words, capsys) == f"twofold: {tmp_path}: is the folder of a sweep; name another --out for the run\n"


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_is_unreachable_is_one_line(shards: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"  # nothing listens there
        monkeypatch.setenv("RAY_ADDRESS", address)
        line = f"twofold: Ray: cannot be reached at {address} ([Errno 111] Connection refused); check RAY_ADDRESS and the network\n"
        assert _refused(sweeping.command(tmp_path, shards), capsys, 69) == line


def test_a_sweep_in_a_bucket_takes_no_cluster(shards: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    line = _refused(sweeping.command(tmp_path, shards, "--out", "gs://bucket/sweep"), capsys)
    fix = "give a folder that all machines of the cluster see, or unset RAY_ADDRESS"
    assert line == f"twofold: --out: a sweep in a bucket runs on one machine; {fix}\n"


def test_data_that_is_not_found_is_one_line(tmp_path: Path, capsys: Any) -> None:
    line = _refused(sweeping.command(tmp_path, tmp_path / "nothing"), capsys)
    assert str(tmp_path / "nothing") in line
    assert line.count("\n") == 1
    assert not (tmp_path / "sweep" / "trials").exists()


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("keras-tuner", "keras_tuner")])
def test_an_engine_that_is_not_installed_names_the_pip_line(
    engine: str, package: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else name)
    line = f"twofold: --engine {engine}: {package} is not installed; pip install 'twofold[cpu,sweep]' (or gpu for cpu)\n"
    assert _refused(sweeping.command(tmp_path, shards, "--engine", engine), capsys) == line


def test_a_time_budget_saves_and_a_finished_sweep_takes_no_other_settings(
    shards: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an engine whose trials fail at once, or take until they are stopped."""

    def endless(plan: Plan, state: SweepState, table: StatusTable, halt: Any, seed: int, tick: Callable[[], None]) -> None:
        state.begin("0001", plan.start)
        while not halt:
            tick()
        state.end("0001", Outcome("interrupted"))

    def failing(plan: Plan, state: SweepState, table: StatusTable, halt: Any, seed: int, tick: Callable[[], None]) -> None:
        while state.unfinished or not state.full:
            known = state.unfinished[0] if state.unfinished else state.begin(state.next_id(), {})
            state.end(known.id, Outcome("failed", "the reason"))
            table.end(known.id)

    words = sweeping.command(tmp_path, shards, "--trials", 2, "--time-budget", "0.2s")
    _engine(monkeypatch, endless)
    with pytest.raises(SystemExit) as left:
        main(words[3:])
    assert left.value.code == 0
    assert "the time budget is used up before the end of an epoch; rerun the same command to resume\n" in capsys.readouterr().out
    assert {id: row["status"] for id, row in sweeping.table(tmp_path / "sweep").items()} == {"0001": "unfinished"}
    _engine(monkeypatch, failing)
    with pytest.raises(SystemExit) as left:
        main(words[3:])
    printed = capsys.readouterr()
    assert left.value.code == 2
    assert "resuming: 0 trials already ended, 1 interrupted\n" in printed.out
    assert printed.err == "twofold: sweep: all 2 trials failed, the first with: the reason; correct that, and start a new --out\n"
    assert [row["reason"] for row in sweeping.table(tmp_path / "sweep").values()] == ["the reason"] * 2
    line = _refused(sweeping.command(tmp_path, shards, "--trials", 2, "--epochs", 13), capsys)
    wanted = f"13 differs from the sweep's 4 in {tmp_path / 'sweep'}; rerun the same command to resume, or start a new --out"
    assert line == f"twofold: --epochs: {wanted}\n"


@pytest.mark.parametrize("engine", ONE_ENGINE)
def test_a_sweep_that_is_killed_resumes_and_its_trials_are_ordinary_runs(engine: str, shards: Path, tmp_path: Path) -> None:
    """-9 to it and its workers in the middle: no finished trial runs twice, the counts are right, and a trial in a
    reused worker has the bits of a process of its own. The second start is a user's script, off the main thread."""
    out = tmp_path / "sweep"
    search = ("--first-rung", 2) if engine == "ray" else ("--reduction", 2)
    words = sweeping.command(tmp_path, shards, "--engine", engine, "--trials", 6, *search)
    with _short_folder() as folder:
        first = sweeping.start(words, TMPDIR=str(folder))
        sweeping.wait(lambda: len(sweeping.ended(out)) >= 2, first)
        sweeping.kill(sweeping.family(first.pid))
        first.communicate()
        before = {id: (row, sweeping.written(out / "trials" / id)) for id, row in sweeping.ended(out).items()}
        assert 2 <= len(before) < 6
        second = sweeping.run(sweeping.script(tmp_path, words), TMPDIR=str(folder))
        assert (second.returncode, "Traceback" in second.stderr) == (0, False), second.stderr  # the lines there are TensorFlow's
        assert list(folder.glob("twofold-*")) == [], "the folder of a Ray is left, of the first start or the second"
    assert not (out / ".ray-tune").exists()
    assert f"resuming: {len(before)} trials already ended" in second.stdout
    assert second.stdout.endswith("\n6 rows\n")
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
    best = min((row for row in rows.values() if row["status"] == "done"), key=lambda row: float(row["log_loss"]))
    assert f"# trial {best['trial']} of 6" in (out / "best.toml").read_text()
    assert 'out = ""' in (out / "best.toml").read_text()
    last = max(rows)  # it ran in a process that had run others
    options = ("--config", out / "trials" / last / "config.toml", "--stop-after", rows[last]["epochs"])
    _same_bits_as_train(out / "trials" / last, tmp_path / "fresh", *options)
    if engine == "ray":  # the file is made in the same way with both
        _same_bits_as_train(out / "trials" / best["trial"], tmp_path / "best", "--config", out / "best.toml", "--threads", 1)


@contextmanager
def _short_folder() -> Iterator[Path]:
    """A folder whose name is short enough for the sockets of a Ray within."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _same_bits_as_train(trial: Path, out: Path, *options: object) -> None:
    done = sweeping.run([sys.executable, "-m", "job.cli", "train", "--out", str(out), *map(str, options)])
    assert (done.returncode, done.stderr) == (0, "")
    sweeping.same_bits(trial, out)


@pytest.mark.parametrize("engine", ONE_ENGINE)
def test_trials_that_fail_are_recorded_and_the_search_continues(engine: str, shards: Path, tmp_path: Path) -> None:
    """One is killed, the others are not finite."""
    out = tmp_path / "sweep"
    space = "lr = { choices = [1e30, 2e30] }\noptimizer = { choices = ['sgd', 'adam'] }\n"
    options = ("--engine", engine, "--search", "random", "--trials", 3, "--concurrent", 1, "--epochs", 6)
    first = sweeping.start(sweeping.command(tmp_path, shards, *options, space=space))
    sweeping.wait(lambda: (out / "trials" / "0001" / records.METRICS).exists(), first)
    holder = (out / "trials" / "0001" / ".lock").read_text().split()[1]
    os.kill(int(holder), signal.SIGKILL)
    stdout, stderr = first.communicate(timeout=300)
    rows = sweeping.table(out)
    assert [row["status"] for row in rows.values()] == ["failed"] * 3
    assert rows["0001"]["reason"].startswith("its process was killed")
    for id in ("0002", "0003"):
        assert "the loss or its gradient is not finite" in rows[id]["reason"]
    assert stdout.count(": failed: ") == 3
    assert first.returncode == 2
    assert stderr.startswith("twofold: sweep: all 3 trials failed, the first with: its process was killed")
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("engine", ONE_ENGINE)
def test_sigterm_saves_the_running_trials_and_a_reader_that_leaves_costs_nothing(engine: str, shards: Path, tmp_path: Path) -> None:
    """In an environment that Ray finds hard: a long TMPDIR, a RAY_ADDRESS that is empty, a proxy."""
    out, running = tmp_path / "sweep", ("0001", "0002") if engine == "ray" else ("0001",)
    search = ("--first-rung", 8) if engine == "ray" else ("--engine", engine, "--search", "random")
    words = sweeping.command(tmp_path, shards, "--trials", 2, "--epochs", 8, *search)
    with _Proxy() as proxy:
        temporary = tmp_path / ("long" * 20)
        temporary.mkdir()
        hard = {"TMPDIR": str(temporary), "RAY_ADDRESS": "", "http_proxy": proxy.url, "RAY_grpc_enable_http_proxy": "1"}
        first = sweeping.start(words, **hard)
        sweeping.wait(lambda: all(records.read_epochs(out / "trials" / id) for id in running), first)
        os.killpg(first.pid, signal.SIGTERM)  # to all of its group, as `timeout` and systemd do: Ray must outlive it
        stdout, stderr = first.communicate(timeout=120)
        assert (first.returncode, stderr) == (75, "")
        assert stdout.endswith("interrupted; saved; rerun to resume\n")
        assert {records.read_summary(out / "trials" / id).status for id in running} == {"interrupted"}
        with sweeping.start(words, **hard) as second:
            assert second.stdout is not None
            assert second.stderr is not None
            assert second.stdout.readline().startswith("sweep of 2 trials")
            second.stdout.close()  # as `| head -1` does
            assert second.stderr.read() == ""
        assert second.returncode == 0
        assert proxy.asked == 0
    assert [row["status"] for row in sweeping.table(out).values()] == ["done"] * 2


class _Proxy:
    """Counts who asks it."""

    def __init__(self) -> None:
        self.asked = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> _Proxy:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            self.asked += 1
            caller.close()

    def __exit__(self, *error: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_ten_trials_in_reused_workers_have_the_bits_of_ten_processes(engine: str, shards: Path, tmp_path: Path) -> None:
    search = ("--search", "random", *(("--first-rung", 4) if engine == "ray" else ()))
    words = sweeping.command(tmp_path, shards, "--engine", engine, "--trials", 10, *search)
    done = sweeping.run(words)
    assert (done.returncode, done.stderr) == (0, "")
    trials = tmp_path / "sweep" / "trials"
    rows = sweeping.table(tmp_path / "sweep")
    holders = {(trials / id / ".lock").read_text() for id in rows}
    assert len(holders) <= 2, "the workers were not reused"
    assert len(rows) == 10
    for id in rows:
        _same_bits_as_train(trials / id, tmp_path / id, "--config", trials / id / "config.toml", "--stop-after", 4)
