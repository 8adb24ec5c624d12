"""The state of training beside the variables: how far it is, the sums of the epoch under way, the best epoch so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from job.metrics import Metrics


@dataclass
class State:
    """What a checkpoint holds beside the variables.

    `loss`, `right` and `seen` are sums over the epoch under way: loss times images, right answers, images. `seconds`
    are those spent in all starts, `epoch_began` is their number at the epoch's start. `best` is the monitored metric
    of the best epoch, more being better; `stale` counts the epochs since. `logit_shift` is what class weights add to
    the log odds. `fingerprint` names the data set.
    """

    fingerprint: str
    logit_shift: float = 0.0
    step: int = 0
    epoch: int = 0
    seconds: float = 0.0
    epoch_began: float = 0.0
    loss: float = 0.0
    right: float = 0.0
    seen: int = 0
    stale: int = 0
    best: float | None = None
    best_step: int | None = None
    best_metrics: Metrics | None = None

    def document(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        return asdict(self)

    @classmethod
    def read(cls, document: Any) -> State:
        """The state in a checkpoint.

        Raises:
            ValueError: it holds other fields, or values of other types.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(document, dict) or document.keys() != names:
            raise ValueError(f"its state holds other fields: {sorted(names ^ set(document))[:4]}")
        for name, value in document.items():
            if name != "best_metrics" and not _FORMS[name](value):
                raise ValueError(f"its {name} is {value!r:.40}")
        metrics = document["best_metrics"]
        return cls(**{**document, "best_metrics": None if metrics is None else Metrics(**metrics)})


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return type(value) is float or _is_count(value)


_FORMS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("step", "epoch", "seen", "stale"), _is_count),
    **dict.fromkeys(("logit_shift", "seconds", "epoch_began", "loss", "right"), _is_number),
    "fingerprint": lambda value: isinstance(value, str),
    "best": lambda value: value is None or _is_number(value),
    "best_step": lambda value: value is None or _is_count(value),
}
