"""Every operator's gradient against central differences, and its scale rule against scaled operands."""

import numpy as np
import pytest

from caffeinit.ops import known_ops
from caffeinit.ops.base import _RULES
from caffeinit.ops.unmoved import Flat
from tests.ops.checks import Operand, case, check_gradient, check_scale, param

POSITIVE = Operand((2, 3, 4), 0.5, 3.0)
X = (2, 3, 4)


def ints(*values):
    return np.asarray(values, np.int64)


CASES = [
    # Windowed rows have different extents, kernels and pads on h and w, so that exchanging them fails.
    case("Conv", (2, 3, 7, 5), param(4, 3, 3, 2), param(4)),
    case("Conv", (2, 6, 7, 5), param(4, 6, 3, 2), param(4), pads=[1, 0, 2, 1]),
    case("Conv", (2, 6, 9, 8), param(4, 6, 3, 2), param(4), strides=[2, 3], pads=[1, 0, 0, 1]),
    case("Conv", (2, 3, 9, 8), param(4, 3, 3, 2), strides=[2, 3], dilations=[2, 1], pads=[1, 2, 0, 1]),
    case("Conv", (2, 8, 9, 8), param(4, 8, 2, 3), strides=[3, 1], dilations=[1, 2]),
    case("Conv", (2, 4, 7, 6), param(6, 2, 3, 3), param(6), group=2, pads=[1, 1, 1, 1]),
    case("Conv", (2, 12, 7, 6), param(4, 6, 3, 2), param(4), group=2, strides=[2, 1], pads=[0, 1, 1, 0]),
    case("Conv", (2, 4, 7, 6), param(4, 1, 3, 3), group=4, pads=[1, 1, 1, 1]),
    case("Conv", (2, 4, 7, 6), param(8, 1, 3, 3), group=4, strides=[2, 2]),
    case("Conv", (2, 5, 4, 3), param(6, 5, 1, 1), param(6)),
    case("Conv", (2, 6, 4, 3), param(6, 3, 1, 1), group=2),
    case("Conv", (2, 6, 5, 4), param(4, 6, 1, 1), strides=[2, 2]),
    case("Conv", (2, 6, 5, 4), param(4, 6, 1, 1), pads=[1, 1, 1, 1]),
    case("Conv", (2, 6, 7, 8), param(4, 6, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", (2, 6, 7, 8), param(4, 6, 2, 4), auto_pad="SAME_LOWER"),
    case("Conv", (2, 5, 9), param(4, 5, 3), param(4), pads=[1, 2], strides=[2]),
    case("Conv", (2, 2, 9), param(4, 2, 3), dilations=[2]),
    case("Conv", (2, 5, 4, 5, 3), param(4, 5, 2, 3, 2), param(4), pads=[1, 0, 1, 0, 1, 0]),
    case("Conv", (2, 2, 4, 5, 3), param(4, 2, 2, 3, 2), strides=[2, 1, 1]),
    case("Conv", (2, 3, 5, 4), param(3, 3, 5, 4)),
    case("ConvTranspose", (2, 3, 4, 5), param(3, 2, 3, 2), param(2)),
    case("ConvTranspose", (2, 6, 4, 3), param(6, 2, 4, 3), param(4), group=2, strides=[2, 3], pads=[1, 0, 1, 1]),
    case("ConvTranspose", (2, 6, 4, 3), param(6, 5, 3, 3), strides=[2, 2], output_padding=[1, 0], pads=[1, 1, 1, 1]),
    case("ConvTranspose", (2, 4, 4, 3), param(4, 1, 4, 4), group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
    case("ConvTranspose", (2, 6, 4, 3), param(6, 5, 2, 3), dilations=[2, 1]),
    case("ConvTranspose", (2, 3, 5), param(3, 6, 3), strides=[2]),
    case("ConvTranspose", (2, 6, 4, 3), param(6, 5, 1, 1)),
    case("Gemm", (4, 3), param(3, 5), param(5)),
    case("Gemm", (4, 3), param(5, 3), param(5), transB=1),
    case("Gemm", (3, 4), param(3, 5), param(1, 5), transA=1, alpha=0.5, beta=2.0, is_bound=True),
    case("Gemm", (3, 4), param(5, 3), param(4, 1), transA=1, transB=1, is_bound=True),
    case("Gemm", (4, 3), param(3, 5), alpha=3.0),
    case("MatMul", (4, 3), param(3, 5)),
    case("MatMul", (2, 4, 3), param(3, 5)),
    case("MatMul", (2, 4, 3), (2, 3, 5)),
    case("MatMul", (2, 6, 4, 3), (2, 1, 3, 5)),
    case("MatMul", param(5, 4), (2, 4, 3)),
    case("MatMul", (2, 4, 3), param(3)),
    case("MatMul", param(4), (2, 4, 3)),
    case("Einsum", (2, 3, 4), (2, 4, 5), equation="bij,bjk->bik"),
    case("Einsum", (2, 3, 4, 5), param(4, 6), equation="nchw,hk->nckw"),
    case("Relu", X),
    case("LeakyRelu", X, alpha=0.2),
    case("PRelu", (2, 3, 4, 2), param(3, 1, 1)),
    case("PRelu", (2, 3, 4), param(1)),
    case("ThresholdedRelu", X, alpha=0.3),
    case("Sigmoid", X),
    case("Tanh", X),
    case("Elu", X, alpha=0.7),
    case("Celu", X, alpha=0.7),
    case("Selu", X),
    case("Softplus", X),
    case("Softsign", X),
    case("Clip", X, np.float32(-0.5), np.float32(1.0)),
    case("Clip", X, "", np.float32(1.0)),
    case("HardSigmoid", X, alpha=0.4),
    case("HardSwish", Operand(X, -5.0, 5.0)),
    case("Erf", X),
    case("Sin", X),
    case("Cos", X),
    case("Exp", X),
    case("Log", POSITIVE),
    case("Sqrt", POSITIVE),
    case("Reciprocal", POSITIVE),
    case("Neg", X),
    case("Abs", X),
    case("Identity", X),
    case("Dropout", X),
    case("Cast", X, to=1),
    case("Pow", X, np.float32(2.0)),
    case("Pow", X, np.float32(3.0)),
    case("Pow", POSITIVE, np.float32(-0.75)),
    case("Pow", POSITIVE, np.float32([[0.5], [2.0], [1.5]])),
    case("Pow", POSITIVE, param(3, 1)),
    case("Add", X, X),
    case("Add", X, param(3, 1)),
    case("Add", param(4), X),
    case("Add", (2, 3, 1), param(1, 1, 4)),
    case("Add", (1, 3, 4), param(1, 3, 1)),
    case("Sub", X, param(1, 3, 1)),
    case("Sub", param(4), X),
    case("Mul", X, X),
    case("Mul", X, (2, 3, 1)),
    case("Mul", X, param(3, 1)),
    case("Mul", (1, 3, 4), param(1, 3, 1)),
    case("Div", X, POSITIVE),
    case("Div", X, param(3, 1, low=0.5)),
    case("Div", param(4), POSITIVE),
    case("Sum", X, X, param(3, 1)),
    case("Mean", X, X, param(4)),
    case("Max", X, X),
    case("Max", X, X, param(3, 1)),
    case("Min", X, param(4), X),
    case("Where", np.array([[True], [False], [True]]), X, param(4)),
    case("Softmax", X, axis=1),
    case("Softmax", (2, 5)),
    case("LogSoftmax", X, axis=-1),
    case("MaxPool", (2, 3, 7, 6), kernel_shape=[3, 2], strides=[2, 1]),
    case("MaxPool", (2, 3, 7, 9), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 0], ceil_mode=1),
    case("MaxPool", (2, 3, 7, 6), kernel_shape=[2, 2], dilations=[2, 1]),
    case("MaxPool", (2, 3, 7, 6), kernel_shape=[2, 3], strides=[2, 2], outputs=2),
    case("MaxPool", (2, 3, 9), kernel_shape=[3], strides=[2]),
    case("MaxPool", (2, 2, 4, 5, 3), kernel_shape=[2, 3, 2]),
    case("GlobalMaxPool", (2, 3, 4, 3)),
    case("AveragePool", (2, 3, 7, 6), kernel_shape=[3, 2], strides=[2, 1]),
    case("AveragePool", (2, 3, 7, 6), kernel_shape=[3, 2], pads=[1, 1, 1, 0]),
    case("AveragePool", (2, 3, 7, 6), kernel_shape=[3, 2], strides=[2, 3], pads=[1, 0, 1, 1], count_include_pad=1),
    case("AveragePool", (2, 3, 8, 6), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("AveragePool", (2, 3, 9), kernel_shape=[3], strides=[2]),
    case("AveragePool", (2, 2, 4, 5, 3), kernel_shape=[2, 3, 2]),
    case("GlobalAveragePool", (2, 3, 4, 3)),
    case("BatchNormalization", (2, 3, 4, 2), param(3), param(3), param(3), param(3, low=0.5)),
    case("BatchNormalization", (2, 3), param(3), param(3), param(3), param(3, low=0.5), epsilon=1e-2),
    case("InstanceNormalization", (2, 3, 4, 5), param(3), param(3)),
    case("LayerNormalization", (2, 3, 4), param(4), param(4)),
    case("LayerNormalization", (2, 3, 4), param(3, 4), axis=1),
    case("MeanVarianceNormalization", (2, 3, 4, 5)),
    case("MeanVarianceNormalization", (2, 3, 4, 5), axes=[1, 2, 3]),
    case("LpNormalization", X, axis=1),
    case("LpNormalization", X, axis=-1, p=1),
    case("LRN", (2, 7, 3, 2), size=3, alpha=0.5),
    case("LRN", (2, 7, 3, 2), size=5, alpha=0.5, beta=0.6, bias=2.0),
    case("ReduceSum", X, ints(1)),
    case("ReduceSum", X, ints(0, 2), keepdims=0),
    case("ReduceSum", X),
    case("ReduceMean", X, axes=[1], keepdims=0),
    case("ReduceMean", X, axes=[0, 2]),
    case("ReduceSumSquare", X, axes=[-1]),
    case("ReduceMax", X, axes=[1], keepdims=0),
    case("ReduceMax", X, axes=[1, 2]),
    case("ReduceMin", X, axes=[-1]),
    case("ReduceL1", X, axes=[1]),
    case("ReduceL2", X, axes=[1, 2], keepdims=0),
    case("ReduceProd", POSITIVE, axes=[2]),
    case("ReduceLogSum", POSITIVE, axes=[1]),
    case("ReduceLogSumExp", X, axes=[1], keepdims=0),
    case("Reshape", X, ints(-1, 12)),
    case("Reshape", X, ints(-1, 4)),
    case("Flatten", X),
    case("Squeeze", (2, 1, 4), ints(1)),
    case("Unsqueeze", X, ints(1, 3)),
    case("Transpose", X, perm=[2, 0, 1], is_bound=True),
    case("Transpose", X, is_bound=True),
    case("Transpose", X, perm=[0, 2, 1]),
    case("Concat", X, (2, 5, 4), X, axis=1),
    case("Concat", X, (3, 3, 4), axis=0, is_bound=True),
    case("Split", X, axis=1, outputs=3),
    case("Split", X, ints(1, 3), axis=2, outputs=2),
    case("Slice", X, ints(1), ints(3), ints(2)),
    case("Slice", X, ints(0, -1), ints(2, -(1 << 31)), ints(1, 2), ints(1, -1)),
    case("Slice", (2, 7, 3), ints(1), ints(7), ints(1), ints(2)),
    case("Pad", X, ints(0, 1, 2, 0, 0, 1)),
    case("Pad", X, ints(0, -1, 2, 0, 0, -1)),
    case("Pad", X, ints(0, 1, 2, 0, 0, 1), mode="edge"),
    case("Pad", X, ints(0, 1, 2, 0, 2, 1), mode="reflect"),
    case("Expand", (2, 1, 4), ints(1, 3, 1)),
    case("Expand", param(3, 1), ints(2, 3, 4), is_bound=True),
    case("Tile", X, ints(1, 2, 3)),
    case("Tile", X, ints(2, 1, 1), is_bound=True),
    case("DepthToSpace", (2, 8, 3, 2), blocksize=2),
    case("DepthToSpace", (2, 8, 3, 2), blocksize=2, mode="CRD"),
    case("SpaceToDepth", (2, 2, 4, 6), blocksize=2),
    case("Gather", X, ints(2, 0, 1), axis=1),
    case("Gather", X, ints(2, 0, 2, 2), axis=1),
    case("Gather", X, np.asarray(1), axis=1),
    case("Gather", param(5, 3), ints([0, 1], [4, 1])),
    case("Gather", X, ints([0, 1], [2, 1]), axis=2),
    case("GatherElements", param(3, 4), ints([0, 1], [2, 2], [3, 1]), axis=1),
    case("GatherND", param(3, 4), ints([0, 1], [2, 2])),
    case("ScatterElements", param(2, 4), ints([0, 1], [2, 3]), param(2, 2), axis=1, is_bound=True),
    case("ScatterElements", param(2, 4), ints([0, 0], [2, 3]), param(2, 2), axis=1, reduction="add", is_bound=True),
    case("ScatterND", param(3, 4), ints([0], [2]), param(2, 4), is_bound=True),
    case("TopK", (2, 6, 2), ints(3), axis=1, outputs=2),
    case("CumSum", X, np.asarray(1)),
    case("CumSum", X, np.asarray(2), reverse=1, exclusive=1),
    case("Resize", (2, 3, 4, 3), "", np.float32([1, 1, 2, 3]), coordinate_transformation_mode="asymmetric",
         nearest_mode="floor"),
    case("Resize", (2, 3, 4, 3), "", np.float32([1, 1, 2, 3]), mode="linear"),
    case("Resize", (2, 3, 4, 3), "", np.float32([1, 1, 1.75, 2]), mode="linear",
         coordinate_transformation_mode="align_corners"),
    case("Resize", (2, 3, 8, 6), "", np.float32([1, 1, 0.5, 0.5])),
    case("Resize", (2, 3, 4, 5), "", np.float32([1, 1, 2, 2]), mode="cubic"),
    case("Resize", (2, 3, 4, 5), "", np.float32([1, 1, 2, 2]), mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
    case("Resize", (2, 3, 4, 3), "", "", ints(2, 3, 7, 5), mode="linear", is_bound=True,
         coordinate_transformation_mode="pytorch_half_pixel"),
]  # fmt: skip


@pytest.mark.parametrize("row", CASES, ids=str)
def test_the_gradient_is_the_slope(row):
    check_gradient(row)


# What is not homogeneous: nothing before or behind it can be scaled.
BARRIERS = {
    "Celu", "Clip", "Cos", "Einsum", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "InstanceNormalization",
    "LRN", "LayerNormalization", "Log", "LogSoftmax", "MeanVarianceNormalization", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceProd", "Selu", "Sigmoid", "Sin", "Softmax", "Softplus", "Softsign", "Tanh", "ThresholdedRelu",
}  # fmt: skip


# Beside an array that is not the weight of a unit these may be held too.
HELD_BY_PARAMETERS = {"Gemm", "MatMul", "Max", "Mean", "Min", "Pow", "Where"}


@pytest.mark.parametrize("row", CASES, ids=str)
def test_factors_pass_as_the_rule_says(row):
    free = check_scale(row)
    if row.op in BARRIERS:
        assert free == 0
    elif row.op not in HELD_BY_PARAMETERS or all(isinstance(o, Operand) and o.moves for o in row.operands):
        assert free > 0


def test_every_operator_with_a_gradient_has_a_row():
    flat = {op for op in known_ops() if _RULES[op].refusal or isinstance(_RULES[op], Flat)}
    assert set(known_ops()) - flat == {row.op for row in CASES}
