"""The command `twofold`: options to configuration, errors to one line and an exit code, signals to a polite stop.

Nothing heavy is imported before a command runs, so that help is quick. TensorFlow's own lines go to the run's log
file: file descriptor 2 is turned there, and our errors keep the terminal.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from job import __version__
from job.config.options import Knob, build, convert, knobs, nearest, read_environment, read_toml, replace
from job.config.schema import Config, EvaluateConfig, Output, PredictConfig, PrepareConfig, SmokeConfig, SweepConfig, VisualizeConfig
from job.console import console
from job.errors import DONE, INTERRUPTED, MACHINE, Interrupted, JobError, UserError, from_os_error
from job.shutdown import Stop, signals

NO_DATA = """twofold train: no --data given; any of these will do, and is prepared on the way:
  your own photographs in two folders:   twofold train --data pets/ --out run     (pets/cats/*.jpg, pets/dogs/*.jpg)
  dogs and cats from Kaggle (a token):   twofold train --data kaggle:salader/dogs-vs-cats --out run"""


@dataclass(frozen=True)
class Command:
    """A sub-command: its options' tree, its positional arguments as (name, how many, help), and what it runs."""

    tree: type
    positional: tuple[tuple[str, str, str], ...]
    summary: str
    run: Callable[[Any, argparse.Namespace, set[str], Stop], int]
    stdout_is_result: bool = False


def _prepare(config: PrepareConfig, arguments: argparse.Namespace, given: set[str], stop: Stop) -> int:
    from job.prepare import prepare

    prepare(arguments.source, config, stop)
    return DONE


def _train(config: Config, arguments: argparse.Namespace, given: set[str], stop: Stop) -> int:
    folder = Path(config.output.out)
    if not config.source.data and not (config.output.out and (folder / "config.toml").exists()):
        print(NO_DATA, file=sys.stderr)
        return UserError.code
    if not config.output.out:
        raise UserError("--out", "no run folder given", "add --out RUN")
    if (folder / "sweep.json").exists():
        raise UserError(config.output.out, "is the folder of a sweep", "name another --out for the run")
    with _tensorflow_lines_to(folder):
        if config.machine.gpus not in ("auto", "none"):  # before an hour of preparing, not after
            from job.machine import devices

            devices.select(config.machine.gpus, devices.present())
        shards = _shards(config, folder, stop)
        if config.feed.cache:
            config = replace(config, data=shards)
        from job.train import train

        summary = train(config, given=given, stop=stop)
    if summary.status == "interrupted":
        raise Interrupted
    if summary.status == "done":
        console.log(f"validation accuracy {summary.accuracy:.4f} at step {summary.best_step:,}; model and curves in {folder}")
    return DONE


def _sweep(config: SweepConfig, arguments: argparse.Namespace, given: set[str], stop: Stop) -> int:
    if not config.source.data:
        raise UserError("--data", "no photographs given", "add --data, shards or any source that twofold train takes")
    from tuning.sweep import check, sweep

    check(config, arguments.fixed)
    with _tensorflow_lines_to(Path(config.output.out)):
        shards = _shards(config, Path(config.output.out), stop)
        sweep(replace(config, data=shards), arguments.fixed, stop)
    return DONE


def _shards(config: Config, folder: Path, stop: Stop) -> str:
    """Where the shards of `--data` are: what is a source is prepared, once, into the cache or the run folder."""
    from job.data import manifest

    data = Path(config.source.data)
    if not config.source.data or manifest.exists(data):
        return config.source.data
    if manifest.unfinished(data):
        manifest.read(data)  # words the error
    from job.prepare import key, prepare

    options = config.prepare
    if (folder / "config.toml").exists():
        from job.training.resume import merge

        options = merge(folder, config, {"data"}).prepare
    cache = config.feed.cache
    out = Path(cache) / f"shards-{key([config.source.data], options)}" if cache else folder / "data"
    prepare([config.source.data], PrepareConfig(prepare=options, output=Output(out=str(out)), work=config.work), stop)
    return str(out)


def _evaluate(config: EvaluateConfig, arguments: argparse.Namespace, given: set[str], stop: Stop) -> int:
    with _tensorflow_lines_to(None):
        from job.evaluate import evaluate, words

        figures = evaluate(Path(arguments.run), config, stop)
    if config.evaluation.json:
        print(json.dumps(figures))
    else:
        print(words(figures, figures["classes"]))
    return DONE


def _predict(config: PredictConfig, arguments: argparse.Namespace, given: set[str], stop: Stop) -> int:
    with _tensorflow_lines_to(None):
        from job.predict import predict

        for line in predict(Path(arguments.run), arguments.path, config, stop):
            print(line)
    return DONE


def _visualize(config: VisualizeConfig, arguments: argparse.Namespace, given: set[str], stop: Stop) -> int:
    with _tensorflow_lines_to(None):
        from job.visualize import visualize

        visualize(Path(arguments.run), arguments.image, config.output.out)
    return DONE


def _smoke(config: Any, arguments: argparse.Namespace, given: set[str], stop: Stop) -> int:
    with _tensorflow_lines_to(None):
        from job.smoke import smoke

        smoke(stop)
    return DONE


COMMANDS = {
    "prepare": Command(
        PrepareConfig,
        (("source", "*", "folder, zip, tar, CSV, kaggle:owner/dataset, kaggle:competition/NAME or https://...#sha256=..."),),
        "turn photographs into TFRecord shards with a manifest", _prepare,
    ),
    "train": Command(Config, (), "train, validate, and write the run folder; go on with a run that was stopped", _train),
    "sweep": Command(SweepConfig, (), "search dropout, filters, augmentation and any other knob, over the very same job", _sweep),
    "evaluate": Command(
        EvaluateConfig, (("run", "1", "the run folder"),), "exact figures of a run, and its most confident mistakes", _evaluate,
        stdout_is_result=True,
    ),
    "predict": Command(
        PredictConfig, (("run", "1", "the run folder"), ("path", "*", "images, folders or archives")),
        "file, class and probability for images", _predict, stdout_is_result=True,
    ),
    "visualize": Command(
        VisualizeConfig, (("run", "1", "the run folder"), ("image", "1", "an image")),
        "how the network sees an image", _visualize, stdout_is_result=True,
    ),
    "smoke": Command(SmokeConfig, (), "the whole job on one CPU core, on drawn images, in under a minute", _smoke),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        code = _main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output left: nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = DONE
    sys.exit(code)


def _main(argv: list[str]) -> int:
    try:
        return _dispatch(argv)
    except JobError as error:
        return _fail(str(error), error.code)
    except Interrupted:
        console.log("interrupted, and saved; the same command goes on")
        return INTERRUPTED
    except KeyboardInterrupt:
        return INTERRUPTED
    except MemoryError:
        return _fail("memory: it does not suffice; use a smaller --batch, --size or --memory", MACHINE)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        known = from_os_error(error)
        if known is None:
            raise
        return _fail(str(known), known.code)


def _fail(line: str, code: int) -> int:
    print(f"twofold: {line}", file=sys.stderr)
    if console.file is not None and not console.file.closed:
        console.file.write(f"twofold: {line}\n")
    return code


def _dispatch(argv: list[str]) -> int:
    if argv and argv[0] == "--version":
        print(f"twofold {__version__}")
        return DONE
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return DONE
    if argv[0] not in COMMANDS:
        raise UserError(argv[0], "unknown command", nearest(argv[0], COMMANDS))
    command = COMMANDS[argv[0]]
    arguments, config, given = read(argv[0], argv[1:], os.environ)
    console.quiet, console.json = arguments.quiet, config.log.log_format == "json"
    if command.stdout_is_result:
        console.to_stderr = True
    stop = Stop()
    with signals(stop):
        return command.run(config, arguments, given, stop)


def read(name: str, argv: Sequence[str], environ: Any) -> tuple[argparse.Namespace, Any, set[str]]:
    """Positional arguments, configuration, and the names of the knobs given, by flag, variable or file.

    Those given by flag or variable alone stand in the arguments too, as `fixed`.

    Raises:
        UserError: anything unknown or of the wrong type.
    """
    command = COMMANDS[name]
    parser = _parser(name, command)
    arguments, unknown = parser.parse_known_args(argv)
    own = knobs(command.tree)
    for word in unknown:
        if word.startswith("-"):
            flag = word.split("=")[0]
            known = [k.flag for k in own] + ["--config", "--quiet", "--help"]
            elsewhere = next((c for c in COMMANDS if flag in {k.flag for k in knobs(COMMANDS[c].tree)}), None)
            raise UserError(flag, "unknown option", f"it belongs to twofold {elsewhere}" if elsewhere else nearest(flag, known))
    if unknown:
        raise UserError(unknown[0], f"is one argument too many for twofold {name}", "see --help")
    everywhere = {k.name for c in COMMANDS.values() for k in knobs(c.tree)}
    values: dict[str, Any] = {}
    if arguments.config:
        values |= read_toml(Path(arguments.config), command.tree)
    fixed = read_environment(environ, command.tree, everywhere)
    fixed |= {k.name: convert(k, raw, k.flag) for k in own if (raw := getattr(arguments, f"knob_{k.name}")) is not None}
    arguments.fixed = set(fixed)
    return arguments, build(command.tree, values | fixed), {*values, *fixed}


_SHAPES = {"1": "{}", "*": "{}..."}


class _Parser(argparse.ArgumentParser):
    """Reports errors in house form."""

    def error(self, message: str) -> NoReturn:
        where, _, what = message.partition(": ")
        raise UserError(where.removeprefix("argument "), what, f"see {self.prog} --help") if what else UserError(self.prog, message, "")


def _parser(name: str, command: Command) -> _Parser:
    parser = _Parser(
        prog=f"twofold {name}", description=command.summary + ".", allow_abbrev=False,
        usage=" ".join([f"twofold {name}", *(_SHAPES[count].format(word.upper()) for word, count, _ in command.positional), "[options]"]),
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=118),
    )  # fmt: skip
    for word, count, text in command.positional:
        parser.add_argument(word, nargs=None if count == "1" else count, help=text)
    groups: dict[str, Any] = {}
    for knob in knobs(command.tree):
        if knob.table not in groups:
            groups[knob.table] = parser.add_argument_group(f"[{knob.table}]")
        _add(groups[knob.table], knob)
    general = parser.add_argument_group("general")
    general.add_argument("--config", metavar="FILE.toml", help="read options from the tables of a file; flags and TWOFOLD_ variables win")
    general.add_argument("--quiet", action="store_true", help="no log lines on the terminal")
    return parser


def _add(group: Any, knob: Knob) -> None:
    meta = knob.field.metadata
    default = f"auto: {meta['auto']}" if knob.field.default is None else _shown(knob.field.default)
    unit = f" [{meta['unit']}]" if meta["unit"] else ""
    text = f"{meta['help']}{unit}" + (f" (default: {default})" if default else "")
    text = text.replace("%", "%%")
    if knob.kind is bool:
        group.add_argument(knob.flag, dest=f"knob_{knob.name}", action="store_const", const="true", help=text)
        group.add_argument(f"--no-{knob.flag[2:]}", dest=f"knob_{knob.name}", action="store_const", const="false", help="the opposite")
    else:
        group.add_argument(knob.flag, dest=f"knob_{knob.name}", metavar=knob.metavar, help=text)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(str(v) for v in value) if isinstance(value, tuple) else str(value)


def _overview() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = ["twofold: from two piles of photographs to a model you can trust", "", "commands:"]
    lines += [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "twofold COMMAND --help shows every option; twofold --version the version"])


@contextmanager
def _tensorflow_lines_to(folder: Path | None) -> Iterator[None]:
    """Send what TensorFlow's C++ prints to `folder/log.txt` (or nowhere), while our own errors keep the terminal."""
    made = folder is not None and not folder.exists()
    if folder is not None:
        from job.storage import local

        local.make_folder(folder)
    log = open(os.devnull if folder is None else folder / "log.txt", "ab")  # noqa: SIM115 (closed below, after descriptor 2)
    sys.stderr.flush()
    terminal, before = os.dup(2), sys.stderr
    os.dup2(log.fileno(), 2)
    sys.stderr = ours = os.fdopen(terminal, "w", buffering=1, errors="backslashreplace")
    try:
        yield
    finally:
        ours.flush()
        os.dup2(terminal, 2)
        sys.stderr = before
        ours.close()
        log.close()
        if folder is not None and made and {p.name for p in folder.iterdir()} <= {"log.txt", ".lock"}:
            for path in [*folder.iterdir()]:  # nothing came of it: leave no empty run behind
                path.unlink()
            folder.rmdir()


if __name__ == "__main__":
    main()
