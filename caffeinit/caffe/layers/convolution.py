"""Convolution and Deconvolution, of any number of spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from caffeinit.caffe.layers.base import Layer, LayerType, Param, ParamGraph, canonical_axis, layer_type
from caffeinit.caffe.layers.windows import Windows, check_positive, per_axis, reaching, side_pads
from caffeinit.errors import LayerError
from caffeinit.graph import Shape


class Windowed(LayerType):
    """Layers that look at windows of a bottom, as `convolution_param` says. Several bottoms are treated alike.

    Attributes:
        least_axes: spatial axes that a bottom must have.
    """

    least_axes = 1
    num_bottoms: tuple[int, int | None] = (1, None)
    num_tops: tuple[int, int | None] = (1, None)

    @staticmethod
    def split(layer: Layer, bottom: Shape) -> tuple[Shape, Shape]:
        """Return the axes before the channels' axis, which Caffe takes together as pictures, and (pictures, C, ...)."""
        axis = canonical_axis(layer.convolution_param.axis, len(bottom))
        return bottom[:axis], (math.prod(bottom[:axis]), *bottom[axis:])

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the axes before the channels' as they are, then channels and window positions."""
        if len(layer.top) != len(bottoms):
            raise LayerError(f"has {len(bottoms)} bottom(s) and {len(layer.top)} top(s); there must be a top for each")
        if any(bottom != bottoms[0] for bottom in bottoms):
            raise LayerError(f"its bottoms have different shapes: {', '.join(map(str, bottoms))}")
        return [self.whole_top(layer, bottom) for bottom in bottoms]

    def whole_top(self, layer: Layer, bottom: Shape) -> Shape:
        """Return the top's shape for a bottom with any axes before the channels'."""
        before, pictures = self.split(layer, bottom)
        return (*before, *self.top(layer, pictures)[1:])

    def top(self, layer: Layer, bottom: Shape) -> Shape:
        """Return the top's shape for a bottom (N, C, ...)."""
        raise NotImplementedError

    def windows(self, layer: Layer, bottom: Shape) -> Windows:
        """Return kernel, stride, pads and dilation for a bottom (N, C, ...)."""
        p = layer.convolution_param
        axes = len(bottom) - 2
        if axes < self.least_axes:
            raise LayerError(f"needs a spatial bottom, got {bottom}")
        if p.pad_type:
            raise LayerError(f"pad_type {p.pad_type} is not supported")
        pads, ends = side_pads(p, per_axis(p, "pad", "pad", axes, 0, side=0))
        windows = Windows(
            kernel=per_axis(p, "kernel_size", "kernel", axes, None),
            stride=per_axis(p, "stride", "stride", axes, 1),
            pads=pads,
            ends=ends,
            dilation=per_axis(p, "dilation", "dilation", axes, 1),
        )
        check_positive(windows)
        return windows

    def placed(self, layer: Layer, bottom: Shape) -> Windows:
        """Return the windows with the padding that the bottom (N, C, ...) gets."""
        return reaching(self.windows(layer, bottom), bottom[2:])

    def positions(self, layer: Layer, bottom: Shape) -> list[int]:
        """Return how many windows lie along each spatial axis of a bottom (N, C, ...), rounded down."""
        w = self.placed(layer, bottom)
        sizes = [
            (size + a + b - extent) // stride + 1
            for size, a, b, extent, stride in zip(bottom[2:], w.pads, w.ends, w.extent, w.stride, strict=True)
        ]
        if min(sizes, default=1) < 1:
            raise LayerError(f"a kernel of {w.extent} does not fit into {bottom[2:]} with pad {w.pads}")
        return sizes

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append one node per bottom; all share the arrays."""
        tops = []
        for bottom in bottoms:
            shape = graph.shape(bottom)
            _, pictures = self.split(layer, shape)
            top = self.lower_one(layer, graph, graph.reshape(bottom, pictures))
            tops.append(graph.reshape(top, self.whole_top(layer, shape)))
        return tops

    def lower_one(self, layer: Layer, graph: ParamGraph, bottom: str) -> str:
        """Append the node for one bottom (N, C, ...)."""
        raise NotImplementedError


class LearnedConvolution(Windowed):
    """What both directions share; several bottoms pass through the same weights. Without spatial axes it is a product.

    Attributes:
        operator: of ONNX.
    """

    operator: str
    least_axes = 0

    def group(self, layer: Layer, channels: int) -> int:
        """Return the number of groups."""
        return int(layer.convolution_param.group)

    def num_output(self, layer: Layer, channels: int) -> int:
        """Return the number of output channels."""
        return int(layer.convolution_param.num_output)

    def checked_group(self, layer: Layer, channels: int) -> tuple[int, int]:
        """Return (group, num_output), both dividing as they must."""
        group, outputs = self.group(layer, channels), self.num_output(layer, channels)
        if outputs < 1:
            raise LayerError("num_output is not given")
        if group < 1 or channels % group or outputs % group:
            raise LayerError(f"group {group} does not divide {channels} bottom channels and num_output {outputs}")
        return group, outputs

    def weight_channels(self, inputs: int, outputs: int, group: int) -> tuple[int, int]:
        """Return the weight's first two axes."""
        raise NotImplementedError

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return the weight, its two axes of channels before those of the kernel, and the bias (O,)."""
        p, (_, bottom) = layer.convolution_param, self.split(layer, bottoms[0])
        kernel = self.windows(layer, bottom).kernel
        group, outputs = self.checked_group(layer, bottom[1])
        shape = (*self.weight_channels(bottom[1], outputs, group), *kernel)
        params = [Param(shape, "weight", p.weight_filler if p.HasField("weight_filler") else None)]
        if p.bias_term:
            params.append(Param((outputs,), "bias", p.bias_filler if p.HasField("bias_filler") else None))
        return params

    def lower_one(self, layer: Layer, graph: ParamGraph, bottom: str) -> str:
        """Append the node for one bottom (N, C, ...)."""
        shape = graph.shape(bottom)
        w = self.placed(layer, shape)
        group, _ = self.checked_group(layer, shape[1])
        weight, *bias = self.arrays(layer, graph)
        if not w.kernel:
            weight = graph.op("Reshape", weight, [*graph.shape(weight), 1])
            column = graph.reshape(bottom, [*shape, 1])
            return graph.op(self.operator, column, weight, *bias, kernel_shape=[1], group=group)
        return graph.op(
            self.operator,
            bottom,
            weight,
            *bias,
            kernel_shape=list(w.kernel),
            strides=list(w.stride),
            pads=w.onnx_pads,
            dilations=list(w.dilation),
            group=group,
        )

    def arrays(self, layer: Layer, graph: ParamGraph) -> list[str]:
        """Return the values of weight and, if there is one, bias."""
        return [graph.param(layer, i) for i in range(2 if layer.convolution_param.bias_term else 1)]


@layer_type("Convolution")
class Convolution(LearnedConvolution):
    """Cross-correlation with learned kernels; the output size is rounded down."""

    operator = "Conv"

    def top(self, layer: Layer, bottom: Shape) -> Shape:
        """Return num_output channels and the number of window positions."""
        _, outputs = self.checked_group(layer, bottom[1])
        return (bottom[0], outputs, *self.positions(layer, bottom))

    def weight_channels(self, inputs: int, outputs: int, group: int) -> tuple[int, int]:
        """Return (O, I/group)."""
        return outputs, inputs // group

    def macs(self, layer: Layer, bottoms: Sequence[Shape]) -> int:
        """Return one product per weight and position."""
        _, *others = self.params(layer, bottoms)[0].shape
        return sum(math.prod(others) * math.prod(self.whole_top(layer, bottom)) for bottom in bottoms)


@layer_type("Deconvolution")
class Deconvolution(LearnedConvolution):
    """The gradient of a convolution as a forward layer: up-sampling with learned kernels."""

    operator = "ConvTranspose"

    def placed(self, layer: Layer, bottom: Shape) -> Windows:
        """Return the windows as they are stated."""
        return self.windows(layer, bottom)

    def top(self, layer: Layer, bottom: Shape) -> Shape:
        """Return num_output channels and the size whose convolution would give the bottom's."""
        w = self.windows(layer, bottom)
        _, outputs = self.checked_group(layer, bottom[1])
        sizes = [
            stride * (size - 1) + extent - a - b
            for size, a, b, extent, stride in zip(bottom[2:], w.pads, w.ends, w.extent, w.stride, strict=True)
        ]
        if min(sizes, default=1) < 1:
            raise LayerError(f"pad {w.pads} leaves nothing of the output")
        return (bottom[0], outputs, *sizes)

    def weight_channels(self, inputs: int, outputs: int, group: int) -> tuple[int, int]:
        """Return (I, O/group)."""
        return inputs, outputs // group

    def macs(self, layer: Layer, bottoms: Sequence[Shape]) -> int:
        """Return one product per weight and bottom position."""
        _, *others = self.params(layer, bottoms)[0].shape
        return sum(math.prod(others) * math.prod(bottom) for bottom in bottoms)
