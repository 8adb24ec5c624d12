"""Pixels, with Pillow as the second opinion: what decodes, how, and what is refused with which reason."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from job.data.pixels import Undecodable, decode, encode, reduce, square, squeeze, stored

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


def test_reasons() -> None:
    assert _reason(b"") == "the file is empty"
    for brand in (b"heic", b"mif1", b"hevc"):
        assert _reason(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0rest") == (
            "HEIC is not supported: convert it to JPEG (heif-convert, or the phone's 'most compatible')"
        )
    assert _reason(b"<!DOCTYPE html><html>404</html>") == "it is a web page, not an image"
    assert _reason(b"<html>") == "it is a web page, not an image"
    assert _reason(b"just text") == "it is not an image that can be read, or it is corrupt"


def _png_of(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_an_image_that_claims_to_be_enormous_is_refused_without_taking_the_memory() -> None:
    assert _reason(_png_of(1_000_000, 1_000_000))
    assert _reason(_png_of(0, 5))


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(
        [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8 ", b"BM", b"II*\0", b"\0\0\0\x18ftypavif"]
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
        assert (found.shape[0] >= found.shape[1]) == (height >= width) or height == width


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
