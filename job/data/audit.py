"""Which images are fit to learn from: bad files, exact duplicates, and images under both labels.

Exact copies alone so far; near duplicates and suspicious labels belong here too.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from job.storage import local

_KEPT_FIRST = {"test": 0, "validation": 1, "train": 2}


@dataclass(frozen=True)
class Examined:
    """A labelled image after decoding: `sha256` of the source file; `fault` is why it cannot be decoded, or empty."""

    key: str
    label: int
    split: str | None
    sha256: str
    fault: str


@dataclass(frozen=True)
class AuditResult:
    """`kept` images, and (key, reason) of those excluded (`aside`); `faults` are the reasons of those that cannot be read."""

    kept: list[Examined]
    aside: list[tuple[str, str]]
    faults: list[str]

    @property
    def bad(self) -> int:
        """How many cannot be read."""
        return len(self.faults)

    def commonest(self) -> str:
        """Why most of them cannot be read."""
        return Counter(self.faults).most_common(1)[0][0]


def audit(images: Iterable[Examined]) -> AuditResult:
    """Exclude what cannot be decoded, the copies of an image, and images that stand under both labels."""
    kept: list[Examined] = []
    aside: list[tuple[str, str]] = []
    faults: list[str] = []
    same: dict[str, list[Examined]] = defaultdict(list)
    for image in images:
        if image.fault:
            faults.append(image.fault)
            aside.append((image.key, image.fault))
        else:
            same[image.sha256].append(image)
    for copies in same.values():
        copies.sort(key=lambda p: (_KEPT_FIRST[p.split or "train"], p.key))
        first = copies[0]
        if len({p.label for p in copies}) > 1:
            others = {p.key: next(o.key for o in copies if o.label != p.label) for p in copies}
            aside += [(p.key, f"the same image is also in the other class, as {others[p.key]}") for p in copies]
            continue
        kept.append(first)
        aside += [(p.key, f"a copy of {first.key}") for p in copies[1:]]
    return AuditResult(kept, sorted(aside), faults)


def write_report(folder: Path, aside: Iterable[tuple[str, str]]) -> Path:
    """Write `report/set-aside.csv`: file and reason of each image excluded."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("file", "reason"))
    rows.writerows(aside)
    path = folder / "report" / "set-aside.csv"
    local.make_folder(path.parent)
    local.write_atomic(path, text.getvalue().encode("utf-8", "surrogateescape"))
    return path
