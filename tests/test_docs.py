"""The pages: the configuration's is made from the fields, and the README's commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from job.cli import COMMANDS
from job.config.options import knobs

ROOT = Path(__file__).resolve().parents[1]


def test_the_pages_made_from_the_code_are_current() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_and_flag_in_the_pages_exists() -> None:
    flags = {name: {k.flag for k in knobs(c.tree)} | {f"--no-{k.flag[2:]}" for k in knobs(c.tree)} for name, c in COMMANDS.items()}
    seen = 0
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for name, rest in re.findall(r"^(?:\$ )?twofold (\w+)([^\n]*)$", page.read_text(), re.MULTILINE):
            assert name in COMMANDS, f"{page.name}: twofold {name}"
            for flag in re.findall(r"(?<![\w-])--[\w-]+", rest.split("#")[0]):
                assert flag in flags[name] | {"--help", "--help-all", "--config", "--quiet"}, f"{page.name}: twofold {name} {flag}"
                seen += 1
    assert seen > 5


def test_links_between_pages_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
