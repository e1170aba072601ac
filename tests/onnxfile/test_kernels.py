"""Operators that ONNX has and onnxruntime does not: spelt out where ONNX says by which others, else left out by name."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import caffeinit
from caffeinit.engine.kernels import has_kernel
from caffeinit.engine.onnxrun import OnnxFunction
from tests.modes import EXACT, options_of
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, batch, info, tensor
from tests.ops.checks import LATER

FLOAT = TensorProto.FLOAT
MODES = ["preserve", "equalize", "balance", EXACT, "normalize", "init"]
# Operator -> its further inputs and settings: none of them is code in onnxruntime 1.31 at opset 22.
BARE = {
    "RoiAlign": (
        {"boxes": np.float32([[0, 0, 4, 4]]), "whose": np.int64([0])},
        {"output_height": 2, "output_width": 2},
    ),
    "MaxRoiPool": ({"boxes": np.float32([[0, 0, 0, 4, 4]])}, {"pooled_shape": [2, 2]}),
    "GlobalLpPool": ({}, {"p": 1}),
}


def beside(kind):
    """Return conv1 -> relu -> conv2 -> relu -> conv3, and beside conv3 the operator with a layer behind it."""
    b = Maker()
    b.domains[""] = 22
    arrays, settings = BARE[kind]
    b.initializers += [tensor(name, array) for name, array in arrays.items()]
    x = b.op("Relu", b.conv(b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1"), "conv2", 5, 6), out="r2")
    b.conv(x, "conv3", 6, 4, out="y")
    b.conv(b.op(kind, x, *arrays, out="pooled", **settings), "behind", 6, 4, out="z")
    b.outputs.append("z")
    if has_kernel(b.nodes[-2], b.domains, [FLOAT, *(FLOAT if a.dtype == np.float32 else 7 for a in arrays.values())]):
        pytest.skip("this onnxruntime has it")
    return b.model(ir=10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", BARE)
def test_what_onnxruntime_has_no_code_for_is_left_out_by_name(kind, mode, tmp_path):
    path, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    onnx.save(beside(kind), path)
    net = load(path)
    (cause, follower) = net.skipped
    assert (kind in cause.name, cause.reason) == (True, f"onnxruntime cannot run its operator {kind} of opset 22")
    assert follower.reason.startswith("depends on node")
    assert [unit.name for unit in net.units] == ["conv1.weight", "conv2.weight", "conv3.weight"]
    result = caffeinit.init(net, batch(8)) if mode == "init" else caffeinit.rescale(net, batch(8), **options_of(mode))
    net.save(out)
    assert result.units[0].done
    stored = [{t.name: t for t in onnx.load(p).graph.initializer} for p in (path, out)]
    assert stored[0]["behind.weight"] == stored[1]["behind.weight"]
    assert OnnxFunction(path).obstacle() == f"onnxruntime cannot run {kind} of opset 22"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("alpha", [None, 1.7])
@pytest.mark.parametrize("opset", [v for v in LATER if v >= 24])
def test_what_onnx_defines_by_others_runs_by_these(opset, alpha, mode, tmp_path):
    b = Maker()
    b.domains[""] = opset
    settings = {} if alpha is None else {"alpha": alpha}
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1")
    b.conv(b.op("Swish", b.conv(x, "conv2", 5, 6), out="bent", **settings), "conv3", 6, 4, out="y")
    path, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    onnx.save(b.model(ir=10), path)
    net = load(path)
    assert not net.skipped
    found = net.forward({"x": batch(2)}, ["conv2", "bent"])
    wanted = found["conv2"] / (1 + np.exp(-(alpha or 1.0) * found["conv2"].astype(np.float64)))
    np.testing.assert_allclose(found["bent"], wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    result = caffeinit.init(net, batch(8)) if mode == "init" else caffeinit.rescale(net, batch(8), **options_of(mode))
    net.save(out)
    assert result.units[0].done
    assert onnx.load(out).graph.node == onnx.load(path).graph.node
    if mode in ("normalize", "init"):
        assert result.rate_spread < 1e-2
    elif opset == 24:
        assert_same_function(path, out, "x", batch(2))


def test_types_that_it_has_no_code_for_are_told_from_others():
    known, other = (onnx.helper.make_node(kind, ["a"], ["b"]) for kind in ("HardSigmoid", "Nothing"))
    assert has_kernel(known, {"": 17}, [FLOAT])
    assert not has_kernel(known, {"": 17}, [TensorProto.DOUBLE])
    assert has_kernel(known, {"": 17}, [TensorProto.UNDEFINED])  # nothing is known
    assert has_kernel(other, {"": 17}, [FLOAT])  # told where operators are looked up


def test_the_types_behind_what_is_left_out_do_not_matter(tmp_path):
    b = Maker()
    x = b.conv(b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1"), "conv2", 5, 4, out="y")
    double = b.op("HardSigmoid", b.op("Cast", x, out="wide", to=TensorProto.DOUBLE), out="rare")
    b.op("Neg", double, out="z")
    model = b.model()
    model.graph.output.append(info("z", None, TensorProto.DOUBLE))
    onnx.save(model, tmp_path / "net.onnx")
    net = load(tmp_path / "net.onnx")
    assert [s.reason.partition(" ")[0] for s in net.skipped] == ["onnxruntime", "depends"]
    assert caffeinit.rescale(net, batch(8), mode="equalize").units[0].done == "equalized"
