"""Units are drawn from what they really see in the net, wherever they stand in it."""

import numpy as np
import pytest

import caffeinit
from tests.nets import NETS, pictures
from tests.test_within import measured

LEARNED = ("patches", "pca", "zca", "kmeans")


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", LEARNED)
def test_every_unit_is_drawn_from_its_inputs(name, method):
    # These nets have units that read a ReLU, a pooling, a Concat and a Sum.
    net, batches = NETS[name](), pictures()
    for arrays in net.params.values():
        for array in arrays:
            array[...] = 0
    result = caffeinit.init(net, batches, method=method, beta=0.1, balanced=False)
    assert not any(report.dead for report in result.units)
    for unit in net.units:
        if unit.kind == "affine":
            assert unit.weight.any(axis=tuple(range(2, unit.weight.ndim))).all(), unit.name
    for unit, moments in ((u, measured(net, batches)[u.name]) for u in net.units):
        np.testing.assert_allclose(moments.std, 1, atol=1e-3)
        if unit.bias is not None and unit.kind != "norm":
            np.testing.assert_allclose(moments.mean, 0.1, atol=1e-3)
