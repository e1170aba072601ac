"""Decodes picture files with Pillow into the pixels that OpenCV's `imread`, and so Caffe's ImageData layer, gives.

Of the many kinds of pictures, these rules hold, `imread`'s own: a grey file stays one channel until the net asks for
three; a palette is looked up; an alpha channel is dropped, not blended; CMYK becomes RGB; of 16-bit samples the high
byte is used; of an animation the first picture; the EXIF orientation is applied. 32-bit samples have no such rule and
are refused.

All of a picture is decoded, so that resizing finds the pixels that OpenCV's would. On demand (`draft`) a JPEG of 2
megapixels or more, at least four times larger each way than what is asked for, is decoded at 1/2, 1/4 or 1/8 (Pillow's
draft mode), keeping at least twice what is asked for; one too large to be held decoded always is. Its pixels are then
averages where OpenCV's resizing picks single ones, so they lack some noise and fine texture. Measured on 160 photographs
shrunk from half a megapixel to 64 and 32 pixels: pixels differ by 4 and 8 grey levels on average, a channel's mean over
all pictures by 0.02 and 0.2, its standard deviation is 1 and 4 % smaller. `tools/bench_pictures.py` tells what it saves.
"""

from __future__ import annotations

import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import PIL
from PIL import (  # noqa: F401  the plugins register what they read, before threads ask for it
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from caffeinit.errors import ImagesError
from caffeinit.printing import printable

MAX_PIXELS = 1 << 27  # 134 megapixels: larger ones are taken for decompression bombs
MAX_DECODED = 1 << 26  # pixels that may be held decoded, 200 MB of colour; draft mode brings a large JPEG below it
DRAFT_PIXELS = 2_000_000
_STRIP = 1 << 20  # pixels that are taken from Pillow at once
# No format that runs a program (EPS) or that OpenCV does not read either.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "PPM", "TIFF", "GIF", "WEBP", "JPEG2000")
# What Pillow's decoders raise on damaged files, found by feeding them such.
DECODING_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError,
    MemoryError, struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
_opening = threading.Lock()
Size = tuple[int, int]  # height, width
# How to turn pixels upright for each EXIF orientation: swap axes, flip rows, flip columns.
_UPRIGHT = {
    2: (False, False, True), 3: (False, True, True), 4: (False, True, False), 5: (True, False, False),
    6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}  # fmt: skip


@dataclass(frozen=True)
class Decoded:
    """Pixels (H, W, 1 or 3), uint8, BGR; `size` is the file's own (height, width), upright, before any draft."""

    pixels: np.ndarray
    size: Size


def check_header(stream: BinaryIO) -> int:
    """Read as much as tells the kind and size of a picture; return how many pixels it has.

    Raises:
        ImagesError: not a picture, empty, or too large.
    """
    try:
        image = _open(stream)
        return image.width * image.height
    except DECODING_ERRORS as error:
        raise ImagesError(_reason(error)) from error


def read_shape(stream: BinaryIO) -> tuple[int, int, int]:
    """Return (channels, height, width) of the pixels that `decode` would give, from the header alone.

    Raises:
        ImagesError: not a picture, empty, or too large.
    """
    try:
        image = _open(stream)
        swapped = _UPRIGHT.get(_orientation(image), (False, False, False))[0]
        height, width = image.size if swapped else image.size[::-1]
        return 1 if _is_grey(image) else 3, height, width
    except DECODING_ERRORS as error:
        raise ImagesError(_reason(error)) from error


def decode(
    stream: BinaryIO, grey: bool = False, target: Callable[[Size], Size] | None = None, draft: bool = False
) -> Decoded:
    """Decode one picture.

    Args:
        stream: an open file.
        grey: give one channel; a JPEG's own luminance, as `imread` does.
        target: tells for a size (height, width) what it will be resized to; without it nothing is decoded smaller.
        draft: decode large JPEGs smaller, see the module.
    Raises:
        ImagesError: damaged, or of a kind without a rule; the message is the reason alone.
    """
    try:
        image = _open(stream)
        turn = _UPRIGHT.get(_orientation(image), (False, False, False))
        size = (image.width, image.height) if turn[0] else (image.height, image.width)
        _draft(image, grey, target(size) if target else size, turn[0], DRAFT_PIXELS if draft else MAX_DECODED + 1)
        if image.width * image.height > MAX_DECODED:
            raise ImagesError(f"too large to decode ({image.width} x {image.height} pixels)")
        if _has_16_bits(image):
            pixels = (np.asarray(image).astype(np.uint16, copy=False) >> 8).astype(np.uint8)[..., None]
        else:
            image = _in_bytes(image, grey)  # what was converted goes before the pixels are taken
            pixels = _pixels(image)
        del image
        return Decoded(_upright(pixels, turn), size)
    except DECODING_ERRORS as error:
        raise ImagesError(_reason(error)) from error


def _open(stream: BinaryIO) -> Image.Image:
    if not stream.read(1):
        raise ImagesError("an empty file")
    stream.seek(0)
    # Pillow warns of large pictures by itself; what is too large is ours to say. The filters are the whole process's.
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(stream, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise ImagesError(f"too large: {image.width} x {image.height} pixels may be a decompression bomb")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        with _opening, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(image.getexif().get(0x0112, 1))
    except DECODING_ERRORS:  # a damaged EXIF block says nothing about the pixels; imread ignores it too
        return 1


def _draft(image: Image.Image, grey: bool, target: Size, swapped: bool, least: int) -> None:
    height, width = target[::-1] if swapped else target
    large = image.width * image.height >= least and image.width >= 4 * width and image.height >= 4 * height
    mode = "L" if grey and image.mode == "RGB" else None
    if image.format in ("JPEG", "MPO") and (large or mode):
        size = (2 * width, 2 * height) if large else image.size
        image.draft(mode, size)


def _in_bytes(image: Image.Image, grey: bool) -> Image.Image:
    """Return a picture in bytes, grey or RGB; the same one if it is that."""
    if image.mode in ("I", "F"):
        raise ImagesError(f"32-bit samples (Pillow's mode {image.mode}): give such data as a .npy array")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # with its alpha, which the next conversion drops
    wanted = "L" if grey or _is_grey(image) else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def _pixels(image: Image.Image) -> np.ndarray:
    """Return (H, W, 1 or 3) BGR pixels as they lie in the file, contiguous."""
    pixels = np.empty((image.height, image.width, 1 if image.mode == "L" else 3), np.uint8)
    rows = max(1, _STRIP // max(image.width, 1))
    for top in range(0, image.height, rows):  # Pillow hands pixels out as two more copies of what it is asked for
        strip = image if rows >= image.height else image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = np.asarray(strip).reshape(-1, *pixels.shape[1:])[..., ::-1]
    return pixels


def _has_16_bits(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "La") or _has_16_bits(image)


def _upright(pixels: np.ndarray, turn: tuple[bool, bool, bool]) -> np.ndarray:
    swap, rows, columns = turn
    pixels = pixels.swapaxes(0, 1) if swap else pixels
    return np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])


def _reason(error: BaseException) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return "not a picture of a known kind"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "too large: may be a decompression bomb"
    return printable(" ".join(str(error).split())) or type(error).__name__
