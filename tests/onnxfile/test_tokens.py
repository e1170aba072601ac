"""Transformers as exporters write them: tokens and packed attention take any batch; what may join pictures does not."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import caffeinit
from caffeinit.engine.onnxrun import OnnxFile
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, batch, tensor

WIDTH, HEADS, DEPTH = 8, 2, 4  # DEPTH: of one head
PLACES = 12 + 1


def ints(b, *values):
    """Return the name of an array of whole numbers; a single one in a list is a number without axes."""
    flat = values[0] if len(values) == 1 and isinstance(values[0], list) else None
    array = np.asarray(flat[0] if flat else values, np.int64)
    b.initializers.append(tensor(f"ints_{len(b.initializers)}", array))
    return b.initializers[-1].name


def op(b, kind, *inputs, **attributes):
    return b.op(kind, *inputs, out=f"{kind}_{len(b.nodes)}_out", **attributes)


def ops(b, kind, count, *inputs, **attributes):
    names = [f"{kind}_{len(b.nodes)}_{i}" for i in range(count)]
    b.nodes.append(helper.make_node(kind, inputs, names, f"{kind}_{len(b.nodes)}", **attributes))
    return names


def linear(b, x, name, inputs, outputs):
    y = op(b, "MatMul", x, b.array(f"{name}.weight", inputs, outputs))
    return op(b, "Add", y, b.array(f"{name}.bias", outputs))


def number(b):
    """Return how many pictures there are, (1,), worked out from the input."""
    return op(b, "Unsqueeze", op(b, "Gather", op(b, "Shape", "x"), ints(b, [0]), axis=0), ints(b, 0))


def joined(b, token):
    """A file for one picture holds its token as it is."""
    return token


def expanded(b, token):
    """As torch writes `token.expand(n, -1, -1)`: sizes of -1 stay."""
    sizes = op(b, "Concat", number(b), ints(b, -1), ints(b, -1), axis=0)
    one = helper.make_tensor("value", TensorProto.INT64, [1], [1])
    ones = op(b, "ConstantOfShape", op(b, "Shape", sizes), value=one)
    kept = op(b, "Equal", sizes, op(b, "Mul", ones, ints(b, -1)))
    return op(b, "Expand", token, op(b, "Where", kept, ones, sizes))


def tiled(b, token):
    return op(b, "Tile", token, op(b, "Concat", number(b), ints(b, 1), ints(b, 1), axis=0))


def added_to_zeros(b, token):
    """As `zeros(n, 1, width) + token`."""
    return op(
        b, "Add", op(b, "ConstantOfShape", op(b, "Concat", number(b), ints(b, 1, WIDTH), axis=0)), op(b, "Neg", token)
    )


def packed(b, x, is_open):
    """Return q, k and v, (N, heads, T, depth), taken out of one product, as timm's models have it."""
    y = linear(b, x, "qkv", WIDTH, 3 * WIDTH)
    y = op(b, "Reshape", y, ints(b, 0 if is_open else 1, PLACES, 3, HEADS, DEPTH))
    y = op(b, "Transpose", y, perm=[2, 0, 3, 1, 4])
    return [op(b, "Gather", y, ints(b, [i]), axis=0) for i in range(3)]


def unbound(b, x, is_open):
    """As `packed`, but taken apart by Split and Squeeze, and the sizes worked out."""
    y = linear(b, x, "qkv", WIDTH, 3 * WIDTH)
    sizes = op(b, "Slice", op(b, "Shape", x), ints(b, 0), ints(b, 2))
    y = op(b, "Reshape", y, op(b, "Concat", sizes, ints(b, 3, HEADS, DEPTH), axis=0))
    y = op(b, "Transpose", y, perm=[2, 0, 3, 1, 4])
    return [op(b, "Squeeze", part, ints(b, 0)) for part in ops(b, "Split", 3, y, ints(b, 1, 1, 1), axis=0)]


def sliced(b, x, is_open):
    """As `packed`, but taken apart by Slice and Squeeze, as torch.export has it."""
    y = linear(b, x, "qkv", WIDTH, 3 * WIDTH)
    y = op(b, "Reshape", y, ints(b, 0 if is_open else 1, PLACES, 3, HEADS, DEPTH))
    y = op(b, "Transpose", y, perm=[2, 0, 3, 1, 4])
    parts = [op(b, "Slice", y, *(ints(b, v) for v in (i, i + 1, 0, 1))) for i in range(2)]
    parts.append(op(b, "Slice", y, *(ints(b, v) for v in (-1, 3, -5))))
    return [op(b, "Squeeze", part, ints(b, 0)) for part in parts]


def sequence_first(b, x, is_open):
    """As torch's MultiheadAttention: (T, N, C), and the heads joined to the pictures as (N * heads, T, depth)."""
    y = linear(b, op(b, "Transpose", x, perm=[1, 0, 2]), "qkv", WIDTH, 3 * WIDTH)
    parts = ops(b, "Split", 3, y, ints(b, WIDTH, WIDTH, WIDTH), axis=2)
    flat = [op(b, "Reshape", p, ints(b, PLACES, -1, DEPTH)) for p in parts]
    return [op(b, "Reshape", op(b, "Transpose", p, perm=[1, 0, 2]), ints(b, -1, HEADS, PLACES, DEPTH)) for p in flat]


def transformer(token=expanded, heads=packed, is_open=True):
    """Return patches, a class token, one block of attention and a classifier that reads the token."""
    b = Maker(shape=("N" if is_open else 1, 3, 16, 12))
    first = 0 if is_open else 1
    x = op(b, "Conv", "x", b.array("patch.weight", WIDTH, 3, 4, 4), b.array("patch.bias", WIDTH), strides=[4, 4])
    x = op(b, "Transpose", op(b, "Reshape", x, ints(b, first, WIDTH, 12)), perm=[0, 2, 1])
    x = op(b, "Concat", token(b, b.array("token", 1, 1, WIDTH)), x, axis=1)
    x = op(b, "Add", x, b.array("places", 1, PLACES, WIDTH))
    normal = op(b, "LayerNormalization", x, b.array("ln.weight", WIDTH), b.array("ln.bias", WIDTH), axis=-1)
    q, k, v = heads(b, normal, is_open)
    share = op(b, "Softmax", op(b, "MatMul", q, op(b, "Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    y = op(b, "Transpose", op(b, "MatMul", share, v), perm=[0, 2, 1, 3])
    x = op(b, "Add", x, linear(b, op(b, "Reshape", y, ints(b, first, PLACES, WIDTH)), "proj", WIDTH, WIDTH))
    x = op(b, "Relu", linear(b, x, "mlp1", WIDTH, 6))
    b.op("Gemm", op(b, "Gather", x, ints(b, [0]), axis=1), b.array("fc", 6, 4), b.array("fc.bias", 4), out="y")
    return b


def save(b, path):
    model = b.model()
    del model.graph.output[0].type.tensor_type.shape.dim[2:]
    onnx.save(model, path)
    return path


def one_by_one(path, x):
    file = OnnxFile(path, threads=1)
    return np.concatenate([file.run({"x": row[None]}, ["y"])["y"] for row in x])


CASES = [(t, h, True) for t in (expanded, tiled, added_to_zeros) for h in (packed, unbound)]
CASES += [
    (expanded, sliced, True),
    (joined, sliced, False),
    (joined, packed, False),
    (joined, unbound, False),
    (expanded, packed, False),
]
CASES += [(expanded, sequence_first, True), (joined, sequence_first, False)]


@pytest.mark.parametrize(("token", "heads", "is_open"), CASES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_class_tokens_and_packed_attention_take_any_batch(token, heads, is_open, tmp_path):
    path, out = save(transformer(token, heads, is_open), tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net, x = load(path), batch(5, (3, 16, 12))
    assert net.graph.batch_axis_free
    assert not any("batch" in note for note in net.notes)
    wanted = one_by_one(path, x)
    np.testing.assert_allclose(net.forward({"x": x}, ["y"])["y"], wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    result = caffeinit.rescale(net, {"x": x})
    assert {"patch.weight", "qkv.weight", "proj.weight", "mlp1.weight", "fc"} <= {u.name for u in result.units}
    assert np.isfinite(result.rate_spread)
    net.save(out)
    assert_same_function(path, out, "x", batch(1, (3, 16, 12)))
    np.testing.assert_allclose(one_by_one(out, x), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_all_at_once_measures_what_one_by_one_does(tmp_path, monkeypatch):
    path, x = save(transformer(joined, packed, False), tmp_path / "net.onnx"), batch(6, (3, 16, 12))
    whole = caffeinit.measure(load(path), {"x": x})
    monkeypatch.setattr("caffeinit.onnxfile.source.free_batch", lambda graph, *rest: graph)
    alone = load(path)
    assert not alone.graph.batch_axis_free
    for one, other in zip(whole.units, caffeinit.measure(alone, [{"x": r[None]} for r in x]).units, strict=True):
        np.testing.assert_allclose(one.stats.channel_stds, other.stats.channel_stds, rtol=1e-5)


def softmax_over_places(b, x):
    """(T, N, C) shared out over T: how that moves with the pictures is not known."""
    return op(b, "Transpose", op(b, "Softmax", op(b, "Transpose", x, perm=[1, 0, 2]), axis=0), perm=[1, 0, 2])


def added_across(b, x):
    """(T, N, C) plus an array that varies along T."""
    y = op(b, "Add", op(b, "Transpose", x, perm=[1, 0, 2]), b.array("by_place", PLACES, 1, 1))
    return op(b, "Transpose", y, perm=[1, 0, 2])


def flattened(b, x):
    """(T, N, C) as (T * N, C), and back."""
    return rows_of_steps(b, x, lambda y: op(b, "Relu", y))


def projected(b, x):
    """A last matrix behind attention, as torch's MultiheadAttention has it: on (T * N, C)."""
    arrays = b.array("out.weight", WIDTH, WIDTH), b.array("out.bias", WIDTH)
    return rows_of_steps(b, x, lambda y: op(b, "Gemm", y, *arrays, transB=1))


def shifted_by_row(b, x):
    """Rows (T * N, C) with numbers that vary along them."""
    return rows_of_steps(b, x, lambda y: op(b, "Add", y, b.array("by_row", PLACES, 1)))


def other_steps(b, x):
    """(T, N, C) as (T * N, C), taken apart into other steps than they came from."""
    return rows_of_steps(
        b, x, lambda y: op(b, "Reshape", op(b, "Reshape", y, ints(b, 1, -1, WIDTH)), ints(b, -1, WIDTH))
    )


def rows_of_steps(b, x, between):
    y = op(b, "Reshape", op(b, "Transpose", x, perm=[1, 0, 2]), ints(b, -1, WIDTH))
    y = op(b, "Reshape", between(y), ints(b, PLACES, -1, WIDTH))
    return op(b, "Transpose", y, perm=[1, 0, 2])


@pytest.mark.parametrize("between", [flattened, projected])
def test_rows_of_steps_and_pictures_take_any_batch(between, tmp_path):
    def heads(b, x, is_open):
        return packed(b, between(b, x), is_open)

    path, out = save(transformer(expanded, heads), tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net, x = load(path), batch(5, (3, 16, 12))
    assert net.graph.batch_axis_free
    for wanted in (one_by_one(path, x), OnnxFile(path, threads=1).run({"x": x}, ["y"])["y"]):
        np.testing.assert_allclose(net.forward({"x": x}, ["y"])["y"], wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    result = caffeinit.rescale(net, {"x": x})
    assert ("out.weight" in {u.name for u in result.units}) == (between is projected)
    net.save(out)
    assert_same_function(path, out, "x", batch(3, (3, 16, 12)))


CLOSED = [(f, o) for f in (softmax_over_places, added_across, shifted_by_row, other_steps) for o in (True, False)]


@pytest.mark.parametrize(("between", "is_open"), [*CLOSED, (flattened, False)])
def test_what_is_not_known_to_be_safe_goes_one_by_one(between, is_open, tmp_path):
    def heads(b, x, is_open):
        return packed(b, between(b, x), is_open)

    path, x = (
        save(transformer(joined if not is_open else expanded, heads, is_open), tmp_path / "net.onnx"),
        batch(3, (3, 16, 12)),
    )
    net = load(path)
    assert not net.graph.batch_axis_free
    words = "whether pictures stay apart" if is_open else "the model takes no other batch"
    assert any(note.startswith(words) for note in net.notes)
    found = [net.forward({"x": r[None]}, ["y"])["y"] for r in x]
    wanted = one_by_one(path, x)
    np.testing.assert_allclose(np.concatenate(found), wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


def test_pictures_on_another_axis_of_an_output_go_one_by_one(tmp_path):
    b = Maker(shape=("N", 3, 8, 6))
    b.op("Transpose", b.conv("x", "conv1", 3, 5), out="y", perm=[1, 0, 2, 3])
    assert not load(b.save(tmp_path / "net.onnx")).graph.batch_axis_free
