import numpy as np
import pytest

from caffeinit.caffe.layers import eltwise
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal

SHAPE = (2, 3, 4)


def case(settings, count, define):
    return Case("Eltwise", settings, [SHAPE] * count, [SHAPE], define)


CASES = [
    case("", 3, lambda a, b, c: [a + b + c]),
    case("eltwise_param { operation: SUM coeff: 1 coeff: -0.5 }", 2, lambda a, b: [a - b / 2]),
    case("eltwise_param { operation: PROD }", 3, lambda a, b, c: [a * b * c]),
    case("eltwise_param { operation: MAX }", 3, lambda a, b, c: [np.maximum(np.maximum(a, b), c)]),
    # Caffe reads coefficients for MAX and does nothing with them.
    case("eltwise_param { operation: MAX coeff: 2 coeff: 3 }", 2, lambda a, b: [np.maximum(a, b)]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_is_its_definition(case, tmp_path):
    check_case(case, tmp_path)


def test_every_type_has_a_row():
    check_every_type_has_a_row(eltwise, CASES)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (case("eltwise_param { coeff: 1 }", 2, None), "1 coeff for 2 bottoms"),
        (case("eltwise_param { operation: PROD coeff: 1 coeff: 2 }", 2, None), "they go with SUM"),
        (case("", 1, None), "has 1 bottom(s), needs 2 or more"),
        (Case("Eltwise", "", [(2, 3), (2, 4)], [()]), "different shapes"),
    ],
    ids=str,
)
def test_refusals_name_the_parameter(case, words, tmp_path):
    check_refusal(case, words, tmp_path)
