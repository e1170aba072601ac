"""Activations and small layers of single forks: forks.py, axpy.py, depthwise.py and training.py."""

import numpy as np
import pytest

from caffeinit.caffe.layers import axpy, depthwise, find_type, forks, training
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal


def selu(x):
    return [np.where(x > 0, 1.0507009873554805 * x, 1.7580993408473766 * (np.exp(x) - 1)).astype(np.float32)]


def apl(x, slope, offset):
    slope, offset = slope.reshape(len(slope[0, 0]), *x.shape[1:]), offset.reshape(len(slope[0, 0]), *x.shape[1:])
    top = np.maximum(x, 0)
    for a, b in zip(slope, offset, strict=True):
        top = top + a * np.maximum(b - x, 0)
    return [top]


def affine(x, slope, bias):
    shape = (1, -1, *[1] * (x.ndim - 2)) if slope.ndim else ()
    return [x * slope.reshape(shape) + bias.reshape(shape)]


def angular(x, label, weight):
    return [x.reshape(len(x), -1) @ (weight / np.linalg.norm(weight, axis=1, keepdims=True)).T]


def depthwise_loop(stride, pad):
    def define(x, weight, *bias):
        n, channels, h, w = x.shape
        kernel = weight.shape[2:]
        padded = np.pad(x, ((0, 0), (0, 0), (pad[0], pad[0]), (pad[1], pad[1])))
        size = [(s + 2 * p - k) // t + 1 for s, p, k, t in zip((h, w), pad, kernel, stride, strict=True)]
        top = np.zeros((n, channels, *size), np.float32)
        for c, i, j in np.ndindex(channels, *size):
            part = padded[:, c, i * stride[0] : i * stride[0] + kernel[0], j * stride[1] : j * stride[1] + kernel[1]]
            top[:, c, i, j] = (part * weight[c, 0]).sum(axis=(1, 2)) + (bias[0][c] if bias else 0)
        return [top]

    return define


A = (2, 3, 4, 5)
WINDOW = "kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 2 pad_h: 1 pad_w: 0"
CASES = [
    Case("SeLu", "", [A], [A], selu),
    Case("SeLuDropout", "selu_dropout_param { dropout_ratio: 0.3 }", [A], [A], lambda x: [x]),
    Case("HardSwish", "", [A], [A], lambda x: [x * np.clip(x + 3, 0, 6) / 6], lambda r, s, i: r.uniform(-5, 5, s)),
    Case("Mish", "", [A], [A], lambda x: [x * np.tanh(np.log1p(np.exp(x)))], lambda r, s, i: r.uniform(-5, 5, s)),
    Case(
        "RReLU",
        "rrelu_param { negative_slope_lower: 3 negative_slope_upper: 8 }",
        [A],
        [A],
        lambda x: [np.maximum(x, 0) + 2 / 11 * np.minimum(x, 0)],
    ),
    Case("APL", "apl_param { sums: 2 }", [A], [A], apl, params=[(1, 1, 2, 60)] * 2),
    Case("EltwiseAffine", "", [A], [A], affine, params=[(3,)] * 2),
    Case("EltwiseAffine", "eltwise_affine_param { channel_shared: true }", [A], [A], affine, params=[()] * 2),
    Case(
        "MarginInnerProduct",
        "margin_inner_product_param { num_output: 4 type: SINGLE }",
        [A, (2,)],
        [(2, 4)],
        angular,
        params=[(4, 60)],
        tolerance=1e-5,
    ),
    Case("Axpy", "", [(2, 3), A, A], [A], lambda a, x, y: [a[:, :, None, None] * x + y]),
    Case("Axpy", "", [(2, 3, 1, 1), A, A], [A], lambda a, x, y: [a * x + y], name="Axpy-four axes"),
    Case("Mul", "", [A, (2, 1, 1, 5), A], [A], lambda a, b, c: [a * b * c]),
    Case(
        "ConvolutionDepthwise",
        f"convolution_param {{ num_output: 3 {WINDOW} }}",
        [A],
        [(2, 3, 4, 2)],
        depthwise_loop((1, 2), (1, 0)),
        params=[(3, 1, 3, 2), (3,)],
    ),
    Case(
        "DepthwiseConvolution",
        f"convolution_param {{ num_output: 3 group: 3 bias_term: false {WINDOW} }}",
        [A],
        [(2, 3, 4, 2)],
        depthwise_loop((1, 2), (1, 0)),
        params=[(3, 1, 3, 2)],
    ),
    Case(
        "DepthwiseConvolution",
        f"convolution_param {{ num_output: 3 {WINDOW} }}",
        [A],
        [(2, 3, 4, 2)],
        depthwise_loop((1, 2), (1, 0)),
        params=[(3, 1, 3, 2), (3,)],
        name="DepthwiseConvolution-group not given",
    ),
]
UNCOMPUTED = [
    Case("MultiBoxLoss", "", [(2, 3), (2, 3)], [()]),
    Case("DetectNetTransformation", "", [(2, 3, 4, 4)], [(2, 3, 4, 4)]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_is_its_definition(case, tmp_path):
    check_case(case, tmp_path)


@pytest.mark.parametrize("module", [forks, axpy, depthwise, training])
def test_every_type_has_a_row(module):
    check_every_type_has_a_row(module, [*CASES, *UNCOMPUTED])


def test_the_second_margin_top_is_the_first_iterations_weight(tmp_path):
    settings = "num_output: 4 type: SINGLE base: 1000 gamma: 0.12 power: 1 lambda_min: 5 iteration: 9"
    case = Case(
        "MarginInnerProduct",
        f"margin_inner_product_param {{ {settings} }}",
        [A, (2,)],
        [(2, 4), (1,)],
        lambda x, label, weight: [*angular(x, label, weight), np.array([1000 / 2.2], np.float32)],
        params=[(4, 60)],
        tolerance=1e-5,
        is_bound=True,
    )
    check_case(case, tmp_path)


def test_losses_of_forks_are_known_but_not_computed(tmp_path):
    assert find_type("DetectionEvaluate").is_loss
    check_refusal(UNCOMPUTED[0], "for training or scoring only", tmp_path)


@pytest.mark.parametrize(
    ("settings", "channels"),
    [("modality: FLOW new_length: 5 num_segments: 3", 30), ("modality: RGB num_segments: 7", 21), ("", 3)],
)
def test_frames_of_all_segments_lie_along_the_channels(settings, channels, tmp_path):
    settings = f"video_data_param {{ batch_size: 4 {settings} }} transform_param {{ crop_size: 8 mean_value: 128 }}"
    found = Case("VideoData", settings, [], [(), ()]).infer(tmp_path)
    assert found.inputs == {"out0": (4, channels, 8, 8), "out1": (4,)}


def test_detectnet_takes_its_pictures_from_outside(tmp_path):
    case = Case(
        "DetectNetTransformation",
        "detectnet_groundtruth_param { image_size_x: 20 image_size_y: 12 }",
        [(2, 3, 4, 4), (2, 1)],
        [(1, 3, 12, 20), (1,)],
    )
    found = case.infer(tmp_path)
    assert found.inputs["out0"] == (1, 3, 12, 20)
    assert found.unshaped == ["out1"]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case("RReLU", "rrelu_param { lower: 0.1 upper: 0.3 }", [A], [A]), "look like slopes"),
        (Case("RReLU", "", [A], [A]), "bounds of the slope are not given"),
        (
            Case("MarginInnerProduct", "margin_inner_product_param { num_output: 4 type: QUADRUPLE }", [A, (2,)], [()]),
            "type QUADRUPLE",
        ),
        (Case("Axpy", "", [(2, 4), A, A], [A]), "do not fit each other"),
        (Case("Mul", "", [A, (2, 4)], [A]), "do not broadcast"),
        (
            Case("ConvolutionDepthwise", f"convolution_param {{ num_output: 6 {WINDOW} }}", [A], [()]),
            "num_output 6 is not the number of bottom channels, 3",
        ),
    ],
    ids=str,
)
def test_refusals_name_the_parameter(case, words, tmp_path):
    check_refusal(case, words, tmp_path)
