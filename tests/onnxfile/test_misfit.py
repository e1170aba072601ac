"""Nodes that do not fit what they read are named before anything stumbles over them; arrays with two roles are held."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import caffeinit
from caffeinit.errors import CaffeinitError

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype("f4")


def save(place, nodes, arrays, size=16):
    """Write a model from "x", (N, 3, size, size), to "y"."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, size, size])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    held = [numpy_helper.from_array(a, name) for name, a in arrays.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], held)
    opset = 21 if any(n.op_type == "GroupNormalization" for n in nodes) else 17
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), place / "m.onnx")
    return place / "m.onnx"


def node(kind, *inputs, to="y", **attributes):
    return helper.make_node(kind, inputs, [to], **attributes)


CONV = node("Conv", "x", "w", to="c", pads=[1] * 4)


def branch(kind):
    made = [helper.make_tensor_value_info(kind, TensorProto.FLOAT, None)]
    return helper.make_graph([node(kind, "c", to=kind)], kind, [], made)


# A value whose rank onnx cannot infer.
UNKNOWN = [
    CONV,
    node("ReduceMax", "c", to="top", keepdims=0),
    node("Greater", "top", "top", to="never"),
    node("If", "never", to="whole", then_branch=branch("Flatten"), else_branch=branch("Relu")),
]
FLAT = node("Flatten", "c", to="f")
CASES = {
    "odd places": ([CONV, node("SpaceToDepth", "c", blocksize=2)], {}, 15, "height and width"),
    "odd channels": ([CONV, node("DepthToSpace", "c", blocksize=3)], {}, 16, "channels of its input"),
    "a kernel without size": (
        [node("Conv", "x", "w", kernel_shape=[3, 3])],
        {"w": array(4, 3, 3, 0)},
        16,
        "has no numbers",
    ),
    "slopes of other channels": ([CONV, node("PRelu", "c", "s")], {"s": array(5, 1, 1)}, 16, "its slopes are"),
    "keepdims": ([CONV, node("ReduceMean", "c", axes=[2], keepdims=2)], {}, 16, "keepdims is 2"),
    "an operand left out": ([CONV, node("Einsum", "c", "", equation="nchw,oc->nohw")], {}, 16, "operand number 2"),
    "transB": ([CONV, FLAT, node("Gemm", "f", "m", transB=7)], {"m": array(7, 1024)}, 16, "transB is 7"),
    "kernel_shape": (
        [node("Conv", "x", "w", kernel_shape=[3, 2])],
        {},
        16,
        r"\(4, 3, 3, 3\), but its kernel_shape \[3, 2\]",
    ),
    "a kernel that reaches too far": (
        [node("Conv", "x", "w", dilations=[20, 1])],
        {},
        16,
        r"it would make \(1, 4, -24, 14\)",
    ),
    "a mode": ([CONV, node("Pad", "c", "t", mode=b"\xff")], {"t": np.array([0] * 7 + [1])}, 16, "its mode is no text"),
    "epsilon": (
        [CONV, node("InstanceNormalization", "c", "s", "s", epsilon=np.nan)],
        {"s": array(4)},
        16,
        "its epsilon is nan",
    ),
    "groups": (
        [CONV, node("GroupNormalization", "c", "s", "s", num_groups=3)],
        {"s": array(4)},
        16,
        "cannot be cut into 3 groups",
    ),
    "a group": (
        [*UNKNOWN, node("Conv", "whole", "w", group=16)],
        {},
        16,
        r"its weight \(4, 3, 3, 3\) cannot be cut into 16 groups",
    ),
    "pads": ([*UNKNOWN, node("Conv", "whole", "w", pads=[1, 1, 1, -1])], {}, 16, r"its pads are \[1, 1, 1, -1\]"),
    "strides": (
        [*UNKNOWN, node("MaxPool", "whole", kernel_shape=[2, 2], strides=[2, 0])],
        {},
        16,
        r"its strides are \[2, 0\]",
    ),
    "an axis": ([CONV, node("Compress", "c", "t", axis=(1 << 63) - 1)], {"t": np.array([True])}, 16, "its axis is 9"),
    "an order": ([CONV, node("Transpose", "c", perm=[0, 2, 3])], {}, 16, r"its perm is \[0, 2, 3\]"),
    "a deviation": ([CONV, node("RandomNormalLike", "c", scale=-1.0)], {}, 16, "its scale is -1.0"),
    "a matrix for a list": ([CONV, node("Reshape", "c", "t")], {"t": np.array([[1, -1]])}, 16, '"t" is to be a list'),
    "a matrix of axes": (
        [CONV, node("Slice", "c", "t", "t", "u")],
        {"t": np.array([1]), "u": np.array([[1]])},
        16,
        '"u" is to be a list',
    ),
    "a count": ([CONV, node("Reshape", "c", "t")], {"t": np.array([1, 5, 7])}, 16, "cannot take the shape"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_node_that_does_not_fit_is_named(tmp_path, name):
    nodes, arrays, size, why = CASES[name]
    path = save(tmp_path, nodes, {"w": array(4, 3, 3, 3), **arrays}, size)
    with pytest.raises(CaffeinitError, match=why) as told:
        caffeinit.rescale(caffeinit.load(path), [array(4, 3, size, size)])
    assert nodes[-1].op_type in str(told.value)


def norm_then_factor(*factor):
    """Return the nodes of a net whose second convolution is multiplied by an array that a BatchNormalization has, too."""
    return [
        node("Conv", "x", "w", to="c", pads=[1] * 4),
        node("BatchNormalization", "c", "gamma", "zeros", "mean", "variance", to="b"),
        node("Relu", "b", to="r"),
        node("Conv", "r", "v", to="d", pads=[1] * 4),
        *factor,
        node("Relu", "e", to="s"),
        node("Conv", "s", "u"),
    ]


ROLES = {
    "variance": [node("Reshape", "variance", "to", to="again"), node("Mul", "d", "again", to="e")],
    "mean": [
        node("Transpose", "d", to="last", perm=[0, 2, 3, 1]),
        node("Mul", "last", "mean", to="times"),
        node("Transpose", "times", to="e", perm=[0, 3, 1, 2]),
    ],
}


@pytest.mark.parametrize("mode", ["preserve", "equalize", "normalize"])
@pytest.mark.parametrize("role", ROLES)
def test_a_statistic_that_is_a_factor_elsewhere_keeps_the_function(tmp_path, role, mode):
    arrays = {"w": array(8, 3, 3, 3), "v": array(8, 8, 3, 3), "u": array(4, 8, 3, 3), "zeros": np.zeros(8, "f4")}
    arrays |= {name: np.exp(array(8) / 3) for name in ("gamma", "mean", "variance")} | {"to": np.array([1, 8, 1, 1])}
    path = save(tmp_path, norm_then_factor(*ROLES[role]), arrays)
    net, pictures = caffeinit.load(path), array(6, 3, 16, 16)
    before = net.forward({"x": pictures})["y"]
    result = caffeinit.rescale(net, [pictures], mode=mode)
    assert len(result.units) == len({u.key for u in net.units})
    if mode != "normalize":
        assert any(u.done for u in result.units)
        # Beside epsilon, no factor is right for a variance and for what it multiplies.
        assert np.array_equal(net.graph.initializers[role], arrays[role]) == (role == "variance")
        np.testing.assert_allclose(net.forward({"x": pictures})["y"], before, atol=1e-5 * np.abs(before).max())
