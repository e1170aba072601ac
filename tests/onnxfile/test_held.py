"""Arrays that stay because something else is made of them: what a file tells apart from them stays what it was."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import caffeinit
from tests.modes import EXACT, options_of

ROWS = np.random.default_rng(1).standard_normal((8, 3, 9, 9)).astype(np.float32)
NEW = 3 * np.random.default_rng(2).standard_normal((5, 3, 9, 9)).astype(np.float32)


def weights():
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "wa": (8, 8, 1, 1), "wc": (2, 8, 1, 1), "w2": (4, 8, 1, 1), "b2": (4,)}
    arrays = {n: rng.standard_normal(s) * rng.uniform(0.2, 4, (s[0],) + (1,) * (len(s) - 1)) for n, s in shapes.items()}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def save(path, nodes, outputs=("y",), **more):
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 9, 9])]
    told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    stored = [numpy_helper.from_array(array, name) for name, array in {**weights(), **more}.items()]
    graph = helper.make_graph(nodes, "net", ends, told, stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def run(path, rows=NEW):
    options = onnxruntime.SessionOptions()
    # onnxruntime 1.31 loses a padded weight that two nodes read when it puts the padding into one of them.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, {"x": rows}), strict=True))


MADE = {
    "times a number": (node("Mul", "wa two", "wb"), {"two": np.float32(2)}),
    "times a gain": (
        node("Mul", "wa gain", "wb"),
        {"gain": np.exp(np.linspace(-2, 2, 8, dtype=np.float32))[:, None, None, None]},
    ),
    "plus another": (node("Add", "wa other", "wb"), {"other": np.ones((8, 8, 1, 1), np.float32)}),
    "padded": (node("Pad", "wa pads", "wb"), {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
    "cut": (node("Slice", "wa start end", "wb"), {"start": np.array([0]), "end": np.array([8])}),
    "times what a shape says": (
        [
            node("Shape", "x", "sx"),
            node("Gather", "sx one", "cx"),
            node("Cast", "cx", "dx", to=TensorProto.FLOAT),
            node("Mul", "wa dx", "wb"),
        ],
        {"one": np.array(1), "wa": np.linspace(-1, 2, 64, dtype=np.float32).reshape(8, 8, 1, 1)},
    ),
    "clipped": (node("Clip", "wa low", "wb"), {"low": np.float32(-1)}),
}


def shared(path, made, turned):
    """Write a net that convolves with an array and with what is made of it, in this order or the other."""
    making, more = MADE[made]
    making = making if isinstance(making, list) else [making]
    first, second = ("wb", "wa") if turned else ("wa", "wb")
    nodes = [
        *making,
        node("Conv", "x w1 b1", "a"),
        node("Relu", "a", "b"),
        node("Conv", f"b {first}", "c", pads=[1] * 4),
    ]
    nodes += [node("Relu", "c", "d"), node("Conv", f"d {second}", "e"), node("Conv", "e w2 b2", "y")]
    return save(path, nodes, **more)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("mode", ["preserve", "equalize", "balance", EXACT])
def test_a_weight_that_another_is_made_of_is_no_other_function(tmp_path, mode, made, turned):
    net = caffeinit.load(shared(tmp_path / "net.onnx", made, turned))
    assert net.learned["wa"].held == 'is also what "wb" is computed from'
    caffeinit.rescale(net, ROWS, **options_of(mode))
    net.save(tmp_path / "out.onnx")
    before, after = (run(tmp_path / name)["y"] for name in ("net.onnx", "out.onnx"))
    assert np.abs(after - before).max() <= 1e-5 * np.abs(before).max()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("made", MADE)
def test_what_is_told_of_normalising_beside_such_a_weight_is_what_the_file_does(tmp_path, made, turned):
    net = caffeinit.load(shared(tmp_path / "net.onnx", made, turned))
    told = caffeinit.rescale(net, ROWS, mode="normalize")
    net.save(tmp_path / "out.onnx")
    measured = caffeinit.measure(caffeinit.load(tmp_path / "out.onnx"), ROWS)
    known = [(unit, found) for unit, found in zip(told.units, measured.units, strict=True) if unit.after is not None]
    assert len(known) >= 2
    for unit, found in known:
        np.testing.assert_allclose(unit.after.channel_stds, found.stats.channel_stds, rtol=1e-3)


OUTPUTS = {
    "view": [node("Transpose", "w2", "still", perm=[1, 0, 2, 3])],
    "views of a view": [node("Identity", "w2", "q"), node("Identity", "q", "still")],
    "sum": [node("ReduceSum", "w2", "still")],
    "product": [node("Mul", "w2 w2", "still")],
    "times what a shape says": [
        node("Shape", "x", "sx"),
        node("Size", "sx", "cx"),
        node("Cast", "cx", "dx", to=TensorProto.FLOAT),
        node("Mul", "b1 dx", "still"),
    ],
    "joined": [node("Concat", "b1 b2", "still", axis=0)],
}


@pytest.mark.parametrize("made", OUTPUTS)
@pytest.mark.parametrize("mode", ["preserve", "equalize", "normalize", EXACT])
def test_outputs_that_are_made_of_weights_alone_stay(tmp_path, mode, made):
    chain = [
        node("Conv", "x w1 b1", "a"),
        node("Relu", "a", "b"),
        node("Conv", "b wa", "c"),
        node("Conv", "c w2 b2", "y"),
    ]
    net = caffeinit.load(save(tmp_path / "net.onnx", [*OUTPUTS[made], *chain], outputs=("y", "still")))
    caffeinit.rescale(net, ROWS, **options_of(mode))
    net.save(tmp_path / "out.onnx")
    before, after = (run(tmp_path / name)["still"] for name in ("net.onnx", "out.onnx"))
    np.testing.assert_array_equal(after, before)


def test_arrays_whose_extents_alone_are_read_are_free(tmp_path):
    chain = [
        node("Conv", "x w1 b1", "a"),
        node("Relu", "a", "b"),
        node("Conv", "b wa", "c"),
        node("Conv", "c w2 b2", "y"),
    ]
    extents = [node("Shape", "wa", "s"), node("Size", "w1", "n")]
    path = save(tmp_path / "net.onnx", [*extents, *chain], outputs=("y",))
    model = onnx.load(path)
    model.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.INT64, None) for n in ("s", "n"))
    onnx.save(model, path)
    assert not any(of.held for of in caffeinit.load(path).learned.values())
