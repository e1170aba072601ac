"""Modes that keep the net's function: what they reach, and that they keep it."""

import numpy as np
import pytest

import caffeinit
from caffeinit.errors import CaffeinitError
from caffeinit.graph.rules import _RULES
from caffeinit.methods.halves import LARGEST
from caffeinit.methods.preserving import _refusal, _Run
from caffeinit.ops.scaling import passes
from caffeinit.proof.verify import Difference
from caffeinit.statistics.forward import measure_moments
from tests.nets import NETS, NetBuilder, pictures
from tests.onnxnets import ModelBuilder, network_of


def run(net, batches):
    return [net.graph.outputs and net.forward(batch, blobs=net.graph.outputs) for batch in batches]


@pytest.mark.parametrize("mode", ["preserve", "equalize", "balance"])
@pytest.mark.parametrize("name", NETS)
def test_the_function_is_kept(name, mode):
    net, batches = NETS[name](), pictures()
    before = run(net, batches)
    result = caffeinit.rescale(net, batches, mode=mode)
    for old, new in zip(before, run(net, batches), strict=True):
        for value in old:
            np.testing.assert_allclose(new[value], old[value], rtol=0, atol=1e-5 * np.abs(old[value]).max())
    assert any("moved by" in note for note in result.notes)


@pytest.mark.parametrize("name", NETS)
def test_preserve_makes_channels_alike_and_rates_equal(name):
    net, batches = NETS[name](), pictures()
    result = caffeinit.rescale(net, batches)
    found = measure_moments(net, batches)
    for unit, report in zip(net.units, result.units, strict=True):
        stds = found[unit.initializers[0]].std
        np.testing.assert_allclose(report.after.channel_stds, stds, rtol=1e-3)
        if report.done == "equalized":
            assert stds.std() / stds.mean() < 1e-3
    assert sum(r.done == "equalized" for r in result.units) >= 2
    assert result.rate_spread < 1e-3 < result.rate_spread_before


def test_without_balancing_preserve_is_equalize():
    one, other, batches = NETS["chain"](), NETS["chain"](), pictures()
    caffeinit.rescale(one, batches, mode="preserve", balanced=False)
    caffeinit.rescale(other, batches, mode="equalize")
    for name in one.params:
        for a, b in zip(one.params[name], other.params[name], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", ["fp16", "preserve", "equalize", "balance"])
@pytest.mark.parametrize("name", NETS)
def test_powers_of_two_change_no_bit_of_the_outputs(name, mode):
    net, batches = NETS[name](), pictures()
    net.params[next(iter(net.params))][0][...] *= 1e6  # more than half precision holds
    before, weights = run(net, batches), {k: [a.copy() for a in v] for k, v in net.params.items()}
    caffeinit.rescale(net, batches, mode=mode, powers_of_two=True)
    for old, new in zip(before, run(net, batches), strict=True):
        for value in old:
            np.testing.assert_array_equal(new[value], old[value])
    changed = 0
    for name_, arrays in net.params.items():
        for old, new in zip(weights[name_], arrays, strict=True):
            ratio = np.log2((new / old)[old != 0])
            np.testing.assert_array_equal(ratio, np.round(ratio))
            changed += bool(ratio.any())
    assert changed > 2


@pytest.mark.parametrize("mode", ["preserve", "equalize", "fp16"])
def test_a_product_left_alone_passes_the_scales_of_other_axes_and_asks_for_none(mode):
    b = NetBuilder()
    x = b.relu(b.conv("data", "below", 6))
    x = b.relu(b.graph.op("MatMul", x, b.array("rows", 0, (10, 7)), name="rows"))
    net, batches = b.finish(b.conv(x, "above", 4)), pictures()
    net.params["below"][0][...] *= 1e6
    before = run(net, batches)
    result = caffeinit.rescale(net, batches, mode=mode, layers=["below", "above"])
    for old, new in zip(before, run(net, batches), strict=True):
        for value in old:
            np.testing.assert_allclose(new[value], old[value], rtol=0, atol=1e-5 * np.abs(old[value]).max())
    # The sizes of what the product puts out mix those of all channels that it reads: they are measured.
    found = caffeinit.measure(net, batches)
    for told, unit in zip(result.units, found.units, strict=True):
        np.testing.assert_allclose(told.after.channel_stds, unit.stats.channel_stds, rtol=1e-5)
    stds = result.units[0].after.channel_stds
    assert stds.max() / stds.min() < (2.001 if mode == "fp16" else 1.001)


@pytest.mark.parametrize("mode", ["preserve", "equalize"])
def test_a_channel_whose_scaled_numbers_no_file_could_hold_is_held(mode):
    b = NetBuilder()
    x = b.relu(b.norm(b.conv("data", "worn", 6, bias=False), "norm"))
    net, batches = b.finish(b.conv(x, "above", 4)), pictures()
    net.params["worn"][0][2] *= 1e-27  # weight decay leaves such, and such variances
    net.params["norm"][1][2] = 6e-45
    before = run(net, batches)
    result = caffeinit.rescale(net, batches, mode=mode, balanced=False)
    for old, new in zip(before, run(net, batches), strict=True):
        for value in old:
            np.testing.assert_allclose(new[value], old[value], rtol=0, atol=1e-5 * np.abs(old[value]).max())
    stds = result.units[0].after.channel_stds
    assert stds[2] < 1e-20
    np.testing.assert_allclose(np.delete(stds, 2), 1, rtol=1e-3)
    assert "the others held: their factors would take numbers beyond single precision (3.4e38)" in result.units[0].done


BENT = {
    "LpPool 2": (("LpPool",), {"p": 2, "kernel_shape": [2, 2]}, True),
    "LpPool 3": (("LpPool",), {"p": 3, "kernel_shape": [2, 2]}, False),
    "GlobalLpPool 3": (("GlobalLpPool",), {"p": 3}, False),
    "Pow 1.5": (("Pow", 1.5), {}, True),
    "Pow 1/3": (("Pow", 1 / 3), {}, False),
}


@pytest.mark.parametrize("name", BENT)
def test_what_would_round_powers_of_two_is_not_scaled_by_them(name):
    (op, *more), attributes, passes_on = BENT[name]
    b = NetBuilder()
    x = b.relu(b.conv(b.relu(b.conv("data", "free", 6)), "read", 6))
    x = b.graph.op(op, x, *more, **attributes)
    net, batches = b.finish(b.conv(x, "last", 4, kernel=1)), pictures()
    net.params["read"][0][...] *= 1000
    before = run(net, batches)
    result = caffeinit.rescale(net, batches, mode="equalize", powers_of_two=True)
    for old, new in zip(before, run(net, batches), strict=True):
        for value in old:
            np.testing.assert_array_equal(new[value], old[value])
    units = {unit.name: unit for unit in result.units}
    assert units["free"].done
    held = f'its output is held: {op} that makes "{x}" would round what is scaled'
    assert units["read"].done.endswith(held) != passes_on


def test_rounded_to_powers_of_two_free_channels_are_within_the_root_of_two():
    net, batches = NETS["inception"](), pictures()
    result = caffeinit.rescale(net, batches, mode="equalize", powers_of_two=True)
    free = [u for u in result.units if u.done == "equalized by powers of two"]
    assert len(free) == 5
    for unit in free:
        assert np.abs(np.log2(unit.after.channel_stds)).max() <= 0.5 + 1e-6


def test_rounded_to_powers_of_two_rates_come_near_each_other():
    net = NETS["chain"]()
    net.params["conv1"][0][...] *= 100
    result = caffeinit.rescale(net, pictures(), powers_of_two=True)
    # A unit's weights are off by up to 2, and its rate by the square of that.
    assert result.rate_spread < 2 * np.log(2) < 3 < result.rate_spread_before


def test_what_overflows_half_precision_has_head_room_afterwards():
    net, batches = NETS["chain"](), pictures()
    for array in net.params["conv1"]:
        array *= 1e6
    net.params["conv2"][0][...] /= 1e6
    result = caffeinit.rescale(net, batches, mode="fp16")
    assert result.units[0].before.max_abs > LARGEST
    assert all(u.after.max_abs < 64 for u in result.units[:3])
    notes = [n for n in result.notes if "largest value" in n]
    assert "overflows half precision" in notes[0]
    assert "head-room" in notes[1]
    with np.errstate(over="raise"):
        halves = {k: [a.astype(np.float16) for a in v] for k, v in net.params.items()}
    assert all(np.isfinite(a).all() for v in halves.values() for a in v)


def test_a_net_with_nothing_free_is_told_so():
    builder = NetBuilder()
    net = builder.finish(builder.graph.op("Sigmoid", builder.conv("data", "conv1", 3)))
    before = [a.copy() for a in net.params["conv1"]]
    result = caffeinit.rescale(net, pictures())
    assert any("no scale in the net is free" in note for note in result.notes)
    for a, b in zip(before, net.params["conv1"], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_unit_whose_weights_are_zero_has_no_rate_and_the_rest_is_done():
    net = NETS["inception"]()
    net.params["reduce"][0][...] = 0
    result = caffeinit.rescale(net, pictures())
    assert any("reduce has no rate: its weights are all zero" in note for note in result.notes)
    assert result.rate_spread < result.rate_spread_before
    assert all(np.isfinite(a).all() for arrays in net.params.values() for a in arrays)


def test_balance_alone_is_refused_where_there_are_no_rates():
    builder = NetBuilder()
    builder.conv("data", "conv1", 3)
    net = builder.finish(builder.relu("data"))
    with pytest.raises(CaffeinitError, match="no rates"):
        caffeinit.rescale(net, pictures(), mode="balance")


def test_a_mode_that_keeps_the_function_draws_nothing():
    net = NETS["chain"]()
    with pytest.raises(CaffeinitError, match="cannot draw"):
        caffeinit.rescale(net, pictures(), reinit=["ip1"])


def test_channels_that_are_next_to_nothing_do_not_bring_weights_to_overflow():
    net, batches = NETS["chain"](), pictures()
    for batch in batches:
        batch["data"][:, 0] *= 1e-6
    weight, bias = net.params["conv1"]
    weight[0, 1:], bias[0] = 0, 0
    net.params["conv2"][0][...] *= 1e4
    result = caffeinit.rescale(net, batches, mode="fp16")
    assert "given head-room" in {u.done for u in result.units}
    assert max(np.abs(a).max() for arrays in net.params.values() for a in arrays) < LARGEST


@pytest.mark.parametrize("options", [{}, {"powers_of_two": True}, {"balanced": False}], ids=str)
@pytest.mark.parametrize("mode", ["preserve", "equalize"])
def test_what_places_are_told_from_stays_in_every_mode(mode, options):
    b = ModelBuilder(17, seed=2)
    x = b.op("Relu", b.conv("input", "conv1", 3, 6))
    best = b.op("ArgMax", b.conv(x, "conv2", 6, 4), axis=1)
    net = network_of(b.finish(b.op("Cast", best, to=1), rank=4))
    batch = {"input": np.random.default_rng(0).standard_normal((8, 3, 16, 12)).astype(np.float32)}
    before, weight = net.forward(batch, ["output"])["output"].copy(), net.params["conv1.weight"][0].copy()
    caffeinit.rescale(net, batch, mode=mode, **options)
    np.testing.assert_array_equal(net.forward(batch, ["output"])["output"], before)
    assert not np.array_equal(net.params["conv1.weight"][0], weight)


def sharp_net():
    """Return a net that judges by differences which are a millionth of what they are differences of."""
    builder = NetBuilder()
    x = builder.product(builder.relu(builder.conv("data", "conv1", 8)), "ip1", 2)
    net = builder.finish(builder.graph.op("Softmax", x, axis=1))
    weight = net.params["ip1"][0]
    weight[0] *= 1e6
    weight[1] = weight[0] * (1 + 1e-6 * np.random.default_rng(0).standard_normal(weight[0].shape))
    return net


def test_where_rounding_is_blown_up_powers_of_two_are_the_way_out():
    with pytest.raises(CaffeinitError, match=r"rounding is blown up in this net.*--powers-of-two rounds nothing"):
        caffeinit.rescale(sharp_net(), pictures())
    result = caffeinit.rescale(sharp_net(), pictures(), powers_of_two=True)
    assert any(note.endswith("did not move") for note in result.notes)


@pytest.fixture
def wrong(monkeypatch):
    """Return a net with a Sigmoid, whose rule is wrong: it is that of a ReLU."""
    monkeypatch.setattr(type(_RULES["Sigmoid"]), "scale", passes, raising=False)
    b = NetBuilder()
    return b, b.conv(b.graph.op("Sigmoid", b.conv("data", "conv1", 6), name="sigmoid"), "conv2", 3)


@pytest.mark.parametrize(
    ("powers", "told"),
    [
        (
            False,
            "blown up without bounds in this net, or .* --powers-of-two rounds nothing; if the output moves with it",
        ),
        (True, "and no rounding made it so. Please report this net. Nothing is written$"),
    ],
)
def test_an_output_that_moved_grossly_is_called_another_function(wrong, powers, told):
    b, x = wrong
    with pytest.raises(
        CaffeinitError, match=rf"moved by [0-9.]+ of its .*: this is another function.*{told}"
    ) as refused:
        caffeinit.rescale(b.finish(x), pictures(), mode="equalize", powers_of_two=powers)
    assert float(str(refused.value).split("moved by ")[1].split()[0]) > 0.01


def test_an_output_of_other_extents_or_without_numbers_is_told_so():
    b = NetBuilder()
    x = b.relu(b.conv("data", "conv1", 5))
    bright = b.graph.op("Greater", b.graph.op("ReduceMean", x, axes=[1, 2, 3], keepdims=0), 0.0)
    run = _Run(b.finish(b.graph.op("Compress", x, bright, axis=0, name="kept")), lambda unit: "", "preserve")
    other, infinite = Difference("kept"), Difference("kept")
    other.see(np.ones((3, 5), np.float32), np.ones((2, 5), np.float32))
    infinite.see(np.ones((2, 5), np.float32), np.full((2, 5), np.inf, np.float32))
    assert _refusal(run, [other]) == (
        'output "kept" has other extents on the pictures, (2, 5), and had (3, 5): rounding turned a choice of the net '
        "(Greater). Nothing is written. --powers-of-two rounds nothing"
    )
    assert _refusal(run, [other, infinite]).startswith(
        'output "kept" is not finite on the pictures, or was not: this is another function; rounding turned a choice'
    )


def tied():
    """Return a net in which a sum ties the channels of two units, and a Sigmoid holds what it reads."""
    b = ModelBuilder(17, seed=1)
    x = b.op("Relu", b.conv("input", "conv1", 3, 6))
    y = b.op("Relu", b.conv(x, "conv2", 6, 6))
    return network_of(b.finish(b.head(b.op("Sigmoid", b.op("Add", b.conv(y, "conv3", 6, 6), x)), 6)))


def test_rates_that_part_further_are_told_with_the_reason():
    pictures = {"input": np.random.default_rng(0).standard_normal((8, 3, 16, 12)).astype(np.float32)}
    result = caffeinit.rescale(tied(), pictures)
    assert result.rate_spread > result.rate_spread_before
    (note,) = (note for note in result.notes if "further apart" in note)
    assert f"spread {result.rate_spread_before:.3g} -> {result.rate_spread:.3g}" in note
    assert "tied or held" in note
    result = caffeinit.rescale(tied(), pictures, mode="balance")
    assert result.rate_spread <= 1.001 * result.rate_spread_before
    assert not any("further apart" in note for note in result.notes)
