"""Options that change nothing under the rest of the configuration: none is ignored in silence.

Where the user typed one for this very command (a flag, a keyword) it is refused; where a variable or a file set it,
which several commands may share, it is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from job.config.options import Knob, Request, knobs
from job.config.schema import Config, SweepConfig
from job.errors import UserError


@dataclass(frozen=True)
class _Idle:
    """Knobs, when they change nothing, why, and what the user may do."""

    names: tuple[str, ...]
    when: Callable[[Any], bool]
    why: str
    fix: str


def _residual(config: Config) -> bool:
    """Whether it is the residual network for sure: a sweep may search the network too."""
    return config.model.model == "residual" and not (isinstance(config, SweepConfig) and config.sweep.space)


def _sweeps(engine: str = "", searches: tuple[str | None, ...] = ()) -> Callable[[Any], bool]:
    """Whether it is a sweep, by that engine and one of these searches."""
    return lambda config: (
        isinstance(config, SweepConfig) and engine in ("", config.sweep.engine)
        and (not searches or config.sweep.search in searches)
    )  # fmt: skip


_IDLE = (
    _Idle(("dense",), _residual, "the residual model has no dense layers", "remove it, or use --model classic"),
    _Idle(
        ("batchnorm",), lambda config: _residual(config) and config.model.batchnorm, "the residual model always uses it",
        "remove it, or use --model classic",
    ),
    _Idle(("dry_run",), lambda config: bool(config.run.show_augment), "--show-augment exits before it", "give one of the two"),
    _Idle(("threads", "workers"), _sweeps(), "a trial has its own", "use --cpus-per-trial"),
    _Idle(("step_timeout",), _sweeps(), "a slow trial is no reason to stop the others", "remove it"),
    _Idle(
        ("grace",), lambda config: _sweeps()(config) and "://" not in config.output.out, "all trials of a local sweep are saved, "
        "however long it takes", "remove it",
    ),
    _Idle(("first_rung",), _sweeps("keras-tuner"), "keras-tuner has no ASHA", "remove it, or use --engine ray"),
    _Idle(
        ("reduction",), _sweeps("keras-tuner", ("bayesian", "random")), "this search has no rungs", "remove it, or use --search hyperband",
    ),
)  # fmt: skip


def check(request: Request, config: Config) -> str:
    """Refuse the flags that change nothing.

    Args:
        config: what the command works with: of a resumed run, its own.

    Returns:
        A line that names what variables and files set to no effect; empty where there is none.

    Raises:
        UserError: a flag or keyword has no effect.
    """
    named = []
    for knob in knobs(type(config)):
        idle = next((i for i in _IDLE if knob.name in i.names and knob.name in request.given and i.when(config)), None)
        if idle is None:
            continue
        if knob.name in request.flags:
            raise UserError(knob.flag, f"has no effect: {idle.why}", idle.fix)
        if _value(request.config, knob) != knob.field.default:
            named.append(f"{knob.name} ({idle.why})")
    return f"note: without effect here: {', '.join(named)}" if named else ""


def check_prepared(request: Request, settings: Mapping[str, Any], classes: tuple[str, str], folder: str) -> str:
    """The same for the options of `prepare`, where the shards are there already: they must say what was done.

    Args:
        settings, classes: the manifest's.
        folder: where the shards are.
    """
    named = []
    for knob in knobs(type(request.config)):
        if knob.table not in ("prepare", "reading") or knob.name not in request.given:
            continue
        asked = settings.get(knob.name, knob.field.default)
        done = classes[1] if knob.name == "positive" else asked
        value = _value(request.config, knob)
        if (list(value) if isinstance(value, tuple) else value) in (done, asked):  # `--positive dog` found the folder dogs
            continue
        if knob.name in request.flags:
            raise UserError(
                knob.flag, f"has no effect: {folder} is already prepared, with {'the default' if done in ('', (), []) else done}",
                f"leave {knob.flag} out, or prepare the images anew with a new --out",
            )  # fmt: skip
        if value != knob.field.default:
            named.append(knob.name)
    return f"note: without effect here: {', '.join(named)} ({folder} is already prepared)" if named else ""


def _value(config: Any, knob: Knob) -> Any:
    return getattr(getattr(config, knob.table), knob.name)
