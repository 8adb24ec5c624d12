"""A process of our own: a module of this package as a program, beside the sweep.

It is no copy of the sweep's process, so that a user's script or notebook that calls the sweep is not run a second time
in it; and it has a session of its own, so that a SIGTERM or Ctrl-C to the sweep's process group, as `timeout`, systemd
and terminals send it, reaches the sweep alone, which has its trials saved.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def start(module: str, arguments: Sequence[object], descriptors: Sequence[int], **options: Any) -> subprocess.Popen[Any]:
    """Start `python -m module arguments`, which finds the modules that this process finds.

    Args:
        descriptors: those of this process that it shares.
        options: further ones of `subprocess.Popen`.
    """
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *map(str, arguments)], pass_fds=descriptors, start_new_session=True,
        env={**os.environ, "PYTHONPATH": paths}, **options,
    )  # fmt: skip
