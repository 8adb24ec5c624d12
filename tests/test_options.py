"""Where options come from: precedence, names, types, ranges, TOML. All through the command line's reader."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.cli import COMMANDS, read
from job.config import effects, lengths
from job.config.options import Knob, Request, build, knobs, leaves, nearest, read_keywords, read_toml, replace, to_toml
from job.config.schema import Config, EvaluateConfig, PrepareConfig
from job.errors import UserError
from job.storage import local


def _train(argv: list[str], environ: dict[str, str] | None = None) -> Any:
    return read("train", argv, environ or {}).config


def _refused(argv: list[str], environ: dict[str, str] | None = None, command: str = "train") -> str:
    with pytest.raises(UserError) as caught:
        read(command, argv, environ or {})
    assert caught.value.code == 2
    return str(caught.value)


def _file(folder: Path, text: str) -> str:
    path = folder / "c.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = _file(tmp_path, "[schedule]\nepochs = 3\nseed = 3\npatience = 3\n")
    environ = {"TWOFOLD_EPOCHS": "2", "TWOFOLD_SEED": "2"}
    request = read("train", ["--config", file, "--epochs", "1"], environ)
    schedule = request.config.schedule
    assert (schedule.epochs, schedule.seed, schedule.patience, schedule.monitor) == (1, 2, 3, "log_loss")
    assert request.given == {"epochs", "seed", "patience"}
    assert request.fixed == {"epochs", "seed"}
    assert request.flags == {"epochs"}


def test_lengths_are_read_where_they_are_given(tmp_path: Path) -> None:
    """A bare number is minutes, as it was when the option was a number, in files that are older than its units too."""
    assert lengths.interval("60s", "") == lengths.interval("1", "") == lengths.interval("1m", "") == lengths.Interval(seconds=60)
    assert lengths.interval("1step", "") == lengths.Interval(steps=1)
    assert lengths.interval("1epoch", "") == lengths.Interval(math.inf, math.inf)
    assert [lengths.limit(text, "") for text in ("90m", "0", "")] == [5400, math.inf, math.inf]
    for value, text in (("5.0", "5.0"), ("5", "5"), ("1e-06", "1e-06"), ("'500steps'", "500steps")):
        assert _train(["--config", _file(tmp_path, f"[run]\nsave_every = {value}\n")]).run.save_every == text
    assert read_keywords({"save_every": 5.0}, Config) == {"save_every": "5.0"}
    what = "is not an interval between checkpoints; give a time, steps or 1epoch, as 60s, 10m, 500steps"
    assert _refused(["--save-every", "soon"]).startswith(f"--save-every: 'soon' {what}")
    assert _refused([], {"TWOFOLD_SAVE_EVERY": "0"}).startswith(f"TWOFOLD_SAVE_EVERY: '0' {what}")
    file = _file(tmp_path, "[run]\nsave_every = 0\n")
    assert _refused(["--config", file]).startswith(f"{file} [run] save_every: '0' {what}")
    assert _refused(["--config", _file(tmp_path, "[run]\nsave_every = true\n")]).endswith(
        "True is not a text; give 60s|10m|500steps|1epoch"
    )


def test_auto_in_a_stronger_source_undoes_a_weaker_one(tmp_path: Path) -> None:
    file = _file(tmp_path, "[model]\nsize = 64\n[optimizer]\nlr = 0.5\n")
    config = _train(["--config", file, "--size", "auto"], {"TWOFOLD_LR": "auto"})
    assert config.model.size is None
    assert config.optimizer.lr is None


def test_no_flag_turns_a_file_s_true_off(tmp_path: Path) -> None:
    file = _file(tmp_path, "[model]\nbatchnorm = true\n[machine]\ndeterministic = true\n")
    config = _train(["--config", file, "--no-batchnorm", "--no-deterministic"])
    assert config.model.batchnorm is False
    assert config.machine.deterministic is False


@pytest.mark.parametrize(
    ("argv", "environ", "message"),
    [
        (["--epoch", "3"], {}, "--epoch: unknown option; did you mean --epochs?"),
        (["--train-size=32"], {}, "--train-size: unknown option; did you mean --train-sizes?"),
        ([], {"TWOFOLD_EPOCH": "3"}, "TWOFOLD_EPOCH: unknown environment variable; did you mean TWOFOLD_EPOCHS?"),
        (["--json"], {}, "--json: unknown option; it belongs to twofold evaluate"),
        (["cats"], {}, "cats: is one argument too many for twofold train; see --help"),
        (["--epochs"], {}, "--epochs: expected one argument; see twofold train --help"),
        (["--epochs", "three"], {}, "--epochs: 'three' is not a whole number; give N"),
        (["--epochs", "2.0"], {}, "--epochs: '2.0' is not a whole number; give N"),
        (["--lr", "fast"], {}, "--lr: 'fast' is not a number; give X"),
        (["--lr", "nan"], {}, "--lr: 'nan' is not a number; give X"),
        (["--lr", "inf"], {}, "--lr: 'inf' is not a number; give X"),
        (["--lr", "0"], {}, "--lr: 0.0 is not above 0; give more than 0"),
        (["--lr", "-1"], {}, "--lr: -1.0 is not above 0; give more than 0"),
        (["--epochs", "0"], {}, "--epochs: 0 is below 1; give at least 1"),
        (["--val", "0.95"], {}, "--val: 0.95 is above 0.9; give at most 0.9"),
        (["--filters", "8,x"], {}, "--filters: '8,x' is not a list of numbers; give N,N,..."),
        (["--filters", "8,0"], {}, "--filters: 0 is below 1; give at least 1"),
        (["--epochs", "auto"], {}, "--epochs: 'auto' is not a whole number; give N"),
        (["--model", "residul"], {}, "--model: 'residul' is not one of classic, residual; did you mean residual?"),
        ([], {"TWOFOLD_XLA": "maybe"}, "TWOFOLD_XLA: 'maybe' is not true or false; give true or false"),
        ([], {"TWOFOLD_SEED": ""}, "TWOFOLD_SEED: '' is not a whole number; give N"),
    ],
)
def test_mistakes_on_flags_and_in_the_environment(argv: list[str], environ: dict[str, str], message: str) -> None:
    assert _refused(argv, environ) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[modle]\nsize = 64", " [modle]: unknown table; did you mean model?"),
        ("[model]\nsise = 64", " [model] sise: unknown key; did you mean size?"),
        ("[model]\nepochs = 64", " [model] epochs: unknown key; it belongs under [schedule]"),
        ("epochs = 64", " [epochs]: unknown key outside a table; put it under [schedule]"),
        ("model = 64", " [model]: is a table, not a value; write [model] above its keys"),
        ("[model]\nsize = 64.5", " [model] size: 64.5 is not a whole number; give N"),
        ("[model]\nsize = true", " [model] size: True is not a whole number; give N"),
        ("[model]\nsize = [64]", " [model] size: [64] is not a whole number; give N"),
        ("[model]\nsize = 8", " [model] size: 8 is below 16; give at least 16"),
        ("[model]\nmodel = 3", " [model] model: 3 is not a text; give classic|residual"),
        ("[model]\nfilters = 8", " [model] filters: 8 is not a list of numbers; give N,N,..."),
        ("[model]\nfilters = [8, 1.5]", " [model] filters: [8, 1.5] is not a list of numbers; give N,N,..."),
        ("[model]\nbatchnorm = 1", " [model] batchnorm: 1 is not true or false; give true or false"),
        ("[optimizer]\nlr = false", " [optimizer] lr: False is not a number; give X"),
        ("[optimizer]\nlr = inf", " [optimizer] lr: inf is not a number; give X"),
        ("[optimizer]\nlr = 1" + 400 * "0", " is not a number; give X"),
        ("[optimizer]\nlr = 1979-05-27", " is not a number; give X"),
        ("[model\n", " is not valid TOML"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    file = _file(tmp_path, text + "\n")
    line = _refused(["--config", file])
    assert line.startswith(file)
    assert message in line.replace(f"{file}: is not valid", f"{file} is not valid")


def test_a_file_that_is_not_there_is_a_folder_or_not_utf8(tmp_path: Path) -> None:
    assert _refused(["--config", str(tmp_path / "no.toml")]).endswith("configuration file not found; check the name given to --config")
    assert "is a folder, not a configuration file" in _refused(["--config", str(tmp_path)])
    (tmp_path / "latin.toml").write_bytes(b'[output]\nout = "caf\xe9"\n')
    assert "is not valid TOML" in _refused(["--config", str(tmp_path / "latin.toml")])


def test_a_variable_of_another_command_is_no_error() -> None:
    environ = {"TWOFOLD_SPLIT": "all", "TWOFOLD_FORMAT": "csv", "TWOFOLD_SIDE": "64"}
    assert _train([], environ).prepare.side == 64
    assert read("prepare", [], environ).config.prepare.side == 64
    assert read("evaluate", ["run"], environ).config.evaluation.split == "all"
    with pytest.raises(UserError, match="TWOFOLD_SPLITS: unknown environment variable; did you mean TWOFOLD_SPLIT"):
        read("prepare", [], {"TWOFOLD_SPLITS": "all"})


def test_other_variables_are_left_alone() -> None:
    assert _train([], {"EPOCHS": "x", "TWO_EPOCHS": "x"}) == Config()


def test_values_are_read_from_every_kind_of_text() -> None:
    config = _train(["--train-sizes", "32, 48", "--grow-at", "0.5", "--lr", "1e-3", "--dense", ""], {"TWOFOLD_XLA": "ON"})
    assert config.schedule.train_sizes == (32, 48)
    assert config.schedule.grow_at == (0.5,)
    assert config.optimizer.lr == 0.001
    assert config.model.dense == ()
    assert config.machine.xla is True


def test_a_whole_number_in_a_file_is_a_number(tmp_path: Path) -> None:
    lr = _train(["--config", _file(tmp_path, "[optimizer]\nlr = 1\n")]).optimizer.lr
    assert lr == 1.0
    assert isinstance(lr, float)


def _values(knob: Knob) -> st.SearchStrategy[Any]:
    meta = knob.field.metadata
    low = meta["low"] if meta["low"] is not None else meta["above"]
    kind = knob.element or knob.kind
    one: st.SearchStrategy[Any]
    if meta["parse"] is not None:
        return st.sampled_from(["90s", "2.5h", "1e-3m"])
    if meta["choices"]:
        one = st.sampled_from(meta["choices"])
    elif kind is bool:
        one = st.booleans()
    elif kind is int:
        one = st.integers(low, meta["high"] if meta["high"] is not None else 2**62)
    elif kind is float:
        one = st.floats(low, meta["high"], exclude_min=meta["above"] is not None, allow_nan=False, allow_infinity=False)
    else:
        one = st.text() | st.sampled_from(['"', "a\\b", "C:\\new\\u0041", "'''", '"""\n', "\r\n", "\x7f\x00\x1f", "\u2028\ufeff", "é🐈"])
        if knob.field.default is None:
            one = one.filter(lambda text: text != "auto")
    if knob.kind is tuple:
        one = st.lists(one, max_size=4).map(tuple)
    return st.none() | one if knob.field.default is None else one


@pytest.mark.parametrize("tree", [Config, PrepareConfig, EvaluateConfig])
def test_toml_gives_back_any_configuration_exactly(tree: type, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("toml") / "config.toml"

    @settings(deadline=None, max_examples=40)
    @given(st.fixed_dictionaries({knob.name: _values(knob) for knob in knobs(tree)}))
    def check(values: dict[str, Any]) -> None:
        config = build(tree, values)
        local.write_atomic(path, to_toml(config))
        again = read_toml(path, tree)
        assert again == leaves(config) == values
        assert {name: type(value) for name, value in again.items()} == {name: type(value) for name, value in values.items()}
        assert build(tree, again) == config

    check()


def test_replace_changes_one_leaf_alone() -> None:
    before = Config()
    after = replace(before, epochs=7)
    assert {name for name, value in leaves(after).items() if value != leaves(before)[name]} == {"epochs"}


def test_leaf_names_are_unique_and_mean_the_same_everywhere() -> None:
    meanings: dict[str, set[Any]] = defaultdict(set)
    for command in COMMANDS.values():
        names = [knob.name for knob in knobs(command.tree)]
        assert len(names) == len(set(names))
        flags = [knob.flag for knob in knobs(command.tree)]
        flags += [f"--no-{knob.flag[2:]}" for knob in knobs(command.tree) if knob.kind is bool]
        assert len(flags) == len(set(flags))
        assert not {"--config", "--quiet", "--help", "--help-all", "--version"} & set(flags)
        for knob in knobs(command.tree):
            meta = knob.field.metadata
            meanings[knob.name].add((knob.table, meta["help"], meta["unit"], knob.field.default, str(knob.kind)))
    assert len(meanings) > 50
    assert {name: m for name, m in meanings.items() if len(m) > 1} == {}


def _help(command: str, flag: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        read(command, [flag], {})
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_all_has_a_line_for_every_knob(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = _help(command, "--help-all", capsys)
    text = "".join(out.split())
    for knob in knobs(COMMANDS[command].tree):
        meta = knob.field.metadata
        assert meta["help"].strip(), knob.name
        assert re.search(rf"^  {knob.flag}[ ,\n]", out, re.MULTILINE), knob.flag
        assert "".join(meta["help"].split()) in text, knob.name
        if knob.field.default is None:
            assert meta["auto"], f"{knob.name}: help does not say what auto is"
            assert "".join(f"(default: auto: {meta['auto']})".split()) in text, knob.name


@pytest.mark.parametrize("flag", ["--help", "--help-all"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal_of_80_columns_and_breaks_no_word(command: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = _help(command, flag, capsys)
    assert all(len(line) <= 80 for line in out.splitlines())
    if flag == "--help-all":
        assert {word for knob in knobs(COMMANDS[command].tree) for word in knob.field.metadata["help"].split()} <= set(out.split())


def test_the_help_of_train_shows_ten_options_and_where_the_others_are(capsys: pytest.CaptureFixture[str]) -> None:
    out = _help("train", "--help", capsys)
    shown = {knob.name for knob in knobs(Config) if re.search(rf"^  {knob.flag}[ ,\n]", out, re.MULTILINE)}
    assert shown == {"data", "out", "val", "model", "size", "augment", "lr", "epochs", "batch", "gpus"}
    assert f"{len(knobs(Config)) - 10} more options: twofold train --help-all" in out
    assert "more options" not in _help("prepare", "--help", capsys)


def test_nearest_lists_a_few_names_and_points_to_help_for_many() -> None:
    assert nearest("zzz", ["ab", "cd"]) == "known: ab, cd"
    assert nearest("zzz", [f"name{k}" for k in range(13)]) == "see --help"
    assert nearest("naem3", ["name3"]) == "did you mean name3?"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--epocs", "--epochs"),
        ("--lrr", "--lr"),
        ("--weightdecay", "--weight-decay"),
        ("--batch-size", "--batch"),
        ("--optimiser", "--optimizer"),
        ("--sead", "--seed"),
        ("--pretrained", None),
        ("--learning-rate", None),
        ("--rate", None),
        ("--imagenet", None),
        ("--output-width", None),
    ],
)
def test_what_is_not_close_is_not_proposed(typed: str, meant: str | None) -> None:
    assert nearest(typed, [knob.flag for knob in knobs(Config)]) == (f"did you mean {meant}?" if meant else "see --help")


def test_keywords_of_python_are_read_as_strictly_as_flags(tmp_path: Path) -> None:
    values = read_keywords(dict(data=tmp_path, filters=(8, 16), lr=1, batch=None, size="auto", xla=True), Config)
    assert values == dict(data=str(tmp_path), filters=(8, 16), lr=1.0, batch=None, size=None, xla=True)
    for keywords, line in (
        (dict(epocs=5), "epocs: unknown option; did you mean epochs?"),
        (dict(batch_size=5), "batch_size: unknown option; did you mean batch?"),
        (dict(epochs="five"), "epochs: 'five' is a text, not a whole number; give N without quotation marks"),
        (dict(epochs=None), "epochs: None is not a whole number; give N"),
        (dict(lr=-1), "lr: -1.0 is not above 0; give more than 0"),
    ):
        with pytest.raises(UserError) as caught:
            read_keywords(keywords, Config)
        assert str(caught.value) == line


def _asked(command: str, *argv: str, environ: dict[str, str] | None = None) -> Request:
    return read(command, argv, environ or {})


@pytest.mark.parametrize(
    ("command", "argv", "line"),
    [
        ("train", ["--dense", "8"], "--dense: has no effect: the residual model has no dense layers; remove it, or use --model classic"),
        ("train", ["--batchnorm"], "--batchnorm: has no effect: the residual model always uses it; remove it, or use --model classic"),
        ("train", ["--dry-run", "--show-augment=x.png"], "--dry-run: has no effect: --show-augment exits before it; give one of the two"),
        ("sweep", ["--threads", "1"], "--threads: has no effect: a trial has its own; use --cpus-per-trial"),
        ("sweep", ["--workers", "1"], "--workers: has no effect: a trial has its own; use --cpus-per-trial"),
        (
            "sweep", ["--engine=keras-tuner", "--first-rung=2"],
            "--first-rung: has no effect: keras-tuner has no ASHA; remove it, or use --engine ray",
        ),
        (
            "sweep", ["--engine=keras-tuner", "--search=random", "--reduction=2"],
            "--reduction: has no effect: this search has no rungs; remove it, or use --search hyperband",
        ),
    ],
)  # fmt: skip
def test_a_flag_without_effect_is_refused(command: str, argv: list[str], line: str) -> None:
    request = _asked(command, *argv)
    with pytest.raises(UserError) as caught:
        effects.check(request, request.config)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("train", ["--model=classic", "--dense=8", "--batchnorm", "--threads=1", "--workers=1", "--dry-run"]),
        ("train", ["--no-batchnorm"]),  # refused with a reason of its own
        ("sweep", ["--dense=8", "--space=s.toml"]),  # which may search the network
        ("sweep", ["--first-rung=2", "--reduction=2"]),
        ("sweep", ["--engine=keras-tuner", "--reduction=2"]),
    ],
)
def test_a_flag_with_an_effect_passes(command: str, argv: list[str]) -> None:
    request = _asked(command, *argv)
    assert effects.check(request, request.config) == ""


def test_what_a_file_or_a_variable_sets_without_effect_is_named(tmp_path: Path) -> None:
    file = _file(tmp_path, "[model]\ndense = [8]\nbatchnorm = true\n[work]\nworkers = 2\n")
    request = _asked("sweep", "--config", file, environ={"TWOFOLD_THREADS": "2"})
    own = "threads (a trial has its own), workers (a trial has its own)"
    line = f"note: without effect here: dense (the residual model has no dense layers), {own}"
    assert effects.check(request, request.config) == line


def test_options_of_prepare_must_say_what_ready_shards_are(tmp_path: Path) -> None:
    settings = dict(side=160, val=0.1, test=0.0, positive="", max_bad=0.01)

    def check(*argv: str) -> str:
        return effects.check_prepared(_asked("train", *argv), settings, ("cats", "dogs"), "shards")

    assert check("--side=160", "--val=0.1", "--positive=dogs") == ""
    assert effects.check_prepared(_asked("train", "--positive=Dog"), {**settings, "positive": "Dog"}, ("cats", "dogs"), "shards") == ""
    for flag, was in (
        ("--side=99", "160"),
        ("--val=0.2", "0.1"),
        ("--test=0.2", "0.0"),
        ("--positive=cats", "dogs"),
        ("--max-bad=0.5", "0.01"),
        ("--levels=auto", "full"),
        ("--classes=cats,birds", "the default"),
        ("--zip-encoding=gbk", "the default"),
    ):
        with pytest.raises(UserError) as caught:
            check(flag)
        name = flag.split("=")[0]
        fix = f"leave {name} out, or prepare the images anew with a new --out"
        assert str(caught.value) == f"{name}: has no effect: shards is already prepared, with {was}; {fix}"
    file = _file(tmp_path, "[prepare]\nval = 0.2\ntest = 0.0\nside = 99\n")
    assert check("--config", file) == "note: without effect here: side, val (shards is already prepared)"
