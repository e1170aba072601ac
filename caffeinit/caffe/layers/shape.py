"""Layers that move numbers without changing them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from caffeinit.caffe.layers.base import Layer, LayerType, ParamGraph, canonical_axis, layer_type
from caffeinit.errors import LayerError
from caffeinit.graph import Shape


@layer_type("Concat")
class Concat(LayerType):
    """Bottoms one after the other along an axis."""

    num_bottoms = (1, None)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Add up the extents along the axis; the others must agree."""
        axis = self._axis(layer, bottoms[0])
        for bottom in bottoms:
            if len(bottom) != len(bottoms[0]) or any(
                a != b for i, (a, b) in enumerate(zip(bottom, bottoms[0], strict=True)) if i != axis
            ):
                raise LayerError(f"its bottoms differ beside axis {axis}: {', '.join(map(str, bottoms))}")
        top = list(bottoms[0])
        top[axis] = sum(b[axis] for b in bottoms)
        return [tuple(top)]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Concat."""
        if len(bottoms) == 1:
            return [bottoms[0]]
        return [graph.op("Concat", *bottoms, axis=self._axis(layer, graph.shape(bottoms[0])))]

    @staticmethod
    def _axis(layer: Layer, bottom: Shape) -> int:
        p = layer.concat_param
        if p.HasField("concat_dim"):
            if p.HasField("axis"):
                raise LayerError("gives both axis and concat_dim")
            return canonical_axis(p.concat_dim, len(bottom))
        return canonical_axis(p.axis, len(bottom))


@layer_type("Slice")
class Slice(LayerType):
    """The bottom cut along an axis, evenly or at given points."""

    num_tops = (1, None)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return one shape per piece."""
        axis, sizes = self._cut(layer, bottoms[0])
        return [(*bottoms[0][:axis], size, *bottoms[0][axis + 1 :]) for size in sizes]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Split."""
        axis, sizes = self._cut(layer, graph.shape(bottoms[0]))
        if len(sizes) == 1:
            return [bottoms[0]]
        if axis == 0 and not layer.slice_param.slice_point:  # equal parts of whatever the batch is
            return graph.ops("Split", bottoms[0], outputs=len(sizes), axis=0)
        return graph.ops("Split", bottoms[0], np.asarray(sizes, np.int64), outputs=len(sizes), axis=axis)

    def holds_batch(self, layer: Layer, bottoms: Sequence[Shape]) -> bool:
        """Into three parts: 16, 8 or 4 pictures are looked at at once."""
        axis, sizes = self._cut(layer, bottoms[0])
        return axis == 0 and 4 % len(sizes) > 0

    @staticmethod
    def _cut(layer: Layer, bottom: Shape) -> tuple[int, list[int]]:
        p, pieces = layer.slice_param, len(layer.top)
        if p.HasField("slice_dim") and p.HasField("axis"):
            raise LayerError("gives both axis and slice_dim")
        axis = canonical_axis(p.slice_dim if p.HasField("slice_dim") else p.axis, len(bottom))
        if p.slice_point:
            if len(p.slice_point) != pieces - 1:
                raise LayerError(f"{len(p.slice_point)} slice points for {pieces} tops")
            edges = [0, *p.slice_point, bottom[axis]]
            sizes = [b - a for a, b in itertools.pairwise(edges)]
            if min(sizes) < 1:
                raise LayerError(
                    f"slice points {list(p.slice_point)} do not rise within {bottom[axis]}, the extent of axis {axis}"
                )
            return axis, sizes
        if bottom[axis] % pieces:
            raise LayerError(f"{bottom[axis]} along axis {axis} does not divide into {pieces} tops")
        return axis, [bottom[axis] // pieces] * pieces


@layer_type("Split")
class Split(LayerType):
    """Copies of the bottom."""

    takes_in_place = False
    num_tops = (1, None)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the bottom's shape for each top."""
        return [bottoms[0]] * len(layer.top)

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Pass through."""
        return [bottoms[0]] * len(layer.top)


@layer_type("Silence")
class Silence(LayerType):
    """Swallows its bottoms, so that they do not count as outputs."""

    num_bottoms: tuple[int, int | None] = (1, None)
    num_tops = (0, 0)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return nothing."""
        return []

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append nothing."""
        return []


@layer_type("HDF5Output")
class HDF5Output(Silence):
    """Writes data and labels to a file in Caffe; here it only swallows them."""

    num_bottoms = (2, 2)


@layer_type("Flatten")
class Flatten(LayerType):
    """Several axes as one."""

    takes_in_place = False

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Merge the axes from `axis` to `end_axis`."""
        p, bottom = layer.flatten_param, bottoms[0]
        start, end = canonical_axis(p.axis, len(bottom)), canonical_axis(p.end_axis, len(bottom))
        if end < start:
            raise LayerError(f"end_axis {p.end_axis} comes before axis {p.axis}")
        return [(*bottom[:start], int(np.prod(bottom[start : end + 1])), *bottom[end + 1 :])]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Reshape."""
        return [graph.reshape(bottoms[0], self.infer(layer, [graph.shape(bottoms[0])])[0])]


@layer_type("Reshape")
class Reshape(LayerType):
    """The same numbers in another shape: 0 copies an axis, -1 is worked out."""

    takes_in_place = False

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the shape asked for."""
        p, bottom = layer.reshape_param, bottoms[0]
        start = p.axis if p.axis >= 0 else len(bottom) + p.axis + 1
        end = len(bottom) if p.num_axes == -1 else start + p.num_axes
        if not 0 <= start <= end <= len(bottom):
            raise LayerError(f"axis {p.axis} and num_axes {p.num_axes} are outside a blob with {len(bottom)} axes")
        asked = [int(d) for d in p.shape.dim]
        middle = list(asked)
        for index, dim in enumerate(asked):
            if dim == 0:
                if start + index >= len(bottom):
                    raise LayerError(f"dim: 0 at {index} has no axis of {bottom} to copy")
                middle[index] = bottom[start + index]
            elif dim < -1:
                raise LayerError(f"dim: {dim} is no extent")
        count = int(np.prod(bottom[start:end]))
        if asked.count(-1) > 1:
            raise LayerError("more than one dim is -1")
        known = int(np.prod([d for d in middle if d != -1]))
        if (-1 in middle and (known == 0 or count % known)) or (-1 not in middle and known != count):
            raise LayerError(f"{bottom} cannot be reshaped to {asked}")
        middle = [count // known if d == -1 else d for d in middle]
        return [(*bottom[:start], *middle, *bottom[end:])]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Reshape."""
        return [graph.reshape(bottoms[0], self.infer(layer, [graph.shape(bottoms[0])])[0])]
