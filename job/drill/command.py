"""`twofold drill`: a job undisturbed, and the same killed at random points and started again, must give equal bits."""

from __future__ import annotations

import math
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from job.config.options import build
from job.config.schema import Devices, DrillConfig, PrepareConfig
from job.console import console, counted, duration
from job.data import manifest
from job.data.location import locate
from job.drill import kills
from job.drill.comparison import Compared, compare, fetched
from job.drill.kills import Kill
from job.drill.run import Run, Start
from job.errors import DONE, INTERRUPTED, MACHINE, USER, Interrupted, MachineError, ProofError, UserError
from job.feeds.order import epoch_end
from job.prepare import prepare
from job.shutdown import Stop
from job.smoke import draw
from job.storage import local
from job.storage.opening import canonical, is_bucket, open_bucket

IMAGES, SIDE = 800, 32  # of each class, px
BATCH = 16
STEPS, STEPS_PER_KILL = 300, 60  # steps of some milliseconds; a store takes a checkpoint every second or two
# All that has a state is on: momentum, averages, batch statistics; and all that draws: augmentation, MixUp, dropout.
SETTINGS = (
    "--size", "24", "--train-sizes", "16,24", "--filters", "4,8,16", "--batch", str(BATCH), "--optimizer", "muon", "--ema", "0.99",
    "--mixup", "0.4", "--dropout", "0.1", "--deterministic", "--log-every", "1", "--save-every", "5steps",
)  # fmt: skip


@dataclass(frozen=True)
class Life:
    """A start of the killed run: how far it went, the words for its end, and what it says that it sent to a bucket."""

    words: str
    killed: bool
    steps: int
    requests: int
    sent: int


def drill(config: DrillConfig, stop: Stop) -> None:
    """Run the job twice, compare, and say what the kills have cost.

    Raises:
        ProofError: the bits differ, or a start did not go on.
        UserError, MachineError: what the job itself ended with.
    """
    out = canonical(config.output.out) if is_bucket(config.output.out) else config.output.out
    _require_empty(out, stop)
    with _work() as work:
        base = out or str(work)
        data, images = _data(config, work, stop)
        epochs = max(2, math.ceil((STEPS + STEPS_PER_KILL * config.drill.kills) * BATCH / images))
        steps = epoch_end(epochs, BATCH, images)
        console.log(
            f"drill: a job of {steps:,} steps runs undisturbed, then again in another folder, killed "
            f"{counted(config.drill.kills, 'time')} and started anew; each start takes some 10 s or more; in {base}"
        )
        options = (*SETTINGS, "--data", data, "--epochs", str(epochs), *_devices(config.machine))
        undisturbed, killed = (_run(f"{base}/{name}", options, work / f"{name}-starts") for name in ("undisturbed", "killed"))
        calm = _undisturbed(undisturbed, stop)
        began = time.monotonic()
        lives = list(_killed(killed, kills.plan(config.drill.kills, steps, config.drill.kill_seed, killed.in_bucket), stop))
        seconds = time.monotonic() - began
        found = compare(*(fetched(run.address, run.work / "fetched", stop) for run in (undisturbed, killed)))
        if found.differences:
            raise ProofError("drill", "; ".join(found.differences), f"compare {undisturbed.address} and {killed.address}")
        _tell(found, lives, config.drill.kills, seconds, calm)


def _require_empty(out: str, stop: Stop) -> None:
    """Refuse a folder that holds anything: an earlier drill's runs would be found done."""
    if is_bucket(out):
        first = next((found.name for found in open_bucket(out, stop).list()), "")
    else:
        first = next((path.name for path in sorted(Path(out).iterdir())), "") if out and Path(out).is_dir() else ""
    if first:
        raise UserError(out, f"holds other files, such as {first}", "name a new or empty folder with --out")


@contextmanager
def _work() -> Iterator[Path]:
    """A folder for data, caches and logs; it is kept where the proof fails."""
    work = Path(tempfile.mkdtemp(prefix="twofold-drill-"))
    try:
        yield work
    except ProofError:
        console.log(f"drill: the logs of all starts are kept in {work}")
        raise
    except BaseException as error:
        if isinstance(error, Interrupted):
            console.log("drill: stopped; a drill is not resumed: start it anew with a new or empty --out")
        local.remove_tree(work)
        raise
    local.remove_tree(work)


def _data(config: DrillConfig, work: Path, stop: Stop) -> tuple[str, int]:
    """Where the shards are, prepared here where they are not yet, and how many images they have for training."""
    source, caches = config.source.data, build(PrepareConfig, dict(cache=str(work / "cache"))).feed
    place = locate(source or str(work / "shards"), caches, stop)
    if not manifest.exists(place):
        with nullcontext() if source else console.silenced():
            if not source:
                draw(work / "images", IMAGES, SIDE)
            prepare([source or str(work / "images")], build(PrepareConfig, dict(out=str(work / "shards"), side=SIDE)), stop)
        place = work / "shards"
    return str(place if is_bucket(str(place)) else Path(str(place)).absolute()), manifest.read(place).split("train", place).records


def _devices(machine: Devices) -> tuple[str, ...]:
    named = dict(gpus=machine.gpus, replicas=machine.replicas, precision=machine.precision)
    return tuple(word for name, value in named.items() if value not in (None, "auto") for word in (f"--{name}", str(value)))


def _run(address: str, options: tuple[str, ...], work: Path) -> Run:
    work.mkdir(exist_ok=True)
    return Run(address, options, work)


def _undisturbed(run: Run, stop: Stop) -> float:
    """Train without a kill; returns the seconds that it took."""
    began = time.monotonic()
    with run.start(stop) as start:
        code = start.wait()
    if code != DONE:
        kind = {USER: UserError, MACHINE: MachineError}.get(code, ProofError)
        raise kind("drill", f"the undisturbed run ended with {code}: {start.last_words()}", "")
    seconds = time.monotonic() - began
    console.log(f"drill: undisturbed: {duration(seconds)}")
    return seconds


def _killed(run: Run, plan: list[Kill], stop: Stop) -> Iterator[Life]:
    """Train, killed as planned and started again, until it is done."""
    newest, in_a_row, fresh = "", 0, False
    for kill in (*plan, None):
        with run.start(stop) as start:
            if in_a_row == kills.MOST_IN_A_ROW:
                start.until(partial(run.is_past, newest), 0.5)
            hit = kill if kill is not None and kills.reach(start, kill) else None
            step = start.step
            code = start.wait() if hit is None else start.kill(hit.signal)
        life = _life(start, hit, code, step)
        console.log(f"drill: start {run.starts:,}{', on a fresh machine' if fresh else ''}: {life.words}")
        yield life
        if code == DONE:
            return
        if hit is None or code not in (-hit.signal, INTERRUPTED if hit.signal == signal.SIGTERM else -hit.signal):
            raise ProofError("drill", f"start {run.starts:,} ended with {code}: {start.last_words()}", "")
        before, newest, fresh = newest, run.newest(), hit.fresh
        in_a_row = 0 if newest != before else in_a_row + 1
        if fresh:
            run.move()


def _life(start: Start, hit: Kill | None, code: int, step: int) -> Life:
    """What came of a start; `step` is where it was when it was killed: after SIGTERM it may take one more."""
    began = start.resumed_from()
    reached = max(began or 0, start.step)
    asked, sent = (sum(int(line.get(name, 0)) for line in start.lines()) for name in ("requests", "sent"))
    words = f"from step {began:,}" if began else "from the beginning"
    if hit is None or code == DONE:
        words += f" to the end, step {reached:,}" if code == DONE else f" to step {reached:,}"
    elif began is None or not step:
        words = f"{hit.signal.name} {hit.point}, before its first step"
    else:
        words += f", {hit.signal.name} at step {step:,}, {hit.point}"
    return Life(words, code != DONE, reached - (began or 0), asked, sent)


def _tell(found: Compared, lives: list[Life], asked: int, seconds: float, calm: float) -> None:
    """The verdict, where all is equal.

    Raises:
        ProofError: nothing was killed, so nothing is proven.
    """
    killed = sum(life.killed for life in lives)
    if not killed:
        raise ProofError("drill", "the job was done before it was killed once", "")
    if killed < asked:
        console.log(f"note: the job was done after {counted(killed, 'kill')}, before the other {asked - killed:,}")
    console.log(
        f"drill: equal to the last bit after {counted(killed, 'kill')}: {counted(found.arrays, 'array')} of the last checkpoint, "
        f"{found.weights:,} of model.keras, the records of {found.steps:,} steps and {counted(found.epochs, 'epoch')}, each once, "
        "with the loss and the gradient's norm that the order of images gave"
    )
    twice = sum(life.steps for life in lives) - found.steps
    console.log(
        f"drill: cost: {counted(twice, 'step')} of {found.steps:,} done twice; {counted(len(lives), 'start')}; "
        f"{duration(seconds)} instead of {duration(calm)}"
    )
    told = [life for life in lives if life.requests]
    if told:
        console.log(
            f"drill: {counted(sum(life.requests for life in told), 'request')} and {local.size(sum(life.sent for life in told))} sent "
            f"to the bucket, by the {counted(len(told), 'start')} that came to say so"
        )
