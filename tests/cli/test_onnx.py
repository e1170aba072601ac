"""ONNX models on the command line, in place of net and weights."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.conftest import shared
from tests.onnxnets import ModelBuilder


@pytest.fixture
def model(cli, place, weights):
    assert cli("convert", place / "net.prototxt", weights, "-o", place / "net.onnx").code == 0
    return place / "net.onnx"


def test_verbs_take_a_model_in_place_of_net_and_weights(cli, place, model):
    images = ("--images", place / "pictures")
    done = cli("rescale", model, *images)
    assert done.code == 0, done.err
    rescaled = place / "net.rescaled.onnx"
    assert "equalized" in done.out
    assert f"wrote {rescaled}" in done.out
    assert rescaled.stat().st_size == model.stat().st_size
    assert cli("verify", model, rescaled, *images, "--tolerance", "1e-5").code == 0
    measured = cli("measure", model, "--compare", rescaled, *images)
    assert measured.code == 0
    assert "rescaled" in measured.out
    assert cli("init", model, *images, "-o", place / "start.onnx").code == 0
    assert cli("verify", model, place / "start.onnx", *images).code == 1
    assert "scales can be chosen" in cli("inspect", model, "--scales").out
    report = json.loads(cli("inspect", model, "--json", "-").out)
    assert [layer["type"] for layer in report["layers"] if layer["unit"]] == ["Conv", "Gemm"]
    assert report["macs"] > 0


def test_a_model_may_take_its_own_place(cli, place, model):
    images = ("--images", place / "pictures")
    assert cli("rescale", model, *images, "-o", place / "other.onnx").code == 0
    assert cli("rescale", model, *images, "-o", model).code == 1
    outcome = cli("rescale", model, *images, "-o", model, "--force")
    assert outcome.code == 0, outcome.err
    assert model.read_bytes() == (place / "other.onnx").read_bytes()


@pytest.mark.parametrize("option", ["--phase=TEST", "--level=1", "--stage=a"])
def test_options_of_caffe_nets_alone_are_refused(cli, place, model, option):
    images = ("--images", place / "pictures")
    verbs = [("rescale", model, *images), ("measure", model, *images), ("verify", model, model, *images)]
    for words in [*verbs, ("init", model, *images, "-o", place / "x.onnx"), ("inspect", model)]:
        outcome = cli(*words, option)
        assert outcome.code == 2
        assert f"{option.partition('=')[0]} is for Caffe nets" in outcome.err


def write_typed(path, inner, given):
    """Write x of type `given`, cast to `inner` -> conv -> relu -> conv."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape) * 0.2 for shape in ((4, 3, 3, 3), (2, 4, 3, 3))]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(inner))
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["cast"], to=kind),
            helper.make_node("Conv", ["cast", "w0"], ["conv"]),
            helper.make_node("Relu", ["conv"], ["relu"]),
            helper.make_node("Conv", ["relu", "w1"], ["y"]),
        ],
        "typed",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(given)), ["N", 3, 12, 10])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(w.astype(inner), f"w{i}") for i, w in enumerate(weights)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


TYPED = {"uint8": (np.float32, np.uint8), "half": (np.float16, np.float16), "double": (np.float64, np.float64)}


@pytest.mark.parametrize("name", TYPED)
def test_models_of_other_types_are_verified(name, cli, place):
    model = write_typed(place / "typed.onnx", *TYPED[name])
    images = ("--images", place / "pictures")
    exact = ["--powers-of-two"] if name == "half" else []
    assert cli("rescale", model, *images, "--mode", "equalize", *exact, "-o", place / "out.onnx").code == 0
    outcome = cli("verify", model, place / "out.onnx", *images, "--tolerance", 3e-3 if name == "half" else 1e-5)
    assert outcome.code == 0, outcome.err
    assert ("is computed in single precision" in outcome.out) == (name == "double")
    strict = cli("verify", model, model, *images, "--tolerance", 1e-5)
    assert strict.code == 0
    assert ("in half precision" in strict.out) == (name == "half")
    if name != "uint8":
        assert TYPED[name][0] == numpy_helper.to_array(onnx.load(place / "out.onnx").graph.initializer[0]).dtype


def test_models_with_operators_that_onnxruntime_lacks_are_verified_without_them(cli, place):
    b = ModelBuilder(17)
    x = b.op("Relu", b.conv("input", "conv1", 3, 6))
    model = b.finish(b.head(b.op("Relu", b.conv(x, "conv2", 6, 6)), 6))
    model.graph.node.append(helper.make_node("Fancy", [x], ["fancy"], domain="own"))
    model.graph.output.append(helper.make_tensor_value_info("fancy", onnx.TensorProto.FLOAT, None))
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, place / "net.onnx")
    for more in ([], ["--scales"]):
        shown = cli("inspect", place / "net.onnx", *more)
        assert shown.code == 0
        assert shown.out.count("onnxruntime does not have its operator own.Fancy") == 1
    images, output = ("--images", place / "pictures"), place / "out.onnx"
    assert cli("rescale", place / "net.onnx", *images, "-o", output).code == 0
    outcome = cli("verify", place / "net.onnx", output, *images, "--tolerance", "1e-5")
    assert outcome.code == 0
    told = "onnxruntime does not have its operator own.Fancy; what follows from that is not compared"
    assert f"note: {output} is computed in single precision: {told}\n" in outcome.out
    assert [line.split()[0] for line in outcome.out.splitlines()[3:5]] == ["output", x]
    for tensor in model.graph.initializer:
        if tensor.name == "conv2.bias":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
    onnx.save(model, output)
    assert cli("verify", place / "net.onnx", output, *images).code == 1


def test_of_a_model_that_lacks_nothing_but_its_types_all_is_compared(cli, place):
    model = onnx.load(write_typed(place / "double.onnx", np.float64, np.float64))
    model.graph.node.append(helper.make_node("Conv", ["relu", "w1"], ["unread"]))
    onnx.save(model, place / "double.onnx")
    outcome = cli("verify", place / "double.onnx", place / "double.onnx", "--images", place / "pictures")
    assert outcome.code == 0
    assert "is computed in single precision" in outcome.out
    assert "not compared" not in outcome.out


USAGE = [
    (["rescale", "net.prototxt"], "a net needs a file of weights"),
    (["measure", "net.prototxt"], "a net needs a file of weights"),
    (["rescale", "net.onnx", "net.caffemodel"], "no WEIGHTS go with it"),
    (["init", "net.onnx", "-o", "x.onnx", "--method", "filler"], "an ONNX model states no fillers"),
    (["verify", "net.prototxt", "net.onnx"], "only of two ONNX models"),
]


@pytest.mark.parametrize(("words", "message"), USAGE)
def test_wrong_usage_is_told(words, message, cli, place, model, monkeypatch):
    monkeypatch.chdir(place)
    outcome = cli(*words, "--images", "pictures")
    assert outcome.code == 2
    assert message in outcome.err.replace("\n", " ")
    assert cli("convert", "net.onnx", "x", "-o", "y.onnx").code == 2


def test_an_old_model_is_refused_with_the_way_out(cli, place):
    outcome = cli("rescale", shared("onnx/mnist_2018.onnx"), "--images", place / "pictures", "-o", place / "out.onnx")
    assert outcome.code == 1
    assert "onnx.version_converter.convert_version" in outcome.err
    assert not (place / "out.onnx").exists()


def test_a_batch_takes_models(cli, place, model):
    outcome = cli("batch", place, "-o", place / "results", "--images", place / "pictures")
    assert outcome.code == 0, outcome.err
    assert (place / "results" / "net.onnx").stat().st_size == model.stat().st_size
