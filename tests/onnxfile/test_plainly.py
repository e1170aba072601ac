"""Einsum with an array, and Gemm with a computed third input: units like any others, in a file that keeps its nodes."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import caffeinit
from caffeinit.engine.onnxrun import OnnxFile
from tests.modes import EXACT, options_of
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, batch, info, rescaled

EXTENTS = {"b": "N", "c": 6, "h": 5, "w": 4, "t": 20, "o": 7, "p": 3, "q": 2, "d": 6}

# Equation of a hidden layer and of its reader, and the axes of the hidden layer's bias.
CASES = [
    ("bchw,oc->bohw", "bohw,do->bdhw", "ohw"),
    ("bchw,co->bohw", "bohw,od->bdhw", "ohw"),
    ("bct,oc->bot", "bot,do->bdt", "ot"),
    ("bchw,oc->bhwo", "bhwo,od->bhwd", "o"),
    ("btc,cpq->btpq", "btpq,pqd->btd", "pq"),
    ("btc,pqc->btpq", "btpq,dpq->btd", "pq"),
    ("btc,cpq->bptq", "bptq,pqd->btd", ""),
    ("oc,btc->bto", "do,bto->btd", "o"),
    ("bc,co->bo", "bo,od->bd", "o"),
]


def shape(letters):
    return [EXTENTS[a] for a in letters]


def save(path, hidden, reader, shift):
    """Write relu(hidden(x) + bias), and a reader of it."""
    operands = hidden.split("->")[0].split(",")
    moving = next(t for t in operands if t.startswith("b"))
    b = Maker(shape=shape(moving))
    b.outputs = []
    x = "x"
    for name, equation in (("first", hidden), ("last", reader)):
        terms = equation.split("->")[0].split(",")
        side = 0 if terms[1].startswith("b") else 1
        weight = b.array(f"{name}.weight", *shape(terms[side]))
        x = b.op("Einsum", *([weight, x] if side == 0 else [x, weight]), out=name, equation=equation)
        if name == "first":
            if shift:
                kept = [
                    EXTENTS[a] if a in hidden.split(",")[1 - (moving != operands[0])].split("->")[0] else 1
                    for a in shift
                ]
                x = b.op("Add", x, b.array("first.bias", *kept), out="shifted")
            x = b.op("Relu", x, out="relu")
    model = b.model()
    model.graph.output.append(info(x, [None] * len(reader.split("->")[1])))
    onnx.save(model, path)
    return [n if n != "N" else 8 for n in shape(moving)]


@pytest.mark.parametrize(("hidden", "reader", "shift"), CASES)
@pytest.mark.parametrize("mode", ["preserve", "equalize", EXACT, "normalize", "init"])
def test_einsum_with_an_array_is_a_unit(hidden, reader, shift, mode, tmp_path):
    path, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    pictures = np.random.default_rng(0).standard_normal(save(path, hidden, reader, shift)).astype(np.float32)
    net = load(path)
    assert net.graph.batch_axis_free
    assert [unit.name for unit in net.units] == ["first.weight", "last.weight"]
    assert (net.units[0].bias is not None) == bool(shift)
    wanted = OnnxFile(path, threads=1).run({"x": pictures}, ["last"])["last"]
    np.testing.assert_allclose(net.forward({"x": pictures}, ["last"])["last"], wanted, rtol=1e-4, atol=1e-5)
    result = caffeinit.init(net, pictures) if mode == "init" else caffeinit.rescale(net, pictures, **options_of(mode))
    net.save(out)
    before, after = onnx.load(path), onnx.load(out)
    assert before.graph.node == after.graph.node
    if mode in ("preserve", "equalize", EXACT):
        assert result.units[0].done in ("equalized", "equalized by powers of two")
        assert_same_function(path, out, "x", pictures)
    else:
        assert all(unit.done for unit in result.units)
    found = caffeinit.measure(load(out), pictures)
    np.testing.assert_allclose(found.units[0].stats.channel_stds, result.units[0].after.channel_stds, rtol=1e-3)
    if mode in ("preserve", "normalize", "init"):
        assert found.rate_spread == pytest.approx(result.rate_spread, abs=1e-3)


@pytest.mark.parametrize(
    "equation", ["btc,tco->bto", "btc,co->bo", "btc,co->bt", "btc,co->tbo", "bcc,co->bo", "btc,bco->bto"]
)
def test_einsum_that_is_no_product_with_a_matrix_runs_as_it_is(equation, tmp_path):
    """Several matrices, sums over axes besides, a diagonal: none has channels in and out. The last reads no pictures."""
    b = Maker(shape=shape("btc") if "bcc" not in equation else shape("bcc"))
    letters = equation.split(",")[1].split("->")[0]
    weight = b.array("w", *[1 if a == "b" else EXTENTS[a] for a in letters])
    y = b.op("Einsum", b.op("Relu", "x", out="r"), weight, out="y", equation=equation)
    model = b.model()
    model.graph.output[0].CopyFrom(info(y, [None] * len(equation.split("->")[1])))
    onnx.save(model, tmp_path / "net.onnx")
    pictures = np.random.default_rng(0).standard_normal([1, *shape("tc" if "bcc" not in equation else "cc")])
    net = load(tmp_path / "net.onnx")
    is_turned = equation == "btc,co->tbo"
    assert bool(net.units) == is_turned
    assert [s.reason for s in net.skipped] == ([] if is_turned else ["its equation is no product with one matrix"])
    feeds = {"x": pictures.astype(np.float32)}
    wanted = OnnxFile(tmp_path / "net.onnx", threads=1).run(feeds, ["y"])["y"]
    np.testing.assert_allclose(net.forward(feeds, ["y"])["y"], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0), (1.0, 0.0)])
@pytest.mark.parametrize("mode", ["preserve", "normalize"])
def test_gemm_that_adds_a_shortcut_is_a_unit(mode, alpha, beta, tmp_path):
    b = Maker()
    x = b.op("Relu", b.conv("x", "conv1", 3, 6), out="r1")
    x = b.op("Flatten", b.op("GlobalAveragePool", x, out="mean"), out="row")
    x = b.op("Relu", b.op("Gemm", x, b.array("fc1", 6, 6), out="hidden"), out="r2")
    x = b.op("Gemm", x, b.array("fc2", 6, 6), "row", out="sum", transB=1, alpha=alpha, beta=beta)
    b.op("Gemm", b.op("Relu", x, out="r3"), b.array("fc3", 6, 4), out="y")
    model = b.model()
    model.graph.output[0].CopyFrom(info("y", [None] * 2))
    path, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    onnx.save(model, path)
    net = load(path)
    assert [unit.name for unit in net.units] == ["conv1.weight", "fc1", "fc2", "fc3"]
    wanted = OnnxFile(path, threads=1).run({"x": batch()}, ["y"])["y"]
    np.testing.assert_allclose(net.forward({"x": batch()}, ["y"])["y"], wanted, rtol=1e-4, atol=1e-5)
    result = caffeinit.rescale(net, batch(16), mode=mode)
    assert all(unit.done for unit in result.units)
    net.save(out)
    assert onnx.load(out).graph.node == onnx.load(path).graph.node
    if mode == "preserve":
        assert_same_function(path, out, "x", batch())
    assert caffeinit.measure(load(out), batch(16)).rate_spread == pytest.approx(result.rate_spread, abs=1e-3)


WINDOWS = [
    ("MaxPool", {"kernel_shape": [1, 1], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 2, 2], "ceil_mode": 1}),
    ("MaxPool", {"kernel_shape": [3, 3], "dilations": [2, 2], "auto_pad": "SAME_UPPER"}),
    (
        "MaxPool",
        {"kernel_shape": [1, 1], "strides": [2, 1], "dilations": [2, 1], "ceil_mode": 1, "auto_pad": "SAME_UPPER"},
    ),
    ("ConvTranspose", {"strides": [2, 2], "output_padding": [1, 1], "auto_pad": "SAME_LOWER"}),
]


@pytest.mark.parametrize(("kind", "settings"), WINDOWS)
def test_windows_that_onnx_sees_elsewhere_lie_where_onnxruntime_has_them(kind, settings, tmp_path):
    b = Maker()
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="relu")
    weights = [b.array("up.weight", 5, 5, 3, 3)] if kind == "ConvTranspose" else []
    b.conv(b.op(kind, x, *weights, out="windows", **settings), "conv2", 5, 4, out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    done, result = rescaled(path, out)
    assert done["conv1.weight"] == "equalized"
    assert max(result.outputs_moved.values()) < 1e-5
    assert_same_function(path, out, "x", batch())


def parted():
    """Return the nodes of a net in which an Identity could part what makes a unit, and its arrays."""
    b = Maker()
    x = b.op("Relu", b.op("BatchNormalization", b.conv("x", "conv", 3, 6), "s", "t", "m", "v", out="norm"), out="r")
    x = b.op("MatMul", b.op("Transpose", x, out="last", perm=[0, 2, 3, 1]), b.array("w", 6, 5), out="product")
    x = b.op("Relu", b.op("Add", x, b.array("b", 5), out="sum"), out="r2")
    half = b.op("Cast", b.op("Identity", "h", out="h as it is"), out="single", to=onnx.TensorProto.FLOAT)
    x = b.op("MatMul", x, half, out="product2")
    b.op("Transpose", x, out="y", perm=[0, 3, 1, 2])
    for name in ("s", "t", "m"):
        b.array(name, 6)
    arrays = {"v": np.linspace(0.5, 2, 6, dtype=np.float32), "h": b.rng.standard_normal((5, 4)).astype(np.float16)}
    b.initializers += [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    return b


@pytest.mark.parametrize("mode", [EXACT, "normalize"])
def test_an_identity_parts_nothing(mode, tmp_path):
    """Not a product and its bias, nor a convolution and the BatchNormalization or a weight and the Cast that read it."""
    plain = parted().model()
    model = onnx.ModelProto()
    model.CopyFrom(plain)
    del model.graph.node[:]
    for node in plain.graph.node:
        for place, name in enumerate(node.input):
            if name in ("x", "conv", "norm", "r", "product", "product2", "sum"):
                model.graph.node.add(op_type="Identity", input=[name], output=[f"{name} for {node.output[0]}"])
                node.input[place] = f"{name} for {node.output[0]}"
        model.graph.node.add().CopyFrom(node)
    written = []
    for name, one in (("plain", parted().model()), ("parted", model)):
        onnx.save(one, tmp_path / f"{name}.onnx")
        net = load(tmp_path / f"{name}.onnx")
        assert [unit.name for unit in net.units] == ["conv.weight", "s", "w", "h"]
        result = caffeinit.rescale(net, batch(16), **options_of(mode))
        assert result.units[2].done
        net.save(tmp_path / f"{name}.out.onnx")
        written.append(onnx.load(tmp_path / f"{name}.out.onnx").graph.initializer)
    assert written[0] == written[1]


@pytest.mark.parametrize("mode", ["preserve", EXACT])
@pytest.mark.parametrize("equation", ["nchw->ncwh", "nchw->nc"])
def test_einsum_of_one_value_passes_scales(equation, mode, tmp_path):
    b = Maker()
    x = b.op("Einsum", b.op("Relu", b.conv("x", "conv1", 3, 6), out="r"), out="e", equation=equation)
    if equation == "nchw->nc":
        b.op("Gemm", x, b.array("last", 6, 4), out="y")
    else:
        b.conv(x, "conv2", 6, 4, out="y")
    model = b.model()
    model.graph.output[0].CopyFrom(info("y", None))
    path, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    onnx.save(model, path)
    net = load(path)
    assert net.skipped == []
    assert all(unit.done for unit in caffeinit.rescale(net, batch(16), **options_of(mode)).units)
    net.save(out)
    assert_same_function(path, out, "x", batch())
