"""Acceleration of a fixed point: fewer steps, and none too far."""

import numpy as np
import pytest

from caffeinit.methods.acceleration import Accelerated


def test_acceleration_solves_a_linear_fixed_point_in_as_many_steps_as_it_has_dimensions():
    rng = np.random.default_rng(0)
    matrix = rng.normal(0, 0.1, (3, 3)) + np.diag([1.3, 0.9, 0.5])
    goal = np.array([0.05, -0.1, 0.02])
    accelerated, point = Accelerated(), np.zeros(3)
    for _ in range(6):
        point = accelerated.next(point, matrix @ (goal - point))
    np.testing.assert_allclose(point, goal, atol=1e-9)


@pytest.mark.parametrize("slope", [0.7, 1.0, 1.8, 2.5, 4.0])
def test_long_steps_that_lead_too_far_are_shortened(slope):
    # At 2 steps of their full length go to and fro for ever, above it they grow.
    accelerated, point, goal = Accelerated(), np.zeros(2), np.array([30.0, -8.0])
    for _ in range(12):
        point = accelerated.next(point, slope * (goal - point))
    np.testing.assert_allclose(point, goal, atol=1e-6)


def test_acceleration_does_not_follow_noise_far_away():
    accelerated, start, step = Accelerated(), np.array([0.1, 0.2]), np.array([0.03, 0.0])
    second = accelerated.next(start, step)
    noisy = step * (1 - 1e-4)  # the step has hardly changed: on a line through both, the end is 300 away
    third = accelerated.next(second, noisy)
    np.testing.assert_array_equal(third, second + noisy)
    # What misled is forgotten: the next two points on a true line lead to its end.
    goal = third + np.array([0.02, 0.01])
    point = accelerated.next(third, 0.5 * (goal - third))
    for _ in range(3):
        point = accelerated.next(point, 0.5 * (goal - point))
    np.testing.assert_allclose(point, goal, atol=1e-9)
