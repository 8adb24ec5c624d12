"""Pixels, with Pillow as the second opinion: what decodes, how, and what is refused with which reason."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from job.data import levels
from job.data.levels import AUTO, FULL, Levels
from job.data.pixels import Undecodable, decode, encode, reduce, square, squeeze, store, stored
from job.errors import UserError

RNG = np.random.default_rng(5)


def _scene(height: int = 32, width: int = 48) -> Any:
    """Smooth, and different in each corner, so that JPEG keeps it and each turn is seen."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / width, 255 * y / height, np.where(x + y < 20, 220, 30)], axis=2).astype(np.uint8)


def _save(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _far(one: Any, other: Any) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker"
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("PNG", "RGBA"), ("WEBP", "RGB"), ("WEBP", "RGBA")]
)
def test_exif_orientation_is_applied(orientation: int, kind: str, mode: str) -> None:
    image = Image.fromarray(_scene()).convert(mode)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    data = _save(image, kind, exif=_exif(orientation), **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    found = decode(data)
    assert found.shape == ((32, 48, 3) if orientation < 5 else (48, 32, 3))
    assert _far(found, np.asarray(upright)) < 2


def test_orientation_6_by_hand() -> None:
    # a phone held upright: the stored image's lower left corner is the upright one's upper left
    data = _save(Image.fromarray(_scene()), "PNG", exif=_exif(6))
    assert decode(data)[0, 0].tolist() == _scene()[-1, 0].tolist()
    assert decode(data)[0, -1].tolist() == _scene()[0, 0].tolist()


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=80))
def test_a_damaged_exif_block_turns_nothing(rest: bytes) -> None:
    image = Image.fromarray(_scene()).convert("RGBA")
    assert decode(_save(image, "PNG", exif=b"Exif\0\0II*\0" + rest)).shape in ((32, 48, 3), (48, 32, 3))


def test_alpha_is_laid_over_white() -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[..., 3] = [0, 128, 255]
    wanted = [[255, 255, 255], [227, 127, 127], [200, 0, 0]]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        found = decode(_save(Image.fromarray(rgba), kind, **options))
        assert found.dtype == np.uint8
        assert np.abs(found[0] - np.array(wanted)).max() <= (kind == "TIFF"), kind


def test_alpha_of_16_bits_is_laid_over_white() -> None:
    bgra = np.zeros((1, 3, 4), np.uint16)
    bgra[..., 2] = 200 * 257
    bgra[..., 3] = [0, 32896, 65535]
    data = cv2.imencode(".png", bgra)[1].tobytes()
    assert decode(data)[0].tolist() == [[255, 255, 255], [227, 127, 127], [200, 0, 0]]


def test_grey_with_alpha_is_laid_over_white() -> None:
    grey = np.zeros((1, 3, 2), np.uint8)
    grey[..., 0] = 100
    grey[..., 1] = [0, 128, 255]
    found = decode(_save(Image.merge("LA", [Image.fromarray(grey[..., k]) for k in (0, 1)]), "PNG"))
    assert found[0].tolist() == [[255] * 3, [177] * 3, [100] * 3]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_colour(kind: str) -> None:
    image = Image.new("P", (4, 2), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (2, 0, 4, 2))
    found = decode(_save(image, kind, transparency=0))
    assert found[0].tolist() == [[255, 255, 255]] * 2 + [[0, 0, 255]] * 2


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_a_palette(kind: str) -> None:
    image = Image.new("P", (4, 2), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (2, 0, 4, 2))
    assert decode(_save(image, kind))[1].tolist() == [[255, 0, 0]] * 2 + [[0, 0, 255]] * 2


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_lossless_kinds_are_exact(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode(_save(Image.fromarray(_scene()), kind, **options)), _scene())


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_and_black_and_white(mode: str) -> None:
    image = Image.fromarray(_scene()).convert(mode)
    assert np.array_equal(decode(_save(image, "PNG")), np.asarray(image.convert("RGB")))


def test_a_grey_jpeg() -> None:
    image = Image.fromarray(_scene()).convert("L")
    assert _far(decode(_save(image, "JPEG", quality=95)), np.asarray(image.convert("RGB"))) < 2


def test_a_cmyk_jpeg() -> None:
    data = _save(Image.fromarray(_scene()).convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert _far(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))) < 4


def test_16_bits_become_8() -> None:
    colour = _scene().astype(np.uint16) * 257
    assert np.abs(decode(cv2.imencode(".png", colour[..., ::-1])[1].tobytes()).astype(int) - _scene()).max() <= 1
    grey = colour[..., 0]
    found = decode(cv2.imencode(".png", grey)[1].tobytes())
    assert np.abs(found.astype(int) - _scene()[..., :1]).max() <= 1


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        found = decode(_save(frames[0], kind, save_all=True, append_images=frames[1:], **options))
        assert found.shape == (8, 8, 3)
        assert found[4, 4].tolist() == [255, 0, 0], kind


def _reason(data: bytes) -> str:
    with pytest.raises(Undecodable) as caught:
        decode(data)
    with pytest.raises(Undecodable):
        stored(data, 32)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("JPEG", "the JPEG is truncated or corrupt"),
        ("PNG", "the PNG is truncated or corrupt"),
        ("WEBP", "the WebP is truncated or corrupt"),
    ],
)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_file_cut_short_is_refused(kind: str, reason: str, share: float, mode: str) -> None:
    noisy = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)).convert("RGB" if kind == "JPEG" else mode)
    data = _save(noisy, kind)
    assert decode(data).shape == (64, 64, 3)
    assert _reason(data[: int(share * len(data))]) == reason


def test_a_progressive_jpeg_cut_short_is_refused() -> None:
    data = _save(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)), "JPEG", progressive=True)
    assert decode(data).shape == (64, 64, 3)
    assert _reason(data[: int(0.7 * len(data))]) == "the JPEG is truncated or corrupt"


@pytest.mark.parametrize(("function", "kind"), [("imdecode", "JPEG"), ("imdecodeWithMetadata", "PNG")])
def test_too_little_memory_is_not_the_fault_of_an_image(monkeypatch: pytest.MonkeyPatch, function: str, kind: str) -> None:
    data = _save(Image.fromarray(RNG.integers(0, 256, (8, 8, 3), np.uint8)), kind)

    def full(*_: object) -> None:
        error = cv2.error("Insufficient memory")
        error.code, error.err = cv2.Error.StsNoMem, "Failed to allocate 48000000 bytes"
        raise error

    monkeypatch.setattr(cv2, function, full)
    with pytest.raises(MemoryError, match="Failed to allocate"):
        decode(data)


HEIC_EXTRA = "HEIC needs an extra: pip install 'twofold[heic]'"
CORRUPT = "is truncated or corrupt"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"just text", "it is not an image that can be read, or it is corrupt"),
        (b"<!DOCTYPE html><html>404</html>", "it is a web page, not an image"),
        (b"\n <html>", "it is a web page, not an image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "it is a Git LFS pointer, not the image: run git lfs pull"),
        (b"/annex/objects/SHA256E-s9--1.jpg\n", "it is a git-annex pointer, not the image: run git annex get"),
        (b"../.git/annex/objects/a/b.jpg", "it is a git-annex pointer, not the image: run git annex get"),
        (b"\xff\x0a\xfa", "it is a JPEG XL image, which is not read: convert it to PNG or JPEG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "it is a JPEG XL image, which is not read: convert it to PNG or JPEG"),
        (b"\0" * 128 + b"DICM\2\0", "it is a DICOM file, which is not read: convert it to PNG or JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is an SVG file, which is not read: convert it to PNG or JPEG"),
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg/>", "it is an SVG file, which is not read: convert it to PNG or JPEG"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "it is not an image that can be read, or it is corrupt"),
        (b"8BPS\0\1", "it is a Photoshop file, which is not read: convert it to PNG or JPEG"),
        (b"%PDF-1.7", "it is a PDF, which is not read: convert it to PNG or JPEG"),
        (b"II*\0\x10\0\0\0CR\2\0", "it is a camera raw file, which is not read: convert it to PNG or JPEG"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "it is a camera raw file, which is not read: convert it to PNG or JPEG"),
        (b"FUJIFILMCCD-RAW 0201", "it is a camera raw file, which is not read: convert it to PNG or JPEG"),
        (b"\0\0\0\x18ftypqt  \0\0\0\0", "it is a video, which is not read: convert it to PNG or JPEG"),
        (b"PK\3\4\0\0", "it is an archive (zip), not an image: unpack it"),
        (b"II*\0\x08\0\0\0", "the TIFF is truncated or corrupt, or of a kind that is not read"),
        (b"GIF89a\1\0\1\0", f"the GIF {CORRUPT}"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", f"the AVIF {CORRUPT}"),
        (b"\0\0\0\x14ftypmif1\0\0\0\0avif", f"the AVIF {CORRUPT}"),
    ],
)
def test_reasons(data: bytes, reason: str) -> None:
    assert _reason(data) == reason


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"hevc"])
def test_heic_without_its_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch, brand: bytes) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert _reason(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0rest") == HEIC_EXTRA


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(width: int, height: int, depth: int, color_type: int, rows: bytes, *more: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks)


def _tiff(array: Any, *, photometric: int, orientation: int = 1, extra: int | None = None, order: str = "<", **sizes: int) -> bytes:
    """An uncompressed TIFF of one strip, with the tags that Pillow and OpenCV do not write as asked."""
    height, width = array.shape[:2]
    samples = 1 if array.ndim == 2 else array.shape[2]
    tags = {256: sizes.get("width", width), 257: sizes.get("height", height), 258: 0, 259: 1, 262: photometric, 273: 0}
    tags |= {274: orientation, 277: samples, 278: height, 279: array.nbytes, 284: 1} | ({} if extra is None else {338: extra})
    tags |= {339: sizes["format"]} if "format" in sizes else {}
    bits = 8 + 2 + 12 * len(tags) + 4  # where the bits of each sample stand
    tags |= {258: bits if samples > 2 else 8 * array.itemsize, 273: bits + 2 * samples}
    found = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    for tag, value in tags.items():
        if tag == 258:
            found += struct.pack(order + "HHI", tag, 3, samples) + (
                struct.pack(order + "I", value) if samples > 2 else struct.pack(order + "HH", value, value * (samples - 1))
            )
        else:
            found += struct.pack(order + "HHII", tag, 4, 1, value)
    found += bytes(4) + struct.pack(order + "H", 8 * array.itemsize) * samples
    return found + array.astype(array.dtype.newbyteorder(order)).tobytes()


def _claims(kind: str, width: int, height: int) -> bytes:
    """A little file whose header claims a size."""
    if kind == "PNG":
        return _png(width, height, 8, 2, b"\0")
    if kind == "TIFF":
        return _tiff(np.zeros((4, 4), np.uint8), photometric=1, width=width, height=height)
    if kind == "PPM":
        return b"P6\n# drawn\n%d %d\n255\n" % (width, height)
    data = _save(Image.new("RGB", (8, 8)), kind)
    if kind == "JPEG":  # a table before the frame, whose mark lies among those of frames
        data = data[:2] + b"\xff\xc4\0\x09" + bytes(7) + data[2:]
    at, layout = {
        "JPEG": (data.find(b"\xff\xc0") + 5, ">HH"),
        "BMP": (18, "<ii"),
        "GIF": (6, "<HH"),
        "AVIF": (data.find(b"ispe") + 8, ">II"),
    }[kind]
    sides = (height, width) if kind == "JPEG" else (width, height)
    return data[:at] + struct.pack(layout, *sides) + data[at + struct.calcsize(layout) :]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG", "BMP", "GIF", "AVIF"])
def test_an_image_beyond_the_limits_is_refused_with_its_size(kind: str) -> None:
    most = "268,435,456" if kind == "AVIF" else "1,073,741,824"
    width, height = (30_000, 20_000) if kind == "AVIF" else (60_000, 50_000)
    assert _reason(_claims(kind, width, height)) == (
        f"it is {width:,} x {height:,} pixels, more than the {most} that are read: make it smaller, or cut it up"
    )


@pytest.mark.parametrize(("kind", "side"), [("PNG", 1_000_000), ("TIFF", 1_048_576), ("BMP", 1_048_576), ("AVIF", 32_768)])
def test_an_image_with_too_long_a_side_is_refused_with_its_size(kind: str, side: int) -> None:
    line = f"it is {side + 1:,} x 5 pixels, more than {side:,} a side: make it smaller, or cut it up"
    assert _reason(_claims(kind, side + 1, 5)) == line
    assert "a side" not in _reason(_claims(kind, side, 0))


def test_an_image_of_no_size_is_refused() -> None:
    assert _reason(_claims("PNG", 0, 5)) == f"the PNG {CORRUPT}"


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(
        [
            b"",
            b"\xff\xd8\xff\xe0",
            b"\x89PNG\r\n\x1a\n",
            b"GIF89a",
            b"RIFF\0\0\0\0WEBPVP8 ",
            b"BM",
            b"II*\0",
            b"P5 ",
            b"\0\0\0\x18ftypavif",
            b"\0\0\0\x18ftypheic",
        ]
    ),
    st.binary(max_size=120),
)
def test_whatever_comes_decode_gives_an_image_or_a_reason(start: bytes, rest: bytes) -> None:
    try:
        found = decode(start + rest)
    except Undecodable as error:
        reason = str(error)
    else:
        reason = "none"
        assert found.ndim == 3
        assert found.shape[2] == 3
    assert reason


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(8, 64))
def test_reduce_keeps_the_aspect_and_never_enlarges(height: int, width: int, side: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    found = reduce(image, side)
    if min(height, width) <= side:
        assert found.shape == image.shape
    else:
        assert min(found.shape[:2]) == side
        long = max(height, width) * side / min(height, width)
        assert abs(max(found.shape[:2]) - long) <= 0.5
        assert (found.shape[0] - found.shape[1]) * (height - width) >= 0


def test_stored_is_an_upright_small_jpeg_without_exif() -> None:
    gps = _exif(6)
    gps.get_ifd(0x8825)[1] = "N"
    data = _save(Image.fromarray(_scene(80, 120)), "JPEG", exif=gps, quality=95)
    assert b"Exif" in data
    found = stored(data, 40)
    image = Image.open(io.BytesIO(found))
    assert image.format == "JPEG"
    assert image.size == (40, 60)  # turned, short side 40
    assert len(image.getexif()) == 0
    assert b"Exif" not in found
    assert b"Maker" not in found
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).resize((40, 60), Image.Resampling.BOX)
    assert _far(decode(found), np.asarray(wanted)) < 3


def test_stored_again_stays_nearly_the_same() -> None:
    once = stored(_save(Image.fromarray(_scene(40, 60)), "PNG"), 40)
    assert _far(decode(stored(once, 40)), decode(once)) < 1
    assert stored(once, 40) == stored(once, 40)


def _weights(old: int, new: int) -> Any:
    """Row i: the share of each old pixel in new pixel i, by the overlap of their intervals."""
    rows = np.zeros((new, old))
    for i in range(new):
        low, high = i * old / new, (i + 1) * old / new
        for j in range(old):
            rows[i, j] = max(0.0, min(high, j + 1) - max(low, j))
    return rows / rows.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (40, 64, 16),
        (37, 53, 16),
        (31, 23, 17),
        (12, 12, 24),
        (7, 11, 24),
        (10, 40, 16),
        (40, 10, 16),
        (16, 16, 16),
        (16, 40, 16),
        (1, 30, 16),
        (25, 1, 16),
    ],
)
def test_squeeze_is_the_exact_mean_over_the_area(height: int, width: int, size: int) -> None:
    image = RNG.integers(0, 256, (height, width, 3), np.uint8)
    wanted = np.einsum("ih,hwc,jw->ijc", _weights(height, size), image.astype(float), _weights(width, size))
    found = squeeze(image, size)
    assert found.shape == (size, size, 3)
    assert np.abs(found - wanted).max() <= 1 + 1e-9


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 80), st.tuples(*[st.integers(0, 255)] * 3))
def test_a_constant_image_stays_constant(height: int, width: int, size: int, colour: tuple[int, int, int]) -> None:
    image = np.full((height, width, 3), colour, np.uint8)
    assert (squeeze(image, size) == colour).all()
    assert (reduce(image, size) == colour).all()


def test_square_decodes_and_squeezes() -> None:
    jpeg = encode(_scene())
    assert np.array_equal(square(jpeg, 16), squeeze(decode(jpeg), 16))
    assert _far(decode(jpeg), _scene()) < 3


def _heic() -> Any:
    return pytest.importorskip("pillow_heif", reason="pillow-heif is not installed: pip install 'twofold[heic]'")


def _save_heif(image: Image.Image, kind: str, **options: Any) -> bytes:
    if kind == "AVIF":
        return _save(image, "AVIF", quality=100, subsampling="4:4:4", **options)
    _heic().register_heif_opener()
    return _save(image, "HEIF", quality=-1, chroma=444, **options)


HEIFS = pytest.mark.parametrize("kind", ["AVIF", "HEIC"])


@HEIFS
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_the_orientation_of_avif_and_heic_is_applied(kind: str, orientation: int, mode: str) -> None:
    image = Image.fromarray(_scene()).convert(mode)
    image.info["exif"] = _exif(orientation).tobytes()
    wanted = ImageOps.exif_transpose(image).convert("RGB")
    found = decode(_save_heif(image, kind, exif=image.info["exif"]))
    assert _far(found, np.asarray(wanted)) < 2


@HEIFS
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_of_avif_and_heic_is_laid_over_white(kind: str, mode: str) -> None:
    rgba = np.zeros((32, 48, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = 200, 255
    rgba[:16, :, 3] = 0
    rgba[16:, :24, 3] = 128
    found = decode(_save_heif(Image.fromarray(rgba).convert(mode), kind)).astype(int)
    for at, wanted in (((4, 4), 255), ((24, 12), 227), ((24, 36), 200)):
        assert np.abs(found[at] - wanted).max() <= 3


@pytest.mark.parametrize("depth", [10, 12])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_an_avif_of_10_or_12_bits(depth: int, with_alpha: bool) -> None:
    scene = np.dstack([_scene()[..., ::-1], np.full((32, 48), 128, np.uint8)])[..., : 3 + with_alpha]
    deep = np.rint(scene.astype(float) / 255 * ((1 << depth) - 1)).astype(np.uint16)
    data = cv2.imencode(".avif", deep, (cv2.IMWRITE_AVIF_DEPTH, depth, cv2.IMWRITE_AVIF_QUALITY, 100))[1].tobytes()
    wanted = 0.5 * _scene() + 127.5 if with_alpha else _scene()
    assert _far(decode(data), wanted) < 4
    assert not store(data, 32, AUTO).dim  # the decoder scales them already
    assert np.array_equal(decode(data, AUTO), decode(data))


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_heic_of_10_or_12_bits(monkeypatch: pytest.MonkeyPatch, bits: int, mode: str) -> None:
    heic = _heic()
    monkeypatch.setattr(heic.options, "SAVE_HDR_TO_12_BIT", bits == 12)
    scene = _scene() if mode == "RGB" else _scene()[..., 0]
    file = io.BytesIO()
    heic.from_bytes(f"{mode};16", (48, 32), (scene.astype(np.uint16) * 257).tobytes()).save(file, quality=-1, chroma=444)
    assert heic.open_heif(file.getvalue()).info["bit_depth"] == bits
    assert _far(decode(file.getvalue()), scene if mode == "RGB" else np.dstack([scene] * 3)) < 2


def test_an_avif_sequence_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    data = _save(frames[0], "AVIF", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert _far(decode(data), np.asarray(frames[0])) < 3


def test_a_heic_of_several_images_gives_its_primary_one() -> None:
    heic, file = _heic(), io.BytesIO()
    images = heic.from_pillow(Image.new("RGB", (64, 64), "red"))
    images.add_from_pillow(Image.new("RGB", (64, 64), "blue"))
    images.save(file, primary_index=1)
    assert _far(decode(file.getvalue()), np.asarray(Image.new("RGB", (64, 64), "blue"))) < 3


@HEIFS
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_an_avif_or_heic_cut_short_is_refused(kind: str, share: float) -> None:
    data = _save_heif(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)), kind)
    assert _reason(data[: int(share * len(data))]) == f"the {kind} {CORRUPT}"


@HEIFS
def test_avif_and_heic_are_decoded_by_many_threads_at_once(kind: str) -> None:
    files = [_save_heif(Image.fromarray(_scene()).rotate(angle), kind) for angle in range(0, 160, 20)] * 4
    wanted = [decode(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        assert all(map(np.array_equal, pool.map(decode, files), wanted))


@HEIFS
def test_pillows_limit_for_large_images_neither_warns_nor_refuses(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    data = _save_heif(Image.fromarray(_scene()), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert _far(decode(data), _scene()) < 2


@HEIFS
@pytest.mark.parametrize("block", [b"II*\0\x08\0\0\0\xff\0\x12\x01\x03\0\1\0\0\0\6\0", b"nothing it should be"])
def test_a_damaged_exif_block_of_avif_and_heic_turns_nothing(kind: str, block: bytes) -> None:
    data = bytearray(_save_heif(Image.fromarray(_scene()), kind, exif=_exif(1)))
    start = max(data.find(b"II*\0"), data.find(b"MM\0*"))
    data[start : start + len(block)] = block
    with pytest.warns(UserWarning, match="EXIF") if block.startswith(b"II") else pytest.raises(SyntaxError):
        Image.Exif().load(b"Exif\0\0" + block)
    assert _far(decode(bytes(data)), _scene()) < 2


def test_too_little_memory_for_an_avif_is_not_the_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import AvifImagePlugin

    def full(*_: object) -> None:
        raise RuntimeError("Failed to decode frame 0: Out of memory")

    monkeypatch.setattr(AvifImagePlugin.AvifImageFile, "load", full)
    with pytest.raises(MemoryError, match="Out of memory"):
        decode(_save(Image.fromarray(_scene()), "AVIF"))


def _grey_rows(values: Any, depth: int) -> bytes:
    """Rows of a grey PNG: each byte holds several values below 8 bits."""
    if depth == 16:
        return b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"".join(
        b"\0" + int("".join(f"{v:0{depth}b}" for v in row), 2).to_bytes(len(row) * depth // 8, "big") for row in values.tolist()
    )


INK = np.zeros((16, 16), bool)
INK[4:12, 4:12] = True


@pytest.mark.parametrize(
    ("depth", "ground", "ink", "seen"),
    [
        (1, 0, 1, 255), (1, 1, 0, 0), (2, 0, 1, 85), (2, 1, 2, 170), (4, 0, 5, 85), (4, 9, 8, 136), (8, 0, 90, 90), (8, 200, 90, 90),
        (16, 0, 23130, 90), (16, 23131, 23130, 90),
    ],
)  # fmt: skip
def test_a_transparent_grey_is_laid_over_white(depth: int, ground: int, ink: int, seen: int) -> None:
    rows = _grey_rows(np.where(INK, ink, ground), depth)
    data = _png(16, 16, depth, 0, rows, (b"gAMA", struct.pack(">I", 45455)), (b"tRNS", struct.pack(">H", ground)))
    assert np.array_equal(decode(data), np.dstack([np.where(INK, seen, 255)] * 3))
    solid = _png(16, 16, depth, 0, rows)
    assert decode(solid)[0, 0, 0] == (ground >> 8 if depth == 16 else ground * 255 // ((1 << depth) - 1))


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_color_is_laid_over_white(depth: int) -> None:  # by OpenCV's own alpha
    scale, kind = (257, ">u2") if depth == 16 else (1, "u1")
    values = (np.where(INK[..., None], (200, 30, 30), (0, 0, 40)) * scale).astype(kind)
    data = _png(16, 16, depth, 2, b"".join(b"\0" + row.tobytes() for row in values), (b"tRNS", struct.pack(">HHH", 0, 0, 40 * scale)))
    assert np.array_equal(decode(data), np.where(INK[..., None], (200, 30, 30), (255, 255, 255)))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_palette_entry_is_laid_over_white(depth: int) -> None:  # by OpenCV's own alpha
    more = ((b"PLTE", bytes([9, 9, 9, 200, 30, 30])), (b"tRNS", bytes([0, 128])))
    data = _png(16, 16, depth, 3, _grey_rows(INK.astype(int), depth), *more)
    assert np.abs(decode(data).astype(int) - np.where(INK[..., None], (227, 142, 142), (255, 255, 255))).max() <= 1


def _deep(kind: str, array: Any) -> bytes:
    """Grey, RGB or RGBA of 16 bits as a file."""
    bgr = array if array.ndim == 2 else array[..., [2, 1, 0, 3][: array.shape[2]]]
    return bytes(cv2.imencode(kind, bgr)[1])


def _ramp(top: int, channels: int) -> Any:
    grey = np.linspace(0, top, 64 * 64).astype(np.uint16).reshape(64, 64)
    return grey if channels == 1 else np.dstack([grey, grey[::-1], grey.T, np.full_like(grey, 65535)][:channels])


KINDS = pytest.mark.parametrize("kind", [".png", ".tif"])
CHANNELS = pytest.mark.parametrize("channels", [1, 3, 4])


@KINDS
@CHANNELS
def test_full_levels_are_what_opencv_makes_of_16_bits(kind: str, channels: int) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    array = values if channels == 1 else np.dstack([values, values[::-1], values.T, np.full_like(values, 65535)][:channels])
    found = decode(_deep(kind, array), FULL)
    opencv = cv2.imdecode(np.frombuffer(_deep(kind, array[..., :3] if channels > 1 else array), np.uint8), cv2.IMREAD_COLOR_RGB)
    exact = np.rint(array[..., :3] / 257) if channels == 4 else opencv  # over white it is rounded, else as OpenCV has it
    assert np.array_equal(found, exact)
    assert np.array_equal(decode(_deep(kind, array)), found)


@KINDS
@CHANNELS
def test_auto_levels_stretch_12_bits_alone(kind: str, channels: int) -> None:
    for top, dim in ((4095, True), (4096, False), (300, True), (65535, False)):
        array = _ramp(top, channels)
        data = _deep(kind, array)
        colors = np.dstack([array] * 3) if channels == 1 else array[..., :3]
        assert store(data, 64).dim == store(data, 64, AUTO).dim == dim
        assert np.array_equal(decode(data, AUTO), np.rint(colors / 4095 * 255) if dim else decode(data))
        assert decode(data).max() == (top >> 8 if channels == 1 or (kind == ".png" and channels == 3) else round(top / 257))


@KINDS
@CHANNELS
def test_levels_from_min_to_max(kind: str, channels: int) -> None:
    array = _ramp(5000, channels)
    colors = np.dstack([array] * 3) if channels == 1 else array[..., :3]
    wanted = np.rint(np.clip((colors.astype(float) - 1000) / 2000, 0, 1) * 255)
    found = decode(_deep(kind, array), Levels(1000, 3000))
    assert np.abs(found - wanted).max() <= (channels == 4)  # over white it is computed in float32
    assert found.min() == 0
    assert found.max() == 255


def test_levels_leave_images_of_8_bits_as_they_are() -> None:
    for kind, mode in (("PNG", "RGB"), ("PNG", "LA"), ("PNG", "RGBA"), ("TIFF", "RGB"), ("TIFF", "RGBA"), ("JPEG", "RGB"), ("GIF", "P")):
        data = _save(Image.fromarray(_scene() // 20).convert(mode), kind)
        for chosen in (AUTO, Levels(0, 100), Levels(50, 4095)):
            assert np.array_equal(decode(data, chosen), decode(data)), (kind, mode)
            assert not store(data, 32, chosen).dim


def test_alpha_is_not_a_level() -> None:
    rgba = np.full((8, 8, 4), 2048, np.uint16)
    rgba[:4, :, 3] = 65535
    rgba[4:, :, 3] = 32768
    rgba[0, 0] = (65535, 65535, 65535, 0)  # what is not seen does not count
    found = decode(_deep(".png", rgba), AUTO)
    assert store(_deep(".png", rgba), 8, AUTO).dim
    assert [found[at].tolist() for at in ((0, 0), (2, 2), (6, 6))] == [[255] * 3, [128] * 3, [191] * 3]
    assert not store(_deep(".png", rgba * np.array([1, 1, 1, 0], np.uint16)), 8, AUTO).dim  # nothing is seen


def test_a_transparent_grey_of_16_bits_is_not_a_level() -> None:
    rows = _grey_rows(np.where(INK, 1000, 65535), 16)
    data = _png(16, 16, 16, 0, rows, (b"tRNS", struct.pack(">H", 65535)))
    assert store(data, 16).dim
    assert np.array_equal(decode(data, AUTO), np.dstack([np.where(INK, 62, 255)] * 3))


def test_associated_alpha_of_16_bits() -> None:
    half = np.full((4, 4, 4), 1000, np.uint16)  # colors of 2000, half transparent
    half[..., 3] = 32768
    for extra, low, seen in ((1, 0, 191), (2, 0, 159), (1, 1000, 170), (2, 1000, 127)):
        data = _tiff(half, photometric=2, extra=extra)
        assert decode(data, Levels(low, 4000))[0, 0].tolist() == [seen] * 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF of the other order"])
def test_an_image_of_16_bits_is_upright_with_levels(kind: str, channels: int, orientation: int) -> None:
    array = (_scene().astype(np.uint16) * 16)[..., :channels].squeeze()
    upright = Image.fromarray(np.dstack([_scene()[..., k % channels] for k in range(3)]))
    upright.info["exif"] = _exif(orientation).tobytes()
    wanted = np.asarray(ImageOps.exif_transpose(upright)).astype(int)
    if kind == "PNG":
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
        data = _png(48, 32, 16, 0 if channels == 1 else 2, rows, (b"eXIf", _exif(orientation).tobytes()[6:]))
    else:
        data = _tiff(array, photometric=1 if channels == 1 else 2, orientation=orientation, order="<" if kind == "TIFF" else ">")
    assert np.abs(decode(data, AUTO) - wanted).max() <= 1


def test_a_tiff_whose_white_is_zero() -> None:
    for top, chosen in ((4095, AUTO), (4095, Levels(0, 4095)), (65535, FULL)):
        array = np.tile(np.array([0, top // 2, top], np.uint16), (2, 1))
        assert np.abs(decode(_tiff(array, photometric=0), chosen)[0, :, 0].astype(int) - [255, 128, 0]).max() <= 1


@pytest.mark.parametrize("top", [1, 15, 31, 100, 255, 256, 1000, 1023, 4095, 65535])
@pytest.mark.parametrize("number", [2, 3, 5, 6])
def test_a_pnm_is_scaled_by_the_maximum_that_it_declares(number: int, top: int) -> None:
    array = np.rint(np.linspace(0, top, 16 * 48)).astype(np.uint16).reshape(16, 48)
    width, channels = (48, 1) if number in (2, 5) else (16, 3)
    values = " ".join(map(str, array.ravel().tolist())).encode() + b"\n"
    rows = values if number < 4 else array.astype(">u2" if top > 255 else np.uint8).tobytes()
    data = b"P%d\n# drawn\n%d 16 # wide\n%d\n" % (number, width, top) + rows
    wanted = np.broadcast_to((array.astype(float) / top * 255).reshape(16, width, channels), (16, width, 3))
    for chosen in (FULL, AUTO):
        assert np.abs(decode(data, chosen) - wanted).max() <= 1
    assert not store(data, 16).dim


def test_a_pnm_beyond_its_own_maximum_is_white_there() -> None:
    assert decode(b"P5\n2 1\n15\n" + bytes([15, 200]))[0, :, 0].tolist() == [255, 255]


def test_a_dim_pgm() -> None:
    array = _ramp(4095, 1)
    data = b"P5\n64 64\n65535\n" + array.astype(">u2").tobytes()
    assert store(data, 64).dim
    assert np.array_equal(decode(data, AUTO)[..., 1], np.rint(array / 4095 * 255))


def test_a_dim_tiff_whose_white_is_zero() -> None:
    array = 65535 - np.tile(np.array([0, 2048, 4095], np.uint16), (2, 1))
    data = _tiff(array, photometric=0)
    assert store(data, 64).dim
    assert decode(data, AUTO)[0, :, 0].tolist() == [0, 128, 255]
    assert decode(data).max() < 17


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_animation_is_upright(kind: str, mode: str, orientation: int) -> None:
    first = Image.fromarray(_scene()).convert(mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = _save(first, kind, save_all=True, append_images=[ImageOps.invert(first.convert("RGB")).convert(mode)],
                 exif=_exif(orientation), **options)  # fmt: skip
    still = _save(first, kind, exif=_exif(orientation), **options)
    assert np.array_equal(decode(data), decode(still))


def _refused(what: str, fix: str = "PNG") -> str:
    return f"it is {what}, which is not read: convert it to {fix}"


@pytest.mark.parametrize("extra", [1, 2])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("photometric", [0, 1])
def test_a_grey_tiff_with_alpha_is_refused(kind: Any, extra: int, photometric: int) -> None:
    assert _reason(_tiff(np.zeros((4, 4, 2), kind), photometric=photometric, extra=extra)) == _refused("a grey TIFF with alpha")


def test_a_grey_tiff_of_more_samples() -> None:
    array = np.dstack([np.full((4, 4), 90, np.uint8), np.zeros((4, 4), np.uint8)])
    assert (decode(_tiff(array, photometric=1, extra=0)) == 90).all()  # the other is said to be neither color nor alpha
    for deep in (array.astype(np.uint16), np.dstack([array, array, array]).astype(np.uint16)):
        what = _refused(f"a grey TIFF of {deep.shape[2]} samples a pixel")
        assert _reason(_tiff(deep, photometric=1, extra=0)) == what


def test_a_tiff_of_other_numbers_or_colors_is_refused() -> None:
    for kind, number, what in (("i1", 2, "signed"), ("i2", 2, "signed"), ("f4", 3, "floating point"), ("f8", 3, "floating point")):
        for order in ("<", ">"):
            data = _tiff(np.ones((4, 4), kind), photometric=1, format=number, order=order)
            assert _reason(data) == _refused(f"a TIFF of {what} numbers")
    for photometric in (8, 9, 10):
        assert _reason(_tiff(np.ones((4, 4, 3), np.uint8), photometric=photometric)) == _refused("a TIFF of Lab colors")
    three = _save(Image.new("RGB", (4, 4)), "TIFF", tiffinfo={339: (2, 2, 2)})  # three numbers do not fit beside the tag
    assert _reason(three) == _refused("a TIFF of signed numbers")
    big = _save(Image.new("L", (4, 4)), "TIFF", tiffinfo={339: 2}, big_tiff=True)
    assert big[2] == 43
    assert _reason(big) == _refused("a TIFF of signed numbers")
    assert decode(_save(Image.fromarray(_scene()), "TIFF", big_tiff=True)).tolist() == _scene().tolist()


@pytest.mark.parametrize(
    ("length", "bits", "seen"),
    [(124, 0xFF000000, True), (108, 0xFF000000, True), (56, 0xFF000000, True), (124, 0, False), (40, 0, False)],
)
@pytest.mark.parametrize("compression", [0, 3])
def test_alpha_of_a_bmp_is_laid_over_white_where_its_header_names_it(length: int, bits: int, seen: bool, compression: int) -> None:
    bgra = np.dstack([_scene()[..., ::-1], np.where(np.arange(48) < 24, 0, 255) * np.ones((32, 1))]).astype(np.uint8)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, bits)
    header = (struct.pack("<IiiHHIIiiII", length, 48, 32, 1, 32, compression, bgra.nbytes, 0, 0, 0, 0) + masks + bytes(68))[:length]
    if length == 40 and compression == 3:
        header += masks[:12]
    start = 14 + len(header)
    data = b"BM" + struct.pack("<IHHI", start + bgra.nbytes, 0, 0, start) + header + bgra[::-1].tobytes()
    wanted = _scene().copy()
    if seen and compression == 3:
        wanted[:, :24] = 255
    assert np.array_equal(decode(data), wanted)


def test_alpha_of_a_jpeg_2000_is_laid_over_white() -> None:
    rgba = np.dstack([_scene(), np.where(np.arange(48) < 24, 0, 255) * np.ones((32, 1))]).astype(np.uint8)
    wanted = _scene().copy()
    wanted[:, :24] = 255
    for bare in (False, True):
        assert np.array_equal(decode(_save(Image.fromarray(rgba), "JPEG2000", no_jp2=bare)), wanted)
        grey = _save(Image.fromarray(rgba).convert("LA"), "JPEG2000", no_jp2=bare)
        assert _reason(grey) == _refused("a grey JPEG 2000 image with alpha")
    half = np.full((32, 32, 4), (100, 100, 100, 128), np.uint8)
    data = _save(Image.fromarray(half), "JPEG2000")
    assert decode(data)[0, 0, 0] == 177
    at = data.find(b"cdef") + 6 + 3 * 6 + 2
    assert decode(data[:at] + b"\0\2" + data[at + 2 :])[0, 0, 0] == 227  # alpha is in the colors already
    assert decode(data[:at] + b"\xff\xff" + data[at + 2 :])[0, 0, 0] == 100  # neither color nor alpha
    cmyk = _save(Image.fromarray(half).convert("CMYK"), "JPEG2000")
    assert _reason(cmyk) == _refused("a JPEG 2000 image of CMYK colors")


def _jp2(array: Any, bits: int) -> bytes:
    """Grey of 9 to 16 bits, by a header that says so: what OpenCV writes is of 16."""
    data = cv2.imencode(".jp2", (array.astype(int) - (1 << (bits - 1)) + 32768).astype(np.uint16))[1].tobytes()
    at = data.find(b"\xff\x4f\xff\x51") + 42
    return data[:at] + bytes([bits - 1]) + data[at + 1 :]


def test_a_jpeg_2000_of_more_than_8_bits() -> None:
    for bits in (10, 12, 16):
        array = _ramp((1 << bits) - 1, 1)
        for chosen in (FULL, AUTO):
            assert np.abs(decode(_jp2(array, bits), chosen)[..., 0] - array / array.max() * 255).max() <= 1
        assert not store(_jp2(array, bits), 64).dim
    dim = _jp2(_ramp(4095, 1), 16)
    assert store(dim, 64).dim
    assert np.array_equal(decode(dim, AUTO)[..., 1], decode(dim, Levels(0, 4095))[..., 1])
    assert np.array_equal(decode(dim, AUTO)[..., 1], np.rint(_ramp(4095, 1) / 4095 * 255))
    assert decode(dim).max() == 16
    signed = dim.replace(b"\x0f\1\1\xff", b"\x8f\1\1\xff")
    assert signed != dim
    assert _reason(signed) == _refused("a JPEG 2000 image of signed numbers")


@pytest.mark.parametrize("brand", [b"avif", b"mif1", b"msf1", b"miaf", b"MA1A", b"MA1B", b"avio"])
def test_an_avif_by_a_brand_that_it_is_compatible_with(brand: bytes) -> None:
    image = Image.fromarray(_scene())
    data = _save_heif(image, "AVIF", exif=_exif(6))
    assert b"avif" in data[16:32]
    found = data[:8] + brand + data[12:]
    assert np.array_equal(decode(found), decode(data))
    assert decode(found).shape == (48, 32, 3)
    cut = found[: len(found) // 2]
    assert _reason(cut) == f"the AVIF {CORRUPT}"


def test_a_brand_beyond_the_list_of_brands_does_not_count() -> None:
    assert _reason(b"\0\0\0\x14ftypnone\0\0\0\0noneavif") == "it is not an image that can be read, or it is corrupt"
    assert _reason(b"\0\0\0\x14ftypnone\0\0\0\0avif") == f"the AVIF {CORRUPT}"


def test_images_of_other_kinds_that_opencv_reads_are_refused() -> None:
    grey, scene = np.ones((2, 3), "<f4"), np.ones((2, 3, 4), np.uint8)
    either = "PNG or JPEG"
    for data, what in (
        (b"Pf\n3 2\n-1\n" + grey.tobytes(), "a PFM image"),
        (b"PF\n3 2\n-1\n" + np.dstack([grey] * 3).tobytes(), "a PFM image"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 2 +X 3\n" + scene.tobytes(), "a Radiance HDR image"),
        (b"P7\nWIDTH 3\nHEIGHT 2\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n" + scene.tobytes(), "a PAM image"),
        (struct.pack(">8I", 0x59A66A95, 3, 2, 32, 24, 1, 0, 0) + scene.tobytes(), "a Sun raster image"),
    ):
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) is not None
        assert _reason(data) == _refused(what, either)


@pytest.mark.parametrize("found", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_what_is_not_rgb_of_8_bits_is_refused(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    data = _save(Image.fromarray(_scene()), "JPEG")
    monkeypatch.setattr(cv2, "imdecode", lambda *_: found)
    assert _reason(data) == "it does not become RGB of 8 bits: convert it to PNG or JPEG"


def test_model_keras_is_compared_at_the_levels_of_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from job.inference import export

    seen: list[float] = []
    monkeypatch.setattr(export.keras.models, "load_model", lambda *_, **__: lambda batch: seen.append(batch.max()) or np.zeros((1, 1)))
    original = _deep(".png", _ramp(4095, 1))
    assert "over 1 images" in export.apart(tmp_path, [(original, 0.0)], AUTO)
    assert "over 1 images" in export.apart(tmp_path, [(original, 0.0)])
    assert seen == [255, 15]


def test_store_gives_the_jpeg_of_the_levels() -> None:
    data = _deep(".png", _ramp(4095, 3))
    assert store(data, 32, AUTO).jpeg == stored(data, 32, AUTO) == encode(reduce(decode(data, AUTO), 32))
    assert stored(data, 32) == stored(data, 32, FULL) != stored(data, 32, AUTO)


def test_a_jpeg_is_decoded_once_and_nothing_else_is_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *of: calls.append(of[1]) or real(*of))
    monkeypatch.setattr(cv2, "imdecodeWithMetadata", lambda *_: pytest.fail("a JPEG holds no alpha"))
    assert not store(_save(Image.fromarray(_scene()), "JPEG"), 16, AUTO).dim
    assert calls == [cv2.IMREAD_COLOR_RGB]


def test_levels_are_parsed() -> None:
    assert levels.parse("full") == levels.parse("0:65535") == FULL == Levels(0, 65535)
    assert levels.parse("auto") == AUTO != FULL
    assert levels.parse("100:4095") == Levels(100, 4095)


@pytest.mark.parametrize("text", ["", "off", "12", "1:2:3", "a:b", "-1:5", "1.5:9", "5:", ":5", " 1:5", "1:5\n", "\u0661:9", "Full"])
def test_levels_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^--levels: .* is not full, auto or MIN:MAX; give two whole numbers from 0 to 65,535"):
        levels.parse(text)


def test_levels_out_of_range_are_refused() -> None:
    for text in ("5:5", "9:5"):
        with pytest.raises(UserError, match=f"^--levels: {text} has a MIN that is not below its MAX; give the smaller value first"):
            levels.parse(text)
    with pytest.raises(UserError, match=r"^--levels: 7:65536 ends above 65,535, the largest value of 16 bits; use 7:65535$"):
        levels.parse("7:65536")


def test_no_line_of_a_decoder_reaches_the_terminal(tmp_path: Path) -> None:
    source = tmp_path / "pets"
    for name in ("cats", "dogs"):
        (source / name).mkdir(parents=True)
        for k in range(3):
            (source / name / f"{k}.png").write_bytes(_save(Image.fromarray(RNG.integers(0, 256, (16, 16, 3), np.uint8)), "PNG"))
    noisy = Image.fromarray(RNG.integers(0, 256, (48, 48, 3), np.uint8))
    for kind in ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "AVIF", "JPEG2000"):
        data = _save(noisy, kind, **({"compression": "tiff_lzw"} if kind == "TIFF" else {}))
        for share in (0.1, 0.5, 0.9):
            (source / "cats" / f"cut-{share}-{kind}.jpg").write_bytes(data[: int(share * len(data))])
            at = int(share * len(data))
            (source / "dogs" / f"bad-{share}-{kind}.jpg").write_bytes(data[:at] + bytes(30) + data[at + 30 :])
    (source / "cats" / "wide.png").write_bytes(_claims("PNG", 1_000_001, 1))
    argv = [sys.executable, "-m", "job.cli", "prepare", source, "--out", tmp_path / "out", "--val", "0", "--max-bad", "1"]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(argv, cwd=root, env=os.environ | {"OPENCV_LOG_LEVEL": "WARNING"}, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.returncode == 0
    starts = ("listing ", "preparing ", "classes: ", "read ", "train: ", "excluded: ", "positive class: ")
    assert [line for line in done.stdout.splitlines() if not line.startswith(starts)] == []
    assert "cannot be read" in done.stdout
