"""Decoding and resizing against what Caffe and OpenCV's documented rules give."""

import io

import numpy as np
import pytest
from PIL import Image

from caffeinit.errors import ImagesError
from caffeinit.images import Preprocessing, decode, read_images
from caffeinit.images.resize import centre, grey_of_bgr, resize_bilinear
from tests.conftest import shared

GOLDEN = {
    "warp227": Preprocessing(),
    "crop": Preprocessing(resize_to=(256, 256), crop=227),
    "mean": Preprocessing(mean=[104, 117, 123], scale=0.5),
}


def encoded(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None, **options: object) -> io.BytesIO:
    image = Image.fromarray(pixels)
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, kind, **options)
    stream.seek(0)
    return stream


def random_rgb(height: int = 6, width: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth_rgb(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    planes = [255 * y / height, 255 * x / width, 127 + 100 * np.sin(x / width * 6)]
    return np.stack(planes, -1).astype(np.uint8)


@pytest.mark.parametrize("kind", GOLDEN)
def test_agrees_with_caffes_image_data_layer(kind: str) -> None:
    golden = np.load(shared("golden", "images", "imagedata.npz"))
    for key in (k for k in golden.files if k.startswith(kind + "/")):
        path = shared("images", "imagenet160", key.split("/")[1])
        (batch,) = read_images({"data": (1, 3, 227, 227)}, path, preprocessing=GOLDEN[kind])
        found = batch["data"][0]
        # JPEG decoders differ by rounding; with the one that Pillow carries today the difference is 0.
        found = found.mean((1, 2)) if kind == "mean" else found
        assert np.abs(found - golden[key].astype(np.float32)).mean() < 0.5


@pytest.mark.parametrize("size", [(3, 4), (6, 9), (12, 5), (1, 1), (40, 31)])
def test_resizing_is_bilinear_between_pixel_centres(size: tuple[int, int]) -> None:
    pixels = random_rgb()

    def taps(old: int, new: int) -> np.ndarray:
        where = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
        return np.maximum(0, 1 - np.abs(where[:, None] - np.arange(old)))

    exact = np.einsum("yh,xw,hwc->yxc", taps(6, size[0]), taps(9, size[1]), pixels)
    # 11-bit weights and one rounding: at most a grey level.
    assert np.abs(resize_bilinear(pixels, *size) - exact).max() <= 1


def test_resizing_to_half_averages_four_pixels() -> None:
    pixels = random_rgb(8, 12)
    four = pixels.reshape(4, 2, 6, 2, 3).astype(int).sum((1, 3))
    np.testing.assert_array_equal(resize_bilinear(pixels, 4, 6), (four + 2) >> 2)


def test_resizing_keeps_a_flat_colour_and_the_same_size() -> None:
    flat = np.full((5, 7, 3), 201, np.uint8)
    assert (resize_bilinear(flat, 11, 3) == 201).all()
    assert resize_bilinear(flat, 5, 7) is flat


def test_the_centre_is_caffes() -> None:
    assert centre(256, 227) == slice(14, 241)
    assert centre(6, 6) == slice(0, 6)


def test_channels_are_bgr_and_grey_weighs_them() -> None:
    rgb = random_rgb()
    found = decode.decode(encoded(rgb)).pixels
    np.testing.assert_array_equal(found, rgb[..., ::-1])
    weighed = rgb.astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(grey_of_bgr(found)[..., 0] - weighed).max() <= 0.51
    assert np.abs(decode.decode(encoded(rgb), grey=True).pixels[..., 0] - weighed).max() <= 0.51


KINDS = [
    # (name, what Pillow writes, what is read back as one pixel in BGR or grey)
    ("grey", Image.new("L", (2, 3), 77), [77]),
    ("bilevel", Image.new("1", (2, 3), 1), [255]),
    ("grey with alpha", Image.new("LA", (2, 3), (77, 0)), [77]),
    ("alpha is dropped, not blended", Image.new("RGBA", (2, 3), (10, 20, 30, 0)), [30, 20, 10]),
    ("palette", Image.new("RGB", (2, 3), (10, 20, 30)).quantize(4), [30, 20, 10]),
    ("16 bits keep the high byte", Image.fromarray(np.full((3, 2), 0x4DFF, np.uint16)), [0x4D]),
]


@pytest.mark.parametrize(("name", "image", "pixel"), KINDS, ids=[k[0] for k in KINDS])
def test_kinds_of_png(name: str, image: Image.Image, pixel: list[int]) -> None:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    stream.seek(0)
    found = decode.decode(stream).pixels
    assert found.shape == (3, 2, len(pixel))
    assert (found == pixel).all()


def test_cmyk_becomes_bgr() -> None:
    stream = encoded(smooth_rgb(32, 32), "JPEG", "CMYK", quality=95)
    assert np.abs(decode.decode(stream).pixels[..., ::-1].astype(int) - smooth_rgb(32, 32)).mean() < 4


def test_32_bit_samples_are_refused() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.ones((3, 2), np.float32)).save(stream, "TIFF")
    stream.seek(0)
    with pytest.raises(ImagesError, match="32-bit samples"):
        decode.decode(stream)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgb = random_rgb()
    stream = encoded(rgb, exif=exif)
    turns = {
        1: rgb, 2: rgb[:, ::-1], 3: rgb[::-1, ::-1], 4: rgb[::-1], 5: rgb.swapaxes(0, 1), 6: np.rot90(rgb, -1),
        7: rgb[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(rgb),
    }  # fmt: skip
    found = decode.decode(stream)
    np.testing.assert_array_equal(found.pixels[..., ::-1], turns[orientation])
    assert found.size == turns[orientation].shape[:2]


def test_draft_mode_keeps_twice_the_target_and_only_for_large_jpegs() -> None:
    large = encoded(smooth_rgb(1600, 2000), "JPEG")
    found = decode.decode(large, target=lambda size: (100, 110), draft=True)
    assert found.size == (1600, 2000)
    assert found.pixels.shape == (200, 250, 3)
    large.seek(0)
    assert decode.decode(large, target=lambda size: (401, 300), draft=True).pixels.shape == (1600, 2000, 3)
    large.seek(0)
    assert decode.decode(large, target=lambda size: (100, 110)).pixels.shape == (1600, 2000, 3)  # unless asked for
    small = encoded(smooth_rgb(600, 800), "JPEG")
    assert decode.decode(small, target=lambda size: (20, 20), draft=True).pixels.shape == (600, 800, 3)


def test_what_is_too_large_to_be_held_is_always_decoded_smaller(monkeypatch) -> None:
    monkeypatch.setattr(decode, "MAX_DECODED", 1600 * 2000 - 1)
    found = decode.decode(encoded(smooth_rgb(1600, 2000), "JPEG"), target=lambda size: (100, 110))
    assert found.pixels.shape == (200, 250, 3)


def test_draft_mode_gives_nearly_the_same_of_a_smooth_picture_and_is_off_unless_asked_for(tmp_path) -> None:
    encoded_bytes = encoded(smooth_rgb(1600, 2000), "JPEG", quality=95).getvalue()
    (tmp_path / "a.jpg").write_bytes(encoded_bytes)
    read = lambda **how: next(iter(read_images({"data": (1, 3, 50, 60)}, tmp_path, **how)))["data"][0]  # noqa: E731
    drafted, exact = read(preprocessing=Preprocessing(draft=True)), read()
    assert 0 < np.abs(drafted - exact).max() <= 3  # JPEG's rounding in both; the picture has no texture to lose
    whole = decode.decode(io.BytesIO(encoded_bytes)).pixels
    np.testing.assert_array_equal(exact, resize_bilinear(whole, 50, 60).transpose(2, 0, 1))


def bomb(width: int, height: int) -> bytes:
    """Return a PNG whose header claims more pixels than it holds."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


PNG = encoded(random_rgb()).getvalue()
DAMAGED = [
    ("empty", b"", "empty file"),
    ("text", b"hello there, this is no picture", "not a picture"),
    ("postscript runs programs", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ("bomb", bomb(60000, 60000), "too large"),
    ("smaller bomb", bomb(11000, 11000), "too large to decode"),
    ("claims more than it has", bomb(500, 500), "."),
    ("cut in the header", PNG[:20], "."),
    ("cut in the data", PNG[: len(PNG) // 2], "."),
]


@pytest.mark.parametrize(("name", "data", "reason"), DAMAGED, ids=[d[0] for d in DAMAGED])
def test_damaged_and_foreign_files_have_a_reason(name: str, data: bytes, reason: str) -> None:
    with pytest.raises(ImagesError, match=reason):
        decode.decode(io.BytesIO(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"])
def test_random_damage_gives_pixels_or_a_reason(kind: str) -> None:
    good = encoded(random_rgb(40, 30), kind).getvalue()
    rng = np.random.default_rng(1)
    reasons = []
    for _ in range(60):
        bad = bytearray(good[: rng.integers(1, len(good) + 1)] if rng.random() < 0.5 else good)
        for _ in range(rng.integers(1, 8)):
            bad[rng.integers(len(bad))] = rng.integers(256)
        try:
            assert decode.decode(io.BytesIO(bytes(bad))).pixels.dtype == np.uint8
        except ImagesError as error:
            reasons.append(str(error))
    assert len(reasons) > 5
    assert all(reasons)
