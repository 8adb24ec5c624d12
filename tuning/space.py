"""The search space: which fields of the configuration are searched, and over which values. For both engines.

A point of the space is a number or a choice for each field, as an engine proposes it; `Space.values` turns it into
values of the configuration.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.config.options import Knob, convert, knobs, leaves, nearest, replace
from job.config.resolve import Resolved, resolve, strengths
from job.config.schema import Config
from job.errors import UserError

DEFAULT = Path(__file__).with_name("space.toml")
KINDS = ("uniform", "log", "integers", "choices", "times")
FIXED = {
    "seed": "all trials share one seed",
    "epochs": "all trials have the same length, so that they can be compared before their end",
    "monitor": "all trials are compared by the same metric",
    "replicas": "it follows from --gpus-per-trial",
    "threads": "it is --cpus-per-trial",
    "xla": "it is the same for all trials",
    "deterministic": "it is the same for all trials",
}
CLASSIC_ONLY = ("dense", "batchnorm")
OPERATIONS = tuple(strengths(0.0))  # of augmentation, each with a field of its own

Point = dict[str, Any]


@dataclass(frozen=True)
class Dimension:
    """One field that is searched. `low` and `high` bound what an engine proposes; for choices it proposes their number."""

    knob: Knob
    kind: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Any, ...] = ()
    start: Any = None

    @property
    def name(self) -> str:
        return self.knob.name

    @property
    def is_log(self) -> bool:
        return self.kind in ("log", "times")

    def value(self, coordinate: Any) -> Any:
        """The field's value at a coordinate."""
        if self.kind == "choices":
            return self.choices[int(coordinate)]
        if self.kind == "integers":
            return int(coordinate)
        if self.kind != "times":
            return float(coordinate)
        if isinstance(self.start, tuple):
            unit = 8 if all(part % 8 == 0 for part in self.start) else 1
            return tuple(max(unit, round(part * coordinate / unit) * unit) for part in self.start)
        return max(1, round(self.start * coordinate)) if self.knob.kind is int else float(self.start * coordinate)

    def coordinate(self, value: Any) -> float | int | None:
        """Where a value lies; None where the space does not hold it."""
        if self.kind == "choices":
            return self.choices.index(value) if value in self.choices else None
        if self.kind == "times":
            return 1.0 if value == self.start and self.low <= 1 <= self.high else None
        held = value is not None and self.low <= value <= self.high
        return (int(value) if self.kind == "integers" else float(value)) if held else None


@dataclass(frozen=True)
class Space:
    """The fields that are searched."""

    dimensions: tuple[Dimension, ...]

    def values(self, point: Point) -> dict[str, Any]:
        """The configuration's values at a point."""
        return {d.name: d.value(point[d.name]) for d in self.dimensions if d.name in point}

    def start(self, resolved: Resolved) -> Point | None:
        """The starting configuration as a point; None where it lies outside."""
        values = leaves(resolved)
        point = {d.name: d.coordinate(values[d.name]) for d in self.dimensions}
        return None if None in point.values() else point

    @property
    def words(self) -> dict[str, Any]:
        """The space as `sweep.json` keeps it, to be compared at a later start."""
        return {d.name: {d.kind: list(d.choices) if d.kind == "choices" else [d.low, d.high]} for d in self.dimensions}


def read(path: Path | None, base: Config, images: int, fixed: Collection[str]) -> Space:
    """Read a space and check it against the configuration.

    Args:
        path: a TOML file; None takes the one that comes with the program.
        base: the starting configuration, not resolved.
        images: training images, which some defaults depend on.
        fixed: fields set for all trials; they are not searched.

    Raises:
        UserError: an unknown field, an impossible range, a field without effect, or nothing left to search.
    """
    file = path or DEFAULT
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(str(file), "not found", "check the name given to --space") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(str(file), f"is not valid TOML ({error})", "correct that line") from None
    known = {k.name: k for k in knobs(Config)}
    start = resolve(base, images)
    dimensions = []
    for name, form in document.items():
        where = f"{file} {name}"
        dimension = _dimension(known, name, form, where, leaves(start))
        if name in fixed:
            continue
        if idle := _idle(name, base, document.keys() - fixed):
            if path is None:
                continue
            raise UserError(where, f"has no effect: {idle}", "remove it")
        for end in _ends(dimension):
            try:
                resolve(replace(base, **{name: dimension.value(end)}), images)
            except UserError as error:
                raise UserError(where, f"{dimension.value(end)!r} contradicts the other options ({error})", "narrow the range") from None
        dimensions.append(dimension)
    if not dimensions:
        raise UserError(str(file), "names no field that is not fixed by a flag", "remove a flag, or name more fields")
    return Space(tuple(dimensions))


def _idle(name: str, base: Config, searched: Collection[str]) -> str:
    """Why a field has no effect on any trial; empty where it has one."""
    if name in CLASSIC_ONLY and base.model.model == "residual" and "model" not in searched:
        return "the residual model has no dense layers" if name == "dense" else "the residual model always has batch normalization"
    given = leaves(base)
    if name == "augment" and all(given[operation] is not None or operation in searched for operation in OPERATIONS):
        return f"{', '.join(OPERATIONS)} are each set by themselves"
    return ""


def _ends(dimension: Dimension) -> tuple[Any, ...]:
    return tuple(range(len(dimension.choices))) if dimension.kind == "choices" else (dimension.low, dimension.high)


def _dimension(known: Mapping[str, Knob], name: str, form: Any, where: str, start: Mapping[str, Any]) -> Dimension:
    tables = {k.table for k in known.values()}
    if name in tables and isinstance(form, dict) and not form.keys() & set(KINDS):
        raise UserError(where, "is a table, and a space has no tables", f"write its fields without [{name}]")
    if name not in known:
        raise UserError(where, "unknown field", nearest(name, known))
    knob = known[name]
    if name in FIXED or not knob.is_result:
        raise UserError(where, f"cannot be searched: {FIXED.get(name, 'it does not shape the weights')}", "remove it")
    if not isinstance(form, dict) or len(form) != 1 or next(iter(form)) not in KINDS:
        raise UserError(where, "is not a range", f"write {name} = {{ KIND = [...] }}, where KIND is one of {', '.join(KINDS)}")
    (kind, values), *_ = form.items()
    if not isinstance(values, list) or (len(values) < 2 if kind == "choices" else len(values) != 2):
        wanted = "a list of at least two values" if kind == "choices" else "[low, high]"
        raise UserError(where, f"{values!r} is not {wanted}", f"give {kind} = {'[..., ...]' if kind == 'choices' else '[low, high]'}")
    if kind == "choices":
        chosen = tuple(convert(knob, value, where, typed=True) for value in values)
        if len(set(chosen)) < len(chosen):
            raise UserError(where, "names a choice twice", "name each once")
        return Dimension(knob, kind, choices=chosen)
    return _range(knob, kind, values, where, start[name])


def _range(knob: Knob, kind: str, values: list[Any], where: str, start: Any) -> Dimension:
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
        raise UserError(where, f"{values!r} are not two numbers", f"give {kind} = [low, high]")
    fits = {"uniform": (float,), "log": (float,), "integers": (int,), "times": (int, float, tuple)}[kind]
    if knob.kind not in fits:
        usual = {int: "integers or times", float: "uniform, log or times", tuple: "times or choices"}.get(knob.kind, "choices")
        raise UserError(where, f"{kind} does not fit {knob.flag}", f"use {usual}")
    if kind == "integers" and any(isinstance(v, float) for v in values):
        raise UserError(where, f"{values!r} are not whole numbers", "give integers = [low, high]")
    low, high = values
    if low >= high:
        raise UserError(where, f"the range from {low} to {high} is empty", "give the smaller number first")
    if kind in ("log", "times") and low <= 0:
        raise UserError(where, f"{kind} needs numbers above 0, not {low}", "raise the first number, or use uniform")
    if kind == "times" and not start:
        raise UserError(where, f"the starting value is {start}, which cannot be multiplied", "use uniform, log or choices")
    dimension = Dimension(knob, kind, low, high, start=start if kind == "times" else None)
    for end in values:
        value = dimension.value(end)
        convert(knob, list(value) if isinstance(value, tuple) else value, where, typed=True)
    return dimension
