"""The image as it was built: its configuration, what is in it and what is not."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from job import __version__
from tests.containers.podman import image, python

pytestmark = pytest.mark.containers

ROOT = Path(__file__).resolve().parents[2]

INSTALLED = """
import importlib.metadata as m, json
print(json.dumps(sorted({d.name.lower().replace("_", "-") for d in m.distributions()})))
"""
LIBRARIES = """
import json, os
found = [os.path.join(d, f) for top in ("/opt", "/usr") for d, _, files in os.walk(top) for f in files]
print(json.dumps([f for f in found if os.path.basename(f).startswith(("libcud", "libcublas", "libnccl", "libcufft"))]))
"""
# four bytes after the magic number: 1 is a hash that is never compared with the source
BYTECODE = """
import importlib.util, json, pathlib, sysconfig
without = []
for source in pathlib.Path(sysconfig.get_path("purelib")).rglob("*.py"):
    try:
        flags = open(importlib.util.cache_from_source(source), "rb").read(8)[4]
    except OSError:
        flags = 0
    if flags != 1:
        without.append(str(source))
print(json.dumps(without))
"""
PROGRAM = """
import hashlib, json, pathlib, sysconfig
top = pathlib.Path(sysconfig.get_path("purelib"))
files = [file for name in ("job", "tuning", "twofold") for file in (top / name).rglob("*") if file.suffix != ".pyc" and file.is_file()]
print(json.dumps({str(file.relative_to(top)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}))
"""
WRITABLE = """
import json, os
print(json.dumps([d for d, _, _ in os.walk("/") if not d.startswith(("/proc", "/sys", "/dev")) and os.access(d, os.W_OK)]))
"""


def test_it_is_a_user_without_a_name_behind_an_init() -> None:
    config = image()
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"][0] == "dumb-init"
    assert config["Entrypoint"][-1] == "twofold"
    assert not config.get("Cmd")
    assert config["WorkingDir"] == "/twofold"
    assert config.get("StopSignal", "SIGTERM") in ("SIGTERM", "15")


def test_it_says_what_it_is() -> None:
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in image()["Labels"].items()}
    assert labels["title"] == "twofold"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] == __version__
    assert {"description", "revision"} <= labels.keys()


def test_the_program_in_it_is_the_one_here() -> None:
    """A builder that kept an old layer would have all tests of the image pass on yesterday's program."""
    found: dict[str, str] = python(PROGRAM)
    here = [file for name in ("job", "tuning", "twofold") for file in (ROOT / name).rglob("*") if file.suffix != ".pyc" and file.is_file()]
    assert found == {str(file.relative_to(ROOT)): hashlib.sha256(file.read_bytes()).hexdigest() for file in here}


def test_its_environment_sends_what_is_written_to_tmp_and_the_cache_to_the_work_and_finds_the_driver() -> None:
    environment: dict[str, str] = dict(pair.split("=", 1) for pair in image()["Env"])
    for name in ("HOME", "KERAS_HOME", "MPLCONFIGDIR", "RAY_TMPDIR"):
        assert re.fullmatch("/tmp(/.*)?", environment[name]), name
    assert environment["XDG_CACHE_HOME"] == "/twofold/cache"
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert environment["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64"
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert not {"VARIANT", "BASE_IMAGE", "PIP_INDEX_URL"} & environment.keys()


def test_nothing_of_cuda_is_in_the_cpu_variant() -> None:
    names: list[str] = python(INSTALLED)
    assert {"tensorflow-cpu", "twofold", "dumb-init"} <= set(names)
    assert "tensorflow" not in names
    assert not [name for name in names if name.startswith("nvidia")]
    assert python(LIBRARIES) == []


def test_everything_is_compiled_for_good() -> None:
    assert python(BYTECODE) == []


def test_its_user_owns_work_and_tmp_alone() -> None:
    """Without `--read-only`: a plain `docker run` can't change the program either."""
    found: Any = python(WRITABLE, options=("--network=none",))
    assert [folder for folder in found if not folder.startswith(("/tmp", "/var/tmp", "/run/lock", "/twofold"))] == []
    assert "/twofold" in found
