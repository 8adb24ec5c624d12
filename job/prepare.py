"""`twofold prepare`: images of two classes become TFRecord shards with a manifest.

Pass one reads the sources in their own order; all cores hash, decode, shrink and encode, and the JPEGs go to a
spool file in `--out/.work`. Pass two drops what `job/data/audit.py` excludes, cuts the splits by content hash, and
writes the shards in the order of that hash, so the bytes depend on the images alone. The manifest comes last.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from job.config.schema import Cache, Config, Output, Prepare, PrepareConfig, Reading
from job.console import console, counted, duration
from job.data import audit, levels, manifest, pixels, shards
from job.data.class_names import same_class
from job.data.division import divide
from job.data.labels import Wanted
from job.data.location import Location, locate, open_cache
from job.data.sources import contents, is_downloaded, is_remote, open_source
from job.data.sources.address import canonical, identity, last_part, shown
from job.data.survey import Survey, survey
from job.errors import JobError, UserError
from job.machine.devices import cores
from job.machine.pool import in_order
from job.runs import records
from job.runs.place import Place
from job.shutdown import Stop
from job.storage import local, lock
from job.storage.opening import is_bucket

SHARD_BYTES = 64_000_000
TRAIN_SHARDS = 16  # at least, so that a dozen readers can share them
_SINCE: dict[str, Any] = dict(classes=[], levels="full", path_column="", label_column="", zip_encoding="")  # as older ones were made
_OURS = re.compile(r"\.?(train|validation|test)-\d{5}-of-\d{5}\.(tfrecord|index\.npy)(\.tmp)?")


@dataclass(frozen=True)
class _Spooled:
    examined: audit.Examined
    offset: int
    length: int


def prepare(
    sources: Sequence[str], config: PrepareConfig, stop: Stop | None = None, *, wait: bool = False, where: Place | None = None
) -> manifest.Manifest:
    """Turn sources into a data set in `config.output.out`, or finish one, or find it done.

    Args:
        where: the folder of the data set, opened already; by default the local one of `config.output.out`.
        wait: for another process that prepares the same folder, instead of refusing.

    Raises:
        UserError: the sources do not hold two classes, too many images cannot be decoded, or the folder holds another
            data set, or what these sources were before they changed.
        MachineError: the disk is full or read-only.
        Interrupted: `stop` was set; the same call resumes.
    """
    folder = (Path(config.output.out) if where is None else where.path).absolute()
    check(sources, config)
    stop = Stop() if stop is None else stop
    settings = _settings(sources, config.prepare, config.reading, stop)
    places: list[Location] = [folder] if where is None or where.mirror is None else [locate(where.address, config.feed, stop), folder]
    if (there := next(filter(manifest.exists, places), None)) is not None:
        try:
            return _finished(there, settings)
        except manifest.Incomplete as error:
            console.log(f"warning: {str(error).partition(';')[0]}; preparing it again")
    for text, held in zip(sources, settings["contents"], strict=True):
        if not held and not is_downloaded(text):
            open_source(text, folder, stop)  # words the error, before a folder is made
    local.make_folder(folder)
    with lock.only_writer(folder, _waiting(folder, stop) if wait else None):
        if manifest.exists(folder):
            with suppress(manifest.Incomplete):
                return _finished(folder, settings)  # another process was quicker
            (folder / manifest.NAME).unlink()
        require_own([path.name for path in folder.iterdir()], str(folder))
        _clear(folder)
        work = folder / ".work"
        local.make_folder(work)
        try:
            made = _Preparation(sources, config, folder, work, stop).run(settings)
        except UserError:
            with suppress(OSError):  # downloads stay
                (work / "spool").unlink(missing_ok=True)
                work.rmdir()
            raise
        local.remove_tree(work)
        return made


def check(sources: Sequence[str], config: PrepareConfig) -> None:
    """Refuse what can be refused before anything is made."""
    _check_given(sources)
    levels.parse(config.prepare.levels)
    if not config.output.out:
        raise UserError("--out", "no folder given for the shards", "add --out DIR")


def keep(shards: manifest.Manifest, where: Place, options: Cache) -> None:
    """Move shards that are in their bucket from the local copy to the cache, where training looks for them."""
    cache = open_cache(options)
    for shard in (shard for split in shards.splits.values() for shard in split.shards):
        path = where.path / shard.file
        if path.exists():
            with suppress(JobError):
                cache.add(shard.sha256, shard.bytes, partial(os.replace, path))
            path.unlink(missing_ok=True)


def _check_given(sources: Sequence[str]) -> None:
    if not sources:
        raise UserError("prepare", "no source given", "name a folder, an archive, gs://..., s3://..., kaggle:owner/dataset or https://...")


def look(sources: Sequence[str], config: PrepareConfig, stop: Stop) -> None:
    """Say what would be prepared. A download is kept where there is a folder for it, for the prepare that follows."""
    _check_given(sources)
    with tempfile.TemporaryDirectory(prefix="twofold-") as temporary:
        scratch = Path(temporary)
        if config.output.out and any(map(is_remote, sources)) and not is_bucket(config.output.out):
            scratch = Path(config.output.out).absolute() / ".work"
            local.make_folder(scratch)
            console.log(f"downloads are kept in {scratch}")
        _say(_survey(sources, config, scratch, stop), config.prepare)


def prepared_shards(config: Config, folder: Path, stop: Stop, started: Path | None) -> Location:
    """The shards of a `--data` that is a source: prepared once, into the cache or into the folder of the run or sweep.

    Args:
        folder: of the run or sweep.
        started: a run that has begun there (of a sweep, its first trial): its shards are kept, also where their source
            has changed or is gone.
    """
    text, cache = config.source.data, "" if is_bucket(config.output.out) else config.feed.cache
    own: Location = folder / records.DATA
    if started is not None:
        if not manifest.exists(own):
            summary = records.read_summary(started)
            own = records.find_data(
                started, records.read_config(started), "" if summary is None else summary.fingerprint, config.feed, stop
            )
        if manifest.exists(own):
            _compare(own, text, config.reading, stop)
            return own
    out = Path(cache) / f"shards-{key([text], config.prepare, config.reading, stop)}" if cache else folder / records.DATA
    prepare(
        [text],
        PrepareConfig(reading=config.reading, prepare=config.prepare, output=Output(out=str(out)), work=config.work),
        stop,
        wait=bool(cache),
    )
    return out


def key(sources: Sequence[str], options: Prepare, reading: Reading, stop: Stop | None = None) -> str:
    """A short name of what `prepare` would make of these sources as they are now, for a cache of several data sets."""
    return hashlib.sha256(json.dumps(_settings(sources, options, reading, stop), sort_keys=True).encode()).hexdigest()[:16]


def _settings(sources: Sequence[str], prepare: Prepare, reading: Reading, stop: Stop | None) -> dict[str, Any]:
    return dict(
        sources=_names(sources), side=prepare.side, val=prepare.val, test=prepare.test, positive=prepare.positive,
        max_bad=prepare.max_bad, quality=pixels.QUALITY, contents=[contents(text, reading, stop) for text in sources],
        classes=[*prepare.classes], levels=prepare.levels,
        path_column=reading.path_column, label_column=reading.label_column, zip_encoding=reading.zip_encoding,
    )  # fmt: skip


def _survey(sources: Sequence[str], config: PrepareConfig, scratch: Path, stop: Stop) -> Survey:
    """What the sources hold.

    Raises:
        UserError: the two classes cannot be told, or nothing is left to train on.
    """
    pair = config.prepare.classes
    if len({same_class(name) for name in pair}) not in (0, 2) or len(pair) not in (0, 2):
        raise UserError("--classes", f"{','.join(pair)} are not two classes", "name two, as in --classes cats,dogs")
    found = survey(sources, scratch, stop, config.reading, Wanted(config.prepare.positive, pair))
    splits = {image.split for image in found.layout.images}
    if splits <= {"validation", "test"}:
        where = ", ".join(f"{split}: {said}" for split, said in found.layout.splits.items())
        raise UserError(" ".join(map(shown, sources)), f"no image is left to train on ({where})", "add some, or give that folder itself")
    return found


def _say(found: Survey, options: Prepare) -> None:
    """What was decided, before it is done."""
    for line in found.lines():
        console.log(line)
    splits = {image.split for image in found.layout.images}
    for split, share in (("validation", options.val), ("test", options.test)):
        if split not in splits and share:
            console.log(f"{split}: {share:.0%} of the training images of each class, by a hash of their content")


def _names(sources: Sequence[str]) -> list[str]:
    return [identity(text) if is_remote(text) else os.path.abspath(text) for text in map(canonical, sources)]


def _kept(sources: Sequence[str]) -> list[str]:
    """The sources that a manifest names, in the form of `_names`: older ones hold secrets, or paths with `..` in them."""
    return [os.path.normpath(text) if os.path.isabs(text) else identity(text) for text in sources]


def _finished(folder: Location, settings: dict[str, Any]) -> manifest.Manifest:
    found = manifest.described(folder)
    fix = "give another --out, or delete the folder"
    for name, value in settings.items():
        before = found.settings.get(name, _SINCE.get(name, value))
        if name == "contents":
            for source, then, now in zip(settings["sources"], before, value, strict=True):
                if now not in ("", then):
                    raise UserError(str(folder), f"{source} has changed since it was prepared here: {then}; now {now}", fix)
        elif name == "positive" and same_class(value) == same_class(found.classes[1]):
            continue  # it is the default, said aloud
        elif name == "sources" and _kept(before) == value:
            continue
        elif before != value:
            raise UserError(str(folder), f"holds a data set prepared with {name} = {before!r}, not {value!r}", fix)
    manifest.read(folder)
    console.log(f"{folder} is already prepared")
    if isinstance(folder, Path) and (folder / ".work").exists():  # of a process that was killed when all was done
        with suppress(lock.InUse), lock.only_writer(folder):
            local.remove_tree(folder / ".work")
    return found


def _compare(own: Location, text: str, reading: Reading, stop: Stop) -> None:
    """Say where `text` is no longer what a run's own shards were made of, and refuse what never was."""
    settings = manifest.read(own).settings
    sources, then = _kept(settings["sources"]), settings.get("contents")
    try:
        now = contents(text, reading, stop)
    except JobError as error:
        if not is_remote(text) or sources != _names([text]):
            raise
        console.log(f"warning: {error}; resuming with the shards in {own}")
        return
    gone = not is_downloaded(text) and not now and not any(Path(source).exists() for source in sources)
    if gone and last_part(text) in map(last_part, sources):
        console.log(f"warning: {text} is not found; the shards that were made of it are kept, in {own}")
    elif sources == _names([text]):
        if then is not None and then != [now]:
            console.log(f"warning: {text} has changed since it was prepared: {then[0]}; now {now}; resuming with the shards in {own}")
    elif is_remote(text) or then != [now]:
        what = f"{shown(text)} is not what this was started with: {own}, made of {', '.join(sources)}"
        raise UserError("--data", what, "leave --data out to resume, or give a new --out")


def _waiting(folder: Path, stop: Stop) -> Callable[[str], None]:
    told: set[str] = set()

    def waiting(who: str) -> None:
        stop.check()
        if who not in told:
            told.add(who)
            console.log(f"waiting for {who} to prepare {folder}")

    return waiting


def require_own(names: Collection[str], where: str) -> None:
    """Refuse a folder of other things: images in it would be hidden by the data set, a run would be mixed with it.

    Args:
        names: of the files and folders in it, none of them where a data set is finished there.
        where: the folder, for the error.

    Raises:
        UserError: it holds other files.
    """
    own = ("report", "lost+found")
    others = sorted(name for name in names if not (name.startswith(".") or name in own or _OURS.fullmatch(name)))
    if others and manifest.NAME not in names:
        raise UserError(where, f"holds other files, such as {others[0]}", "name a new folder with --out")


def _clear(folder: Path) -> None:
    """Remove the shards that a killed prepare left behind, and nothing else: its downloads are resumed."""
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name):
            path.unlink()


class _Preparation:
    """One preparation under way."""

    def __init__(self, sources: Sequence[str], config: PrepareConfig, folder: Path, work: Path, stop: Stop) -> None:
        self.texts, self.config, self.folder, self.work, self.stop = sources, config, folder, work, stop
        self.options, self.workers = config.prepare, config.work.workers or cores()
        self.levels, self.dim = levels.parse(config.prepare.levels), 0

    def run(self, settings: dict[str, Any]) -> manifest.Manifest:
        started = time.monotonic()
        console.log(f"listing the images of {' '.join(map(shown, self.texts))}")
        found = _survey(self.texts, self.config, self.work, self.stop)
        side, workers = self.options.side, counted(self.workers, "worker")
        console.log(f"preparing {len(found.layout.images):,} images at {side} px with {workers} into {self.folder}")
        _say(found, self.options)
        with (self.work / "spool").open("wb") as spool:
            spooled = list(self._examine(found, spool))
        seconds = time.monotonic() - started
        verdict = audit.audit(s.examined for s in spooled)
        report = audit.write_report(self.folder, verdict.aside)
        self._check_bad(verdict, len(spooled), report)
        places = {s.examined.key: s for s in spooled}
        classes = found.layout.classes
        splits = divide(verdict.kept, self.options.val, self.options.test, classes)
        written = self._write(splits, places)
        made = manifest.Manifest(classes, written, settings)
        manifest.write(self.folder, made)
        rate = len(spooled) / seconds
        console.log(f"read {len(spooled):,} images in {duration(seconds)}: {rate:,.0f} images/s, {rate / self.workers:,.0f} per core")
        for name, split in written.items():
            counts = ", ".join(f"{n:,} {c}" for c, n in zip(classes, split.classes, strict=True))
            console.log(f"{name}: {split.records:,} ({counts}) in {counted(len(split.shards), 'shard')}")
        if self.dim and self.levels == levels.FULL:
            what = f"{counted(self.dim, 'image')} of 16 bits hold no value above 4,095 and are nearly black"
            console.log(f"warning: {what}; --levels auto stretches them")
        if verdict.aside:
            console.log(f"excluded: {counted(len(verdict.aside), 'image')} ({verdict.bad:,} cannot be read), listed in {report}")
        console.log(f"positive class: {classes[1]}; the data set is in {self.folder}")
        return made

    def _examine(self, found: Survey, spool: IO[bytes]) -> Iterator[_Spooled]:
        """All images of the survey, decoded and encoded by all workers; those that cannot be read come first."""
        side, offset = self.options.side, 0
        wanted = {image.name: image for image in found.layout.images}

        def examine(item: tuple[str, bytes]) -> tuple[str, str, pixels.Stored, str]:
            name, data = item
            sha256 = hashlib.sha256(data).hexdigest()
            try:
                return name, sha256, pixels.store(data, side, self.levels), ""
            except pixels.Undecodable as error:
                return name, sha256, pixels.Stored(b"", dim=False), str(error)

        for image in found.layout.images:
            if image.fault:
                yield _Spooled(audit.Examined(image.name, image.label, image.split, "", image.fault), 0, 0)
        with console.progress("reading", sum(not image.fault for image in wanted.values()), "images") as bar:
            for name, sha256, stored, fault in in_order(examine, found.read(), self.workers):
                self.stop.check()
                spool.write(stored.jpeg)
                self.dim += stored.dim
                image = wanted[name]
                yield _Spooled(audit.Examined(name, image.label, image.split, sha256, fault), offset, len(stored.jpeg))
                offset += len(stored.jpeg)
                bar.advance()

    def _check_bad(self, verdict: audit.AuditResult, total: int, report: Path) -> None:
        if verdict.bad > self.options.max_bad * total:
            bad = f"{verdict.bad:,} of {total:,} images that cannot be read ({verdict.commonest()})"
            accept = f", or give --max-bad {-(-1000 * verdict.bad // total) / 1000:g}" if verdict.bad < total else ""
            what = f"lists {bad}, more than --max-bad {self.options.max_bad:g}"
            raise UserError(str(report), what, f"fix or delete them{accept}")

    def _write(self, splits: dict[str, list[audit.Examined]], places: dict[str, _Spooled]) -> dict[str, manifest.Split]:
        stored = sum(places[p.key].length for members in splits.values() for p in members)
        local.require_space(self.folder, int(1.05 * stored) + 300 * len(places), "the shards")
        written = {}
        with (self.work / "spool").open("rb") as spool, console.progress("writing", len(places), "images") as bar:
            for name, members in splits.items():

                def record(image: audit.Examined) -> shards.Record:
                    self.stop.check()
                    place = places[image.key]
                    spool.seek(place.offset)
                    bar.advance()
                    return shards.Record(spool.read(place.length), image.label, image.key, image.sha256)

                size = sum(shards.framed_size(places[p.key].length + 150) for p in members)
                count = max(-(-size // SHARD_BYTES), TRAIN_SHARDS if name == "train" else 1)
                written[name] = _write_split(self.folder, name, members, min(count, len(members)), record)
        return written


def _write_split(
    folder: Path, name: str, members: list[audit.Examined], count: int, record: Callable[[audit.Examined], shards.Record]
) -> manifest.Split:
    bounds = [len(members) * k // count for k in range(count + 1)]
    made = tuple(
        shards.write(folder, f"{name}-{k:05d}-of-{count:05d}", map(record, members[bounds[k] : bounds[k + 1]])) for k in range(count)
    )
    positives = sum(p.label for p in members)
    return manifest.Split(len(members), (len(members) - positives, positives), made)
