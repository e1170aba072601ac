"""After normalising, every channel has mean beta and deviation 1, measured again by a plain forward."""

import numpy as np
import pytest

import caffeinit
from caffeinit.arithmetic.moments import Moments
from caffeinit.engine.session import Settings, compile_graph
from caffeinit.errors import WeightsError
from caffeinit.methods.within import normalize
from tests.nets import NETS, NetBuilder, batch_statistics, pictures


def measured(net, batches):
    values = {use.output: (unit, use) for unit in net.units for use in unit.uses}
    session = compile_graph(net.graph, list(values), Settings(threads=1))
    found = {v: Moments(unit.num_channels) for v, (unit, _) in values.items()}
    for batch in batches:
        for value, array in session.run(batch).items():
            found[value].update(array, values[value][1].axis)
    return {values[v][0].name: m for v, m in found.items()}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("beta", [0.1, -1.0])
def test_every_channel_has_mean_beta_and_deviation_one(name, beta):
    net, batches = NETS[name](), pictures()
    reports, _ = normalize(net, batches, beta=beta)
    again = measured(net, batches)
    for unit, report in zip(net.units, reports, strict=True):
        assert report.done
        np.testing.assert_allclose(again[unit.name].std, 1, atol=1e-3)
        if unit.bias is not None:
            np.testing.assert_allclose(again[unit.name].mean, beta, atol=1e-3)
        # What the report says is what a plain forward finds.
        np.testing.assert_allclose(report.after.channel_means, again[unit.name].mean, atol=1e-4)
        np.testing.assert_allclose(report.after.channel_stds, again[unit.name].std, atol=1e-4)


def test_the_cut_into_batches_moves_the_weights_by_rounding_only():
    one, other = NETS["inception"](), NETS["inception"]()
    normalize(one, pictures(batch=12))
    normalize(other, pictures(batch=5))
    for layer, arrays in one.params.items():
        for a, b in zip(arrays, other.params[layer], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_statistics_of_a_batch_stay_those_of_the_batch():
    """Small inputs of products are merged over all batches, which would make one batch of them all."""
    net = batch_statistics()
    batches = [{"data": scale * batch["data"]} for scale, batch in zip((1, 3, 9), pictures(batch=4), strict=True)]
    normalize(net, batches)
    np.testing.assert_allclose(measured(net, batches)["ip2"].std, 1, rtol=1e-5)


def test_a_dead_channel_is_left_as_it_is():
    net, batches = NETS["chain"](), pictures()
    net.params["conv1"][0][3] = 0
    bias = net.params["conv1"][1][3].copy()
    reports, _ = normalize(net, batches)
    assert reports[0].dead == [3]
    assert not net.params["conv1"][0][3].any()
    assert net.params["conv1"][1][3] == bias
    assert all(np.isfinite(a).all() for arrays in net.params.values() for a in arrays)


def test_a_unit_that_is_not_chosen_keeps_its_bytes():
    net, batches = NETS["chain"](), pictures()
    before = [a.copy() for a in net.params["conv2"]]
    reports, _ = normalize(net, batches, chosen=lambda u: "not named" if u.name == "conv2" else "")
    assert [r.reason for r in reports] == ["", "not named", "", ""]
    for a, b in zip(before, net.params["conv2"], strict=True):
        np.testing.assert_array_equal(a, b)


def test_shared_weights_are_one_unit_over_all_its_uses():
    b = NetBuilder()
    x = b.conv("data", "conv1", 6)
    weight, bias = "conv1/param0", "conv1/param1"
    flipped = b.graph.op("Neg", "data")
    y = b.graph.op("Conv", b.relu(flipped), weight, bias, kernel_shape=[3, 3], pads=[1] * 4)
    net = b.finish(b.graph.op("Concat", x, y, axis=1))
    assert [len(u.uses) for u in net.units] == [2]
    normalize(net, pictures(), beta=0.1)
    session = compile_graph(net.graph, [x, y], Settings(threads=1))
    pooled = Moments(6)
    for batch in pictures():
        for array in session.run(batch).values():
            pooled.update(array)
    np.testing.assert_allclose(pooled.std, 1, atol=1e-3)
    np.testing.assert_allclose(pooled.mean, 0.1, atol=1e-3)


def test_weights_used_again_on_their_own_output_are_left_alone():
    b = NetBuilder(shape=(4, 3, 8, 8))
    x = b.relu(b.conv("data", "conv1", 3))
    y = b.graph.op("Conv", x, "conv1/param0", "conv1/param1", kernel_shape=[3, 3], pads=[1] * 4)
    net = b.finish(y)
    before = net.params["conv1"][0].copy()
    reports, _ = normalize(net, pictures(shape=(3, 8, 8)))
    assert "used again" in reports[0].reason
    np.testing.assert_array_equal(before, net.params["conv1"][0])


@pytest.mark.parametrize("named", [True, False])
def test_what_shares_an_array_with_a_unit_left_alone_before_it_is_left_alone(named):
    """Its bias would be shifted for both, below what the units between were measured with."""
    b = NetBuilder(shape=(4, 3, 8, 8))
    x = b.relu(b.conv("data", "conv1", 3))
    if not named:
        x = b.relu(b.graph.op("Conv", x, "conv1/param0", "conv1/param1", kernel_shape=[3, 3], pads=[1] * 4))
    x = b.relu(b.conv(x, "conv2", 3))
    weight = b.array("conv3", 0, (3, 3, 3, 3))
    net = b.finish(b.graph.op("Conv", x, weight, "conv1/param1", name="conv3", kernel_shape=[3, 3], pads=[1] * 4))
    batches = pictures(shape=(3, 8, 8))
    reports, _ = normalize(net, batches, chosen=lambda u: "not named" if named and u.name == "conv1" else "")
    assert [bool(r.done) for r in reports] == [False, True, False]
    assert reports[2].reason == "its bias is also that of conv1, which stays as it is"
    found = measured(net, batches)["conv2"]
    np.testing.assert_allclose(found.std, 1, atol=1e-3)
    np.testing.assert_allclose(found.mean, 0.1, atol=1e-3)


def _twice(b, shares_bias=False):
    """Return conv1 on the data, and on what is behind conv2, which has its weight but not its bias."""
    x = b.conv("data", "conv1", 3)
    settings = {"kernel_shape": [3, 3], "pads": [1] * 4}
    y = b.graph.op("Conv", "data", "conv1/param0", b.array("conv2", 0, (3,), "bias"), name="conv2", **settings)
    y = b.graph.op("Sigmoid", y)
    if shares_bias:
        y = b.graph.op("Conv", y, "conv1/param0", "conv1/param1", name="again", **settings)
    return x, y


@pytest.mark.parametrize("named", [True, False])
def test_what_reads_a_weight_beside_the_unit_that_it_is_normalised_with_runs_after_that(named):
    """Else what is behind it would be measured with the weight as it was."""
    b = NetBuilder(shape=(4, 3, 8, 8))
    x, y = _twice(b)
    net = b.finish(b.conv(y, "last", 4), x)
    batches = pictures(shape=(3, 8, 8))
    reports, _ = normalize(net, batches, chosen=lambda u: "" if named or u.name != "conv2" else "not named")
    assert [bool(r.done) for r in reports] == [True, False, True]
    np.testing.assert_allclose(measured(net, batches)["last"].std, 1, atol=1e-3)


def test_what_is_used_again_behind_a_unit_with_its_weight_is_left_alone():
    b = NetBuilder(shape=(4, 3, 8, 8))
    x, y = _twice(b, shares_bias=True)
    net = b.finish(b.conv(y, "last", 4), x)
    batches = pictures(shape=(3, 8, 8))
    reports, _ = normalize(net, batches)
    assert [r.reason for r in reports] == [
        "one of its uses depends on conv1 (conv2), which shares an array with it",
        "its weight is also that of conv1, which stays as it is",
        "",
    ]
    np.testing.assert_allclose(measured(net, batches)["last"].std, 1, atol=1e-3)


def _also_averaged(looped):
    """Return a net in which the average of conv1's weight is a factor of what conv1, or conv2, reads."""
    b = NetBuilder()
    weight = b.array("conv1", 0, (4, 3, 1, 1))
    factor = b.graph.op("ReduceMean", b.graph.op("Abs", weight))
    scaled = b.graph.op("Mul", "data", factor)
    x = b.graph.op("Conv", scaled if looped else "data", weight, name="conv1", kernel_shape=[1, 1])
    y = b.conv("data" if looped else scaled, "conv2", 4)
    return b.finish(b.conv(b.graph.op("Tanh", b.graph.op("Add", x, y)), "last", 4))


@pytest.mark.parametrize("looped", [False, True])
@pytest.mark.parametrize("method", ["gaussian", "pca"])
def test_what_is_made_of_a_weight_in_another_way_is_measured_once_that_is_corrected(method, looped):
    """Where the unit's own input is made of it so, the unit is left alone: its factor would change what it reads."""
    net, batches = _also_averaged(looped), pictures()
    result = caffeinit.init(net, batches, method=method, balanced=False)
    again = measured(net, batches)
    for report in result.units:
        if report.after:
            np.testing.assert_allclose(report.after.channel_stds, again[report.name].std, rtol=1e-3)
    reasons = [r.reason for r in result.units]
    assert reasons == ["what it reads is made of its own arrays, which are read in another way there" * looped, "", ""]


def test_units_whose_uses_wait_for_each_other_are_not_both_normalised():
    b = NetBuilder()
    arrays = [b.array(name, 0, (3, 3, 1, 1)) for name in ("first", "second")]
    tops = []
    for order in (arrays, arrays[::-1]):
        x = "data"
        for weight in order:
            x = b.graph.op("Tanh", b.graph.op("Conv", x, weight, kernel_shape=[1, 1]))
        tops.append(x)
    net, batches = b.finish(b.conv(b.graph.op("Add", *tops), "last", 4)), pictures()
    reports, _ = normalize(net, batches)
    assert [r.reason for r in reports] == [
        "",
        "one of its uses depends on another by way of others that are used several times",
        "",
    ]
    np.testing.assert_allclose(measured(net, batches)["last"].std, 1, atol=1e-3)


@pytest.mark.parametrize("method", ["gaussian", "pca", "kmeans"])
def test_what_follows_weights_that_read_their_own_result_is_normalised_with_the_drawn_ones(method):
    b = NetBuilder()
    weight, bias = b.array("conv", 0, (3, 3, 3, 3)), b.array("conv", 1, (3,), "bias")
    x = "data"
    for number in range(2):
        x = b.relu(b.graph.op("Conv", x, weight, bias, name=f"conv{number}", kernel_shape=[3, 3], pads=[1] * 4))
    net, batches = b.finish(b.product(x, "ip", 4)), pictures()
    result = caffeinit.init(net, batches, method=method, balanced=False)
    again = measured(net, batches)["ip"]
    np.testing.assert_allclose(again.std, 1, atol=1e-3)
    np.testing.assert_allclose(result.units[-1].after.channel_stds, again.std, atol=1e-4)


def test_a_batch_normalisation_with_a_shift_has_the_mean_aimed_at():
    b = NetBuilder()
    x = b.conv("data", "conv", 4, bias=False)
    roles = ("weight", "bias", "mean", "variance")
    arrays = [b.array("bn", i, (4,), role, np.full(4, 1.0 + i)) for i, role in enumerate(roles)]
    net, batches = b.finish(b.graph.op("BatchNormalization", x, *arrays, epsilon=1e-5, name="bn")), pictures()
    reports, _ = normalize(net, batches, beta=0.3)
    again = measured(net, batches)["bn"]
    np.testing.assert_allclose(again.mean, 0.3, atol=1e-3)
    np.testing.assert_allclose(again.std, 1, atol=1e-3)
    np.testing.assert_allclose(reports[-1].after.channel_means, again.mean, atol=1e-4)


def test_weights_that_are_not_finite_are_refused():
    net = NETS["chain"]()
    net.params["conv2"][0][0, 0, 0, 0] = np.nan
    with pytest.raises(WeightsError, match="conv2"):
        normalize(net, pictures())


def test_patches_come_from_behind_a_relu_that_the_correction_takes_along():
    builder = NetBuilder()
    net = builder.finish(builder.conv(builder.relu(builder.conv("data", "conv1", 6)), "conv2", 5))
    batches = pictures()
    caffeinit.init(net, batches, method="pca", balanced=False)
    # Principal directions of what conv2 reads: its outputs are not correlated.
    out = np.concatenate([net.forward(b, blobs=net.graph.outputs)[net.graph.outputs[0]] for b in batches])
    inside = out[:, :, 1:-1, 1:-1].transpose(1, 0, 2, 3).reshape(5, -1)
    correlation = np.corrcoef(inside)
    assert np.abs(correlation - np.eye(5)).max() < 0.3
    assert all(net.params["conv2"][0].reshape(5, -1).any(axis=1))


# Factors and shifts along another axis than the channels of the unit before: as many as these, or not.
@pytest.mark.parametrize("size", [5, 7])
@pytest.mark.parametrize("kind", ["Scale", "Bias"])
def test_a_unit_along_another_axis_does_not_follow_from_the_channels_of_the_one_before(tmp_path, kind, size):
    path = tmp_path / "net.prototxt"
    path.write_text(f"""
        layer {{ name: "d" type: "Input" top: "d" input_param {{ shape {{ dim: 4 dim: 3 dim: {size} dim: 6 }} }} }}
        layer {{ name: "c" type: "Convolution" bottom: "d" top: "c" convolution_param {{ num_output: 5 kernel_size: 1 }} }}
        layer {{ name: "s" type: "{kind}" bottom: "c" top: "s" {kind.lower()}_param {{ axis: 2 }} }}
    """)
    net = caffeinit.load(path)
    batches = [{"d": np.random.default_rng(3).standard_normal((9, 3, size, 6)).astype("f4")}]
    found = caffeinit.init(net, batches, balanced=False)
    again = measured(net, batches)
    for unit in found.units:
        np.testing.assert_allclose(unit.after.channel_stds, again[unit.name].std, rtol=1e-3)
    np.testing.assert_allclose(again["c"].std, 1, atol=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        """
        layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
        layer { name: "alone" type: "LRN" bottom: "t" top: "u" }
        """,
        """
        layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 2 dim: 4 } } }
        layer { name: "a" type: "InnerProduct" bottom: "p" top: "a" param { name: "w" }
                inner_product_param { num_output: 3 } }
        layer { name: "b" type: "InnerProduct" bottom: "p" top: "b" param { name: "w" }
                inner_product_param { num_output: 3 } }
        """,
    ],
    ids=["a curve of an input that no weights read", "weights that share an array and read no picture"],
)
def test_what_pictures_do_not_reach_stops_nothing(tmp_path, text):
    path = tmp_path / "net.prototxt"
    path.write_text(
        """
        layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
        layer { name: "c" type: "Convolution" bottom: "d" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }
        layer { name: "lrn" type: "LRN" bottom: "c" top: "n" }
        """
        + text
    )
    net = caffeinit.load(path)
    found = caffeinit.init(net, np.random.default_rng(3).standard_normal((8, 3, 6, 6)).astype("f4"))
    assert next(unit for unit in found.units if unit.name == "c").done


@pytest.mark.parametrize("method", ["gaussian", "pca"])
@pytest.mark.parametrize("kind", ["Scale", "BatchNorm"])
def test_what_follows_one_of_several_uses_has_the_moments_of_that_use(tmp_path, kind, method):
    path = tmp_path / "net.prototxt"
    path.write_text(f"""
        layer {{ name: "d" type: "Input" top: "d" input_param {{ shape {{ dim: 4 dim: 3 dim: 7 dim: 6 }} }} }}
        layer {{ name: "s" type: "Sigmoid" bottom: "d" top: "s" }}
        layer {{ name: "c" type: "Convolution" bottom: "d" bottom: "s" top: "c" top: "e"
                convolution_param {{ num_output: 5 kernel_size: 2 }} }}
        layer {{ name: "f" type: "{kind}" bottom: "e" top: "f" }}
    """)
    net = caffeinit.load(path)
    batches = [{"d": np.random.default_rng(3).standard_normal((40, 3, 7, 6)).astype("f4")}]
    found = caffeinit.init(net, batches, method=method, balanced=False)
    again = measured(net, batches)["f"]
    told = next(unit for unit in found.units if unit.name == "f")
    if kind == "Scale" or method == "gaussian":
        np.testing.assert_allclose(again.std, 1, atol=2e-2)
        np.testing.assert_allclose(told.after.channel_stds, again.std, rtol=1e-3)
    else:
        assert "kept" in told.reason
