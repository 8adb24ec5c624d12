"""The results of a sweep: `trials.csv`, a row for each trial; `best.toml`, for `twofold train --config`; `sweep.png`."""

from __future__ import annotations

import csv
import io
from typing import Any

from job.config.options import leaves, replace, to_toml
from job.inference import plots
from job.runs import records
from job.storage import local
from tuning.space import Dimension
from tuning.state import START, SweepState, Trial

TRIALS, BEST, PLOT = "trials.csv", "best.toml", "sweep.png"
_METRICS = ("val_accuracy", "val_accuracy_low", "val_accuracy_high", "val_log_loss", "val_auc", "val_brier", "parameters")
_GREY, _BLUE, _ORANGE = "#999999", "#0b5fa5", "#c25e00"


def write(state: SweepState) -> None:
    """Write the table and the best configuration; fast enough to do at the end of each trial."""
    _table(state)
    if state.best is not None:
        _best(state, state.best)


def rows(state: SweepState) -> list[dict[str, Any]]:
    """A row for each trial, with the columns of `trials.csv`; what is not known is None."""
    plan, found = state.plan, []
    for trial in state.trials.values():
        summary = records.read_summary(plan.folder(trial.id))
        document = {} if summary is None else summary.document()
        values = leaves(plan.searched(trial.point))
        found.append(
            {
                "trial": trial.id, "status": trial.status, "parent": trial.parent, plan.monitor: state.score(trial),
                **{name: document.get(name) for name in _METRICS}, "epochs": trial.epochs[-1].epoch if trial.epochs else 0,
                "steps": trial.steps, "seconds": round(trial.seconds, 1),
                **{d.name: values[d.name] for d in plan.space.dimensions}, "reason": trial.reason,
            }
        )  # fmt: skip
    return found


def _table(state: SweepState) -> None:
    plan = state.plan
    fields = [d.name for d in plan.space.dimensions]
    columns = ["trial", "status", "parent", plan.monitor, *_METRICS, "epochs", "steps", "seconds", *fields, "reason"]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows(state):
        writer.writerow(row | {name: _shown(row[name]) for name in fields})
    local.write_atomic(state.plan.out / TRIALS, file.getvalue())


def _shown(value: Any) -> str:
    if value is None:
        return "auto"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _best(state: SweepState, best: Trial) -> None:
    """The configuration as a user would write it: what depends on the machine stays `auto`."""
    head = f"# trial {best.id} of {len(state.trials)}: validation {state.plan.monitor} {state.score(best):.4f}\n"
    local.write_atomic(state.plan.out / BEST, head + to_toml(replace(state.plan.searched(best.point), out="")))


@plots.own_settings()
def draw(state: SweepState) -> None:
    """Plot the best score so far, the learning curves, and the score over each field."""
    plan = state.plan
    shown = [t for t in state.trials.values() if state.score(t) is not None]
    if not shown:
        return
    columns = 4
    rows = 1 + -(-len(plan.space.dimensions) // columns)
    figure = plots.blank(3.4 * columns, 3.2 * rows)
    grid = figure.add_gridspec(rows, columns)
    name = plan.monitor.replace("_", " ")
    best = state.best

    _history(figure.add_subplot(grid[0, :2], title=f"best {name} so far"), state, shown)
    learning: Any = figure.add_subplot(grid[0, 2:], title=f"validation {name} of each trial", xlabel="epoch")
    for trial in sorted(shown, key=lambda t: t is best):
        wide = trial is best
        at, values = [e.epoch for e in trial.epochs], [e.monitored(plan.monitor) for e in trial.epochs]
        learning.plot(at, values, color=_colour(trial, best), marker=".", linewidth=2 if wide else 0.8, alpha=1 if wide else 0.6)
    learning.xaxis.get_major_locator().set_params(integer=True)
    for number, dimension in enumerate(plan.space.dimensions):
        axis = figure.add_subplot(grid[1 + number // columns, number % columns], ylabel=name if number % columns == 0 else "")
        _field(axis, dimension, state, shown)
    for axis in figure.axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    legend = "blue: done; gray: stopped early or unfinished; orange: the best"
    figure.suptitle(f"{len(state.trials)} trials of up to {plan.epochs} epochs ({legend})", fontsize=10)
    plots.save(figure, plan.out / PLOT)


def _history(axis: Any, state: SweepState, shown: list[Trial]) -> None:
    better = max if state.plan.rising else min
    scores: list[float] = []
    for number, trial in enumerate(shown, 1):
        score = state.score(trial) or 0.0
        scores.append(score if not scores else better(scores[-1], score))
        axis.plot(number, score, ".", color=_colour(trial, state.best), markersize=7)
    axis.step(range(1, len(scores) + 1), scores, where="post", color=_BLUE, linewidth=1.2)
    start = state.score(state.trials[START]) if START in state.trials else None
    if start is not None:
        axis.axhline(start, color=_GREY, linestyle=":", label="starting configuration")
        axis.legend(frameon=False)
    axis.set_xlabel("trial, in order of their start")
    axis.set_ylabel(state.plan.monitor.replace("_", " "))
    axis.xaxis.get_major_locator().set_params(integer=True)


def _field(axis: Any, dimension: Dimension, state: SweepState, shown: list[Trial]) -> None:
    """The score over one field."""
    for trial in shown:
        if trial.point is not None:
            axis.plot(trial.point[dimension.name], state.score(trial) or 0.0, ".", color=_colour(trial, state.best), markersize=8)
    axis.set_xlabel(f"{dimension.name} (times the starting value)" if dimension.kind == "times" else dimension.name)
    if dimension.is_log:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    elif dimension.kind == "integers":
        axis.xaxis.get_major_locator().set_params(integer=True)
    elif dimension.kind == "choices":
        axis.set_xticks(range(len(dimension.choices)), [_shown(choice) for choice in dimension.choices])


def _colour(trial: Trial, best: Trial | None) -> str:
    return _ORANGE if trial is best else _BLUE if trial.status == "done" else _GREY
