"""Checkpoints: whole or absent, verified, kept as asked, and found again whatever else is damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.errors import UserError
from job.runs import checkpoints
from job.runs.checkpoints import Checkpoint, Name
from job.runs.state import State
from tests.damage import KINDS, damage


def _make(step: int, fence: int = 1) -> Checkpoint:
    arrays = {"weights/a": np.full((2, 3), step, np.float32), "loss/scale": np.float32(1.5)}
    state = State(fingerprint="f", step=step, seconds=0.1 + step, best=-0.25)
    return Checkpoint(arrays, state, fence, {"lr": 0.1, "filters": [8, 16], "model": "résidual"})


def _steps(folder: Path) -> list[tuple[int, int]]:
    return [(name.step, name.fence) for name in checkpoints.names(folder)]


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, _make(7))
    back = checkpoints.newest(tmp_path)
    assert back is not None
    assert (back.state, back.fence, back.settings) == (_make(7).state, 1, _make(7).settings)
    np.testing.assert_array_equal(back.arrays["weights/a"], _make(7).arrays["weights/a"])
    assert back.arrays["loss/scale"].shape == ()
    assert checkpoints.settings(tmp_path) == _make(7).settings


def test_nothing_saved_is_none_and_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path / "never") is None
    assert checkpoints.settings(tmp_path / "never") == {}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a folder; remove it"):
        checkpoints.newest(tmp_path / "file")


def test_a_later_start_is_newer_whatever_its_step(tmp_path: Path) -> None:
    for step, fence in ((9, 1), (3, 2), (4, 1), (4, 10000)):
        checkpoints.save(tmp_path, _make(step, fence))
    assert _steps(tmp_path) == [(4, 10000), (3, 2), (9, 1), (4, 1)]
    assert checkpoints.of_step(tmp_path, 4) == Name(4, 10000)
    assert checkpoints.of_step(tmp_path, 5) is None
    assert checkpoints.next_fence(tmp_path) == 10001
    assert sorted(path.name for path in tmp_path.iterdir())[1:3] == ["step-00000004-0001", "step-00000004-10000"]


@pytest.mark.parametrize("name", ["step-12", "step-00000012-1", "step-00000012-0000", "step-0000000012", ".step-00000012-0001.tmp", "x"])
def test_other_names_are_no_checkpoints(name: str) -> None:
    assert Name.read(name) is None


@pytest.mark.parametrize("name", ["step-00000012", "step-00000012-0003", "step-123456789-12345"])
def test_a_name_is_read_as_it_is_written(name: str) -> None:
    assert str(Name.read(name)) == name


def _as_version_2(folder: Path, checkpoint: Checkpoint) -> Path:
    """A checkpoint as it was written before there were fences."""
    checkpoints.save(folder, checkpoint)
    old = folder / f"step-{checkpoint.state.step:08d}"
    (folder / str(checkpoint.name)).rename(old)
    digest = hashlib.sha256((old / "state.npz").read_bytes()).hexdigest()
    document = dict(
        format="twofold-checkpoint", version=2, step=checkpoint.state.step, sha256=digest, state=checkpoint.state.document()
    )  # fmt: skip
    (old / "checkpoint.json").write_text(json.dumps(document, indent=1) + "\n")
    return old


def test_a_checkpoint_of_the_version_before_is_read(tmp_path: Path) -> None:
    _as_version_2(tmp_path, _make(7))
    back = checkpoints.newest(tmp_path)
    assert back is not None
    assert (back.state, back.name, back.settings) == (_make(7).state, Name(7, 0), {})
    checkpoints.save(tmp_path, _make(7))
    assert _steps(tmp_path) == [(7, 1), (7, 0)]


def test_a_name_that_is_taken_is_never_written_over(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, _make(7))
    with pytest.raises(OSError):
        checkpoints.save(tmp_path, _make(7))
    assert checkpoints.newest(tmp_path) is not None


def test_all_damaged_is_an_error_and_no_fresh_start(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, _make(3))
    (tmp_path / "step-00000003-0001" / "state.npz").unlink()
    with pytest.raises(UserError, match="all 1 checkpoints are damaged; restore them, or start in a new --out"):
        checkpoints.newest(tmp_path)


def test_an_unfinished_save_does_not_count(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, _make(3))
    (tmp_path / ".step-00000009-0001.tmp").mkdir()
    assert _steps(tmp_path) == [(3, 1)]
    checkpoints.save(tmp_path, _make(9))
    assert _steps(tmp_path) == [(9, 1), (3, 1)]


def test_prune_keeps_what_is_named(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        checkpoints.save(tmp_path, _make(step))
    (tmp_path / ".step-00000005-0001.tmp").mkdir()
    checkpoints.prune(tmp_path, {Name(1, 1), Name(4, 1), Name(2, 2), None})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001-0001", "step-00000004-0001"]


@pytest.mark.parametrize("file", ["state.npz", "checkpoint.json"])
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_happens_to_a_file_is_found(tmp_path: Path, kind: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is passed over, with its reason, for the one before; where none is whole the error is one line."""
    rng = np.random.default_rng(1)
    checkpoints.save(tmp_path / "whole", _make(3))
    checkpoints.save(tmp_path / "whole", _make(5))
    for number in range(12):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / f"{number}")
        damage(kind, folder / "step-00000005-0001" / file, rng)
        back = checkpoints.newest(folder)
        said = capsys.readouterr().out
        assert back is not None
        assert back.state.step == 3
        assert said.startswith(f"warning: {folder / 'step-00000005-0001'}: the checkpoint is damaged (")
        assert said.endswith("; falling back to the checkpoint before\n")
        assert (said.count("\n"), len(said) < 600) == (1, True)
        assert checkpoints.settings(folder) == _make(3).settings
        damage(kind, folder / "step-00000003-0001" / file, rng)
        with pytest.raises(UserError, match="all 2 checkpoints are damaged"):
            checkpoints.newest(folder)
        capsys.readouterr()


def test_every_single_byte_of_the_document_is_checked(tmp_path: Path) -> None:
    """Spaces and line ends too: what was written is what is read."""
    checkpoints.save(tmp_path, _make(5))
    document = tmp_path / "step-00000005-0001" / "checkpoint.json"
    whole = document.read_bytes()
    for place, byte in enumerate(whole):
        for other in {byte ^ 1, 0, 0x20, 0x39} - {byte}:
            document.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
            with pytest.raises(UserError, match="the checkpoint is damaged"):
                checkpoints.load(tmp_path, Name(5, 1))


def test_a_document_of_the_version_before_raises_nothing_else(tmp_path: Path) -> None:
    """It has no hash of its own: some damage shows only in a value that is no such value, and some cannot show."""
    document = _as_version_2(tmp_path, _make(5)) / "checkpoint.json"
    whole = document.read_bytes()
    for place, byte in enumerate(whole):
        for other in {0, 0x2D, 0x39, 0x22} - {byte}:
            document.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
            with suppress(UserError):
                checkpoints.load(tmp_path, Name(5, 0))


@pytest.mark.parametrize("changed", [dict(step=-1), dict(step=1.0), dict(seen="3"), dict(loss=None), dict(best="x"), dict(fingerprint=3)])
def test_a_state_of_other_types_is_refused(changed: dict[str, Any]) -> None:
    document = State(fingerprint="f", best_step=3).document()
    assert State.read(document) == State(fingerprint="f", best_step=3)
    with pytest.raises(ValueError, match=f"its {next(iter(changed))} is "):
        State.read(document | changed)


def test_files_of_two_checkpoints_do_not_make_one(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, _make(3))
    other = replace(_make(5), arrays=_make(3).arrays)
    checkpoints.save(tmp_path, other)
    shutil.copy(tmp_path / "step-00000003-0001" / "checkpoint.json", tmp_path / "step-00000005-0001" / "checkpoint.json")
    with pytest.raises(UserError, match=r"checkpoint\.json is of another checkpoint"):
        checkpoints.load(tmp_path, Name(5, 1))
