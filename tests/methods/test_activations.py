"""Activations that are nearly multiples of what they read: `init` gives one rate through them, however they are spelt."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx import save as save_model

import caffeinit
from caffeinit.scales.activations import find_activations
from tests.nets import NetBuilder, pictures


def silu(graph, x):
    return graph.op("Mul", x, graph.op("Sigmoid", x))


def swish(graph, x):
    return graph.op("Mul", graph.op("Sigmoid", graph.op("Mul", x, 1.7)), x)


def mish(graph, x):
    return graph.op("Mul", x, graph.op("Tanh", graph.op("Softplus", x)))


def gelu(graph, x):
    below = graph.op("Add", graph.op("Erf", graph.op("Div", x, np.float32(2**0.5))), 1.0)
    return graph.op("Mul", graph.op("Mul", x, below), 0.5)


def gelu_by_tanh(graph, x):
    cube = graph.op("Mul", graph.op("Pow", x, 3.0), 0.044715)
    inner = graph.op("Mul", graph.op("Add", x, cube), np.float32((2 / np.pi) ** 0.5))
    return graph.op("Mul", graph.op("Mul", x, 0.5), graph.op("Add", graph.op("Tanh", inner), 1.0))


def hard_swish(graph, x):
    gate = graph.op("Clip", graph.op("Add", x, 3.0), 0.0, 6.0)
    return graph.op("Div", graph.op("Mul", x, gate), 6.0)


def softplus_by_where(graph, x):
    """As torch.export has it: x itself beyond 20."""
    return graph.op("Where", graph.op("Greater", x, 20.0), x, graph.op("Softplus", x))


def elu_by_where(graph, x):
    below = graph.op("Sub", graph.op("Exp", graph.op("Min", x, 0.0)), 1.0)
    return graph.op("Where", graph.op("Less", x, 0.0), below, graph.op("Mul", x, 1.1))


def one(op_type, **settings):
    return lambda graph, x: graph.op(op_type, x, **settings)


SPELT = {f.__name__: f for f in (silu, swish, mish, gelu, gelu_by_tanh, hard_swish, softplus_by_where, elu_by_where)}
OPERATORS = {
    "elu": one("Elu", alpha=0.7),
    "selu": one("Selu"),
    "celu": one("Celu", alpha=2.0),
    "softplus": one("Softplus"),
    "hardswish": one("HardSwish"),
    "relu6": lambda graph, x: graph.op("Clip", x, 0.0, 6.0),
}


def chain(activation):
    b = NetBuilder()
    x = activation(b.graph, b.conv("data", "conv1", 8))
    x = activation(b.graph, b.conv(x, "conv2", 8))
    x = b.graph.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = activation(b.graph, b.conv(x, "conv3", 6, group=2))
    return b.finish(b.product(activation(b.graph, b.product(x, "ip1", 20)), "ip2", 5))


def residual(activation):
    b = NetBuilder()
    x = activation(b.graph, b.conv("data", "stem", 8))
    for block in "ab":
        y = b.conv(activation(b.graph, b.conv(x, f"{block}1", 8)), f"{block}2", 8)
        x = activation(b.graph, b.graph.op("Add", x, y))
    return b.finish(b.product(x, "ip", 5))


@pytest.mark.parametrize("make", [chain, residual])
@pytest.mark.parametrize("name", [*SPELT, *OPERATORS])
def test_units_get_one_rate_through_them(name, make):
    net, batches = make({**SPELT, **OPERATORS}[name]), pictures(num=16, batch=16)
    plain = caffeinit.init(make({**SPELT, **OPERATORS}[name]), batches, balanced=False)
    assert plain.rate_spread is None or not plain.rate_spread < 0.2
    result = caffeinit.init(net, batches)
    found = caffeinit.measure(net, batches)
    assert found.rate_spread < 0.02
    assert abs(found.rate_spread - result.rate_spread) < 2e-3
    # No start that saturates, or that hardly leaves zero: deviations stay near those of a net with ReLUs.
    assert all(0.02 < unit.stats.std < 50 for unit in found.units)


def test_nothing_bends_where_scales_that_keep_the_function_do():
    b = NetBuilder()
    x = silu(b.graph, b.norm(b.conv("data", "stem", 8), "n0"))
    for block in "ab":
        y = silu(b.graph, b.norm(b.conv(x, f"{block}1", 8), f"{block}n1"))
        x = b.graph.op("Add", x, b.norm(b.conv(y, f"{block}2", 8), f"{block}n2"))
    net, batches = b.finish(b.product(x, "ip", 5)), pictures(num=16, batch=16)
    result = caffeinit.init(net, batches)
    assert result.rate_spread < 1e-4
    assert not [note for note in result.notes if "foretold" in note or "do not deviate by 1" in note]
    assert caffeinit.measure(net, batches).units[-1].stats.std == pytest.approx(1, rel=1e-3)


def test_where_stored_statistics_let_nothing_be_made_up_for_deviations_are_measured():
    """What is foretold of them is off by percents then, curve by curve."""
    b = NetBuilder()
    x = silu(b.graph, b.conv("data", "conv1", 8))
    x = silu(b.graph, b.conv(x, "conv2", 8))
    x = silu(b.graph, b.conv(x, "conv3", 8))
    x = b.relu(b.norm(b.conv(x, "conv4", 8), "norm"))
    net, batches = b.finish(b.product(x, "ip", 5)), pictures(num=16, batch=16)
    result = caffeinit.init(net, batches)
    assert result.rate_spread < 0.9 * result.rate_spread_before
    assert not [note for note in result.notes if "foretold" in note]
    for told, found in zip(result.units, caffeinit.measure(net, batches).units, strict=True):
        np.testing.assert_allclose(told.after.channel_stds, found.stats.channel_stds, rtol=1e-3)


@pytest.mark.parametrize("op_type", ["Sigmoid", "Tanh", "Softsign"])
def test_what_saturates_still_holds_what_it_reads(op_type):
    net, batches = chain(one(op_type)), pictures(num=16, batch=16)
    caffeinit.init(net, batches)
    for unit in caffeinit.measure(net, batches).units:
        assert unit.stats.std == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 1.0), (-4.0, 0.0), (1.0, 6.0), (0.0, 3e38), (-3e38, 3e38), (0.0, None)]
)
def test_other_limits_bend_no_scale(low, high):
    b = NetBuilder()
    x = b.graph.op("Clip", b.conv("data", "conv1", 8), low, *([] if high is None else [high]))
    b.finish(b.product(x, "ip", 3))
    assert find_activations(b.graph) == {}


@pytest.mark.parametrize("name", SPELT)
def test_spelt_ones_are_found_as_a_whole(name):
    b = NetBuilder()
    x = b.conv("data", "conv1", 8)
    y = SPELT[name](b.graph, x)
    b.finish(b.product(y, "ip", 3))
    ((top, bottom),) = find_activations(b.graph).items()
    inside = b.graph.ancestors([top], [bottom])
    assert {i for node in inside for i in node.input} & b.graph.moving_values() >= {bottom}
    # What is left between it and the product is a constant factor, if anything.
    rest = b.graph.ancestors([y], [top])
    assert {node.op_type for node in rest} <= {"Mul", "Div"}


def test_choices_by_something_else_or_without_a_curve_are_none():
    b = NetBuilder()
    x = b.conv("data", "conv1", 8)
    leaky = b.graph.op("Where", b.graph.op("Greater", x, 0.0), x, b.graph.op("Mul", x, 0.1))
    by_mean = b.graph.op("Greater", leaky, b.graph.op("ReduceMean", leaky, axes=[2, 3], keepdims=1))
    mixed = b.graph.op("Where", by_mean, leaky, b.graph.op("Exp", leaky))
    other = b.graph.op("Where", b.graph.op("Greater", leaky, 0.0), mixed, b.graph.op("Exp", mixed))
    shown = b.graph.op("Exp", other)
    read_elsewhere = b.graph.op("Where", b.graph.op("Greater", other, 0.0), other, shown)
    b.finish(b.product(read_elsewhere, "ip", 3), shown)
    assert find_activations(b.graph) == {}


def test_gates_of_something_else_or_read_elsewhere_are_none():
    b = NetBuilder()
    x = b.conv("data", "conv1", 8)
    pooled = b.graph.op("ReduceMean", x, axes=[2, 3], keepdims=1)
    squeezed = b.graph.op("Mul", x, b.graph.op("Sigmoid", pooled))
    gate = b.graph.op("Sigmoid", squeezed)
    shown = b.graph.op("Mul", squeezed, gate)
    slopes = np.linspace(1, 2, 8, dtype=np.float32).reshape(8, 1, 1)
    apart = b.graph.op("Mul", shown, b.graph.op("Sigmoid", b.graph.op("Mul", shown, slopes)))
    squares = b.graph.op("Mul", apart, b.graph.op("Relu", apart))
    b.finish(b.product(squares, "ip", 3), gate)
    assert find_activations(b.graph) == {}


def test_operators_of_later_opsets_are_activations_too(tmp_path):
    rng = np.random.default_rng(0)
    nodes, arrays, x, inputs = [], [], "x", 3
    for number, op_type in enumerate(("Gelu", "Mish")):
        shape = (8, inputs, 3, 3)
        arrays.append(numpy_helper.from_array(rng.standard_normal(shape, np.float32), f"w{number}"))
        nodes.append(helper.make_node("Conv", [x, f"w{number}"], [f"c{number}"], pads=[1] * 4))
        nodes.append(helper.make_node(op_type, [f"c{number}"], [f"a{number}"]))
        x, inputs = f"a{number}", 8
    arrays.append(numpy_helper.from_array(rng.standard_normal((5, 8, 3, 3), np.float32), "w2"))
    nodes.append(helper.make_node("Conv", [x, "w2"], ["y"]))
    ends = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s)] for n, s in (("x", ["N", 3, 12, 10]), ("y", None))]
    graph = helper.make_graph(nodes, "net", *ends, arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    save_model(model, tmp_path / "net.onnx")
    net = caffeinit.load(tmp_path / "net.onnx")
    values = rng.standard_normal((16, 3, 12, 10), np.float32)
    caffeinit.init(net, values)
    assert caffeinit.measure(net, values).rate_spread < 0.02


def test_outputs_of_another_size_are_told_with_what_asks_for_it():
    net, batches = residual(silu), pictures(num=16, batch=16)
    (told,) = (n for n in caffeinit.init(net, batches).notes if n.startswith("the net's outputs do not deviate by 1"))
    assert "far along the curves of activations" in told
    assert caffeinit.measure(net, batches).units[-1].stats.std > 1.5
