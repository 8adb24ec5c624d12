"""`twofold visualize`: how the network sees an image, its first filters and each stage's feature maps."""

from __future__ import annotations

import tempfile
from pathlib import Path

from job.console import console
from job.data import pixels
from job.data.sources import is_image, open_source
from job.errors import UserError
from job.inference import plots
from job.inference.trained import Item, Trained
from job.metrics import probability


def visualize(run: Path, image: str, out: str) -> None:
    """Write the image.

    Raises:
        UserError: no such run, or the image is none that decodes.
    """
    if not out:
        raise UserError("--out", "no file given for the image", "add --out FILE.png")
    if Path(out).suffix.lower() != ".png":
        raise UserError("--out", f"{out!r} is not a PNG file's name", "let it end with .png")
    if not is_image(image):
        raise UserError(image, "is not an image", "give one JPEG, PNG or WebP file")
    with tempfile.TemporaryDirectory(prefix="twofold-") as scratch:
        data = next(open_source(image, Path(scratch)).read())[1]
    trained = Trained(run)
    try:
        jpeg = pixels.stored(data, trained.side)
    except pixels.Undecodable as error:
        raise UserError(image, str(error), "give another image") from None
    prediction = next(trained.predict([Item(image, -1, jpeg)]))
    filters, stages = trained.maps(prediction.square)
    p = float(probability(prediction.logit))
    heading = f"{Path(image).name}: {max(p, 1 - p):.1%} {trained.classes[int(p >= 0.5)]}, by {trained.config.model.model}"
    plots.features(prediction.square, filters, stages, Path(out), heading)
    console.log(f"wrote {out}")
