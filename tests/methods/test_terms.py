"""Rates as functions of scales: together as each by itself, with the derivatives that are theirs."""

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from caffeinit.methods.between import free_groups, scale_system
from caffeinit.methods.goal import Bends
from caffeinit.methods.terms import Term, Terms, find_terms
from caffeinit.scales.mixtures import Growth
from caffeinit.scales.transfer import Curves, Transfers
from caffeinit.statistics.rates import RateProbe
from tests.nets import NETS, pictures


def terms_of(name):
    """Return the terms of a net's units with one scale each, as they follow from its rates, and their system."""
    net = NETS[name]()
    probe = RateProbe(net, pictures()[:1])
    system = scale_system(net, lambda unit: "", probe.heads, relaxed=False)
    system = system.tied(free_groups(system))
    return find_terms([u for u in net.units if u.kind == "affine"], system, probe.measure()), system


def test_the_derivatives_of_a_rate_are_its_differences():
    found, system = terms_of("inception")
    x = np.random.default_rng(0).normal(0, 0.5, system.num_unknowns)
    terms = Terms(found)
    for unknown in range(system.num_unknowns):
        step = np.eye(system.num_unknowns)[unknown] * 1e-5
        difference = (terms.log_rates(x + step) - terms.log_rates(x - step)) / 2e-5
        np.testing.assert_allclose(terms.gradients(x)[:, unknown], difference, atol=1e-6)


def test_rates_of_units_together_are_those_of_each():
    terms, system = terms_of("inception")
    for x in np.random.default_rng(0).normal(0, 0.5, (3, system.num_unknowns)):
        for term, log in zip(terms, Terms(terms).log_rates(x), strict=True):
            squares = np.exp(term.diffs - 2 * term.rows @ x).sum(), np.exp(term.weights + 2 * term.rows @ x).sum()
            assert log == pytest.approx(np.log(squares[0] / squares[1]) / 2, abs=1e-12)


def test_the_derivatives_of_a_rate_below_a_curve_are_its_differences():
    scales = np.linspace(-12, 12, 25)
    both = np.stack([scales, 0.7 * scales], axis=-1)
    curves = (Curves(CubicSpline(scales, f), np.array([0.4, -0.3])) for f in (np.sin(both), np.cos(0.5 * both)))
    bends = Bends(
        np.array([[0.7, -0.2], [0.1, 0.5]]),
        np.array([[0.0, 1.0], [1.0, 0.3]]),
        Transfers(*curves, np.zeros(2, bool), np.full(2, np.inf)),
    )
    grows = [Growth(bends, layers) for layers in ([0], [0, 1])]
    term = Term("unit", np.array([0.1, -0.4]), np.array([0.3, 0.2]), np.array([[1.0, 0], [0, -1.0]]), grows)
    terms = Terms([term])
    x = np.array([0.35, -0.8])
    for step in 1e-5 * np.eye(2):
        difference = (terms.log_rates(x + step) - terms.log_rates(x - step)) / 2e-5
        assert terms.gradients(x) @ step == pytest.approx(1e-5 * difference, abs=1e-10)
        gaps = (bends.gap(x + step) - bends.gap(x - step)) / 2e-5
        np.testing.assert_allclose(bends.gradient(x) @ step, 1e-5 * gaps, atol=1e-10)
