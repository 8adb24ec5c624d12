"""Planted mistakes, and whether the tests find them: `make mutants`, or `python -m tests.mutants NAME...` for some.

Each is one change of the source in a copy of the project; the tests named beside it must fail. What no test finds is
listed at the end, and below nine in ten the command fails. docs/mutants.md explains the ones that survive.
"""

# ruff: noqa: E501 (a table of pieces of code, a line each)

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parents[1]
WANTED = 0.9  # share that must be found
SECONDS = 240  # for the tests of one mistake
SIDE_BY_SIDE = 2


@dataclass(frozen=True)
class Mutant:
    """A mistake: `old` in `file` becomes `new`; `tests` are pytest's arguments."""

    name: str
    file: str
    old: str
    new: str
    tests: str


GOLDEN, REFERENCES = "tests/test_golden.py", "tests/test_references.py"
STEP, LOOP, SAVER = "job/training/step.py", "job/training/loop.py", "job/training/saver.py"
OPTIMIZERS, SCHEDULES, AUGMENT = "job/training/optimizers.py", "job/training/schedules.py", "job/training/augment.py"
BUILD, ORDER, MEMORY, METRICS = "job/training/build.py", "job/feeds/order.py", "job/feeds/memory.py", "job/metrics.py"
CHECKPOINTS, LOCAL, LOCK, LAYERS = "job/runs/checkpoints.py", "job/storage/local.py", "job/storage/lock.py", "job/models/layers.py"
CLASSIC = f"{GOLDEN} -k classic"

MUTANTS = (
    Mutant("ema decay swapped", STEP, "decay * average + (1 - decay) * value", "(1 - decay) * average + decay * value", REFERENCES + " -k averages"),
    Mutant("ema without its warm start", STEP, "tf.minimum(self.config.optimizer.ema, (1 + count) / (10 + count))", "self.config.optimizer.ema", REFERENCES + " -k averages"),
    Mutant("smoothing's sign turned", STEP, "targets * (1 - smoothing) + 0.5 * smoothing", "targets * (1 + smoothing) - 0.5 * smoothing", REFERENCES + " -k cross_entropy"),
    Mutant("class weights swapped", STEP, "negative, positive = self.class_weights\n        as", "positive, negative = self.class_weights\n        as", "tests/test_step.py -k mixup"),
    Mutant("batch statistics summed, not averaged", STEP, "[value / replicas for value in summed[last:]]", "[value * replicas for value in summed[last:]]", "tests/test_step.py -k two_replicas"),
    Mutant("gradients keep the loss scale", STEP, "[gradient / scale for gradient in gradients]", "list(gradients)", REFERENCES + " -k float16_step_moves"),
    Mutant("what is not finite is assigned", STEP, "tf.where(finite, value, tf.convert_to_tensor(variable))", "value", "tests/test_step.py -k not_finite"),
    Mutant("float16's scale never grows", STEP, "tf.where(good >= GROWTH_STEPS, self._scale * 2, self._scale)", "tf.convert_to_tensor(self._scale)", REFERENCES + " -k doubles"),
    Mutant("float16's scale never falls", STEP, "tf.maximum(self._scale / 2, 1.0)", "tf.convert_to_tensor(self._scale)", "tests/test_step.py -k halves"),
    Mutant("a skipped step counts for Adam", STEP, "self._updates.assign_add(tf.cast(finite, tf.float32))", "self._updates.assign_add(1.0)", "tests/test_step.py -k overflowed"),
    Mutant("clipping left out", STEP, "        if self.config.optimizer.clip:\n", "        if False:\n", "tests/test_step.py -k clipping"),
    Mutant("BatchNorm's momentum swapped", LAYERS, "self.moving_mean * self.momentum + mean * (1 - self.momentum)", "self.moving_mean * (1 - self.momentum) + mean * self.momentum", REFERENCES + " -k batch_normalization"),
    Mutant("dropout not rescaled", LAYERS, "inputs * keep / tf.cast(1 - self.rate, inputs.dtype)", "inputs * keep", REFERENCES + " -k dropout"),
    Mutant("dropout keeps what it should drop", LAYERS, ">= self.rate, inputs.dtype", "< self.rate, inputs.dtype", REFERENCES + " -k dropout"),
    Mutant("Muon without momentum", OPTIMIZERS, "velocity = momentum * slots[0] + gradient\n        direction", "velocity = gradient\n        direction", REFERENCES + " -k muon"),
    Mutant("Muon keeps no norm", OPTIMIZERS, "moved * (min(rows, columns) ** 0.5 / (tf.norm(moved) + 1e-7))", "moved", "tests/test_optimizers.py -k muon"),
    Mutant("SGD without Nesterov", OPTIMIZERS, "value - lr * (gradient + momentum * velocity), [velocity]", "value - lr * velocity, [velocity]", "tests/test_optimizers.py -k nesterov"),
    Mutant("Adam without bias correction", OPTIMIZERS, "(first / (1 - tf.pow(beta1, step)))", "first", "tests/test_optimizers.py -k adam"),
    Mutant("AdamW's decay left out", OPTIMIZERS, "update = update + decay * value", "pass", "tests/test_optimizers.py"),
    Mutant("biases decay", OPTIMIZERS, "kernel_decay = decay if rank > 1 else 0.0", "kernel_decay = decay", "tests/test_optimizers.py -k decay"),
    Mutant("the training resolution is fixed", LOOP, "schedules.train_size(config, state.step, steps))", "config.schedule.train_sizes[-1])", GOLDEN + " -k residual"),
    Mutant("the learning rate is constant", LOOP, "lr = schedules.learning_rate(config, state.step, steps)", "lr = config.optimizer.lr", CLASSIC),
    Mutant("the rise is left out", SCHEDULES, "    if step < rise:\n", "    if False:\n", "tests/test_schedules.py"),
    Mutant("the cosine falls to its half", SCHEDULES, "math.cos(math.pi * done)", "math.cos(math.pi * done / 2)", "tests/test_schedules.py"),
    Mutant("resolutions change a step late", SCHEDULES, "bisect.bisect_right(", "bisect.bisect_left(", "tests/test_schedules.py"),
    Mutant("whitening skipped", BUILD, '        if "stem/kernel" in run.network.frozen:\n            _whiten(run)\n', "", REFERENCES + " -k whitens"),
    Mutant("the logit shift's sign turned", BUILD, "math.log(positive / negative)", "math.log(negative / positive)", "tests/test_resume.py -k class_weights"),
    Mutant("another data set is taken", BUILD, "if latest.state.fingerprint != run.shards.fingerprint:", "if False:", "tests/test_train.py -k another_data_set"),
    Mutant("an epoch too many", BUILD, "return order.epoch_end(epoch, self.config.schedule.batch, self.images)", "return order.epoch_end(epoch + 1, self.config.schedule.batch, self.images)", GOLDEN + " -k classic"),
    Mutant("the best is the worst", LOOP, "score > state.best", "score < state.best", "tests/test_resume.py -k no_number"),
    Mutant("patience never runs out", LOOP, "else state.stale + 1", "else state.stale", "tests/test_train.py -k patience"),
    Mutant("the epoch's sums go on", LOOP, "epoch.epoch, seconds, 0.0, 0.0, 0", "epoch.epoch, seconds, state.loss, state.right, state.seen", "tests/test_train.py -k 'goes_on_exactly or says_each'"),
    Mutant("the best checkpoint is pruned", SAVER, "[:2], state.best_step}", "[:2]}", "tests/test_resume.py tests/test_train.py -k 'best or patience'"),
    Mutant("pruned before the summary", SAVER, "        summary = self.summarise(state, status)\n        checkpoints.prune(self.folder, {*checkpoints.steps(self.folder)[:2], state.best_step})\n", "        checkpoints.prune(self.folder, {*checkpoints.steps(self.folder)[:1], state.best_step})\n        summary = self.summarise(state, status)\n", "tests/test_resume.py -k summary_names"),
    Mutant("a flip never happens", AUGMENT, "(random[4] < flip)", "(random[4] < 0.0)", "tests/test_augment.py -k flip"),
    Mutant("MixUp mixes no labels", AUGMENT, "share * labels + (1 - share) * tf.roll(labels, -1, axis=0)", "labels", "tests/test_augment.py -k mix"),
    Mutant("rotation in degrees taken for radians", AUGMENT, "math.radians(options.rotate)", "options.rotate", "tests/test_augment.py -k rotation"),
    Mutant("erasing is left out", AUGMENT, "tf.where(hit[..., None], _GREY, images)", "images", "tests/test_augment.py -k erasing"),
    Mutant("every epoch has one order", ORDER, 'derive(seed, "order", epoch)', 'derive(seed, "order", 0)', "tests/test_order.py"),
    Mutant("every step has one noise", ORDER, 'derive(seed, "noise", step)', 'derive(seed, "noise", 0)', "tests/test_order.py"),
    Mutant("an epoch loses its last images", ORDER, "-(-records * epoch // batch)", "records * epoch // batch", "tests/test_order.py"),
    Mutant("the cache is filled with another image", MEMORY, "self._cache[number] = images[place]", "self._cache[number] = images[0]", "tests/test_feed.py"),
    Mutant("the reader stays open", MEMORY, "        self.reader.close()\n", "        pass\n", "tests/test_resume.py -k descriptor"),
    Mutant("the loss is of the other class", METRICS, "np.logaddexp(0, logits) - labels * logits", "np.logaddexp(0, logits) - (1 - labels) * logits", "tests/test_metrics.py"),
    Mutant("ties count in full", METRICS, "(counts - 1) / 2", "(counts - 1)", "tests/test_metrics.py"),
    Mutant("Wilson's interval without its centre", METRICS, "centre = (share + z2 / (2 * total)) / (1 + z2 / total)", "centre = share", "tests/test_metrics.py"),
    Mutant("calibration bins are shifted", METRICS, "((sure - 0.5) * 2 * _BINS)", "(sure * _BINS)", "tests/test_metrics.py"),
    Mutant("a checkpoint's hash is not compared", CHECKPOINTS, '        if local.sha256_of(place / "state.npz") != document["sha256"]:\n            raise ValueError("its hash differs")\n', "", "tests/test_checkpoint.py"),
    Mutant("a checkpoint is not synced", CHECKPOINTS, "        local.sync(file.fileno())\n", "", REFERENCES + " -k on_the_disk"),
    Mutant("averages are not what is validated", CHECKPOINTS, '    chosen |= {name.removeprefix("average/"): value for name, value in arrays.items() if name.startswith("average/")}\n', "", REFERENCES + " -k takes_the_averages"),
    Mutant("fsync removed", LOCAL, "    os.fsync(descriptor)\n\n\ndef", "    pass\n\n\ndef", "tests/test_storage.py " + REFERENCES + " -k 'sync or on_the_disk'"),
    Mutant("a lock that two can hold", LOCK, "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", "tests/test_storage.py"),
    Mutant("any disk is large enough", LOCAL, "    if free < needed:\n", "    if False:\n", "tests/test_storage.py"),
)  # fmt: skip


def stale() -> list[str]:
    """The mistakes whose old text does not stand in its file exactly once."""
    return [mutant.name for mutant in MUTANTS if (ROOT / mutant.file).read_text().count(mutant.old) != 1]


def _copy(folder: Path) -> Path:
    for name in ("job", "tuning", "twofold", "tests", "docs", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    return folder


def found(mutant: Mutant, copy: Path) -> bool:
    """Whether its tests fail; the copy is as before afterwards."""
    path = copy / mutant.file
    whole = path.read_text()
    path.write_text(whole.replace(mutant.old, mutant.new))
    command = f"{sys.executable} -m pytest -q -x -p no:cacheprovider {mutant.tests}"
    try:
        done = subprocess.run(
            command, shell=True, cwd=copy, capture_output=True, timeout=SECONDS, env={**os.environ, "PYTHONPATH": str(copy)}
        )
    except subprocess.TimeoutExpired:
        return True  # a mistake that makes the tests hang is seen
    finally:
        path.write_text(whole)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{mutant.name}: pytest could not run ({command})\n{done.stdout.decode()[-2000:]}")
    return done.returncode == 1


def main(names: list[str]) -> None:
    if wrong := stale():
        raise SystemExit(f"the list is stale: no such text, or more than one, for {', '.join(wrong)}; edit tests/mutants.py")
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    minutes = len(chosen) * 12 // SIDE_BY_SIDE // 60 + 1
    print(f"{len(chosen)} planted mistakes, {SIDE_BY_SIDE} at a time; about {minutes} minutes", flush=True)
    began, survived = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        copies: Queue[Path] = Queue()
        for number in range(SIDE_BY_SIDE):
            copies.put(_copy(Path(folder) / str(number)))

        def tried(mutant: Mutant) -> tuple[Mutant, bool]:
            copy = copies.get()
            try:
                return mutant, found(mutant, copy)
            finally:
                copies.put(copy)

        for number, (mutant, killed) in enumerate(pool.map(tried, chosen), 1):
            survived += [] if killed else [mutant.name]
            print(f"{number}/{len(chosen)} {'killed' if killed else 'SURVIVED'}: {mutant.name}", flush=True)
    killed = len(chosen) - len(survived)
    print(f"killed {killed} of {len(chosen)} ({killed / len(chosen):.0%}) in {time.monotonic() - began:.0f} s")
    for name in survived:
        print(f"survived: {name}")
    if killed < WANTED * len(chosen):
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
