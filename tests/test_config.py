"""What `auto` becomes, and the checks of knobs against each other."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.config.options import build, knobs, leaves
from job.config.resolve import Resolved, gpus, resolve, strengths
from job.config.schema import Config
from job.errors import UserError

IMAGES = 18_000


def _resolved(**values: Any) -> dict[str, Any]:
    return leaves(resolve(build(Config, values), IMAGES))


def _refused(images: int = IMAGES, **values: Any) -> str:
    with pytest.raises(UserError) as caught:
        resolve(build(Config, values), images)
    assert caught.value.code == 2
    return str(caught.value)


def _subset(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert {name: found[name] for name in wanted} == wanted


def test_the_residual_model_s_defaults() -> None:
    _subset(_resolved(), dict(
        size=96, filters=(64, 128, 256), augment=0.5, optimizer="muon", lr=0.05, weight_decay=0.05, smoothing=0.1, ema=0.995,
        batch=256, warmup=0.05, decay="linear", train_sizes=(48, 64, 80), grow_at=(0.45, 0.8), crop=0.35, flip=0.5,
    ))  # fmt: skip


def test_the_classic_model_s_defaults() -> None:
    _subset(_resolved(model="classic"), dict(
        size=256, filters=(32, 64, 128), augment=0.0, optimizer="adam", lr=0.001, weight_decay=0.0, smoothing=0.0, ema=0.0,
        batch=32, warmup=0.0, decay="constant", train_sizes=(256,), grow_at=(), crop=1.0, flip=0.0, mixup=0.0,
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("optimizer", "lr", "decay"), [("sgd", 0.1, 0.0005), ("adam", 0.001, 0.0), ("adamw", 0.001, 0.05), ("muon", 0.05, 0.05)]
)
def test_learning_rate_and_decay_follow_the_optimizer(optimizer: str, lr: float, decay: float) -> None:
    _subset(_resolved(optimizer=optimizer), dict(lr=lr, weight_decay=decay))


def test_what_is_given_is_kept_even_where_it_is_zero() -> None:
    given_values = dict(size=64, filters=(8,), augment=0.0, smoothing=0.0, ema=0.0, warmup=0.0, weight_decay=0.0, lr=3.0, flip=0.0)
    _subset(_resolved(optimizer="adamw", **given_values), given_values)


def test_nothing_stays_auto_and_the_types_say_so() -> None:
    """Resolved narrows each field that may be `auto`, and no other."""
    for model in ("residual", "classic"):
        assert None not in _resolved(model=model).values()
    open_fields = {knob.name for knob in knobs(Config) if knob.field.default is None}
    sections = [section for section in get_type_hints(Resolved).values() if section.__module__ == Resolved.__module__]
    narrowed = {name for section in sections for name in section.__annotations__}
    assert narrowed == open_fields


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(["residual", "classic"]), st.integers(64, 512), st.floats(0, 1))
def test_resolving_twice_changes_nothing(model: str, size: int, augment: float) -> None:
    once = resolve(build(Config, dict(model=model, size=size, augment=augment)), IMAGES)
    again = resolve(build(Config, leaves(once)), IMAGES)
    assert again == once


@pytest.mark.parametrize(
    ("model", "images", "batch"),
    [
        ("residual", 2048, 256),
        ("residual", 2047, 248),
        ("residual", 800, 96),
        ("classic", 800, 32),
        ("residual", 63, 7),
        ("residual", 3, 1),
    ],
)
def test_few_images_get_a_smaller_batch(model: str, images: int, batch: int) -> None:
    assert resolve(build(Config, dict(model=model)), images).schedule.batch == batch


def test_a_batch_of_more_than_all_images_is_refused() -> None:
    assert _refused(images=1000, batch=1001) == "--batch: 1001 is more than the 1,000 training images; use at most 1000"
    assert resolve(build(Config, dict(batch=1000)), 1000).schedule.batch == 1000


def test_strengths_at_zero_half_and_one() -> None:
    assert strengths(0.0) == dict(
        crop=1, flip=0, rotate=0, brightness=0, contrast=0, saturation=0, erase=0, mixup=0
    )  # fmt: skip
    assert strengths(0.5) == dict(
        crop=0.35, flip=0.5, rotate=0, brightness=0.2, contrast=0.2, saturation=0.2, erase=0, mixup=0
    )  # fmt: skip
    assert strengths(1.0) == dict(
        crop=0.2, flip=0.5, rotate=15, brightness=0.4, contrast=0.4, saturation=0.4, erase=0.5, mixup=0.4
    )  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(st.floats(0, 1), st.floats(0, 1))
def test_more_strength_never_weakens_an_operation(one: float, other: float) -> None:
    weak, strong = (strengths(s) for s in sorted((one, other)))
    assert strong.pop("crop") <= weak.pop("crop")
    assert all(strong[name] >= weak[name] for name in weak)


def test_an_operation_set_alone_is_left_out_of_the_table() -> None:
    _subset(_resolved(augment=1.0, rotate=3.0), dict(rotate=3.0, erase=0.5))


@settings(deadline=None, max_examples=100)
@given(st.integers(64, 2048))
def test_training_squares_rise_to_the_size_seen_in_evaluation(size: int) -> None:
    sizes = _resolved(size=size)["train_sizes"]
    assert len(sizes) == 3
    assert list(sizes) == sorted(sizes)
    assert all(side % 8 == 0 for side in sizes)
    assert sizes[-1] <= size
    assert abs(sizes[0] - size / 2) <= 4


def test_shares_are_even_where_there_are_not_three_resolutions() -> None:
    assert _resolved(train_sizes=(32, 48))["grow_at"] == (0.5,)
    assert _resolved(train_sizes=(32, 48, 64, 80))["grow_at"] == (0.25, 0.5, 0.75)


def test_grow_at_must_fit_the_resolutions() -> None:
    line = "--grow-at: {} shares for {} resolutions in --train-sizes; give one rising share for each resolution after the first"
    assert _refused(grow_at=(0.5,)) == line.format(1, 3)
    assert _refused(train_sizes=(32,), grow_at=(0.5,)) == line.format(1, 1)
    assert _refused(grow_at=(0.8, 0.4)) == line.format(2, 3)
    assert _refused(train_sizes=()).startswith("--train-sizes: the list is empty")


def test_stages_must_leave_something_of_the_input() -> None:
    line = "--filters: 5 stages halve an input of 48 px away; use fewer stages or at least 64 px"
    assert _refused(filters=(8, 8, 8, 8, 8)) == line
    assert "6 stages halve an input of 32 px away" in _refused(model="classic", size=32, filters=(8,) * 6)
    assert _resolved(model="classic", size=32, filters=(8,) * 5)["filters"] == (8,) * 5


def test_classic_takes_one_size_only() -> None:
    line = "--train-sizes: the dense layers of classic take one size only; leave it out, or give 256"
    assert _refused(model="classic", train_sizes=(128,)) == line


def test_residual_needs_batch_normalisation() -> None:
    assert _refused(batchnorm=False).startswith("--no-batchnorm: the residual model needs batch normalization")
    assert _resolved(model="classic", batchnorm=False)["batchnorm"] is False


def test_something_must_be_left_to_train_on() -> None:
    assert _refused(val=0.5, test=0.5) == "--val: with --test it leaves nothing to train on; let them sum to less than 1"


@pytest.mark.parametrize(
    ("text", "wanted"), [("auto", "auto"), ("all", "all"), ("none", "none"), ("3", 3), ("id:0,1", (0, 1)), ("id:5", (5,))]
)
def test_forms_of_gpus(text: str, wanted: Any) -> None:
    assert gpus(text) == wanted


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("0", "known: auto, all, none"),
        ("-1", "known"),
        ("id:", "known"),
        ("id:a", "known"),
        ("non", "did you mean none?"),
        ("1.5", "known"),
    ],
)
def test_what_is_no_choice_of_gpus(text: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        gpus(text)
    assert str(caught.value).startswith(f"--gpus: {text!r} is not a choice of GPUs; give auto, all, none, a count or id:0,1 ({hint}")
    assert _refused(gpus=text) == str(caught.value)
