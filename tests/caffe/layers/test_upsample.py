import numpy as np
import pytest

from caffeinit.caffe.layers import upsample
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal


def repeat(h, w):
    return lambda x: [x.repeat(h, axis=2).repeat(w, axis=3)]


def unpool(h, w):
    def define(x, mask):
        top = np.zeros((*x.shape[:2], h * w), np.float32)
        for n, c, i, j in np.ndindex(*x.shape):
            top[n, c, int(mask[n, c, i, j])] = x[n, c, i, j]
        return [top.reshape(*x.shape[:2], h, w)]

    return define


def places(size):
    """Return different places for the numbers of a channel, as max pooling's second top has."""

    def make(rng, shape, i):
        if i == 0:
            return rng.standard_normal(shape)
        count = shape[2] * shape[3]
        return np.stack([rng.permutation(size)[:count] for _ in range(shape[0] * shape[1])]).reshape(shape)

    return make


def bilinear(h, w, corners=True, cut=(0, 0)):
    """Return the weighted sum of the four neighbours, place by place."""

    def define(x, *_):
        x = x[:, :, cut[0] : x.shape[2] - cut[1], cut[0] : x.shape[3] - cut[1]].astype(np.float64)
        height, width = x.shape[2:]

        def source(place, size, target):
            step = ((size - 1) / (target - 1) if target > 1 else 0.0) if corners else size / target
            at = min(place * step, size - 1)
            low = int(at)
            return low, min(low + 1, size - 1), at - low

        top = np.zeros((*x.shape[:2], h, w), np.float32)
        for i, j in np.ndindex(h, w):
            a, b, down = source(i, height, h)
            c, d, right = source(j, width, w)
            upper = (1 - right) * x[:, :, a, c] + right * x[:, :, a, d]
            lower = (1 - right) * x[:, :, b, c] + right * x[:, :, b, d]
            top[:, :, i, j] = (1 - down) * upper + down * lower
        return [top]

    return define


def nearest(h, w, corners=False):
    def define(x):
        height, width = x.shape[2:]
        top = np.zeros((*x.shape[:2], h, w), np.float32)
        for i, j in np.ndindex(h, w):
            if corners:
                row, column = int(i * (height - 1) / (h - 1) + 0.5), int(j * (width - 1) / (w - 1) + 0.5)
            else:
                row, column = i * height // h, j * width // w
            top[:, :, i, j] = x[:, :, row, column]
        return [top]

    return define


A = (2, 3, 4, 5)
CASES = [
    Case("Upsample", "upsample_param { scale: 2 }", [A], [(2, 3, 8, 10)], repeat(2, 2)),
    Case("Upsample", "upsample_param { scale_h: 3 scale_w: 2 }", [A], [(2, 3, 12, 10)], repeat(3, 2)),
    Case("Upsample", "upsample_param { stride: 3 }", [A], [(2, 3, 12, 15)], repeat(3, 3)),
    Case("Upsample", "upsample_param { scale: 2 }", [A, A], [(2, 3, 8, 10)], unpool(8, 10), places(80)),
    Case("Upsample", "upsample_param { scale: 2 pad_out_h: true }", [A, A], [(2, 3, 7, 10)], unpool(7, 10), places(70)),
    Case(
        "Upsample", "upsample_param { upsample_h: 9 upsample_w: 8 }", [A, A], [(2, 3, 9, 8)], unpool(9, 8), places(72)
    ),
    Case("UpsampleDarknet", "upsample_darknet_param { stride: 2 }", [A], [(2, 3, 8, 10)], repeat(2, 2)),
    Case("Interp", "interp_param { height: 9 width: 13 }", [A], [(2, 3, 9, 13)], bilinear(9, 13)),
    Case("Interp", "interp_param { height: 3 width: 1 }", [A], [(2, 3, 3, 1)], bilinear(3, 1)),
    Case("Interp", "interp_param { height: 64 width: 33 }", [(1, 2, 1, 3)], [(1, 2, 64, 33)], bilinear(64, 33)),
    Case("Interp", "interp_param { zoom_factor: 3 }", [A], [(2, 3, 10, 13)], bilinear(10, 13)),
    Case("Interp", "interp_param { shrink_factor: 2 }", [A], [(2, 3, 2, 3)], bilinear(2, 3)),
    Case("Interp", "interp_param { shrink_factor: 2 zoom_factor: 2 }", [A], [(2, 3, 3, 5)], bilinear(3, 5)),
    Case(
        "Interp",
        "interp_param { zoom_factor: 2 pad_beg: -1 pad_end: -2 }",
        [(2, 3, 7, 8)],
        [(2, 3, 7, 9)],
        bilinear(7, 9, cut=(1, 2)),
    ),
    Case("Interp", "interp_param { use_blob_size: true }", [A, (2, 1, 7, 6)], [(2, 3, 7, 6)], bilinear(7, 6)),
    Case(
        "ResizeBilinear",
        "resize_bilinear_param { align_corners: true output_height: 7 output_width: 11 }",
        [A],
        [(2, 3, 7, 11)],
        bilinear(7, 11),
    ),
    Case(
        "ResizeBilinear",
        "resize_bilinear_param { output_height: 7 output_width: 11 }",
        [A],
        [(2, 3, 7, 11)],
        bilinear(7, 11, corners=False),
    ),
    Case(
        "ResizeNearestNeighbor",
        "resize_nearest_neighbor_param { output_height: 12 output_width: 10 }",
        [A],
        [(2, 3, 12, 10)],
        nearest(12, 10),
    ),
    Case(
        "ResizeNearestNeighbor",
        "resize_nearest_neighbor_param { output_height: 7 output_width: 3 }",
        [A],
        [(2, 3, 7, 3)],
        nearest(7, 3),
    ),
    Case(
        "ResizeNearestNeighbor",
        "resize_nearest_neighbor_param { output_height: 7 output_width: 9 align_corners: true }",
        [A],
        [(2, 3, 7, 9)],
        nearest(7, 9, corners=True),
    ),
    Case(
        "ResizeNearestNeighbor",
        "resize_nearest_neighbor_param { scaling_factor: 2 }",
        [A],
        [(2, 3, 8, 10)],
        nearest(8, 10),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_is_its_definition(case, tmp_path):
    check_case(case, tmp_path)


@pytest.mark.parametrize(("source", "target"), [(1, 513), (3, 7), (6, 64), (33, 257), (38, 75), (97, 96), (1023, 1024)])
def test_the_factor_gives_the_very_size(source, target):
    # onnxruntime multiplies in single precision, onnx's own shape inference does not round before the floor.
    scale = upsample.scale_for(source, target)
    assert int(np.floor(np.float32(source) * scale)) == int(np.floor(source * float(scale))) == target


def test_every_type_has_a_row():
    check_every_type_has_a_row(upsample, CASES)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case("Upsample", "upsample_param { height: 8 width: 10 }", [A], [()]), "different forks"),
        (Case("Upsample", "upsample_param { scale: 2 mode: 'bilinear' }", [A], [()]), "different forks"),
        (Case("Upsample", "upsample_param { scale: 2 }", [A, (2, 3, 8, 10)], [()]), "is not shaped like the bottom"),
        (Case("Upsample", "upsample_param { upsample_h: 9 }", [A], [()]), "must both be given"),
        (Case("Upsample", "upsample_param { upsample_h: 9 upsample_w: 10 }", [A], [()]), "is not a multiple"),
        (Case("Interp", "", [A], [()]), "needs height and width"),
        (Case("Interp", "interp_param { zoom_factor: 0 }", [A], [()]), "zoom_factor is 0, must be at least 1"),
        (Case("Interp", "interp_param { use_blob_size: true }", [A], [()]), "use_blob_size needs a second bottom"),
        (Case("Interp", "interp_param { height: 2 width: 2 pad_beg: 1 }", [A], [()]), "must not be above 0"),
        (
            Case(
                "ResizeBilinear",
                "resize_bilinear_param { output_height: 2 output_width: 2 data_format: 'NHWC' }",
                [A],
                [()],
            ),
            '"NHWC" is not supported',
        ),
        (Case("UpsampleDarknet", "", [A], [()]), "the output would be (0, 0)"),
    ],
    ids=str,
)
def test_refusals_name_the_parameter(case, words, tmp_path):
    check_refusal(case, words, tmp_path)
