import numpy as np
import pytest

from caffeinit.caffe.layers import permute
from caffeinit.caffe.lower import infer_net, lower_net
from caffeinit.caffe.net import read_net
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal, run


def darknet_reorg(stride, reverse):
    """Return darknet's loop over flat indices, its bottom's extents taken for what it calls the output's."""

    def define(x):
        n, c, h, w = x.shape
        source, top = x.reshape(-1), np.empty(x.size, np.float32)
        less = c // stride**2
        for b, k, j, i in np.ndindex(n, c, h, w):
            near = i + w * (j + h * (k + c * b))
            column, row = i * stride + (k // less) % stride, j * stride + (k // less) // stride
            far = column + w * stride * (row + h * stride * (k % less + less * b))
            if reverse:
                top[far] = source[near]
            else:
                top[near] = source[far]
        return [
            top.reshape((n, less, h * stride, w * stride) if reverse else (n, c * stride**2, h // stride, w // stride))
        ]

    return define


def shuffle(group):
    def define(x):
        each = x.shape[1] // group
        top = np.empty_like(x)
        for g, i in np.ndindex(group, each):
            top[:, i * group + g] = x[:, g * each + i]
        return [top]

    return define


def to_batch(block, margins):
    """Deal out (N, C, H, W); block and margins of channels are 1 and 0."""

    def define(x):
        (bh, bw), ((top, bottom), (left, right)) = block, margins
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        parts = [padded[n, :, i::bh, j::bw] for i in range(bh) for j in range(bw) for n in range(len(x))]
        return [np.stack(parts)]

    return define


def from_batch(block, margins):
    def define(x):
        (bh, bw), ((top, bottom), (left, right)) = block, margins
        pictures = len(x) // (bh * bw)
        whole = np.zeros((pictures, x.shape[1], x.shape[2] * bh, x.shape[3] * bw), np.float32)
        for place, (i, j) in enumerate(np.ndindex(bh, bw)):
            for n in range(pictures):
                whole[n, :, i::bh, j::bw] = x[place * pictures + n]
        return [whole[:, :, top : whole.shape[2] - bottom, left : whole.shape[3] - right]]

    return define


CASES = [
    Case(
        "Permute",
        "permute_param { order: 0 order: 2 order: 3 order: 1 }",
        [(2, 3, 4, 5)],
        [(2, 4, 5, 3)],
        lambda x: [x.transpose(0, 2, 3, 1)],
    ),
    Case(
        "Permute",
        "permute_param { order: 0 order: 3 }",
        [(2, 3, 4, 5)],
        [(2, 5, 3, 4)],
        lambda x: [x.transpose(0, 3, 1, 2)],
    ),
    Case("Permute", "permute_param { order: 0 order: 1 }", [(2, 3, 4)], [(2, 3, 4)], lambda x: [x]),
    Case("ShuffleChannel", "shuffle_channel_param { group: 3 }", [(2, 12, 4, 5)], [(2, 12, 4, 5)], shuffle(3)),
    Case("Reorg", "reorg_param { stride: 2 }", [(2, 8, 4, 6)], [(2, 32, 2, 3)], darknet_reorg(2, reverse=False)),
    Case(
        "Reorg",
        "reorg_param { stride: 2 reverse: true }",
        [(2, 8, 3, 5)],
        [(2, 2, 6, 10)],
        darknet_reorg(2, reverse=True),
    ),
    Case(
        "SpaceToBatchND",
        "space_to_batch_nd_param { block_shape: [1, 2, 3] paddings: [0, 0, 1, 2, 2, 0] }",
        [(2, 3, 5, 7)],
        [(12, 3, 4, 3)],
        to_batch((2, 3), ((1, 2), (2, 0))),
        is_bound=True,
    ),
    Case(
        "BatchToSpaceND",
        "batch_to_space_nd_param { block_shape: [1, 2, 3] crops: [0, 0, 1, 2, 2, 0] }",
        [(12, 3, 4, 3)],
        [(2, 3, 5, 7)],
        from_batch((2, 3), ((1, 2), (2, 0))),
        is_bound=True,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_is_its_definition(case, tmp_path):
    check_case(case, tmp_path)


def test_dealing_out_and_back_takes_any_number_of_pictures(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 5 dim: 7 } } }'
        'layer { name: "a" type: "SpaceToBatchND" bottom: "x" top: "a" space_to_batch_nd_param {'
        " block_shape: [1, 2, 2] paddings: [0, 0, 1, 2, 2, 3] } }"
        'layer { name: "b" type: "BatchToSpaceND" bottom: "a" top: "b" batch_to_space_nd_param {'
        " block_shape: [1, 2, 2] crops: [0, 0, 1, 2, 2, 3] } }"
    )
    found = infer_net(read_net(path))
    graph = lower_net(found, {}).graph
    assert graph.batch_axis_free
    graph.outputs = ["b"]
    x = np.random.default_rng(0).standard_normal((3, 3, 5, 7)).astype(np.float32)
    np.testing.assert_array_equal(run(graph, {"x": x})["b"], x)


def test_every_type_has_a_row():
    check_every_type_has_a_row(permute, CASES)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case("Permute", "permute_param { order: 4 }", [(1, 2, 3, 4)], [()]), "order [4]"),
        (Case("Permute", "permute_param { order: 1 order: 1 }", [(1, 2, 3, 4)], [()]), "order [1, 1]"),
        (Case("ShuffleChannel", "shuffle_channel_param { group: 5 }", [(1, 12)], [()]), "group 5 does not divide"),
        (Case("Reorg", "reorg_param { stride: 2 }", [(1, 8, 3, 4)], [()]), "stride 2 does not divide (3, 4)"),
        (Case("Reorg", "reorg_param { stride: 2 }", [(1, 3, 4, 4)], [()]), "does not divide 3 channels"),
        (
            Case("SpaceToBatchND", "space_to_batch_nd_param { block_shape: [1, 2] }", [(1, 3, 5)], [()]),
            "block_shape [1, 2] does not divide",
        ),
        (
            Case("BatchToSpaceND", "batch_to_space_nd_param { block_shape: [1, 2] }", [(3, 3, 5)], [()]),
            "does not divide the 3 pictures",
        ),
    ],
    ids=str,
)
def test_refusals_name_the_parameter(case, words, tmp_path):
    check_refusal(case, words, tmp_path)
