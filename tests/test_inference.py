"""evaluate, predict, visualize: the same pixels on every way, corrupt files, other formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from job.config.options import build
from job.config.schema import EvaluateConfig, PredictConfig, PrepareConfig
from job.errors import UserError
from job.evaluate import evaluate, words
from job.predict import predict
from job.prepare import prepare
from job.runs.records import read_summary
from job.visualize import visualize


def _evaluate(run: Path, **values: Any) -> dict[str, Any]:
    return evaluate(run, build(EvaluateConfig, values))


def test_the_own_validation_gives_the_figures_of_training(run: Path) -> None:
    figures, summary = _evaluate(run), read_summary(run)
    for name in ("accuracy", "log_loss", "auc", "brier", "ece", "confusion", "images", "average_precision"):
        assert np.allclose(figures[name], summary[f"val_{name}"], rtol=0, atol=1e-6), name
    assert figures["chose_model"]
    assert "chose the model" in words(figures, ("crosses", "rings"))
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


def test_images_that_the_model_learnt_from_are_counted(run: Path, shards: Path, drawn: Path) -> None:
    trained, asked = (_evaluate(run, data=str(shards), split=split) for split in ("train", "test"))
    assert (trained["learnt"], asked["learnt"]) == (trained["images"], 0)
    source = _evaluate(run, data=str(drawn))
    assert (source["images"], source["learnt"]) == (120, trained["images"])
    assert f"it learnt from {trained['images']} of them: the figures flatter it" in words(source, ("crosses", "rings"))


def test_a_split_that_is_not_there_names_those_that_are(run: Path, shards: Path) -> None:
    assert _evaluate(run, data=str(shards))["split"] == "test"
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
    assert rows["b.png"]["probability"] == pytest.approx(rows["a.jpg"]["probability"], abs=0.05)
    log = capsys.readouterr().out
    assert f"left out: {mixed}/broken.jpg: the JPEG is truncated or corrupt" in log
    assert f"left out: {mixed}/text.jpg: it is not an image that can be read, or it is corrupt" in log


def test_predict_prints_table_and_csv(run: Path, mixed: Path) -> None:
    table = list(predict(run, [str(mixed / "a.jpg"), str(mixed / "c.webp")], build(PredictConfig, {})))
    assert table[0].split() == ["file", "class", "probability", "of", "rings"]
    assert len(table) == 3
    rows = list(predict(run, [str(mixed / "a.jpg")], build(PredictConfig, {"format": "csv"})))
    assert rows[0] == "file,class,probability"
    file, kind, p = rows[1].split(",")
    assert (file, kind in ("rings", "crosses"), 0 <= float(p) <= 1) == (str(mixed / "a.jpg"), True, True)


def test_predict_of_nothing_that_decodes_is_an_error(run: Path, mixed: Path) -> None:
    with pytest.raises(UserError, match="none of its images decodes"):
        list(predict(run, [str(mixed / "broken.jpg")], build(PredictConfig, {})))
    with pytest.raises(UserError, match="no such file or folder"):
        list(predict(run, [str(mixed / "missing.jpg")], build(PredictConfig, {})))


def test_visualize_draws_filters_and_maps(run: Path, mixed: Path, tmp_path: Path) -> None:
    visualize(run, str(mixed / "b.png"), str(tmp_path / "f.png"))
    image = cv2.imread(str(tmp_path / "f.png"))
    assert image.shape[0] > 300
    assert image.std() > 5
    with pytest.raises(UserError, match=r"the JPEG is truncated or corrupt; give another image"):
        visualize(run, str(mixed / "broken.jpg"), str(tmp_path / "g.png"))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run folder; name the --out of a twofold train"):
        _evaluate(tmp_path)
