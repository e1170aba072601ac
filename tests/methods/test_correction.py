"""Corrections of single units: what deviations over few values are taken for."""

import numpy as np
import pytest

from caffeinit.arithmetic.moments import Moments
from caffeinit.graph.units import Unit
from caffeinit.methods.correction import Target, Trust, plan_correction
from tests.nets import NetBuilder

CHANNELS, VALUES = 4000, 16


def corrected(deviations: np.ndarray, trust: Trust) -> np.ndarray:
    """Return the logarithms of the factors that take a few values of these true deviations to deviation 1."""
    b = NetBuilder()
    net = b.finish(b.conv("data", "a", CHANNELS, kernel=1))
    (unit,) = net.units
    assert isinstance(unit, Unit)
    values = np.random.default_rng(0).standard_normal((VALUES, CHANNELS)) * deviations
    moments = Moments(CHANNELS)
    moments.merge(VALUES, values.mean(axis=0), values.var(axis=0) * VALUES)
    return np.log(plan_correction(unit, moments, Target(0.0, 1.0, trust)).scale)


def test_scatter_that_chance_makes_is_taken_out_of_few_values() -> None:
    ones = np.ones(CHANNELS)
    assert corrected(ones, Trust.FULL).std() > 0.15
    assert corrected(ones, Trust.SAMPLE).std() < 0.05
    assert corrected(ones, Trust.NONE).std() == pytest.approx(0, abs=1e-12)


def test_scatter_of_true_deviations_stays() -> None:
    true = np.random.default_rng(1).normal(0, 0.4, CHANNELS)
    found = corrected(np.exp(true), Trust.SAMPLE)
    assert found.std() == pytest.approx(0.4, rel=0.05)
    assert np.corrcoef(found, -true)[0, 1] > 0.85
    assert found.mean() == pytest.approx(corrected(np.exp(true), Trust.FULL).mean(), abs=1e-9)


@pytest.mark.parametrize("trust", Trust)
def test_channels_that_were_dead_when_targets_were_measured_are_left_as_they_are(trust: Trust) -> None:
    """What is dead on some pictures may come to life as others are made up for; 0 divided by its deviation is no factor."""
    b = NetBuilder()
    (unit,) = b.finish(b.conv("data", "a", 3, kernel=1)).units
    moments = Moments(3)
    moments.merge(VALUES, np.zeros(3), np.full(3, 4.0 * VALUES))
    found = plan_correction(unit, moments, Target(np.ones(3), np.array([1.0, 0.0, 1.0]), trust))
    np.testing.assert_allclose(found.scale, [0.5, 1, 0.5])
    np.testing.assert_allclose(found.shift[1], 0)
    assert list(found.dead) == [False, True, False]
