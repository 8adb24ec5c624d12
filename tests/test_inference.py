"""evaluate, predict, visualize: the same pixels on every way, corrupt files, other formats."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from job.config.options import build
from job.config.schema import EvaluateConfig, PredictConfig, PrepareConfig
from job.data import manifest
from job.data.shards import Reader
from job.errors import Interrupted, UserError
from job.evaluate import evaluate, words
from job.inference.trained import Trained
from job.machine import devices
from job.predict import predict, rows
from job.prepare import prepare
from job.runs import checkpoints
from job.runs.records import CHECKPOINTS, CONFIG, SUMMARY, read_summary
from job.shutdown import Stop
from job.smoke import draw
from job.visualize import visualize
from tests.conftest import THREADS


def _evaluate(run: Path, **values: Any) -> dict[str, Any]:
    return evaluate(run, build(EvaluateConfig, values))


def test_the_own_validation_gives_the_figures_of_training(run: Path) -> None:
    figures, summary = _evaluate(run), read_summary(run)
    assert summary is not None
    trained = asdict(summary.validation)
    for name in ("accuracy", "log_loss", "auc", "brier", "ece", "confusion", "images", "average_precision"):
        assert np.allclose(figures[name], trained[name], rtol=0, atol=1e-6), name
    assert (figures["learnt"], figures["chose"]) == (0, figures["images"])
    assert f"{figures['images']} of them chose the model: the figures flatter it" in words(figures, ("crosses", "rings"))
    assert (run / "report" / "mistakes-validation.png").exists() or figures["accuracy"] == 1


def test_a_source_and_its_shards_give_identical_probabilities(run: Path, originals: Path, tmp_path: Path) -> None:
    """Real photographs of 500 px: the way through `prepare` and the way in memory are one."""
    from job.data.manifest import read
    from job.data.shards import Reader
    from job.data.sources import open_source
    from job.inference.trained import Item, Trained

    small = tmp_path / "few"
    source = open_source(str(originals), tmp_path)
    for number, (name, data) in enumerate(source.read()):
        if number % 25 == 0:
            path = small / ("crosses" if "cat" in name else "rings") / Path(name).name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    prepare([str(small)], build(PrepareConfig, dict(out=str(tmp_path / "set"), side=40, val=0.2)))
    made = read(tmp_path / "set")
    reader = Reader(tmp_path / "set", tuple(s for split in made.splits.values() for s in split.shards))
    trained = Trained(run)
    by_shards = {
        j.key: j.logit for j in trained.predict(Item(r.key, r.label, r.image) for r in map(reader.__getitem__, range(len(reader))))
    }
    images = trained.stored(open_source(str(small), tmp_path).read())
    by_source = {j.key: j.logit for j in trained.predict(Item(name, -1, jpeg) for name, jpeg, _ in images)}
    assert by_source == by_shards
    assert len(by_source) == 40
    a, b = _evaluate(run, data=str(small)), _evaluate(run, data=str(tmp_path / "set"), split="all")
    assert a["confusion"] == b["confusion"]
    assert a["log_loss"] == pytest.approx(b["log_loss"], abs=1e-12)


def test_figures_that_flatter_say_so_wherever_the_images_are(run: Path, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "copy")
    (tmp_path / "link").symlink_to(tmp_path / "copy")
    splits = manifest.read(shards).splits
    train, validation = splits["train"].records, splits["validation"].records
    own, linked = _evaluate(run, split="all"), _evaluate(run, data=str(tmp_path / "link"), split="all")
    for figures in (own, linked):
        assert (figures["learnt"], figures["chose"], figures["images"]) == (train, validation, 120)
    said = f"it was trained on {train} of them and {validation} of them chose the model: the figures flatter it"
    assert said in words(linked, ("crosses", "rings"))
    asked = _evaluate(run, data=str(tmp_path / "link"))
    assert (asked["split"], asked["learnt"], asked["chose"]) == ("test", 0, 0)
    assert "flatter" not in words(asked, ("crosses", "rings"))


def test_images_of_a_source_are_known_by_their_content(run: Path, shards: Path, drawn: Path, tmp_path: Path) -> None:
    for kind in ("rings", "crosses"):
        (tmp_path / "mine" / kind).mkdir(parents=True)
        for number, path in enumerate(sorted((drawn / kind).iterdir())[:20]):
            (tmp_path / "mine" / kind / f"{number}-of-mine.jpg").write_bytes(path.read_bytes())
    draw(tmp_path / "mine", 3, 40, seed=2)
    given = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "mine").glob("*/*.jpg")}
    with closing(Reader(shards, manifest.read(shards).splits["train"].shards)) as reader:
        known = given & {reader[number].sha256 for number in range(len(reader))}
    figures = _evaluate(run, data=str(tmp_path / "mine"))
    assert 0 < len(known) < 40
    assert (figures["images"], figures["learnt"]) == (46, len(known))


def test_without_the_shards_of_training_nothing_is_claimed(run: Path, shards: Path, drawn: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "run"
    shutil.copytree(run, moved)
    text = (moved / CONFIG).read_text()
    (moved / CONFIG).write_text(text.replace(str(shards), str(tmp_path / "gone")).replace(str(run), str(moved)))
    prepare([str(drawn)], build(PrepareConfig, dict(out=str(tmp_path / "gone"), val=0.1, side=40)))  # other data at the same path
    figures = _evaluate(moved, data=str(tmp_path / "gone"), split="validation")
    assert (figures["learnt"], figures["chose"]) == (None, None)
    assert "whether it was trained on these images cannot be told" in words(figures, ("crosses", "rings"))
    with pytest.raises(UserError, match=r"^--data: the shards that .*run was trained on are not found; name them, or another source$"):
        _evaluate(moved)


def test_hashes_are_read_without_the_images(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, wanted, real = 0, set(), os.pread

    def counting(file: int, size: int, offset: int) -> bytes:
        nonlocal read
        read += size
        return real(file, size, offset)

    with closing(Reader(shards, manifest.read(shards).splits["train"].shards)) as reader:
        wanted = {reader[number].sha256 for number in range(len(reader))}
        monkeypatch.setattr(os, "pread", counting)
        assert set(reader.hashes()) == wanted
        assert read == 80 * len(reader)


def test_no_file_stays_open(run: Path, shards: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    _evaluate(run, data=str(shards), split="all")
    stop = Stop()
    stop.set()
    with pytest.raises(Interrupted):
        evaluate(run, build(EvaluateConfig, {}), stop)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_damaged_best_checkpoint_costs_the_best_only(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    folder = copy / CHECKPOINTS
    newest, older = checkpoints.names(folder)
    document = json.loads((copy / SUMMARY).read_text()) | {"best_step": older.step}
    (copy / SUMMARY).write_text(json.dumps(document))
    arrays = folder / str(older) / "state.npz"
    arrays.write_bytes(arrays.read_bytes()[:-9])
    capsys.readouterr()
    assert Trained(copy).step == newest.step
    lost = f"the best checkpoint, of step {older.step}, is damaged or missing, and its weights are lost"
    assert capsys.readouterr().out == f"warning: {folder}: {lost}; using step {newest.step}, the newest that is whole\n"
    (folder / str(newest) / "checkpoint.json").unlink()
    with pytest.raises(UserError, match="all checkpoints are damaged; restore them from a copy"):
        Trained(copy)


def test_tensorflow_with_other_threads_serves_for_inference(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after train(threads=1) in one process; training again would refuse, since other threads give other bits."""
    monkeypatch.setattr(devices, "cores", lambda: THREADS + 1)
    assert _evaluate(run)["images"] > 0


def test_a_split_that_is_not_there_names_those_that_are(run: Path, shards: Path) -> None:
    with pytest.raises(UserError, match="has no split nonsense; it has train, validation, test"):
        _evaluate(run, data=str(shards), split="nonsense")


def test_classes_that_the_model_does_not_know_are_refused(run: Path, drawn: Path, tmp_path: Path) -> None:
    for name, like in (("cats", "rings"), ("dogs", "crosses")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number, path in enumerate(sorted((drawn / like).iterdir())[:2]):
            (tmp_path / "set" / name / f"{number}.jpg").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"its classes are cats \(2\), dogs \(2\), the model knows crosses and rings"):
        _evaluate(run, data=str(tmp_path / "set"))


@pytest.fixture
def mixed(tmp_path: Path, drawn: Path) -> Path:
    """A folder with JPEG, PNG with alpha, WebP, a truncated JPEG and a text called .jpg."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    path = sorted((drawn / "rings").iterdir())[0]
    image = cv2.imread(str(path))
    (folder / "a.jpg").write_bytes(path.read_bytes())
    cv2.imwrite(str(folder / "b.png"), np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]))
    cv2.imwrite(str(folder / "c.webp"), image)
    (folder / "broken.jpg").write_bytes(path.read_bytes()[:600])
    (folder / "text.jpg").write_text("not an image")
    return folder


def test_predict_reads_every_format_and_names_what_it_cannot(run: Path, mixed: Path, capsys: Any) -> None:
    lines = list(predict(run, [str(mixed)], build(PredictConfig, {"format": "jsonl"})))
    rows = {Path(json.loads(line)["file"]).name: json.loads(line) for line in lines}
    assert set(rows) == {"a.jpg", "b.png", "c.webp"}
    assert rows["b.png"]["P(rings)"] == pytest.approx(rows["a.jpg"]["P(rings)"], abs=0.05)
    log = capsys.readouterr().out
    assert f"skipped: {mixed}/broken.jpg: the JPEG is truncated or corrupt" in log
    assert f"skipped: {mixed}/text.jpg: it is not an image that can be read, or it is corrupt" in log


def test_predict_prints_table_and_csv(run: Path, mixed: Path) -> None:
    columns = ["file", "class", "confidence", "P(crosses)", "P(rings)"]
    table = list(predict(run, [str(mixed / "a.jpg"), str(mixed / "c.webp")], build(PredictConfig, {})))
    assert table[0].split() == columns
    assert [line.split()[0] for line in table[1:]] == [str(mixed / "a.jpg"), str(mixed / "c.webp")]
    lines = list(predict(run, [str(mixed / "a.jpg")], build(PredictConfig, {"format": "csv"})))
    (row,) = csv.DictReader(lines)
    assert list(row) == columns
    crosses, rings, confidence = (float(row[name]) for name in ("P(crosses)", "P(rings)", "confidence"))
    assert (row["file"], row["class"]) == (str(mixed / "a.jpg"), "rings" if rings >= 0.5 else "crosses")
    assert crosses + rings == pytest.approx(1, abs=2e-6)
    assert confidence == max(crosses, rings)


def test_rows_are_for_programs(run: Path, drawn: Path) -> None:
    found = list(rows(run, [str(drawn / "rings")], build(PredictConfig, {})))
    assert len(found) == 60
    for row in found:
        assert row["confidence"] == max(row["P(crosses)"], row["P(rings)"]) == row[f"P({row['class']})"]


def test_predict_of_nothing_that_decodes_is_an_error(run: Path, mixed: Path) -> None:
    with pytest.raises(UserError, match="none of its images decodes"):
        list(predict(run, [str(mixed / "broken.jpg")], build(PredictConfig, {})))
    with pytest.raises(UserError, match="no such file or folder"):
        list(predict(run, [str(mixed / "missing.jpg")], build(PredictConfig, {})))


def test_visualize_draws_filters_and_maps(run: Path, mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder" / "f.png"
    visualize(run, str(mixed / "b.png"), str(out))
    image = cv2.imread(str(out))
    assert image.shape[0] > 300
    assert image.std() > 5
    with pytest.raises(UserError, match=r"the JPEG is truncated or corrupt; give another image"):
        visualize(run, str(mixed / "broken.jpg"), str(tmp_path / "g.png"))
    (tmp_path / "h.png").mkdir()
    with pytest.raises(UserError, match=r"--out: .*h.png is a folder; name a file in it"):
        visualize(run, str(mixed / "a.jpg"), str(tmp_path / "h.png"))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder; name the --out of a twofold train"):
        _evaluate(tmp_path)
