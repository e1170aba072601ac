import numpy as np
import pytest

from caffeinit.caffe.layers import lrn
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal


def across(size, alpha, beta, k=1.0):
    def define(x):
        square, reach = x.astype(np.float64) ** 2, size // 2
        sums = np.stack([square[:, max(c - reach, 0) : c + reach + 1].sum(1) for c in range(x.shape[1])], 1)
        return [(x / (k + alpha / size * sums) ** beta).astype(np.float32)]

    return define


def within(size, alpha, beta):
    def define(x):
        square, reach = x.astype(np.float64) ** 2, size // 2
        sums = np.empty_like(square)
        for i, j in np.ndindex(*x.shape[2:]):
            near = square[:, :, max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1]
            sums[:, :, i, j] = near.sum((2, 3))
        return [(x / (1 + alpha / size**2 * sums) ** beta).astype(np.float32)]

    return define


def case(settings, define, shape=(2, 7, 4, 5)):
    return Case("LRN", f"lrn_param {{ {settings} }}", [shape], [shape], define)


CASES = [
    case("local_size: 5 alpha: 2 beta: 0.75", across(5, 2, 0.75)),
    case("local_size: 3 alpha: 2 beta: 0.5 k: 2", across(3, 2, 0.5, 2)),
    case("local_size: 3 alpha: 2 beta: 0.6 k: 0.5", across(3, 2, 0.6, 0.5)),
    case("local_size: 5 alpha: 2 beta: 1", across(5, 2, 1), shape=(2, 3, 4, 5)),
    case("norm_region: WITHIN_CHANNEL local_size: 3 alpha: 2 beta: 0.75", within(3, 2, 0.75)),
    # Within a channel Caffe takes no notice of k.
    case("norm_region: WITHIN_CHANNEL local_size: 3 alpha: 2 k: 9 beta: 0.8", within(3, 2, 0.8)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_is_its_definition(case, tmp_path):
    check_case(case, tmp_path)


def test_every_type_has_a_row():
    check_every_type_has_a_row(lrn, CASES)


@pytest.mark.parametrize(
    ("settings", "shape", "words"),
    [("local_size: 4", (2, 7, 4, 5), "local_size 4 must be odd"), ("", (2, 7), "needs a bottom of 4 axes")],
)
def test_refusals_name_the_parameter(settings, shape, words, tmp_path):
    check_refusal(case(settings, None, shape), words, tmp_path)
