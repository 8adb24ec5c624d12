"""Ray Tune as the engine: ASHA stops trials, Optuna's TPE or chance proposes them, in worker processes that are reused.

Ray keeps nothing that matters: checkpoints are the job's own, and what is known of the trials is in the sweep's state,
from which the sampler and ASHA's rungs are filled again at a later start. `RAY_ADDRESS` names a cluster; without it a
Ray of the sweep's own runs on this machine (`tuning/local_ray.py`).
"""

from __future__ import annotations

import functools
import logging
import os
import pickle
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Read by Ray when it is imported: nothing is sent home, no token file in HOME, no files and handlers of its own
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "120")  # a stopped trial writes its last files before its process is reused
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import optuna
import ray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray import tune

from job.errors import MachineError, UserError
from job.runs.records import Epoch
from job.shutdown import Stop
from tuning import trial
from tuning.plan import Halt, Plan
from tuning.space import Dimension, Point
from tuning.state import START, SweepState, Trial
from tuning.status import StatusTable

FOLDER = ".ray-tune"  # in the sweep's, which all machines see


@contextmanager
def connected(address: str, stop: Stop) -> Iterator[dict[str, float]]:
    """Use the Ray at an address; what comes is the resources it has."""
    if ray.is_initialized():
        raise UserError("Ray", "is already connected in this process", "call ray.shutdown() first")
    logger = logging.getLogger("ray")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _require_answer(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)  # the sweep logs why a trial failed
        except Exception as error:
            what = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise MachineError("Ray", f"cannot be reached at {address} ({what})", "check RAY_ADDRESS and the network") from None
        stop.listen()  # Ray has put a handler of its own in place of ours
        try:
            yield dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
        finally:
            ray.shutdown()
            logger.setLevel(level)


def _require_answer(address: str) -> None:
    """Fail at once where nothing listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def search(plan: Plan, state: SweepState, status_table: StatusTable, halt: Halt, seed: int, tick: Callable[[], None]) -> None:
    """Run trials until there are `plan.trials`, or `halt` is set.

    Raises:
        MachineError: the machine is at fault, such as a full disk.
    """
    remaining = len(state.unfinished) + plan.trials - len(state.trials)
    if remaining <= 0:
        return
    asha = tune.schedulers.ASHAScheduler(
        time_attr="epoch", metric="score", mode=_mode(plan),
        max_t=plan.epochs, grace_period=plan.first_rung, reduction_factor=plan.reduction,
    )  # fmt: skip
    _fill(asha, plan, state.ended)
    watcher = _Watcher(state, status_table, halt, tick)

    def trainable(config: dict[str, Any]) -> None:
        _run(plan, config["id"], config["point"])

    with _folder(plan.out / FOLDER) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": plan.cpus, "gpu": plan.gpus}),
            tune_config=tune.TuneConfig(
                num_samples=remaining, max_concurrent_trials=plan.concurrent, scheduler=asha, reuse_actors=not plan.fresh,
                search_alg=_Searcher(plan, state, halt, _sampler(plan, seed, len(state.trials))),
            ),
            run_config=tune.RunConfig(
                name="sweep", storage_path=str(folder), verbose=0, callbacks=[watcher], failure_config=tune.FailureConfig(max_failures=0)
            ),
        )  # fmt: skip
        tuner.fit()
    if watcher.fault:
        raise watcher.fault


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """A folder for what Tune writes down and nobody reads, empty at first and gone afterwards, also what a killed sweep left."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _mode(plan: Plan) -> str:
    return "max" if plan.rising else "min"


def _run(plan: Plan, id: str, point: Point | None) -> None:
    """A trial in Ray's worker. The starting configuration runs to its end: ASHA hears of it only then."""
    last: dict[str, Any] = {}

    def on_epoch(epoch: Epoch) -> bool:
        score = epoch.monitored(plan.monitor)
        last.clear()
        last.update(epoch=epoch.epoch, shown=score, **({} if score is None else {"score": score}))
        if epoch.epoch >= plan.epochs:
            return False
        try:
            tune.report({name: value for name, value in last.items() if name != "score" or id != START})
        except SystemExit:  # how ASHA's decision arrives
            return True
        return False

    outcome = trial.run(plan.config(id, point), on_epoch, Halt(plan.out), plan.place(id))
    if outcome.status == "done":
        tune.report({**last, "outcome": outcome})
    elif outcome.status == "stopped":
        raise SystemExit  # what Ray waits for before it uses this process again
    else:
        tune.report({"outcome": outcome})


class _Searcher(tune.search.Searcher):
    """Proposes what an earlier start left unfinished, then the starting configuration, then what Optuna proposes."""

    def __init__(self, plan: Plan, state: SweepState, halt: Halt, sampler: optuna.samplers.BaseSampler) -> None:
        super().__init__(metric="score", mode=_mode(plan))
        self._plan, self._state, self._halt = plan, state, halt
        self._space = {d.name: _distribution(d) for d in plan.space.dimensions}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(sampler=sampler, direction="maximize" if plan.rising else "minimize")
        for known in state.ended:
            self._remember(known)
        self._left = [t.id for t in state.unfinished]
        self._asked: dict[str, optuna.Trial] = {}

    def _remember(self, known: Trial) -> None:
        """Tell Optuna of a trial of an earlier start."""
        score = self._state.score(known)
        if known.point is None or score is None:
            return
        values = {e.epoch: found for e in known.epochs if (found := e.monitored(self._plan.monitor)) is not None}
        states = dict(done=TrialState.COMPLETE, stopped=TrialState.PRUNED, failed=TrialState.FAIL)
        told = optuna.trial.create_trial(
            state=states[known.status], value=values[max(values)] if known.status == "done" else None, params=known.point,
            distributions=self._space, intermediate_values=values,
        )  # fmt: skip
        self._study.add_trial(told)

    def suggest(self, trial_id: str) -> Any:
        if self._halt:
            return self.FINISHED
        if not self._state.trials:
            self._left.append(self._state.begin(START, self._plan.start).id)
        if not self._left:
            if self._state.full:
                return self.FINISHED
            self._asked[trial_id] = asked = self._study.ask(self._space)
            known = self._state.begin(self._state.next_id(), dict(asked.params))
        else:
            known = self._state.trials[self._left.pop(0)]
            if known.point is not None:
                self._study.enqueue_trial(known.point)  # so that the one asked for next is this
                self._asked[trial_id] = self._study.ask(self._space)
        return {"id": known.id, "point": known.point}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id in self._asked and "score" in result:
            self._asked[trial_id].report(result["score"], result["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        asked = self._asked.pop(trial_id, None)
        if asked is None:
            return
        result = result or {}
        outcome = result.get("outcome")
        if outcome is None and not error:
            self._study.tell(asked, state=TrialState.PRUNED)
        elif outcome is not None and outcome.status == "done" and "score" in result:
            self.on_trial_result(trial_id, result)
            self._study.tell(asked, result["score"])
        else:
            self._study.tell(asked, state=TrialState.FAIL)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles what it runs with, to restore it: the state holds all

    def save(self, checkpoint_path: str) -> None:
        """The state holds all."""

    def restore(self, checkpoint_path: str) -> None:
        """The state holds all."""


def _kept(method: Callable[..., None]) -> Callable[..., None]:
    """Keep what a callback raises, and end the search: Tune would bury it in a traceback of its own."""

    @functools.wraps(method)
    def kept(self: _Watcher, *arguments: Any, **options: Any) -> None:
        try:
            method(self, *arguments, **options)
        except Exception as error:
            self.stop_for(error)

    return kept


class _Watcher(tune.Callback):
    """Records what Ray reports of the trials. `fault` is what ended the search."""

    def __init__(self, state: SweepState, status_table: StatusTable, halt: Halt, tick: Callable[[], None]) -> None:
        self._state, self._status_table, self._halt, self._tick = state, status_table, halt, tick
        self.fault: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def stop_for(self, fault: Exception) -> None:
        self.fault = self.fault or fault
        self._halt.set()

    @_kept
    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._tick()

    @_kept
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        id = trial.config["id"]
        self._state.begin(id, trial.config["point"])
        self._status_table.begin(id)

    @_kept
    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        if "epoch" in result:
            self._status_table.epoch(trial.config["id"], result["epoch"], result["shown"])

    @_kept
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial, trial.last_result.get("outcome") or _STOPPED)

    @_kept
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial, _death(trial))

    def _end(self, theirs: Any, outcome: trial.Outcome) -> None:
        id = theirs.config["id"]
        if outcome.status == "fault":
            self.stop_for(MachineError("sweep", f"trial {id}: {outcome.reason}", ""))
        self._state.end(id, outcome)
        self._status_table.end(id)


_STOPPED = trial.Outcome("stopped")


def _death(theirs: Any) -> trial.Outcome:
    file = theirs.pickled_error_file  # where Ray has just written it; its own getter looks where it will be copied to later
    error = pickle.loads(Path(file).read_bytes()) if file else None
    if "OutOfMemory" in type(error).__name__:
        return trial.Outcome("failed", "out of memory: Ray ended its process")
    if isinstance(error, ray.exceptions.RayActorError):
        return trial.Outcome("failed", "its process was killed, perhaps for memory")
    return trial.Outcome("failed", str(error).strip().splitlines()[-1][:300] if error else "unknown")


def _fill(asha: tune.schedulers.ASHAScheduler, plan: Plan, ended: list[Trial]) -> None:
    """Report the scores of an earlier start to ASHA, so that new trials are compared with them."""
    for known in ended:
        earlier: Any = SimpleNamespace(trial_id=f"earlier-{known.id}")
        asha.on_trial_add(None, earlier)  # type: ignore[arg-type]
        for epoch in known.epochs if known.id != START else []:
            score = epoch.monitored(plan.monitor)
            if score is not None:
                asha.on_trial_result(None, earlier, {"epoch": epoch.epoch, "score": score})  # type: ignore[arg-type]


def _sampler(plan: Plan, seed: int, begun: int) -> optuna.samplers.BaseSampler:
    """A sampler whose draws differ at a later start, which would else propose the first ones again."""
    if plan.search == "random":
        return optuna.samplers.RandomSampler(seed=seed + begun)
    return optuna.samplers.TPESampler(seed=seed + begun, n_startup_trials=max(4, min(10, plan.trials // 4)), constant_liar=True)


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.kind == "choices":
        return CategoricalDistribution(range(len(dimension.choices)))
    if dimension.kind == "integers":
        return IntDistribution(int(dimension.low), int(dimension.high))
    return FloatDistribution(dimension.low, dimension.high, log=dimension.is_log)
