"""`twofold visualize`: how the network sees an image, its first filters and each stage's feature maps."""

from __future__ import annotations

import tempfile
from pathlib import Path

from job.console import console
from job.data import pixels
from job.data.sources import open_source
from job.data.sources.address import last_part
from job.errors import UserError
from job.metrics import probability
from job.shutdown import Stop
from job.storage import local
from job.storage.bucket import Conflict
from job.storage.opening import is_bucket, open_bucket, overwrite


def visualize(run: Path, image: str, out: str, stop: Stop | None = None) -> None:
    """Draw it into a PNG file, here or in a bucket; its folder is made where it is missing.

    Raises:
        UserError: no such run, the image does not decode, or the bucket may not be written.
    """
    if not out:
        raise UserError("--out", "no file given for the plot", "add --out FILE.png")
    if Path(out).suffix.lower() != ".png":
        raise UserError("--out", f"{out!r} is not the name of a PNG file", "let it end with .png")
    if not is_bucket(out) and Path(out).is_dir():
        raise UserError("--out", f"{out} is a folder", "name a file in it")
    with tempfile.TemporaryDirectory(prefix="twofold-") as scratch:
        source = open_source(image, Path(scratch), stop)
        if [entry.name for entry in source.listing.entries] != [last_part(image)]:
            raise UserError(image, "is not an image", "give one JPEG, PNG or WebP file")
        data = next(source.read())[1]
    from job.inference import plots  # what is mistyped need not wait for TensorFlow
    from job.inference.trained import Item, Trained

    trained = Trained(run)
    try:
        jpeg = pixels.stored(data, trained.side, trained.levels)
    except pixels.Undecodable as error:
        raise UserError(image, str(error), "give another image") from None
    prediction = next(trained.predict([Item(image, -1, jpeg)]))
    filters, stages = trained.maps(prediction.image)
    p = float(probability(prediction.logit))
    heading = f"{last_part(image)}: {max(p, 1 - p):.1%} {trained.classes[int(p >= 0.5)]}, by {trained.config.model.model}"
    if is_bucket(out):
        folder, _, name = out.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="twofold-") as scratch:
            plots.features(prediction.image, filters, stages, Path(scratch, name), heading)
            try:
                overwrite(open_bucket(folder, stop), name, Path(scratch, name))
            except Conflict:
                raise UserError(out, "another process writes it just now", "try again") from None
    else:
        local.make_folder(Path(out).absolute().parent)
        plots.features(prediction.image, filters, stages, Path(out), heading)
    console.log(f"wrote {out}")
