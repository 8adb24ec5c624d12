"""The search space: what a file may say, what is refused before anything starts, and what a point means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.config.options import build, convert, leaves, replace
from job.config.resolve import resolve
from job.config.schema import Config
from job.errors import UserError
from tuning import space

IMAGES = 18_000


def _read(tmp_path: Path, text: str, fixed: tuple[str, ...] = (), **base: Any) -> space.Space:
    file = tmp_path / "space.toml"
    file.write_text(text + "\n")
    return space.read(file, build(Config, base), IMAGES, fixed)


@pytest.mark.parametrize("base", [{}, {"model": "classic"}, {"optimizer": "sgd"}, {"optimizer": "adamw", "filters": (7, 9)}])
def test_the_shipped_space_fits_every_model_and_optimizer(base: dict[str, Any]) -> None:
    found = space.read(None, build(Config, base), IMAGES, ())
    assert [d.name for d in found.dimensions] == ["dropout", "filters", "depth", "augment", "lr", "weight_decay", "smoothing"]
    assert (found.dimensions[0].low, found.dimensions[0].high) == (0.0, 0.6)


@pytest.mark.parametrize("model", ["residual", "classic"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
def test_the_default_start_is_a_point_of_the_shipped_space(model: str, optimizer: str) -> None:
    base = build(Config, dict(model=model, optimizer=optimizer))
    found = space.read(None, base, IMAGES, ())
    point = found.start(resolve(base, IMAGES))
    assert point is not None
    resolved = leaves(resolve(base, IMAGES))
    assert found.values(point) == {name: resolved[name] for name in point}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
def test_each_weight_decay_of_the_shipped_space_gives_other_weights(optimizer: str) -> None:
    from job.machine.libraries import tf
    from job.training.optimizers import rules

    base = build(Config, dict(optimizer=optimizer))
    decay = next(d for d in space.read(None, base, IMAGES, ()).dimensions if d.name == "weight_decay")
    found = set()
    for choice in decay.choices:
        options = resolve(replace(base, weight_decay=choice), IMAGES).optimizer
        moved = []
        for rule, shape in zip(rules(options, ["stage1_conv/kernel", "head/kernel"], [4, 2]), [(3, 3, 2, 2), (4, 1)], strict=True):
            value, slots = tf.ones(shape), [0.1 * tf.ones(shape) for _ in rule.slots]
            moved.append(rule.apply(tf.ones(shape), value, slots, tf.constant(0.05), tf.constant(1.0))[0].numpy().tobytes())
        found.add(tuple(moved))
    assert len(found) == len(decay.choices)


@pytest.mark.parametrize(
    ("text", "base", "why"),
    [
        ("dense = { choices = [[8], [16]] }", {}, "the residual model has no dense layers"),
        ("batchnorm = { choices = [true, false] }", {}, "the residual model always has batch normalization"),
        (
            "augment = { uniform = [0.0, 1.0] }\nflip = { uniform = [0.0, 0.5] }",
            dict(crop=1.0, rotate=0.0, brightness=0.0, contrast=0.0, saturation=0.0, erase=0.0, mixup=0.0),
            "crop, flip, rotate, brightness, contrast, saturation, erase, mixup are each set by themselves",
        ),
    ],
)
def test_a_field_without_effect_is_refused(tmp_path: Path, text: str, base: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError) as caught:
        _read(tmp_path, text, **base)
    assert str(caught.value) == f"{tmp_path / 'space.toml'} {text.split()[0]}: has no effect: {why}; remove it"


def test_a_field_that_some_trials_use_is_searched(tmp_path: Path) -> None:
    text = "model = { choices = ['residual', 'classic'] }\ndense = { choices = [[8], [16]] }"
    assert [d.name for d in _read(tmp_path, text, size=64, train_sizes=(64,)).dimensions] == ["model", "dense"]
    assert [d.name for d in _read(tmp_path, "dense = { choices = [[8], [16]] }", model="classic").dimensions] == ["dense"]


def test_the_shipped_space_skips_a_field_without_effect() -> None:
    set_alone = dict(crop=1.0, flip=0.5, rotate=0.0, brightness=0.0, contrast=0.0, saturation=0.0, erase=0.0, mixup=0.0)
    found = space.read(None, build(Config, set_alone), IMAGES, ())
    assert "augment" not in [d.name for d in found.dimensions]


def test_a_fixed_field_is_not_searched(tmp_path: Path) -> None:
    text = "dropout = { uniform = [0.0, 0.6] }\ndepth = { integers = [1, 2] }"
    assert [d.name for d in _read(tmp_path, text, fixed=("dropout", "epochs")).dimensions] == ["depth"]
    with pytest.raises(UserError, match="names no field that is not fixed by a flag; remove a flag, or name more fields"):
        _read(tmp_path, text, fixed=("dropout", "depth"))


def test_each_kind_gives_values_of_its_field(tmp_path: Path) -> None:
    found = _read(
        tmp_path,
        "filters = { times = [0.5, 2.0] }\nlr = { times = [0.5, 4.0] }\nbatch = { times = [0.5, 2.0] }\ndepth = { integers = [1, 3] }\n"
        "optimizer = { choices = ['sgd', 'muon'] }\ntrain_sizes = { choices = [[32, 48, 64], [64, 64, 96]] }\nema = { log = [0.001, 0.9] }",
    )
    point = dict(filters=1.3, lr=2.0, batch=0.5, depth=2, optimizer=0, train_sizes=1, ema=0.5)
    values = dict(filters=(80, 168, 336), lr=0.1, batch=128, depth=2, optimizer="sgd", train_sizes=(64, 64, 96), ema=0.5)
    assert found.values(point) == values  # type: ignore[arg-type]


@given(st.floats(0.5, 2.0), st.lists(st.integers(1, 512), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_scaled_filters_stay_a_list_of_filters(factor: float, filters: list[int]) -> None:
    base = build(Config, dict(filters=tuple(filters), size=512, train_sizes=(512,)))
    dimension = space.Dimension(_knob("filters"), "times", 0.5, 2.0, start=base.model.filters)
    value = dimension.value(factor)
    assert convert(_knob("filters"), list(value), "", typed=True) == value
    assert len(value) == len(filters)
    assert dimension.value(1.0) == tuple(filters)
    unit = 8 if all(f % 8 == 0 for f in filters) else 1
    assert all(abs(v - f * factor) <= unit / 2 or v == unit for v, f in zip(value, filters, strict=True))


def _knob(name: str) -> Any:
    from job.config.options import knobs

    return next(k for k in knobs(Config) if k.name == name)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("dropuot = { uniform = [0.0, 0.6] }", "dropuot: unknown field; did you mean dropout?"),
        ("[model]\ndropout = { uniform = [0.0, 0.6] }", "model: is a table, and a space has no tables; write its fields without [model]"),
        ("workers = { integers = [1, 2] }", "workers: cannot be searched: it does not shape the weights; remove it"),
        ("seed = { integers = [1, 2] }", "seed: cannot be searched: all trials share one seed; remove it"),
        ("threads = { integers = [1, 2] }", "threads: cannot be searched: it is --cpus-per-trial; remove it"),
        ("dropout = 0.3", "dropout: is not a range; write dropout = { KIND = [...] }, where KIND is one of uniform, log, integers,"),
        ("dropout = { between = [0.0, 0.6] }", "dropout: is not a range; write"),
        ("dropout = { uniform = [0.0] }", "dropout: [0.0] is not [low, high]; give uniform = [low, high]"),
        ("dropout = { uniform = ['a', 'b'] }", "dropout: ['a', 'b'] are not two numbers; give uniform = [low, high]"),
        ("dropout = { uniform = [0.6, 0.0] }", "dropout: the range from 0.6 to 0.0 is empty; give the smaller number first"),
        ("dropout = { uniform = [0.0, 1.5] }", "dropout: 1.5 is above 0.95; give at most 0.95"),
        ("dropout = { log = [0.0, 0.5] }", "dropout: log needs numbers above 0, not 0.0; raise the first number, or use uniform"),
        ("dropout = { integers = [0, 1] }", "dropout: integers does not fit --dropout; use uniform, log or times"),
        ("dropout = { times = [0.5, 2.0] }", "dropout: the starting value is 0.0, which cannot be multiplied; use uniform,"),
        ("depth = { uniform = [1, 2] }", "depth: uniform does not fit --depth; use integers or times"),
        ("depth = { integers = [1.5, 2] }", "depth: [1.5, 2] are not whole numbers; give integers = [low, high]"),
        ("model = { uniform = [1, 2] }", "model: uniform does not fit --model; use choices"),
        ("model = { choices = ['classic'] }", "model: ['classic'] is not a list of at least two values; give choices = [..., ...]"),
        ("model = { choices = ['classic', 'clasic'] }", "model: 'clasic' is not one of classic, residual; did you mean classic?"),
        ("dropout = { choices = [0.1, 0.1] }", "dropout: names a choice twice; name each once"),
        ("size = { choices = [16, 96] }\nfilters = { choices = [[8], [8, 8, 8, 8, 8, 8, 8]] }", "contradicts the other options ("),
        ("dropout = {", " is not valid TOML ("),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        _read(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "space.toml"))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.toml: not found; check the name given to --space"):
        space.read(tmp_path / "none.toml", Config(), IMAGES, ())


def test_a_start_outside_the_space_is_no_point(tmp_path: Path) -> None:
    found = _read(tmp_path, "dropout = { uniform = [0.1, 0.6] }")
    assert found.start(resolve(Config(), IMAGES)) is None
