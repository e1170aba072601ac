import numpy as np
import pytest

from caffeinit.caffe.layers import activation
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal

SHAPE = (2, 3, 4, 5)


def case(kind, settings, function, shape=SHAPE, **more):
    """A row of a function of single numbers, computed in double precision."""

    def define(x, *params):
        return [np.asarray(function(x.astype(np.float64), *params), np.float32)]

    return Case(kind, settings, [shape], [shape], define, **more)


def positive(rng, shape, i):
    return rng.uniform(0.1, 3, shape)


def far(rng, shape, i):
    return rng.uniform(-90, 90, shape)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(axis):
    return lambda x: np.exp(x) / np.exp(x).sum(axis, keepdims=True)


def prelu(x, slope):
    return np.where(x > 0, x, x * (slope.reshape(-1, *[1] * (x.ndim - 2)) if slope.ndim else slope))


CASES = [
    case("ReLU", "", lambda x: np.maximum(x, 0)),
    case("ReLU", "relu_param { negative_slope: 0.2 }", lambda x: np.where(x > 0, x, 0.2 * x)),
    case("ReLU", "relu_param { negative_slope: -1 }", np.abs),
    case("ReLU6", "", lambda x: np.clip(x, 0, 6), make=far),
    case("PReLU", "", prelu, params=[(3,)]),
    case("PReLU", "prelu_param { channel_shared: true }", prelu, params=[()]),
    case("PReLU", "", prelu, shape=(4, 3), params=[(3,)], name="PReLU-of two axes"),
    case("Sigmoid", "", sigmoid),
    case("Sigmoid", "", sigmoid, make=far, name="Sigmoid-far from 0"),
    case("TanH", "", np.tanh),
    case("AbsVal", "", np.abs),
    case("ELU", "elu_param { alpha: 0.5 }", lambda x: np.where(x > 0, x, 0.5 * np.expm1(x))),
    case("BNLL", "", lambda x: np.logaddexp(0, x)),
    case("BNLL", "", lambda x: np.logaddexp(0, x), make=far, name="BNLL-far from 0"),
    case("Swish", "swish_param { beta: 1.5 }", lambda x: x * sigmoid(1.5 * x)),
    case("Power", "power_param { power: 2 scale: 0.5 shift: -1 }", lambda x: (0.5 * x - 1) ** 2),
    case("Power", "power_param { power: -0.5 scale: 2 }", lambda x: (2 * x) ** -0.5, make=positive),
    case("Power", "power_param { scale: 2 shift: 3 }", lambda x: 2 * x + 3),
    case("Power", "power_param { power: 0 }", np.ones_like),
    case("Power", "power_param { scale: 0 shift: 2 power: 3 }", lambda x: np.full_like(x, 8)),
    case("Power", "", lambda x: x, name="Power-that changes nothing"),
    case("Exp", "exp_param { scale: 0.5 shift: 1 }", lambda x: np.exp(0.5 * x + 1)),
    case("Exp", "exp_param { base: 2 shift: -1 }", lambda x: 2 ** (x - 1)),
    case("Log", "log_param { scale: 2 shift: 1 }", lambda x: np.log(2 * x + 1), make=positive),
    case("Log", "log_param { base: 10 }", np.log10, make=positive),
    case("Threshold", "threshold_param { threshold: 0.3 }", lambda x: x > np.float32(0.3)),
    case(
        "Threshold",
        "threshold_param { threshold: 1 }",
        lambda x: x > 1,
        make=lambda rng, shape, i: rng.integers(0, 3, shape),
        name="Threshold-that is met exactly",
    ),
    case("Clip", "clip_param { min: -0.5 max: 1 }", lambda x: np.clip(x, -0.5, 1)),
    case("Dropout", "dropout_param { dropout_ratio: 0.7 }", lambda x: x),
    case("Dropout", "dropout_param { dropout_ratio: 0.75 scale_train: false }", lambda x: 0.25 * x),
    case("Softmax", "", softmax(1)),
    case("Softmax", "softmax_param { axis: -1 }", softmax(3)),
    case("Softmax", "", softmax(1), shape=(4, 7), name="Softmax-of two axes"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_is_its_definition(case, tmp_path):
    check_case(case, tmp_path)


def test_every_type_has_a_row():
    check_every_type_has_a_row(activation, CASES)


@pytest.mark.parametrize(
    ("kind", "settings", "shape", "words"),
    [
        ("PReLU", "", (4,), "needs channels on axis 1"),
        ("Softmax", "softmax_param { axis: 4 }", SHAPE, "axis 4 is outside"),
        ("Exp", "exp_param { base: -2 }", SHAPE, "base -2.0 must be positive"),
        ("Log", "log_param { base: 1 }", SHAPE, "not 1"),
        ("Clip", "clip_param { min: 0 }", SHAPE, "min and max must be given"),
        ("ReLU", "relu_param { alpha: 2 }", SHAPE, "alpha 2 is not supported"),
        ("ReLU6", "relu6_param { negative_slope: 0.1 }", SHAPE, "negative_slope"),
    ],
)
def test_refusals_name_the_parameter(kind, settings, shape, words, tmp_path):
    check_refusal(Case(kind, settings, [shape], [shape]), words, tmp_path)
