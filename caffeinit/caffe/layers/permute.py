"""Layers that only move numbers: Permute, ShuffleChannel, Reorg, SpaceToBatchND and BatchToSpaceND."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffeinit.caffe.layers.base import Layer, LayerType, ParamGraph, layer_type
from caffeinit.errors import LayerError
from caffeinit.graph import Shape


@layer_type("Permute")
class Permute(LayerType):
    """top's axis i = the bottom's axis order[i]; axes not named follow in their order; SSD's."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the extents in the new order."""
        return [tuple(bottoms[0][axis] for axis in self._order(layer, len(bottoms[0])))]

    @staticmethod
    def _order(layer: Layer, rank: int) -> list[int]:
        order = [int(axis) for axis in layer.permute_param.order]
        if len(set(order)) < len(order) or any(axis >= rank for axis in order):
            raise LayerError(f"order {order} does not name axes of a bottom with {rank}")
        return order + [axis for axis in range(rank) if axis not in order]

    def puts_channels_first(self, layer: Layer) -> bool:
        """Return whether the last axis becomes the second."""
        return self._order(layer, 4) == [0, 3, 1, 2]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Transpose."""
        order = self._order(layer, len(graph.shape(bottoms[0])))
        if order == list(range(len(order))):
            return [bottoms[0]]
        return [graph.op("Transpose", bottoms[0], perm=order)]


@layer_type("ShuffleChannel")
class ShuffleChannel(LayerType):
    """Deals the channels of `group` groups out in turn: first of each group, second of each group, ..."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the bottom's shape."""
        shape, group = bottoms[0], layer.shuffle_channel_param.group
        if len(shape) < 2 or group < 1 or shape[1] % group:
            raise LayerError(f"group {group} does not divide the channels of {shape}")
        return [shape]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Transpose of (group, channels of a group) between two Reshapes."""
        shape, group = graph.shape(bottoms[0]), int(layer.shuffle_channel_param.group)
        groups = graph.reshape(bottoms[0], [shape[0], group, shape[1] // group, int(np.prod(shape[2:]))])
        return [graph.reshape(graph.op("Transpose", groups, perm=[0, 2, 1, 3]), shape)]


@layer_type("Reorg")
class Reorg(LayerType):
    """Darknet's exchange of space and channels by `stride`; with `reverse` the other way.

    Without `reverse` darknet reads the blob as if it were (C / s^2, s H, s W) and writes (C, H, W), which is then taken
    for (s^2 C, H / s, W / s): not a plain space-to-depth, but what its weights were trained with.
    Source: reorg_cpu in pjreddie/darknet, src/blas.c, and the Caffe forks that call it with the bottom's extents.
    """

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the top's channels and extents."""
        n, c, h, w = self._checked(layer, bottoms[0])
        s = int(layer.reorg_param.stride)
        return [(n, c // s**2, h * s, w * s) if layer.reorg_param.reverse else (n, c * s**2, h // s, w // s)]

    @staticmethod
    def _checked(layer: Layer, bottom: Shape) -> Shape:
        p = layer.reorg_param
        if len(bottom) != 4:
            raise LayerError(f"needs a bottom (N, C, H, W), got {bottom}")
        if p.stride < 1 or bottom[1] % p.stride**2:
            raise LayerError(f"stride {p.stride} squared does not divide {bottom[1]} channels")
        if not p.reverse and (bottom[2] % p.stride or bottom[3] % p.stride):
            raise LayerError(f"stride {p.stride} does not divide {bottom[2:]}")
        return bottom

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a DepthToSpace, or a SpaceToDepth between two Reshapes."""
        n, c, h, w = self._checked(layer, graph.shape(bottoms[0]))
        s = int(layer.reorg_param.stride)
        if layer.reorg_param.reverse:
            return [graph.op("DepthToSpace", bottoms[0], blocksize=s)]
        read = graph.reshape(bottoms[0], [n, c // s**2, h * s, w * s])
        written = graph.op("SpaceToDepth", read, blocksize=s)
        return [graph.reshape(written, [n, c * s**2, h // s, w // s])]


@layer_type("SpaceToBatchND")
class SpaceToBatchND(LayerType):
    """Pads, and deals each block's places out to pictures of their own: those of the first place come first.

    TensorFlow's operator in nets converted from it: block_shape and paddings (before, after per axis) start at axis 1.
    """

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return N times the block's places, and the padded extents divided by the block."""
        p = layer.space_to_batch_nd_param
        block, margins = block_and_margins(p.block_shape, p.paddings, len(bottoms[0]))
        padded = [size + a + b for size, (a, b) in zip(bottoms[0][1:], margins, strict=True)]
        if any(size % b for size, b in zip(padded, block, strict=True)):
            raise LayerError(f"block_shape {block} does not divide the padded extents {padded}")
        sizes = [size // b for size, b in zip(padded, block, strict=True)]
        return [(bottoms[0][0] * int(np.prod(block)), *sizes)]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Pad, and a Transpose between two Reshapes."""
        p, shape = layer.space_to_batch_nd_param, graph.shape(bottoms[0])
        block, margins = block_and_margins(p.block_shape, p.paddings, len(shape))
        top = self.infer(layer, [shape])[0]
        before, after = [0, *[a for a, _ in margins]], [0, *[b for _, b in margins]]
        padded = graph.op("Pad", bottoms[0], [*before, *after]) if any(before + after) else bottoms[0]
        pairs = [d for size, b in zip(top[1:], block, strict=True) for d in (size, b)]
        places = graph.op("Reshape", padded, [-1, *pairs])
        axes = range(len(block))
        order = [*[2 + 2 * i for i in axes], 0, *[1 + 2 * i for i in axes]]
        return [graph.op("Reshape", graph.op("Transpose", places, perm=order), [-1, *top[1:]])]


@layer_type("BatchToSpaceND")
class BatchToSpaceND(LayerType):
    """Undoes SpaceToBatchND: puts pictures back into their places, and crops."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return N divided by the block's places, and the extents times the block without the crops."""
        p = layer.batch_to_space_nd_param
        block, margins = block_and_margins(p.block_shape, p.crops, len(bottoms[0]))
        if bottoms[0][0] % int(np.prod(block)):
            raise LayerError(f"block_shape {block} does not divide the {bottoms[0][0]} pictures")
        whole = [size * b for size, b in zip(bottoms[0][1:], block, strict=True)]
        sizes = [size - a - b for size, (a, b) in zip(whole, margins, strict=True)]
        if min(sizes) < 1:
            raise LayerError(f"crops leave nothing of {whole}")
        return [(bottoms[0][0] // int(np.prod(block)), *sizes)]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Transpose between two Reshapes, and a Slice."""
        p, shape = layer.batch_to_space_nd_param, graph.shape(bottoms[0])
        block, margins = block_and_margins(p.block_shape, p.crops, len(shape))
        self.infer(layer, [shape])
        places = graph.op("Reshape", bottoms[0], [*block, -1, *shape[1:]])
        count = len(block)
        pairs = [axis for i in range(count) for axis in (count + 1 + i, i)]
        merged = graph.op("Transpose", places, perm=[count, *pairs])
        whole = [size * b for size, b in zip(shape[1:], block, strict=True)]
        merged = graph.op("Reshape", merged, [-1, *whole])
        cropped = {i: (a, whole[i - 1] - b) for i, (a, b) in enumerate(margins, 1) if a or b}
        if not cropped:
            return [merged]
        starts, ends = zip(*cropped.values(), strict=True)
        return [graph.op("Slice", merged, list(starts), list(ends), list(cropped))]


def block_and_margins(
    block_shape: Sequence[int], margins: Sequence[int], rank: int
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the block's extent and (before, after) for every axis from 1 on, filled up with blocks of 1."""
    block = [int(b) for b in block_shape]
    pairs = [int(m) for m in margins] or [0] * (2 * len(block))
    if not block or min(block) < 1 or len(block) > rank - 1 or len(pairs) != 2 * len(block):
        raise LayerError(f"block_shape {block} with margins {pairs} does not fit a bottom with {rank} axes")
    missing = rank - 1 - len(block)
    return block + [1] * missing, [*zip(pairs[::2], pairs[1::2], strict=True), *[(0, 0)] * missing]
