"""Gemm and MatMul in all forms that multiply channels by a matrix: each does what the plain form does, in every job.

A form is a hidden layer relu(E x + c) of seven channels and a reader of them, in some arrangement of the file's arrays and
of the values' axes; E and c are the same in all.
"""

from dataclasses import dataclass

import numpy as np
import onnx
import pytest

import caffeinit
from caffeinit.engine.device import Device
from caffeinit.engine.onnxrun import OnnxFile
from caffeinit.engine.session import Settings
from caffeinit.errors import CaffeinitError
from caffeinit.gradients.reverse import append_backward
from caffeinit.statistics.forward import measure_moments
from caffeinit.statistics.rates import RateProbe
from tests.modes import EXACT, options_of
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, info, tensor
from tests.ops.checks import doubles, evaluate

IN, OUT, LONG = 6, 7, 5
ROWS, TOKENS, PLANES, GRIDS = ("N", IN), ("N", LONG, IN), ("N", IN, LONG), ("N", 2, LONG, IN)


def canonical():
    """Return E (O, I), of rows of lengths that differ, c (O,), and the reader's matrix (3, O)."""
    rng = np.random.default_rng(5)
    lengths = rng.uniform(0.3, 3, (OUT, 1))
    return rng.standard_normal((OUT, IN)) * lengths, rng.standard_normal(OUT), rng.standard_normal((3, OUT))


@dataclass
class Form:
    """One arrangement.

    Attributes:
        shape: of the input.
        axis: of the hidden channels.
        nodes: (operator, operands, attributes) of the hidden layer; "w" and "c" are the arrays.
        weight, bias: the arrays from E and c.
        reader: "last" or "second", by where it finds its channels.
    """

    shape: tuple
    axis: int
    nodes: list
    weight: object
    bias: object = None
    reader: str = "last"

    def save(self, path):
        matrix, shift, last = canonical()
        b = Maker(shape=self.shape)
        b.outputs = []
        arrays = {"w": self.weight(matrix)} | ({"c": self.bias(shift)} if self.bias else {})
        arrays["last"] = last.T if self.reader == "last" else last
        b.initializers += [tensor(n, np.ascontiguousarray(a, np.float32)) for n, a in arrays.items()]
        x = "x"
        for number, (kind, operands, attributes) in enumerate(self.nodes):
            x = b.op(kind, *(x if o == "x" else o for o in operands), out=f"h{number}", **attributes)
        x = b.op("Relu", x, out="r")
        b.op("MatMul", *((x, "last") if self.reader == "last" else ("last", x)), out="y")
        model = b.model()
        model.graph.output.append(info("y", [None] * len(self.shape)))
        onnx.save(model, path)
        return path

    def hidden(self, num=12):
        """Return pictures, and by numpy the hidden values, channels last."""
        shape = (num, *self.shape[1:])
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        matrix, shift, _ = canonical()
        rows = x.swapaxes(1, 2) if self.shape == PLANES else x
        return x, rows @ matrix.T.astype(np.float64) + (shift if self.bias else 0)


def gemm(*operands, **attributes):
    return [("Gemm", operands, attributes)]


TURN = ("Transpose", ["x"], {"perm": [1, 0]})
PLAIN = {
    ROWS: Form(ROWS, 1, gemm("x", "w", "c", transB=1), lambda e: e, lambda c: c),
    TOKENS: Form(TOKENS, 2, [("MatMul", ["x", "w"], {}), ("Add", ["x", "c"], {})], lambda e: e.T, lambda c: c),
}
FORMS = {
    "alpha": Form(ROWS, 1, gemm("x", "w", "c", transB=1, alpha=-0.5), lambda e: e / -0.5, lambda c: c),
    "beta": Form(ROWS, 1, gemm("x", "w", "c", beta=0.25), lambda e: e.T, lambda c: c[None] / 0.25),
    "alpha and beta": Form(ROWS, 1, gemm("x", "w", "c", alpha=3.0, beta=-2.0), lambda e: e.T / 3, lambda c: c / -2),
    "alpha, then Add": Form(
        ROWS, 1, [("Gemm", ["x", "w"], {"alpha": 2.0}), ("Add", ["c", "x"], {})], lambda e: e.T / 2, lambda c: c
    ),
    "Sub": Form(ROWS, 1, [("MatMul", ["x", "w"], {}), ("Sub", ["x", "c"], {})], lambda e: e.T, lambda c: -c),
    "alpha, then Sub": Form(
        ROWS, 1, [("Gemm", ["x", "w"], {"alpha": 2.0}), ("Sub", ["x", "c"], {})], lambda e: e.T / 2, lambda c: -c
    ),
    "planes, then Sub": Form(
        PLANES, 1, [("MatMul", ["w", "x"], {}), ("Sub", ["x", "c"], {})], lambda e: e, lambda c: -c[:, None], "second"
    ),
    "input turned": Form(ROWS, 1, [TURN, *gemm("x", "w", "c", transA=1)], lambda e: e.T, lambda c: c),
    "left": Form(
        ROWS, 0, gemm("w", "x", "c", transB=1, alpha=0.5, beta=4.0), lambda e: e * 2, lambda c: c[:, None] / 4, "second"
    ),
    "left, turned": Form(
        ROWS, 0, [TURN, *gemm("w", "x", "c", transA=1)], lambda e: e.T, lambda c: c[:, None], "second"
    ),
    "tokens": Form(TOKENS, 2, [("MatMul", ["x", "w"], {}), ("Add", ["c", "x"], {})], lambda e: e.T, lambda c: c[None]),
    "tokens, array of three axes": Form(
        TOKENS, 2, [("MatMul", ["x", "w"], {}), ("Add", ["x", "c"], {})], lambda e: e.T[None], lambda c: c
    ),
    "tokens, no bias": Form(TOKENS, 2, [("MatMul", ["x", "w"], {})], lambda e: e.T),
    "grids": Form(GRIDS, 3, [("MatMul", ["x", "w"], {}), ("Add", ["x", "c"], {})], lambda e: e.T, lambda c: c),
    "planes": Form(
        PLANES, 1, [("MatMul", ["w", "x"], {}), ("Add", ["x", "c"], {})], lambda e: e, lambda c: c[:, None], "second"
    ),
    "planes, array of three axes": Form(
        PLANES, 1, [("MatMul", ["w", "x"], {}), ("Add", ["x", "c"], {})], lambda e: e[None], lambda c: c[None, :, None],
        "second",
    ),
}  # fmt: skip
ALL = {f"plain {len(s)}": form for s, form in PLAIN.items()} | FORMS


def feeds_of(net, x):
    """Return batches of pictures; one by one where the net takes them so."""
    size = len(x) if net.graph.batch_axis_free else 1
    return [{"x": x[i : i + size]} for i in range(0, len(x), size)]


def opened(name, place, **settings):
    form = ALL[name]
    net = load(form.save(place / f"{len(list(place.iterdir()))}.onnx"))
    net.settings = Settings(threads=1, **settings)
    x, hidden = form.hidden()
    return form, net, feeds_of(net, x), hidden


def hidden_of(form, net, feeds):
    """Return the unit's output on all pictures, channels last."""
    value = net.units[0].uses[0].output
    found = [np.moveaxis(net.forward(f, [value])[value], form.axis, -1) for f in feeds]
    return np.concatenate([f.reshape(-1, OUT) for f in found])


def effective(net):
    """Return E and c as the file's arrays now are."""
    unit = net.units[0]
    return unit.weight[0] * unit.alpha, None if unit.bias is None else unit.bias * unit.beta


@pytest.mark.parametrize("name", ALL)
def test_each_form_is_a_unit_with_its_channels_where_they_are(name, tmp_path):
    form, net, feeds, hidden = opened(name, tmp_path)
    assert [u.name for u in net.units] == ["w", "last"]
    assert not net.skipped
    assert net.units[0].uses[0].axis == form.axis
    matrix, shift, _ = canonical()
    found, bias = effective(net)
    np.testing.assert_allclose(found, matrix, rtol=1e-6)
    assert (bias is None) == (form.bias is None)
    if bias is not None:
        np.testing.assert_allclose(bias, shift, rtol=1e-6)
    np.testing.assert_allclose(hidden_of(form, net, feeds), hidden.reshape(-1, OUT), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_moments_are_taken_over_all_other_axes(name, tmp_path):
    _, net, feeds, hidden = opened(name, tmp_path)
    found = measure_moments(net, feeds)[net.units[0].key]
    rows = hidden.reshape(-1, OUT)
    assert found.count == len(rows)
    np.testing.assert_allclose(found.mean, rows.mean(0), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.std, rows.std(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((name, "preserve") for name in ALL),
        *((name, mode) for name in ("alpha and beta", "left", "planes") for mode in ("equalize", "balance", EXACT)),
    ],
)
def test_free_factors_keep_the_function(name, mode, tmp_path):
    form, net, feeds, _ = opened(name, tmp_path)
    before = net.units[0].weight.copy()
    result = caffeinit.rescale(net, feeds, **options_of(mode))
    assert result.units[0].done not in ("", "kept")
    assert np.abs(net.units[0].weight / before - 1).max() > 0.01
    if mode in ("equalize", "preserve"):
        stds = hidden_of(form, net, feeds).std(0)
        np.testing.assert_allclose(stds / stds.mean(), 1, rtol=1e-5)
    net.save(tmp_path / "out.onnx")
    for batch in feeds[:2]:
        assert_same_function(tmp_path / "0.onnx", tmp_path / "out.onnx", "x", batch["x"], 0 if mode == EXACT else 1e-5)


@pytest.mark.parametrize(
    ("name", "resident"), [*((name, False) for name in ALL), *((name, True) for name in ("beta", "left", "planes"))]
)
def test_normalised_channels_have_the_mean_and_deviation_asked_for(name, resident, tmp_path):
    form, net, feeds, _ = opened(name, tmp_path, device=Device(resident=resident))
    caffeinit.rescale(net, feeds, mode="normalize", beta=0.3, balanced=False)
    hidden = hidden_of(form, net, feeds)
    np.testing.assert_allclose(hidden.std(0), 1, rtol=1e-4)
    if form.bias:
        np.testing.assert_allclose(hidden.mean(0), 0.3, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_the_slopes(name, tmp_path):
    """Of <eta, y> by w and c, in double precision."""
    form, net, *_ = opened(name, tmp_path)
    arrays = ["w", "c"] if form.bias else ["w"]
    graph = net.graph.copy()
    diff = graph.add_input("eta", graph.shape("y"))
    grads = append_backward(graph, {"y": diff}, arrays)
    rng = np.random.default_rng(2)
    given = {n: graph.initializers[n].astype(np.float64) for n in arrays}
    given |= {n: rng.standard_normal(graph.shape(n)) for n in ("x", "eta")}
    backward = doubles(graph, [grads[a] for a in arrays], tuple(arrays))
    forward = doubles(graph, ["y"], tuple(arrays))
    for name_, slope in zip(arrays, evaluate(backward, [grads[a] for a in arrays], given), strict=True):
        step = 1e-6 * rng.standard_normal(given[name_].shape)
        ends = [evaluate(forward, ["y"], given | {name_: given[name_] + sign * step})[0] for sign in (1, -1)]
        wanted = float(((ends[0] - ends[1]) * given["eta"]).sum() / 2)
        assert abs(float((slope * step).sum()) - wanted) <= 1e-8 * np.abs(slope * step).sum() + 1e-13


@pytest.mark.parametrize("name", ALL)
def test_rates_are_roots_of_squared_gradients_over_squared_weights(name, tmp_path):
    _, net, feeds, _ = opened(name, tmp_path)
    probe = RateProbe(net, feeds[:2])
    rates = probe.measure()
    total, count = 0, 0
    for batch, noise in zip(probe.batches, probe._noise, strict=True):
        pictures = range(len(batch["x"])) if net.graph.batch_axis_free else []
        for rows in [slice(at, at + 1) for at in pictures] or [slice(None)]:
            diffs = {h: noise[probe._diffs[h]][rows] for h in probe.heads}
            found = net.backward({"x": batch["x"][rows]}, diffs).params["w"][0]
            total = total + found.astype(np.float64) ** 2
        count += len(batch["x"])
    unit = net.units[0]
    weights = net.params["w"][0].astype(np.float64)
    np.testing.assert_allclose(rates[unit.key].rate, np.sqrt(total.sum() / count / (weights**2).sum()), rtol=1e-5)
    assert len(rates[unit.key].column_rates) == IN


# Where channels are on the first axis of what the weight reads, no patches can be cut.
CUT_NOT = {"input turned", "left, turned"}
DRAWN = [(name, method) for name in FORMS if name != "grids" for method in ("pca", "kmeans")]
DRAWN += [(name, method) for name in ("alpha", "left") for method in ("gaussian", "msra")]


@pytest.mark.parametrize(("name", "method"), DRAWN)
def test_drawn_weights_do_what_those_of_the_plain_form_do(name, method, tmp_path):
    form, net, feeds, _ = opened(name, tmp_path)
    result = caffeinit.init(net, feeds, method=method, normalized=False, balanced=False)
    assert result.units[0].done
    if name in CUT_NOT:
        assert f"gaussian: {method} is not defined for channels on the first axis" in " ".join(result.units[0].notes)
        method = "gaussian"
    x = np.concatenate([f["x"] for f in feeds])
    other = load(PLAIN[ROWS if form.shape == ROWS else TOKENS].save(tmp_path / "plain.onnx"))
    rows = np.ascontiguousarray(x.swapaxes(1, 2)) if form.shape == PLANES else x
    caffeinit.init(other, [{"x": rows}], method=method, normalized=False, balanced=False)
    np.testing.assert_allclose(effective(net)[0], effective(other)[0], rtol=1e-4, atol=1e-5)


def refused(nodes, shape, arrays, rank):
    b = Maker(shape=shape)
    for name, extents in arrays.items():
        b.array(name, *extents)
    x = "x"
    for number, (kind, operands, attributes) in enumerate(nodes):
        x = b.op(kind, *(x if o == "x" else o for o in operands), out=f"h{number}", **attributes)
    b.outputs = []
    b.op("Identity", x, out="y")
    model = b.model()
    model.graph.output.append(info("y", [None] * rank))
    return model


REFUSED = {
    "over the pictures": (
        gemm("x", "w", transA=1), (4, IN), {"w": (4, OUT)}, 2, "it sums over the pictures, which are axis 0 of its input"),
    "over the pictures, from the left": (
        [("MatMul", ["w", "x"], {})], (4, IN), {"w": (OUT, 4)}, 2,
        "it sums over the pictures, which are axis 0 of its input"),
    "over the pictures, turned and scaled before": (
        [("Relu", ["x"], {}), ("Transpose", ["x"], {}), ("MatMul", ["x", "w"], {})], (4, IN), {"w": (4, OUT)}, 2,
        "it sums over the pictures, which are axis 1 of its input"),
    "several matrices": (
        [("MatMul", ["x", "w"], {})], GRIDS, {"w": (2, IN, OUT)}, 4,
        f"its weight (2, {IN}, {OUT}) is several matrices, whose channels lie on more than one axis"),
    "a vector": ([("MatMul", ["x", "w"], {})], TOKENS, {"w": (IN,)}, 2,
                 "its weight is a vector, so that its output has no channels"),
    "alpha 0": (gemm("x", "w", alpha=0.0), ROWS, {"w": (IN, OUT)}, 2, "its alpha is 0, so that its weight has no effect"),
    "one number for all channels": (
        gemm("x", "w", "c"), ROWS, {"w": (IN, OUT), "c": (1,)}, 2,
        "its third input is no stored array of one number per channel"),
    "a number for each picture": (
        gemm("x", "w", "c"), (OUT, IN), {"w": (IN, OUT), "c": (OUT, 1)}, 2,
        "its third input is no stored array of one number per channel"),
    "one array in two places": (
        [("BatchNormalization", ["x", "s", "b", "m", "s"], {})], ROWS, {"s": (IN,), "b": (IN,), "m": (IN,)}, 2,
        "its scale and its variance are one array, which cannot be set for one of these alone"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_unit_says_why(name, tmp_path):
    *parts, reason = REFUSED[name]
    onnx.save(refused(*parts), tmp_path / "net.onnx")
    net = load(tmp_path / "net.onnx")
    kind = parts[0][-1][0]
    assert [(s.name.partition(" (")[2], s.reason) for s in net.skipped] == [(f"{kind})", reason)]
    assert not net.units
    with pytest.raises(CaffeinitError, match="no layer with weights can run"):
        caffeinit.rescale(net, feeds_of(net, np.zeros(net.inputs["x"], np.float32)))


def test_a_factor_of_0_leaves_the_third_input_out(tmp_path):
    onnx.save(refused(gemm("x", "w", "c", beta=0.0), ROWS, {"w": (IN, OUT), "c": (1, OUT)}, 2), tmp_path / "net.onnx")
    net = load(tmp_path / "net.onnx")
    assert [(u.name, u.bias) for u in net.units] == [("w", None)]


def test_a_matrix_that_is_read_turned_as_well_is_two_units(tmp_path):
    nodes = [*gemm("x", "w"), ("Relu", ["x"], {}), *gemm("x", "w", transB=1), ("Relu", ["x"], {}), *gemm("x", "last")]
    onnx.save(refused(nodes, ROWS, {"w": (IN, IN), "last": (IN, 3)}, 2), tmp_path / "net.onnx")
    net = load(tmp_path / "net.onnx")
    assert [(u.name, len(u.uses)) for u in net.units] == [("w", 1), ("w (h2_2)", 1), ("last", 1)]
    np.testing.assert_array_equal(net.units[0].weight[0], net.units[1].weight[0].T)
    x = np.random.default_rng(1).standard_normal((8, IN)).astype(np.float32)
    caffeinit.rescale(net, [{"x": x}])
    net.save(tmp_path / "out.onnx")
    assert_same_function(tmp_path / "net.onnx", tmp_path / "out.onnx", "x", x)


def test_uses_of_one_bias_with_other_factors_are_two_units(tmp_path):
    nodes = [*gemm("x", "w", "c", alpha=0.5), ("Relu", ["x"], {}), *gemm("x", "w", "c", beta=3.0)]
    onnx.save(refused(nodes, ROWS, {"w": (IN, IN), "c": (IN,)}, 2), tmp_path / "net.onnx")
    net = load(tmp_path / "net.onnx")
    assert [(u.name, u.beta) for u in net.units] == [("w", 1.0), ("w (h2_2)", 3.0)]


def test_a_single_channel_has_its_bias(tmp_path):
    nodes = [("MatMul", ["x", "w"], {}), ("Add", ["x", "c"], {}), ("Relu", ["x"], {}), ("MatMul", ["x", "last"], {})]
    onnx.save(refused(nodes, TOKENS, {"w": (IN, 1), "c": (1,), "last": (1, 3)}, 3), tmp_path / "net.onnx")
    net = load(tmp_path / "net.onnx")
    assert [(u.name, u.initializers) for u in net.units] == [("w", ["w", "c"]), ("last", ["last"])]
    x = np.random.default_rng(1).standard_normal((8, LONG, IN)).astype(np.float32)
    assert caffeinit.rescale(net, [{"x": x}], mode="equalize").units[0].done == "equalized"
    net.save(tmp_path / "out.onnx")
    assert_same_function(tmp_path / "net.onnx", tmp_path / "out.onnx", "x", x)


def test_a_number_behind_a_product_of_two_values_is_no_unit(tmp_path):
    """The scores of attention with a single head are divided by a root."""
    nodes = [("Unsqueeze", ["x", "one"], {}), ("Transpose", ["x"], {"perm": [0, 1, 3, 2]})]
    model = refused([*nodes, ("MatMul", ["x", "h0"], {}), ("Mul", ["x", "root"], {})], TOKENS, {"root": (1,)}, 4)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray([1]), "one"))
    onnx.save(model, tmp_path / "net.onnx")
    assert not load(tmp_path / "net.onnx").units


@pytest.mark.parametrize("last", [1, OUT])
def test_a_number_that_formulas_share_is_no_shift(last, tmp_path):
    """Exporters store the 1 of all formulas once: behind a product, and where channels lie on an axis of their own."""
    nodes = [*gemm("x", "w"), ("Add", ["x", "one"], {}), ("Unsqueeze", ["x", "axis"], {}), ("Add", ["x", "one"], {})]
    model = refused(nodes, ROWS, {"w": (IN, last)}, 3)
    numbers = {"one": np.ones((), np.float32), "axis": np.asarray([1])}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in numbers.items())
    onnx.save(model, tmp_path / "net.onnx")
    assert [u.initializers for u in load(tmp_path / "net.onnx").units] == [["w"]]


def test_files_are_run_as_they_are(tmp_path):
    """The graph of ours computes what onnxruntime makes of the file."""
    for name in ("alpha and beta", "left", "planes, array of three axes"):
        _, net, feeds, _ = opened(name, tmp_path)
        path = tmp_path / f"{len(list(tmp_path.iterdir())) - 1}.onnx"
        wanted = OnnxFile(path, threads=1).run(feeds[0], ["y"])["y"]
        found = net.forward(feeds[0], ["y"])["y"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
