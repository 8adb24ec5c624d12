"""Training, evaluation and sweeps on shards in a bucket: the bits are those of the same shards in a folder."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job import commands
from job.cli import read
from job.config.options import build, replace
from job.config.resolve import bytes_of
from job.config.schema import Config, EvaluateConfig
from job.console import console
from job.data import manifest
from job.data.location import auto_window, locate
from job.data.manifest import Manifest
from job.data.remote_reader import RemoteReader
from job.errors import UserError
from job.evaluate import evaluate
from job.runs import checkpoints, records
from job.shutdown import Stop
from job.smoke import draw
from job.storage.opening import open_bucket
from job.train import train
from tests.conftest import SMALL, small
from tests.remote import fill
from tests.stores.fixtures import Store
from tests.stores.proxy import Proxy

_TEXTS = {name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value) for name, value in SMALL.items()}
OPTIONS = [word for name, text in _TEXTS.items() for word in (f"--{name.replace('_', '-')}", text)]


@pytest.fixture
def address(gcs_store: Store, shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The shared data set in a bucket; the cache is the test's own."""
    gcs_store.use(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    fill(open_bucket(gcs_store.url), shards)
    return gcs_store.url


def _at(address: str, out: Path, **changes: Any) -> Config:
    config: Config = replace(small(Path("nowhere"), out, **changes), data=address)
    return config


def _figures(folder: Path) -> list[dict[str, Any]]:
    """What was measured, without the times."""
    rows = records.read_metrics(folder)
    return [{name: value for name, value in row.items() if name not in ("time", "seconds", "images_per_second")} for row in rows]


def _same(one: Path, other: Path) -> None:
    folders = [folder / records.CHECKPOINTS for folder in (one, other)]
    newest = [checkpoints.newest(folder) for folder in folders]
    assert newest[0] is not None
    assert newest[1] is not None
    assert newest[0].state.step == newest[1].state.step
    for name, value in newest[0].arrays.items():
        np.testing.assert_array_equal(value, newest[1].arrays[name], err_msg=name)
    assert _figures(one) == _figures(other)


def test_a_run_on_a_bucket_is_that_on_the_folder(address: str, run: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--data", address + "/", "--out", str(out), "--stop-after", "1", *OPTIONS]
    assert commands.train(read("train", words, {}), Stop()).status == "stopped"
    assert records.read_config(out).source.data == address
    made = manifest.read(shards)
    assert {path.name for path in (tmp_path / "xdg" / "twofold" / "shards").iterdir() if len(path.name) == 64} <= {
        shard.sha256 for split in made.splits.values() for shard in split.shards
    }
    resumed = _at("", out)
    assert train(resumed, given={"out"}).status == "done"
    _same(run, out)
    figures = evaluate(out, build(EvaluateConfig, {}), Stop())
    assert figures["log_loss"] == records.read_epochs(run)[-1].validation.log_loss
    assert (figures["learnt"], figures["chose"]) == (0, made.splits["validation"].records)
    values = dict(data=address, cache=str(tmp_path / "other"))
    assert evaluate(run, build(EvaluateConfig, values), Stop()) == evaluate(
        run, build(EvaluateConfig, {**values, "data": str(shards)}), Stop()
    )
    draw(tmp_path / "mine", 60, 40)  # the very images, as a source: known by their hashes
    mine = evaluate(out, build(EvaluateConfig, dict(data=str(tmp_path / "mine"))), Stop())
    assert (mine["learnt"], mine["chose"]) == (made.splits["train"].records, made.splits["validation"].records)
    with pytest.raises(UserError, match="has no split tset"):
        evaluate(run, build(EvaluateConfig, dict(data=address, split="tset")), Stop())
    before = train(replace(resumed, data=address), given={"out", "data"})
    assert before.status == "done"


def test_what_the_first_step_takes_comes_before_whole_shards(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, set[int]]] = []
    for name in ("ask", "begin", "need"):
        call = getattr(RemoteReader, name)

        def noted(self: RemoteReader, first: Any, *more: Any, name: str = name, call: Any = call) -> Any:
            if "train-" in self._names[0]:
                seen.append((name, set() if name == "need" else {*first}))
            return call(self, first, *more)

        monkeypatch.setattr(RemoteReader, name, noted)

    def started(*more: str) -> list[tuple[str, set[int]]]:
        """What was asked for until shards were."""
        seen.clear()
        commands.train(read("train", ["--data", address, "--out", str(tmp_path / "run"), *OPTIONS, "--memory", "0", *more], {}), Stop())
        return seen[: [name for name, _ in seen].index("need")]

    ahead, whitening, batch = started("--stop-after", "1")
    assert (ahead[0], whitening[0], batch[0]) == ("ask", "begin", "begin")
    assert ahead[1] == whitening[1] | batch[1]
    assert len(batch[1]) == SMALL["batch"]
    ahead, resumed = started()
    assert (ahead[0], resumed[0]) == ("ask", "begin")
    assert ahead[1] == resumed[1] != batch[1]


def test_windows_and_a_small_cache_are_the_same_from_a_folder(address: str, shards: Path, tmp_path: Path) -> None:
    made = manifest.read(shards)
    size = sum(shard.bytes for split in ("train", "validation") for shard in made.splits[split].shards) - 1000
    out, local = tmp_path / "run", tmp_path / "local"
    wanted = auto_window(locate(address, _at(address, out, cache_size=f"{size}B").feed, Stop()), made)
    assert 0 < wanted < len(made.splits["train"].shards)
    assert train(_at(address, out, cache_size=f"{size}B", epochs=1)).status == "done"
    assert records.read_config(out).schedule.window == wanted
    assert train(small(shards, local, window=wanted, epochs=1)).status == "done"
    _same(local, out)
    with pytest.raises(UserError, match=rf"--window: 1 differs from the run's {wanted} in "):
        train(_at(address, out, window=1, epochs=1))


def test_a_stop_while_the_store_is_away_saves_and_is_gone_on_with(
    address: str, gcs_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, out = Stop(), tmp_path / "run"
    with Proxy(gcs_store.endpoint) as proxy:
        gcs_store.at(proxy.endpoint).use(monkeypatch)

        def away(epoch: records.Epoch) -> None:
            proxy.away(60)
            threading.Timer(0.5, stop.set).start()

        options = dict(cache_size="1B", memory=0, window=0, epochs=4)  # each record of each batch is a request
        assert train(_at(address, out, **options), away, stop=stop).status == "interrupted"
        newest = checkpoints.newest(out / records.CHECKPOINTS)
        assert newest is not None
        summary = records.read_summary(out)
        assert summary is not None
        assert (summary.status, summary.steps) == ("interrupted", newest.state.step)
        assert 5 <= newest.state.step < 12, "no more than the batches that were ready"
        proxy.away(0)
        assert train(_at(address, out, **options, stop_after=3)).status == "stopped"


def test_what_is_not_there_and_what_is_another_data_set(
    address: str, run: Path, gcs_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError) as caught:
        train(_at(address + "/nothing", tmp_path / "run"))
    assert str(caught.value) == f"{address}/nothing: is not a data set: manifest.json not found; make one with twofold prepare"
    assert not (tmp_path / "run").exists()
    found = manifest.read(locate(address, build(Config, {}).feed, Stop()))
    changed = Manifest(found.classes, {**found.splits, "test": found.splits["validation"]}, {})
    manifest.write(tmp_path, changed)
    bucket, other = open_bucket(address), open_bucket(address + "/other")
    other.put("manifest.json", tmp_path / "manifest.json")
    for name in {name for part in changed.splits.values() for shard in part.shards for name in (shard.file, shard.index)}:
        other.put(name, bucket.read(name))
    with pytest.raises(UserError, match=r"--data: the data set is not the one that .*run was trained on"):
        train(_at(address + "/other", run))


def test_a_sweep_on_a_bucket(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []
    monkeypatch.setattr("tuning.engine_kerastuner.search", lambda plan, *rest: seen.append(plan.config("0001", None)))
    words = ["--data", address + "/", "--out", str(tmp_path / "sweep"), "--engine", "keras-tuner", "--trials", "2", "--cpus-per-trial", "2"]
    commands.sweep(read("sweep", [*words, "--cache-size", "150kB"], {}), Stop())
    (trial,) = seen
    assert trial.source.data.rstrip("/") == address
    assert trial.feed.cache_size == "150kB"
    found = locate(address, trial.feed, Stop())
    assert trial.schedule.window == auto_window(found, manifest.read(found)) > 0, "the same for all trials"


@pytest.mark.parametrize(("text", "wanted"), [("20GB", 20 * 10**9), ("1.5 gib", 3 * 2**29), ("7b", 7), ("3kB", 3000), ("1TB", 10**12)])
def test_sizes(text: str, wanted: int) -> None:
    assert bytes_of(text) == wanted


@pytest.mark.parametrize("text", ["", "20", "GB", "-1GB", "1e3MB", "5 apples"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UserError) as caught:
        bytes_of(text)
    assert str(caught.value) == f"--cache-size: {text!r} is not a size; give a number with kB, MB, GB or TB, as 20GB"


def test_a_cache_without_effect_is_named(address: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(console, "log", lambda line, **fields: told.append(line))
    monkeypatch.setattr("job.train.train", lambda config, **options: config)
    for data in (str(shards), address):
        commands.train(read("train", ["--data", data, "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")], {}), Stop())
    assert told == [f"note: --cache has no effect: {shards} is already prepared"]
