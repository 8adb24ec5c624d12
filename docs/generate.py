"""Write `docs/configuration.md` from the fields of `job/config.py`, and say with `--check` whether it is current."""

from __future__ import annotations

import sys
from pathlib import Path

from job.config import Augment, SweepConfig, strengths
from job.options import knobs

PAGE = Path(__file__).with_name("configuration.md")


def page() -> str:
    """The page's text."""
    lines = [
        "# Configuration",
        "",
        "Made by `make docs` from `job/config.py`; do not edit. A knob is set by its flag, by its environment variable",
        "(`--epochs` is `TWOFOLD_EPOCHS`), or in the table of a file given to `--config`, in this order. Knobs marked",
        "*result* shape the weights: a resumed run keeps them (precision, replicas and threads may be changed by flag).",
    ]
    table = ""
    for knob in knobs(SweepConfig):
        if knob.table != table:
            table = knob.table
            lines += ["", f"## [{table}]", "", "| knob | default | unit | meaning | |", "|---|---|---|---|---|"]
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
    columns = [strengths(Augment(augment=s)) for s in at]
    lines += ["| | " + " | ".join(f"{s:g}" for s in at) + " |", "|---" * (len(at) + 1) + "|"]
    lines += [f"| `--{name}` | " + " | ".join(f"{c[name]:g}" for c in columns) + " |" for name in columns[0]]
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value) or "none"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text() == page() else "docs/configuration.md is not current: run make docs")
    PAGE.write_text(page())
