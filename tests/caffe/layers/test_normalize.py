import numpy as np
import pytest

from caffeinit.caffe.layers import normalize
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal, lower, run

SHAPE = (2, 3, 4, 5)


def along(array, first, rank):
    return array.reshape([1] * first + list(array.shape) + [1] * (rank - first - array.ndim))


def stored(eps=1e-5):
    """The file holds sums; the third blob tells how many."""

    def define(x, mean, variance, factor, scale=None, bias=None):
        mean, variance = (along(a.astype(np.float64) / factor, 1, x.ndim) for a in (mean, variance))
        return folded((x - mean) / np.sqrt(variance + eps), scale, bias)

    return define


def of_the_batch(eps=1e-5):
    def define(x, mean, variance, factor, scale=None, bias=None):
        axes = (0, *range(2, x.ndim))
        wide = x.astype(np.float64)
        return folded(
            (wide - wide.mean(axes, keepdims=True)) / np.sqrt(wide.var(axes, keepdims=True) + eps), scale, bias
        )

    return define


def folded(normal, scale, bias):
    if scale is not None:
        normal = normal * along(scale, 1, normal.ndim) + along(bias, 1, normal.ndim)
    return [normal.astype(np.float32)]


def scaled(first):
    return lambda x, scale, bias=0.0: [x * along(scale, first, x.ndim) + along(np.asarray(bias), first, x.ndim)]


def shifted(first):
    return lambda x, bias: [x + along(bias, first, x.ndim)]


class PositiveFactor(Case):
    """A BatchNorm whose third blob is a count, as it is in files."""

    def arrays(self, found):
        arrays = super().arrays(found)
        arrays[2][...] = 3.5
        return arrays


STATISTICS = [(3,), (3,), (1,)]
CASES = [
    PositiveFactor("BatchNorm", "", [SHAPE], [SHAPE], stored(), params=STATISTICS, name="BatchNorm-stored"),
    PositiveFactor(
        "BatchNorm",
        "batch_norm_param { use_global_stats: true eps: 0.5 }",
        [(4, 3)],
        [(4, 3)],
        stored(0.5),
        params=STATISTICS,
    ),
    PositiveFactor(
        "BatchNorm",
        "batch_norm_param { use_global_stats: false eps: 0.01 }",
        [SHAPE],
        [SHAPE],
        of_the_batch(0.01),
        params=STATISTICS,
        tolerance=5e-6,
    ),
    PositiveFactor(
        "BatchNorm",
        "batch_norm_param { use_weight_bias: true }",
        [SHAPE],
        [SHAPE],
        stored(),
        params=[*STATISTICS, (3,), (3,)],
    ),
    Case("Scale", "", [SHAPE], [SHAPE], scaled(1), params=[(3,)], name="Scale-plain"),
    Case("Scale", "scale_param { bias_term: true }", [SHAPE], [SHAPE], scaled(1), params=[(3,), (3,)]),
    Case("Scale", "scale_param { axis: 2 num_axes: 2 }", [SHAPE], [SHAPE], scaled(2), params=[(4, 5)]),
    Case(
        "Scale",
        "scale_param { axis: 1 num_axes: -1 bias_term: true }",
        [SHAPE],
        [SHAPE],
        scaled(1),
        params=[SHAPE[1:]] * 2,
    ),
    Case("Scale", "scale_param { num_axes: 0 }", [SHAPE], [SHAPE], scaled(0), params=[()]),
    Case("Scale", "scale_param { axis: -2 }", [SHAPE], [SHAPE], scaled(2), params=[(4,)]),
    Case("Scale", "scale_param { axis: 0 }", [SHAPE, (2, 3)], [SHAPE], scaled(0), name="Scale-by a second bottom"),
    Case(
        "Scale",
        "scale_param { axis: 0 bias_term: true }",
        [SHAPE, SHAPE],
        [SHAPE],
        lambda x, s, b: [x * s + b],
        params=[SHAPE],
        is_bound=True,
        name="Scale-by a second bottom, with bias",
    ),
    Case("Bias", "", [SHAPE], [SHAPE], shifted(1), params=[(3,)], name="Bias-plain"),
    Case("Bias", "bias_param { axis: 1 num_axes: 2 }", [SHAPE], [SHAPE], shifted(1), params=[(3, 4)]),
    Case("Bias", "bias_param { axis: 0 }", [SHAPE, (2, 3, 4)], [SHAPE], shifted(0), name="Bias-of a second bottom"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_is_its_definition(case, tmp_path):
    check_case(case, tmp_path)


def test_every_type_has_a_row():
    check_every_type_has_a_row(normalize, CASES)


def test_statistics_count_as_zero_where_nothing_was_gathered(tmp_path):
    case = CASES[0]
    found = case.infer(tmp_path)
    arrays = case.arrays(found)
    arrays[2][...] = 0
    graph = lower(found, arrays)
    graph.outputs = ["out0"]
    (x,) = case.values()
    # A variance of 0 leaves sqrt(eps) to divide by; float32 roundings of it.
    np.testing.assert_allclose(run(graph, {"in0": x})["out0"], x / np.sqrt(1e-5), rtol=1e-6)


def test_a_folded_scale_starts_as_its_fillers_say(tmp_path):
    settings = "scale_bias: true scale_filler { value: 3 } bias_filler { value: 4 }"
    found = Case("BatchNorm", f"batch_norm_param {{ {settings} }}", [SHAPE], [SHAPE]).infer(tmp_path)
    assert [p.filler.value for p in found.params["it"] if p.filler] == [3, 4]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case("BatchNorm", "", [(3,)], [()]), "needs channels on axis 1"),
        (Case("BatchNorm", "param { lr_mult: 1 }", [SHAPE], [()]), "lr_mult must be 0"),
        (Case("BatchNorm", "batch_norm_param { scale_bias: true bias_term: false }", [SHAPE], [()]), "without a bias"),
        (Case("Scale", "scale_param { num_axes: -2 }", [SHAPE], [()]), "num_axes is -2, must be at least -1"),
        (Case("Scale", "scale_param { axis: 5 }", [SHAPE], [()]), "axis 5 is outside"),
        (Case("Scale", "scale_param { axis: 2 num_axes: 3 }", [SHAPE], [()]), "num_axes 3 from axis 2 reaches past"),
        (Case("Scale", "", [SHAPE, (2, 3)], [()]), "second bottom (2, 3) does not fit"),
        (Case("Bias", "bias_param { axis: -5 }", [SHAPE], [()]), "axis -5 is outside"),
    ],
    ids=str,
)
def test_refusals_name_the_parameter(case, words, tmp_path):
    check_refusal(case, words, tmp_path)
