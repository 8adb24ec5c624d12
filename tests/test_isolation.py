"""The user's own settings of Keras and matplotlib change nothing here, and nothing here changes them."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.config import resolve
from job.errors import UserError
from job.inference import plots
from job.inference.plots import matplotlib
from job.machine import isolation
from job.machine.libraries import keras
from job.models.network import build_network, exported

ROOT = Path(__file__).resolve().parents[1]
MODELS = dict(
    residual=resolve.Model(model="residual", size=32, filters=(8, 16)),
    classic=resolve.Model(model="classic", size=32, filters=(4, 8), dense=(16, 8)),
)
IMAGES = np.random.default_rng(3).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)


def computed() -> list[float]:
    """What the networks, to train and exported, give for some images."""
    found = []
    for model in MODELS.values():
        noise = np.ones((2, 99), np.float32)
        ours = build_network(model, 3, "bfloat16").model([IMAGES[:, :32, :32].astype(np.float32), noise], training=False)
        found += [*np.asarray(ours).flat, *np.asarray(exported(build_network(model, 3), 32)(IMAGES)).flat]
    return [float(value) for value in found]


def drawn(path: Path) -> bytes:
    plots.sheet(list(IMAGES), ["a_b", "$x"], path, "100 % of it")
    return path.read_bytes()


def test_settings_in_files_and_in_the_environment(tmp_path: Path) -> None:
    """All at once, in a process of their own: Keras and matplotlib read them when they are imported."""
    settings = dict(floatx="float16", epsilon=0.1, backend="torch", image_data_format="channels_first")
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfigure.facecolor: red\nsavefig.dpi: 20\nno.such: setting\n")
    notebook = "module://matplotlib_inline.backend_inline"
    theirs = dict(KERAS_HOME=str(tmp_path), KERAS_BACKEND="jax", MPLBACKEND=notebook, MATPLOTLIBRC=str(tmp_path))
    program = """
import json, os, sys
from pathlib import Path
from tests.test_isolation import computed, drawn
drawn(Path(sys.argv[1]))
import keras, matplotlib
kept = dict(usetex=matplotlib.rcParams["text.usetex"], floatx=keras.config.floatx())
print(json.dumps([computed(), kept | {name: os.environ[name] for name in json.loads(sys.argv[2])}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "theirs.png"), json.dumps(list(theirs))],
        env={**os.environ, **theirs, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, kept = json.loads(done.stdout)
    np.testing.assert_allclose(found, computed(), rtol=1e-6)
    assert (tmp_path / "theirs.png").read_bytes() == drawn(tmp_path / "ours.png")
    assert kept == theirs | dict(usetex=True, floatx="float16")


def test_a_notebook_keeps_its_backend_of_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is set in the environment, which matplotlib reads when it is first imported."""
    monkeypatch.delitem(sys.modules, "matplotlib")
    monkeypatch.setenv("MPLBACKEND", "svg")
    with isolation.imports():
        imported = types.SimpleNamespace(rcParams={"backend": os.environ["MPLBACKEND"]})
        monkeypatch.setitem(sys.modules, "matplotlib", imported)
        assert imported.rcParams == {"backend": ""}
    assert imported.rcParams == {"backend": "svg"}
    assert os.environ["MPLBACKEND"] == "svg"


@pytest.fixture
def changed() -> Iterator[None]:
    """A program that has set Keras and matplotlib for its own work."""
    with matplotlib.rc_context({"text.usetex": True, "figure.facecolor": "red", "font.size": 30, "savefig.bbox": "tight"}):
        keras.config.set_floatx("float16")
        keras.config.set_epsilon(0.1)
        keras.config.set_image_data_format("channels_first")
        keras.config.set_dtype_policy("mixed_float16")
        yield
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy("float32")


def test_settings_made_in_the_same_process(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    ours = computed(), drawn(tmp_path / "ours.png")
    request.getfixturevalue("changed")
    assert (computed(), drawn(tmp_path / "theirs.png")) == ours
    assert matplotlib.rcParams["font.size"] == 30
    assert keras.config.image_data_format() == "channels_first"


def test_another_backend_in_the_same_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(UserError) as caught, isolation.imports():
        pass
    line = "keras: runs on jax in this process, twofold needs TensorFlow; import twofold before keras, or use a fresh process"
    assert str(caught.value) == line


def test_nothing_imports_these_libraries_elsewhere() -> None:
    def imported(node: Any) -> set[str]:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
        return {name.split(".")[0] for name in names} & {"keras", "tensorflow", "matplotlib"}

    for path in (ROOT / "job").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for guarded in [node for node in tree.body if isinstance(node, ast.With)]:
            assert ast.unparse(guarded.items[0]) == "isolation.imports()"
            tree.body.remove(guarded)
        found = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) and imported(node)]
        assert found == [], f"{path}: import these from job/machine/libraries.py"
