"""A picture of convolution filters: one tile each, in the order of the channels, for a person to judge.

Filters of three input channels are drawn in colour, others one tile per filter in grey, taken over all their input
channels side by side up to a limit. Zero is the same mid grey everywhere, so that what a filter likes is brighter and
what it dislikes darker than the ground, and the largest magnitude, of the filter or of them all, is full contrast.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from os import PathLike, fspath
from pathlib import Path
from typing import Literal

import numpy as np

from caffeinit.errors import CaffeinitError, OptionError
from caffeinit.graph.units import Unit
from caffeinit.storage.files import replacing

Scaling = Literal["filter", "all"]

GROUND = 128  # of zero weights
GAP = 255  # of the lines between tiles
LEAST_SIDE = 600  # pixels: small mosaics are enlarged to about so much
LARGEST_ZOOM = 16
MAX_CHANNELS = 16  # input channels shown of a filter that is not in colour


def draw_mosaic(
    weight: np.ndarray, *, scaling: Scaling = "filter", bgr: bool = True, zoom: int | None = None, clear: bool = False
) -> np.ndarray:
    """Return filters as a picture, uint8 (height, width, 3), red first; with opacity as a fourth channel if `clear`.

    Args:
        weight: (O, I, kH, kW); (O, I, kW) counts as one row high, and (O, I) as 1x1 kernels.
        scaling: full contrast is each filter's own largest magnitude, or the largest of all.
        bgr: three input channels are blue, green, red, as Caffe's pictures are.
        zoom: pixels per weight; None chooses what makes the picture big enough to look at.
        clear: let the lines between tiles be transparent, for a ground of any colour.
    """
    kernels = _contrast(_planar(weight), scaling)
    tiles = _colour_tiles(kernels, bgr) if kernels.shape[1] == 3 else _grey_tiles(kernels)
    height, width = tiles.shape[1:3]
    columns = _columns(len(tiles), height, width)
    rows = math.ceil(len(tiles) / columns)
    if zoom is None:
        zoom = min(max(1, LEAST_SIDE // max(rows * height, columns * width)), LARGEST_ZOOM)
    tiles = tiles.repeat(zoom, axis=1).repeat(zoom, axis=2)
    picture = _lay_out(tiles, rows, columns, gap=max(1, zoom // 2))
    return picture if clear else np.where(picture[..., 3:] == 0, np.uint8(GAP), picture[..., :3])


def save_mosaic(weight: np.ndarray, path: str | Path, *, scaling: Scaling = "filter", bgr: bool = True) -> None:
    """Write `draw_mosaic` of a weight as PNG."""
    from PIL import Image  # only who wants pictures pays for the import

    Image.fromarray(draw_mosaic(weight, scaling=scaling, bgr=bgr)).save(path, format="PNG")


def _planar(weight: np.ndarray) -> np.ndarray:
    """Return (O, I, kH, kW), finite float32, of a weight with fewer or more than two spatial axes."""
    outputs, inputs, *kernel = weight.shape
    rows = math.prod(kernel[:-1])
    planar = weight.reshape(outputs, inputs, rows, kernel[-1] if kernel else 1)
    return np.nan_to_num(planar.astype(np.float32, copy=False), nan=0.0, posinf=0.0, neginf=0.0)


def _contrast(kernels: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Return uint8 kernels with zero at mid grey and the largest magnitude at full contrast."""
    axes = (1, 2, 3) if scaling == "filter" else None
    largest = np.abs(kernels).max(axis=axes, keepdims=True)
    scaled = kernels / np.where(largest > 0, largest, 1)
    return np.rint(GROUND + 127 * scaled).astype(np.uint8)


def _colour_tiles(kernels: np.ndarray, bgr: bool) -> np.ndarray:
    """Return (O, kH, kW, 4)."""
    return _opaque(kernels[:, :: -1 if bgr else 1].transpose(0, 2, 3, 1))


def _grey_tiles(kernels: np.ndarray) -> np.ndarray:
    """Return (O, kH, I * kW and gaps, 4): a filter's input channels side by side."""
    shown = _opaque(kernels[:, :MAX_CHANNELS, ..., None].repeat(3, axis=4))
    if shown.shape[1] > 1:
        shown = np.pad(shown, ((0, 0), (0, 0), (0, 0), (0, 1), (0, 0)))
    outputs, channels, height, width, _ = shown.shape
    strip = shown.transpose(0, 2, 1, 3, 4).reshape(outputs, height, channels * width, 4)
    return strip[:, :, :-1] if channels > 1 else strip


def _opaque(colours: np.ndarray) -> np.ndarray:
    """Return red, green and blue on the last axis with full opacity behind them."""
    return np.concatenate([colours, np.full_like(colours[..., :1], 255)], axis=-1)


def _columns(count: int, height: int, width: int) -> int:
    """Return how many tiles to a row make the mosaic about square."""
    return min(count, max(1, round(math.sqrt(count * (height + 1) / (width + 1)))))


def _lay_out(tiles: np.ndarray, rows: int, columns: int, gap: int) -> np.ndarray:
    """Return one picture of tiles (O, h, w, 4) with clear lines around each."""
    count, height, width, _ = tiles.shape
    canvas = np.zeros((rows * (height + gap) + gap, columns * (width + gap) + gap, 4), np.uint8)
    for index in range(count):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = tiles[index]
    return canvas


def save_filters(
    units: Iterable[Unit], path: str | PathLike[str], force: bool = False, channels: str | None = None
) -> str:
    """Draw the first convolution's filters as a mosaic; return a sentence that says which, and how colours were taken.

    Args:
        channels: the order of three input channels, "bgr" or "rgb"; None for that in which pictures are fed by default.
    Raises:
        CaffeinitError: there is no convolution with windows. OutputError: the picture cannot be written.
    """
    check_filters(units, path)
    name, weight = _known_filters(units)
    with replacing(path, force) as temporary:
        save_mosaic(weight, temporary, bgr=is_bgr(channels))
    order = f", {colour_order(channels)}" if weight.shape[1] == 3 else ""
    return f"drew the {len(weight)} filters of {name} to {path}{order}"


def check_filters(units: Iterable[Unit], path: str | PathLike[str]) -> None:
    """Refuse a net whose filters cannot be drawn, and a file that says that it is no PNG.

    Raises:
        CaffeinitError: there is no convolution with windows.
        OptionError: the name ends in another form's.
    """
    check_filters_name(path)
    _known_filters(units)


def check_filters_name(path: str | PathLike[str]) -> None:
    """Refuse a file that says that it is no PNG.

    Raises:
        OptionError: the name ends in another form's.
    """
    if Path(path).suffix.lower() not in ("", ".png"):
        raise OptionError(f"--filters {fspath(path)}: what is drawn is a PNG picture; give it a name that ends in .png")


def check_drawn(units: Iterable[Unit], path: str | PathLike[str]) -> None:
    """Refuse filters that are all zero, as those are that a weights file does not hold: a picture of them shows nothing.

    Raises:
        CaffeinitError: they are.
    """
    name, weight = _known_filters(units)
    if not weight.any():
        raise CaffeinitError(f"--filters {fspath(path)}: all weights of {name} are 0, and no picture is drawn of them")


def _known_filters(units: Iterable[Unit]) -> tuple[str, np.ndarray]:
    found = first_filters(units)
    if found is None:
        raise CaffeinitError("the net has no convolution with windows whose filters could be drawn")
    return found


def is_bgr(channels: str | None) -> bool:
    """Tell whether three channels are blue, green, red, as they are unless another order is asked for."""
    return channels != "rgb"


def colour_order(channels: str | None) -> str:
    """Return in words how three input channels are taken."""
    if channels is None:
        return "its input channels taken as blue, green, red (--channels rgb for red first)"
    return f"its input channels taken as {'blue, green, red' if is_bgr(channels) else 'red, green, blue'}"


def first_filters(units: Iterable[Unit]) -> tuple[str, np.ndarray] | None:
    """Return the name and weight, (O, I/group, kH, kW), of the first convolution with windows; None if there is none."""
    for unit in units:
        if unit.kind == "affine" and unit.weight is not None and unit.weight.ndim == 5 and unit.weight.shape[3] > 1:
            return unit.name, unit.weight.reshape(-1, *unit.weight.shape[2:])
    return None
