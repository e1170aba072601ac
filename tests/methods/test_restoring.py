"""What a change did beside its plan is made up for: channels have the moments that they were to have."""

import math

import numpy as np
import pytest

import caffeinit
from caffeinit.methods.restoring import Keeper, Normalizer, Restorer, Thorough, find_restorer
from caffeinit.statistics.forward import measure_moments
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
    keeper.prepare(at(0.3))
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
        keeper.prepare(at(logs))
        assert keeper.restore(given(net, logs), at(logs)) == math.inf
    assert all((net.graph.initializers[name] == array).all() for name, array in weights.items())
    keeper.prepare(at(0.12))
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


def test_stored_statistics_stay_those_of_all_pictures():
    net, batches = NETS["residual"](), pictures()
    caffeinit.init(net, batches, balanced=False)
    norms = [name for unit in net.units if unit.kind == "norm" for name in unit.initializers]
    before, stored = stds(net, batches[:1]), [net.graph.initializers[name].copy() for name in norms]
    restorer = find_restorer(net, batches[:1], lambda unit: "", least=0)
    restorer.prepare(at(0.3))
    stretched(net, 1.5)
    restorer.restore(given(net, 0.3), at(0.3))
    assert all(np.array_equal(net.graph.initializers[name], was) for name, was in zip(norms, stored, strict=True))
    found = stds(net, batches[:1])
    for unit in net.units:
        if unit.kind == "affine":
            np.testing.assert_allclose(found[unit.key], before[unit.key] * np.exp(0.3), rtol=2e-3)


@pytest.mark.parametrize(
    ("least", "spread", "left"), [(0, 0.01, 0), (0, 0.7, 0), (10**6, 0.01, 0.01), (10**6, 0.7, 0.03)]
)
def test_of_few_values_what_chance_would_make_is_left(normalised, least, spread, left):
    # 480 values of normal noise have deviations that scatter by .03.
    net, batches = normalised
    before = stds(net, batches)
    keeper = Keeper(net, batches, lambda unit: "", least)
    keeper.prepare(at(0.3))
    weight = net.graph.initializers[net.units[0].initializers[0]]
    weight *= np.exp(np.linspace(-spread, spread, len(weight))).astype(np.float32).reshape(-1, 1, 1, 1)
    keeper.restore(given(net, 0.3), at(0.3))
    first = net.units[0].key
    ratios = np.log(stds(net, batches)[first] / before[first]) - 0.3
    assert np.abs(ratios).max() <= left + 1e-3
    assert bool(np.abs(ratios).max() > 1e-3) is (left > 0)
    assert ratios.mean() == pytest.approx(0, abs=1e-3)


class Recorded(Restorer):
    """Has missed what it was told to have."""

    def __init__(self, missed):
        self.missed, self.begun = missed, []

    def restore(self, scales, point):
        return self.missed

    def begin(self, scales, point):
        self.begun.append(float(point[0]))


@pytest.mark.parametrize(
    ("missed", "points", "seen"),
    [
        (math.inf, [0.1, 0.25, 0.29], []),
        (0.01, [0.1, 0.25, 0.29], []),
        (0.01, [0.2, 0.4, 0.6, 0.8], [0.4, 0.8]),  # far from where all pictures were seen last
        (math.inf, [0.2, 0.4], [0.4]),
        (0.1, [0.1, 0.11], [0.1, 0.11]),  # much was off
        (0.1, [0.1] * 9, [0.1] * 6),  # there is an end to it
    ],
    ids=str,
)
def test_all_pictures_are_seen_again_where_a_few_are_not_enough(missed, points, seen):
    passes, usual = [], Recorded(missed)
    thorough = Thorough(usual, lambda scales: passes.append(scales["unit"]))
    for point in points:
        thorough.prepare(at(point))
        assert thorough.restore({"unit": point}, at(point)) == missed
    assert passes == seen
    assert usual.begun == seen
    assert thorough.was_needed is bool(seen)


def test_what_has_begun_anew_keeps_what_is_there_then(normalised):
    net, batches = normalised
    keeper = Keeper(net, batches, lambda unit: "", least=100)
    keeper.prepare(at(0.3))
    stretched(net, 1.5)
    keeper.begin(given(net, 0.3), at(0.3))
    before = stds(net, batches)
    keeper.prepare(at(0.5))
    stretched(net, 2.0)
    keeper.restore(given(net, 0.5), at(0.5))
    for key, found in stds(net, batches).items():
        np.testing.assert_allclose(np.log(found).mean(), np.log(before[key]).mean() + 0.2, atol=1e-3)
