"""Resizes 8-bit pictures as OpenCV's `resize` does by default, bit for bit.

Bilinear between pixel centres, no anti-aliasing: shrinking skips pixels, as it did when the nets were trained. OpenCV
computes in fixed point: weights of 11 bits, 4 bits dropped after the horizontal step, 16 after the vertical, then
rounded by 2. The test data's pictures resized by Caffe come out equal in every byte.
"""

from __future__ import annotations

import numpy as np

_ONE = 2048  # OpenCV's INTER_RESIZE_COEF_SCALE
Array = np.ndarray


def resize_bilinear(pixels: Array, height: int, width: int) -> Array:
    """Return a picture in another size.

    Args:
        pixels: (H, W, C) uint8.
        height, width: new extents in pixels, at least 1.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    channels = pixels.shape[2]
    top, bottom, weight_top, weight_bottom = _taps(pixels.shape[0], height)
    left, right, weight_left, weight_right = _taps(pixels.shape[1], width)
    rows, place = np.unique(np.concatenate([top, bottom]), return_inverse=True)
    flat = pixels.reshape(len(pixels), -1)
    flat = flat if len(rows) == len(pixels) else flat[rows]
    across = np.arange(channels)
    line = flat.take((left[:, None] * channels + across).ravel(), axis=1).astype(np.int32)
    line *= np.repeat(weight_left, channels)
    other = flat.take((right[:, None] * channels + across).ravel(), axis=1).astype(np.int32)
    other *= np.repeat(weight_right, channels)
    line += other
    line >>= 4
    out = line.take(place[:height], axis=0)
    out *= weight_top[:, None]
    out >>= 16
    other = line.take(place[height:], axis=0)
    other *= weight_bottom[:, None]
    other >>= 16
    out += other
    out += 2
    out >>= 2
    resized: np.ndarray = out.astype(np.uint8).reshape(height, width, channels)
    return resized


def _taps(old: int, new: int) -> tuple[Array, Array, Array, Array]:
    """Return for each new position the two old ones that it lies between, and their weights."""
    # In double, then float32, in OpenCV's order: the weights' last bit depends on it.
    where = ((np.arange(new) + 0.5) * (1.0 / (new / old)) - 0.5).astype(np.float32)
    first = np.floor(where).astype(np.int64)
    part = where - first.astype(np.float32)
    outside = (first < 0) | (first >= old - 1)
    part[outside] = 0
    first = first.clip(0, old - 1)
    second = np.minimum(first + 1, old - 1)
    return first, second, _fixed(1 - part), _fixed(part)


def _fixed(weights: Array) -> Array:
    return np.rint(weights * np.float32(_ONE)).astype(np.int32)


def centre(old: int, new: int) -> slice:
    """Return the middle `new` of `old` pixels as Caffe's TEST phase crops: the odd pixel is dropped at the far end."""
    start = (old - new) // 2
    return slice(start, start + new)


def grey_of_bgr(pixels: Array) -> Array:
    """Return OpenCV's grey of (H, W, 3) uint8 BGR pixels, (H, W, 1) uint8."""
    blue, green, red = (pixels[..., i].astype(np.int32) for i in range(3))
    return ((1868 * blue + 9617 * green + 4899 * red + 8192) >> 14).astype(np.uint8)[..., None]
