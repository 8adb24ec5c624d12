"""Random trees of folders: what is accepted has exactly the classes and splits that were meant; what cannot be known is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from job.data.class_names import same_class
from job.data.survey import survey
from job.errors import UserError
from tests import trees


def _check(seed: int, folder: Path) -> bool:
    """Whether the tree of a seed was accepted; raises where it was accepted as something else."""
    tree = trees.make(seed, folder)
    scratch = folder / "scratch"
    scratch.mkdir()
    refused = ""
    try:
        found = survey([str(tree.path)], scratch)
    except UserError as error:
        refused = str(error)
    if refused:
        assert tree.doomed or not tree.clear, f"seed {seed}: refused, though clear: {refused}"
        return False
    assert not tree.doomed, f"seed {seed}: a third class was accepted as {found.lines()}"
    classes = found.layout.classes
    assert {same_class(name) for name in classes} == {same_class(name) for name in tree.classes}, f"seed {seed}: {found.lines()}"
    got = {image.name: (same_class(classes[image.label]), image.split) for image in found.layout.images}
    meant = {name: (same_class(label), split) for name, (label, split) in tree.images.items()}
    assert got == meant, f"seed {seed}: {sorted(got.items() ^ meant.items(), key=str)[:4]}"
    assert {name for name, _ in found.read()} == set(meant), f"seed {seed}"
    return True


def _try(seeds: range, tmp_path: Path) -> None:
    accepted = 0
    for seed in seeds:
        folder = tmp_path / str(seed)
        folder.mkdir()
        accepted += _check(seed, folder)
    assert accepted > 0.5 * len(seeds)


def test_trees_mean_what_their_maker_meant_or_are_refused(tmp_path: Path) -> None:
    _try(range(200), tmp_path)


@pytest.mark.slow
def test_many_trees_mean_what_their_maker_meant_or_are_refused(tmp_path: Path) -> None:
    _try(range(200, 2400), tmp_path)
