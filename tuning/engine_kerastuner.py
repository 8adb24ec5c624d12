"""KerasTuner as the engine: Hyperband, Bayesian or random search, one trial at a time in a worker process.

KerasTuner keeps its own state in the sweep's folder and hands an interrupted trial out again. A child that Hyperband
promotes starts from a copy of its parent's newest checkpoint, in a folder of its own.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from job.machine import isolation

with isolation.imports():
    import keras_tuner
    from keras_tuner.errors import FatalError

from job.errors import MachineError
from job.runs.records import Epoch
from tuning import trial
from tuning.plan import Halt, Plan
from tuning.space import Point
from tuning.state import START, UNFINISHED, SweepState
from tuning.status import StatusTable
from tuning.worker import Worker

ENDLESS = 10**9
STATE = "keras-tuner"  # its folder


class _Leave(FatalError):  # type: ignore[misc]
    """Leaves the search and the trial under way as they stand."""


def search(plan: Plan, state: SweepState, status_table: StatusTable, halt: Halt, seed: int, tick: Callable[[], None]) -> None:
    """Run trials until there are `plan.trials`, or `halt` is set.

    Raises:
        MachineError: the machine is at fault, such as a full disk.
    """
    worker = Worker(plan.out)
    runner = _Runner(plan, state, status_table, halt, worker, tick)
    try:
        if state.trials.get(START) is None or state.trials[START].status == UNFINISHED:
            runner.run(START, plan.start)
        with contextlib.redirect_stdout(io.StringIO()):  # it announces that it reloads
            tuner = _Tuner(runner, _oracle(plan, state, halt, seed))
        with contextlib.suppress(_Leave), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, of the score of a trial that failed
            tuner.search(verbose=0)
    except _Leave:
        pass
    finally:
        worker.close()
    if runner.fault:
        raise runner.fault


class _Runner:
    """Runs a trial in the worker, and keeps the sweep's state and the status table."""

    def __init__(
        self, plan: Plan, state: SweepState, status_table: StatusTable, halt: Halt, worker: Worker, tick: Callable[[], None]
    ) -> None:
        self.plan, self.state, self.status_table, self.halt, self.worker, self.tick = plan, state, status_table, halt, worker, tick
        self.fault: Exception | None = None

    def run(self, id: str, point: Point | None, until: int = 0, parent: str = "") -> trial.Outcome:
        known = self.state.trials.get(id)
        if known is not None and known.status != UNFINISHED:  # ended before KerasTuner heard of it
            return trial.Outcome(known.status, known.reason)
        if self.halt:
            raise _Leave
        self.state.begin(id, point, parent)
        if parent:
            trial.inherit(self.plan.folder(parent), self.plan.folder(id))
        self.status_table.begin(id)

        def on_epoch(epoch: Epoch) -> None:
            self.status_table.epoch(id, epoch.epoch, epoch.monitored(self.plan.monitor))

        outcome = self.worker.run(self.plan.config(id, point, until), self.plan.place(id), on_epoch, self.tick)
        if self.plan.fresh:
            self.worker.close()
        self.state.end(id, outcome)
        self.status_table.end(id)
        if outcome.status == "fault":
            self.fault = MachineError("sweep", f"trial {id}: {outcome.reason}", "")
        if outcome.status in ("fault", "interrupted"):
            raise _Leave
        return outcome


class _Tuner(keras_tuner.engine.base_tuner.BaseTuner):  # type: ignore[misc]
    """Hands each trial that KerasTuner proposes to the worker, and waits."""

    def __init__(self, runner: _Runner, oracle: Any) -> None:
        self.runner = runner
        super().__init__(oracle=oracle, directory=str(runner.plan.out), project_name=STATE)

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> float:
        values = trial.hyperparameters.values
        point = {name: values[name] for name in (d.name for d in self.runner.plan.space.dimensions)}
        parent = _id(values["tuner/trial_id"]) if values.get("tuner/trial_id") else ""
        id = _id(trial.trial_id)
        try:
            outcome = self.runner.run(id, point, int(values.get("tuner/epochs", 0)), parent)
        except _Leave:
            raise
        except Exception as error:  # KerasTuner would take it for the trial's and search on
            self.runner.fault = error
            raise _Leave from None
        score = self.runner.state.score(self.runner.state.trials[id])
        if outcome.status == "failed" or score is None:
            return math.nan  # counts as failed; FailedTrialError would print a traceback
        return -score if self.runner.plan.rising else score

    def save_model(self, trial_id: str, model: Any, step: int = 0) -> None:
        """The job has saved it already."""

    def load_model(self, trial: Any) -> None:
        """The run folder is the model."""


def _id(theirs: str) -> str:
    """Our number of a trial of KerasTuner's; the first is the starting configuration, which it does not know."""
    return f"{int(theirs) + 2:04d}"


def _oracle(plan: Plan, state: SweepState, halt: Halt, seed: int) -> Any:
    hyperparameters = keras_tuner.HyperParameters()
    for d in plan.space.dimensions:
        if d.kind == "choices":
            hyperparameters.Choice(d.name, list(range(len(d.choices))), ordered=False)
        elif d.kind == "integers":
            hyperparameters.Int(d.name, int(d.low), int(d.high))
        else:
            hyperparameters.Float(d.name, float(d.low), float(d.high), sampling="log" if d.is_log else "linear")
    common = dict(
        seed=seed, hyperparameters=hyperparameters, allow_new_entries=False, tune_new_entries=False,
        max_consecutive_failed_trials=ENDLESS,
    )  # fmt: skip
    if plan.search == "hyperband":
        return _until_full(keras_tuner.oracles.HyperbandOracle, state, halt)(
            max_epochs=plan.epochs, factor=plan.reduction, hyperband_iterations=ENDLESS, **common
        )
    kind = dict(bayesian=keras_tuner.oracles.BayesianOptimizationOracle, random=keras_tuner.oracles.RandomSearchOracle)[plan.search]
    return _until_full(kind, state, halt)(max_trials=ENDLESS, **common)


def _until_full(kind: Any, state: SweepState, halt: Halt) -> Any:
    """An oracle that proposes nothing more once the state is full, so that Hyperband's brackets are cut there."""

    class Cut(kind):  # type: ignore[misc]
        def populate_space(self, trial_id: str) -> Any:
            return {"status": "STOPPED"} if state.full or halt else super().populate_space(trial_id)

    return Cut
