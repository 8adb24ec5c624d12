"""Podman as the tests drive it: a container under the limits of a cluster, its words, its end."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

IMAGE = "localhost/twofold:cpu"
ENVIRONMENT = {**os.environ, "CONTAINERS_CONF": str(Path(__file__).with_name("containers.conf"))}

# no write but to /tmp and to what is mounted, no privilege, no network, one core, 3 GB
CONFINED = (
    "--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:rw,noexec,nosuid,nodev", "--cap-drop=ALL", "--security-opt=no-new-privileges",
    "--network=none", "--cpus=1", "--memory=3g", "--memory-swap=3g",
)  # fmt: skip


def podman(*arguments: str, timeout: float = 60) -> str:
    """What a podman command prints.

    Raises:
        CalledProcessError: it failed; its words are in the notes.
    """
    done = subprocess.run(["podman", *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, done.args)
        error.add_note(done.stderr)
        raise error
    return done.stdout


def image() -> Any:
    """The image's configuration."""
    return json.loads(podman("image", "inspect", IMAGE))[0]["Config"]


@dataclass(frozen=True)
class Container:
    """A container that was started, by its name."""

    name: str

    def said(self) -> tuple[str, str]:
        """What it has written so far: standard output, standard error."""
        done = subprocess.run(["podman", "logs", self.name], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
        return done.stdout, done.stderr

    def inspect(self) -> Any:
        return json.loads(podman("container", "inspect", self.name))[0]

    def ends(self, seconds: float = 180) -> int:
        """Its exit code, once it has ended."""
        podman("wait", self.name, timeout=seconds)
        return int(self.inspect()["State"]["ExitCode"])

    def says(self, words: str, seconds: float = 180) -> None:
        """Wait for words on its standard output.

        Raises:
            AssertionError: it ended, or the time passed, without them.
        """
        end = time.monotonic() + seconds
        while words not in self.said()[0]:
            running = self.inspect()["State"]["Running"]
            assert running or words in self.said()[0], f"it ended without {words!r}: {self.said()}"
            assert time.monotonic() < end, f"{seconds} s without {words!r}: {self.said()}"
            time.sleep(0.2)

    def kill(self, signal: str) -> None:
        podman("kill", "--signal", signal, self.name)


@contextmanager
def started(*arguments: str, options: Sequence[str] = CONFINED, entry: Sequence[str] | None = None) -> Iterator[Container]:
    """A container of the image, started with arguments for its entry point (or another one), and removed at the end."""
    name = f"twofold-test-{uuid4().hex[:12]}"
    entrypoint = [] if entry is None else ["--entrypoint", json.dumps(list(entry))]
    podman("run", "--detach", "--pull=never", "--name", name, *options, *entrypoint, IMAGE, *arguments)
    try:
        yield Container(name)
    finally:
        podman("rm", "--force", "--time", "0", name)


def python(script: str, options: Sequence[str] = CONFINED) -> Any:
    """What a line of Python in a container prints, as JSON."""
    with started("-c", script, options=options, entry=["python"]) as container:
        code, (out, errors) = container.ends(), container.said()
        assert code == 0, errors
        return json.loads(out)
