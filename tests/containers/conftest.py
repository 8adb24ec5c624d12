"""The image must be there: `tests/containers/setup.sh` makes it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.containers.podman import ENVIRONMENT, IMAGE


@pytest.fixture(scope="session", autouse=True)
def _image_is_there() -> None:
    if not shutil.which("podman") or subprocess.run(["podman", "image", "exists", IMAGE], env=ENVIRONMENT).returncode:
        pytest.fail(f"{IMAGE} is not there: run tests/containers/setup.sh")
