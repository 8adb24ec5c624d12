"""What a second start on a run folder means: which knobs are taken from the run, which may change, which may not."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from job.config.options import build, knobs, leaves
from job.config.schema import Config
from job.console import console
from job.data import manifest
from job.data.location import Location, locate
from job.errors import UserError
from job.runs import checkpoints
from job.runs.records import CHECKPOINTS, CONFIG, DATA, Summary, find_data, read_config
from job.shutdown import Stop

CHANGEABLE = ("precision", "replicas", "threads")  # they change bits, not what is computed


def given_of(config: Config) -> set[str]:
    """The knobs that differ from their defaults: what counts as given where no command line says so."""
    defaults = leaves(Config())
    return {name for name, value in leaves(config).items() if value != defaults[name]}


def configuration(folder: Path, config: Config, given: Collection[str], before: Summary | None, stop: Stop) -> tuple[Config, Location]:
    """The configuration of this start, and where its shards are.

    Args:
        given: the options that the user set for this start.
        before: the summary that an earlier start left.

    Raises:
        UserError: an option that shapes the weights differs from the run's, or the run's data set is not found.
    """
    if not (folder / CONFIG).exists():
        return config, find_data(folder, config, stop=stop)
    stored = read_config(folder)
    merged = merge(folder, config, given)
    if "data" in given and manifest.exists(named := locate(config.source.data, config.feed, stop)):
        return merged, named.absolute() if isinstance(named, Path) else named
    data = find_data(folder, stored, "" if before is None else before.fingerprint, config.feed, stop)
    if not manifest.exists(data) and not manifest.unfinished(data):
        raise UserError(str(data), "the data set of this run is not found there", "give its folder with --data")
    if data != folder / DATA and str(data) != stored.source.data:
        console.log(f"the data set of this run is found in {data}")
    return merged, data


def merge(folder: Path, config: Config, given: Collection[str]) -> Config:
    """The configuration of a resumed run: result fields from the run, the others from `config`.

    Args:
        given: the knobs that the user set for this start.

    Raises:
        UserError: a result field given now differs from the run's.
    """
    stored = leaves(read_config(folder))
    values = leaves(config)
    begun = bool(checkpoints.steps(folder / CHECKPOINTS))  # else there is nothing that another value would spoil
    for knob in knobs(Config):
        name = knob.name
        if not knob.is_result:
            if knob.table in ("source", "prepare") and name not in given:
                values[name] = stored[name]
            continue
        if name in given and values[name] is not None and values[name] != stored[name]:
            if name not in CHANGEABLE and begun:
                raise UserError(
                    knob.flag, f"{_text(values[name])} differs from the run's {_text(stored[name])} in {folder}",
                    "leave it out to resume, or start a new --out",
                )  # fmt: skip
            if begun:
                console.log(f"{knob.flag} changes from {stored[name]} to {values[name]}: the bits will differ from now on")
            continue
        values[name] = stored[name]
    merged: Config = build(Config, values)
    return merged


def _text(value: object) -> str:
    return ",".join(str(v) for v in value) if isinstance(value, tuple) else str(value)
