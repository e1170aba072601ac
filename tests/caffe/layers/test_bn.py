import numpy as np
import pytest

from caffeinit.caffe.layers import bn
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal


def stored(eps):
    def define(x, slope, bias, mean, variance):
        top = np.empty_like(x)
        for c in range(x.shape[1]):
            s, b, m, v = (float(a.reshape(-1)[c]) for a in (slope, bias, mean, variance))
            top[:, c] = s * (x[:, c] - m) / np.sqrt(v + eps) + b
        return [top]

    return define


def affine(x, scale, shift):
    shape = (1, -1, *[1] * (x.ndim - 2))
    return [x * scale.reshape(shape) + shift.reshape(shape)]


def of_the_batch(eps):
    def define(x, scale, shift):
        top = np.empty_like(x)
        for c in range(x.shape[1]):
            part = x[:, c].astype(np.float64)
            part = (part - part.mean()) / np.sqrt(part.var() + eps)
            top[:, c] = part * scale.reshape(-1)[c] + shift.reshape(-1)[c]
        return [top]

    return define


A, P = (3, 4, 5, 2), (1, 4, 1, 1)
CASES = [
    Case(
        "BN",
        "bn_param { frozen: true slope_filler { value: 1 } }",
        [A],
        [A],
        stored(1e-5),
        params=[P] * 4,
        tolerance=1e-5,
    ),
    Case("BN", "bn_param { eps: 0.5 momentum: 0.9 }", [(3, 4)], [(3, 4)], stored(0.5), params=[P] * 4, tolerance=1e-5),
    Case("BN", "param {} param {} param {} param {}", [A], [A], stored(1e-5), params=[P] * 4, tolerance=1e-5),
    Case("BN", "bn_param { bn_mode: INFERENCE }", [A], [A], affine, params=[P] * 2),
    Case("BN", "bn_param { bn_mode: INFERENCE shift_filler {} }", [(3, 4)], [(3, 4)], affine, params=[P] * 2),
    Case("BN", "bn_param { scale_filler { value: 1 } }", [A], [A], of_the_batch(1e-9), params=[P] * 2, tolerance=1e-5),
    Case(
        "BN", "bn_param { bn_mode: LEARN var_eps: 0.25 }", [A], [A], of_the_batch(0.25), params=[P] * 2, tolerance=1e-5
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_is_its_definition(case, tmp_path):
    check_case(case, tmp_path)


def test_every_type_has_a_row():
    check_every_type_has_a_row(bn, CASES)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("", "nothing tells which fork's it is"),
        ("bn_param { scale_filler {} frozen: true }", "scale_filler, frozen are not of one fork"),
        ("bn_param { moving_average: true scale_filler {} }", "moving_average"),
    ],
)
def test_an_unclear_bn_is_refused(settings, words, tmp_path):
    check_refusal(Case("BN", settings, [A], [A]), words, tmp_path)
