import numpy as np
import pytest

from caffeinit.caffe.layers import convolution, find_type
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal, layer


def pair(values, axes):
    return tuple(values) if isinstance(values, tuple) else (values,) * axes


def places(top, kernel, stride, pad, dilation):
    """Yield (kernel place, place without hole, place with hole): which small-side place meets which large-side one."""
    for k in np.ndindex(*kernel):
        for small in np.ndindex(*top):
            large = tuple(o * s - p + i * d for o, s, p, i, d in zip(small, stride, pad, k, dilation, strict=True))
            yield k, small, large


def inside(place, size):
    return all(0 <= a < s for a, s in zip(place, size, strict=True))


def convolve(stride=1, pad=0, dilation=1, group=1):
    def define(x, weight, bias=None):
        axes = x.ndim - 2
        steps, pads, holes = pair(stride, axes), pair(pad, axes), pair(dilation, axes)
        top = [
            int((s + 2 * p - (d * (k - 1) + 1)) / t) + 1
            for s, k, t, p, d in zip(x.shape[2:], weight.shape[2:], steps, pads, holes, strict=True)
        ]
        y = np.zeros((len(x), len(weight), *top))
        outs, ins = len(weight) // group, weight.shape[1]
        for k, small, large in places(top, weight.shape[2:], steps, pads, holes):
            if inside(large, x.shape[2:]):
                for g in range(group):
                    rows = slice(g * outs, (g + 1) * outs)
                    part = x[(slice(None), slice(g * ins, (g + 1) * ins), *large)].astype(np.float64)
                    y[(slice(None), rows, *small)] += part @ weight[(rows, slice(None), *k)].T
        return [with_bias(y, bias)]

    return define


def deconvolve(stride=1, pad=0, dilation=1, group=1):
    def define(x, weight, bias=None):
        axes = x.ndim - 2
        steps, pads, holes = pair(stride, axes), pair(pad, axes), pair(dilation, axes)
        top = [
            t * (s - 1) + d * (k - 1) + 1 - 2 * p
            for s, k, t, p, d in zip(x.shape[2:], weight.shape[2:], steps, pads, holes, strict=True)
        ]
        ins, outs = len(weight) // group, weight.shape[1]
        y = np.zeros((len(x), outs * group, *top))
        for k, small, large in places(x.shape[2:], weight.shape[2:], steps, pads, holes):
            if inside(large, top):
                for g in range(group):
                    rows = slice(g * ins, (g + 1) * ins)
                    part = x[(slice(None), rows, *small)].astype(np.float64)
                    y[(slice(None), slice(g * outs, (g + 1) * outs), *large)] += part @ weight[(rows, slice(None), *k)]
        return [with_bias(y, bias)]

    return define


def with_bias(y, bias):
    return (y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 2))).astype(np.float32)


def from_axis(axis, define):
    """Return the definition for channels on `axis`: what stands before it are all pictures."""

    def moved(x, *arrays):
        (top,) = define(x.reshape(-1, *x.shape[axis:]), *arrays)
        return [top.reshape(*x.shape[:axis], *top.shape[1:])]

    return moved


# h and w differ in every windowed row, so swapping them fails.
CASES = [
    Case(
        "Convolution",
        "convolution_param { num_output: 4 kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0 }",
        [(2, 3, 8, 5)],
        [(2, 4, 4, 4)],
        convolve((2, 1), (1, 0)),
        params=[(4, 3, 3, 2), (4,)],
    ),
    Case(
        "Convolution",
        "convolution_param { num_output: 6 kernel_size: 3 group: 2 bias_term: false }",
        [(2, 4, 6, 5)],
        [(2, 6, 4, 3)],
        convolve(group=2),
        params=[(6, 2, 3, 3)],
    ),
    Case(
        "Convolution",
        "convolution_param { num_output: 2 kernel_size: 2 kernel_size: 3 dilation: 2 pad: 1 pad: 2 stride: 1 stride: 2}",
        [(2, 3, 6, 7)],
        [(2, 2, 6, 4)],
        convolve((1, 2), (1, 2), 2),
        params=[(2, 3, 2, 3), (2,)],
        name="Convolution-lists and one dilation for both",
    ),
    Case(
        "Convolution",
        "convolution_param { num_output: 4 kernel_size: 3 group: 4 stride: 2 }",
        [(1, 4, 8, 6)],
        [(1, 4, 3, 2)],
        convolve(2, group=4),
        params=[(4, 1, 3, 3), (4,)],
        name="Convolution-rounds down",
    ),
    Case(
        "Convolution",
        "convolution_param { num_output: 2 kernel_size: 3 kernel_size: 2 kernel_size: 1 axis: 1 }",
        [(2, 3, 4, 3, 2)],
        [(2, 2, 2, 2, 2)],
        convolve(),
        params=[(2, 3, 3, 2, 1), (2,)],
        name="Convolution-three axes",
    ),
    Case(
        "Convolution",
        "convolution_param { num_output: 2 kernel_size: 3 stride: 2 axis: -2 }",
        [(2, 3, 7)],
        [(2, 2, 3)],
        convolve(2),
        params=[(2, 3, 3), (2,)],
        name="Convolution-one axis, counted from the end",
    ),
    Case(
        "Convolution",
        "convolution_param { num_output: 4 kernel_size: 3 kernel_size: 2 group: 2 axis: 2 }",
        [(2, 3, 4, 5, 6)],
        [(2, 3, 4, 3, 5)],
        from_axis(2, convolve(group=2)),
        params=[(4, 2, 3, 2), (4,)],
        name="Convolution-frames before the channels",
    ),
    Case(
        "Convolution",
        "convolution_param { num_output: 2 kernel_size: 3 axis: 0 }",
        [(3, 5, 6)],
        [(2, 3, 4)],
        from_axis(0, convolve()),
        params=[(2, 3, 3, 3), (2,)],
        name="Convolution-no batch",
        is_bound=True,
    ),
    Case(
        "Convolution",
        "convolution_param { num_output: 2 kernel_size: 2 }",
        [(2, 3, 4, 3), (2, 3, 4, 3)],
        [(2, 2, 3, 2), (2, 2, 3, 2)],
        lambda x, y, w, b: convolve()(x, w, b) + convolve()(y, w, b),
        params=[(2, 3, 2, 2), (2,)],
        name="Convolution-two bottoms through the same weights",
    ),
    Case(
        "Convolution",
        "convolution_param { num_output: 2 kernel_size: 5 kernel_size: 3 pad: 1 pad: 0 stride: 3 stride: 2 }",
        [(2, 3, 1, 4)],
        [(2, 2, 1, 1)],
        convolve((3, 2), (1, 0)),
        params=[(2, 3, 5, 3), (2,)],
        name="Convolution-too large by less than the stride",
    ),
    Case(
        "Convolution",
        "convolution_param { num_output: 4 kernel_size: 3 pad_w: 1 }",
        [(2, 3, 4, 5)],
        [(2, 4, 2, 5)],
        convolve(pad=(0, 1)),
        params=[(4, 3, 3, 3), (4,)],
    ),
    Case(
        "Convolution",
        "convolution_param { num_output: 4 kernel_size: 3 axis: -1 }",
        [(2, 5, 3)],
        [(2, 5, 4)],
        lambda x, weight, bias: [x @ weight.T + bias],
        params=[(4, 3), (4,)],
        name="Convolution-no spatial axis",
    ),
    Case(
        "Convolution",
        "convolution_param { num_output: 4 group: 2 bias_term: false }",
        [(2, 6)],
        [(2, 4)],
        lambda x, weight: [np.concatenate([x[:, :3] @ weight[:2].T, x[:, 3:] @ weight[2:].T], 1)],
        params=[(4, 3)],
        name="Convolution-groups and no spatial axis",
    ),
    Case(
        "Deconvolution",
        "convolution_param { num_output: 4 kernel_size: 1 }",
        [(2, 3)],
        [(2, 4)],
        lambda x, weight, bias: [x @ weight + bias],
        params=[(3, 4), (4,)],
        name="Deconvolution-no spatial axis",
    ),
    Case(
        "Deconvolution",
        "convolution_param { num_output: 2 kernel_h: 4 kernel_w: 3 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0 }",
        [(2, 3, 4, 5)],
        [(2, 2, 8, 7)],
        deconvolve((2, 1), (1, 0)),
        params=[(3, 2, 4, 3), (2,)],
    ),
    Case(
        "Deconvolution",
        "convolution_param { num_output: 6 kernel_size: 2 group: 2 dilation: 2 stride: 3 bias_term: false }",
        [(2, 4, 3, 2)],
        [(2, 6, 9, 6)],
        deconvolve(3, 0, 2, 2),
        params=[(4, 3, 2, 2)],
    ),
    Case(
        "Deconvolution",
        "convolution_param { num_output: 2 kernel_h: 4 kernel_w: 3 stride: 2 axis: -3 }",
        [(2, 3, 5, 4, 2)],
        [(2, 3, 2, 10, 5)],
        from_axis(2, deconvolve(2)),
        params=[(5, 2, 4, 3), (2,)],
        name="Deconvolution-frames before the channels",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_is_its_definition(case, tmp_path):
    check_case(case, tmp_path)


def test_every_type_has_a_row():
    check_every_type_has_a_row(convolution, CASES)


@pytest.mark.parametrize(
    ("kind", "settings", "bottom", "macs"),
    [
        ("Convolution", "num_output: 6 kernel_h: 3 kernel_w: 1 group: 2", (5, 4, 6, 5), 5 * 6 * 2 * 3 * 4 * 5),
        ("Deconvolution", "num_output: 6 kernel_h: 3 kernel_w: 1 group: 2", (5, 4, 6, 5), 5 * 4 * 3 * 3 * 6 * 5),
        ("Convolution", "num_output: 6 kernel_h: 3 kernel_w: 1 axis: 2", (2, 5, 4, 6, 5), 10 * 6 * 4 * 3 * 4 * 5),
    ],
)
def test_macs_count_each_weight_at_each_place(kind, settings, bottom, macs):
    described = find_type(kind)
    assert described.macs(layer(f'type: "{kind}" convolution_param {{ {settings} }}'), [bottom]) == macs


def refused(settings, bottom=(2, 3, 6, 5)):
    return Case("Convolution", f"convolution_param {{ {settings} }}", [bottom], [()])


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (refused("kernel_size: 3"), "num_output is not given"),
        (refused("num_output: 2"), "kernel_size is not given"),
        (refused("num_output: 2 kernel_size: 3 group: 2"), "group 2 does not divide 3 bottom channels"),
        (refused("num_output: 2 kernel_size: 6"), "does not fit"),
        (refused("num_output: 2 kernel_size: 3 kernel_size: 3 kernel_size: 3"), "3 times for 2 spatial axes"),
        (refused("num_output: 2 kernel_size: 3 stride: 0"), "stride is (0, 0), must be at least 1"),
        (refused("num_output: 2 kernel_size: 3 kernel_h: 3"), "gives both kernel_size and kernel_h"),
        (refused("num_output: 2 kernel_h: 3"), "gives kernel_h alone; kernel_h and kernel_w go together"),
        (refused("num_output: 2 kernel_size: 3 stride_w: 2"), "gives stride_w alone"),
        (
            refused("num_output: 2 kernel_size: 3 stride: 1 stride_h: 2 stride_w: 2"),
            "both stride and stride_h/stride_w",
        ),
        (refused("num_output: 2 kernel_size: 3 pad: 1 pad_h: 1"), "gives both pad and pad_h"),
        (refused("num_output: 2 kernel_h: 3 kernel_w: 3", (2, 3, 6)), "for two spatial axes, the bottom has 1"),
        (refused("num_output: 2 kernel_size: 3 pad_t: 1", (2, 3, 6)), "for two spatial axes, the bottom has 1"),
        (refused("num_output: 2 kernel_size: 3 pad_type: 1"), "pad_type 1 is not supported"),
        (refused("num_output: 2 kernel_size: 7 stride: 2"), "does not fit"),
        (refused("num_output: 2 kernel_size: 3", (6,)), "axis 1 is outside"),
        (
            Case("Convolution", "convolution_param { num_output: 2 kernel_size: 3 }", [(2, 3, 6, 5)] * 2, [()]),
            "2 bottom(s) and 1 top(s)",
        ),
        (
            Case(
                "Convolution",
                "convolution_param { num_output: 2 kernel_size: 3 }",
                [(2, 3, 6, 5), (2, 3, 5, 6)],
                [()] * 2,
            ),
            "different shapes: (2, 3, 6, 5), (2, 3, 5, 6)",
        ),
    ],
    ids=str,
)
def test_refusals_name_the_parameter(case, words, tmp_path):
    check_refusal(case, words, tmp_path)
