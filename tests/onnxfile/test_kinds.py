"""What an ONNX file can hold beside plain nets: halves, data files, subgraphs, functions, other inputs, odd weights."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import caffeinit
from caffeinit.onnxfile.tensors import read_list
from caffeinit.storage import wire
from tests.onnxfile.test_files import assert_same_function, load

OPSET = 17


def info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def tensor(name, array, raw=True):
    if raw:
        return numpy_helper.from_array(array, name)
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor(name, kind, array.shape, array.reshape(-1).tolist())


class Maker:
    """Collects a model of two convolutions around whatever a test puts between them."""

    def __init__(self, seed=0, dtype=np.float32, raw=True, shape=("N", 3, 8, 6)):
        self.rng = np.random.default_rng(seed)
        self.dtype, self.raw = dtype, raw
        self.kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.nodes, self.initializers, self.functions = [], [], []
        self.inputs = [info("x", shape, self.kind)]
        self.outputs = ["y"]
        self.domains = {"": OPSET}

    def array(self, name, *shape, scale=None):
        rows = self.rng.uniform(0.3, 3, (shape[0],) + (1,) * (len(shape) - 1))
        values = self.rng.standard_normal(shape) * rows / np.sqrt(np.prod(shape[1:]))
        self.initializers.append(tensor(name, values.astype(self.dtype), self.raw))
        return name

    def op(self, kind, *inputs, out, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [out], f"{out}_{len(self.nodes)}", **attributes))
        return out

    def conv(self, x, name, inputs, outputs, out=None):
        arrays = [self.array(f"{name}.weight", outputs, inputs, 3, 3), self.array(f"{name}.bias", outputs)]
        return self.op("Conv", x, *arrays, out=out or name, pads=[1] * 4)

    def model(self, ir=8):
        outputs = [info(o, [None] * 4, self.kind) for o in self.outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, outputs, self.initializers)
        opsets = [helper.make_opsetid(d, v) for d, v in self.domains.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=self.functions)
        model.doc_string = "kept"
        model.metadata_props.add(key="k", value="v")
        return model

    def save(self, path, **options):
        onnx.save(self.model(), path, **options)
        return path


def chain(**options):
    """Return conv1 -> relu -> conv2 -> y."""
    b = Maker(**options)
    b.conv(b.op("Relu", b.conv("x", "conv1", 3, 5), out="relu"), "conv2", 5, 4, out="y")
    return b


def batch(num=3, shape=(3, 8, 6), dtype=np.float32):
    return np.random.default_rng(1).standard_normal((num, *shape)).astype(dtype)


def rescaled(path, out, images=None, **options):
    net = load(path)
    result = caffeinit.rescale(
        net, {"x": batch(8).astype(np.float32)} if images is None else images, mode="equalize", **options
    )
    net.save(out)
    return {u.name: u.done or u.reason for u in result.units}, result


def test_only_changed_initializers_differ(tmp_path):
    b = chain()
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    done, _ = rescaled(path, out)
    assert done == {
        "conv1.weight": "equalized",
        "conv2.weight": 'takes up its input\'s scales; its output is held: net output "y"',
    }
    before, after = onnx.load(path), onnx.load(out)
    changed = {
        a.name
        for a, c in zip(before.graph.initializer, after.graph.initializer, strict=True)
        if a.SerializeToString() != c.SerializeToString()
    }
    assert changed == {"conv1.weight", "conv1.bias", "conv2.weight"}
    for model in (before, after):
        del model.graph.initializer[:]
    assert before == after
    assert_same_function(path, out, "x", batch())


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.float32])
def test_types_are_computed_in_single_precision_and_written_back(dtype, raw, tmp_path):
    b = Maker(dtype=dtype, raw=raw)
    x = b.op("Cast", b.conv("x", "conv1", 3, 5), out="cast", to=b.kind)
    half = b.op("Constant", out="half", value=tensor("", np.asarray(0.5, dtype)))
    x = b.op("Mul", b.op("Relu", x, out="relu"), half, out="mul")
    b.conv(x, "conv2", 5, 4, out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    net.save(out)
    assert out.read_bytes() == path.read_bytes()
    out.unlink()
    done, _ = rescaled(path, out, powers_of_two=dtype == np.float16)
    assert done["conv1.weight"].startswith("equalized")
    kinds = [t.data_type for m in map(onnx.load, (path, out)) for t in m.graph.initializer]
    assert set(kinds) == {b.kind}
    onnx.checker.check_model(out)
    if dtype != np.float64:  # onnxruntime has no such convolution
        assert_same_function(path, out, "x", batch(dtype=dtype), 1e-5 if dtype == np.float32 else 4e-3)


def test_half_precision_stays_exact_with_powers_of_two(tmp_path):
    path, out = chain(dtype=np.float16).save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    net.params["conv1.weight"][0][...] *= 4
    net.params["conv1.bias"][0][...] *= 4
    net.params["conv2.weight"][0][...] /= 4
    net.save(out)
    assert_same_function(path, out, "x", batch(dtype=np.float16), 1e-6)


def test_constant_nodes_are_weights(tmp_path):
    b = chain()
    for t in list(b.initializers):
        value = onnx.TensorProto()
        value.CopyFrom(t)
        b.nodes.insert(0, helper.make_node("Constant", [], [t.name], value=value))
    b.initializers.clear()
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    done, _ = rescaled(path, out)
    assert done["conv1.weight"] == "equalized"
    assert path.stat().st_size == out.stat().st_size
    assert_same_function(path, out, "x", batch())


def test_lists_of_numbers_are_weights(tmp_path):
    b = Maker()
    b.array("w1", 5, 3, 3, 3)
    b.array("w2", 4, 5, 1, 1)
    b.op("Constant", out="b1", value_floats=b.rng.standard_normal(5).tolist())
    b.op("Constant", out="half", value_float=0.5)
    b.op("Conv", b.op("Mul", b.op("Conv", "x", "w1", "b1", out="c"), "half", out="m"), "w2", out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    done, _ = rescaled(path, out)
    assert "equalized" in done["w1"]
    before, after = (onnx.load(p).graph.node for p in (path, out))
    assert before[0].attribute[0].floats != after[0].attribute[0].floats
    assert path.stat().st_size == out.stat().st_size
    assert_same_function(path, out, "x", batch())


def test_lists_are_read_as_any_writer_puts_them():
    numbers = np.float32([0.5, -2, 3])
    name = wire.encode_bytes(1, b"value_floats")
    apart = b"".join(wire.encode_varint(7 << 3 | wire.FIXED32) + n.tobytes() for n in numbers)
    for content in (name + apart, apart + name, name + wire.encode_bytes(7, numbers.tobytes())):
        found = read_list(content, [wire.Field(5, wire.BYTES, 0, 0, len(content), 0)], "", wire.Budget())
        np.testing.assert_array_equal(found.array(), numbers)


def test_weights_are_followed_through_views_and_used_twice(tmp_path):
    b = Maker()
    b.array("w", 27, 3)
    b.op("Constant", out="dims", value=tensor("", np.asarray([3, 3, 3, 3])))
    b.op("Identity", b.op("Reshape", b.op("Transpose", "w", out="t", perm=[1, 0]), "dims", out="r"), out="kernel")
    b.array("b", 3)
    x = b.op("Relu", b.op("Conv", "x", "kernel", "b", out="c1", pads=[1] * 4), out="r1")
    x = b.op("Relu", b.op("Conv", x, "kernel", "b", out="c2", pads=[1] * 4), out="r2")
    b.conv(x, "last", 3, 2, out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    assert [(u.name, len(u.uses)) for u in net.units] == [("w", 2), ("last.weight", 1)]
    rescaled(path, out)
    assert_same_function(path, out, "x", batch())


@pytest.mark.parametrize("balanced", [False, True])
def test_zeros_that_an_untrained_net_has_as_all_its_biases_are_none(balanced, tmp_path):
    """Exporters store equal arrays once. More of them than are worked out for what follows from arrays, behind Identity."""
    b, x = Maker(), "x"
    b.initializers.append(tensor("zeros", np.zeros(300, np.float32)))
    for name, inputs in (("w1", 3), ("w2", 300), ("w3", 300)):
        bias = "zeros" if name == "w1" else b.op("Identity", "zeros", out=f"{name}.bias")
        x = b.op("Conv", x, b.array(name, 300, inputs, 1, 1), bias, out=f"{name}.out")
        x = b.op("Relu", x, out=f"{name}.r")
    b.conv(x, "last", 300, 2, out="y")
    net = load(b.save(tmp_path / "net.onnx"))
    result = caffeinit.init(net, {"x": batch(16)}, balanced=balanced)
    assert [u.reason for u in result.units] == [""] * 4
    if balanced:
        assert result.rate_spread < 1e-3
    net.save(tmp_path / "out.onnx")
    again = caffeinit.measure(load(tmp_path / "out.onnx"), {"x": batch(16)})
    for told, found in zip(result.units, again.units, strict=True):
        np.testing.assert_allclose(told.after.channel_stds, found.stats.channel_stds, rtol=1e-3)
        assert balanced or np.allclose(np.delete(found.stats.channel_stds, told.dead), 1, rtol=1e-3)


@pytest.mark.parametrize("kind", ["BatchNormalization", "Mul"])
def test_an_array_that_multiplies_and_is_added_makes_no_unit(kind, tmp_path):
    b = Maker()
    x, both = b.conv("x", "conv1", 3, 5), b.array("both", 5, 1, 1)
    if kind == "Mul":
        x = b.op("Add", b.op("Mul", x, both, out="scaled"), both, out="normal")
    else:
        b.op("Reshape", both, b.op("Constant", out="dims", value_ints=[5]), out="flat")
        b.initializers += [tensor("mean", np.zeros(5, np.float32)), tensor("variance", np.ones(5, np.float32))]
        x = b.op(kind, x, "flat", "flat", "mean", "variance", out="normal")
    b.conv(b.op("Relu", x, out="relu"), "conv2", 5, 4, out="y")
    net = load(b.save(tmp_path / "net.onnx"))
    assert "both" not in [u.layer for u in net.units]
    result = caffeinit.init(net, {"x": batch(16)})
    net.save(tmp_path / "out.onnx")
    again = caffeinit.measure(load(tmp_path / "out.onnx"), {"x": batch(16)})
    for told, found in zip(result.units, again.units, strict=True):
        np.testing.assert_allclose(told.after.channel_stds, found.stats.channel_stds, rtol=1e-3)


def as_input(b):
    b.inputs.append(info("conv1.weight", [5, 3, 3, 3]))


def as_output(b):
    b.outputs.append("conv1.weight")


def quantized(b):
    t = next(i for i in b.initializers if i.name == "conv1.weight")
    array = np.clip(numpy_helper.to_array(t) * 40, -127, 127).astype(np.int8)
    b.initializers.remove(t)
    b.initializers += [tensor("q", array), tensor("s", np.float32(1 / 40))]
    b.nodes.insert(0, helper.make_node("DequantizeLinear", ["q", "s"], ["conv1.weight"]))


def in_subgraph(b):
    b.initializers.append(tensor("flag", np.asarray(True)))
    branches = [
        helper.make_graph(
            [helper.make_node(op, ["conv1.weight"], [f"{op}_out"], axes=None)], op, [], [info(f"{op}_out", None)]
        )
        for op in ("Neg", "Identity")
    ]
    b.nodes.append(helper.make_node("If", ["flag"], ["branch"], "if", then_branch=branches[0], else_branch=branches[1]))
    b.outputs.append("branch")


def in_formula(b):
    b.nodes[:] = [n for n in b.nodes if n.output[0] != "conv1"]
    b.op("Mul", "conv1.weight", "conv1.weight", out="squared")
    b.op("Conv", "x", "squared", "conv1.bias", out="conv1", pads=[1] * 4)
    b.nodes[:] = b.nodes[-2:] + b.nodes[:-2]


HELD = [
    (as_input, "its weight is also an input of the model: its numbers are a default"),
    (as_output, "its weight is also an output of the model"),
    (quantized, "its weight is computed by DequantizeLinear in the graph, not stored"),
    (in_subgraph, 'its weight is read inside If "if"'),
    (in_formula, "its weight is computed by Mul in the graph, not stored"),
]


@pytest.mark.parametrize("mode", ["equalize", "normalize", "init"])
@pytest.mark.parametrize(("change", "reason"), HELD)
def test_weights_that_have_to_stay_do_and_say_why(change, reason, mode, tmp_path):
    b = chain()
    change(b)
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    before = {n: a.copy() for n, (a,) in net.params.items()}
    images = {"x": batch(8)}
    result = caffeinit.init(net, images) if mode == "init" else caffeinit.rescale(net, images, mode=mode)
    name = "squared" if change is in_formula else "conv1.weight"
    assert {u.name: u.reason for u in result.units}[name] == reason
    np.testing.assert_array_equal(net.params[name][0], before[name])
    net.save(out)
    onnx.checker.check_model(out)


def test_a_computed_array_of_what_is_no_unit_is_no_hindrance(tmp_path):
    """A Gemm whose third input is one number for all channels is none."""
    b = chain()
    b.op("Flatten", "y", out="flat")
    b.initializers.append(tensor("shift", np.float64([[0.3]])))
    b.op("Cast", "shift", out="cast", to=TensorProto.FLOAT)
    b.op("Gemm", "flat", b.array("fc.weight", 4 * 8 * 6, 4), "cast", out="scores")
    b.outputs = ["scores"]
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    done, _ = rescaled(path, out)
    assert done["conv1.weight"] == "equalized"


def test_what_reads_a_channel_of_zeros_is_not_scaled_for_its_rate(tmp_path):
    b = Maker()
    x = b.conv("x", "conv1", 3, 5)
    pruned = np.random.default_rng(0).integers(-100, 100, (3, 5, 3, 3)).astype(np.int8)
    pruned[1] = 0
    b.initializers += [tensor("q", pruned), tensor("s", np.float32(0.01))]
    x = b.op("Conv", x, b.op("DequantizeLinear", "q", "s", out="pruned"), out="middle", pads=[1] * 4)
    b.conv(x, "conv2", 3, 4, out="y")
    net = load(b.save(tmp_path / "net.onnx"))
    columns = net.params["conv2.weight"][0]
    before = columns.copy()
    result = caffeinit.rescale(net, {"x": batch(16)}, mode="normalize")
    share = np.abs(columns / before)
    np.testing.assert_allclose(share, np.broadcast_to(share[:, :1, :1, :1], share.shape), rtol=1e-4)
    assert caffeinit.measure(net, {"x": batch(16)}).rate_spread == pytest.approx(result.rate_spread, rel=1e-3)


def test_older_files_list_their_weights_as_inputs(tmp_path):
    b = chain()
    as_input(b)
    b.domains[""] = 8
    onnx.save(b.model(ir=3), tmp_path / "net.onnx")
    done, _ = rescaled(tmp_path / "net.onnx", tmp_path / "out.onnx")
    assert done["conv1.weight"] == "equalized"


def test_units_are_named_after_their_weights_and_those_that_share_one_are_told_apart(tmp_path):
    b = Maker()
    b.array("w", 3, 3, 3, 3)
    x = b.op("Conv", "x", "w", b.array("b1", 3), out="c1", pads=[1] * 4)
    arrays = [b.array(f"bn.{part}", 3) for part in ("weight", "bias", "running_mean")]
    b.initializers.append(tensor("bn.running_var", np.ones(3, np.float32)))
    x = b.op("BatchNormalization", x, *arrays, "bn.running_var", out="n")
    b.op("Conv", x, "w", b.array("b2", 3), out="y", pads=[1] * 4)
    net = load(b.save(tmp_path / "net.onnx"))
    assert [u.name for u in net.units] == ["w", "bn.weight", "w (y_2)"]
    result = caffeinit.rescale(net, {"x": batch(8)}, layers=["bn.weight"])
    assert [u.name for u in result.units if "not among the chosen" not in u.reason] == ["bn.weight"]


def test_factors_along_another_axis_than_the_channels_below_come_out_as_told(tmp_path):
    b = Maker()
    x = b.op("Mul", b.conv("x", "conv1", 3, 5), b.array("columns", 6), out="scaled")
    b.conv(x, "conv2", 5, 4, out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    _, result = rescaled(path, out)
    assert_same_function(path, out, "x", batch())
    again = caffeinit.measure(load(out), {"x": batch(8)})
    for told, found in zip(result.units, again.units, strict=True):
        np.testing.assert_allclose(told.after.channel_stds, found.stats.channel_stds, rtol=1e-3)


def ends_in_one_channel(kind, last, dtype=np.float32):
    """Return conv1 -> relu -> a convolution with one output channel -> `last`, with a stored number."""
    b = Maker(dtype=dtype)
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="relu")
    shape = (1, 5, 3, 3) if kind == "Conv" else (5, 1, 3, 3)
    x = b.op(kind, x, b.array("score.weight", *shape), out="score", pads=[1] * 4)
    b.initializers.append(tensor("score.number", np.full((1, 1, 1, 1), 0.3, dtype)))
    b.op(last, x, "score.number", out="y")
    return b


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_a_single_channel_of_a_convolution_has_its_bias(kind, tmp_path):
    """Exporters put the bias of a transposed convolution behind it; that of the last layer of a map is one number."""
    net = load(ends_in_one_channel(kind, "Add").save(tmp_path / "net.onnx"))
    assert [u.initializers for u in net.units][-1] == ["score.weight", "score.number"]
    result = caffeinit.init(net, {"x": batch(8)}, balanced=False)
    np.testing.assert_allclose(result.units[-1].after.mean, 0.1, rtol=1e-3)  # beta


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_what_one_channel_is_multiplied_by_is_no_layer(kind, tmp_path):
    net = load(ends_in_one_channel(kind, "Mul").save(tmp_path / "net.onnx"))
    assert [u.initializers for u in net.units][-1] == ["score.weight"]


def test_what_init_tells_of_halves_is_what_the_file_then_holds(tmp_path):
    path, out = chain(dtype=np.float16).save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net, images = load(path), {"x": batch(16).astype(np.float32)}
    told = caffeinit.init(net, images).units
    net.save(out)
    for unit, found in zip(told, caffeinit.measure(load(out), images).units, strict=True):
        np.testing.assert_allclose(unit.after.channel_means, found.stats.channel_means, rtol=1e-5)
        np.testing.assert_allclose(unit.after.channel_stds, found.stats.channel_stds, rtol=1e-5)
        np.testing.assert_allclose(unit.after.rate, found.rate, rtol=1e-5)
