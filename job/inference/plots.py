"""Plots by matplotlib: the curves of a run, contact sheets, filters and feature maps. No pyplot, no display."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from job.machine import isolation

with isolation.imports():
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_TRAINING, _VALIDATION, _RATE = "#c25e00", "#0b5fa5", "#555555"


@contextmanager
def own_settings() -> Iterator[None]:
    """Draw by matplotlib's own settings, not by the user's. A decorator of whatever draws."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


def blank(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    for text in figure.findobj(Text):  # file names stand in them: dollars, bytes that are no text, any script
        text.set_parse_math(False)
        text.set_text(text.get_text().encode("utf-8", "replace").decode())
    temporary = path.with_name(f".{path.name}.tmp")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(temporary, format="png", dpi=110)
    temporary.replace(path)


@own_settings()
def draw(epochs: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss, accuracy and learning rate over the epochs, training beside validation."""
    figure = blank(12, 3.6)
    axes = figure.subplots(1, 3)
    at = [record["epoch"] for record in epochs]
    for axis, name, title in ((axes[0], "loss", "loss"), (axes[1], "accuracy", "accuracy")):
        training, validation = f"train_{name}", "val_log_loss" if name == "loss" else "val_accuracy"
        axis.plot(at, [r[training] for r in epochs], color=_TRAINING, marker=".", label="training (as augmented)")
        axis.plot(at, [r[validation] for r in epochs], color=_VALIDATION, marker=".", label="validation")
        if name == "accuracy":
            low, high = [r["val_accuracy_low"] for r in epochs], [r["val_accuracy_high"] for r in epochs]
            axis.fill_between(at, low, high, color=_VALIDATION, alpha=0.15, linewidth=0, label="95 % interval")
        axis.set_title(title)
        axis.legend(frameon=False)
    axes[2].plot(at, [r["learning_rate"] for r in epochs], color=_RATE, marker=".")
    axes[2].set_title("learning rate")
    axes[2].set_ylim(bottom=0)
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.25)
        axis.xaxis.get_major_locator().set_params(integer=True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    save(figure, path)


@own_settings()
def sheet(images: Sequence[Any], titles: Sequence[str], path: Path, heading: str, columns: int = 8) -> None:
    """A contact sheet of images, uint8 [height, width, 3] each, with a line above each."""
    rows = max(1, -(-len(images) // columns))
    figure = blank(1.6 * columns, 1.85 * rows + 0.5)
    figure.suptitle(heading, fontsize=11)
    for axis in figure.subplots(rows, columns, squeeze=False).flat:
        axis.axis("off")
    for axis, image, title in zip(figure.axes, images, titles, strict=False):
        axis.imshow(np.asarray(image))
        axis.set_title(title, fontsize=7)
    save(figure, path)


@own_settings()
def features(image: Any, filters: Any, stages: Sequence[tuple[str, Any]], path: Path, heading: str) -> None:
    """How a network sees an image: its first filters, and the strongest maps of each stage.

    Args:
        image: uint8 [height, width, 3].
        filters: float32 [kernel, kernel, 3, n].
        stages: name and maps, float32 [height, width, n], of each stage.
    """
    shown = 12
    figure = blank(1.1 * (shown + 1), 1.25 * (3 + len(stages)) + 0.4)
    figure.suptitle(heading, fontsize=11)
    grid = figure.add_gridspec(3 + len(stages), shown + 1)
    whole = figure.add_subplot(grid[0:3, 0:3])
    whole.imshow(image)
    whole.set_title("the image as the model sees it", fontsize=8)
    whole.axis("off")
    places = [(row, column) for row in range(3) for column in range(3, shown + 1)]
    for number, (row, column) in zip(range(filters.shape[-1]), places, strict=False):
        axis = figure.add_subplot(grid[row, column])
        kernel = filters[..., number]
        largest = np.abs(kernel).max() or 1.0
        axis.imshow(0.5 + 0.5 * kernel / largest)
        axis.axis("off")
        if number == 0:
            axis.set_title("first filters", fontsize=8, loc="left")
    for row, (name, maps) in enumerate(stages, 3):
        strongest = np.argsort(maps.mean(axis=(0, 1)))[::-1][: shown + 1]
        for column, number in enumerate(strongest):
            axis = figure.add_subplot(grid[row, column])
            axis.imshow(maps[..., number], cmap="magma")
            axis.axis("off")
            if column == 0:
                axis.set_title(f"{name}: {maps.shape[0]}x{maps.shape[1]}, strongest of {maps.shape[2]} maps", fontsize=8, loc="left")
    save(figure, path)
