import math
from dataclasses import replace

import numpy as np
import pytest

from caffeinit.draw import METHODS, DrawOptions, WeightSpec, draw
from caffeinit.draw.baselines import CHOLESKY_ROWS, orthonormal_rows

SPEC = WeightSpec("conv", (64, 32, 5, 5), group=2)
FAN_IN = 800


def grouped(weight, group):
    return weight.reshape(group, weight.shape[0] // group, -1).astype(np.float64)


STDS = [
    ("gaussian", 1 / math.sqrt(FAN_IN)),
    ("xavier", 1 / math.sqrt(FAN_IN)),
    ("msra", math.sqrt(2 / FAN_IN)),
    ("random-walk", math.sqrt(2 / FAN_IN) * math.exp(1.2 / (FAN_IN - 2.4))),
]


@pytest.mark.parametrize(("method", "std"), STDS)
def test_deviation_is_the_published_one(method, std):
    weight = draw(method, SPEC, seed=0).weight
    assert weight.dtype == np.float32
    assert weight.mean() == pytest.approx(0, abs=5 * std / math.sqrt(weight.size))
    assert weight.std() == pytest.approx(std, rel=0.02)  # 51200 values


@pytest.mark.parametrize("method", [m for m in METHODS if METHODS[m].in_place])
@pytest.mark.parametrize("threads", [1, 3])
def test_weights_are_made_where_they_are_wanted_and_are_the_same(method, threads):
    target = np.full(SPEC.shape, np.nan, np.float32)
    drawn = draw(method, replace(SPEC, target=target), seed=3, options=DrawOptions(threads=threads))
    assert drawn.weight is target
    np.testing.assert_array_equal(target, draw(method, SPEC, seed=3).weight)


def test_random_walk_gain_is_bounded_for_few_inputs():
    weight = draw("random-walk", WeightSpec("tiny", (100000, 2)), seed=0).weight
    assert weight.std() == pytest.approx(math.sqrt(2) * math.exp(1.2 / 3.6) / math.sqrt(2), rel=0.02)


SHAPES = [(20, 50, 1), (50, 50, 1), (120, 50, 1), (40, 25, 2), (CHOLESKY_ROWS, 2 * CHOLESKY_ROWS, 1)]


@pytest.mark.parametrize(("outputs", "inputs", "group"), SHAPES)
def test_orthonormal_rows_are_orthonormal_in_blocks_of_the_dimension(outputs, inputs, group):
    drawn = draw("orthonormal", WeightSpec("ip", (outputs, inputs), group), seed=0)
    for rows in grouped(drawn.weight, group):
        for start in range(0, len(rows), inputs):
            block = rows[start : start + inputs]
            assert block @ block.T == pytest.approx(np.eye(len(block)), abs=2e-5)  # float32
    assert bool(drawn.notes) == (outputs // group > inputs)


@pytest.mark.parametrize(("outputs", "inputs", "group"), SHAPES)
def test_orthogonal_is_an_isometry_times_the_gain(outputs, inputs, group):
    weight = draw(
        "orthogonal", WeightSpec("ip", (outputs, inputs), group), seed=0, options=DrawOptions(gain=3.0)
    ).weight
    for rows in grouped(weight, group):
        singular = np.linalg.svd(rows, compute_uv=False)
        assert singular == pytest.approx(3.0, rel=1e-5)


def test_random_rotations_favour_no_direction_and_no_sign():
    # Plain QR leaves the diagonal of R positive or negative throughout: the mean of an entry is then far from 0.
    draws = np.stack([orthonormal_rows(3, 3, np.random.default_rng(seed)) for seed in range(2000)])
    assert draws.mean(axis=0) == pytest.approx(0, abs=5 * math.sqrt(1 / 3 / 2000))
    assert (draws**2).mean(axis=0) == pytest.approx(1 / 3, abs=0.04)
