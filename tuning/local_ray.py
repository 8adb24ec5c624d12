"""A Ray of the sweep's own, on this machine: a process that starts Ray, and ends it with the sweep, however that ends.

The sweep holds that process's standard input; once it closes, also by a kill -9 of the sweep, Ray ends and its folder
is removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from job.errors import MachineError
from tuning import process

PREFIX = "twofold-"
LONGEST = 107 - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")  # bytes of the folder: a socket's name allows 107
STORE = 80 << 20  # bytes of Ray's object store, its least: nothing of ours lies there
SECONDS = 60.0  # for Ray to end by itself


@contextmanager
def started(cores: int) -> Iterator[Callable[[], str]]:
    """Start Ray, and end it afterwards. What comes is a function that waits until Ray is up and returns its address.

    Raises:
        MachineError: no folder that Ray could use; or, by the function, Ray did not start.
    """
    folder, held = _folder()
    with _environment(RAY_AUTH_MODE="disabled", RAY_ADDRESS="", grpc_proxy="", https_proxy="", http_proxy=""):
        head = process.start(
            "tuning.local_ray", (cores, folder), (held,),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert head.stdin is not None
        assert head.stdout is not None
        answers = head.stdout

        def address() -> str:
            answer = json.loads(answers.readline() or "{}")
            if "address" not in answer:
                why = answer.get("error", "its process ended")
                raise MachineError("Ray", f"did not start ({why})", "use --engine keras-tuner, which needs no Ray")
            return str(answer["address"])

        try:
            yield address
        finally:
            head.stdin.close()
            try:
                head.wait(SECONDS)
            except subprocess.TimeoutExpired:
                head.kill()
                head.wait()
            answers.close()
            shutil.rmtree(folder, ignore_errors=True)
            os.close(held)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set variables, which Ray reads in this process and in its own, and restore them afterwards.

    An empty proxy is none: Ray's processes talk to each other alone, and nothing in a trial needs the network.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _folder() -> tuple[Path, int]:
    """A folder for Ray, and the descriptor that holds it: it is in use until all copies of that are closed."""
    most = LONGEST - len(f"/{PREFIX}12345678")
    for base in dict.fromkeys(os.path.abspath(base) for base in (os.environ.get("TMPDIR") or "/tmp", "/tmp", "/dev/shm")):
        if len(os.fsencode(base)) > most:
            continue
        _remove_abandoned(Path(base))
        with suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
            held = os.open(folder, os.O_RDONLY)
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return folder, held
    raise MachineError("TMPDIR", "there is no folder for Ray's sockets", f"set it to one that can be written, of at most {most} bytes")


def _remove_abandoned(base: Path) -> None:
    """Remove the folders of sweeps that were killed together with their Ray."""
    for folder in base.glob(f"{PREFIX}????????"):
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if os.fstat(descriptor).st_uid == os.getuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
            finally:
                os.close(descriptor)


def main(cores: int, folder: str) -> None:
    """Run Ray until standard input closes."""
    answer = os.dup(1)
    os.dup2(2, 1)  # whatever Ray prints is no answer
    try:
        import ray

        ray.init(
            num_cpus=cores, include_dashboard=False, object_store_memory=STORE, _temp_dir=folder,
            log_to_driver=False,
        )  # fmt: skip
        said = {"address": ray.get_runtime_context().gcs_address}
    except Exception as error:
        said = {"error": (str(error).strip() or type(error).__name__).splitlines()[0]}
    with os.fdopen(answer, "w") as stream:
        stream.write(json.dumps(said) + "\n")
    sys.stdin.read()
    if "address" in said:
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
