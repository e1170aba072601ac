"""Going back to the best point seen: short changes by their inverse, others from copies."""

import numpy as np
import pytest

from caffeinit.apply.plan import Plan
from caffeinit.errors import CaffeinitError, WeightsError
from caffeinit.methods.best import Best
from caffeinit.methods.between import scale_system
from caffeinit.statistics.rates import RateProbe
from tests.nets import NETS, pictures


def begun(name="chain"):
    net = NETS[name]()
    probe = RateProbe(net, pictures()[:1])
    system = scale_system(net, lambda unit: "", probe.heads, relaxed=False)
    state = Best(net, [u for u in net.units if u.kind == "affine"])
    nothing = Plan(system, np.zeros(system.solution.matrix.shape[0]))
    state.offer(nothing, probe.measure())
    return net, state, system


def copies(net):
    return {name: array.copy() for name, array in net.graph.initializers.items()}


def change(system, size):
    unknowns = size * np.sin(np.arange(system.num_unknowns))
    return Plan(system, system.expand(unknowns))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("kept", [False, True])
def test_two_short_changes_are_undone_to_the_last_digits(name, kept):
    net, state, system = begun(name)
    before = copies(net)
    state.leave(change(system, 0.4))
    state.leave(change(system, -0.7))
    if kept:  # something else changes the arrays then
        state.keep()
        for layer in net.params.values():
            layer[0][...] += 1
    assert any(not np.array_equal(a, net.graph.initializers[n]) for n, a in before.items())
    given = state.finish()
    for n, array in before.items():
        np.testing.assert_allclose(net.graph.initializers[n], array, rtol=1e-6)
    assert not any(logs.any() for logs in given.values())


def test_a_long_change_is_gone_back_from_exactly():
    net, state, system = begun()
    before = copies(net)
    state.leave(change(system, 9.0))
    state.finish()
    for n, array in before.items():
        np.testing.assert_array_equal(net.graph.initializers[n], array)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("size", [0.4, 9.0])
def test_it_can_be_gone_back_and_left_again(size, kept):
    net, state, system = begun()
    before = copies(net)
    for _ in range(2):
        state.leave(change(system, 0.3))
        if kept:
            state.keep()
        state.leave(change(system, size))
        given = state.back()
        for n, array in before.items():
            np.testing.assert_allclose(net.graph.initializers[n], array, rtol=1e-6)
        assert not any(logs.any() for logs in given.values())
    state.leave(change(system, -size))
    state.finish()
    for n, array in before.items():
        np.testing.assert_allclose(net.graph.initializers[n], array, rtol=1e-6)


@pytest.mark.parametrize(("size", "raised"), [(1.0, CaffeinitError), (9.0, WeightsError)])
def test_numbers_that_leave_single_precision_are_said(size, raised):
    net, state, system = begun()
    net.params["conv1"][0][...] = 3e38
    with pytest.raises(raised) as failed:
        state.leave(change(system, size))
    assert type(failed.value) is raised
