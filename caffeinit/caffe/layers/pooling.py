"""Pooling, with Caffe's rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from caffeinit.caffe.layers.base import Layer, LayerType, ParamGraph, layer_type
from caffeinit.caffe.layers.windows import Windows, check_positive, per_axis, side_pads
from caffeinit.errors import LayerError
from caffeinit.graph import Shape

_MAX, _AVE, _STOCHASTIC, _AVE_EXC_PAD = range(4)
_SMALLEST = float(np.finfo(np.float32).tiny)


def pooled_size(
    size: int, kernel: int, stride: int, pad: int, end: int, ceil: bool = True, padded: bool | None = None
) -> int:
    """Return how many pooling windows Caffe places along one spatial axis.

    Caffe rounds up, so the last window may hang over the far edge; with padding (on any axis), a last window that would
    start past the far edge is dropped. Convolution rounds down instead, and so do some forks' poolings if asked to.

    Args:
        size: extent of the bottom along the axis, in pixels, without padding.
        kernel, stride: window extent and step, in pixels, at least 1.
        pad, end: zeros in front and behind, in pixels; Caffe's own layer has as many on both sides.
        ceil: round up, as Caffe does.
        padded: whether some axis is padded; by default whether this one is.
    Returns:
        The extent of the top along the axis, at least 1.
    Raises:
        LayerError: no window fits.
    Source: BVLC/caffe, src/caffe/layers/pooling_layer.cpp.
    """
    span = size + pad + end - kernel
    if span < 0 and not (ceil and span > -stride):
        raise LayerError(f"a pooling window of {kernel} does not fit into {size} with pad {pad}")
    windows = (-(-span // stride) if ceil else span // stride) + 1
    if (bool(pad) if padded is None else padded) and (windows - 1) * stride >= size + pad:
        windows -= 1
    return windows


@layer_type("Pooling")
class Pooling(LayerType):
    """Largest or average value of each window; windows are clipped at the padded border.

    A second top of max pooling tells where each maximum lay, as a flat index into the channel.
    """

    num_tops = (1, 2)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the bottom's channels and the number of window positions."""
        bottom = bottoms[0]
        w, ceil = self._windows(layer, bottom)
        sizes = [
            pooled_size(size, k, s, a, b, ceil, padded=any(w.pads))
            for size, k, s, a, b in zip(bottom[2:], w.kernel, w.stride, w.pads, w.ends, strict=True)
        ]
        return [(*bottom[:2], *sizes)] * len(layer.top)

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a MaxPool or AveragePool, padded behind so that it places Caffe's windows."""
        p = layer.pooling_param
        bottom = bottoms[0]
        shape = graph.shape(bottom)
        if len(layer.top) > 1 and p.pool != _MAX:
            raise LayerError("a second top is for max pooling")
        if p.global_pooling and len(layer.top) == 1 and p.pool != _STOCHASTIC:
            return [graph.op("GlobalMaxPool" if p.pool == _MAX else "GlobalAveragePool", bottom)]
        w, _ = self._windows(layer, shape)
        tops = self.infer(layer, [shape])[0]
        reach = [
            max(0, (n - 1) * s + k - size - a)
            for n, s, k, size, a in zip(tops[2:], w.stride, w.kernel, shape[2:], w.pads, strict=True)
        ]
        if any((n - 1) * s >= size + a for n, s, size, a in zip(tops[2:], w.stride, shape[2:], w.pads, strict=True)):
            raise LayerError("its last window lies wholly outside the bottom; Caffe leaves such values undefined")
        if p.pool == _MAX:
            return self._max(layer, graph, bottom, w, reach)
        if p.pool == _STOCHASTIC:
            return [self._expected(graph, bottom, w, reach)]
        return [self._average(graph, bottom, shape, tops, w, reach, exclude=p.pool == _AVE_EXC_PAD)]

    def _max(self, layer: Layer, graph: ParamGraph, bottom: str, w: Windows, reach: list[int]) -> list[str]:
        shape = graph.shape(bottom)
        attributes: dict[str, Any] = {
            "kernel_shape": list(w.kernel),
            "strides": list(w.stride),
            "pads": [*w.pads, *reach],
        }
        if max(r - k for r, k in zip(reach, w.kernel, strict=True)) >= 0 or any(
            a >= k for a, k in zip(w.pads, w.kernel, strict=True)
        ):
            raise LayerError("pad is not less than the kernel")
        if len(layer.top) == 1:
            return [graph.op("MaxPool", bottom, **attributes)]
        top, indices = graph.ops("MaxPool", bottom, outputs=2, **attributes)
        within = graph.op("Mod", indices, np.asarray(int(np.prod(shape[2:])), np.int64))
        return [top, graph.op("Cast", within, to=1)]

    def _average(
        self,
        graph: ParamGraph,
        bottom: str,
        shape: Shape,
        top: Shape,
        w: Windows,
        reach: list[int],
        exclude: bool,
    ) -> str:
        """Average over each window's part inside the padded bottom (or, in a fork, inside the bottom itself)."""
        sums = graph.op(
            "AveragePool",
            bottom,
            kernel_shape=list(w.kernel),
            strides=list(w.stride),
            pads=[*w.pads, *reach],
            count_include_pad=1,
        )
        counted = [
            _window_parts(size, n, k, s, a, 0 if exclude else a, 0 if exclude else b)
            for size, n, k, s, a, b in zip(shape[2:], top[2:], w.kernel, w.stride, w.pads, w.ends, strict=True)
        ]
        full = float(np.prod(w.kernel))
        area = np.ones(())
        for part in counted:
            area = np.multiply.outer(area, part)
        if np.all(area == full):
            return sums
        return graph.op("Mul", sums, (full / area).astype(np.float32)[None, None])

    @staticmethod
    def _expected(graph: ParamGraph, bottom: str, w: Windows, reach: list[int]) -> str:
        """Average weighted by the activations themselves, as sampling them gives in the mean; 0 where they sum to 0."""
        if any(w.pads):
            raise LayerError("pool STOCHASTIC takes no pad")

        def average(value: str) -> str:
            return graph.op(
                "AveragePool",
                value,
                kernel_shape=list(w.kernel),
                strides=list(w.stride),
                pads=[*w.pads, *reach],
                count_include_pad=1,
            )

        sums, squares = average(bottom), average(graph.op("Mul", bottom, bottom))
        # Where they sum to 0, the divisor is 1: by the smallest number gradients would become infinite.
        above = graph.op("Greater", sums, _SMALLEST)
        return graph.op("Div", graph.op("Where", above, squares, 0.0), graph.op("Where", above, sums, 1.0))

    @staticmethod
    def _windows(layer: Layer, bottom: Shape) -> tuple[Windows, bool]:
        p = layer.pooling_param
        if len(bottom) != 4:
            raise LayerError(f"needs a bottom (N, C, H, W), got {bottom}")
        if p.torch_pooling:
            raise LayerError("torch_pooling is not supported")
        if p.global_pooling and any(p.HasField(n) for n in ("kernel_size", "kernel_h", "kernel_w")):
            raise LayerError("gives a kernel, and global_pooling, which takes the whole bottom")
        kernel = tuple(bottom[2:]) if p.global_pooling else per_axis(p, "kernel_size", "kernel", 2, None)
        pads, ends = side_pads(p, per_axis(p, "pad", "pad", 2, 0))
        windows = Windows(kernel, per_axis(p, "stride", "stride", 2, 1), pads, ends, dilation=(1, 1))
        check_positive(windows)
        if p.global_pooling and (any((*pads, *ends)) or windows.stride != (1, 1)):
            raise LayerError(f"global_pooling takes pad 0 and stride 1, not pad {pads} and stride {windows.stride}")
        if any(a >= k for a, k in zip((*pads, *ends), windows.kernel * 2, strict=True)):
            raise LayerError(f"pad {pads} is not less than the kernel {windows.kernel}")
        return windows, p.round_mode == 0 and p.ceil_mode


def _window_parts(size: int, windows: int, kernel: int, stride: int, pad: int, front: int, behind: int) -> np.ndarray:
    """Return how many of each window's places count: those from -front to size + behind."""
    starts = np.arange(windows) * stride - pad
    return np.minimum(starts + kernel, size + behind) - np.maximum(starts, -front)
