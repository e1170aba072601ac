import math
from dataclasses import dataclass

import numpy as np
import pytest

from caffeinit.draw import FILLER_TYPES, Filler, WeightSpec, draw, fill
from caffeinit.errors import LayerError

SHAPE = (64, 32, 5, 5)
COUNT = math.prod(SHAPE)  # 51200: a mean is known to std / 226, a deviation to about 0.5 %


@dataclass
class Moments:
    filler: Filler
    mean: float
    std: float
    low: float = -math.inf
    high: float = math.inf

    def __str__(self):
        return f"{self.filler.type}-{self.filler.variance_norm}-{self.filler.sparse}"


FAN_IN, FAN_OUT = 32 * 25, 64 * 25
AVERAGE = (FAN_IN + FAN_OUT) / 2
CASES = [
    Moments(Filler("constant", value=0.25), 0.25, 0.0, 0.25, 0.25),
    Moments(Filler("uniform", min=-1.0, max=3.0), 1.0, 4 / math.sqrt(12), -1.0, 3.0),
    Moments(Filler("gaussian", mean=2.0, std=0.5), 2.0, 0.5),
    # A value stays with probability 16 of 64: variance p * std^2 for mean 0.
    Moments(Filler("gaussian", std=2.0, sparse=16), 0.0, 2.0 * math.sqrt(16 / 64)),
    Moments(Filler("positive_unitball"), 1 / FAN_IN, 1 / FAN_IN / math.sqrt(3), 0.0, 1.0),
    Moments(Filler("xavier"), 0.0, math.sqrt(1 / FAN_IN), -math.sqrt(3 / FAN_IN), math.sqrt(3 / FAN_IN)),
    Moments(Filler("xavier", variance_norm="FAN_OUT"), 0.0, math.sqrt(1 / FAN_OUT), -math.sqrt(3 / FAN_OUT)),
    Moments(Filler("xavier", variance_norm="AVERAGE"), 0.0, math.sqrt(1 / AVERAGE), -math.sqrt(3 / AVERAGE)),
    Moments(Filler("msra"), 0.0, math.sqrt(2 / FAN_IN)),
    Moments(Filler("msra", variance_norm="FAN_OUT"), 0.0, math.sqrt(2 / FAN_OUT)),
    Moments(Filler("msra", variance_norm="AVERAGE"), 0.0, math.sqrt(2 / AVERAGE)),
]


def test_every_filler_has_a_row():
    assert {case.filler.type for case in CASES} | {"bilinear"} == set(FILLER_TYPES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_moments_are_those_of_caffes_formula(case):
    values = fill(case.filler, SHAPE, np.random.default_rng(0)).astype(np.float64)
    assert values.shape == SHAPE
    # Five standard errors; a wrong fan or a missing factor is off by far more.
    assert abs(values.mean() - case.mean) <= 5 * max(case.std, 1e-9) / math.sqrt(COUNT)
    assert values.std() == pytest.approx(case.std, rel=0.02, abs=1e-9)
    # Bounds are float32 numbers.
    assert values.min() >= case.low - 1e-6 * abs(case.low)
    assert values.max() <= case.high + 1e-6 * abs(case.high)
    if case.low not in (-math.inf, 0.25) and case.filler.type != "positive_unitball":
        assert values.min() < 0.999 * case.low  # the whole range is used


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 8, 16])
def test_bilinear_is_caffes_formula_pixel_by_pixel(size):
    values = fill(Filler("bilinear"), (2, 3, size, size), np.random.default_rng(0))
    half = math.ceil(size / 2.0)
    centre = (size - 1) / (2.0 * half)
    for y in range(size):
        for x in range(size):
            expected = (1 - abs(x / half - centre)) * (1 - abs(y / half - centre))
            assert values[:, :, y, x] == pytest.approx(expected, abs=1e-6)  # float32


def test_positive_unitball_rows_sum_to_one():
    values = fill(Filler("positive_unitball"), (7, 3, 2, 2), np.random.default_rng(0))
    assert values.reshape(7, -1).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_sparse_leaves_that_many_of_the_outputs_on_average():
    values = fill(Filler("gaussian", sparse=8), (32, 4000), np.random.default_rng(0))
    assert np.count_nonzero(values) / values.size == pytest.approx(8 / 32, rel=0.02)


def test_fans_are_those_of_the_stored_array():
    spec = WeightSpec("ip", (200, 50), filler=Filler("xavier"), transposed=True)
    weight = draw("filler", spec, seed=0).weight
    # Stored as (50, 200): fan_in is 200, the number of outputs, as in Caffe.
    assert np.abs(weight).max() == pytest.approx(math.sqrt(3 / 200), rel=0.01)


REFUSED = [
    (Filler("cubic"), (2, 2, 3, 3), r'layer "up": filler type "cubic" is not one of Caffe\'s \(bilinear, constant'),
    (Filler("xavier", sparse=3), (2, 2), r'layer "up": filler type "xavier" does not take `sparse`'),
    (Filler("gaussian", sparse=3), (2, 2), r'layer "up": gaussian filler has std 1 and sparse 3 for 2 outputs'),
    (Filler("gaussian", std=-1), (2, 2), r'layer "up": gaussian filler has std -1'),
    (Filler("gaussian", std=0), (2, 2), r'layer "up": gaussian filler has std 0'),
    (Filler("uniform", min=1, max=0), (2, 2), r'layer "up": uniform filler has min 1 above max 0'),
    (Filler("bilinear"), (2, 2, 3, 4), r'layer "up": bilinear filler needs a square 2-D kernel, found .*3, 4'),
    (Filler("bilinear"), (2, 2), r'layer "up": bilinear filler needs a square'),
    (Filler("msra", variance_norm="FAN"), (2, 2), r"layer \"up\": variance_norm 'FAN' is not one of FAN_IN"),
]


@pytest.mark.parametrize(("filler", "shape", "message"), REFUSED)
def test_what_caffe_refuses_is_refused_with_the_layers_name(filler, shape, message):
    with pytest.raises(LayerError, match=message):
        fill(filler, shape, np.random.default_rng(0), "up")


def test_a_weight_without_filler_is_not_drawn_as_zeros():
    with pytest.raises(LayerError, match='layer "conv": the net states no weight_filler for it'):
        draw("filler", WeightSpec("conv", (2, 2)), seed=0)
