"""What is divided by its own deviation takes any scale, and passes none on, where the function need not be kept."""

import numpy as np
import onnx
import pytest

import caffeinit
from caffeinit.apply.plan import Plan, apply
from caffeinit.methods.between import scale_system
from tests.nets import NetBuilder, pictures
from tests.onnxnets import MODELS, SHAPE


def norm_of(builder, x, kind):
    """Append a standardisation whose epsilon is next to nothing."""
    op, channels = builder.graph.op, builder.graph.shape(x)[1]
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    if kind == "InstanceNormalization":
        return op(kind, x, ones, zeros, epsilon=1e-12)
    if kind == "GroupNormalization":
        return op(kind, x, np.ones(2, np.float32), np.zeros(2, np.float32), num_groups=2, epsilon=1e-12)
    if kind in ("LayerNormalization", "RMSNormalization"):
        last = np.ones(builder.graph.shape(x)[-1], np.float32)
        return op(kind, x, last, axis=-1, epsilon=1e-12)
    if kind == "MeanVarianceNormalization":
        return op(kind, x, axes=[1, 2, 3])
    axes = [1, 2, 3]
    if kind == "a norm":
        return op("Div", x, op("Sqrt", op("Add", op("ReduceSum", op("Mul", x, x), axes), np.float32(1e-12))))
    centred = op("Sub", x, op("ReduceMean", x, axes=axes))
    squares = op("ReduceMean", op("Pow", centred, np.float32(2)), axes=axes)
    if kind == "Caffe's MVN":
        return op("Div", centred, op("Add", op("Sqrt", squares), np.float32(1e-9)))
    if kind == "a root that multiplies":
        return op("Mul", op("Reciprocal", op("Sqrt", op("Add", squares, np.float32(1e-12)))), centred)
    assert kind == "a power"
    return op("Div", centred, op("Pow", op("Add", squares, np.float32(1e-12)), np.float32(0.5)))


# How many scales of six channels are free then.
KINDS = {
    "InstanceNormalization": 6,
    "GroupNormalization": 2,
    "LayerNormalization": 6,  # over rows
    "RMSNormalization": 6,
    "MeanVarianceNormalization": 1,
    "a norm": 1,
    "Caffe's MVN": 1,
    "a root that multiplies": 1,
    "a power": 1,
}


def net_with(kind):
    builder = NetBuilder()
    builder.graph.opset = {"GroupNormalization": 18, "RMSNormalization": 23}.get(kind, builder.graph.opset)
    x = norm_of(builder, builder.conv("data", "conv1", 6), kind)
    return builder.finish(builder.conv(builder.relu(x), "conv2", 4))


@pytest.mark.parametrize("kind", KINDS)
def test_its_input_has_a_scale_where_the_function_need_not_be_kept_to_the_last_digit(kind):
    net, batch = net_with(kind), pictures()[0]
    before = net.forward(batch)
    system = scale_system(net, lambda unit: "", net.graph.outputs, relaxed=True)
    assert system.num_unknowns == KINDS[kind]
    assert scale_system(net, lambda unit: "", net.graph.outputs, relaxed=False).num_unknowns == 0
    apply(net, Plan(system, system.expand(np.random.default_rng(0).normal(0, 2, system.num_unknowns))))
    for name, values in net.forward(batch).items():
        np.testing.assert_allclose(values, before[name], rtol=0, atol=1e-5 * np.abs(before[name]).max())


@pytest.mark.parametrize("number", [1.0, 0.1])
def test_what_is_divided_by_a_root_of_more_keeps_its_scale(number):
    builder = NetBuilder()
    x, op = builder.conv("data", "conv1", 6), builder.graph.op
    squares = op("ReduceMean", op("Mul", x, x), axes=[1])
    x = op("Div", x, op("Sqrt", op("Add", squares, np.float32(number))))
    net = builder.finish(builder.conv(x, "conv2", 4))
    assert scale_system(net, lambda unit: "", net.graph.outputs, relaxed=True).num_unknowns == 0


def test_a_deviation_that_something_else_reads_keeps_its_scale():
    builder = NetBuilder()
    x, op = builder.conv("data", "conv1", 6), builder.graph.op
    deviation = op("Sqrt", op("Add", op("ReduceMean", op("Mul", x, x), axes=[1]), np.float32(1e-5)))
    one = builder.conv(op("Div", x, deviation), "conv2", 4)
    net = builder.finish(op("Add", one, op("Sigmoid", deviation)))
    assert scale_system(net, lambda unit: "", net.graph.outputs, relaxed=True).num_unknowns == 0


@pytest.mark.parametrize(
    ("name", "opset"), [(name, opset) for name in ("vit", "squeeze_excite") for opset in MODELS[name][1]]
)
def test_nets_with_attention_and_gates_get_one_rate(name, opset, tmp_path):
    onnx.save(MODELS[name][0](opset), tmp_path / "net.onnx")
    net = caffeinit.load(tmp_path / "net.onnx")
    batch = {"input": np.random.default_rng(1).standard_normal((16, *SHAPE)).astype(np.float32)}
    told = caffeinit.rescale(net, batch, mode="normalize")
    measured = caffeinit.measure(net, batch)
    assert measured.rate_spread < 0.02 < 1 < told.rate_spread_before
    assert told.rate_spread == pytest.approx(measured.rate_spread, abs=1e-4)
    for unit, found in zip(told.units, measured.units, strict=True):
        assert unit.after.std == pytest.approx(found.stats.std, rel=1e-3)
