"""The list of planted mistakes fits the source: `make mutants` tries them."""

from __future__ import annotations

from tests.mutants import MUTANTS, stale


def test_every_planted_mistake_finds_its_place() -> None:
    assert stale() == []
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 40
