"""Training: exact resume, refusals, stops, records, the exported model."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.config.options import read_toml
from job.config.schema import Config
from job.data import manifest
from job.errors import Interrupted, UserError
from job.machine import strategy
from job.runs import checkpoints, records
from job.shutdown import Stop
from job.train import train
from tests.conftest import SMALL, small


def _weights(run: Path) -> dict[str, Any]:
    return checkpoints.load(run / "checkpoints", checkpoints.names(run / "checkpoints")[0]).arrays


def _figures(run: Path) -> list[dict[str, Any]]:
    """The records without what depends on the clock."""
    timed = ("time", "seconds", "images_per_second")
    return [{k: v for k, v in r.items() if k not in timed} for r in records.read_metrics(run)]


class _AfterAStep(Stop):
    """Set as soon as training has looked, for the second time, whether to begin."""

    checks = 0

    def check(self) -> None:
        super().check()
        self.checks += 1
        if self.checks == 2:
            self.set()


def test_a_stop_before_the_first_step_leaves_no_checkpoint(shards: Path, tmp_path: Path) -> None:
    stop = Stop()
    stop.set()
    with pytest.raises(Interrupted):
        train(small(shards, tmp_path / "run"), stop=stop)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_signals_are_listened_to_again_once_the_strategy_is_built(shards: Path, tmp_path: Path, monkeypatch: Any) -> None:
    told: list[str] = []
    build, stop = strategy.build, Stop()
    monkeypatch.setattr(strategy, "build", lambda *arguments: (told.append("strategy"), build(*arguments))[1])
    stop.listen = lambda: told.append("signals")
    train(small(shards, tmp_path / "run", stop_after=1), stop=stop)
    assert told == ["strategy", "signals"]


def test_a_stopped_run_goes_on_exactly(run: Path, shards: Path, tmp_path: Path) -> None:
    """Stopped in the middle of an epoch and at an epoch's end, it ends with the bits of a run that never stopped."""
    out = tmp_path / "run"
    for stop in (_AfterAStep(), Stop()):
        summary = train(small(shards, out), on_epoch=lambda entry, stop=stop: stop.set(), stop=stop)
        assert summary.status == "interrupted"
        assert records.read_summary(out).status == "interrupted"
    assert train(small(shards, out)).status == "done"
    whole, parts = _weights(run), _weights(out)
    assert whole.keys() == parts.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(parts[name], array, err_msg=name)
    assert _figures(out) == _figures(run)


def test_the_records_say_each_step_and_epoch_once(run: Path) -> None:
    steps = [r["step"] for r in records.read_metrics(run) if r["kind"] == "step"]
    assert steps == list(range(1, steps[-1] + 1))
    epochs = [r for r in records.read_metrics(run) if r["kind"] == "epoch"]
    assert [r["epoch"] for r in epochs] == [1, 2]
    with (run / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["val_log_loss"]) for r in rows] == pytest.approx([r["val_log_loss"] for r in epochs])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [e.step for e in board.Scalars("step/loss")] == steps
    assert (run / "curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_an_epochs_rate_does_not_depend_on_the_checkpoints_within_it(shards: Path, tmp_path: Path) -> None:
    images = manifest.read(shards).splits["train"].records
    train(small(shards, tmp_path / "run", save_every="1steps"))
    first, second = records.read_epochs(tmp_path / "run")
    assert second.images_per_second == pytest.approx(images / (second.seconds - first.seconds), rel=0.01)


def test_a_killed_run_is_cut_back_to_its_checkpoint(shards: Path, run: Path, tmp_path: Path) -> None:
    """SIGKILL between two checkpoints: lines past the checkpoint go, and the end is the undisturbed one."""
    out = tmp_path / "run"
    train(small(shards, out, stop_after=1))
    with (out / records.METRICS).open("a") as file:  # what a kill leaves: steps after the checkpoint, and half a line
        file.write(json.dumps({"kind": "step", "step": 6, "time": 1.0, "loss": 9.0}) + '\n{"kind": "st')
    assert train(small(shards, out)).status == "done"
    assert _figures(out) == _figures(run)


def test_stop_after_ends_early_and_the_same_run_goes_on(shards: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train(small(shards, out, stop_after=1)).status == "stopped"
    assert not (out / "model.keras").exists()
    again = train(small(shards, out, stop_after=1))
    assert (again.status, again.epochs) == ("stopped", 1)
    assert train(small(shards, out)).status == "done"
    for name, array in _weights(run).items():
        np.testing.assert_array_equal(_weights(out)[name], array, err_msg=name)


def test_a_caller_may_stop_the_run(shards: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    summary = train(small(shards, tmp_path / "run"), on_epoch=lambda entry: seen.append(entry.epoch) or True)
    assert (summary.status, seen) == ("stopped", [1])


def test_a_finished_run_says_so(run: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    assert train(small(shards, run)).status == "done"
    assert "is already finished" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_other_result_fields_are_refused_by_name_and_threads_may_change(shards: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    train(small(shards, out, stop_after=1))
    with pytest.raises(UserError, match=r"--batch: 32 differs from the run's 16 in .*; leave it out to resume, or start a new --out"):
        train(small(shards, out, batch=32))
    assert train(small(shards, out, precision="bfloat16", stop_after=1)).status == "stopped"
    assert "--precision changes from float32 to bfloat16" in capsys.readouterr().out


def test_a_run_without_a_checkpoint_may_begin_with_other_values(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UserError, match=r"step \d: the loss or its gradient is not finite .*; there is no checkpoint yet"):
        train(small(shards, out, optimizer="sgd", lr=1e38, warmup=0.0))
    assert train(small(shards, out, optimizer="sgd", lr=0.01, warmup=0.0, stop_after=1)).status == "stopped"
    assert records.read_config(out).optimizer.lr == 0.01


def test_another_data_set_is_refused_on_resume(shards: Path, run: Path, drawn: Path, tmp_path: Path) -> None:
    from job.config.options import build
    from job.config.schema import PrepareConfig
    from job.prepare import prepare

    out = tmp_path / "run"
    train(small(shards, out, stop_after=1))
    prepare([str(drawn)], build(PrepareConfig, dict(out=str(tmp_path / "other"), val=0.4, side=40)))
    before = (out / records.CONFIG).read_text()
    for started in (out, run):  # unfinished, and finished
        with pytest.raises(UserError, match="--data: the data set is not the one"):
            train(small(tmp_path / "other", started))
    assert (out / records.CONFIG).read_text() == before


def test_a_damaged_checkpoint_falls_back_and_never_to_a_fresh_start(shards: Path, run: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    train(small(shards, out, stop_after=1, save_every="1steps"))
    folder = out / "checkpoints"
    newest, before = checkpoints.names(folder)[:2]
    state = folder / str(newest) / "state.npz"
    state.write_bytes(state.read_bytes()[:-100])
    assert train(small(shards, out)).status == "done"
    assert "damaged (state.npz has another size); use another one, or a new --out; falling back" in capsys.readouterr().out
    for name, array in _weights(run).items():
        np.testing.assert_array_equal(_weights(out)[name], array, err_msg=name)
    (out / records.SUMMARY).unlink()
    for name in checkpoints.names(folder):
        (folder / str(name) / "state.npz").write_bytes(b"")
    with pytest.raises(UserError, match="checkpoints are damaged; restore them, or start in a new --out"):
        train(small(shards, out))
    assert before.age < newest.age


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = small(shards, out, optimizer="sgd", lr=1e30, warmup=0.9, save_every="1steps")
    line = r"step \d+: the loss or its gradient is not finite \(loss .*\); the checkpoint of step \d+ is kept; lower --lr"
    with pytest.raises(UserError, match=line):
        train(config)
    assert records.read_summary(out).status == "failed"
    for saved in checkpoints.names(out / "checkpoints"):
        for name, array in checkpoints.load(out / "checkpoints", saved).arrays.items():
            assert np.isfinite(array).all(), name


def test_patience_ends_the_run_early(shards: Path, tmp_path: Path) -> None:
    """With a learning rate of nearly nothing and averages off, validation stands still."""
    summary = train(
        small(shards, tmp_path / "run", optimizer="sgd", lr=1e-30, weight_decay=0.0, ema=0.0, epochs=9, patience=2, monitor="accuracy")
    )
    assert summary.status == "done"
    assert summary.epochs < 9
    assert (tmp_path / "run" / "model.keras").exists()


def test_the_class_weights_are_printed_where_classes_are_uneven(drawn: Path, tmp_path: Path, capsys: Any) -> None:
    from job.config.options import build
    from job.config.schema import PrepareConfig
    from job.prepare import prepare

    few = tmp_path / "few"
    for name, count in (("crosses", 60), ("rings", 20)):
        (few / name).mkdir(parents=True)
        for path in sorted((drawn / name).iterdir())[:count]:
            (few / name / path.name).write_bytes(path.read_bytes())
    made = prepare([str(few)], build(PrepareConfig, dict(out=str(tmp_path / "set"), val=0.3, side=40)))
    train(small(tmp_path / "set", tmp_path / "run", stop_after=1))
    negative, positive = made.splits["train"].classes
    total = negative + positive
    assert f"class weights: crosses {total / 2 / negative:.3f}, rings {total / 2 / positive:.3f}" in capsys.readouterr().out


def test_config_toml_is_taken_back_and_resolved(run: Path) -> None:
    values = read_toml(run / records.CONFIG, Config)
    assert values["grow_at"] == ()
    assert values["precision"] == "float32"
    assert values["lr"] == 0.05
    assert values["side"] == 40
    assert None not in {values[name] for name in ("size", "batch", "crop", "decay", "threads", "replicas")}


def test_the_exported_model_opens_with_keras_alone_and_equals_evaluate(run: Path, shards: Path, tmp_path: Path) -> None:
    """In a process that cannot import `job`, in safe mode, on what the shards hold."""
    program = """
import sys, numpy as np
sys.modules["job"] = None
import keras, tensorflow as tf
model = keras.models.load_model(sys.argv[1], safe_mode=True)
rows = {}
for raw in tf.data.TFRecordDataset(sys.argv[3:]):
    row = tf.io.parse_single_example(raw, {"image": tf.io.FixedLenFeature([], tf.string), "key": tf.io.FixedLenFeature([], tf.string)})
    pixels = tf.io.decode_jpeg(row["image"], channels=3, dct_method="INTEGER_ACCURATE")
    rows[row["key"].numpy().decode()] = model(pixels[None]).numpy()  # without training=False, as people call it
    assert pixels.dtype == tf.uint8
np.savez(sys.argv[2], keys=list(rows), p=np.concatenate(list(rows.values())))
"""
    files = [str(p) for p in sorted(shards.glob("validation-*.tfrecord"))]
    subprocess.run(
        [sys.executable, "-c", program, str(run / "model.keras"), str(tmp_path / "p.npz"), *files],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    from job.data.manifest import read
    from job.data.shards import Reader
    from job.inference.trained import Item, Trained
    from job.metrics import probability

    reader = Reader(shards, read(shards).splits["validation"].shards)
    predicted = {
        j.key: float(probability(j.logit))
        for j in Trained(run).predict(Item(r.key, r.label, r.image) for r in map(reader.__getitem__, range(len(reader))))
    }
    saved = np.load(tmp_path / "p.npz")
    assert set(saved["keys"]) == set(predicted)
    assert saved["p"].shape == (len(predicted), 1)
    for key, p in zip(saved["keys"], saved["p"][:, 0], strict=True):
        assert float(p) == pytest.approx(predicted[str(key)], abs=1e-5), key


def test_one_writer_at_a_time(shards: Path, tmp_path: Path) -> None:
    from job.storage.lock import only_writer

    out = tmp_path / "run"
    out.mkdir()
    with only_writer(out), pytest.raises(UserError, match=rf"is in use by process {os.getpid()} on "):
        train(small(shards, out))


def test_sigterm_saves_and_leaves_with_75(shards: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [f"--{name.replace('_', '-')}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in SMALL.items()]
    command = [sys.executable, "-m", "job.cli", "train", f"--data={shards}", f"--out={out}", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = out / records.METRICS
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (75, "")
    assert "interrupted; saved; rerun to resume" in stdout
    assert records.read_summary(out).status == "interrupted"
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (again.returncode, again.stderr) == (0, "")
    assert "resuming from step" in again.stdout
    for name, array in _weights(run).items():
        np.testing.assert_array_equal(_weights(out)[name], array, err_msg=name)


def test_dry_run_prints_the_plan_and_leaves_no_run(shards: Path, tmp_path: Path, capsys: Any) -> None:
    summary = train(small(shards, tmp_path / "run", dry_run=True))
    assert summary.status == "planned"
    text = capsys.readouterr().out
    assert f"plan: {summary.steps} steps in 2 epochs" in text
    assert "plan: writes about" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("strength", [0.5, 1.0])  # without MixUp and with
def test_show_augment_writes_a_sheet_and_stops(shards: Path, tmp_path: Path, strength: float) -> None:
    sheet = tmp_path / "sheet.png"
    train(small(shards, tmp_path / "run", augment=strength, show_augment=str(sheet)))
    assert sheet.read_bytes()[:4] == b"\x89PNG"
    assert not (tmp_path / "run").exists()


def test_classic_trains_at_any_size(shards: Path, tmp_path: Path) -> None:
    values = dict(model="classic", size=24, train_sizes=None, filters=(4, 8), dense=(16,), epochs=1, batch=16, dropout=0.3, batchnorm=False)
    summary = train(small(shards, tmp_path / "run", **values))
    assert summary.status == "done"
