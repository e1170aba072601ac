"""Small pictures that the tests of this folder write."""

from pathlib import Path

import numpy as np
from PIL import Image

SHAPES = {"data": (1, 3, 6, 8)}


def flat(value: int, height: int = 6, width: int = 8) -> np.ndarray:
    """Return an RGB picture that is `value` everywhere but for one dark corner."""
    pixels = np.full((height, width, 3), value, np.uint8)
    pixels[0, 0] = 0
    return pixels


def write(path: Path, value: int) -> Path:
    """Write `flat(value)` as a file of the kind that the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(flat(value)).save(path)
    return path


def values_of(calibration: object) -> list[int]:
    """Return what `flat` was called with for each picture of a calibration set of one input."""
    return [int(row[0, -1, -1]) for batch in calibration for row in next(iter(batch.values()))]
