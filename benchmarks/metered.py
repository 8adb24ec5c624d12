"""Training with and without saving in turns within one process, each step timed. A program that `benchmarks/saving.py` calls.

The job is the real one, in this process; its steps, and when its saver may save, are wrapped. `keras` in place of the job's own loop
is `model.fit` with `BackupAndRestore`, on the same network and the same batches.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import job.train
import job.training.build
from benchmarks.windows import EVERY, SETTINGS, Meter
from job.config.options import build
from job.config.schema import Config
from job.feeds import prefetch
from job.machine.libraries import keras, tf
from job.runs import place
from job.runs.state import State
from job.shutdown import Stop
from job.training import augment
from job.training.build import Run
from job.training.loop import Loop
from job.training.saver import Saver
from job.training.step import Step

FAR = 10**6  # steps that an epoch lasts: none ends, and no validation falls, within a window


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loop", choices=("job", "keras"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--cache", required=True, type=Path)
    parser.add_argument("--window", required=True, type=float)
    parser.add_argument("--rounds", required=True, type=int)
    parser.add_argument("--rows", required=True, type=Path)
    options = parser.parse_args()
    meter, stop = Meter(options.window, options.rounds), Stop()
    config = build(Config, dict(SETTINGS, data=options.data, out=options.out, cache=str(options.cache)))
    with place.opened(options.out, options.cache, stop, job.train.GRACE) as where:
        _wrap(meter, stop, where, options.loop == "keras")
        job.train.train(config, stop=stop, where=where)
    options.rows.write_text(json.dumps(meter.rows))


def _wrap(meter: Meter, stop: Stop, where: place.Place, by_keras: bool) -> None:
    """Put the meter's hands on the job's steps and saves."""

    class MeteredStep(Step):
        def run(self, *arguments: Any) -> Any:
            meter.begin()
            if meter.done:
                stop.set()
            outcome = super().run(*arguments)
            meter.end()
            return outcome

    class MeteredSaver(Saver):
        asked = 0

        def due(self, step: int) -> bool:
            meter.settled = self._is_sent
            return meter.allows() and super().due(step)

        def save(self, state: State) -> None:
            self.asked += 1
            meter.saves()
            super().save(state)

        def _is_sent(self) -> bool:
            unsent = where.mirror.unsent() if where.mirror else ()
            return self.made == self.asked and not any(name.startswith("checkpoints/") for name in unsent)

    class KerasLoop(Loop):
        def go(self, on_epoch: Any) -> str:
            _fit(self.run, where.path / "backup", meter)
            return "interrupted"

    Run.epoch_end = lambda run, epoch: epoch * FAR
    job.training.build.Step = MeteredStep
    job.train.Saver = MeteredSaver
    if by_keras:
        job.train.Loop = KerasLoop


def _fit(run: Run, folder: Path, meter: Meter) -> None:
    """Keras's own training, with an optimizer that has as much state as the job's, and Keras's own checkpoints."""
    model, size = run.network.model, run.config.schedule.train_sizes[0]
    augmented = tf.function(lambda *batch: augment.augment(*batch, run.config.augment, size))

    class Metering(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            meter.begin()
            self.model.stop_training = meter.done

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            meter.end()

    class Backup(keras.callbacks.BackupAndRestore):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if meter.allows():
                super().on_train_batch_end(batch, logs)

        def _save_model(self) -> None:
            meter.saves()
            super()._save_model()

    def batches() -> Iterator[Any]:
        with closing(prefetch.ahead(run.batch, 0, run.steps)) as made:
            for images, labels, noise in made:
                inputs, targets = augmented(images, labels, noise)
                yield (inputs, noise[:, augment.COLUMNS :]), targets

    with run.step.distribution.scope():
        optimizer = keras.optimizers.SGD(1e-3, momentum=0.9, nesterov=True, use_ema=True, ema_momentum=0.995)
        model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=False)
        model.fit(batches(), verbose=0, shuffle=False, callbacks=[Metering(), Backup(str(folder), save_freq=EVERY)])


if __name__ == "__main__":
    main()
