"""`auto` becomes a value: the defaults that depend on the model, and the checks of knobs against each other."""

from __future__ import annotations

from typing import Any

from job.config.options import nearest, replace
from job.config.schema import Augment, Config
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
WEIGHT_DECAY = dict(sgd=0.0005, adamw=0.05)


def resolve(config: Config, images: int) -> Config:
    """Replace each `auto` that depends on other knobs and on the number of training images, and check them.

    What depends on the machine (replicas, precision, threads, workers) is resolved by `job/machine/devices.py`.

    Raises:
        UserError: knobs that contradict each other.
    """
    values: dict[str, Any] = {}
    by_model = BY_MODEL[config.model.model]
    for section in (config.model, config.augment, config.optimizer, config.schedule):
        for name in by_model.keys() & set(section.__slots__):
            if getattr(section, name) is None:
                values[name] = by_model[name]
    if "batch" in values:  # few images: more and smaller steps
        values["batch"] = max(1, min(values["batch"], images // 8 // 8 * 8 or images // 8))
    config = replace(config, **values)
    if int(config.schedule.batch or 0) > images:
        raise UserError("--batch", f"{config.schedule.batch} is more than the {images:,} training images", f"use at most {images}")
    optimizer = str(config.optimizer.optimizer)
    values = strengths(config.augment)
    if config.optimizer.lr is None:
        values["lr"] = LEARNING_RATE[optimizer]
    if config.optimizer.weight_decay is None:
        values["weight_decay"] = WEIGHT_DECAY.get(optimizer, 0.0)
    values |= _sizes(config)
    config = replace(config, **values)
    _check(config)
    return config


def strengths(augment: Augment) -> dict[str, float]:
    """The table behind `--augment`: each operation's setting, where it is not set alone."""
    s = augment.augment or 0.0
    lower, upper = min(2 * s, 1.0), max(2 * s - 1, 0.0)
    table = dict(
        crop=1 - 0.65 * lower - 0.15 * upper,
        flip=0.5 * (s > 0),
        rotate=15.0 * upper,
        brightness=0.2 * lower + 0.2 * upper,
        contrast=0.2 * lower + 0.2 * upper,
        saturation=0.2 * lower + 0.2 * upper,
        erase=0.5 * upper,
        mixup=0.4 * upper,
    )
    return {name: round(value, 6) for name, value in table.items() if getattr(augment, name) is None}


def _sizes(config: Config) -> dict[str, Any]:
    size, sizes = int(config.model.size or 0), config.schedule.train_sizes
    if sizes is None:
        grows = config.model.model == "residual"
        sizes = tuple(max(8, round(size * share / 8) * 8) for share in (1 / 2, 2 / 3, 5 / 6)) if grows else (size,)
    grow_at = config.schedule.grow_at
    if grow_at is None:
        grow_at = (0.45, 0.8) if len(sizes) == 3 else tuple(round(k / len(sizes), 6) for k in range(1, len(sizes)))
    return dict(train_sizes=sizes, grow_at=grow_at)


def _check(config: Config) -> None:
    model, schedule = config.model, config.schedule
    grow_at, sizes = schedule.grow_at or (), schedule.train_sizes or ()
    for flag, values in (("--filters", model.filters), ("--train-sizes", sizes)):
        if not values:
            raise UserError(flag, "the list is empty", "give at least one number")
    if len(grow_at) != len(sizes) - 1 or list(grow_at) != sorted(grow_at):
        raise UserError(
            "--grow-at", f"{len(grow_at)} shares for {len(sizes)} squares in --train-sizes",
            "give one rising share for each square after the first",
        )  # fmt: skip
    if model.model == "residual" and not model.batchnorm:
        raise UserError("--no-batchnorm", "the residual model needs batch normalisation", "use it with --model classic")
    blocks = len(model.filters or ()) + (model.model == "residual")
    smallest = min((*sizes, int(model.size or 0))) if model.model == "residual" else int(model.size or 0)
    if smallest >> blocks < 1:
        raise UserError(
            "--filters", f"{len(model.filters or ())} stages halve a square of {smallest} px away",
            f"use fewer stages or at least {2**blocks} px",
        )  # fmt: skip
    if model.model == "classic" and set(sizes) != {model.size}:
        raise UserError("--train-sizes", "the dense layers of classic take one size only", f"leave it out, or give {model.size}")
    if config.prepare.val + config.prepare.test >= 1:
        raise UserError("--val", "with --test it leaves nothing to train on", "let them sum to less than 1")
    if config.machine.xla and config.machine.deterministic:
        raise UserError("--xla", "has no deterministic max-pooling", "leave --deterministic out")
    gpus(config.machine.gpus)


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


def seconds(text: str) -> float:
    """Read `--time-budget`: a number with s, m or h; infinity where it is empty."""
    if not text:
        return float("inf")
    try:
        length = float(text[:-1]) * dict(s=1, m=60, h=3600)[text[-1]]
    except (KeyError, ValueError):
        length = 0.0
    if not 0 < length < float("inf"):
        raise UserError("--time-budget", f"{text!r} is not a length of time", "give a number with s, m or h, as 90m")
    return length
