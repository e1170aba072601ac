"""Convolutions of one channel each: ConvolutionDepthwise and DepthwiseConvolution, of different forks."""

from __future__ import annotations

from caffeinit.caffe.layers.base import Layer, layer_type
from caffeinit.caffe.layers.convolution import Convolution
from caffeinit.errors import LayerError


@layer_type("ConvolutionDepthwise")
class ConvolutionDepthwise(Convolution):
    """Convolution with a group per channel, whatever the net says.

    Source: farmingyard/ShuffleNet, conv_dw_layer.cpp; its weight is (C, 1, kh, kw), num_output must be C.
    """

    def group(self, layer: Layer, channels: int) -> int:
        """Return the number of channels."""
        return channels

    def num_output(self, layer: Layer, channels: int) -> int:
        """Return num_output, which must be the number of channels."""
        given = int(layer.convolution_param.num_output)
        if given != channels:
            raise LayerError(f"num_output {given} is not the number of bottom channels, {channels}")
        return given


@layer_type("DepthwiseConvolution", "ConvolutionDepthWise", "DepthWiseConvolution")
class DepthwiseConvolution(Convolution):
    """Convolution with a group per channel, or the groups that the net states.

    Source: yonghenglh6/DepthwiseConvolution, a faster Convolution for group = channels.
    """

    def group(self, layer: Layer, channels: int) -> int:
        """Return `group`, or the number of channels where it is not given."""
        p = layer.convolution_param
        return int(p.group) if p.HasField("group") else channels
