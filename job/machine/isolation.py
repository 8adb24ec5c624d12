"""The user's settings of Keras and matplotlib, kept away from this job: they are for the user's other work.

A backend in the environment or in `keras.json`, another image format or float type, a notebook's `MPLBACKEND`, a
`matplotlibrc`: none of them changes what this job computes or draws, and none is changed for the user. Keras and
TensorFlow are imported in `job/machine/libraries.py`, matplotlib in `job/inference/plots.py`, both inside `imports`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from job.errors import UserError

OURS = {"KERAS_BACKEND": "tensorflow", "MPLBACKEND": ""}  # while the libraries are imported


@contextmanager
def imports() -> Iterator[None]:
    """Import Keras, TensorFlow (which imports Keras) or matplotlib (which Keras imports) inside.

    Raises:
        UserError: this process has imported Keras already, with another backend.
    """
    keras = sys.modules.get("keras")
    if keras is not None and keras.config.backend() != "tensorflow":
        raise UserError(
            "keras", f"runs on {keras.config.backend()} in this process, twofold needs TensorFlow",
            "import twofold before keras, or use a fresh process",
        )  # fmt: skip
    first = "matplotlib" not in sys.modules
    theirs = {name: os.environ.get(name) for name in OURS}
    logger = logging.getLogger("matplotlib")  # warns of lines in a matplotlibrc that are not read here
    level = logger.level
    logger.setLevel(logging.ERROR)
    os.environ.update(OURS)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in theirs.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if first and theirs["MPLBACKEND"] and "matplotlib" in sys.modules:
            with suppress(ValueError):  # what matplotlib itself does with the variable when it is imported
                sys.modules["matplotlib"].rcParams["backend"] = theirs["MPLBACKEND"]
