"""The building: floors, cycles, docstrings, lengths, and what help imports."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.floors import FLOORS, LONGEST

ROOT = Path(__file__).resolve().parents[1]
FLOOR = {name: number for number, (_, names) in enumerate(FLOORS) for name in names}
PACKAGES = ("job", "tuning", "twofold")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path): path for path in FILES}


def _room(module: str) -> str:
    """The entry of the table that a module belongs to."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "job" else parts[0]


def _imports(path: Path, top_only: bool = False) -> Iterator[str]:
    """Our own modules that a file imports, lazy imports too unless `top_only`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            base = node.module or ""
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


def test_every_file_has_a_floor_and_every_entry_a_file() -> None:
    rooms = {_room(module) for module in MODULES} - {"job"}
    assert rooms - FLOOR.keys() == set(), "give these a floor in tests/floors.py"
    assert FLOOR.keys() - rooms == set(), "these floors are of files that are gone"


@pytest.mark.parametrize("module", MODULES)
def test_imports_come_from_lower_floors(module: str) -> None:
    room = _room(module)
    for name in _imports(MODULES[module]):
        other = _room(name)
        if other in ("job", room):  # `from job import __version__`, or within the folder
            continue
        assert other in FLOOR, f"{module} imports {name}, which is no module"
        assert FLOOR[other] < FLOOR.get(room, 0), f"{module} (floor {FLOOR.get(room)}) imports {name} (floor {FLOOR[other]})"


def test_the_package_itself_imports_nothing_of_ours() -> None:
    assert list(_imports(MODULES["job"])) == []


def test_one_module_of_the_job_imports_tuning() -> None:
    importers = {m for m, path in MODULES.items() if not m.startswith("tuning") and any(n.startswith("tuning") for n in _imports(path))}
    assert importers <= {"job.commands"}


def test_no_cycles_when_modules_are_imported() -> None:
    graph = {m: {n for n in _imports(path, top_only=True) if n != m and n in MODULES} for m, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"cycle: {' -> '.join((*way[way.index(module) :], module))}"
        if module not in done:
            for name in sorted(graph[module]):
                visit(name, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())
    assert len(done) == len(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_modules_have_a_docstring_and_are_not_too_long(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert text.count("\n") <= LONGEST


def test_neither_help_nor_the_python_package_imports_anything_heavy() -> None:
    script = """
import contextlib, io, json, sys
import twofold
from job.cli import COMMANDS, main
found = {}
for words in [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(words)
    heavy = [m for m in ("tensorflow", "keras", "cv2", "matplotlib", "pandas", "numpy") if m in sys.modules]
    found[" ".join(words)] = (heavy, len(out.getvalue()))
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) >= 8
    for words, (heavy, length) in found.items():
        assert heavy == [], words
        assert length > 5, f"{words} prints nothing"
