"""What a second start on a run folder means: which knobs are taken from the run, which may change, which may not."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from job.config.options import build, knobs, leaves, read_toml
from job.config.schema import Config
from job.console import console
from job.errors import UserError
from job.runs.records import CONFIG

CHANGEABLE = ("precision", "replicas", "threads")  # they change bits, not what is computed


def given_of(config: Config) -> set[str]:
    """The knobs that differ from their defaults: what counts as given where no command line says so."""
    defaults = leaves(Config())
    return {name for name, value in leaves(config).items() if value != defaults[name]}


def merge(folder: Path, config: Config, given: Collection[str]) -> Config:
    """The configuration of a resumed run: result fields from the run, the others from `config`.

    Args:
        given: the knobs that the user set for this start.

    Raises:
        UserError: a result field given now differs from the run's.
    """
    stored = leaves(build(Config, read_toml(folder / CONFIG, Config)))
    values = leaves(config)
    for knob in knobs(Config):
        name = knob.name
        if not knob.is_result:
            if knob.table in ("source", "prepare") and name not in given:
                values[name] = stored[name]
            continue
        if name in given and values[name] is not None and values[name] != stored[name]:
            if name not in CHANGEABLE:
                raise UserError(
                    knob.flag, f"{_text(values[name])} differs from the run's {_text(stored[name])} in {folder}",
                    "leave it out to go on, or start a new --out",
                )  # fmt: skip
            console.log(f"{knob.flag} changes from {stored[name]} to {values[name]}: the bits will differ from now on")
            continue
        values[name] = stored[name]
    merged: Config = build(Config, values)
    return merged


def _text(value: object) -> str:
    return ",".join(str(v) for v in value) if isinstance(value, tuple) else str(value)
