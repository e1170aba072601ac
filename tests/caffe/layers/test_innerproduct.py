import numpy as np
import pytest

from caffeinit.caffe.layers import find_type, innerproduct
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal, layer


def product(axis=1, transpose=False):
    def define(x, weight, bias=None):
        flat = x.reshape(int(np.prod(x.shape[:axis])), -1).astype(np.float64)
        y = flat @ (weight if transpose else weight.T)
        return [(y if bias is None else y + bias).reshape(*x.shape[:axis], -1).astype(np.float32)]

    return define


CASES = [
    Case(
        "InnerProduct",
        "inner_product_param { num_output: 5 }",
        [(3, 2, 4, 3)],
        [(3, 5)],
        product(),
        params=[(5, 24), (5,)],
    ),
    Case(
        "InnerProduct",
        "inner_product_param { num_output: 5 bias_term: false }",
        [(3, 4)],
        [(3, 5)],
        product(),
        params=[(5, 4)],
    ),
    Case(
        "InnerProduct",
        "inner_product_param { num_output: 5 axis: 2 }",
        [(3, 2, 4, 3)],
        [(3, 2, 5)],
        product(2),
        params=[(5, 12), (5,)],
    ),
    Case(
        "InnerProduct",
        "inner_product_param { num_output: 5 axis: -1 transpose: true }",
        [(3, 2, 4)],
        [(3, 2, 5)],
        product(2, transpose=True),
        params=[(4, 5), (5,)],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_is_its_definition(case, tmp_path):
    check_case(case, tmp_path)


def test_every_type_has_a_row():
    check_every_type_has_a_row(innerproduct, CASES)


def test_macs_count_each_weight_for_each_row():
    message = layer('type: "InnerProduct" inner_product_param { num_output: 5 axis: 2 }')
    assert find_type("InnerProduct").macs(message, [(3, 2, 4, 3)]) == 3 * 2 * 12 * 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [("", "num_output is not given"), ("num_output: 3 axis: 4", "axis 4 is outside a blob with 2 axes")],
)
def test_refusals_name_the_parameter(settings, words, tmp_path):
    check_refusal(Case("InnerProduct", f"inner_product_param {{ {settings} }}", [(2, 3)], [()]), words, tmp_path)
