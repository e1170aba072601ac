"""Kernels too large to be built into a session are fed to it, and the net stays the same function."""

import numpy as np
import pytest

import caffeinit
from caffeinit.engine import session
from tests.nets import NETS, pictures


@pytest.fixture(params=["chain", "inception"])
def net(request):
    return NETS[request.param]()


def outputs(net):
    return [net.forward(batch, blobs=net.graph.outputs) for batch in pictures()]


def test_the_function_is_the_same(net, monkeypatch):
    wanted = outputs(net)
    monkeypatch.setattr(session, "HUGE_ELEMENTS", 1)
    kernels = {node.input[1] for node in net.graph.nodes if node.op_type == "Conv"}
    assert kernels <= set(session.fed_weights(net.graph))
    for found, old in zip(outputs(net), wanted, strict=True):
        for name, array in found.items():
            np.testing.assert_allclose(array, old[name], rtol=0, atol=1e-5 * np.abs(old[name]).max())


def test_they_are_normalised_and_rescaled_like_others(net, monkeypatch):
    monkeypatch.setattr(session, "HUGE_ELEMENTS", 1)
    caffeinit.init(net, pictures(), balanced=False)
    for unit in caffeinit.measure(net, pictures()).units:
        np.testing.assert_allclose(unit.stats.channel_stds, 1, rtol=1e-4)
    before = outputs(net)
    caffeinit.rescale(net, pictures())
    for found, old in zip(outputs(net), before, strict=True):
        for name, array in found.items():
            np.testing.assert_allclose(array, old[name], rtol=0, atol=1e-5 * np.abs(old[name]).max())
