"""What the walk over a graph states beside the operators' rules."""

import numpy as np

import caffeinit
from tests.onnxnets import ModelBuilder, network_of


def test_channels_of_zeros_that_something_is_added_to_have_a_scale():
    """A shortcut with channels of zeros behind it, as in narrow ResNets: with a shift they are no zeros any more."""
    b = ModelBuilder(17)
    x = b.op("Pad", b.conv("input", "narrow", 3, 3), np.asarray([0, 0, 0, 0, 0, 2, 0, 0]))
    x = b.op("Add", x, b.draw("shift", 1, 5, 1, 1))
    net = network_of(b.finish(b.head(b.op("Relu", b.op("Add", x, b.conv("input", "wide", 3, 5))), 5)))
    x = np.random.default_rng(0).standard_normal((16, *net.inputs["input"][1:])).astype(np.float32)
    arrays = [net.params["shift"][0], net.params["wide.bias"][0]]
    before = [a.reshape(-1).copy() for a in arrays]
    caffeinit.rescale(net, {"input": x}, mode="equalize")  # refused where the outputs move
    shift, wide = (a.reshape(-1) / b for a, b in zip(arrays, before, strict=True))
    np.testing.assert_allclose(shift, wide, rtol=1e-5)  # single precision
    assert not np.isclose(shift, 1).any()
