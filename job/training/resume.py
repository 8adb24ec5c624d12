"""What a second start on a run folder means: which knobs are taken from the run, which may change, which may not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from job.config.options import build, knobs, leaves, replace
from job.config.resolve import Resolved
from job.config.schema import Config
from job.console import console
from job.data import manifest
from job.data.location import Location, locate
from job.errors import UserError
from job.runs import checkpoints
from job.runs.records import CHECKPOINTS, CONFIG, DATA, SUMMARY, Summary, find_data, read_config
from job.shutdown import Stop
from job.storage.opening import canonical, is_bucket

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
        require_configuration(folder)
        return config, find_data(folder, config, stop=stop)
    stored = read_config(folder)
    merged = merge(folder, config, given)
    if "data" in given and manifest.exists(named := locate(config.source.data, config.feed, stop)):
        return merged, named.absolute() if isinstance(named, Path) else named
    out = canonical(config.output.out) if is_bucket(config.output.out) else config.output.out
    if is_bucket(out):  # the folder may have been copied to another bucket
        stored = replace(stored, out=out)
    data = find_data(folder, stored, "" if before is None else before.fingerprint, config.feed, stop)
    if not manifest.exists(data) and not manifest.unfinished(data):
        raise UserError(str(data), "the data set of this run is not found there", "give its folder with --data")
    if data != folder / DATA and str(data) not in (stored.source.data, f"{out}/{DATA}"):
        console.log(f"the data set of this run is found in {data}")
    return merged, data


def require_configuration(folder: Path) -> None:
    """Refuse to start where there are checkpoints and no `config.toml` says of what."""
    if not (folder / CONFIG).exists() and checkpoints.names(folder / CHECKPOINTS):
        fix = "restore it, copy that of a run with the same options, or start in a new --out"
        raise UserError(str(folder / CONFIG), "is missing, and the run has checkpoints", fix)


def require_nothing_saved(folder: Path, before: Summary | None) -> None:
    """Refuse to start afresh where an earlier start has saved checkpoints, and all are gone."""
    if before is not None and before.steps:
        what = f"holds no checkpoint, and {SUMMARY} says that one of step {before.steps:,} was saved"
        raise UserError(str(folder / CHECKPOINTS), what, "restore it, or start in a new --out")


def settings(config: Resolved) -> dict[str, Any]:
    """The options that shaped the weights and may not change, as a checkpoint keeps them."""
    values = leaves(config)
    return {knob.name: values[knob.name] for knob in knobs(Config) if knob.is_result and knob.name not in CHANGEABLE}


def require_unchanged(folder: Path, config: Config, given: Collection[str]) -> None:
    """Refuse a result field that is given now and differs from the run's, once there is a checkpoint that it would spoil."""
    stored, values = leaves(read_config(folder)), leaves(config)
    _require_undamaged(folder, stored)
    for knob in knobs(Config) if checkpoints.names(folder / CHECKPOINTS) else ():
        name = knob.name
        if knob.is_result and name in given and name not in CHANGEABLE and values[name] not in (None, stored[name]):
            raise UserError(
                knob.flag, f"{_text(values[name])} differs from the run's {_text(stored[name])} in {folder}",
                "leave it out to resume, or start a new --out",
            )  # fmt: skip


def merge(folder: Path, config: Config, given: Collection[str]) -> Config:
    """The configuration of a resumed run: result fields from the run, the others from `config`.

    Args:
        given: the knobs that the user set for this start.

    Raises:
        UserError: a result field given now differs from the run's.
    """
    require_unchanged(folder, config, given)
    stored, values = leaves(read_config(folder)), leaves(config)
    begun = bool(checkpoints.names(folder / CHECKPOINTS))
    for knob in knobs(Config):
        name = knob.name
        if not knob.is_result:
            if knob.table in ("source", "prepare") and name not in given:
                values[name] = stored[name]
            continue
        if name in given and values[name] is not None and values[name] != stored[name]:
            if begun:
                console.log(f"{knob.flag} changes from {stored[name]} to {values[name]}: the bits will differ from now on")
            continue
        values[name] = stored[name]
    merged: Config = build(Config, values)
    return merged


def _require_undamaged(folder: Path, stored: Mapping[str, Any]) -> None:
    """Refuse a `config.toml` that is not what the run was trained with: damaged, or edited."""
    for name, value in checkpoints.settings(folder / CHECKPOINTS).items():
        trained = tuple(value) if isinstance(value, list) else value
        if stored.get(name, trained) != trained:
            what = "is missing or auto" if stored[name] is None else f"is {_text(stored[name])}"
            raise UserError(
                f"{folder / CONFIG} {name}", f"{what}, and the run was trained with {_text(trained)}", "set it to that to resume",
            )  # fmt: skip


def _text(value: object) -> str:
    return ",".join(str(v) for v in value) if isinstance(value, tuple) else str(value)
