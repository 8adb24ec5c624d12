"""Write what the docs take from the code: `configuration.md`, and the table of files in `architecture.md`.

With `--check`, say whether they are current.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from job.config.options import knobs
from job.config.resolve import strengths
from job.config.schema import SweepConfig
from job.errors import BUG, DONE, INTERRUPTED, MACHINE, READER_LEFT, USER

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.floors import FLOORS  # noqa: E402

CONFIGURATION, ARCHITECTURE = ROOT / "docs" / "configuration.md", ROOT / "docs" / "architecture.md"
TABLE = "| file | subject |"  # where the generated part of architecture.md begins


EXIT_CODES = (
    (DONE, "done, also when it was already done"),
    (INTERRUPTED, "interrupted and saved: rerun to resume (SIGTERM, SIGINT, SIGHUP where it was not ignored)"),
    (USER, "the user's mistake: an option, a configuration, data, credentials"),
    (MACHINE, "this machine or a service: GPU, disk, memory, network"),
    (BUG, "a bug (the only traceback), a proof that failed, or start after start without a new checkpoint"),
    (READER_LEFT, "the reader of a result (`evaluate`, `predict`, help) left before all was printed, as in `twofold predict ... | head`"),
)


def architecture() -> str:
    """The page with its table of files made anew, floor by floor."""
    lines = [TABLE, "|---|---|"]
    for purpose, names in FLOORS:
        lines.append(f"| **{purpose}** | |")
        for name in names:
            path = ROOT / name.replace(".", "/")
            files = [path.with_suffix(".py")] if path.with_suffix(".py").exists() else sorted(path.rglob("*.py"))
            lines += [f"| `{file.relative_to(ROOT)}` | {_subject(file)} |" for file in files]
    return ARCHITECTURE.read_text().partition(TABLE)[0] + "\n".join(lines) + "\n"


def _subject(file: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0].rstrip(".")


def configuration() -> str:
    """The page of all knobs."""
    lines = [
        "# Configuration",
        "",
        "Made by `make docs` from `job/config/schema.py`; do not edit. An option is set by its flag, by its environment variable",
        "(`--epochs` is `TWOFOLD_EPOCHS`), or in the table of a file given to `--config`, in this order; from [Python](python.md) by",
        "its keyword. Options marked *result* shape the weights: a resumed run keeps them (precision, replicas and threads may be",
        "changed by flag). A flag that has no effect where it is given is refused; a variable or a file's line is named in the log.",
    ]
    table = ""
    for knob in knobs(SweepConfig):
        if knob.table != table:
            table = knob.table
            lines += ["", f"## [{table}]", "", "| option | default | unit | meaning | |", "|---|---|---|---|---|"]
        meta, default = knob.field.metadata, knob.field.default
        shown = f"auto: {meta['auto']}" if default is None else _shown(default)
        unit = meta["unit"] or "|".join(meta["choices"]).replace("|", ", ")
        lines.append(f"| `{knob.flag}` | {shown} | {unit} | {meta['help']} | {'result' if knob.is_result else ''} |")
    lines += [
        "",
        "## What `--augment` sets",
        "",
        "Crop, flip and colour from the start; erasing, rotation and MixUp in the upper half.",
        "",
    ]
    at = (0.0, 0.25, 0.5, 0.75, 1.0)
    columns = [strengths(s) for s in at]
    lines += ["| | " + " | ".join(f"{s:g}" for s in at) + " |", "|---" * (len(at) + 1) + "|"]
    lines += [f"| `--{name}` | " + " | ".join(f"{c[name]:g}" for c in columns) + " |" for name in columns[0]]
    lines += [
        "",
        "## Exit codes",
        "",
        "An error is one line on standard error, `twofold: WHERE: WHAT; FIX`. Log lines that nobody reads any more (a closed pipe, a",
        "terminal that is gone) change nothing: the work goes on, and `log.txt` has them.",
        "",
        "| code | when |",
        "|---|---|",
    ]
    lines += [f"| {code} | {when} |" for code, when in EXIT_CODES]
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value) or "none"


if __name__ == "__main__":
    for path, made in ((CONFIGURATION, configuration()), (ARCHITECTURE, architecture())):
        if "--check" not in sys.argv:
            path.write_text(made)
        elif path.read_text() != made:
            sys.exit(f"docs/{path.name} is not current: run make docs")
