"""Resize: a linear map that is a product of one matrix per axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from caffeinit.errors import GradientError
from caffeinit.graph import Graph, attribute
from caffeinit.graph.rules import Diffs, OpRule, op_rule
from caffeinit.ops.base import rewritten, single
from caffeinit.ops.building import along_axis, constant_of
from caffeinit.ops.shape import rest_none

if TYPE_CHECKING:
    from caffeinit.scales.walk import Scales

_REGION = "tf_crop_and_resize"


@op_rule("Resize", "Upsample")
class Resize(OpRule):
    """y = x sampled at other places, by the nearest value, linearly or cubically; up to opset 9 called Upsample."""

    def scale(self, node: onnx.NodeProto, scales: Scales) -> None:
        """Pass the scale of each channel on, unless a region is cut out beyond x, where another number than 0 stands."""
        if attribute(node, "coordinate_transformation_mode", "half_pixel") != _REGION:
            rank, moved = len(scales.graph.shape(node.output[0])), _moved_axes(node, scales.graph)
            scales.put(node.output[0], scales.collapse(node.input[0], [*moved, *range(2, rank)]))
        elif attribute(node, "extrapolation_value", 0.0):
            scales.barrier(node)
        else:
            rank = len(scales.graph.shape(node.output[0]))
            mixed = [a for a in range(rank) if a > 1 or not _keeps(node, scales.graph, a)]
            scales.put(node.output[0], scales.collapse(node.input[0], mixed))

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Where there are more rows, or fewer, between the old ones."""
        return 0 in _moved_axes(node, graph)

    def modernize(self, node: onnx.NodeProto, graph: Graph, opset: int) -> None:
        """Places were counted from the corner and rounded down, and factors were an attribute before that."""
        if opset >= 11:
            graph.append(node)
            return
        factors = attribute(node, "scales")
        given = node.input[1] if factors is None else np.asarray(factors, np.float32)
        settings = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        rewritten(node, graph, [node.input[0], "", given], op_type="Resize", without=["scales"], **settings)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Multiply dy by the transposed matrices."""
        dx = single(dys)
        for axis, matrix in resize_matrices(node, graph).items():
            dx = along_axis(graph, dx, axis, matrix.T)
        return rest_none(node, dx)


def resize_matrices(node: onnx.NodeProto, graph: Graph) -> dict[int, np.ndarray]:
    """Return axis -> matrix (old extent, new extent) of a Resize; axes that stay are left out."""
    mode = attribute(node, "coordinate_transformation_mode", "half_pixel")
    if mode == _REGION or attribute(node, "antialias", 0):
        raise GradientError(f"Resize with {mode} or antialias")
    old, new = graph.shape(node.input[0]), graph.shape(node.output[0])
    given = constant_of(graph, node.input[2]) if len(node.input) > 2 and node.input[2] else None
    scales = np.divide(new, old)
    if given is not None and given.size:
        scales[attribute(node, "axes", list(range(len(old))))] = given
    elif attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise GradientError("Resize that keeps the aspect ratio")
    return {
        axis: axis_matrix(node, mode, a, b, float(scales[axis]))
        for axis, (a, b) in enumerate(zip(old, new, strict=True))
        if a != b or scales[axis] != 1
    }


def _moved_axes(node: onnx.NodeProto, graph: Graph) -> list[int]:
    """Return the axes along which places move, which a factor may do that leaves the extent."""
    old, new = graph.shape(node.input[0]), graph.shape(node.output[0])
    axes = _axes(node, graph)
    factors = [0.0] * len(axes)
    if len(node.input) > 2 and node.input[2]:
        known = constant_of(graph, node.input[2])
        factors = factors if known is None else known.tolist()
    elif attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch":
        factors = [1.0] * len(axes)  # extents are all that is given
    moved = {axis for axis, factor in zip(axes, factors, strict=False) if factor != 1}
    return [axis for axis, (a, b) in enumerate(zip(old, new, strict=True)) if a != b or axis in moved]


def _axes(node: onnx.NodeProto, graph: Graph) -> list[int]:
    """Return the axes that a node's settings are of."""
    rank = len(graph.shape(node.input[0]))
    return [a % rank for a in attribute(node, "axes", range(rank))]


def _keeps(node: onnx.NodeProto, graph: Graph, axis: int) -> bool:
    """Tell whether the region that is cut out has all places along an axis, and as many come out."""
    axes, region = _axes(node, graph), constant_of(graph, node.input[1])
    if graph.shape(node.input[0])[axis] != graph.shape(node.output[0])[axis] or region is None:
        return False
    bounds = region.reshape(2, len(axes))
    return axis not in axes or bounds[:, axes.index(axis)].tolist() == [0, 1]


def axis_matrix(node: onnx.NodeProto, mode: str, old: int, new: int, scale: float) -> np.ndarray:
    """Return the matrix (old, new) of resizing one axis."""
    places = _sources(mode, old, new, scale)
    kind = attribute(node, "mode", "nearest")
    matrix = np.zeros((old, new))
    if kind == "nearest":
        rounding = attribute(node, "nearest_mode", "round_prefer_floor")
        matrix[np.clip(_rounded(places, rounding), 0, old - 1), np.arange(new)] = 1
        return matrix
    left = np.floor(places).astype(int)
    if kind == "linear":
        weights = {0: 1 - (places - left), 1: places - left}
    else:
        weights = _cubic(places - left, attribute(node, "cubic_coeff_a", -0.75))
    outside = attribute(node, "exclude_outside", 0) and kind == "cubic"
    for step, weight in weights.items():
        source = left + step
        share = np.where((source < 0) | (source >= old), 0, weight) if outside else weight
        np.add.at(matrix, (np.clip(source, 0, old - 1), np.arange(new)), share)
    return matrix / matrix.sum(0) if outside else matrix


def _sources(mode: str, old: int, new: int, scale: float) -> np.ndarray:
    """Return for every new place where it lies among the old ones."""
    x: np.ndarray = np.arange(new, dtype=np.float64)
    if mode == "asymmetric":
        return x / scale
    if mode == "align_corners":
        return x * (old - 1) / (new - 1) if new > 1 else x * 0
    if mode == "pytorch_half_pixel" and new <= 1:
        return x * 0
    if mode == "half_pixel_symmetric":
        middle = old / 2 * (1 - new / (scale * old))
        return middle + (x + 0.5) / scale - 0.5
    return (x + 0.5) / scale - 0.5


def _rounded(places: np.ndarray, mode: str) -> np.ndarray:
    if mode == "floor":
        return np.asarray(np.floor(places), int)
    if mode == "ceil":
        return np.asarray(np.ceil(places), int)
    return np.asarray(np.ceil(places - 0.5) if mode == "round_prefer_floor" else np.floor(places + 0.5), int)


def _cubic(offset: np.ndarray, a: float) -> dict[int, np.ndarray]:
    """Return step -> weight of the four neighbours. Source: Keys, IEEE Trans. ASSP 29(6), 1981."""

    def near(d: np.ndarray) -> np.ndarray:
        return np.asarray(((a + 2) * d - (a + 3)) * d * d + 1)

    def far(d: np.ndarray) -> np.ndarray:
        return np.asarray(((a * d - 5 * a) * d + 8 * a) * d - 4 * a)

    return {-1: far(1 + offset), 0: near(offset), 1: near(1 - offset), 2: far(2 - offset)}
