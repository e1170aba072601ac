"""PriorBox: the default boxes of single-shot detectors, constants that follow from the extents of two blobs.

Source: weiliu89/caffe (branch ssd), src/caffe/layers/prior_box_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from caffeinit.caffe.layers.base import Layer, LayerType, ParamGraph, layer_type
from caffeinit.errors import LayerError
from caffeinit.graph import Shape


@layer_type("PriorBox")
class PriorBox(LayerType):
    """Boxes around the centre of each place of the first bottom, relative to the size of the second, the picture."""

    axis_0 = "none"
    num_bottoms = (2, 2)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return (1, 2, 4 * boxes): the boxes' corners, then their variances."""
        if any(len(b) != 4 for b in bottoms):
            raise LayerError(f"needs two bottoms (N, C, H, W), got {', '.join(map(str, bottoms))}")
        places = bottoms[0][2] * bottoms[0][3]
        return [(1, 2, 4 * places * len(box_sizes(layer)))]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Return the boxes as a constant."""
        data, picture = (graph.shape(b) for b in bottoms)
        return [graph.constant(prior_boxes(layer, data[2:], picture[2:]))]


def box_sizes(layer: Layer) -> list[tuple[float, float]]:
    """Return (width, height) of each box at one place, in pixels and in Caffe's order."""
    p = layer.prior_box_param
    if not p.min_size:
        raise LayerError("min_size is not given")
    if min(p.min_size) <= 0:
        raise LayerError(f"min_size is {min(p.min_size):g}, must be above 0")
    if p.max_size and len(p.max_size) != len(p.min_size):
        raise LayerError(f"{len(p.max_size)} max_size for {len(p.min_size)} min_size")
    ratios = [1.0]
    for given in p.aspect_ratio:
        if given <= 0:
            raise LayerError(f"aspect_ratio is {given}, must be above 0")
        if any(abs(given - known) < 1e-6 for known in ratios):
            continue
        ratios += [given, 1.0 / given] if p.flip else [given]
    sizes = []
    for index, given in enumerate(p.min_size):
        least = int(given)  # Caffe keeps it in an int
        sizes.append((float(least), float(least)))
        if p.max_size:
            if p.max_size[index] <= given:
                raise LayerError(f"max_size {p.max_size[index]:g} is not above min_size {given:g}")
            most = int(p.max_size[index])
            sizes.append((float(np.sqrt(least * most)),) * 2)
        sizes += [(least * np.sqrt(r), least / np.sqrt(r)) for r in ratios if abs(r - 1) >= 1e-6]
    return sizes


def prior_boxes(layer: Layer, places: Shape, picture: Shape) -> np.ndarray:
    """Return (1, 2, 4 * boxes) for (h, w) places and a picture of (h, w) pixels."""
    p = layer.prior_box_param
    height, width = (int(v) for v in _stated(p, "img_size", "img_h", "img_w") or picture)
    step_h, step_w = _stated(p, "step", "step_h", "step_w") or (height / places[0], width / places[1])
    sizes = np.asarray(box_sizes(layer), np.float64)
    centre_x = ((np.arange(places[1]) + p.offset) * step_w)[None, :, None]
    centre_y = ((np.arange(places[0]) + p.offset) * step_h)[:, None, None]
    boxes = np.empty((*places, len(sizes), 4))
    boxes[..., 0] = (centre_x - sizes[:, 0] / 2) / width
    boxes[..., 1] = (centre_y - sizes[:, 1] / 2) / height
    boxes[..., 2] = (centre_x + sizes[:, 0] / 2) / width
    boxes[..., 3] = (centre_y + sizes[:, 1] / 2) / height
    if p.clip:
        boxes = np.clip(boxes, 0, 1)
    return np.stack([boxes.reshape(-1), np.resize(_variances(p.variance), boxes.size)])[None].astype(np.float32)


def _stated(p: Any, both: str, height: str, width: str) -> tuple[float, float] | None:
    """Return a number for h and w, given as one or as two; None where there is none."""
    sides = [name for name in (height, width) if p.HasField(name)]
    names = [name for name in (both, *sides) if p.HasField(name)]
    if not names:
        return None
    if len(sides) == 1 or len(names) == 3:
        raise LayerError(f"gives {' and '.join(names)}; there must be {both} alone, or {height} and {width}")
    if min(getattr(p, name) for name in names) <= 0:
        raise LayerError(f"{' and '.join(names)} must be above 0")
    return getattr(p, names[0]), getattr(p, names[-1])


def _variances(given: Sequence[float]) -> list[float]:
    if len(given) not in (0, 1, 4):
        raise LayerError(f"{len(given)} variances; there must be one or four")
    if min(given, default=1) <= 0:
        raise LayerError(f"variance is {min(given):g}, must be above 0")
    return list(given) or [0.1]
