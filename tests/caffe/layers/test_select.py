import numpy as np
import pytest

from caffeinit.caffe.layers import select
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal, lower, run


def indices(high):
    return lambda rng, shape, i: rng.integers(0, high, shape)


def with_indices(high):
    return lambda rng, shape, i: rng.integers(0, high, shape) if i else rng.standard_normal(shape)


def embed(x, table, bias=None):
    rows = np.stack([table[int(i)] for i in x.reshape(-1)]).reshape(*x.shape, -1)
    return [rows if bias is None else rows + bias]


def im2col(kernel, stride, pad, dilation=(1, 1)):
    def define(x):
        n, channels, height, width = x.shape
        sizes = [
            (s + 2 * p - (d * (k - 1) + 1)) // t + 1
            for s, k, t, p, d in zip((height, width), kernel, stride, pad, dilation, strict=True)
        ]
        top = np.zeros((n, channels * kernel[0] * kernel[1], *sizes), np.float32)
        for c, i, j, y, z in np.ndindex(channels, *kernel, *sizes):
            row, column = y * stride[0] - pad[0] + i * dilation[0], z * stride[1] - pad[1] + j * dilation[1]
            if 0 <= row < height and 0 <= column < width:
                top[:, (c * kernel[0] + i) * kernel[1] + j, y, z] = x[:, c, row, column]
        return [top]

    return define


CASES = [
    Case(
        "Embed", "embed_param { num_output: 4 input_dim: 9 }", [(3, 2)], [(3, 2, 4)], embed, indices(9), [(9, 4), (4,)]
    ),
    Case(
        "Embed",
        "embed_param { num_output: 4 input_dim: 9 bias_term: false }",
        [(5,)],
        [(5, 4)],
        embed,
        indices(9),
        [(9, 4)],
    ),
    Case(
        "BatchReindex",
        "",
        [(4, 2, 3), (6,)],
        [(6, 2, 3)],
        lambda x, i: [x[i.astype(int)]],
        with_indices(4),
        is_bound=True,
    ),
    Case(
        "Parameter",
        "parameter_param { shape { dim: 2 dim: 3 } }",
        [],
        [(2, 3)],
        lambda a: [a],
        params=[(2, 3)],
        is_bound=True,
    ),
    Case("Parameter", "", [], [()], lambda a: [a], params=[()], is_bound=True, name="Parameter-one number"),
    # h and w differ in every windowed row, so that swapping them fails.
    Case(
        "Crop",
        "crop_param { axis: 2 offset: 2 offset: 1 }",
        [(2, 3, 9, 8), (2, 5, 6, 4)],
        [(2, 3, 6, 4)],
        lambda x, like: [x[:, :, 2:8, 1:5]],
    ),
    Case(
        "Crop",
        "crop_param { axis: -1 offset: 3 }",
        [(2, 3, 9, 8), (2, 5, 6, 4)],
        [(2, 3, 9, 4)],
        lambda x, like: [x[..., 3:7]],
    ),
    Case("Crop", "", [(2, 3, 9, 8), (2, 3, 9, 8)], [(2, 3, 9, 8)], lambda x, like: [x], name="Crop-nothing to cut"),
    Case(
        "Crop",
        "crop_param { axis: 1 offset: 1 }",
        [(2, 5, 6), (1, 3, 4, 9)],
        [(2, 3, 4)],
        lambda x, like: [x[:, 1:4, 1:5]],
        name="Crop-to a bottom of more axes",
        is_bound=True,
    ),
    Case(
        "CropCenter",
        "crop_center_param { crop_size: 0 crop_size: 1 crop_size: 2 crop_size: 3 }",
        [(2, 4, 9, 8)],
        [(2, 2, 5, 2)],
        lambda x: [x[:, 1:3, 2:7, 3:5]],
    ),
    Case(
        "Tile",
        "tile_param { axis: 1 tiles: 3 }",
        [(2, 3, 4)],
        [(2, 9, 4)],
        lambda x: [np.concatenate([x, x, x], axis=1)],
    ),
    Case(
        "Tile", "tile_param { axis: -1 tiles: 2 }", [(2, 3, 4)], [(2, 3, 8)], lambda x: [np.concatenate([x, x], axis=2)]
    ),
    Case(
        "Im2col",
        "convolution_param { kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0 }",
        [(2, 3, 7, 5)],
        [(2, 18, 4, 4)],
        im2col((3, 2), (2, 1), (1, 0)),
    ),
    Case(
        "Im2col",
        "convolution_param { kernel_h: 2 kernel_w: 3 pad_h: 0 pad_w: 2 dilation: 3 dilation: 2 }",
        [(1, 2, 8, 6)],
        [(1, 12, 5, 6)],
        im2col((2, 3), (1, 1), (0, 2), (3, 2)),
    ),
    Case(
        "Im2col",
        "convolution_param { kernel_size: 3 }",
        [(2, 2, 7)],
        [(2, 6, 5)],
        lambda x: [np.stack([x[:, c, i : i + 5] for c in range(2) for i in range(3)], axis=1)],
        name="Im2col-one spatial axis",
    ),
    Case(
        "Im2col",
        "convolution_param { kernel_size: 4 stride: 2 }",
        [(2, 2, 3)],
        [(2, 8, 1)],
        lambda x: [np.pad(x, ((0, 0), (0, 0), (0, 1))).reshape(len(x), 8, 1)],
        name="Im2col-too large by less than the stride",
    ),
]

FILTER = Case("Filter", "", [(7, 2, 3), (7, 4), (7, 1, 1)], [(7, 2, 3), (7, 4)])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_is_its_definition(case, tmp_path):
    check_case(case, tmp_path)


def test_filter_keeps_what_is_selected(tmp_path):
    graph = lower(FILTER.infer(tmp_path), [])
    graph.outputs = ["out0", "out1"]
    x, y, _ = FILTER.values()
    keep = np.array([1, 0, -2, 0, 0, 0.5, 1], np.float32)
    out = run(graph, {"in0": x, "in1": y, "in2": keep.reshape(7, 1, 1)})
    np.testing.assert_array_equal(out["out0"], x[[0, 2, 5, 6]])
    np.testing.assert_array_equal(out["out1"], y[[0, 2, 5, 6]])


def test_every_type_has_a_row():
    check_every_type_has_a_row(select, [*CASES, FILTER])


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case("Embed", "embed_param { num_output: 4 }", [(3,)], [()]), "input_dim must both be given"),
        (Case("Crop", "crop_param { offset: 4 }", [(1, 1, 9, 8), (1, 1, 6, 4)], [()]), "reach past 9 on axis 2"),
        (Case("Crop", "crop_param { axis: 1 offset: 4 offset: 1 }", [(1, 1, 9, 8)] * 2, [()]), "2 offsets for 3 axes"),
        (
            Case("CropCenter", "crop_center_param { crop_size: 1 }", [(1, 4, 9, 8)], [()]),
            "1 crop sizes for a bottom with 4",
        ),
        (Case("Crop", "", [(1, 1, 9, 8), (1, 1, 6)], [()]), "(1, 1, 6) has fewer axes than its first"),
        (Case("CropCenter", "crop_center_param { axis: 1 crop_size: 1 }", [(1, 4, 9, 8)], [()]), "axis 1 is not"),
        (Case("Tile", "", [(1, 4)], [()]), "tiles is 0"),
        (Case("Im2col", "convolution_param { kernel_size: 9 }", [(1, 4, 9, 8)], [()]), "does not fit into (9, 8)"),
        (Case("Filter", "", [(4, 2), (4, 2)], [()]), "one number per entry"),
        (Case("BatchReindex", "", [(4, 2), (4, 2)], [()]), "must be a list"),
    ],
    ids=str,
)
def test_refusals_name_the_parameter(case, words, tmp_path):
    check_refusal(case, words, tmp_path)
