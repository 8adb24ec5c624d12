"""How a tree of dataclasses becomes options: flags, `TWOFOLD_` variables, TOML tables, Python keywords, help.

A field made by `option` is the only definition of a knob. The sources are read strictly, flag over environment
over file over default; an unknown name is an error that proposes the nearest right one. Imports nothing heavy,
so that help is quick.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from job.errors import UserError

PREFIX = "TWOFOLD_"
TRUE, FALSE = ("1", "true", "on", "yes"), ("0", "false", "off", "no")


def option(
    default: Any,
    help: str,
    *,
    unit: str = "",
    auto: str = "",
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    result: bool = False,
    first: bool = False,
    metavar: str = "",
    parse: Callable[[str, str], Any] | None = None,
) -> Any:
    """Define one knob.

    Args:
        default: the value where nothing else is given; None stands for `auto`.
        help: one line that says what it does.
        unit: the unit of its value, shown by help.
        auto: what `auto` resolves to, in words.
        choices: the values allowed.
        low, high: bounds, included; above: a bound that is not included.
        result: whether it shapes the weights, so that a resumed run keeps it.
        first: whether a command of many options shows it in its short help.
        metavar: how help writes its value, where the type does not say it.
        parse: reads a text that has a form of its own, and refuses others by the name that it is given; a file or a
            keyword may have a bare number there.
    """
    metadata = dict(
        help=help, unit=unit, auto=auto, choices=choices, low=low, high=high, above=above, result=result, first=first,
        metavar=metavar, parse=parse,
    )  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Knob:
    """One leaf of the tree: its table, its name and the definition."""

    table: str
    field: dataclasses.Field[Any]
    kind: Any  # int, float, bool, str, or tuple of int or float
    element: Any  # the type of a tuple's elements, else None

    @property
    def name(self) -> str:
        return self.field.name

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def is_result(self) -> bool:
        return bool(self.field.metadata["result"])

    @property
    def metavar(self) -> str:
        meta = self.field.metadata
        if meta["metavar"]:
            return str(meta["metavar"])
        if meta["choices"]:
            return "|".join((*(["auto"] if self.field.default is None else []), *meta["choices"]))
        return {int: "N", float: "X", str: "NAME", tuple: "N,N,..."}.get(self.kind, "N")


@dataclasses.dataclass(frozen=True)
class Request:
    """What a user asked of a command: its configuration, and which options were given.

    `flags` were given on the command line or as keywords; `fixed` are these and the variables'; `given` are all, those
    of a file included.
    """

    config: Any
    given: frozenset[str]
    fixed: frozenset[str]
    flags: frozenset[str]
    positional: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    quiet: bool = False


def knobs(tree: type) -> list[Knob]:
    """Every leaf of a dataclass tree, in order. A field that is itself a dataclass is a table."""
    found: list[Knob] = []
    for name, hint in typing.get_type_hints(tree).items():
        if dataclasses.is_dataclass(hint):
            inner = typing.get_type_hints(hint)
            found += [_knob(name, f, inner[f.name]) for f in dataclasses.fields(hint)]
    return found


def _knob(table: str, field: dataclasses.Field[Any], hint: Any) -> Knob:
    if isinstance(hint, types.UnionType):  # `int | None`: None is auto
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    if typing.get_origin(hint) is tuple:
        return Knob(table, field, tuple, typing.get_args(hint)[0])
    return Knob(table, field, hint, None)


def convert(knob: Knob, raw: Any, where: str, *, typed: bool = False) -> Any:
    """Turn text, or a `typed` TOML value, into the knob's type, checked.

    Raises:
        UserError: for a wrong type, a value out of range or not among the choices.
    """
    meta = knob.field.metadata
    if raw == "auto" and knob.field.default is None:
        return None
    if meta["parse"] is not None:
        raw = repr(raw) if isinstance(raw, (int, float)) and not isinstance(raw, bool) else raw
    value = _value(knob, raw, where, typed)
    if meta["parse"] is not None:
        meta["parse"](value, where)
    for item in value if isinstance(value, tuple) else (value,):
        if meta["choices"] and item not in meta["choices"]:
            raise UserError(where, f"{item!r} is not one of {', '.join(meta['choices'])}", nearest(str(item), meta["choices"]))
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            _check_range(item, meta, where)
    return value


def _value(knob: Knob, raw: Any, where: str, typed: bool) -> Any:
    wanted = "true or false" if knob.kind is bool else knob.metavar
    wrong = UserError(where, f"{raw!r} is not {_KIND_WORDS[knob.kind]}", f"give {wanted}")
    if typed and isinstance(raw, str) and knob.kind is not str:
        raise UserError(where, f"{raw!r} is a text, not {_KIND_WORDS[knob.kind]}", f"give {wanted} without quotation marks")
    if knob.kind is tuple:
        items = [p for p in raw.split(",") if p.strip()] if isinstance(raw, str) else raw
        if not isinstance(items, list):
            raise wrong
        return tuple(_scalar(knob.element, i, wrong) for i in items)
    return _scalar(knob.kind, raw, wrong)


_KIND_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    tuple: "a list of numbers",
}


def _scalar(kind: Any, raw: Any, wrong: UserError) -> Any:
    text = isinstance(raw, str)
    if kind is bool:
        if isinstance(raw, bool):
            return raw
        if text and raw.lower() in TRUE + FALSE:
            return raw.lower() in TRUE
        raise wrong
    if kind is str:
        if not text:
            raise wrong
        return raw
    if isinstance(raw, bool) or not isinstance(raw, (str, int, float)) or (kind is int and isinstance(raw, float)):
        raise wrong
    try:
        value = kind(raw)
    except (ValueError, OverflowError):
        raise wrong from None
    if isinstance(value, float) and not math.isfinite(value):
        raise wrong
    return value


def _check_range(value: float, meta: Mapping[str, Any], where: str) -> None:
    low, high, above = meta["low"], meta["high"], meta["above"]
    if low is not None and value < low:
        raise UserError(where, f"{value} is below {low}", f"give at least {low}")
    if above is not None and value <= above:
        raise UserError(where, f"{value} is not above {above}", f"give more than {above}")
    if high is not None and value > high:
        raise UserError(where, f"{value} is above {high}", f"give at most {high}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Words that propose the right name where one is close, or list the names where they are few."""
    known = list(known)
    close = min(known, key=lambda other: _slips(_bare(name), _bare(other)), default="")
    if close and _slips(_bare(name), _bare(close)) <= max(len(_bare(name)), 3) // 3:
        return f"did you mean {close}?"
    return f"known: {', '.join(known)}" if len(known) <= 12 else "see --help"


def _bare(name: str) -> str:
    return name.removeprefix("--").removeprefix(PREFIX).replace("_", "-").lower()


def _slips(one: str, other: str) -> int:
    """How many letters are wrong, missing, too many, or swapped with their neighbour; a name cut short counts as one slip."""
    if one.startswith(f"{other}-") or other.startswith(f"{one}-"):
        return 1
    before, row = [0] * len(other), list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        last, before, row = before, row, [i]
        for j, wanted in enumerate(other, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != wanted)))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                row[j] = min(row[j], last[j - 2] + 1)
    return row[-1]


def read_environment(environ: Mapping[str, str], tree: type, every_name: Iterable[str]) -> dict[str, Any]:
    """The knobs that `TWOFOLD_` variables set; a name that no sub-command knows is an error."""
    by_variable = {k.variable: k for k in knobs(tree)}
    everyone = sorted({PREFIX + n.upper() for n in every_name} | by_variable.keys())
    values = {}
    for name, raw in environ.items():
        if not name.startswith(PREFIX):
            continue
        if name not in everyone:
            raise UserError(name, "unknown environment variable", nearest(name, everyone))
        if name in by_variable:
            values[by_variable[name].name] = convert(by_variable[name], raw, name)
    return values


def read_toml(path: Path, tree: type) -> dict[str, Any]:
    """The knobs that a TOML file sets, a table for each section of the tree."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(str(path), "configuration file not found", "check the name given to --config") from None
    except IsADirectoryError:
        raise UserError(str(path), "is a folder, not a configuration file", "name a .toml file") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits too
        raise UserError(str(path), f"is not valid TOML ({error})", "fix that line") from None
    tables: dict[str, dict[str, Knob]] = {}
    for knob in knobs(tree):
        tables.setdefault(knob.table, {})[knob.name] = knob
    values = {}
    for table, content in document.items():
        where = f"{path} [{table}]"
        if table not in tables:
            kind = "unknown table" if isinstance(content, dict) else "unknown key outside a table"
            owner = [t for t, members in tables.items() if table in members]
            raise UserError(where, kind, f"put it under [{owner[0]}]" if owner else nearest(table, tables))
        if not isinstance(content, dict):
            raise UserError(where, "is a table, not a value", f"write [{table}] above its keys")
        for key, raw in content.items():
            if key not in tables[table]:
                owner = [t for t, members in tables.items() if key in members]
                fix = f"it belongs under [{owner[0]}]" if owner else nearest(key, tables[table])
                raise UserError(f"{where} {key}", "unknown key", fix)
            values[key] = convert(tables[table][key], raw, f"{where} {key}", typed=True)
    return values


def read_keywords(values: Mapping[str, Any], tree: type) -> dict[str, Any]:
    """The knobs that Python's keywords set: values of their own types, lists for tuples, paths for texts, `None` for auto."""
    own = {knob.name: knob for knob in knobs(tree)}
    read = {}
    for name, value in values.items():
        if name not in own:
            raise UserError(name, "unknown option", nearest(name, own))
        if value is None and own[name].field.default is None:
            value = "auto"
        value = os.fspath(value) if isinstance(value, os.PathLike) else list(value) if isinstance(value, tuple) else value
        read[name] = convert(own[name], value, name, typed=True)
    return read


def build(tree: type, values: Mapping[str, Any]) -> Any:
    """Make the tree from leaf values; what is not given keeps its default."""
    parts: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(tree).items():
        if dataclasses.is_dataclass(hint):
            section: Any = hint
            parts[name] = section(**{f.name: values[f.name] for f in dataclasses.fields(hint) if f.name in values})
    return tree(**parts)


def leaves(config: Any) -> dict[str, Any]:
    """Leaf name to value, over the whole tree."""
    return {k.name: getattr(getattr(config, k.table), k.name) for k in knobs(type(config))}


def replace(config: Any, **values: Any) -> Any:
    """A copy of the tree with some leaves changed."""
    return build(type(config), {**leaves(config), **values})


def to_toml(config: Any) -> str:
    """The tree as TOML that `read_toml` takes back exactly."""
    lines: list[str] = []
    table = ""
    for knob in knobs(type(config)):
        if knob.table != table:
            table = knob.table
            lines.append(f"\n[{table}]" if lines else f"[{table}]")
        lines.append(f"{knob.name} = {_toml_value(getattr(getattr(config, table), knob.name))}")
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if value is None:
        return '"auto"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return repr(value)
