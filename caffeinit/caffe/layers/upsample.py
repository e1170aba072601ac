"""Layers that change the resolution: Upsample, Interp and the resize layers of several forks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from caffeinit.caffe.layers.base import Layer, LayerType, ParamGraph, layer_type
from caffeinit.errors import LayerError
from caffeinit.graph import Shape


class Resizing(LayerType):
    """A layer with (N, C, H, W) in and another H and W out."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the bottom with the new height and width."""
        if len(bottoms[0]) != 4:
            raise LayerError(f"needs a bottom (N, C, H, W), got {bottoms[0]}")
        size = self.size(layer, bottoms)
        if min(size) < 1:
            raise LayerError(f"the output would be {size}")
        return [(*bottoms[0][:2], *size)]

    def size(self, layer: Layer, bottoms: Sequence[Shape]) -> tuple[int, int]:
        """Return the top's height and width."""
        raise NotImplementedError


@layer_type("Upsample")
class Upsample(Resizing):
    """With a second bottom: puts each number where max pooling took it from, zeros elsewhere (SegNet).

    With one bottom: repeats each number over a square (YOLO and others).
    """

    num_bottoms = (1, 2)

    def size(self, layer: Layer, bottoms: Sequence[Shape]) -> tuple[int, int]:
        """Return upsample_h and upsample_w, or the bottom's size times the scale, less what pooling had padded."""
        p = layer.upsample_param
        h, w = bottoms[0][2:]
        if p.HasField("height") or p.HasField("width") or p.mode.lower() not in ("", "nearest"):
            raise LayerError("height, width and mode mean different things in different forks; only scale is supported")
        if len(bottoms) > 1 and bottoms[1] != bottoms[0]:
            raise LayerError(f"the mask {bottoms[1]} is not shaped like the bottom {bottoms[0]}")
        if p.HasField("upsample_h") != p.HasField("upsample_w") or p.HasField("scale_h") != p.HasField("scale_w"):
            raise LayerError("height and width must both be given")
        if p.HasField("upsample_h"):
            return int(p.upsample_h), int(p.upsample_w)
        common = int(p.stride) if p.HasField("stride") and not p.HasField("scale") else int(p.scale)
        scale_h, scale_w = (int(p.scale_h), int(p.scale_w)) if p.HasField("scale_h") else (common, common)
        return h * scale_h - p.pad_out_h, w * scale_w - p.pad_out_w

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a ScatterElements into zeros, or a nearest-neighbour Resize."""
        shapes = [graph.shape(b) for b in bottoms]
        n, c, h, w = self.infer(layer, shapes)[0]
        if len(bottoms) == 1:
            if h % shapes[0][2] or w % shapes[0][3]:
                raise LayerError(f"{(h, w)} is not a multiple of the bottom's size {shapes[0][2:]}")
            return [resize(graph, bottoms[0], (h, w), "nearest", "asymmetric")]
        places = shapes[0][2] * shapes[0][3]
        values, mask = (graph.reshape(b, [n, c, places]) for b in bottoms)
        size = graph.op("Concat", graph.op("Shape", bottoms[0], start=0, end=2), [h * w], axis=0)
        zeros = graph.op("ConstantOfShape", size)
        spread = graph.op("ScatterElements", zeros, graph.op("Cast", mask, to=TensorProto.INT64), values, axis=2)
        return [graph.reshape(spread, [n, c, h, w])]


@layer_type("UpsampleDarknet")
class UpsampleDarknet(Resizing):
    """Repeats each number over a square of `stride`."""

    def size(self, layer: Layer, bottoms: Sequence[Shape]) -> tuple[int, int]:
        """Return the bottom's size times the stride."""
        p = layer.upsample_darknet_param
        stride = int(p.stride if p.HasField("stride") else p.scale)
        return bottoms[0][2] * stride, bottoms[0][3] * stride

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Resize."""
        size = self.size(layer, [graph.shape(bottoms[0])])
        return [resize(graph, bottoms[0], size, "nearest", "asymmetric")]


@layer_type("Interp")
class Interp(Resizing):
    """Bilinear resize with corners on corners, after cutting off -pad_beg and -pad_end; DeepLab's, PSPNet's.

    Source: cdmh/deeplab-public, src/caffe/layers/interp_layer.cpp.
    """

    num_bottoms = (1, 2)

    def size(self, layer: Layer, bottoms: Sequence[Shape]) -> tuple[int, int]:
        """Return the second bottom's size, height and width, or what shrinking and zooming give."""
        p = layer.interp_param
        if p.pad_beg > 0 or p.pad_end > 0:
            raise LayerError(f"pad_beg {p.pad_beg} and pad_end {p.pad_end} must not be above 0")
        if p.use_blob_size and len(bottoms) == 1:
            raise LayerError("use_blob_size needs a second bottom")
        if len(bottoms) > 1:
            if len(bottoms[1]) != 4:
                raise LayerError(f"needs a second bottom (N, C, H, W), got {bottoms[1]}")
            return bottoms[1][2], bottoms[1][3]
        sizes = [size + p.pad_beg + p.pad_end for size in bottoms[0][2:]]
        if p.HasField("shrink_factor"):
            if p.shrink_factor < 1:
                raise LayerError(f"shrink_factor is {p.shrink_factor}, must be at least 1")
            sizes = [(size - 1) // p.shrink_factor + 1 for size in sizes]
        if p.HasField("zoom_factor"):
            if p.zoom_factor < 1:
                raise LayerError(f"zoom_factor is {p.zoom_factor}, must be at least 1")
            sizes = [size + (size - 1) * (p.zoom_factor - 1) for size in sizes]
        if not p.HasField("shrink_factor") and not p.HasField("zoom_factor"):
            if not (p.HasField("height") and p.HasField("width")):
                raise LayerError("needs height and width, a zoom or shrink factor, or a second bottom")
            sizes = [p.height, p.width]
        return int(sizes[0]), int(sizes[1])

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Slice where something is cut off, and a Resize."""
        p, x = layer.interp_param, bottoms[0]
        shapes = [graph.shape(b) for b in bottoms]
        if p.pad_beg or p.pad_end:
            ends = [size + p.pad_end for size in shapes[0][2:]]
            x = graph.op("Slice", x, [-p.pad_beg] * 2, ends, [2, 3])
        return [resize(graph, x, self.size(layer, shapes), "linear", "align_corners")]


class TensorFlowResize(Resizing):
    """A resize layer of nets converted from TensorFlow."""

    param = ""

    def settings(self, layer: Layer) -> Any:
        """Return the layer's parameters."""
        p = getattr(layer, self.param)
        if p.data_format != "NCHW":
            raise LayerError(f'data_format "{p.data_format}" is not supported')
        return p

    def size(self, layer: Layer, bottoms: Sequence[Shape]) -> tuple[int, int]:
        """Return output_height and output_width."""
        p = self.settings(layer)
        return int(p.output_height), int(p.output_width)


@layer_type("ResizeBilinear")
class ResizeBilinear(TensorFlowResize):
    """Bilinear resize, corners on corners or origin on origin."""

    param = "resize_bilinear_param"

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Resize."""
        size = self.size(layer, [graph.shape(bottoms[0])])
        corners = self.settings(layer).align_corners
        return [resize(graph, bottoms[0], size, "linear", "align_corners" if corners else "asymmetric")]


@layer_type("ResizeNearestNeighbor")
class ResizeNearestNeighbor(TensorFlowResize):
    """Each place takes the number of the nearest place, rounded down; with align_corners rounded to the nearest."""

    param = "resize_nearest_neighbor_param"

    def size(self, layer: Layer, bottoms: Sequence[Shape]) -> tuple[int, int]:
        """Return the output's height and width, or the bottom's size times scaling_factor."""
        p = self.settings(layer)
        if p.HasField("scaling_factor"):
            return int(bottoms[0][2] * p.scaling_factor), int(bottoms[0][3] * p.scaling_factor)
        return int(p.output_height or p.height), int(p.output_width or p.width)

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Resize where the size is a multiple, else a Gather per axis."""
        x, shape = bottoms[0], graph.shape(bottoms[0])
        size, corners = self.size(layer, [shape]), self.settings(layer).align_corners
        if not corners and size[0] % shape[2] == 0 and size[1] % shape[3] == 0:
            return [resize(graph, x, size, "nearest", "asymmetric")]
        for axis, (source, target) in enumerate(zip(shape[2:], size, strict=True), 2):
            places = np.arange(target, dtype=np.float32)
            if corners:
                index = np.floor(places * np.float32((source - 1) / max(1, target - 1)) + np.float32(0.5))
            else:
                index = np.floor(places * np.float32(source / target))
            x = graph.op("Gather", x, np.minimum(index, source - 1).astype(np.int64), axis=axis)
        return [x]


def resize(graph: ParamGraph, x: str, size: tuple[int, int], mode: str, coordinates: str) -> str:
    """Return x resized to (h, w)."""
    shape = graph.shape(x)
    if shape[2:] == size:
        return x
    scales = [1, 1, *[scale_for(source, target) for source, target in zip(shape[2:], size, strict=True)]]
    return graph.op(
        "Resize",
        x,
        "",
        np.asarray(scales, np.float32),
        mode=mode,
        coordinate_transformation_mode=coordinates,
        nearest_mode="floor" if mode == "nearest" else None,
    )


def scale_for(source: int, target: int) -> np.float32:
    """Return the factor for which Resize, which rounds down, makes `target` places of `source`.

    Sizes would say it plainly, but they spell out the batch size. Those who compute the size differ in precision: the exact
    product must not be below `target`, for if it is rounded, it is not rounded past it.
    """
    scale = np.float32(target / source)
    while source * float(scale) < target:
        scale = np.nextafter(scale, np.float32(np.inf))
    return scale
