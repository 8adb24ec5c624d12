"""Which split an image goes to where its source does not say: the hash of its content decides, class by class.

Validation takes the lowest hashes of a class and test the highest, so neither share moves the other's images, and an
image that is added moves few others. Where the hashes fall badly, the images with the nearest hashes are taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from job.data import manifest
from job.data.audit import Examined
from job.errors import UserError

TOLERANCE = 0.01  # of a class's images, and at least one: how far a split may be from its share


def divide(kept: Sequence[Examined], val: float, test: float, classes: tuple[str, str]) -> dict[str, list[Examined]]:
    """The images of each split, in the order of their hashes: a split that the source names whole, the others cut.

    Args:
        val, test: the shares to cut where the source names no such split.

    Raises:
        UserError: a class has too few images, or none in a split of the source.
    """
    ordered = sorted(kept, key=lambda image: image.sha256)
    named = {image.split for image in ordered}
    val, test = 0.0 if "validation" in named else val, 0.0 if "test" in named else test
    splits: dict[str, list[Examined]] = {name: [] for name in manifest.SPLITS}
    for label, name in enumerate(classes):
        own = [image for image in ordered if image.label == label]
        free = [image for image in own if image.split not in ("validation", "test")]
        least = 1 + (val > 0) + (test > 0)
        if len(free) < least:
            raise UserError(f"class {name}", f"has {len(free):,} images to train on, and needs {least}", "give more images")
        first, last = cut([place(image.sha256) for image in free], val, test)
        splits["validation"] += free[:first]
        splits["test"] += free[last:]
        splits["train"] += free[first:last]
        for split in ("validation", "test"):
            given = [image for image in own if image.split == split]
            if split in named and not given:
                raise UserError(f"split {split}", f"holds no image of {name}", "add some, or rename its folder")
            splits[split] += given
    return {name: sorted(members, key=lambda image: image.sha256) for name, members in splits.items() if members}


def place(sha256: str) -> float:
    """A number in [0, 1) that the content alone decides."""
    return int(sha256[:13], 16) / 16**13


def cut(places: Sequence[float], val: float, test: float) -> tuple[int, int]:
    """Where to cut a class's images, sorted by their places: validation is [:first], train [first:last], test [last:].

    Each share is at most one image, or `TOLERANCE`, away from what was asked for; train keeps at least one.
    """
    count = len(places)
    slack = max(1.0, TOLERANCE * count)
    first = _near(sum(at < val for at in places), val * count, slack, int(val > 0))
    first = max(int(val > 0), min(first, count - 1 - max(int(test > 0), math.ceil(test * count - slack))))
    tested = _near(sum(at >= 1 - test for at in places), test * count, slack, int(test > 0))
    both = _near(first + tested, (val + test) * count, slack, first + (test > 0)) if test else first
    return first, count - min(both - first, count - 1 - first)


def _near(found: int, wanted: float, slack: float, least: int) -> int:
    """The whole number nearest to `found` that is within `slack` of `wanted`, and at least `least`."""
    return max(least, min(max(found, math.ceil(wanted - slack)), math.floor(wanted + slack)))
