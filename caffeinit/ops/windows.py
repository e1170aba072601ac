"""How the windows of convolutions and poolings lie, from a node's attributes and shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from caffeinit.graph import Shape, attribute


@dataclass(frozen=True)
class Windows:
    """Per spatial axis, windows that start every `stride` places from -begin on.

    Attributes:
        sizes: extent of the larger side (a convolution's input, a transposed convolution's output).
        counts: number of windows.
        begin, end: padding in front and behind, explicit even where the node leaves it to auto_pad.
    """

    sizes: Shape
    counts: Shape
    kernel: Shape
    stride: Shape
    dilation: Shape
    begin: Shape
    end: Shape

    @property
    def reach(self) -> Shape:
        """Extent of one window, holes included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def spare(self) -> Shape:
        """Places behind the last window, padding included; negative where it hangs over."""
        return tuple(
            size + begin + end - (n - 1) * stride - reach
            for size, begin, end, n, stride, reach in zip(
                self.sizes, self.begin, self.end, self.counts, self.stride, self.reach, strict=True
            )
        )


def windows_of(node: onnx.NodeProto, sizes: Sequence[int], counts: Sequence[int], kernel: Sequence[int]) -> Windows:
    """Return a node's windows over an extent of `sizes`, of which there are `counts`."""
    rank = len(sizes)
    stride = tuple(attribute(node, "strides", [1] * rank))
    dilation = tuple(attribute(node, "dilations", [1] * rank))
    pads = attribute(node, "pads", [0] * (2 * rank))
    auto = attribute(node, "auto_pad", "NOTSET")
    begin, end = tuple(pads[:rank]), tuple(pads[rank:])
    if auto == "VALID":
        begin = end = (0,) * rank
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        sums = [
            max(0, (n - 1) * s + (k - 1) * d + 1 - size)
            for n, s, k, d, size in zip(counts, stride, kernel, dilation, sizes, strict=True)
        ]
        small, large = tuple(p // 2 for p in sums), tuple(p - p // 2 for p in sums)
        begin, end = (small, large) if auto == "SAME_UPPER" else (large, small)
    return Windows(tuple(sizes), tuple(counts), tuple(kernel), stride, dilation, begin, end)
