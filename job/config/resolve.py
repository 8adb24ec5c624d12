"""`auto` becomes a value: the configuration without None, the defaults behind it, and options checked against each other."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from job.config import lengths, schema
from job.config.options import build, knobs, leaves, nearest, replace
from job.config.schema import Config
from job.errors import UserError

# The defaults that depend on the model: this table is what `auto` means, and what help prints in words.
BY_MODEL: dict[str, dict[str, Any]] = {
    "residual": dict(
        size=96, filters=(64, 128, 256), augment=0.5, optimizer="muon", smoothing=0.1, ema=0.995,
        batch=256, warmup=0.05, decay="linear",
    ),
    "classic": dict(
        size=256, filters=(32, 64, 128), augment=0.0, optimizer="adam", smoothing=0.0, ema=0.0,
        batch=32, warmup=0.0, decay="constant",
    ),
}  # fmt: skip
LEARNING_RATE = dict(sgd=0.1, adam=0.001, adamw=0.001, muon=0.05)
WEIGHT_DECAY = dict(sgd=0.0005, adam=0.0, adamw=0.05, muon=0.05)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """What the machine decides of a configuration; the defaults serve where it does not matter which machine.

    `memory` is in GiB, for decoded images; `window` follows from the cache and the data set.
    """

    replicas: int = 1
    precision: str = "float32"
    deterministic: bool = True
    threads: int = 1
    workers: int = 1
    memory: float = 1.0
    window: int = 0


ANY = Hardware()


# A section of the configuration once `auto` is resolved: only the types are narrower, all else stands in the schema.


@dataclass(frozen=True, kw_only=True, slots=True)
class Model(schema.Model):
    """The network, resolved."""

    size: int
    filters: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment(schema.Augment):
    """Augmentation, resolved."""

    augment: float
    crop: float
    flip: float
    rotate: float
    brightness: float
    contrast: float
    saturation: float
    erase: float
    mixup: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer(schema.Optimizer):
    """The optimizer, resolved."""

    optimizer: str
    lr: float
    weight_decay: float
    smoothing: float
    ema: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule(schema.Schedule):
    """The schedule, resolved."""

    batch: int
    warmup: float
    decay: str
    train_sizes: tuple[int, ...]
    grow_at: tuple[float, ...]
    window: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine(schema.Machine):
    """The devices, resolved."""

    replicas: int
    precision: str
    deterministic: bool
    threads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed(schema.Feed):
    """The feed, resolved."""

    memory: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Work(schema.Work):
    """The threads of the host, resolved."""

    workers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """A training run's configuration in which nothing is `auto`."""

    source: schema.Source
    output: schema.Output
    prepare: schema.Prepare
    model: Model
    augment: Augment
    optimizer: Optimizer
    schedule: Schedule
    machine: Machine
    feed: Feed
    work: Work
    run: schema.Run
    log: schema.Log


def resolve(config: Config, images: int | None = None, hardware: Hardware = ANY) -> Resolved:
    """Replace each `auto` by its value, and check the options against each other.

    Args:
        config: as it was given.
        images: training images; None where it is not known yet how many there are.
        hardware: what the machine decides, where the configuration leaves it open.

    Raises:
        UserError: options that contradict each other.
    """
    values = {name: value for name, value in leaves(config).items() if value is not None}
    values = {**{name: getattr(hardware, name) for name in hardware.__slots__}, **BY_MODEL[config.model.model], **values}
    if config.schedule.batch is None and images is not None:  # few images: more and smaller steps
        values["batch"] = max(1, min(values["batch"], images // 8 // 8 * 8 or images // 8))
    values = {"lr": LEARNING_RATE[values["optimizer"]], "weight_decay": WEIGHT_DECAY[values["optimizer"]], **values}
    values = {**strengths(values["augment"]), **_resolutions(values), **values}
    resolved: Resolved = build(Resolved, values)
    _check(resolved, images)
    return resolved


def recorded(config: Config, resolved: Resolved) -> Config:
    """What a run folder keeps: the fields that shape the weights as resolved, the others as given, for another machine too."""
    values = leaves(resolved)
    kept: Config = replace(config, **{knob.name: values[knob.name] for knob in knobs(Config) if knob.is_result})
    return kept


def strengths(strength: float) -> dict[str, float]:
    """The table behind `--augment`: the setting of each operation."""
    lower, upper = min(2 * strength, 1.0), max(2 * strength - 1, 0.0)
    table = dict(
        crop=1 - 0.65 * lower - 0.15 * upper,
        flip=0.5 * (strength > 0),
        rotate=15.0 * upper,
        brightness=0.2 * lower + 0.2 * upper,
        contrast=0.2 * lower + 0.2 * upper,
        saturation=0.2 * lower + 0.2 * upper,
        erase=0.5 * upper,
        mixup=0.4 * upper,
    )
    return {name: round(value, 6) for name, value in table.items()}


def _resolutions(values: dict[str, Any]) -> dict[str, Any]:
    """The training resolutions, and when the next begins."""
    size, sizes = values["size"], values.get("train_sizes")
    if sizes is None:
        grows = values["model"] == "residual"
        sizes = tuple(max(8, round(size * share / 8) * 8) for share in (1 / 2, 2 / 3, 5 / 6)) if grows else (size,)
    grow_at = (0.45, 0.8) if len(sizes) == 3 else tuple(round(k / len(sizes), 6) for k in range(1, len(sizes)))
    return dict(train_sizes=sizes, grow_at=grow_at)


def _check(config: Resolved, images: int | None) -> None:
    model, schedule = config.model, config.schedule
    grow_at, sizes = schedule.grow_at, schedule.train_sizes
    if images is not None and schedule.batch > images:
        raise UserError("--batch", f"{schedule.batch} is more than the {images:,} training images", f"use at most {images}")
    for flag, values in (("--filters", model.filters), ("--train-sizes", sizes)):
        if not values:
            raise UserError(flag, "the list is empty", "give at least one number")
    if len(grow_at) != len(sizes) - 1 or list(grow_at) != sorted(grow_at):
        raise UserError(
            "--grow-at", f"{len(grow_at)} shares for {len(sizes)} resolutions in --train-sizes",
            "give one rising share for each resolution after the first",
        )  # fmt: skip
    if model.model == "residual" and not model.batchnorm:
        raise UserError("--no-batchnorm", "the residual model needs batch normalization", "use it with --model classic")
    blocks = len(model.filters) + (model.model == "residual")
    smallest = min((*sizes, model.size)) if model.model == "residual" else model.size
    if smallest >> blocks < 1:
        raise UserError(
            "--filters", f"{len(model.filters)} stages halve an input of {smallest} px away",
            f"use fewer stages or at least {2**blocks} px",
        )  # fmt: skip
    if model.model == "classic" and set(sizes) != {model.size}:
        raise UserError("--train-sizes", "the dense layers of classic take one size only", f"leave it out, or give {model.size}")
    if config.prepare.val + config.prepare.test >= 1:
        raise UserError("--val", "with --test it leaves nothing to train on", "let them sum to less than 1")
    if config.machine.xla and config.machine.deterministic:
        raise UserError("--xla", "has no deterministic max-pooling", "leave --deterministic out")
    _check_batch(schedule.batch, config.machine.replicas)
    gpus(config.machine.gpus)
    bytes_of(config.feed.cache_size)
    lengths.interval(config.run.save_every, "--save-every")
    lengths.seconds(config.run.grace, "--grace")
    lengths.limit(config.run.step_timeout, "--step-timeout")


def _check_batch(batch: int, replicas: int) -> None:
    if batch % replicas:
        below, above = batch // replicas * replicas, -(-batch // replicas) * replicas
        usable = f"{below} or {above}" if below else str(above)
        raise UserError("--batch", f"{batch} does not divide over {replicas} replicas", f"use {usable}")


def gpus(text: str) -> str | int | tuple[int, ...]:
    """Read `--gpus`: a word, a count, or the numbers of the devices."""
    if text in ("auto", "all", "none"):
        return text
    try:
        if text.startswith("id:"):
            numbers = tuple(int(part) for part in text[3:].split(","))
            if len(set(numbers)) == len(numbers):
                return numbers
            raise UserError("--gpus", f"{text} names a GPU twice", "name each once")
        if int(text) > 0:
            return int(text)
    except ValueError:
        pass
    raise UserError(
        "--gpus", f"{text!r} is not a choice of GPUs", f"give auto, all, none, a count or id:0,1 ({nearest(text, ('auto', 'all', 'none'))})"
    )


def bytes_of(text: str) -> int:
    """Read `--cache-size`: a number with a unit, as 20GB."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b\s*", text, re.I)
    if not match:
        raise UserError("--cache-size", f"{text!r} is not a size", "give a number with kB, MB, GB or TB, as 20GB")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2].lower() or " "))
