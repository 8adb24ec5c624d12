"""Planted mistakes, and whether the tests find them: `make mutants`, or `python -m tests.mutants NAME...` for some.

Each is one change of the source in a copy of the project; the tests named beside it must fail. What no test finds is
listed at the end, and below nine in ten the command fails. docs/mutants.md explains the ones that survive.
"""

# ruff: noqa: E501 (a table of pieces of code, a line each)

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parents[1]
WANTED = 0.9  # share that must be found
SECONDS = 120  # for the tests of one mistake
SIDE_BY_SIDE = 2


@dataclass(frozen=True)
class Mutant:
    """A mistake: `old` in `file` becomes `new`; `tests` is the file, or the one test in it, that must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


STEP, LOOP, SAVER = "job/training/step.py", "job/training/loop.py", "job/training/saver.py"
OPTIMIZERS, SCHEDULES, AUGMENT = "job/training/optimizers.py", "job/training/schedules.py", "job/training/augment.py"
BUILD, ORDER, MEMORY, PREFETCH = "job/training/build.py", "job/feeds/order.py", "job/feeds/memory.py", "job/feeds/prefetch.py"
CHECKPOINTS, LOCAL, LOCK, LAYERS = "job/runs/checkpoints.py", "job/storage/local.py", "job/storage/lock.py", "job/models/layers.py"
LABELS, FOLDERS, SPLIT_WORDS, DIVISION = "job/data/labels.py", "job/data/folders.py", "job/data/splits.py", "job/data/division.py"
ZIP_NAMES, NAMES, WALK = "job/data/sources/zip_names.py", "job/data/sources/names.py", "job/data/sources/walk.py"
METRICS = "job/metrics.py"
WATCHDOG, NOTICE, STARTS, SECOND = "job/training/watchdog.py", "job/machine/notice.py", "job/runs/starts.py", "job/training/resume.py"

GOLDEN, REFERENCES = "tests/test_golden.py", "tests/test_references.py"
STEPS, RESUME, TRAIN, STORAGE = "tests/test_step.py", "tests/test_resume.py", "tests/test_train.py", "tests/test_storage.py"
SAVES, GOING, DAMAGE = "tests/test_saver.py", "tests/test_going.py", "tests/test_damage.py"
OPTIMIZER_TESTS, AUGMENT_TESTS = "tests/test_optimizers.py", "tests/test_augment.py"
CLASSIC = f"{GOLDEN}::test_thirty_steps_are_those_written_down[classic]"
SCALE = f"{REFERENCES}::test_float16s_scale_doubles_after_so_many_finite_steps_and_halves_on_overflow"
WHOLE = f"{REFERENCES}::test_steps_are_those_of_a_stock_network_under_kerass_optimizer"
MEANS = f"{REFERENCES}::test_an_epochs_figures_are_the_means_of_its_steps"
DISK = f"{REFERENCES}::test_a_checkpoint_is_on_the_disk_before_its_name_is"

MUTANTS = (
    Mutant("ema decay swapped", STEP, "decay * average + (1 - decay) * value", "(1 - decay) * average + decay * value", f"{REFERENCES}::test_averages_follow_the_weights_by_their_decay"),
    Mutant("ema without its warm start", STEP, "tf.minimum(self.config.optimizer.ema, (1 + count) / (10 + count))", "self.config.optimizer.ema", f"{REFERENCES}::test_averages_follow_the_weights_by_their_decay"),
    Mutant("smoothing's sign turned", STEP, "targets * (1 - smoothing) + 0.5 * smoothing", "targets * (1 + smoothing) - 0.5 * smoothing", f"{REFERENCES}::test_the_loss_is_kerass_binary_cross_entropy_with_label_smoothing"),
    Mutant("class weights swapped", STEP, "negative, positive = self.class_weights\n        as", "positive, negative = self.class_weights\n        as", f"{STEPS}::test_class_weights_weigh_both_images_of_a_mixup_by_their_own_class"),
    Mutant("batch statistics summed, not averaged", STEP, "[value / replicas for value in summed[last:]]", "[value * replicas for value in summed[last:]]", f"{STEPS}::test_two_replicas_equal_one_device_that_takes_the_halves_in_turn"),
    Mutant("gradients keep the loss scale", STEP, "[gradient / scale for gradient in gradients]", "list(gradients)", f"{STEPS}::test_float16_and_bfloat16_follow_float32"),
    Mutant("what is not finite is assigned", STEP, "tf.where(finite, value, tf.convert_to_tensor(variable))", "value", f"{STEPS}::test_a_batch_that_is_not_finite_changes_nothing"),
    Mutant("float16's scale never grows", STEP, "tf.where(good >= GROWTH_STEPS, self._scale * 2, self._scale)", "tf.convert_to_tensor(self._scale)", SCALE),
    Mutant("float16's scale never falls", STEP, "tf.maximum(self._scale / 2, 1.0)", "tf.convert_to_tensor(self._scale)", SCALE),
    Mutant("a skipped step counts for Adam", STEP, "self._updates.assign_add(tf.cast(finite, tf.float32))", "self._updates.assign_add(1.0)", f"{STEPS}::test_a_float16_step_that_overflowed_does_not_count_for_adam"),
    Mutant("clipping left out", STEP, "        if self.config.optimizer.clip:\n", "        if False:\n", f"{STEPS}::test_clipping_bounds_what_a_step_changes"),
    Mutant("BatchNorm's momentum swapped", LAYERS, "self.moving_mean * self.momentum + mean * (1 - self.momentum)", "self.moving_mean * (1 - self.momentum) + mean * self.momentum", f"{REFERENCES}::test_batch_normalization_is_kerass_with_the_unbiased_variance_kept"),
    Mutant("dropout not rescaled", LAYERS, "inputs * keep / tf.cast(1 - self.rate, inputs.dtype)", "inputs * keep", f"{REFERENCES}::test_dropout_keeps_where_the_noise_says_and_rescales"),
    Mutant("dropout keeps what it should drop", LAYERS, ">= self.rate, inputs.dtype", "< self.rate, inputs.dtype", f"{REFERENCES}::test_dropout_keeps_where_the_noise_says_and_rescales"),
    Mutant("Muon without momentum", OPTIMIZERS, "velocity = momentum * slots[0] + gradient\n        direction", "velocity = gradient\n        direction", OPTIMIZER_TESTS),
    Mutant("Muon keeps no norm", OPTIMIZERS, "moved * (min(rows, columns) ** 0.5 / (tf.norm(moved) + 1e-7))", "moved", OPTIMIZER_TESTS),
    Mutant("SGD without Nesterov", OPTIMIZERS, "value - lr * (gradient + momentum * velocity), [velocity]", "value - lr * velocity, [velocity]", OPTIMIZER_TESTS),
    Mutant("Adam without bias correction", OPTIMIZERS, "(first / (1 - tf.pow(beta1, step)))", "first", OPTIMIZER_TESTS),
    Mutant("AdamW's decay left out", OPTIMIZERS, "update = update + decay * value", "pass", OPTIMIZER_TESTS),
    Mutant("biases decay", OPTIMIZERS, "kernel_decay = decay if rank > 1 else 0.0", "kernel_decay = decay", OPTIMIZER_TESTS),
    Mutant("the training resolution is fixed", LOOP, "schedules.train_size(config, state.step, steps)\n", "config.schedule.train_sizes[-1]\n", f"{GOLDEN}::test_thirty_steps_are_those_written_down[residual]"),
    Mutant("the learning rate is constant", LOOP, "lr, size = schedules.learning_rate(config, state.step, steps)", "lr, size = config.optimizer.lr", CLASSIC),
    Mutant("the rise is left out", SCHEDULES, "    if step < rise:\n", "    if False:\n", "tests/test_schedules.py"),
    Mutant("the cosine falls to its half", SCHEDULES, "math.cos(math.pi * done)", "math.cos(math.pi * done / 2)", "tests/test_schedules.py"),
    Mutant("resolutions change a step late", SCHEDULES, "bisect.bisect_right(", "bisect.bisect_left(", "tests/test_schedules.py"),
    Mutant("whitening skipped", BUILD, '        if "stem/kernel" in run.network.frozen:\n            _whiten(run)\n', "", f"{REFERENCES}::test_a_run_begins_with_a_stem_that_whitens_its_own_images"),
    Mutant("the logit shift's sign turned", BUILD, "math.log(positive / negative)", "math.log(negative / positive)", f"{RESUME}::test_class_weights_do_not_shift_the_probabilities"),
    Mutant("another data set is taken", BUILD, "if shards.fingerprint != fingerprint:", "if False:", f"{TRAIN}::test_another_data_set_is_refused_on_resume"),
    Mutant("an epoch too many", BUILD, "return order.epoch_end(epoch, self.config.schedule.batch, self.images)", "return order.epoch_end(epoch + 1, self.config.schedule.batch, self.images)", CLASSIC),
    Mutant("the best is the worst", LOOP, "score > state.best", "score < state.best", f"{RESUME}::test_a_score_that_is_no_number_is_best_only_until_there_is_one"),
    Mutant("patience never runs out", LOOP, "else state.stale + 1", "else state.stale", f"{TRAIN}::test_patience_ends_the_run_early"),
    Mutant("the epoch's sums go on", LOOP, "epoch.epoch, seconds, 0.0, 0.0, 0", "epoch.epoch, seconds, state.loss, state.right, state.seen", MEANS),
    Mutant("the best checkpoint is pruned", SAVER, "{checkpoint.name, self._before, best}", "{checkpoint.name, self._before}", f"{SAVES}::test_the_summary_names_the_new_best_before_the_old_one_is_deleted"),
    Mutant("pruned before the summary", SAVER, '        self.summarise(checkpoint.state, "running")\n', '        checkpoints.prune(self.folder, {checkpoint.name})\n        self.summarise(checkpoint.state, "running")\n', f"{SAVES}::test_the_summary_names_the_new_best_before_the_old_one_is_deleted"),
    Mutant("the checkpoint fallen back to is pruned", SAVER, "        self._before = before\n", "        self._before = None\n", f"{SAVES}::test_a_checkpoint_just_written_outlives_the_damaged_ones_beyond_it"),
    Mutant("a save in the way is waited for", SAVER, "self._writing is None or self._writing.done()", "True", f"{SAVES}::test_training_goes_on_while_a_save_is_written_and_the_next_is_skipped"),
    Mutant("the state is not copied", SAVER, "Checkpoint(self.run.step.arrays(), replace(state)", "Checkpoint(self.run.step.arrays(), state", f"{SAVES}::test_a_save_that_must_not_be_skipped_waits_and_holds_the_state_as_it_was"),
    Mutant("a fault of the saver's thread is lost", SAVER, "self._writing.done():\n            self._writing.result()", "self._writing.done():\n            pass", f"{SAVES}::test_a_fault_in_the_thread_reaches_training"),
    Mutant("a save does not wait for the one before", SAVER, "        self.wait()\n        if state", "        if state", f"{SAVES}::test_a_save_that_must_not_be_skipped_waits_and_holds_the_state_as_it_was"),
    Mutant("a stop does not abandon validation", LOOP, "        self.stop.check()\n", "", f"{GOING}::test_a_stop_abandons_validation_and_the_next_start_begins_with_it"),
    Mutant("a hang is let be", WATCHDOG, "if now > work.until:", "if False:", f"{GOING}::test_work_that_hangs_ends_the_process_and_names_itself"),
    Mutant("the grace never ends", WATCHDOG, "now > self._stop.deadline(self._grace)", "False", f"{GOING}::test_a_stop_that_outlasts_its_grace_ends_the_process"),
    Mutant("what compiles has no more time", WATCHDOG, "max(self._limit, COMPILING)", "self._limit", f"{GOING}::test_what_has_ended_or_compiles_or_is_not_timed_may_take_longer"),
    Mutant("starts are not counted", STARTS, "if count >= MOST:", "if False:", f"{GOING}::test_starts_without_a_new_checkpoint_are_counted_until_one_is_refused"),
    Mutant("a start is refused for ever", STARTS, "        clear(folder)\n", "", f"{GOING}::test_starts_without_a_new_checkpoint_are_counted_until_one_is_refused"),
    Mutant("an edited configuration is taken", SECOND, "if stored.get(name, trained) != trained:", "if False:", f"{DAMAGE}::test_a_configuration_that_was_edited_names_what_to_set_back"),
    Mutant("no checkpoint left is a fresh start", SECOND, "if before is not None and before.steps:", "if False:", f"{DAMAGE}::test_what_cannot_be_mended_is_2_in_one_line_and_no_fresh_start"),
    Mutant("a notice is not heard", NOTICE, "            stop.set()\n", "", "tests/test_notice.py::test_a_notice_is_a_stop"),
    Mutant("a flip never happens", AUGMENT, "(random[4] < flip)", "(random[4] < 0.0)", AUGMENT_TESTS),
    Mutant("MixUp mixes no labels", AUGMENT, "share * labels + (1 - share) * tf.roll(labels, -1, axis=0)", "labels", AUGMENT_TESTS),
    Mutant("rotation in degrees taken for radians", AUGMENT, "math.radians(options.rotate)", "options.rotate", AUGMENT_TESTS),
    Mutant("erasing is left out", AUGMENT, "tf.where(hit[..., None], _GREY, images)", "images", AUGMENT_TESTS),
    Mutant("every epoch has one order", ORDER, 'derive(seed, "order", epoch)', 'derive(seed, "order", 0)', "tests/test_order.py"),
    Mutant("every step has one noise", ORDER, 'derive(seed, "noise", step)', 'derive(seed, "noise", 0)', "tests/test_order.py"),
    Mutant("an epoch loses its last images", ORDER, "-(-records * epoch // batch)", "records * epoch // batch", "tests/test_order.py"),
    Mutant("the cache is filled with another image", MEMORY, "self._cache[number] = images[place]", "self._cache[number] = images[0]", "tests/test_feed.py"),
    Mutant("the reader stays open", MEMORY, "        self.reader.close()\n", "        pass\n", "tests/test_trials.py::test_trials_one_after_another_leave_no_descriptor_open"),
    Mutant("the loss is of the other class", METRICS, "np.logaddexp(0, logits) - labels * logits", "np.logaddexp(0, logits) - (1 - labels) * logits", "tests/test_metrics.py"),
    Mutant("ties count in full", METRICS, "(counts - 1) / 2", "(counts - 1)", "tests/test_metrics.py"),
    Mutant("Wilson's interval without its centre", METRICS, "centre = (share + z2 / (2 * total)) / (1 + z2 / total)", "centre = share", "tests/test_metrics.py"),
    Mutant("calibration bins are shifted", METRICS, "((sure - 0.5) * 2 * _BINS)", "(sure * _BINS)", "tests/test_metrics.py"),
    Mutant("a checkpoint's hash is not compared", CHECKPOINTS, '        if local.sha256_of(arrays) != document["sha256"]:\n            raise ValueError("its hash differs")\n', "", "tests/test_checkpoint.py"),
    Mutant("a document's hash is not compared", CHECKPOINTS, "if version != OLD and _encode", "if False and _encode", "tests/test_checkpoint.py"),
    Mutant("a checkpoint is not synced", CHECKPOINTS, "        local.sync(file.fileno())\n", "", DISK),
    Mutant("averages are not what is validated", CHECKPOINTS, '    chosen |= {name.removeprefix("average/"): value for name, value in arrays.items() if name.startswith("average/")}\n', "", f"{REFERENCES}::test_inference_takes_the_averages_and_takes_back_what_class_weights_add"),
    Mutant("fsync removed", LOCAL, "    os.fsync(descriptor)\n\n\ndef", "    pass\n\n\ndef", DISK),
    Mutant("a lock that two can hold", LOCK, "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", STORAGE),
    Mutant("any disk is large enough", LOCAL, "    if free < needed:\n", "    if False:\n", STORAGE),
    Mutant("right answers are the wrong ones", STEP, "(logits[:, 0] > 0) == (targets > 0.5)", "(logits[:, 0] > 0) != (targets > 0.5)", WHOLE),
    Mutant("the loss is a sum", STEP, "logits[:, 0])) / float(self.config.schedule.batch)", "logits[:, 0]))", WHOLE),
    Mutant("an overflow keeps the count of finite steps", STEP, "tf.where(finite, self._good + 1, 0.0)", "self._good + 1", SCALE),
    Mutant("dropout shares augmentation's noise", STEP, "noise[:, augment.COLUMNS :]", "noise", CLASSIC),
    Mutant("BatchNorm keeps another variance", LAYERS, "variance * (1 - self.momentum)", "mean * (1 - self.momentum)", f"{REFERENCES}::test_batch_normalization_is_kerass_with_the_unbiased_variance_kept"),
    Mutant("two dropouts share their noise", LAYERS, "first, self.columns = self.columns, self.columns + x.shape[-1]", "first, self.columns = 0, self.columns + x.shape[-1]", f"{REFERENCES}::test_each_dropout_has_columns_of_its_own"),
    Mutant("Muon takes the head too", OPTIMIZERS, 'rank == 4 or (rank == 2 and not path.startswith("head/"))', "rank in (2, 4)", OPTIMIZER_TESTS),
    Mutant("the head learns at Muon's own rate", OPTIMIZERS, "_VECTOR_SHARE, _HEAD_SHARE = 0.2, 0.04", "_VECTOR_SHARE, _HEAD_SHARE = 0.2, 1.0", OPTIMIZER_TESTS),
    Mutant("Newton-Schulz takes one step", OPTIMIZERS, "iterations: int = 4", "iterations: int = 1", OPTIMIZER_TESTS),
    Mutant("Adam's decay is decoupled", OPTIMIZERS, "        if not decoupled:\n            gradient = gradient + decay * value\n", "", OPTIMIZER_TESTS),
    Mutant("a crop's area is not uniform", AUGMENT, "tf.sqrt(smallest + (1 - smallest) * random[0])", "smallest + (1 - smallest) * random[0]", AUGMENT_TESTS),
    Mutant("a crop has one shape", AUGMENT, "tf.exp(0.5 * spread * (2 * random[1] - 1))", "tf.ones_like(random[1])", AUGMENT_TESTS),
    Mutant("contrast about black", AUGMENT, "mean + (images - mean) * contrast", "images * contrast", AUGMENT_TESTS),
    Mutant("MixUp's larger share is the other image's", AUGMENT, "tf.maximum(share, 1 - share)", "tf.minimum(share, 1 - share)", AUGMENT_TESTS),
    Mutant("a step late in the epoch's order", ORDER, "first, last = step * batch, (step + 1) * batch", "first, last = step * batch + 1, (step + 1) * batch + 1", "tests/test_order.py"),
    Mutant("labels go to their places, not their numbers", MEMORY, "self._labels[number] = record.label", "self._labels[place] = record.label", "tests/test_feed.py"),
    Mutant("nothing is kept in memory", MEMORY, "self._known[number] = True", "self._known[number] = False", "tests/test_feed.py"),
    Mutant("an error of the feed is lost", PREFETCH, "            put(error)\n", "            put(None)\n", "tests/test_feed.py"),
    Mutant("the feed runs far ahead", PREFETCH, "Queue(maxsize=depth)", "Queue()", "tests/test_feed.py"),
    Mutant("an epoch's loss is not weighed by images", LOOP, "state.loss += loss * batch", "state.loss += loss", MEANS),
    Mutant("the log is of the next step's rate", LOOP, "(state.step, lr, outcome)", "(state.step, 2 * lr, outcome)", MEANS),
    Mutant("a half is the negative class", METRICS, "right = (p >= 0.5) == (y >= 0.5)", "right = (p > 0.5) == (y >= 0.5)", "tests/test_metrics.py"),
    Mutant("a 90 % interval", METRICS, "_Z95 = 1.959963984540054", "_Z95 = 1.6448536269514722", "tests/test_metrics.py"),
    Mutant("an image at a time makes the precision", METRICS, "np.append(np.diff(scores[order]) != 0, True)", "np.append(np.diff(scores[order]) != 9, True)", "tests/test_metrics.py"),
    Mutant("the oldest checkpoint is the newest", CHECKPOINTS, "reverse=True", "reverse=False", "tests/test_checkpoint.py"),
    Mutant("a checkpoint of another version is read", CHECKPOINTS, ' or document["version"] != version', "", "tests/test_checkpoint.py"),
    Mutant("a checkpoint's new name is not synced", CHECKPOINTS, "    local.sync_folder(folder)\n", "", DISK),
    Mutant("a later start's checkpoint is not the newest", CHECKPOINTS, "return self.fence, self.step", "return self.step, self.fence", "tests/test_checkpoint.py"),
    Mutant("all damaged is a fresh start", CHECKPOINTS, "    if found:\n", "    if False:\n", "tests/test_checkpoint.py"),
    Mutant("a folder's renames are not synced", LOCAL, "    sync_folder(path.parent)\n", "", DISK),
    Mutant("a file is synced before it is written out", LOCAL, "            file.flush()\n", "", f"{STORAGE}::test_a_file_is_synced_whole_before_its_rename_and_the_folder_after"),
    Mutant("a write that fails leaves a part behind", LOCAL, "            temporary.unlink()\n", "            pass\n", f"{STORAGE}::test_a_write_that_fails_leaves_the_old_content"),
    Mutant("a rename is tried once", LOCAL, "            if error.errno not in _TRANSIENT:\n                raise\n            if wait", "            if True:\n                raise\n            if wait", f"{STORAGE}::test_a_rename_that_fails_for_a_moment_is_tried_again"),
    Mutant("the lock of a deleted folder counts", LOCK, "if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):", "if True:", f"{STORAGE}::test_a_folder_that_its_last_holder_deletes_is_made_again"),
    Mutant("a file system without locks is refused", LOCK, "if error.errno in _NO_LOCKS:", "if False:", f"{STORAGE}::test_a_file_system_without_locks_is_warned_of_once"),
    Mutant("any level of two names holds the classes", LABELS, "    if not labels.covers:\n        return False\n    if wanted.model", "    if wanted.model", "tests/test_layout.py"),
    Mutant("the first of two levels is taken", LABELS, "        if differ:\n", "        if False:\n", "tests/test_layout.py"),
    Mutant("camera words are classes", LABELS, "        or any(map(is_no_class, labels.found))\n", "", "tests/test_survey.py"),
    Mutant("a folder beside a split is merged into train", FOLDERS, "                if beside:\n", "                if False:\n", "tests/test_survey.py"),
    Mutant("dev is no word", SPLIT_WORDS, '"va", "dev", ', '"va", ', "tests/test_trees.py"),
    Mutant("an unlabelled test is a class", LABELS, "self.unlabelled = [] if labelled_test else test", "self.unlabelled = []", "tests/test_layout.py"),
    Mutant("small classes by hash alone", DIVISION, "return max(least, min(max(found, math.ceil(wanted - slack)), math.floor(wanted + slack)))", "return max(least, found)", "tests/test_division.py"),
    Mutant("test takes from validation", DIVISION, 'splits["test"] += free[last:]', 'splits["test"] += free[:first]', "tests/test_division.py"),
    Mutant("mojibake in a zip", ZIP_NAMES, 'return raw.decode(encoding or "utf-8")', 'return raw.decode(encoding or "cp437")', "tests/test_zip_names.py"),
    Mutant("a stale second name counts", ZIP_NAMES, ' and struct.unpack("<I", field[1:5])[0] == zlib.crc32(raw)', "", "tests/test_zip_names.py"),
    Mutant("hidden folders are read", NAMES, "    if any(map(is_system_folder, folders)) or lower in", "    if lower in", "tests/test_sources.py"),
    Mutant("the first of two members is read", WALK, "return seen[name] == times[name]", "return seen[name] == 1", "tests/test_sources.py"),
)  # fmt: skip


def stale() -> list[str]:
    """The mistakes whose old text does not stand in its file exactly once, or whose test is gone."""
    wrong = []
    for mutant in MUTANTS:
        file, _, test = mutant.tests.partition("::")
        gone = test and f"def {test.partition('[')[0]}(" not in (ROOT / file).read_text()
        if gone or (ROOT / mutant.file).read_text().count(mutant.old) != 1:
            wrong.append(mutant.name)
    return wrong


def _copy(folder: Path) -> Path:
    for name in ("job", "tuning", "twofold", "tests", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    return folder


def _fail(copy: Path, tests: Collection[str], seconds: float) -> tuple[bool, str]:
    """Whether one of the tests fails, and what pytest says; a test that hangs has failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    process = subprocess.Popen(
        command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # what a test started, too
        process.communicate()
        return True, "it hangs"
    if process.returncode not in (0, 1):
        raise SystemExit(f"pytest could not run: {shlex.join(command)}\n{said[-2000:]}")
    return process.returncode == 1, said[-2000:]


def found(mutant: Mutant, copy: Path) -> bool:
    """Whether its test fails; the copy is as before afterwards."""
    path = copy / mutant.file
    whole = path.read_text()
    path.write_text(whole.replace(mutant.old, mutant.new))
    try:
        return _fail(copy, [mutant.tests], SECONDS)[0]
    finally:
        path.write_text(whole)


def main(names: list[str]) -> None:
    if wrong := stale():
        raise SystemExit(
            f"the list is stale: the text is not there once, or the test is gone, for {', '.join(wrong)}; edit tests/mutants.py"
        )
    if unknown := set(names) - {mutant.name for mutant in MUTANTS}:
        raise SystemExit(f"not in the list: {', '.join(sorted(unknown))}")
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    began, survived = time.monotonic(), []
    print(f"{len(chosen)} planted mistakes, {SIDE_BY_SIDE} at a time; first the tests without any", flush=True)
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

        fails, said = _fail(Path(folder) / "0", sorted({mutant.tests for mutant in chosen}), 600)
        if fails:
            raise SystemExit(f"a test fails without any mistake: there is nothing to measure\n{said}")
        for number, (mutant, killed) in enumerate(pool.map(tried, chosen), 1):
            survived += [] if killed else [mutant.name]
            seconds = time.monotonic() - began
            print(f"{number}/{len(chosen)} {seconds:.0f} s {'killed' if killed else 'SURVIVED'}: {mutant.name}", flush=True)
    killed = len(chosen) - len(survived)
    print(f"killed {killed} of {len(chosen)} ({killed / len(chosen):.0%}) in {time.monotonic() - began:.0f} s")
    for name in survived:
        print(f"survived: {name}")
    if killed < WANTED * len(chosen):
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
