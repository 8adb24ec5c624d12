"""The end of a run: `model.keras` from the best checkpoint, compared with our own inference."""

from __future__ import annotations

import numpy as np

from job.console import console
from job.errors import UserError
from job.inference import export
from job.inference.forward import validate
from job.metrics import probability
from job.runs import checkpoints, records
from job.runs.checkpoints import Name, inference_weights
from job.runs.state import State
from job.training.build import Run

COMPARED = 32  # validation images that model.keras is compared on


def export_best(run: Run, state: State) -> None:
    """Write `model.keras`. Where the best checkpoint is damaged, it is the newest whole one, and `state` names that one as best."""
    weights = _best_weights(run, state)
    export.write(run.folder, run.config, weights)
    run.inference.load(weights)
    numbers = range(min(COMPARED, len(run.validation)))
    logits = run.inference.logits(run.validation.gather(np.array(numbers))[0])
    stored = (run.validation.reader[n].image for n in numbers)
    console.log("model.keras is written; " + export.apart(run.folder, zip(stored, probability(logits).tolist(), strict=True)))


def _best_weights(run: Run, state: State) -> dict[str, np.ndarray]:
    folder = run.folder / records.CHECKPOINTS
    assert state.best_step is not None, "a run ends after an epoch"
    best = checkpoints.of_step(folder, state.best_step) or Name(state.best_step, 0)
    try:
        return inference_weights(checkpoints.load(folder, best).arrays, state.logit_shift)
    except UserError as error:
        newest = checkpoints.newest(folder)
        if newest is None:
            raise
        weights = inference_weights(newest.arrays, state.logit_shift)
        run.inference.load(weights)
        lost, state.best_step, state.best_metrics = state.best_step, newest.state.step, validate(run.inference, run.validation)
        console.log(f"warning: {error}")
        console.log(f"warning: the best weights, of step {lost:,}, are lost; model.keras is made from those of step {newest.state.step:,}")
        return weights
