"""What measure finds: statistics as numpy computes them, rates that count, and plain words where there are none."""

import json

import numpy as np
import pytest

import caffeinit
from caffeinit.engine.session import compile_graph
from caffeinit.errors import CaffeinitError, ImagesError, OptionError
from caffeinit.statistics import forward
from caffeinit.statistics.rates import RateProbe
from tests.nets import NETS, NetBuilder, pictures

FIELDS = {
    *("name", "type", "out_mean", "out_std", "out_cvar", "rate", "rate_cvar"),
    *("dead_channels", "num_channels", "max_abs"),
}


def by_name(found):
    return {unit.name: unit for unit in found.units}


def outputs_of(net, batches):
    """Unit name -> its output over all pictures, channels first, (C, values)."""
    uses = {unit.name: unit.uses[0] for unit in net.units}
    session = compile_graph(net.graph, [use.output for use in uses.values()], net.settings)
    runs = [session.run(batch) for batch in batches]
    whole = {name: np.concatenate([run[use.output] for run in runs]) for name, use in uses.items()}
    return {n: np.moveaxis(a, uses[n].axis, 0).reshape(a.shape[uses[n].axis], -1) for n, a in whole.items()}


@pytest.mark.parametrize("piece_bytes", [forward.PIECE_BYTES, 1])
@pytest.mark.parametrize("name", NETS)
def test_statistics_are_those_of_all_pictures_however_they_are_cut(name, piece_bytes, monkeypatch):
    for limit in ("PIECE_BYTES", "STREAMED_BYTES"):
        monkeypatch.setattr(forward, limit, piece_bytes)
    net, batches = NETS[name](), pictures()
    before = {layer: [a.copy() for a in arrays] for layer, arrays in net.params.items()}
    found = caffeinit.measure(net, batches)
    assert found.num_images == 12
    for unit_name, values in outputs_of(net, batches).items():
        entry = by_name(found)[unit_name].to_json()
        stds = values.std(1, dtype=np.float64)
        assert set(entry) == FIELDS
        # Single precision within a picture, double beyond it.
        assert entry["out_mean"] == pytest.approx(values.mean(1, dtype=np.float64).mean(), rel=1e-5, abs=1e-6)
        assert entry["out_std"] == pytest.approx(stds.mean(), rel=1e-5)
        assert entry["out_cvar"] == pytest.approx(stds.std() / stds.mean(), rel=1e-4)
        assert entry["max_abs"] == pytest.approx(np.abs(values).max(), rel=1e-6)
        assert entry["num_channels"] == len(values)
    for layer, arrays in before.items():
        for old, new in zip(arrays, net.params[layer], strict=True):
            np.testing.assert_array_equal(old, new)


def test_rates_are_those_of_the_first_batches():
    net, batches = NETS["inception"](), pictures()
    for count in (1, 2):
        found = caffeinit.measure(net, batches, rate_batches=count, seed=3)
        wanted = RateProbe(net, batches[:count], 3).measure()
        assert found.num_rate_images == 4 * count
        for unit, entry in zip(net.units, found.units, strict=True):
            assert entry.rate == wanted[unit.initializers[0]].rate
            assert entry.rate_cvar == wanted[unit.initializers[0]].rate_cvar


def test_rates_are_those_of_sixteen_pictures_however_they_are_cut():
    net = NETS["inception"]()
    found = [caffeinit.measure(net, pictures(num=20, batch=size)) for size in (4, 7, 16)]
    assert {f.num_rate_images for f in found} == {16}
    wanted = RateProbe(net, pictures(num=16, batch=16)).measure()
    for one in found:
        for unit, entry in zip(net.units, one.units, strict=True):
            assert entry.rate == pytest.approx(wanted[unit.key].rate, rel=1e-5)


def test_a_net_that_spells_its_batch_out_has_its_rates_of_sixteen_pictures():
    net = NETS["inception"]()
    net.graph.batch_axis_free = False
    assert caffeinit.measure(net, pictures(num=20, batch=4)).num_rate_images == 16


def test_the_spread_is_the_largest_distance_from_the_mean_rate():
    found = caffeinit.measure(NETS["residual"](), pictures())
    logs = np.log([u.rate for u in found.units if u.kind == "affine"])
    assert found.rate_spread == pytest.approx(np.abs(logs - logs.mean()).max(), rel=1e-12)
    assert all(np.isnan(u.rate) and not u.reason for u in found.units if u.kind != "affine")


def test_scaling_a_unit_by_r_with_the_function_held_divides_its_rate_by_the_square():
    net, batches = NETS["chain"](), pictures()
    before = by_name(caffeinit.measure(net, batches))
    for array in net.params["ip1"]:
        array *= 8
    net.params["ip2"][0][...] /= 8
    after = by_name(caffeinit.measure(net, batches))
    assert after["ip1"].rate == pytest.approx(before["ip1"].rate / 64, rel=1e-6)
    assert after["ip2"].rate == pytest.approx(before["ip2"].rate * 64, rel=1e-6)
    assert after["conv1"].rate == pytest.approx(before["conv1"].rate, rel=1e-6)
    assert after["ip1"].stats.std == pytest.approx(8 * before["ip1"].stats.std, rel=1e-6)


def test_a_frozen_unit_does_not_count():
    net, batches = NETS["chain"](), pictures()
    whole = caffeinit.measure(net, batches)
    slowest = min(whole.units, key=lambda u: u.rate).name
    next(u for u in net.units if u.name == slowest).frozen = True
    found = caffeinit.measure(net, batches)
    assert by_name(found)[slowest].rate == by_name(whole)[slowest].rate
    assert found.to_json()["frozen"] == [slowest]
    logs = np.log([u.rate for u in whole.units if u.name != slowest])
    assert found.rate_spread == pytest.approx(np.abs(logs - logs.mean()).max(), rel=1e-12)


def test_an_all_zero_layer_is_named_and_what_it_cuts_off_too():
    net = NETS["chain"]()
    net.params["ip1"][0][...] = 0
    net.params["ip1"][1][...] = -1
    found = caffeinit.measure(net, pictures())
    reasons = found.to_json()["without_rate"]
    assert reasons["ip1"] == "its weights are all zero"
    # Behind a ReLU that passes nothing on, and in front of it.
    for name in ("conv1", "conv2", "ip2"):
        assert reasons[name] == "no gradient reaches it on these pictures"
    assert by_name(found)["ip1"].dead == 20
    assert found.to_json()["rate_spread"] is None


def test_values_that_are_not_finite_are_named_and_json_stays_valid():
    net = NETS["chain"]()
    net.params["conv2"][0][0] = np.nan
    report = caffeinit.measure(net, pictures()).to_json()
    assert report["not_finite"] == ["conv2", "ip1", "ip2"]
    assert report["without_rate"]["conv2"] == "its weights are not all finite"
    assert "not finite" in report["without_rate"]["ip1"]
    units = {u["name"]: u for u in report["units"]}
    assert units["conv2"]["out_mean"] is units["conv2"]["max_abs"] is None
    assert units["conv2"]["dead_channels"] == 0
    assert units["conv1"]["out_std"] > 0
    json.dumps(report, allow_nan=False)


def test_a_unit_that_no_output_depends_on_has_its_reason():
    b = NetBuilder()
    b.conv("data", "aside", 3)
    net = b.finish(b.product(b.conv("data", "conv", 4), "ip", 2))
    found = caffeinit.measure(net, pictures())
    assert found.to_json()["without_rate"] == {"aside": "nothing that the net puts out depends on it"}


def test_an_output_that_needs_an_input_beside_those_of_the_units_gives_rates_with_it():
    b = NetBuilder()
    x = b.product(b.conv("data", "conv", 4), "ip", 2)
    b.graph.add_input("label", (4, 2))
    net = b.finish(b.graph.op("Sub", x, "label"))
    found = caffeinit.measure(net, [batch | {"label": np.zeros((4, 2))} for batch in pictures()])
    assert not found.to_json()["without_rate"]
    assert all(unit["rate"] > 0 for unit in found.to_json()["units"])


def test_rates_can_be_left_out():
    report = caffeinit.measure(NETS["chain"](), pictures(), rate_batches=0).to_json()
    assert report["num_rate_images"] == 0
    assert report["without_rate"] == {}
    assert all(u["rate"] is None for u in report["units"])


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(OptionError, match="at least 0"):
        caffeinit.measure(NETS["chain"](), pictures(), rate_batches=-1)
    with pytest.raises(ImagesError):
        caffeinit.measure(NETS["chain"](), np.ones((2, 1, 12, 10), np.float32))
    b = NetBuilder()
    with pytest.raises(CaffeinitError, match="no layer that could be measured"):
        caffeinit.measure(b.finish(b.relu("data")), pictures())


def test_dead_channels_count_in_deviation_and_variation_alike():
    net = NETS["chain"]()
    net.params["conv1"][0][:2] = 0
    outputs = net.forward({"data": np.concatenate([b["data"] for b in pictures()])}, [net.units[0].uses[0].output])
    stds = next(iter(outputs.values())).std(axis=(0, 2, 3), dtype=np.float64)
    for stats in (
        caffeinit.measure(net, pictures()).units[0].stats,
        caffeinit.rescale(net, pictures()).units[0].before,
    ):
        assert stats.std == pytest.approx(stds.mean(), rel=1e-5)
        assert stats.out_cvar == pytest.approx(stds.std() / stds.mean(), rel=1e-5)
        assert stats.out_cvar > 0.5
    net.params["conv1"][0][...] = 0
    net.params["conv1"][1][...] = 0
    assert np.isnan(caffeinit.measure(net, pictures()).units[0].stats.out_cvar)


def test_batches_whose_inputs_differ_in_rows_go_through_whole(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text("""
        layer { name: "x" type: "Input" top: "x" top: "i" input_param { shape { dim: 2 dim: 6 } shape { dim: 5 } } }
        layer { name: "pick" type: "BatchReindex" bottom: "x" bottom: "i" top: "r" }
        layer { name: "ip" type: "InnerProduct" bottom: "r" top: "y" inner_product_param { num_output: 3 } }
    """)
    rng = np.random.default_rng(1)
    net = caffeinit.load(path)
    net.params["ip"][0][...] = rng.standard_normal((3, 6))
    batches = [
        {"x": rng.standard_normal((2, 6), np.float32), "i": np.asarray(rows, np.float32)}
        for rows in ([0, 1, 1, 0, 1], [1, 0, 0, 0, 0])
    ]
    (unit,) = caffeinit.measure(net, batches).units
    rows = np.concatenate([b["x"][b["i"].astype(int)] for b in batches])
    np.testing.assert_allclose(unit.stats.channel_stds, (rows @ net.params["ip"][0].T).std(0), rtol=1e-5)
    assert unit.rate > 0


def test_units_that_read_no_picture_are_measured(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text("""
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 6 } } }
        layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 4 dim: 3 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "p" top: "q" inner_product_param { num_output: 2 } }
        layer { name: "a" type: "AbsVal" bottom: "x" top: "a" }
    """)
    net = caffeinit.load(path)
    for arrays in net.params.values():
        for array in arrays:
            array[...] = np.random.default_rng(2).standard_normal(array.shape)
    (unit,) = caffeinit.measure(net, np.ones((4, 6), np.float32)).units
    wanted = net.params["p"][0] @ net.params["ip"][0].T
    np.testing.assert_allclose(unit.stats.channel_stds, wanted.std(0), rtol=1e-5)
