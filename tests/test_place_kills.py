"""Runs in a bucket whose processes are killed, put to sleep and raced at every call that they make; simulated, some 10 seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from job.config.schema import Cache
from job.errors import Unsent, UserError
from job.runs import checkpoints, place, reading
from job.runs.checkpoints import Checkpoint
from job.runs.state import State
from job.shutdown import Stop
from job.storage import lease, local
from job.storage.lock import InUse
from tests.simulation import Killed, Process, World, passes, simulated


def seeds(quick: int, slow: int = 400) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("seed", [*range(quick), *(pytest.param(n, marks=pytest.mark.slow) for n in range(quick, slow))])


ADDRESS = "gs://memory/folder"
GOAL = 10
LONG = 100_000.0


class Run:
    """A run that several machines work on, and what must be true of it. `committed` is the newest checkpoint in the bucket."""

    def __init__(self, world: World, folder: Path, said: pytest.CaptureFixture[str]) -> None:
        self.world, self.folder, self.said = world, folder, said
        self.committed = (0, 0)
        self.done = False
        after = world.bucket.after

        def note(call: str, name: str) -> None:
            if call == "put" and name.endswith("/checkpoint.json"):
                document = json.loads(world.bucket.objects[name][0])
                held = json.loads(world.bucket.objects[lease.NAME][0])
                mine = world.current.process.lease
                if mine is not None and held["token"] == mine.document.token:
                    self.committed = max(self.committed, (document["fence"], document["step"]))
            after(call, name)

        world.bucket.after = note

    def job(self, machine: str) -> Callable[[Process], None]:
        def work(process: Process) -> None:
            stop = Stop()
            with place.opened(ADDRESS, self.folder / machine, stop, 10) as where:
                self._train(where, stop)

        return work

    def _train(self, where: place.Place, stop: Stop) -> None:
        world, chance, root, mirror = self.world, self.world.chance, where.path, where.mirror
        assert mirror is not None
        assert where.fence is not None
        folder = root / "checkpoints"
        latest = checkpoints.newest(folder)
        assert "damaged" not in self.said.readouterr().out, "nothing was damaged here"
        found = (0, 0) if latest is None else latest.name.age
        assert found >= self.committed, "what was committed is never lost"
        step, best = (0, None) if latest is None else (latest.state.step, latest.state.best_step)
        path = root / "metrics.jsonl"
        records = [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []
        records = [record for record in records if record <= step]
        assert records == list(range(1, step + 1)), "each step once"
        local.write_atomic(path, "".join(json.dumps({"step": record}) + "\n" for record in records))
        (root / "config.toml").write_text("a = 1")
        before = None if latest is None else latest.name

        def pause(seconds: float = 0.0) -> None:
            world.sleep(seconds)
            if chance.random() < 0.5:
                passes(mirror)

        def summarise(status: str) -> None:
            document = {"best_step": best, "status": status, "number": chance.random()}
            local.write_json(root / "summary.json", document)
            pause()

        summarise("running")
        while step < GOAL and not stop:
            step += 1
            with path.open("a") as file:
                file.write(json.dumps({"step": step}) + "\n")
            pause(chance.choice((0.1, 1.0, 20.0)))
            if step < GOAL and chance.random() < 0.3:
                continue
            best = step if best is None or chance.random() < 0.5 else best
            state = State("data", step=step, best_step=best)
            made = Checkpoint({"a": np.full(100, step)}, state, where.fence)
            checkpoints.save(folder, made)
            pause()
            summarise("running")
            checkpoints.prune(folder, {made.name, before, checkpoints.of_step(folder, best)})
            before = made.name
            pause()
        if not stop:
            summarise("done")
            self.done = True

    def read(self, process: Process) -> None:
        """Somebody who evaluates the run meanwhile finds what its summary names."""
        try:
            with reading.opened(ADDRESS, Cache(cache=str(self.folder / "reader")), Stop()) as folder:
                summary = folder / "summary.json"
                best = json.loads(summary.read_bytes())["best_step"] if summary.exists() else None
                if best is not None:
                    named = checkpoints.of_step(folder / "checkpoints", best)
                    assert named is not None, f"the checkpoint of step {best} is not there"
                    checkpoints.load(folder / "checkpoints", named)
        except UserError as error:
            if "change as fast as they are fetched" not in str(error):
                raise


def spoil(world: World, machine: Path) -> None:
    """What may become of a cache while nobody uses it."""
    kind = world.chance.choice(("nothing", "nothing", "nothing", "all", "copy", "table", "some", "checkpoint"))
    for copy in machine.glob("runs/*/copy"):
        there = world.bucket.content()
        sent = [copy / name for name, content in there.items() if (copy / name).is_file() and (copy / name).read_bytes() == content]
        match kind:
            case "all":
                shutil.rmtree(copy.parent)
            case "copy":
                shutil.rmtree(copy)
            case "table":
                (copy.parent / "sent.json").unlink(missing_ok=True)
            case "some":
                for path in world.chance.sample(sent, len(sent) // 3):
                    path.unlink()
            case "checkpoint":
                for path in copy.glob("checkpoints/step-*"):
                    if world.chance.random() < 0.5:
                        shutil.rmtree(path)


def check(process: Process, *expected: type[BaseException]) -> None:
    if process.error is not None and not isinstance(process.error, expected):
        raise process.error


def finish(world: World, run: Run) -> None:
    """What is left is done on a fresh machine without any trouble, and the bucket is what its copy is."""
    world.faults = 0.0
    last = world.start("last", run.job("last"))
    while not last.ended:
        world.step()
        assert world.now < LONG
    check(last)
    (copy,) = (run.folder / "last" / "runs").glob("*/copy")
    files = {path.relative_to(copy).as_posix(): path for path in copy.rglob("*") if path.is_file()}
    ours = {name: path.read_bytes() for name, path in files.items() if not name.startswith(".")}
    world.bucket.fault = lambda call, name: None
    held = lease.read(world.bucket)
    counts = place.committed(world.bucket.objects, held.document if held else None)
    there = {
        name: content
        for name, content in world.bucket.content().items()
        if not name.startswith(".probe-") and (name.count("/") < 2 or name.rpartition("/")[0] in counts)
    }
    assert there == ours, "but for what no longer counts, and is deleted by whoever saves next"


@seeds(40)
def test_killed_anywhere(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One process at a time, on one of two machines; a reader looks in now and then."""
    world = World(seed)
    run = Run(world, tmp_path, capsys)
    with simulated(world):
        for _ in range(6):
            world.faults = world.chance.choice((0.0, 0.0, 0.05))
            process = world.start("writer", run.job(world.chance.choice(("one", "one", "two"))))
            last = world.chance.choice((20, 60, 120, 200)) + world.chance.randrange(60)
            count = 0
            reader: Process | None = None
            while not process.ended:
                if reader is None and world.chance.random() < 0.02:
                    reader = world.start("reader", run.read)
                count += world.step() is process
                if count > last:
                    world.kill(process)
            while world.step():
                pass
            check(process, Killed, Unsent)
            spoil(world, tmp_path / world.chance.choice(("one", "two")))
            if reader is not None:
                check(reader)
            if run.done:
                break
        finish(world, run)


@seeds(20)
def test_raced_killed_and_asleep(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three machines at once; each process may sleep longer than its lease lives, and wakes in the middle of what it did."""
    world = World(1000 + seed)
    run = Run(world, tmp_path, capsys)
    machines = ("one", "two", "three")
    with simulated(world):
        alive: dict[str, Process] = {}
        for _ in range(1500):
            for machine in machines:
                if machine not in alive and world.chance.random() < 0.01:
                    alive[machine] = world.start(machine, run.job(machine))
            world.faults = world.chance.choice((0.0, 0.0, 0.02))
            process = world.step()
            if process is None:
                world.now += 1.0
            elif world.chance.random() < 0.005:
                world.kill(process)
            elif world.chance.random() < 0.01:
                process.wake = world.now + world.chance.choice((5.0, 50.0, 90.0, 200.0))
            for machine, one in [*alive.items()]:
                if one.ended:
                    check(one, Killed, Unsent, InUse)
                    del alive[machine]
        for process in alive.values():
            world.kill(process)
        finish(world, run)
