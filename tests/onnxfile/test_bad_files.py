"""Files that are no ONNX models, or damaged ones: refused in words, whatever byte is wrong."""

import contextlib
import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from caffeinit.engine.onnxrun import OnnxFile
from caffeinit.errors import CaffeinitError, OptionError
from tests.conftest import shared
from tests.onnxfile.test_files import load
from tests.onnxfile.test_kinds import Maker, chain

WHOLE = chain().model().SerializeToString()


def edited(change):
    model = chain().model()
    change(model)
    return model.SerializeToString()


def without_graph(model):
    model.ClearField("graph")


def unknown_value(model):
    model.graph.node[1].input[0] = "nowhere"


def made_twice(model):
    model.graph.node[1].output[0] = "conv1"


def made_twice_at_once(model):
    model.graph.node.append(helper.make_node("Split", ["x"], ["a", "a"], axis=1, num_outputs=2))


def an_input_twice(model):
    model.graph.input.add().CopyFrom(model.graph.input[0])


def functions_of_many_nodes(model):
    """Twelve functions, each of ten calls of the one before: a thousand billion nodes."""
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for level in range(12):
        kind, domain = ("Relu", "") if level == 0 else (f"f{level - 1}", "own")
        names = ["a", *"cdefghijk", "b"]
        nodes = [helper.make_node(kind, [i], [o], domain=domain) for i, o in itertools.pairwise(names)]
        model.functions.append(helper.make_function("own", f"f{level}", ["a"], ["b"], nodes, domains))
    model.graph.node.append(helper.make_node("f11", ["x"], ["many"], domain="own"))
    model.opset_import.append(domains[1])


def two_of_one_name(model):
    model.graph.initializer.add().CopyFrom(model.graph.initializer[0])


def too_few_numbers(model):
    model.graph.initializer[0].dims[0] = 6


def negative_axis(model):
    model.graph.initializer[0].dims[0] = -5


def huge_and_empty(model):
    model.graph.initializer[0].dims[:] = [0, 1 << 40, 1 << 40]
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].ClearField("float_data")


def constant_without_output(model):
    model.graph.node.add(op_type="Constant").attribute.append(helper.make_attribute("value_float", 1.0))


def halves_too_few(model):
    tensor = TensorProto(data_type=TensorProto.FLOAT16, dims=[3, 65], raw_data=bytes(12))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["x"], ["odd"], value=tensor))


def no_type(model):
    model.graph.initializer[0].data_type = 99


def no_opset(model):
    del model.opset_import[:]


def lost_output(model):
    model.graph.output.add().CopyFrom(model.graph.output[0])
    model.graph.output[1].name = "nowhere"


def old_opset(model):
    model.opset_import[0].version = 6


def wrong_channels(model):
    model.graph.initializer[0].dims[:] = [3, 5, 3, 3]


def wrong_bias(model):
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.zeros(7, np.float32), "conv1.bias"))


def no_group(model):
    model.graph.node[0].attribute.append(helper.make_attribute("group", 0))


def endless_input(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = (1 << 63) - 1


def cast_to_no_type(model):
    model.graph.node[1].CopyFrom(helper.make_node("Cast", ["conv1"], ["relu"], "relu", to=0))


def constant_of_a_number(model):
    model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], "k", value=3))


def constant_of_no_type_in_a_function(model):
    inner = helper.make_node("Constant", [], ["k"], "k", value=TensorProto(dims=[1]))
    model.functions.append(helper.make_function("own", "f", [], ["k"], [inner], model.opset_import))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.insert(0, helper.make_node("f", [], ["made"], domain="own"))
    model.graph.output.append(helper.make_tensor_value_info("made", TensorProto.FLOAT, None))


def odd_bias_of_a_product(model):
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((3, 5), np.float32), "g"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, 4), np.float32), "h"))
    model.graph.node.append(helper.make_node("GlobalAveragePool", ["x"], ["pooled"]))
    model.graph.node.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    model.graph.node.append(helper.make_node("Gemm", ["flat", "g", "h"], ["product"]))
    model.graph.output.append(helper.make_tensor_value_info("product", TensorProto.FLOAT, None))


def an_if_in_a_circle(model):
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["r"])], "b", [], [onnx.ValueInfoProto(name="r")])
    model.graph.node.append(helper.make_node("Identity", ["late"], ["early"]))
    model.graph.node.append(helper.make_node("If", ["early"], ["chosen"], then_branch=branch, else_branch=branch))
    model.graph.node.append(helper.make_node("Identity", ["early"], ["late"]))
    model.graph.output.append(helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None))


def _no_text(part: bytes) -> bytes:
    """Return a model with a subgraph, in which the letters of one name are no text."""
    then = helper.make_graph(
        [helper.make_node("Identity", ["innernam"], ["thenname"])],
        "then",
        [],
        [helper.make_tensor_value_info("thenname", TensorProto.FLOAT, None)],
        [helper.make_tensor("innernam", TensorProto.FLOAT, [1], [1.0])],
    )
    model = onnx.load_from_string(WHOLE)
    model.graph.node.append(helper.make_node("If", ["conditio"], ["chosenna"], then_branch=then, else_branch=then))
    raw = model.SerializeToString()
    assert part in raw
    return raw.replace(part, b"\xff" * len(part))


BAD = [
    (b"", "is empty"),
    (b"layer { }", "is a text file, not an ONNX model"),
    (b"PK\x03\x04" + bytes(40), "is a zip archive"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
    (b"\xff" * 40, "is no ONNX model"),
    (WHOLE[:-3], "is no ONNX model, or one that is damaged"),
    (WHOLE[: len(WHOLE) // 2], "is no ONNX model, or one that is damaged"),
    (WHOLE + WHOLE, "more than one graph"),
    (edited(without_graph), "holds no graph"),
    (edited(unknown_value), 'reads "nowhere", which nothing makes before it'),
    (edited(an_if_in_a_circle), 'reads "late", which nothing makes before it'),
    (edited(made_twice), '"conv1" is made twice'),
    (edited(made_twice_at_once), '"a" is made twice'),
    (edited(an_input_twice), 'two inputs are named "x"'),
    (edited(functions_of_many_nodes), "until they are 1000000000003 nodes"),
    (edited(two_of_one_name), 'two initializers are named "conv1.weight"'),
    (edited(too_few_numbers), "asks for 162 numbers, 135 are there"),
    (edited(negative_axis), "no tensor can have its shape"),
    (edited(constant_without_output), "a node in it makes nothing"),
    (edited(halves_too_few), "of a node cannot be read: cannot reshape"),
    (edited(huge_and_empty), "no tensor can have its shape"),
    (edited(no_type), "is of type 99, which does not exist"),
    (edited(no_opset), "states no version of ONNX's operators"),
    (edited(lost_output), 'nothing makes its output "nowhere"'),
    (edited(old_opset), r"of opset 6(.|\n)*version_converter"),
    (edited(wrong_channels), "is for 5 channels, but its input is"),
    (edited(wrong_bias), r"is \(7,\), but should be \(5,\)"),
    (edited(no_group), "its group 0"),
    (edited(endless_input), "which no memory holds"),
    (edited(cast_to_no_type), '"relu" .Cast. does not fit what it reads'),
    (edited(constant_of_a_number), "damaged"),
    (edited(constant_of_no_type_in_a_function), r"the Constant .* cannot be read"),
    (WHOLE.replace(b"\x12\x01N", b"\x12\x01\xff"), "a name in it is no text"),
    *((_no_text(name), "a name in it is no text") for name in (b"innernam", b"thenname", b"conditio", b"then_branch")),
    (edited(odd_bias_of_a_product), r"an array of \(1, 4\) cannot be added to a product of \(1, 5\)"),
]


def declared(shape, kind=TensorProto.FLOAT):
    """Return the chain with its first weight, float (5, 3, 3, 3), as an input of another kind."""
    return edited(lambda m: m.graph.input.append(helper.make_tensor_value_info("conv1.weight", kind, shape)))


def a_sequence(model):
    model.graph.input.append(helper.make_tensor_sequence_value_info("conv1.weight", TensorProto.FLOAT, None))


WEIGHT = r'initializer "conv1.weight" is float \(5, 3, 3, 3\), but .* declared as'
MISDECLARED = [
    (declared([5, 3, 3, 2]), rf"{WEIGHT} float \(5, 3, 3, 2\); onnxruntime would not"),
    (declared([5, 3, 27]), rf"{WEIGHT} float \(5, 3, 27\)"),
    (declared([]), rf"{WEIGHT} float \(\)"),
    (declared([0]), rf"{WEIGHT} float \(0,\)"),
    (declared(["o", 3, None, 4]), rf"{WEIGHT} float \(o, 3, \?, 4\)"),
    (declared([5, 3, 3, 3], TensorProto.FLOAT16), rf"{WEIGHT} float16 \(5, 3, 3, 3\)"),
    (declared(None, TensorProto.DOUBLE), f"{WEIGHT} double;"),
    (edited(a_sequence), f"{WEIGHT} a sequence;"),
]
FITTING = [[5, 3, 3, 3], ["o", 3, None, 3], [-1, 3, 3, 3], None]


@pytest.mark.parametrize(("content", "message"), MISDECLARED, ids=range(len(MISDECLARED)))
def test_an_input_declared_otherwise_than_its_initializer_is_refused_as_onnxruntime_does(content, message, tmp_path):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(CaffeinitError, match=message):
        load(tmp_path / "net.onnx")
    with pytest.raises(Exception, match=r"onnxruntime|ONNXRuntimeError"):
        OnnxFile(tmp_path / "net.onnx", threads=1)


@pytest.mark.parametrize("shape", FITTING, ids=str)
def test_axes_of_an_input_that_are_open_fit_any_initializer(shape, tmp_path):
    (tmp_path / "net.onnx").write_bytes(declared(shape))
    assert [u.name for u in load(tmp_path / "net.onnx").units] == ["conv1.weight", "conv2.weight"]


@pytest.mark.parametrize(("content", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_files_are_refused_in_words(content, message, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(CaffeinitError, match=message):
        load(path)


def test_any_damaged_byte_is_refused_or_read(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "net.onnx"
    structure = [i for i in range(len(WHOLE)) if i < 120 or i > len(WHOLE) - 200]  # few of them hit numbers
    for at in rng.choice(structure, 60, replace=False):
        damaged = bytearray(WHOLE)
        damaged[at] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with contextlib.suppress(CaffeinitError):
            load(path)


def test_weights_and_old_files_are_refused():
    with pytest.raises(OptionError, match="holds its weights"):
        load(shared("onnx/super_resolution.onnx"), weights="x.caffemodel")
    with pytest.raises(CaffeinitError, match=r"opset 1(.|\n)*onnx\.version_converter\.convert_version\(model, 17\)"):
        load(shared("onnx/mnist_2018.onnx"))


def test_a_name_that_we_would_give_can_be_taken(tmp_path):
    model = chain().model()
    model.graph.input.append(helper.make_tensor_value_info("k", TensorProto.INT64, [1]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, np.float32), "k@cast"))
    model.graph.node.append(helper.make_node("Cast", ["k"], ["k@cast@"], to=TensorProto.FLOAT))
    onnx.save(model, tmp_path / "net.onnx")
    graph = load(tmp_path / "net.onnx").graph
    assert "k" in graph.inputs
    assert "k@cast" in graph.initializers


def test_a_model_without_units_is_refused(tmp_path):
    b = Maker()
    b.op("Relu", "x", out="y")
    import caffeinit

    with pytest.raises(CaffeinitError, match="no layer whose weights could be changed"):
        caffeinit.rescale(load(b.save(tmp_path / "net.onnx")), np.zeros((1, 3, 8, 6)))


# What a number that is damaged asks for: the node, its further inputs, and the attributes.
ENDLESS = [
    ("Pad", [np.asarray([1 << 62, 0, 0, 0, 0, 0, 0, 0])], {}),
    ("Pad", [np.asarray([0, 0, 1 << 32, 0, 0, 0, 0, 1 << 32])], {}),  # their product is 0 in 64 digits
    ("Tile", [np.asarray([1, 1 << 20, 1 << 20, 1])], {}),
    ("Expand", [np.asarray([1 << 45, 5, 8, 6])], {}),
    ("Resize", ["", np.float32([1, 1, 1e9, 1e9])], {}),
    ("ConvTranspose", [np.ones((5, 5, 1, 1), np.float32)], {"strides": [1 << 30, 1 << 30]}),
    ("MaxPool", [], {"kernel_shape": [1, 1], "pads": [0, 0, 0, 1 << 50]}),
]


@pytest.mark.parametrize(("kind", "inputs", "settings"), ENDLESS, ids=lambda v: v if isinstance(v, str) else "")
def test_sizes_that_no_memory_holds_are_refused(kind, inputs, settings, tmp_path):
    b = Maker()
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="relu")
    names = [
        i if isinstance(i, str) else b.initializers.append(numpy_helper.from_array(i, f"n{n}")) or f"n{n}"
        for n, i in enumerate(inputs)
    ]
    b.conv(b.op(kind, x, *names, out="endless", **settings), "conv2", 5, 4, out="y")
    with pytest.raises(CaffeinitError, match="which no memory holds"):
        load(b.save(tmp_path / "net.onnx"))
