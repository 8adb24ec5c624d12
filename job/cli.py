"""The command `twofold`: options to configuration, errors to one line and an exit code, signals to a graceful shutdown.

Nothing heavy is imported before a command runs, so that help is quick. What TensorFlow prints goes to the run's log
file: file descriptor 2 is turned there, and our errors keep the terminal.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from job import __version__, commands
from job.addresses import standing_for
from job.config.options import Knob, Request, build, convert, knobs, nearest, read_environment, read_toml
from job.config.schema import Config, DrillConfig, EvaluateConfig, PredictConfig, PrepareConfig, SmokeConfig, SweepConfig, VisualizeConfig
from job.console import GONE, console
from job.errors import DONE, INTERRUPTED, MACHINE, READER_LEFT, Interrupted, JobError, UserError, from_os_error
from job.shutdown import Stop, signals

WIDTH = 80  # of help, in columns
FEW = 16  # options that help shows all at once


@dataclass(frozen=True)
class Command:
    """A sub-command: its options' tree, its positional arguments as (name, how many, help), and what it runs.

    One that is stopped `resumes` when it is started again, and may be one that `saves` the step under way.
    """

    tree: type
    positional: tuple[tuple[str, str, str], ...]
    summary: str
    run: Callable[[Request, Stop], Any]
    resumes: bool = False
    saves: bool = False
    stdout_is_result: bool = False


def _train(request: Request, stop: Stop) -> None:
    if commands.train(request, stop).status == "interrupted":
        raise Interrupted(saved=True)


def _evaluate(request: Request, stop: Stop) -> None:
    figures = commands.evaluate(request, stop)
    if request.config.evaluation.json:
        print(json.dumps(figures))
    else:
        from job.evaluate import words

        print(words(figures, figures["classes"]))


def _predict(request: Request, stop: Stop) -> None:
    for line in commands.predict(request, stop):
        print(line)


COMMANDS = {
    "prepare": Command(
        PrepareConfig,
        (("source", "*", "folder, zip, tar, CSV, gs://..., s3://..., kaggle:owner/dataset, kaggle:competition/NAME or https://...#sha256=..."),),
        "turn images into TFRecord shards with a manifest", commands.prepare, resumes=True,
    ),
    "train": Command(Config, (), "train, validate, and write the run folder; rerun to resume", _train, resumes=True, saves=True),
    "sweep": Command(SweepConfig, (), "search hyperparameters: many runs of the same job", commands.sweep, resumes=True, saves=True),
    "evaluate": Command(
        EvaluateConfig, (("run", "1", "run folder, gs://... or s3://..."),), "metrics of a run, and its most confident mistakes", _evaluate,
        stdout_is_result=True,
    ),
    "predict": Command(
        PredictConfig,
        (("run", "1", "run folder, gs://... or s3://..."), ("path", "*", "images, folders or archives; gs://..., s3://... or https://...")),
        "file, class and probability for images", _predict, stdout_is_result=True,
    ),
    "visualize": Command(
        VisualizeConfig, (("run", "1", "run folder, gs://... or s3://..."), ("image", "1", "an image; gs://..., s3://... or https://...")),
        "plot the network's filters and feature maps for an image", commands.visualize, stdout_is_result=True,
    ),
    "smoke": Command(SmokeConfig, (), "test the whole job on one CPU core in under a minute, on generated images", commands.smoke),
    "drill": Command(
        DrillConfig, (), "kill a job at random points, resume it, and compare every bit with one left alone", commands.drill
    ),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    _open_streams()
    code = _main(list(sys.argv[1:] if argv is None else argv))
    _flush(sys.stdout)
    _flush(sys.stderr)
    sys.exit(code)


def _open_streams() -> None:
    """Make sure that the standard streams can be written to: they may be closed, and file names need not be text."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with suppress(OSError):
                os.fstat(number)
                continue
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush(stream: Any) -> None:
    """Flush a standard stream; where its reader has left, let Python's own flush at exit find something that is open."""
    try:
        if stream is not None:
            stream.flush()
    except GONE:
        with suppress(*GONE):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _main(argv: list[str]) -> int:
    try:
        return _dispatch(argv)
    except JobError as error:
        return _fail(str(error), error.code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # of the result: the lines of a log do not raise
        return READER_LEFT
    except Exception as error:
        known = from_os_error(error) if isinstance(error, OSError) else None
        if known is not None:
            return _fail(str(known), known.code)
        from job.machine.memory import is_out_of_memory

        if is_out_of_memory(error):
            return _fail("memory: out of memory; use a smaller --batch, --size or --memory", MACHINE)
        raise


def _fail(line: str, code: int) -> int:
    if sys.stderr is not None:
        with suppress(*GONE):
            print(f"twofold: {line}", file=sys.stderr, flush=True)
    return code


def _dispatch(argv: list[str]) -> int:
    if argv and argv[0] == "--version":
        print(f"twofold {__version__}", flush=True)
        return DONE
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview(), flush=True)
        return DONE
    if argv[0] not in COMMANDS:
        raise UserError(argv[0], "unknown command", nearest(argv[0], COMMANDS))
    command = COMMANDS[argv[0]]
    request = read(argv[0], argv[1:], os.environ)
    stop = Stop()
    with console.using(json=request.config.log.log_format == "json", quiet=request.quiet, to_stderr=command.stdout_is_result):
        try:
            with signals(stop, command.saves), _libraries_held():
                command.run(request, stop)
        except Interrupted as error:
            saved = "; saved" if error.saved else ""
            console.log(f"interrupted{saved}; rerun to resume" if command.resumes else "interrupted")
            return INTERRUPTED
    if command.stdout_is_result:
        print(end="", flush=True)  # where nobody reads it, that shows here
    return DONE


def read(name: str, argv: Sequence[str], environ: Mapping[str, str]) -> Request:
    """What was asked for, by flags, variables and a file.

    Raises:
        UserError: anything unknown or of the wrong type.
    """
    command = COMMANDS[name]
    parsed, unknown = _parser(name, command, full="--help-all" in argv).parse_known_args(argv)
    arguments = vars(parsed)
    own = knobs(command.tree)
    if sum(word == "--data" or word.startswith("--data=") for word in argv) > 1:
        fix = "prepare several sources together: twofold prepare A B --out shards, then --data shards"
        raise UserError("--data", "is given twice", fix)
    for word in unknown:
        if word.startswith("-"):
            flag = word.split("=")[0]
            known = [*(k.flag for k in own), "--config", "--quiet", "--help", "--help-all"]
            elsewhere = next((c for c in COMMANDS if flag in {k.flag for k in knobs(COMMANDS[c].tree)}), None)
            raise UserError(flag, "unknown option", f"it belongs to twofold {elsewhere}" if elsewhere else nearest(flag, known))
    if unknown:
        raise UserError(unknown[0], f"is one argument too many for twofold {name}", "see --help")
    everywhere = {k.name for c in COMMANDS.values() for k in knobs(c.tree)}
    of_file = _read_file(arguments["config"], command.tree) if arguments["config"] else {}
    of_variables = read_environment(environ, command.tree, everywhere)
    of_flags = {k.name: convert(k, arguments[k.flag], k.flag) for k in own if arguments[k.flag] is not None}
    fixed = of_variables | of_flags
    return Request(
        build(command.tree, of_file | fixed), given=frozenset({*of_file, *fixed}), fixed=frozenset(fixed), flags=frozenset(of_flags),
        positional={word: arguments[word] for word, _, _ in command.positional}, quiet=arguments["quiet"],
    )  # fmt: skip


def _read_file(text: str, tree: type) -> dict[str, Any]:
    """The options in a file, which may lie in a bucket, as a sweep's best.toml does."""
    from job.storage.bucket import Missing
    from job.storage.opening import is_bucket, open_bucket

    if not is_bucket(text):
        return read_toml(Path(text), tree)
    folder, _, name = text.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="twofold-") as temporary, standing_for(temporary, folder):
        with suppress(Missing):
            open_bucket(folder).fetch(name, Path(temporary, name))
        return read_toml(Path(temporary, name), tree)


class _Parser(argparse.ArgumentParser):
    """Reports errors in house form."""

    def error(self, message: str) -> NoReturn:
        where, _, what = message.partition(": ")
        if where == "the following arguments are required":
            raise UserError(self.prog.removeprefix("twofold "), f"{what.upper()} not given", f"see {self.prog} --help")
        raise UserError(where.removeprefix("argument "), what, f"see {self.prog} --help") if what else UserError(self.prog, message, "")

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stdout).write(message)  # argparse's own would hide that nobody reads it

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        print(end="", flush=True)
        sys.exit(status)


class _Help(argparse.HelpFormatter):
    """Help in `WIDTH` columns, which breaks lines at spaces alone."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=24, width=WIDTH)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


class _Switch(argparse.Action):
    """`--xla` and `--no-xla`."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, str(option_string == self.dest).lower())


_SHAPES = {"1": "{}", "*": "{}..."}


def _parser(name: str, command: Command, full: bool) -> argparse.ArgumentParser:
    """The parser, whose help shows all options, or the first where they are many and `full` is not wanted."""
    own = knobs(command.tree)
    shown = [k for k in own if full or len(own) <= FEW or k.field.metadata["first"]]
    more = f"{len(own) - len(shown)} more options: twofold {name} --help-all" if len(shown) < len(own) else None
    shapes = [_SHAPES[count].format(word.upper()) for word, count, _ in command.positional]
    parser = _Parser(
        prog=f"twofold {name}", description=command.summary + ".", allow_abbrev=False, add_help=False, epilog=more,
        usage=" ".join(["twofold", name, *shapes, "[options]"]), formatter_class=_Help,
    )  # fmt: skip
    for word, count, text in command.positional:
        parser.add_argument(word, nargs=None if count == "1" else count, help=text)
    groups: dict[str, Any] = {}
    for knob in own:
        title = f"[{knob.table}]" if len(shown) == len(own) else "options"
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add(groups[title], knob, knob in shown)
    general = parser.add_argument_group("general")
    general.add_argument("--config", metavar="FILE.toml", help="read options from a file; flags and TWOFOLD_ variables win")
    general.add_argument("--quiet", action="store_true", help="no log lines on the terminal")
    general.add_argument("-h", "--help", action="help", help="show the options")
    general.add_argument("--help-all", action="help", help="show all options" if more else argparse.SUPPRESS)
    return parser


def _add(group: Any, knob: Knob, shown: bool) -> None:
    meta = knob.field.metadata
    default = f"auto: {meta['auto']}" if knob.field.default is None else _shown(knob.field.default)
    unit = f" [{meta['unit']}]" if meta["unit"] else ""
    text = f"{meta['help']}{unit}" + (f" (default: {default})" if default else "")
    text = text.replace("%", "%%") if shown else argparse.SUPPRESS
    if knob.kind is bool:
        group.add_argument(knob.flag, f"--no-{knob.flag[2:]}", dest=knob.flag, action=_Switch, nargs=0, help=text)
    else:
        group.add_argument(knob.flag, dest=knob.flag, metavar=knob.metavar, help=text)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(str(v) for v in value) if isinstance(value, tuple) else str(value)


def _overview() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = ["twofold: train an image classifier for two classes", "", "commands:"]
    for name, command in COMMANDS.items():
        lines += textwrap.wrap(command.summary, WIDTH, initial_indent=f"  {name:<{width}}  ", subsequent_indent=" " * (width + 4))
    return "\n".join([*lines, "", "twofold COMMAND --help shows its options, twofold --version the version"])


@contextmanager
def _libraries_held() -> Iterator[None]:
    """Keep what TensorFlow's C++ prints off the terminal, for the run's log file; our own errors keep the terminal."""
    with os.fdopen(os.memfd_create("libraries"), "r+b") as held:  # in memory: no folder need be writable
        _flush(sys.stderr)
        terminal, before = os.dup(2), sys.stderr
        os.dup2(held.fileno(), 2)
        sys.stderr = ours = os.fdopen(terminal, "w", buffering=1, errors="backslashreplace")
        console.libraries = held.fileno()
        try:
            yield
        finally:
            console.libraries, sys.stderr = None, before
            os.dup2(terminal, 2)
            with suppress(*GONE):
                ours.close()


if __name__ == "__main__":
    main()
