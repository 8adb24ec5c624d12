"""The floors of the building: a module imports only from lower floors, or within its own subpackage."""

from __future__ import annotations

# What a floor is for, then its modules; a subpackage stands as one.
FLOORS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("the words for what goes wrong", ("job.errors",)),
    ("tools that know nothing of photographs of two classes", (
        "job.cgroup", "job.console", "job.curves", "job.metrics", "job.options", "job.order", "job.pixels", "job.pool", "job.storage",
    )),
    ("the configuration, sources, and files with a form", ("job.audit", "job.checkpoint", "job.config", "job.manifest", "job.sources")),
    ("the parts of a job", (
        "job.augment", "job.devices", "job.layout", "job.models", "job.optimizers", "job.schedules", "job.shards",
    )),
    ("parts put together", ("job.export", "job.feed", "job.prepare", "job.records", "job.strategy")),
    ("a step of training, a pass of inference, a run that goes on", ("job.inference", "job.resume", "job.step")),
    ("a run under way, and a run opened again", ("job.loop", "job.trained")),
    ("a whole run", ("job.train",)),
    ("what is done with a run", ("job.evaluate", "job.features", "job.predict")),
    ("many runs, and the proof of all", ("job.smoke", "tuning")),
    ("the command line", ("job.cli", "job.__main__")),
)  # fmt: skip

LONGEST = 450  # lines of a file
