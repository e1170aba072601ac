"""What a change did beside its plan is made up for: channels have the moments that they were to have."""

import math

import numpy as np
import pytest

import caffeinit
from caffeinit.forward import measure_moments
from caffeinit.restoring import Keeper, Normalizer, Restorer, find_restorer
from tests.nets import NETS, pictures


@pytest.fixture
def normalised():
    net, batches = NETS["chain"](), pictures()
    caffeinit.init(net, batches, balanced=False)
    return net, batches[:1]


def stds(net, batches):
    return {key: moments.std for key, moments in measure_moments(net, batches).items()}


def given(net, logs):
    return {unit.key: np.full(unit.num_channels, float(logs)) for unit in net.units}


def at(logs):
    return np.full(1, float(logs))


def stretched(net, factor):
    """Multiply all that the first unit puts out, which nothing above makes up for."""
    unit = net.units[0]
    for name in unit.initializers:
        net.graph.initializers[name] *= np.float32(factor)


def test_a_long_step_is_made_up_for(normalised):
    net, batches = normalised
    before = stds(net, batches)
    keeper = Keeper(net, batches, lambda unit: "", least=100)
    keeper.prepare(given(net, 0.3), at(0.3))
    stretched(net, 1.5)
    missed = keeper.restore(given(net, 0.3), at(0.3))
    assert missed >= math.log(1.5) - 0.3 - 1e-3
    for key, found in stds(net, batches).items():
        np.testing.assert_allclose(np.log(found).mean(), np.log(before[key]).mean() + 0.3, atol=1e-3)


def test_short_steps_are_made_up_for_once_they_are_a_long_one_together(normalised):
    net, batches = normalised
    keeper = Keeper(net, batches, lambda unit: "", least=100)
    before = stds(net, batches)
    weights = {name: array.copy() for name, array in net.graph.initializers.items()}
    for logs in (0.04, 0.08):
        keeper.prepare(given(net, logs), at(logs))
        assert keeper.restore(given(net, logs), at(logs)) == math.inf
    assert all((net.graph.initializers[name] == array).all() for name, array in weights.items())
    keeper.prepare(given(net, 0.12), at(0.12))
    stretched(net, 1.2)
    assert math.isfinite(keeper.restore(given(net, 0.12), at(0.12)))
    # Measured when they had been given 0.08: so much more is what is still to come.
    for key, found in stds(net, batches).items():
        np.testing.assert_allclose(np.log(found).mean(), np.log(before[key]).mean() + 0.04, atol=1e-3)


def test_a_normaliser_reaches_the_scales_themselves(normalised):
    net, batches = normalised
    stretched(net, 3.0)
    assert Normalizer(net, batches, lambda unit: "", 0.1).restore(given(net, 0.5), at(0.5)) > 0.5
    for found in stds(net, batches).values():
        assert np.log(found).mean() == pytest.approx(0.5, abs=1e-3)  # single deviations are of few values


def test_nets_with_stored_statistics_are_left_alone():
    net, batches = NETS["residual"](), pictures()
    assert type(find_restorer(net, batches, lambda unit: "")) is Restorer
    assert find_restorer(net, batches, lambda unit: "").restore(given(net, 5), at(5)) == math.inf


@pytest.mark.parametrize(("least", "kept"), [(0, True), (10**6, False)])
def test_channels_with_few_values_share_one_factor(normalised, least, kept):
    net, batches = normalised
    before = stds(net, batches)
    keeper = Keeper(net, batches, lambda unit: "", least)
    keeper.prepare(given(net, 0.3), at(0.3))
    weight = net.graph.initializers[net.units[0].initializers[0]]
    weight *= np.linspace(0.5, 2, len(weight)).astype(np.float32).reshape(-1, 1, 1, 1)  # each channel by itself
    keeper.restore(given(net, 0.3), at(0.3))
    first = net.units[0].key
    ratios = np.log(stds(net, batches)[first] / before[first]) - 0.3
    assert np.allclose(ratios, 0, atol=1e-3) is kept
    assert ratios.mean() == pytest.approx(0, abs=1e-3)
