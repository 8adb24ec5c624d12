"""What sources hold before anything is read in full: images with their classes and splits, and all that is passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from job.config.schema import Reading
from job.data import layout, manifest
from job.data.labels import Wanted
from job.data.sources import AUTO, Entry, Listing, Skipped, Source, is_downloaded, is_remote, open_source
from job.data.sources.address import canonical, last_part, shown
from job.shutdown import Stop


@dataclass(frozen=True)
class Survey:
    """The images of some sources, which are numbered by their names: of several sources, each begins with its source."""

    layout: layout.Layout
    skipped: Skipped
    notes: tuple[str, ...]
    _sources: Sequence[tuple[str, Source]]

    def read(self) -> Iterator[tuple[str, bytes]]:
        """The images that have a class, each with its file's bytes."""
        wanted = {image.name for image in self.layout.images}
        for prefix, source in self._sources:
            for name, data in source.read():
                if prefix + name in wanted:
                    yield prefix + name, data

    def lines(self) -> list[str]:
        """What was decided, for people: classes and splits with counts and where they were read, and what is skipped."""
        found = self.layout
        counts = Counter(image.label for image in found.images)
        classes = " and ".join(f"{counts[k]:,} {name}" for k, name in enumerate(found.classes))
        lines = [f"classes: {classes} (by {found.origin}); positive class: {found.classes[1]}"]
        sizes = Counter(image.split for image in found.images)
        if found.splits:
            named = [f"{sizes[split]:,} {split} ({found.splits[split]})" for split in manifest.SPLITS if sizes[split]]
            rest = [f"{sizes[None]:,} in none"] if sizes[None] else []
            lines.append(f"splits: {', '.join(named + rest)}")
        if found.folders:
            lines.append(f"other folders, read as neither classes nor splits: {found.folders}")
        return [*lines, *self.notes, *(f"skipped: {line}" for line in self.skipped.lines())]


def survey(texts: Sequence[str], scratch: Path, stop: Stop | None = None, reading: Reading = AUTO, wanted: Wanted | None = None) -> Survey:
    """List sources and label what they hold.

    Args:
        texts: what the user named, one source or several.
        scratch: a folder for downloads and nested archives.

    Raises:
        UserError: a source is not found or of no known kind, or its classes and splits cannot be known.
        Interrupted: `stop` was set during a download; the same call resumes.
    """
    sources = [open_source(text, scratch, stop, reading) for text in texts]
    prefixes, where = _prefixes(texts), " ".join(map(shown, texts))
    listings = [source.listing for source in sources]
    entries = [
        Entry(prefix + entry.name, entry.label, entry.split, entry.fault)
        for listing, prefix in zip(listings, prefixes, strict=True)
        for entry in listing.entries
    ]
    skipped = Skipped()
    for listing, prefix in zip(listings, prefixes, strict=True):
        for (reason, unit), (count, example) in listing.skipped.reasons.items():
            skipped.add(reason, prefix + example, count, unit)
    found = layout.find(
        entries, where, wanted, prefixed=len(texts) > 1, tables=[table for listing in listings for table in listing.tables],
        labels=_joined(listings, "labels"), splits=_joined(listings, "splits"), skipped=skipped.lines(),
    )  # fmt: skip
    for reason, names in (("of the test split, without a class", found.unlabelled), ("of no class, or of another", found.others)):
        if names:
            skipped.add(reason, names[0], len(names), "image")
    return Survey(found, skipped, _notes(listings, reading), [*zip(prefixes, sources, strict=True)])


def _notes(listings: Sequence[Listing], reading: Reading) -> tuple[str, ...]:
    """What the sources have to say, and which options none of them had a use for."""
    idle = []
    if not any(listing.is_table for listing in listings):
        idle += [flag for flag, given in (("--path-column", reading.path_column), ("--label-column", reading.label_column)) if given]
    if reading.zip_encoding and not any(listing.has_archives for listing in listings):
        idle.append("--zip-encoding")
    named = [f"note: without effect here: {', '.join(idle)}"] if idle else []
    return (*named, *(note for listing in listings for note in listing.notes))


def _joined(listings: Sequence[Listing], name: str) -> str:
    return ", ".join(dict.fromkeys(text for listing in listings if (text := getattr(listing, name)))) or layout.SOURCE


def _prefixes(texts: Sequence[str]) -> list[str]:
    """What tells the images of several sources apart; nothing where there is one."""
    if len(texts) == 1:
        return [""]
    names = [last_part(text) if is_downloaded(text) else _end(text, 1) for text in texts]
    for depth in range(2, 5):  # `train/images` and `test/images`
        twice = {name for name in names if names.count(name) > 1}
        names = [_end(text, depth) if name in twice and not is_downloaded(text) else name for text, name in zip(texts, names, strict=True)]
    return [f"{name}/" if names.count(name) == 1 else f"{number}-{name}/" for number, name in enumerate(names, 1)]


def _end(text: str, parts: int) -> str:
    text = canonical(text)
    return "/".join((Path(text) if is_remote(text) else Path(os.path.abspath(text))).parts[-parts:])
