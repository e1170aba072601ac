import math

import numpy as np
import pytest

import caffeinit
from caffeinit.caffe.layers import pooling
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal


def sizes(size, kernel, stride, pad, rounding):
    """Return the number of windows per axis, the way Caffe's source words it."""
    windows = [rounding((s + 2 * p - k) / t) + 1 for s, k, t, p in zip(size, kernel, stride, pad, strict=True)]
    if any(pad):
        windows = [n - 1 if (n - 1) * t >= s + p else n for n, s, t, p in zip(windows, size, stride, pad, strict=True)]
    return windows


def pool(method, kernel, stride=(1, 1), pad=(0, 0), rounding=math.ceil):
    def define(x):
        size = x.shape[2:]
        windows = sizes(size, kernel, stride, pad, rounding)
        tops = np.zeros((2, *x.shape[:2], *windows))
        for place in np.ndindex(*windows):
            start = [i * t - p for i, t, p in zip(place, stride, pad, strict=True)]
            end = [min(a + k, s + p) for a, k, s, p in zip(start, kernel, size, pad, strict=True)]
            area = math.prod(b - a for a, b in zip(start, end, strict=True))
            start, end = [max(a, 0) for a in start], [min(b, s) for b, s in zip(end, size, strict=True)]
            part = x[:, :, start[0] : end[0], start[1] : end[1]].astype(np.float64)
            tops[(slice(None), ..., *place)] = method(part, area, start, size[1])
        return [t.astype(np.float32) for t in tops]

    return define


def largest(part, area, start, width):
    flat = part.reshape(*part.shape[:2], -1)
    row, column = np.divmod(flat.argmax(-1), part.shape[3])
    return flat.max(-1), (row + start[0]) * width + column + start[1]


def mean(part, area, start, width):
    return [part.sum((2, 3)) / area] * 2


def mean_inside(part, area, start, width):
    return [part.mean((2, 3))] * 2


def weighted(part, area, start, width):
    sums = part.sum((2, 3))
    return [np.where(sums > 0, (part**2).sum((2, 3)) / np.where(sums > 0, sums, 1), 0)] * 2


def rectified(rng, shape, i):
    return np.maximum(rng.standard_normal(shape) - 1, 0)


def case(settings, bottom, top, define, **more):
    return Case("Pooling", f"pooling_param {{ {settings} }}", [bottom], [top], define, **more)


FORM = "kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0"
WINDOW = ((3, 2), (2, 1), (1, 0))
CASES = [
    case(FORM, (2, 3, 8, 5), (2, 3, 5, 4), pool(largest, *WINDOW)),
    case(f"pool: AVE {FORM}", (2, 3, 8, 5), (2, 3, 5, 4), pool(mean, *WINDOW)),
    case(f"pool: AVE_EXC_PAD {FORM}", (2, 3, 8, 5), (2, 3, 5, 4), pool(mean_inside, *WINDOW)),
    # 7 and 8 pixels lie on either side of the window that would start in the padding.
    case("kernel_size: 2 stride: 2 pad: 1", (2, 3, 7, 8), (2, 3, 4, 5), pool(largest, (2, 2), (2, 2), (1, 1))),
    case("pool: AVE kernel_size: 2 stride: 2 pad: 1", (2, 3, 7, 8), (2, 3, 4, 5), pool(mean, (2, 2), (2, 2), (1, 1))),
    case("kernel_size: 3 stride: 2", (2, 3, 8, 7), (2, 3, 4, 3), pool(largest, (3, 3), (2, 2))),
    case("pool: AVE kernel_size: 3 stride: 2", (2, 3, 8, 7), (2, 3, 4, 3), pool(mean, (3, 3), (2, 2))),
    # Padding on one axis is enough for the window behind the edge of the other to be dropped.
    case(
        "pool: AVE kernel_h: 1 kernel_w: 2 stride: 3 pad_h: 0 pad_w: 1",
        (2, 3, 5, 5),
        (2, 3, 2, 2),
        pool(mean, (1, 2), (3, 3), (0, 1)),
    ),
    case(
        "kernel_size: 4 stride: 3", (2, 3, 3, 2), (2, 3, 1, 1), pool(largest, (4, 4), (3, 3)), name="Pooling-too small"
    ),
    case(
        "kernel_size: 3 stride: 2 ceil_mode: false",
        (2, 3, 8, 6),
        (2, 3, 3, 2),
        pool(largest, (3, 3), (2, 2), rounding=math.floor),
    ),
    case(
        "pool: AVE kernel_size: 3 stride: 2 round_mode: FLOOR pad: 1",
        (2, 3, 8, 7),
        (2, 3, 4, 4),
        pool(mean, (3, 3), (2, 2), (1, 1), math.floor),
    ),
    case("global_pooling: true", (2, 3, 4, 5), (2, 3, 1, 1), pool(largest, (4, 5))),
    case("pool: AVE global_pooling: true", (2, 3, 4, 5), (2, 3, 1, 1), pool(mean, (4, 5))),
    case(
        "pool: STOCHASTIC kernel_size: 3 stride: 2",
        (2, 3, 8, 7),
        (2, 3, 4, 3),
        pool(weighted, (3, 3), (2, 2)),
        make=rectified,
    ),
    Case(
        "Pooling",
        f"pooling_param {{ {FORM} }}",
        [(2, 3, 8, 5)],
        [(2, 3, 5, 4)] * 2,
        pool(largest, *WINDOW),
        name="Pooling-where the largest lay",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_is_its_definition(case, tmp_path):
    check_case(case, tmp_path)


def test_every_type_has_a_row():
    check_every_type_has_a_row(pooling, CASES)


def test_windows_are_placed_as_caffe_words_it():
    for size in range(1, 12):
        for kernel in range(1, 5):
            for stride in range(1, 4):
                for pad in range(kernel):
                    wanted = sizes([size], [kernel], [stride], [pad], math.ceil)[0]
                    if wanted > 0:
                        assert pooling.pooled_size(size, kernel, stride, pad, pad) == wanted, (
                            size,
                            kernel,
                            stride,
                            pad,
                        )


@pytest.mark.parametrize(
    ("settings", "bottom", "words"),
    [
        ("kernel_size: 3 pad: 3", (2, 3, 8, 7), "not less than the kernel"),
        ("pool: STOCHASTIC kernel_size: 3 pad: 1", (2, 3, 8, 7), "STOCHASTIC takes no pad"),
        ("", (2, 3, 8, 7), "kernel_size is not given"),
        ("kernel_size: 1 stride: 3", (2, 3, 6, 6), "lies wholly outside"),
        ("kernel_size: 3", (2, 3), "needs a bottom (N, C, H, W)"),
        ("kernel_size: 3", (2, 3, 8), "needs a bottom (N, C, H, W)"),
        ("global_pooling: true", (2, 3, 4, 8, 7), "needs a bottom (N, C, H, W)"),
        ("kernel_size: 3 kernel_h: 3 kernel_w: 3", (2, 3, 8, 7), "gives both kernel_size and kernel_h/kernel_w"),
        ("kernel_h: 3", (2, 3, 8, 7), "gives kernel_h alone"),
        ("kernel_size: 3 stride_h: 2", (2, 3, 8, 7), "gives stride_h alone"),
        ("kernel_size: 3 pad_w: 1", (2, 3, 8, 7), "gives pad_w alone"),
        ("kernel_size: 3 pad: 1 pad_h: 1 pad_w: 1", (2, 3, 8, 7), "gives both pad and pad_h/pad_w"),
        ("global_pooling: true kernel_size: 8", (2, 3, 8, 7), "gives a kernel, and global_pooling"),
        ("global_pooling: true stride: 2", (2, 3, 8, 7), "pad 0 and stride 1, not pad (0, 0) and stride (2, 2)"),
        ("global_pooling: true pad: 1", (2, 3, 8, 7), "pad 0 and stride 1, not pad (1, 1)"),
        ("kernel_size: 3 torch_pooling: true", (2, 3, 8, 7), "torch_pooling is not supported"),
    ],
)
def test_refusals_name_the_parameter(settings, bottom, words, tmp_path):
    check_refusal(case(settings, bottom, (), None), words, tmp_path)


def test_the_gradient_of_stochastic_windows_that_sum_to_zero_is_zero(tmp_path):
    net_file = tmp_path / "net.prototxt"
    net_file.write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1 dim: 2 dim: 4 } } }'
        'layer { name: "y" type: "Pooling" bottom: "x" top: "y"'
        " pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 } }"
    )
    net = caffeinit.load(net_file)
    x = np.float32([[[[0, 0, 1, 3], [0, 0, 0, 0]]]])
    found = net.backward({"x": x}, {"y": np.full((1, 1, 1, 2), 8, np.float32)}).inputs["x"]
    # (2 x - y) / sum, with y = 10 / 4.
    np.testing.assert_allclose(found / 8, [[[[0, 0, -0.125, 0.875], [0, 0, -0.625, -0.625]]]], atol=1e-6)
