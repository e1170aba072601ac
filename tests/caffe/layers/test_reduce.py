import numpy as np
import pytest

from caffeinit.caffe.layers import reduce
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal


def few_values(rng, shape, i):
    return rng.integers(-2, 3, shape)


def rank(row, k):
    """Return the k largest values and their places; of equals the one behind first, as Caffe's sort of pairs does."""
    pairs = sorted(((v, i) for i, v in enumerate(row)), reverse=True)[:k]
    return [v for v, _ in pairs], [i for _, i in pairs]


def arg_max(axis, k, which):
    def define(x):
        moved = np.moveaxis(x, axis, -1)
        found = np.array([rank(row, k)[which] for row in moved.reshape(-1, moved.shape[-1])], np.float32)
        return [np.moveaxis(found.reshape(*moved.shape[:-1], k), -1, axis)]

    return define


def flat_arg_max(k, with_values):
    def define(x):
        found = [rank(row, k)[::-1] for row in x.reshape(len(x), -1)]
        top = np.array(found, np.float32)[:, : 2 if with_values else 1]
        return [top.reshape(*top.shape, *[1] * (x.ndim - 3))]

    return define


def mvn(axes, variance=True, eps=1e-9):
    def define(x):
        top = np.empty_like(x)
        for index in np.ndindex(*x.shape[: axes[0]]):
            part = x[index].astype(np.float64)
            part = part - part.mean()
            top[index] = part / (np.sqrt((part**2).mean()) + eps) if variance else part
        return [top]

    return define


def normalize(across, eps=1e-10):
    def define(x, scale):
        top = np.empty_like(x)
        for n in range(len(x)):
            if across:
                top[n] = x[n] / np.sqrt((x[n].astype(np.float64) ** 2).sum() + eps)
            else:
                for place in np.ndindex(*x.shape[2:]):
                    column = x[(n, slice(None), *place)].astype(np.float64)
                    top[(n, slice(None), *place)] = column / np.sqrt((column**2).sum() + eps)
        return [top * (scale.reshape(-1, *[1] * (x.ndim - 2)) if scale.ndim else scale)]

    return define


def spp(height, mean):
    def define(x):
        n, channels, *size = x.shape
        levels = []
        for bins in (2**level for level in range(height)):
            kernel = [-(-s // bins) for s in size]
            pad = [(k * bins - s + 1) // 2 for k, s in zip(kernel, size, strict=True)]
            top = np.zeros((n, channels, bins, bins), np.float32)
            for i, j in np.ndindex(bins, bins):
                start = [a * k - p for a, k, p in zip((i, j), kernel, pad, strict=True)]
                # The mean counts padding, up to the far padded border.
                end = [min(a + k, s + p) for a, k, s, p in zip(start, kernel, size, pad, strict=True)]
                area = (end[0] - start[0]) * (end[1] - start[1])
                part = x[:, :, max(start[0], 0) : end[0], max(start[1], 0) : end[1]]
                top[:, :, i, j] = part.sum(axis=(2, 3)) / area if mean else part.max(axis=(2, 3))
            levels.append(top.reshape(n, -1) if height > 1 else top)
        return [np.concatenate(levels, axis=1)]

    return define


def sum_over(axis, function, coeff=1.0):
    return lambda x: [(coeff * function(x.astype(np.float64)).reshape(*x.shape[:axis], -1).sum(-1)).astype(np.float32)]


CASES = [
    Case("Reduction", "reduction_param { axis: 1 }", [(3, 4, 2)], [(3,)], sum_over(1, lambda x: x)),
    Case(
        "Reduction",
        "reduction_param { operation: ASUM axis: -1 coeff: 0.5 }",
        [(3, 4, 2)],
        [(3, 4)],
        sum_over(2, np.abs, 0.5),
    ),
    Case("Reduction", "reduction_param { operation: SUMSQ axis: 2 }", [(3, 4, 2)], [(3, 4)], sum_over(2, np.square)),
    Case(
        "Reduction",
        "reduction_param { operation: MEAN axis: 1 coeff: 3 }",
        [(3, 4, 2)],
        [(3,)],
        sum_over(1, lambda x: x / 8, 3),
    ),
    Case("Reduction", "", [(3, 4, 2)], [()], sum_over(0, lambda x: x), name="Reduction-of everything"),
    Case("ArgMax", "argmax_param { axis: 1 top_k: 3 }", [(2, 5, 4)], [(2, 3, 4)], arg_max(1, 3, 1), few_values),
    Case(
        "ArgMax",
        "argmax_param { axis: -1 out_max_val: true top_k: 2 }",
        [(2, 5, 4)],
        [(2, 5, 2)],
        arg_max(2, 2, 0),
        few_values,
    ),
    Case("ArgMax", "", [(3, 4, 2, 5)], [(3, 1, 1, 1)], flat_arg_max(1, False), few_values, name="ArgMax-of everything"),
    Case(
        "ArgMax",
        "argmax_param { out_max_val: true top_k: 4 }",
        [(3, 9)],
        [(3, 2, 4)],
        flat_arg_max(4, True),
        few_values,
    ),
    Case("MVN", "", [(2, 3, 4, 5)], [(2, 3, 4, 5)], mvn((2, 3)), tolerance=1e-5, name="MVN-plain"),
    Case(
        "MVN",
        "mvn_param { across_channels: true eps: 0.5 }",
        [(2, 3, 4)],
        [(2, 3, 4)],
        mvn((1,), eps=0.5),
        tolerance=1e-5,
    ),
    Case(
        "MVN",
        "mvn_param { normalize_variance: false }",
        [(2, 3, 4, 5)],
        [(2, 3, 4, 5)],
        mvn((2,), False),
        tolerance=1e-5,
    ),
    Case("MVN", "", [(4, 3)], [(4, 3)], lambda x: [x * 0], name="MVN-channels of one number"),
    Case(
        "Normalize",
        "norm_param { across_spatial: false channel_shared: false }",
        [(2, 3, 4, 5)],
        [(2, 3, 4, 5)],
        normalize(False),
        params=[(3,)],
    ),
    Case("Normalize", "norm_param { eps: 0.25 }", [(2, 3, 4, 5)], [(2, 3, 4, 5)], normalize(True, 0.25), params=[()]),
    Case("SPP", "spp_param { pyramid_height: 3 }", [(2, 3, 13, 11)], [(2, 63)], spp(3, mean=False)),
    Case("SPP", "spp_param { pyramid_height: 2 pool: AVE }", [(2, 3, 7, 4)], [(2, 15)], spp(2, mean=True)),
    Case("SPP", "spp_param { pyramid_height: 1 }", [(2, 3, 7, 4)], [(2, 3, 1, 1)], spp(1, mean=False)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_is_its_definition(case, tmp_path):
    check_case(case, tmp_path)


def test_every_type_has_a_row():
    check_every_type_has_a_row(reduce, CASES)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case("ArgMax", "argmax_param { axis: 1 top_k: 6 }", [(2, 5)], [()]), "top_k 6 of 5 values"),
        (Case("Reduction", "reduction_param { axis: 3 }", [(2, 5)], [()]), "axis 3 is outside"),
        (Case("SPP", "", [(2, 3, 7, 4)], [()]), "pyramid_height is not given"),
        (Case("SPP", "spp_param { pyramid_height: 4 }", [(2, 3, 7, 4)], [()]), "pad"),
        (Case("MVN", "", [(5,)], [()]), "channels on axis 1, got (5,)"),
        (Case("MVN", "", [(2, 3, 4, 5, 6)], [()]), "two to four axes"),
    ],
    ids=str,
)
def test_refusals_name_the_parameter(case, words, tmp_path):
    check_refusal(case, words, tmp_path)
