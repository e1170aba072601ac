"""Any choice of the free factors keeps a net's function."""

import numpy as np
import pytest

import caffeinit
from caffeinit.apply.plan import Plan, apply, can_apply
from caffeinit.errors import WeightsError
from caffeinit.ops.labels import Constraints
from caffeinit.scales.classes import _nodes_above, find_scales
from caffeinit.scales.solving import solve
from tests.caffe.test_golden import group, load_case
from tests.caffe.test_models import MODELS, files_of, input_values
from tests.nets import NETS, NetBuilder
from tests.onnxnets import ModelBuilder, network_of
from tests.ops.checks import doubles, evaluate


def scales_of(net):
    return find_scales(net.graph, net.learned)


def assert_kept_in_double(net, seed=0):
    """Draw free factors between 1/3 and 3, rescale, and compare all outputs in double precision."""
    system = scales_of(net)
    graph, outputs = net.graph, list(net.graph.outputs)
    evaluator = doubles(graph, outputs, tuple(net.learned))
    rng = np.random.default_rng(seed)
    feeds = {n: graph.initializers[n] for n in net.learned}
    feeds |= {n: rng.standard_normal(shape) for n, shape in graph.inputs.items()}
    before = evaluate(evaluator, outputs, feeds)
    unknowns = rng.uniform(-1.1, 1.1, system.num_unknowns)
    if any(link.floor is not None and not link.lifts for link in system.links):
        unknowns *= 0.3  # a stored variance does not go below 0
    after = evaluate(evaluator, outputs, feeds | system.rescaled(graph, unknowns))
    for one, other in zip(before, after, strict=True):
        # Double precision through a few layers.
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-9 * np.abs(one).max())
    return system


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", [0, 1])
def test_random_factors_keep_the_function(name, seed):
    assert assert_kept_in_double(NETS[name](), seed).num_unknowns >= 10


def scramble(net, seed=0):
    """Rescale in place by factors of 1/2, 1 and 2, which round nothing."""
    system = scales_of(net)
    unknowns = np.log(2) * np.random.default_rng(seed).integers(-1, 2, system.num_unknowns)
    for name, array in system.rescaled(net.graph, unknowns).items():
        net.graph.initializers[name][...] = array
    return system


def assert_kept(net, inputs, least):
    outputs = [n for n in net.outputs if n not in net.inputs]
    before = net.forward(inputs, outputs)
    system = scramble(net)
    assert system.num_unknowns >= least
    after = net.forward(inputs, outputs)
    for name in outputs:
        # Halves of factors (roots of 2), and what BatchNorms take up beside their epsilon, round in single precision.
        np.testing.assert_allclose(after[name], before[name], rtol=0, atol=2e-6 * np.abs(before[name]).max())


@pytest.mark.parametrize("name", ["alex", "fcn", "inception", "lenet", "resnet", "siamese"])
def test_random_factors_keep_the_function_of_caffe_nets(name):
    net, archive = load_case(f"net_{name}")
    assert_kept(net, group(archive, "in/"), least=1)


@pytest.mark.parametrize("name", [*MODELS, "waifu2x_upresnet10", "ultraface_rfb320", "wechat_qrcode_detect"])
def test_random_factors_keep_the_function_of_trained_nets(name):
    net = caffeinit.load(*files_of(name))
    inputs = {n: input_values((min(s[0], 2), *s[1:])) for n, s in net.inputs.items()}
    # Every unit of vanillacnn but the last stands before a Tanh.
    assert_kept(net, inputs, least=0 if name == "vanillacnn" else 1)


def build(make):
    b = NetBuilder(shape=(2, 4, 8, 8))
    x = b.relu(b.conv("data", "first", 6))
    return b.finish(b.conv(make(b, x), "last", 3))


def fixed(*shape):
    return np.random.default_rng(7).uniform(0.5, 2, shape).astype(np.float32)


def gate(b, x):
    pooled = b.graph.op("GlobalAveragePool", x)
    return b.graph.op(
        "Mul", x, b.graph.op("Sigmoid", b.conv(b.relu(b.conv(pooled, "se", 4, 1, pad=0)), "up", 6, 1, pad=0))
    )


def shuffle(b, x):
    split = b.graph.reshape(x, [2, 3, 2, 8, 8])
    return b.graph.reshape(b.graph.op("Transpose", split, perm=[0, 2, 1, 3, 4]), [2, 6, 8, 8])


def prelu(b, x):
    return b.graph.op("PRelu", b.conv(x, "y", 6), b.graph.op("Reshape", b.array("slope", 0, (6,), "slope"), [6, 1, 1]))


def deconv(b, x):
    y = b.graph.op("ConvTranspose", x, b.array("up", 0, (6, 2, 4, 4)), b.array("up", 1, (4,), "bias"),
                   group=2, strides=[2, 2], pads=[1] * 4)  # fmt: skip
    return b.relu(y)


def interpolated(b, x):
    return b.graph.op("MatMul", fixed(8, 8), b.graph.op("MatMul", x, fixed(8, 8)))


def rows_mixed(b, x):
    return b.graph.op("MatMul", b.array("rows", 0, (8, 8)), x)


def split_and_join(b, x):
    return b.graph.op("Concat", *reversed(b.graph.ops("Split", x, [2, 4], outputs=2, axis=1)), axis=1)


def lrn(b, x):
    """Return Caffe's LRN as the lowering composes it."""
    band = (np.abs(np.subtract.outer(np.arange(6), np.arange(6))) < 2).astype(np.float32)[:, :, None, None]
    sums = b.graph.op("Conv", b.graph.op("Mul", x, x), band, np.ones(6, np.float32))
    return b.graph.op("Div", x, b.graph.op("Sqrt", sums))


def permuted(b, x):
    """Return x[:, [3, 1, 5, 0, 2, 4]] as torch.export has it written."""
    order = np.array([[3], [1], [5], [0], [-4], [4]])
    first = b.graph.op("Transpose", x, perm=[1, 0, 2, 3])
    return b.graph.op("Transpose", b.graph.op("GatherND", first, order), perm=[1, 0, 2, 3])


def places_at_tuples(b, x):
    last = b.graph.op("Transpose", x, perm=[2, 3, 0, 1])
    places = np.random.default_rng(3).integers(0, 8, (5, 4, 2))
    return b.graph.op("Transpose", b.graph.op("GatherND", last, places), perm=[2, 3, 0, 1])


def rows_of_each_channel(b, x):
    return b.graph.op("GatherND", x, np.random.default_rng(3).integers(0, 8, (2, 6, 5, 1)), batch_dims=2)


def norm_of_channels(b, x):
    """Return x over the root of its sum of squares, which does not care for a common scale."""
    return b.graph.op("Div", x, b.graph.op("Sqrt", b.graph.op("ReduceSumSquare", x, axes=[1])))


def region(first, last, beyond=0.0):
    """Return what cuts a region out of (N, 6, 8, 8), from channel `first` to `last`, that hangs over an edge."""
    bounds = np.array([0, first, 0.1, 0.2, 1, last, 0.9, 1.3], "f4")
    mode = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": beyond}
    return lambda b, x: b.graph.op("Resize", x, bounds, np.array([1, 1, 2, 1.5], "f4"), **mode)


GRAPHS = {
    # what stands between two convolutions of 6 and 3 channels, and how many factors are free
    "nothing": (lambda b, x: x, 6),
    "grouped": (lambda b, x: b.relu(b.conv(x, "g", 6, group=3)), 12),
    "depthwise": (lambda b, x: b.relu(b.conv(x, "g", 6, group=6)), 12),
    "deconvolution": (deconv, 10),
    "sum": (lambda b, x: b.graph.op("Add", x, b.conv(x, "y", 6)), 6),
    "sum of one channel": (lambda b, x: b.graph.op("Add", x, b.conv(x, "y", 1)), 1),
    "maximum": (lambda b, x: b.graph.op("Max", x, b.conv(x, "y", 6)), 6),
    "maximum, begun at minus infinity": (lambda b, x: b.graph.op("Max", -np.inf, x), 6),
    "minimum with a bound": (lambda b, x: b.graph.op("Min", x, np.array([[[2]]] * 5 + [[[np.inf]]], "f4")), 1),
    "gate": (gate, 10),
    "two products": (lambda b, x: b.graph.op("Mul", x, b.conv(x, "y", 6)), 12),
    "square": (lambda b, x: b.graph.op("Mul", x, x), 6),
    "cube and its root": (lambda b, x: b.graph.op("Add", x, b.graph.op("Pow", b.graph.op("Pow", x, 2.0), 0.5)), 6),
    "x plus its square": (lambda b, x: b.graph.op("Add", x, b.graph.op("Mul", x, x)), 0),
    "slice and concat": (split_and_join, 6),
    "interpolated": (interpolated, 6),
    "rows mixed": (rows_mixed, 2),  # a unit whose channels are rows: those of the convolution have one factor
    "shuffle": (shuffle, 6),
    "channels by tuples": (permuted, 6),
    "places by tuples": (places_at_tuples, 6),
    "rows of each channel": (rows_of_each_channel, 6),
    "prelu": (prelu, 12),
    "constant added": (lambda b, x: b.graph.op("Add", x, 1.0), 0),
    "constants added, some 0": (lambda b, x: b.graph.op("Add", x, np.eye(6, dtype="f4")[3].reshape(6, 1, 1)), 5),
    "constant times": (lambda b, x: b.graph.op("Mul", x, -3.0), 6),
    "clip at 0": (lambda b, x: b.graph.op("Clip", x, 0.0), 6),
    "relu6": (lambda b, x: b.graph.op("Clip", x, 0.0, 6.0), 0),
    "sigmoid": (lambda b, x: b.graph.op("Sigmoid", x), 0),
    "lrn": (lrn, 0),
    "norm of channels": (norm_of_channels, 1),
    "average pool": (lambda b, x: b.graph.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), 6),
    "batch norm": (lambda b, x: b.norm(x, "bn"), 12),
    "batch norm and scale": (lambda b, x: b.scale(b.norm(x, "bn"), "sc"), 18),
    "resize": (lambda b, x: b.graph.op("Resize", x, "", np.array([1, 1, 2, 2], "f4"), mode="nearest"), 6),
    "region": (region(0, 1), 6),
    "region of some channels": (region(0.3, 1), 1),
    "region with a number beyond": (region(0, 1, 2.0), 0),
    "depth to space": (lambda b, x: b.graph.op("DepthToSpace", b.conv(x, "y", 8), blocksize=2), 8),
    "learned factor for all": (lambda b, x: b.graph.op("Mul", x, b.array("sc", 0, (1,), "scale")), 7),
    "fixed convolution": (lambda b, x: b.graph.op("Conv", x, fixed(5, 6, 1, 1)), 1),
    "fixed depthwise": (lambda b, x: b.graph.op("Conv", x, fixed(6, 1, 3, 3), group=6), 6),
    "fixed depthwise with bias": (lambda b, x: b.graph.op("Conv", x, fixed(6, 1, 3, 3), fixed(6), group=6), 0),
    "unknown operator": (lambda b, x: b.graph.op("Atan", x), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_free_factors_and_the_function(name):
    make, free = GRAPHS[name]
    assert assert_kept_in_double(build(make)).num_unknowns == free


def test_flattened_channels_keep_their_factors():
    b = NetBuilder(shape=(2, 4, 3, 2))
    net = b.finish(b.product(b.relu(b.product(b.relu(b.conv("data", "c", 5)), "ip1", 7)), "ip2", 3))
    assert assert_kept_in_double(net).num_unknowns == 12


def test_an_array_that_is_used_twice_keeps_one_value():
    b = NetBuilder(shape=(2, 4, 8, 8))
    b.graph.add_input("other", (2, 4, 8, 8))
    first = b.relu(b.conv("data", "first", 5))
    again = b.relu(b.graph.op("Conv", "other", "first/param0", "first/param1", pads=[1] * 4))
    net = b.finish(b.conv(b.graph.op("Concat", first, again, axis=1), "last", 3))
    assert assert_kept_in_double(net).num_unknowns == 5


@pytest.mark.parametrize(("factor", "free"), [(1, 5), (0, 10)])
def test_of_zeros_that_are_used_twice_each_use_may_ask_for_another_factor(factor, free):
    b = NetBuilder(shape=(2, 4, 8, 8))
    first = b.relu(b.conv("data", "first", 5))
    b.graph.initializers["first/param1"][...] *= factor
    second = b.graph.op("Conv", first, b.array("second", 0, (5, 5, 3, 3)), "first/param1", pads=[1] * 4)
    net = b.finish(b.conv(b.relu(second), "last", 3))
    assert assert_kept_in_double(net).num_unknowns == free


def test_a_chain_of_one_shared_unit_without_bias():
    b = NetBuilder(shape=(2, 4, 8, 8))
    x = b.conv("data", "first", 4)
    y = b.conv(x, "same", 4, bias=False)
    z = b.graph.op("Conv", b.relu(y), "same/param0", pads=[1] * 4)
    net = b.finish(b.conv(z, "last", 3))
    # W scaled by one number: x -> c, y -> c + k, z -> c + 2 k; and channels by a diagonal matrix and its inverse.
    assert assert_kept_in_double(net).num_unknowns == 5


def test_an_array_that_is_also_read_otherwise_stays():
    b = NetBuilder(shape=(2, 4, 8, 8))
    x = b.relu(b.conv("data", "first", 5))
    kernel = b.graph.op("Sigmoid", "first/param0")
    net = b.finish(b.graph.op("Conv", "data", kernel), b.conv(x, "last", 3))
    system = assert_kept_in_double(net)
    assert system.num_unknowns == 0
    assert system.reasons(system.labels[x]) == ["first/param0 is also read in another way"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sigmoid", "Sigmoid"),
        ("lrn", "Conv"),
        ("constant added", "Add"),
        ("relu6", "Clip"),
        ("unknown operator", "Atan"),
    ],
)
def test_a_channel_that_is_held_has_its_reason(name, words):
    net = build(GRAPHS[name][0])
    system = scales_of(net)
    first = next(link for link in system.links if link.initializers["weight"] == "first/param0")
    assert not system.is_free(first.outputs).any()
    (reason,) = system.reasons(first.outputs)
    assert reason.startswith(words)
    assert system.unknown_operators == ([reason] if name == "unknown operator" else [])


def test_outputs_and_inputs_are_held():
    net = build(GRAPHS["nothing"][0])
    system = scales_of(net)
    assert system.reasons(system.links[-1].outputs) == [f"net output {net.graph.outputs[0]}"]
    assert not system.links[0].inputs.any()


def test_a_stored_variance_stays_positive_down_to_the_floor():
    net = build(GRAPHS["batch norm and scale"][0])
    system = scales_of(net)
    link = next(link for link in system.links if link.kind == "norm")
    matrix = system.solution.matrix
    unknowns = np.linalg.lstsq((matrix[link.inputs] - matrix[link.outputs]).toarray(), link.floor, rcond=None)[0]
    variance = system.rescaled(net.graph, unknowns)["bn/param1"]
    np.testing.assert_allclose(variance, 0, atol=1e-12)


def normed(again=False):
    """Return two convolutions, each with a BatchNormalization; `again`: they share their factors."""
    b = ModelBuilder(17)
    x = b.op("Relu", b.norm(b.conv("input", "conv1", 3, 4), "bn1", 4))
    x = b.norm(b.conv(x, "conv2", 4, 4), "bn2", 4)
    if again:
        b.nodes[-1].input[1] = "bn1.weight"
        b.initializers = [i for i in b.initializers if i.name != "bn2.weight"]
    return network_of(b.finish(b.head(b.op("Relu", x), 4)))


def far_below(system):
    """Return unknowns with which inputs of BatchNormalizations are smaller by a factor of 3000, and their labels."""
    labels = np.concatenate([link.inputs for link in system.links if link.kind == "norm"])
    return system.unknowns_for(labels, np.full(len(labels), -8.0)), labels


def test_a_factor_takes_up_what_a_variance_cannot():
    net = normed()
    graph, outputs = net.graph, list(net.graph.outputs)
    system, evaluator = scales_of(net), doubles(graph, outputs, tuple(net.learned))
    unknowns, labels = far_below(system)
    np.testing.assert_allclose(system.expand(unknowns)[labels], -8)
    assert not system.below_floor(unknowns).size
    feeds = {n: graph.initializers[n] for n in net.learned}
    feeds |= {n: np.random.default_rng(0).standard_normal(shape) for n, shape in graph.inputs.items()}
    arrays = system.rescaled(graph, unknowns)
    assert not arrays["bn1.running_var"].any()
    assert not arrays["bn2.running_var"].any()
    (before,), (after,) = (evaluate(evaluator, outputs, feeds | more) for more in ({}, arrays))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-9 * np.abs(before).max())  # of double precision
    before = net.forward({"input": feeds["input"].astype(np.float32)}, outputs)[outputs[0]]
    apply(net, Plan(system, system.expand(unknowns)))
    after = net.forward({"input": feeds["input"].astype(np.float32)}, outputs)[outputs[0]]
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_a_factor_that_another_norm_has_as_well_takes_up_nothing():
    net = normed(again=True)
    system = scales_of(net)
    unknowns, labels = far_below(system)
    assert set(system.below_floor(unknowns)) >= set(labels)
    plan = Plan(system, system.expand(unknowns))
    assert not can_apply(net, plan)
    with pytest.raises(WeightsError, match="negative"):
        apply(net, plan)


def test_relations_are_solved_exactly():
    c = Constraints()
    a, b, d = c.fresh((3,)), c.fresh((3,)), c.fresh((3,))
    total = c.combine((1.0, a), (1.0, b), (-0.5, d))
    c.tie(total, a)  # so b = d / 2
    c.pin(d[:1], "held")
    solution = solve(c)
    matrix = solution.matrix.toarray()
    np.testing.assert_array_equal(matrix[b], matrix[d] / 2)
    np.testing.assert_array_equal(matrix[total], matrix[a])
    assert not matrix[b[0]].any()
    assert matrix.shape[1] == 5


def test_unknowns_are_fitted_to_wanted_scales():
    net = build(GRAPHS["sum of one channel"][0])  # one channel is added to all six, so that all are tied
    system = scales_of(net)
    labels = system.links[0].outputs
    wanted = np.array([1.0, 2.0, 3.0, np.nan, 6.0, 8.0])
    np.testing.assert_allclose(system.expand(system.unknowns_for(labels, wanted))[labels], 4.0)
    weighted = system.unknowns_for(labels, wanted, np.array([1.0, 1.0, 0, 1, 0, 0]))
    np.testing.assert_allclose(system.expand(weighted)[labels], 1.5)


def test_channels_whose_variance_would_be_negative_are_found_and_can_be_held():
    net = build(GRAPHS["batch norm and scale"][0])
    system = scales_of(net)
    link = next(link for link in system.links if link.kind == "norm")
    wanted = np.where(np.arange(6) == 2, link.floor - 1, link.floor + 1)
    unknowns = system.unknowns_for(link.inputs, wanted)
    low = system.below_floor(unknowns)
    assert set(low) == {link.inputs[2], link.outputs[2]}
    held = system.held(low, "its variance would be negative")
    assert held.num_unknowns == system.num_unknowns - 2
    assert held.reasons(link.inputs[2:3]) == ["its variance would be negative"]
    assert not held.below_floor(held.unknowns_for(link.inputs, np.maximum(wanted, -9))).size


@pytest.mark.parametrize("learns", [True, False])
def test_nodes_above_a_head_are_those_before_what_learns_not_though_its_weight_is_turned_first(learns):
    b = NetBuilder()
    head = b.product(b.conv("data", "conv", 4), "ip", 5)
    weight = b.graph.add_initializer("turned", np.ones((3, 5), np.float32))
    judged = b.graph.op("Softmax", head, axis=1)
    top = b.graph.op("MatMul", judged, b.graph.op("Transpose", weight, perm=[1, 0]))
    b.graph.outputs = [top]
    above = _nodes_above(b.graph, [head], [weight] if learns else [])
    assert above == (set() if learns else {id(b.graph.producer(value)) for value in (judged, top)})
