"""What a later start finds: moved data, damaged or half-written checkpoints, summaries of processes that are gone."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.config import options
from job.data import manifest
from job.errors import UserError
from job.inference.trained import Trained
from job.runs import checkpoints, records
from job.runs.checkpoints import Checkpoint
from job.storage import lock
from job.train import train
from tests.conftest import small


@pytest.fixture(scope="module")
def stopped(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of its own folder and data, stopped after the first of two epochs; copied by each test."""
    root = tmp_path_factory.mktemp("stopped")
    shutil.copytree(shards, root / "shards")
    assert train(small(root / "shards", root / "run", stop_after=1)).status == "stopped"
    return root


def _resume(run: Path, data: str = "", **values: Any) -> records.Summary:
    """The same command again; without `data`, as `train --out RUN`."""
    config = small(Path("nowhere"), run, **values)
    return train(options.replace(config, data=data), given={"out", *(("data",) if data else ())})


@pytest.mark.parametrize("where", ["the folder around both", "into the run", "beside the run"])
def test_a_run_finds_its_shards_after_a_move(stopped: Path, run: Path, tmp_path: Path, where: str) -> None:
    root = tmp_path / "elsewhere"
    shutil.copytree(stopped, root)
    stopped.rename(hidden := stopped.with_name("hidden"))  # nothing is left where config.toml says
    try:
        if where == "into the run":
            (root / "shards").rename(root / "run" / records.DATA)
        elif where == "beside the run":
            (root / "run").rename(root / "renamed")
        summary = _resume(root / ("renamed" if where == "beside the run" else "run"), stop_after=1)
        assert summary.status == "stopped"
    finally:
        hidden.rename(stopped)


def test_shards_that_are_gone_name_the_option(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped / "run", tmp_path / "a" / "run")
    stopped.rename(stopped.with_name("hidden"))
    try:
        with pytest.raises(UserError, match=r"the data set of this run is not found there; give its folder with --data$"):
            _resume(tmp_path / "a" / "run")
    finally:
        stopped.with_name("hidden").rename(stopped)


def test_other_shards_in_the_old_place_are_not_taken(stopped: Path, tmp_path: Path) -> None:
    root = tmp_path / "elsewhere"
    shutil.copytree(stopped, root)
    other = json.loads((root / "shards" / manifest.NAME).read_text())
    assert records.find_data(root / "run", records.read_config(root / "run"), other["fingerprint"]) == stopped / "shards"
    wrong = replace(records.read_config(root / "run").source, data=str(root / "nothing"))
    config = replace(records.read_config(root / "run"), source=wrong)
    assert records.find_data(root / "run", config, other["fingerprint"]) == root / "nothing"


def test_a_damaged_best_checkpoint_costs_the_best_not_the_run(stopped: Path, tmp_path: Path, capsys: Any) -> None:
    """Best is the first epoch and damaged; the run finishes with the newest, and its figures are that one's."""
    shutil.copytree(stopped, root := tmp_path / "root")
    folder = root / "run" / records.CHECKPOINTS
    newest = checkpoints.newest(folder)
    assert newest is not None
    lost = newest.state.step - 1
    for state in (replace(newest.state, step=lost), replace(newest.state, best=1e9, best_step=lost)):
        checkpoints.save(folder, Checkpoint(newest.arrays, state, 2, newest.settings))
    arrays = folder / str(checkpoints.of_step(folder, lost)) / "state.npz"
    arrays.write_bytes(arrays.read_bytes()[:-9])
    summary = _resume(root / "run", str(root / "shards"))
    assert summary.status == "done"
    assert summary.best_step == summary.steps
    epoch = records.read_epochs(root / "run")[-1]
    assert summary.validation == epoch.validation
    said = capsys.readouterr().out
    assert f"the best weights, of step {lost}, are lost; model.keras is made from those of step {summary.steps}" in said
    assert Trained(root / "run").step == summary.steps


def test_a_score_that_is_no_number_is_best_only_until_there_is_one(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from job.training import loop

    shutil.copytree(stopped / "shards", tmp_path / "shards")
    scores = iter([float("nan"), 0.9])
    plain = loop.validate
    monkeypatch.setattr(loop, "validate", lambda *arguments: replace(plain(*arguments), log_loss=next(scores)))
    summary = train(small(tmp_path / "shards", tmp_path / "run"))
    assert summary.best_step == summary.steps
    assert "NaN" not in (tmp_path / "run" / records.METRICS).read_text()


def test_who_was_killed_does_not_seem_to_run(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped / "run", run := tmp_path / "run")
    summary = records.read_summary(run)
    assert summary is not None
    records.write_summary(run, replace(summary, status="running"))  # as a kill leaves it
    running = replace(summary, status="running")
    assert records.standing(run, running) == f"cut off: process {summary.process} is gone; rerun its twofold train to resume"
    with lock.only_writer(run):
        assert records.standing(run, running).startswith("running, last saved ")
    assert records.standing(run, summary) == "stopped"
    assert summary.process.startswith(f"{os.getpid()} on ")
    assert 0 <= time.time() - summary.updated < 3600


def test_class_weights_do_not_shift_the_probabilities(drawn: Path, tmp_path: Path) -> None:
    """On labels that nothing tells, the best answer is the share of positives, in evaluate and in model.keras."""
    import keras

    from job.config.options import build
    from job.config.schema import PrepareConfig
    from job.data.shards import Reader
    from job.prepare import prepare

    few = tmp_path / "few"
    for name in ("a", "b"):
        (few / name).mkdir(parents=True)
    files = sorted(path for folder in drawn.iterdir() for path in folder.iterdir())
    for number, path in enumerate(files):
        (few / ("b" if number % 8 == 0 else "a") / f"{number}.png").write_bytes(path.read_bytes())
    prepare([str(few)], build(PrepareConfig, dict(out=str(tmp_path / "set"), val=0.3, side=40)))
    summary = train(small(tmp_path / "set", tmp_path / "run", epochs=1, smoothing=0.0, lr=1e-6))
    assert summary.validation is not None
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    reader = Reader(tmp_path / "set", manifest.read(tmp_path / "set").splits["validation"].shards)
    from job.data import pixels

    images = np.stack([pixels.square(reader[n].image, 32) for n in range(len(reader))])
    reader.close()
    exported = np.asarray(model(images))[:, 0]
    assert 0.08 < exported.mean() < 0.20  # 0.5 without the correction: nothing has been learnt yet
    assert summary.validation.ece < 0.1
