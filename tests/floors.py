"""The floors of the building: a module imports only from lower floors, or within its own folder."""

from __future__ import annotations

# What a floor is for, then its modules; a folder stands as one.
FLOORS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("what nobody else may read", ("job.addresses",)),
    ("the words for what goes wrong", ("job.errors",)),
    ("what is said, asked for and measured", ("job.console", "job.config", "job.metrics")),
    ("stops", ("job.shutdown",)),
    ("files and objects that are whole or absent", ("job.storage",)),
    ("the machine, and the data", ("job.machine", "job.data")),
    ("how images reach the device", ("job.feeds",)),
    ("the networks", ("job.models",)),
    ("the run folder", ("job.runs",)),
    ("a network put to use", ("job.inference",)),
    ("a network trained", ("job.training",)),
    ("the commands", ("job.prepare", "job.train", "job.evaluate", "job.predict", "job.visualize")),
    ("many runs, and the proof of all", ("job.smoke", "tuning")),
    ("the proof that kills cost nothing", ("job.drill",)),
    ("the commands, from options to results", ("job.commands",)),
    ("the command line, and Python", ("job.cli", "twofold")),
)

LONGEST = 450  # lines of a file
