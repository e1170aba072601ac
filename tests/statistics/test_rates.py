"""Rates of change: what the paper defines, computed picture by picture."""

import numpy as np
import pytest

import caffeinit
from caffeinit.engine.device import Device
from caffeinit.engine.session import Settings
from caffeinit.errors import CaffeinitError
from caffeinit.statistics.rates import RateProbe, rate_spread
from tests.nets import NETS, NetBuilder, pictures


def windows(seed=0):
    """Kernels that start at every other place, with holes, at unlike edges, of one channel each, and turned round."""
    b = NetBuilder(seed=seed)
    x = b.relu(b.conv("data", "strided", 6, kernel=5, pad=1, stride=2))
    weight = b.array("holes", 0, (4, 6, 3, 2))
    x = b.graph.op("Conv", x, weight, name="holes", kernel_shape=[3, 2], dilations=[2, 1], pads=[2, 0, 1, 2])
    x = b.relu(b.conv(x, "wise", 8, group=4))
    weight = b.array("turned", 0, (8, 3, 3, 3))
    x = b.graph.op(
        "ConvTranspose", x, weight, name="turned", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 0, 1], group=2
    )
    return b.finish(b.product(b.relu(x), "ip", 3))


def twice(seed=0):
    """One weight in two places, and a product of the rows of each picture."""
    b = NetBuilder(seed=seed)
    x = b.relu(b.conv("data", "deep", 6))
    weight, bias = b.array("twice", 0, (6, 6, 3, 3)), b.array("twice", 1, (6,), "bias")
    for name in ("first", "second"):
        x = b.relu(b.graph.op("Conv", x, weight, bias, name=name, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    rows = b.graph.op("Transpose", b.graph.reshape(x, [4, 6, 120]), perm=[0, 2, 1])
    return b.finish(b.graph.op("MatMul", rows, b.array("rows", 0, (6, 5)), name="rows"))


def single(seed=0):
    """One layer, which reads the pictures and gets the noise: no value has to be computed."""
    b = NetBuilder(seed=seed)
    return b.finish(b.conv("data", "only", 4))


ALL = {**NETS, "windows": windows, "twice": twice, "single": single}


def squared_gradients(net, probe):
    """Return unit name -> squares of the gradient of its weight, each picture's by itself, added up."""
    sums: dict[str, np.ndarray] = {}
    for batch, noise in zip(probe.batches, probe._noise, strict=True):
        for at in range(len(batch["data"])):
            diffs = {head: noise[probe._diffs[head]][at : at + 1] for head in probe.heads}
            found = net.backward({"data": batch["data"][at : at + 1]}, diffs).params
            for unit in net.units:
                if unit.kind == "affine":
                    sums[unit.name] = sums.get(unit.name, 0) + found[unit.name][0].astype(float) ** 2
    return sums


@pytest.mark.parametrize("name", ALL)
def test_rates_are_the_roots_of_squared_gradients_over_squared_weights(name):
    net, batches = ALL[name](), pictures()
    probe = RateProbe(net, batches[:2])
    rates, sums = probe.measure(), squared_gradients(net, probe)
    assert sums
    for unit in net.units:
        if unit.kind == "affine":
            weights = net.params[unit.name][0].astype(float)
            rate = np.sqrt(sums[unit.name].sum() / 8 / (weights**2).sum())
            np.testing.assert_allclose(rates[unit.key].rate, rate, rtol=1e-5)


def test_column_rates_are_those_of_the_weights_that_read_one_channel():
    net, batches = NETS["inception"](), pictures()
    probe = RateProbe(net, batches[:1])
    rates, sums = probe.measure(), squared_gradients(net, probe)
    weights = net.params["last"][0].astype(float)
    expected = np.sqrt(sums["last"].sum((0, 2, 3)) / 4 / (weights**2).sum((0, 2, 3)))
    found = rates[net.units[4].initializers[0]]
    assert net.units[4].name == "last"
    np.testing.assert_allclose(found.column_rates, expected, rtol=1e-5)
    alive = expected[expected > 0]
    np.testing.assert_allclose(found.rate_cvar, alive.std() / alive.mean(), rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_the_cut_of_the_pictures_into_batches_does_not_show(name):
    net = ALL[name]()
    found = [RateProbe(net, pictures(num=12, batch=size)).measure() for size in (12, 5, 1)]
    for key, rates in found[0].items():
        for other in found[1:]:
            np.testing.assert_allclose(other[key].rate, rates.rate, rtol=1e-5)
            np.testing.assert_allclose(other[key].column_rates, rates.column_rates, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_rates_are_the_same_where_values_live_on_a_device(name):
    net = ALL[name]()
    found = []
    for is_resident in (False, True):
        net.settings = Settings(1, Device(resident=is_resident))
        found.append(RateProbe(net, pictures()).measure())
    for key, rates in found[0].items():
        np.testing.assert_allclose(found[1][key].rate, rates.rate, rtol=1e-5)
        np.testing.assert_allclose(found[1][key].column_rates, rates.column_rates, rtol=1e-4)


@pytest.mark.parametrize("power", [-90, 80])
def test_gradients_whose_squares_leave_single_precision_have_rates(power):
    net = ALL["twice"]()
    plain = RateProbe(net, pictures()).measure()
    net.params["rows"][0][...] *= 2.0**power
    found = RateProbe(net, pictures()).measure()
    for unit in net.units:
        shift = -power if unit.name == "rows" else power
        np.testing.assert_allclose(found[unit.key].rate, plain[unit.key].rate * 2.0**shift, rtol=1e-5)


def test_the_same_pictures_and_noise_give_the_same_rates():
    net = NETS["residual"]()
    one, other = (RateProbe(net, pictures()[:1]).measure() for _ in range(2))
    assert {k: r.rate for k, r in one.items()} == {k: r.rate for k, r in other.items()}


def test_a_unit_without_weights_or_gradient_has_no_rate():
    net = NETS["chain"]()
    net.params["ip2"][0][...] = 0
    found = RateProbe(net, pictures()[:1]).measure()
    rates = {unit.name: found[unit.initializers[0]] for unit in net.units}
    assert np.isinf(rates["ip2"].rate)
    assert rates["conv1"].rate == 0
    assert not rates["conv1"].is_measured
    assert not rates["ip2"].is_measured


def test_a_net_without_an_output_that_weights_decide_is_refused():
    builder = NetBuilder()
    builder.conv("data", "conv1", 3)
    net = builder.finish(builder.relu("data"))
    with pytest.raises(CaffeinitError, match="no rates"):
        RateProbe(net, pictures()[:1]).measure()


def test_a_net_of_factors_alone_has_no_rates_and_nothing_is_run_for_them():
    builder = NetBuilder()
    net = builder.finish(builder.graph.op("Mul", "data", builder.array("scale", 0, (3, 1, 1), "scale")))
    assert [unit.kind for unit in net.units] == ["channel"]
    with pytest.raises(CaffeinitError, match="no convolution and no product of matrices with weights"):
        RateProbe(net, pictures()[:1])


def test_where_no_gradient_comes_through_the_reason_is_told():
    builder = NetBuilder()
    x = builder.conv("data", "conv1", 3)
    y = builder.graph.op("MaxRoiPool", x, np.float32([[0, 0, 0, 3, 3]]), pooled_shape=[2, 2])
    net = builder.finish(y)
    with pytest.raises(CaffeinitError, match=r"no gradient reaches weights: there is no gradient through MaxRoiPool"):
        RateProbe(net, pictures()[:1])


def chosen(how, behind):
    """Return a net that keeps those rows of its second convolution, places as rows, that this one is positive at."""
    b = NetBuilder()
    x = b.conv(b.relu(b.conv("data", "conv1", 5)), "conv2", 3)
    rows = b.graph.op("Reshape", b.graph.op("Transpose", x, perm=[0, 2, 3, 1]), [-1, 3], name="rows")
    keep = b.graph.op("Greater", b.graph.op("Reshape", b.graph.op("Slice", rows, [0], [1], [1]), [-1]), 0.0)
    if how == "Compress":
        x = b.graph.op("Compress", rows, keep, axis=0)
    else:
        x = b.graph.op("GatherND", rows, b.graph.op("Transpose", b.graph.op("NonZero", keep)))
    if behind:
        x = b.graph.op("MatMul", x, b.array("behind", 0, (3, 2)))
    net = b.finish(x)
    net.graph.batch_axis_free = False
    return net


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("how", ["Compress", "GatherND"])
def test_of_values_that_the_data_choose_the_rates_are_those_of_what_they_are_chosen_from(how, behind):
    x = pictures(4)[0]["data"]
    net = chosen(how, behind)
    probe = RateProbe(net, [{"data": x}])
    found = probe.measure()
    assert probe.heads == ["rows"]
    net.graph.outputs = ["rows"]
    expected = RateProbe(net, [{"data": x}]).measure()
    for unit in net.units[:2]:
        assert found[unit.key].rate == expected[unit.key].rate > 0
    assert list(probe.unreached.values()) == ["it stands behind what rates are taken on (rows)"] * behind


def test_rates_come_through_what_the_data_choose_where_the_output_s_shape_is_known():
    """Keeping all rows whose largest number is the largest of all changes nothing about the largest number."""
    x = pictures(4)[0]["data"]

    def measured(keeps):
        b = NetBuilder()
        y = b.conv(b.relu(b.conv("data", "conv1", 5)), "conv2", 3)
        rows = b.graph.op("Reshape", b.graph.op("Transpose", y, perm=[0, 2, 3, 1]), [-1, 3])
        if keeps:
            tops = b.graph.op("ReduceMax", rows, axes=[1], keepdims=0)
            rows = b.graph.op("Compress", rows, b.graph.op("Greater", tops, b.graph.op("ReduceMean", tops)), axis=0)
        net = b.finish(b.graph.op("ReduceMax", rows, axes=[0, 1], keepdims=1))
        net.graph.batch_axis_free = False
        found = RateProbe(net, [{"data": x}]).measure()
        return [found[unit.key].rate for unit in net.units]

    kept, whole = measured(True), measured(False)
    assert min(whole) > 0
    assert kept == pytest.approx(whole, rel=1e-6)  # single precision


def test_the_spread_is_the_largest_distance_from_the_mean_of_logarithms():
    assert rate_spread([1.0, np.e, np.e**5]) == pytest.approx(3)
    assert rate_spread([2.0, 0.0, np.nan]) == 0


def test_frozen_units_and_losses_do_not_count(tmp_path):
    text = """
    layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } } }
    layer { name: "a" type: "Convolution" bottom: "data" top: "a" param { lr_mult: 0 } param { lr_mult: 0 }
            convolution_param { num_output: 4 kernel_size: 3 } }
    layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" inner_product_param { num_output: 3 } }
    layer { name: "prob" type: "Softmax" bottom: "b" top: "prob" }"""
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    net = caffeinit.load(path)
    x = np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype("f4")
    net.params["a"][0][...] = np.random.default_rng(1).standard_normal(net.params["a"][0].shape)
    assert RateProbe(net, [{"data": x}]).heads == ["b"]
    result = caffeinit.init(net, [x], layers=["b"])
    assert result.rate_spread == 0


def test_a_net_that_spells_a_batch_of_1_out_is_balanced_on_as_many_pictures_as_another(tmp_path):
    text = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "r" type: "ReLU" bottom: "a" top: "a" }
layer { name: "flat" type: "Reshape" bottom: "a" top: "flat" reshape_param { shape { dim: %d dim: 144 } } }
layer { name: "b" type: "InnerProduct" bottom: "flat" top: "b" inner_product_param { num_output: 5 } }"""
    values = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype("f4")
    found = []
    for rows in (0, 1):
        (tmp_path / "net.prototxt").write_text(text % rows)
        net = caffeinit.load(tmp_path / "net.prototxt")
        assert net.graph.batch_axis_free == (rows == 0)
        rng = np.random.default_rng(1)
        for arrays in net.params.values():
            for array in arrays:
                array[...] = rng.standard_normal(array.shape)
        net.missing.clear()
        caffeinit.rescale(net, np.split(values, 16))
        found.append(net.params)
    for layer, arrays in found[0].items():
        for one, other in zip(arrays, found[1][layer], strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)


def test_deviations_that_half_precision_cannot_hold_are_told():
    b = NetBuilder()
    x = "data"
    for number in range(40):  # each halves the rate of those below it, which take larger values for that
        x = b.relu(b.conv(x, f"c{number}", 4))
    net = b.finish(b.product(x, "ip", 3))
    result = caffeinit.init(net, pictures())
    stds = {unit.name: unit.after.channel_stds.max() for unit in result.units}
    told = [note for note in result.notes if "half precision ends" in note]
    assert bool(told) == (max(stds.values()) > 4096)
    assert told
    assert f"in {max(stds, key=stds.__getitem__)}:" in told[0]


@pytest.mark.parametrize(
    "rest",
    [
        'layer { name: "sum" type: "Reduction" bottom: "c" top: "sum" reduction_param { axis: 0 } }',
        'layer { name: "cut" type: "Slice" bottom: "c" top: "a" top: "b" slice_param { axis: 0 } }',
        'layer { name: "more" type: "Tile" bottom: "c" top: "more" tile_param { axis: 0 tiles: 3 } }',
    ],
    ids=["a number", "half of the pictures", "rows for three times as many"],
)
@pytest.mark.parametrize("counts", [[12], [2, 2], [4, 4, 4]])
def test_outputs_of_other_rows_than_the_pictures_have_rates(tmp_path, rest, counts):
    path = tmp_path / "net.prototxt"
    path.write_text(
        """
        layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
        layer { name: "c" type: "Convolution" bottom: "d" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }
        """
        + rest
    )
    net = caffeinit.load(path)
    rng = np.random.default_rng(1)
    batches = [{"d": rng.standard_normal((count, 3, 6, 6), np.float32)} for count in counts]
    (told,) = caffeinit.init(net, batches).units
    (unit,) = caffeinit.measure(net, batches).units
    assert unit.rate == pytest.approx(told.after.rate, rel=1e-4)
    assert caffeinit.rescale(net, batches).units


@pytest.mark.parametrize(
    "rest",
    [
        """
        layer { name: "h" type: "HardSwish" bottom: "c" top: "h" }
        layer { name: "two" type: "Concat" bottom: "c" bottom: "c" top: "two" concat_param { axis: 0 } }
        layer { name: "n" type: "BatchNorm" bottom: "d" top: "n" batch_norm_param { use_global_stats: false } }
        layer { name: "z" type: "Convolution" bottom: "n" top: "z" convolution_param { num_output: 2 kernel_size: 1 } }
        """,
        """
        layer { name: "cut" type: "Slice" bottom: "c" top: "p" top: "q" top: "r" top: "t" slice_param { axis: 0 } }
        layer { name: "z" type: "Convolution" bottom: "q" top: "z" convolution_param { num_output: 2 kernel_size: 2 } }
        """,
    ],
    ids=["twice as many rows", "a quarter of the rows"],
)
def test_what_joins_pictures_is_looked_at_on_whole_batches(tmp_path, rest):
    path = tmp_path / "net.prototxt"
    path.write_text(
        """
        layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } } }
        layer { name: "c" type: "Convolution" bottom: "d" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }
        """
        + rest
    )
    net = caffeinit.load(path)
    batches = [{"d": np.random.default_rng(1).standard_normal((12, 3, 6, 6), np.float32)}]
    told = {unit.name: unit.after.rate for unit in caffeinit.init(net, batches).units if unit.kind == "affine"}
    found = {unit.name: unit.rate for unit in caffeinit.measure(net, batches).units}
    assert all(rate > 0 for rate in told.values())
    assert {name: found[name] for name in told} == pytest.approx(told, rel=1e-4)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_rough_look_is_at_the_same_pictures_whether_they_come_one_by_one_or_together(tmp_path, count):
    """A net whose Reshape spells out a batch of one gets what the same net gets whose Reshape does not."""
    rows = np.random.default_rng(0).standard_normal((count, 3, 6, 5)).astype(np.float32)
    found = []
    for first, batches in ((0, [{"data": rows}]), (1, [{"data": row[None]} for row in rows])):
        (tmp_path / "net.prototxt").write_text(
            'input: "data" input_shape { dim: 1 dim: 3 dim: 6 dim: 5 }'
            'layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 4 '
            'kernel_size: 3 weight_filler { type: "xavier" } } }'
            'layer { name: "r" type: "Reshape" bottom: "c" top: "r" reshape_param { shape { '
            f"dim: {first} dim: -1 }} }} }}"
            'layer { name: "ip" type: "InnerProduct" bottom: "r" top: "ip" inner_product_param { num_output: 3 '
            'weight_filler { type: "xavier" } } }'
        )
        net = caffeinit.load(tmp_path / "net.prototxt")
        assert net.graph.batch_axis_free == (first == 0)
        caffeinit.init(net, rows[:1], balanced=False)
        found.append(RateProbe(net, batches).measure(rough=True))
    for key, rates in found[0].items():
        assert found[1][key].rate == pytest.approx(rates.rate, rel=1e-5)
