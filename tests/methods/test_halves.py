"""Mode fp16 against half-precision arithmetic: what overflowed does no more, and agrees with single precision."""

import numpy as np
import pytest

import caffeinit
from caffeinit.apply.plan import Plan, apply
from caffeinit.engine.session import Session, Settings
from caffeinit.methods.between import scale_system
from caffeinit.methods.halves import LARGEST, SMALLEST, exact_system
from tests.caffe.test_models import files_of
from tests.conftest import shared
from tests.nets import NETS as NETS_WITH_ROOM
from tests.nets import pictures
from tests.onnxfile.test_files import load
from tests.onnxfile.test_kinds import Maker, tensor
from tests.onnxnets import MODELS, SHAPE, network_of


def half(array):
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float32)


def run_in_halves(net, feeds, output):
    """Run a net node by node, every weight and every value rounded to half precision; sums within a node are not."""
    values = {name: half(array) for name, array in feeds.items()}
    for node in net.graph.ancestors([output]):
        piece = net.graph.part([o for o in node.output if o], [i for i in node.input if i in values])
        piece.initializers = {n: half(a) if a.dtype == np.float32 else a for n, a in piece.initializers.items()}
        found = Session(piece, Settings(threads=1)).run({n: values[n] for n in piece.inputs})
        values |= {n: half(a) if a.dtype == np.float32 else a for n, a in found.items()}
    return values[output]


MNIST, CIFAR = ("mnist", "t10k-images-idx3-ubyte.gz"), ("cifar10", "test")
# Model, pictures, how they are read, the layer that is scaled up by 1e4, the next, which is scaled down, and the last value
# before Softmax.
NETS = {
    "lenet": ("lenet_v2_ethereon", MNIST, {"scale": 1 / 256}, "conv2", "ip1", "ip2"),
    "lenet_ip": ("lenet_v1_everpeace", MNIST, {"scale": 1 / 256}, "ip1", "ip2", "ip2"),
    "cifar10_quick": ("cifar10_quick_v1_gujunli", CIFAR, {"channels": "rgb"}, "conv2", "conv3", "ip2"),
    "onet": ("mtcnn_onet", ("imagenet160",), {"scale": 1 / 128, "mean": [127.5]}, "conv2", "conv3", "conv6-2"),
}


@pytest.mark.parametrize("name", NETS)
def test_a_trained_net_that_overflows_does_no_more(name):
    model, pictures, options, up, down, output = NETS[name]
    net = caffeinit.load(*files_of(model))
    batches = list(caffeinit.read_images(net, str(shared("images", *pictures)), num_images=8, **options))
    feeds = batches[0]
    whole = net.forward(feeds, [output])[output]
    for array in net.params[up]:
        array *= np.float32(1e4)
    net.params[down][0][...] /= np.float32(1e4)
    assert not np.isfinite(run_in_halves(net, feeds, output)).all()
    result = caffeinit.rescale(net, batches, mode="fp16")
    after = run_in_halves(net, feeds, output)
    assert np.isfinite(after).all()
    # Eleven bits are kept of each weight and value; the nets as they were trained are off by up to 2.1e-3.
    np.testing.assert_allclose(after, whole, rtol=0, atol=3e-3 * np.abs(whole).max())
    notes = {n.partition(":")[0]: n for n in result.notes if n.startswith("largest value")}
    assert "overflows half precision" in notes["largest value before"]
    assert "head-room" in notes["largest value after"]


@pytest.mark.parametrize("name", MODELS)
def test_scales_that_were_spread_are_brought_back_and_no_bit_moves(name):
    build, opsets = MODELS[name]
    net = network_of(build(opsets[0]))
    batch = {"input": np.random.default_rng(1).standard_normal((8, *SHAPE)).astype(np.float32)}
    free = scale_system(net, lambda unit: "", [*net.graph.outputs], relaxed=False)
    system = exact_system(free, net.graph)
    away = np.random.default_rng(2).choice([-12, 0, 12, 24], system.num_unknowns)
    apply(net, Plan(system, system.expand(away * np.log(2))))
    before = net.forward(batch)
    result = caffeinit.rescale(net, batch, mode="fp16")
    above = [
        sum(max(0, np.log2(getattr(unit, when).max_abs / LARGEST)) for unit in result.units)
        for when in ("before", "after")
    ]
    assert above[1] < above[0] / 4
    for output, values in net.forward(batch).items():
        np.testing.assert_array_equal(values, before[output])


def gated(b):
    return b.op("Mul", b.conv("x", "value", 3, 8), b.conv("x", "gate", 3, 8), out="product")


def squared(b):
    b.initializers.append(tensor("two", np.float32(2)))
    return b.op("Pow", b.conv("x", "value", 3, 8), "two", out="product")


def correlated(b):
    b.initializers += [tensor("rows", np.array([0, 8, 48])), tensor("places", np.array([0, 48, 8, 6]))]
    one, other = (b.op("Reshape", b.conv("x", name, 3, 8), "rows", out=f"rows_{name}") for name in "ab")
    product = b.op("MatMul", b.op("Transpose", one, out="turned", perm=[0, 2, 1]), other, out="product")
    return b.op("Reshape", product, "places", out="scores")


@pytest.mark.parametrize(("make", "channels"), [(gated, 8), (squared, 8), (correlated, 48)])
@pytest.mark.parametrize("size", [6e5, 1e9])
def test_what_is_made_of_units_outputs_is_given_room_too(make, channels, size, tmp_path):
    """Products of values that have room themselves may have none."""
    b = Maker(shape=("N", 3, 8, 6))
    b.conv(make(b), "last", channels, 4, out="y")
    net = load(b.save(tmp_path / "net.onnx"))
    feeds = {"x": np.random.default_rng(4).standard_normal((4, 3, 8, 6)).astype(np.float32)}
    factor = np.sqrt(size / np.abs(net.forward(feeds, ["product"])["product"]).max())
    for array in (a for unit in net.units[:-1] for a in net.params[unit.layer]):
        array *= np.float32(factor)
    whole = net.forward(feeds, ["y"])["y"]
    assert not np.isfinite(run_in_halves(net, feeds, "y")).all()
    result = caffeinit.rescale(net, feeds, mode="fp16")
    np.testing.assert_array_equal(net.forward(feeds, ["y"])["y"], whole)
    assert np.isfinite(run_in_halves(net, feeds, "product")).all()
    assert np.abs(net.forward(feeds, ["product"])["product"]).max() < LARGEST / 64
    assert any("overflows" in note for note in result.notes if note.startswith("largest value before"))


@pytest.mark.parametrize("made_for", [1, 2])
def test_rows_of_pictures_that_have_scales_of_their_own_are_told_apart(made_for, tmp_path):
    """Channels that a Reshape brings to axis 0 have their scales there, for any number of pictures."""
    b = Maker(shape=("N", 3, 8, 6))
    b.initializers += [tensor("rows", np.array([-1, 48])), tensor("places", np.array([-1, 4, 8, 6]))]
    x = b.op("Relu", b.op("Reshape", b.conv("x", "conv1", 3, 4), "rows", out="row"), out="r")
    b.conv(b.op("Reshape", x, "places", out="back"), "conv2", 4, 2, out="y")
    net = load(b.save(tmp_path / "net.onnx"), input_shapes={"x": (made_for, 3, 8, 6)})
    factors = np.float32([1e3, 1e4, 1e5, 1e6])
    for array in (a for name in ("conv1.weight", "conv1.bias") for a in net.params[name]):
        array *= factors.reshape(-1, *(1,) * (array.ndim - 1))
    feeds = {"x": np.random.default_rng(4).standard_normal((5, 3, 8, 6)).astype(np.float32)}
    whole = net.forward(feeds, ["y"])["y"]
    caffeinit.rescale(net, feeds, mode="fp16")
    np.testing.assert_array_equal(net.forward(feeds, ["y"])["y"], whole)
    assert np.all(np.abs(net.forward(feeds, ["row"])["row"].reshape(5, 4, 48)).max((0, 2)) < 32)


def test_numbers_beside_infinities_of_a_mask_get_room(tmp_path):
    """A causal mask is minus infinity in half precision, too, and is no number that overflows."""
    b = Maker(shape=("N", 6, 8))
    b.initializers += [tensor("mask", np.float32(np.triu(np.full((6, 6), -np.inf), 1)))]
    q, k, v = (b.op("MatMul", "x", b.array(name, 8, 8), out=f"{name}.y") for name in "qkv")
    scores = b.op("MatMul", q, b.op("Transpose", k, out="turned", perm=[0, 2, 1]), out="scores")
    share = b.op("Softmax", b.op("Add", scores, "mask", out="masked"), out="share")
    b.op("MatMul", b.op("MatMul", share, v, out="mixed"), b.array("last", 8, 4), out="y")
    net = load(b.save(tmp_path / "net.onnx"))
    net.params["v"][0][...] *= np.float32(1e6)
    net.params["last"][0][...] *= np.float32(1e-6)
    feeds = {"x": np.random.default_rng(4).standard_normal((4, 6, 8)).astype(np.float32)}
    result = caffeinit.rescale(net, feeds, mode="fp16")
    assert not any("inf" in note for note in result.notes)
    assert np.abs(net.forward(feeds, ["v.y"])["v.y"]).max() < 1024


@pytest.mark.parametrize("name", NETS_WITH_ROOM)
def test_a_net_with_room_enough_is_left_as_it_is(name):
    net = NETS_WITH_ROOM[name]()
    before = {k: [a.copy() for a in v] for k, v in net.params.items()}
    result = caffeinit.rescale(net, pictures(), mode="fp16")
    assert all("near either end" in u.reason or "is held" in u.reason for u in result.units)
    assert any(note.startswith("no scale was changed") for note in result.notes)
    for key, arrays in net.params.items():
        for old, new in zip(before[key], arrays, strict=True):
            np.testing.assert_array_equal(new, old)


def test_weights_that_lose_their_digits_are_enlarged():
    net = NETS_WITH_ROOM["chain"]()
    for array in net.params["conv1"]:
        array *= np.float32(2.0**-12)
    net.params["conv2"][0][...] *= np.float32(2.0**12)
    lost = sum((np.abs(a) < SMALLEST).sum() for a in net.params["conv1"])
    result = caffeinit.rescale(net, pictures(), mode="fp16")
    assert result.units[0].done == "given head-room"
    assert sum((np.abs(a) < SMALLEST).sum() for a in net.params["conv1"]) < lost / 2


def test_the_largest_of_what_a_sum_ties_counts():
    """What a branch adds may be small: the sum has head-room all the same."""
    net, batches = NETS_WITH_ROOM["residual"](), pictures()
    for name, factor in (("scale1", 2.0**14), ("scale3", 2.0**2)):
        for array in net.params[name]:
            array *= np.float32(factor)
    net.params["conv2"][0][...] *= np.float32(2.0**-14)
    net.params["ip"][0][...] *= np.float32(2.0**-14)
    result = caffeinit.rescale(net, batches, mode="fp16")
    (stream,) = (u for u in result.units if u.name == "scale1")
    assert stream.done == "given head-room"
    assert stream.after.max_abs <= 16 * np.sqrt(2)


def test_sums_of_statistics_count_as_what_is_used_of_them():
    """Caffe stores a mean as a sum, and how much was added up beside it; whoever converts the net divides first."""
    told = []
    for added_up in (1.0, 999.0):
        net = NETS_WITH_ROOM["residual"]()
        (unit, *_) = (u for u in net.units if u.kind == "norm" and u.factor is not None)
        unit.mean[...] = np.linspace(-300, 300, len(unit.mean), dtype=np.float32) * np.float32(added_up)
        unit.variance[...] = np.float32(2 * added_up)
        unit.factor[...] = added_up
        result = caffeinit.rescale(net, pictures(), mode="fp16")
        told.append([note for note in result.notes if "largest" in note] + [u.done for u in result.units])
    assert any("largest weight as it is: 300 in" in note or "largest weight before: 300 in" in note for note in told[0])
    assert told[0] == told[1]
