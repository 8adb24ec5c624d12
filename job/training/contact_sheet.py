"""`--show-augment`: a contact sheet of training images as the network will see them. No network is built for it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from job.config.resolve import Resolved
from job.console import console
from job.data import manifest
from job.data.location import Location
from job.errors import UserError
from job.feeds import order
from job.inference import plots
from job.runs.records import Summary
from job.storage import local
from job.training import augment
from job.training.build import open_feeds, windows

IMAGES, VERSIONS = 8, 4  # shown: training images, each in so many versions


def show_augmented(config: Resolved, data: Location, shards: manifest.Manifest) -> Summary:
    """Write the sheet to the file that `--show-augment` names."""
    path, size, seed = Path(config.run.show_augment), config.schedule.train_sizes[-1], config.schedule.seed
    if path.suffix.lower() != ".png":
        raise UserError("--show-augment", f"{str(path)!r} is not a PNG file's name", "use a name that ends in .png")
    local.make_folder(path.absolute().parent)
    numbers = order.permutation(seed, 0, windows(config, shards))[:IMAGES]
    training, validation = open_feeds(config, data, shards)
    with closing(training), closing(validation):
        images, labels = training.gather(numbers)
    shown, titles = [], []
    for version in range(VERSIONS):
        noise = order.noise(seed, version, len(numbers), augment.COLUMNS)
        changed, mixed = augment.augment(images, labels, noise, config.augment, size)
        shown += list(np.clip(np.rint(changed.numpy()), 0, 255).astype(np.uint8))
        titles += [_title(float(label), shards.classes) for label in np.asarray(mixed)]
    plots.sheet(shown, titles, path, f"--augment {config.augment.augment:g} at {size} px", columns=len(numbers))
    console.log(f"wrote {path}")
    return Summary(status="shown")


def _title(label: float, classes: tuple[str, str]) -> str:
    return classes[round(label)] if label in (0.0, 1.0) else f"{label:.0%} {classes[1]}"
