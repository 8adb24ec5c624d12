"""What each command does between its options and its result: for the command line and for Python alike.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.config import effects, lengths
from job.config.options import Request, replace
from job.config.schema import Config, Prepare, PrepareConfig, Reading
from job.console import console
from job.errors import JobError, UserError
from job.shutdown import Stop

if TYPE_CHECKING:
    from job.data.location import Location
    from job.data.manifest import Manifest
    from job.runs.place import Place
    from job.runs.records import Summary

GRACE = 12.0  # seconds from a stop to the exit, of what has no option for it
NO_DATA = """no --data given; any of these will do, and is prepared on the way:
  your own images in two folders:        twofold train --data pets/ --out run     (pets/cats/*.jpg, pets/dogs/*.jpg)
  dogs and cats from Kaggle (a token):   twofold train --data kaggle:salader/dogs-vs-cats --out run"""


def prepare(request: Request, stop: Stop) -> Manifest | None:
    """Images become shards; None for a dry run, which makes none."""
    from job.prepare import check, keep, look, prepare, require_own

    sources, config = request.positional["source"], request.config
    if config.run.dry_run:
        look(sources, config, stop)
        return None
    check(sources, config)
    with _opened(config, stop, partial(require_own, where=config.output.out)) as where, _no_empty_folder(where.path):
        made = prepare(sources, config, stop, where=where)
    if where.mirror is not None:
        keep(made, where, config.feed)
    return made


def train(request: Request, stop: Stop) -> Summary:
    """Prepare what is a source, then train."""
    from job.runs import records
    from job.training.resume import require_configuration, require_unchanged

    config: Config = request.config
    resumed = config
    if not config.output.out:
        raise UserError("--out", "no run folder given", "add --out RUN") if config.source.data else UserError("train", NO_DATA, "")

    def check(folder: Path) -> None:
        nonlocal resumed
        require_configuration(folder)
        if not config.source.data and not (folder / records.CONFIG).exists():
            raise UserError("train", NO_DATA, "")
        if (folder / records.CONFIG).exists():
            require_unchanged(folder, config, request.given)
        resumed = _resumed(request, folder)
        _note(effects.check(request, resumed))

    with _opened(config, stop, partial(_require_run, where=config.output.out), check) as where:
        return _train(request, resumed, where, stop)


def _require_run(names: Collection[str], where: str) -> None:
    """Refuse the folder of a sweep, or of other things."""
    from job.runs import records
    from tuning.state import NAME as SWEEP

    if SWEEP in names:
        raise UserError(where, "is the folder of a sweep", "name another --out for the run")
    own = (records.DATA, records.LOG, "lost+found")
    others = sorted(name for name in names if not name.startswith(".") and name not in own)
    if others and not {records.CONFIG, records.CHECKPOINTS} & {*names}:
        raise UserError(where, f"is not a run folder, and holds other files, such as {others[0]}", "name a new folder with --out")


def _train(request: Request, resumed: Config, where: Place, stop: Stop) -> Summary:
    config: Config = request.config
    with _no_empty_folder(where.path):
        if config.machine.gpus not in ("auto", "none"):  # before an hour of preparing, not after
            from job.machine import devices

            devices.select(config.machine.gpus, devices.present())
        shards = _shards(request, resumed, where.path, stop)
        if config.feed.cache and where.mirror is None:
            config = replace(config, data=shards)
        with _head_start(shards, resumed, where.path, stop):
            from job.train import train

            return train(config, given=request.given, stop=stop, where=where)


def sweep(request: Request, stop: Stop) -> list[dict[str, Any]]:
    """Prepare what is a source, then search; a row for each trial."""
    config = request.config
    if not config.source.data:
        raise UserError("--data", "no images given", "add --data, shards or any source that twofold train takes")
    from job.runs import records
    from tuning import report
    from tuning.sweep import check, sweep

    _note(effects.check(request, config))
    check(config, request.fixed)
    with _opened(config, stop, partial(_require_sweep, where=config.output.out)) as where, _no_empty_folder(where.path):
        data = _shards(request, config, where.path, stop)
        if where.mirror is not None and data == str(where.path / records.DATA):  # trials find it there on any machine
            where.settle()
            data = f"{where.address}/{records.DATA}"
        return report.rows(sweep(replace(config, data=data), request.fixed, stop, where))


def _require_sweep(names: Collection[str], where: str) -> None:
    """Refuse the folder of a run."""
    from job.runs.records import CONFIG

    if CONFIG in names:
        raise UserError(where, "is the folder of a run", "name another --out for the sweep")


def evaluate(request: Request, stop: Stop) -> dict[str, Any]:
    """The figures of a run."""
    from job.runs.records import MODEL

    with _read(request, stop, MODEL) as run:
        from job.evaluate import evaluate  # a mistyped RUN need not wait for TensorFlow

        return evaluate(run, request.config, stop, request.positional["run"])


def predict(request: Request, stop: Stop) -> Iterator[str]:
    """The lines to print, as the images are read."""
    paths = _paths(request)
    with _read(request, stop) as run:
        from job.predict import predict

        yield from predict(run, paths, request.config, stop)


def predict_rows(request: Request, stop: Stop) -> list[dict[str, Any]]:
    """The rows behind those lines."""
    paths = _paths(request)
    with _read(request, stop) as run:
        from job.predict import rows

        return [*rows(run, paths, request.config, stop)]


def _paths(request: Request) -> list[str]:
    """The images to predict: what is mistyped need wait neither for the run nor for TensorFlow."""
    from job.config.folders import folder_or_bucket
    from job.data.sources import require_there

    folder_or_bucket(request.positional["run"], "RUN")
    paths: list[str] = request.positional["path"]
    if not paths:
        raise UserError("predict", "no image given", "name images, folders or archives after the run")
    for path in paths:
        require_there(path)
    return paths


def visualize(request: Request, stop: Stop) -> None:
    """How the network sees an image."""
    with _read(request, stop) as run:
        from job.visualize import visualize

        visualize(run, request.positional["image"], request.config.output.out, stop)


def smoke(request: Request, stop: Stop) -> None:
    """The whole job, on images that it draws itself."""
    from job.smoke import smoke

    smoke(stop)


def drill(request: Request, stop: Stop) -> None:
    """A job that is killed again and again, beside one that is left alone."""
    from job.drill.command import drill

    drill(request.config, stop)


def _opened(
    config: Config | PrepareConfig, stop: Stop, accept: Callable[[set[str]], None], check: Callable[[Path], None] = lambda folder: None
) -> AbstractContextManager[Place]:
    """The folder that a command writes in; `accept` is given the names in it, then `check` the folder: both refuse by raising."""
    from job.config.resolve import bytes_of
    from job.runs import place
    from job.storage.cache import default_folder

    grace = lengths.seconds(config.run.grace, "--grace") if isinstance(config, Config) else GRACE
    cache, bound = default_folder(config.feed.cache), bytes_of(config.feed.cache_size)
    return place.opened(config.output.out, cache, stop, grace, bound=bound, accept=accept, check=check)


@contextmanager
def _read(request: Request, stop: Stop, *more: str) -> Iterator[Path]:
    """The run that a command reads."""
    from job.runs import reading, records

    with reading.opened(request.positional["run"], request.config.feed, stop, more) as folder:
        records.require_run(folder)
        yield folder


def _resumed(request: Request, folder: Path) -> Config:
    """The configuration as a resumed run has it; without a run in the folder, as given."""
    from job.runs.records import CONFIG

    config: Config = request.config
    if not (folder / CONFIG).exists():
        return config
    from job.training.resume import merge

    return merge(folder, config, request.given & {"data", *Prepare.__slots__, *Reading.__slots__})  # what may not differ, train refuses


def _shards(request: Request, resumed: Config, folder: Path, stop: Stop) -> str:
    """Where the shards of `--data` are, prepared where it is a source; empty where a resumed run knows them."""
    from job.data import manifest
    from job.data.location import locate
    from job.runs import records

    named, feed = request.config.source.data, request.config.feed
    place = locate(named, feed, stop)
    ready = not named or manifest.exists(place)
    shards = named if ready else _prepared(replace(resumed, data=named), place, folder, stop)
    found = place if shards == named else locate(shards, feed, stop)
    if not shards:
        found = records.find_data(folder, resumed, cache=feed, stop=stop)
    if manifest.exists(found):
        made = manifest.read(found)
        _note(effects.check_prepared(request, made.settings, made.classes, str(found)))
        _note(f"note: --cache has no effect: {found} is already prepared" if ready and feed.cache and isinstance(found, Path) else "")
    return shards


def _head_start(shards: str, config: Config, folder: Path, stop: Stop) -> AbstractContextManager[None]:
    """While inside, what training needs first of a bucket's shards is read: the import of TensorFlow takes as long."""
    from job.config.resolve import Hardware, resolve
    from job.data import location, manifest
    from job.feeds import order
    from job.runs import checkpoints, records
    from job.storage.opening import is_bucket

    if not is_bucket(shards):
        return nullcontext()
    found = location.locate(shards, config.feed, stop)
    made = manifest.read(found)
    train = made.split("train", found)
    options = resolve(config, train.records, Hardware(window=location.auto_window(found, made))).schedule
    saved = checkpoints.names(folder / records.CHECKPOINTS)
    windows = order.Windows(tuple(shard.records for shard in train.shards), options.window)
    first = order.positions(options.seed, saved[0].step if saved else 0, options.batch, windows).tolist()
    if config.model.model == "residual" and not saved:
        first += order.whitened(options.seed, train.records).tolist()
    return location.begun(found, train.shards, first)


def _prepared(config: Config, source: Location, folder: Path, stop: Stop) -> str:
    """A source prepared, once, into the cache or the run folder; or what a run that was started has."""
    from job.data import manifest
    from job.prepare import prepared_shards
    from job.runs import records
    from tuning.state import first_trial

    if manifest.unfinished(source):
        manifest.read(source)  # words the error
    started = next((run for run in (folder, first_trial(folder)) if (run / records.CONFIG).exists()), None)
    return str(prepared_shards(config, folder, stop, started))


def _note(line: str) -> None:
    if line:
        console.log(line)


@contextmanager
def _no_empty_folder(folder: Path) -> Iterator[None]:
    """Leave no empty folder behind where nothing came of a start that made it.

    Another start may have begun in it in the meantime: nothing is removed but under the folder's lock.
    """
    there = folder.exists()
    try:
        yield
    except BaseException:
        from job.runs.records import LOG
        from job.storage import lock

        if not there and folder.exists():
            with suppress(OSError, JobError), lock.only_writer(folder):
                left = [*folder.iterdir()]
                if all(path.is_file() and (path.name == LOG or path.name.startswith(".")) for path in left):
                    for path in left:
                        path.unlink()
                    folder.rmdir()
        raise
