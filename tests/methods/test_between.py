"""One rate between layers: solved without a further pass, and by rounds where the function is free."""

import numpy as np
import pytest

import caffeinit
from caffeinit.apply.plan import Plan, apply
from caffeinit.methods.between import plan_balance, predict, scale_system, spread_of
from caffeinit.methods.relaxed import Relaxed
from caffeinit.methods.restoring import Restorer
from caffeinit.methods.rounds import approach, iterate
from caffeinit.scales.bonds import Bond, values_below
from caffeinit.statistics.forward import measure_moments
from caffeinit.statistics.rates import RateProbe
from tests.conftest import GOLDEN
from tests.nets import NETS, NetBuilder, pictures


def solved(net, batch, **how):
    """Return the probe, the plan that balances, and the rates before."""
    probe = RateProbe(net, [batch])
    rates = probe.measure()
    system = scale_system(net, lambda unit: "", probe.heads, relaxed=False)
    start = Plan(system, np.zeros(system.solution.matrix.shape[0]))
    return probe, plan_balance(net, rates, lambda unit: unit.kind == "affine", start), rates


@pytest.mark.parametrize("name", NETS)
def test_predicted_rates_are_what_is_measured_then(name):
    net, batches = NETS[name](), pictures()
    probe, plan, rates = solved(net, batches[0])
    predicted = predict(net.units, rates, plan)
    apply(net, plan)
    for key, found in probe.measure().items():
        np.testing.assert_allclose(found.rate, predicted[key].rate, rtol=1e-4)
        np.testing.assert_allclose(found.column_rates, predicted[key].column_rates, rtol=1e-4)


@pytest.mark.parametrize("name", NETS)
def test_scales_move_rates_as_predicted_wherever_they_go(name):
    net, batches = NETS[name](), pictures()
    probe = RateProbe(net, batches[:1])
    rates = probe.measure()
    system = scale_system(net, lambda unit: "", probe.heads, relaxed=False)
    assert system.num_unknowns > 10
    moved = np.random.default_rng(3).normal(0, 0.3, system.num_unknowns)
    plan = Plan(system, system.expand(moved))
    predicted = predict(net.units, rates, plan)
    apply(net, plan)
    for key, found in probe.measure().items():
        np.testing.assert_allclose(found.rate, predicted[key].rate, rtol=1e-4)


LAW_NETS = sorted(p.stem for p in (GOLDEN / "layers").glob("net_*.prototxt"))


@pytest.mark.parametrize("name", LAW_NETS)
def test_init_leaves_one_rate_on_the_batch_it_was_solved_on(name):
    net = caffeinit.load(GOLDEN / "layers" / f"{name}.prototxt")
    rng = np.random.default_rng(0)
    batch = {n: rng.standard_normal(shape).astype("f4") for n, shape in net.inputs.items()}
    result = caffeinit.init(net, [batch])
    units = [u for u in net.units if u.kind == "affine" and not u.frozen]
    assert len(units) > 1
    measured = spread_of(RateProbe(net, [batch]).measure(), units)
    assert measured <= 0.02
    assert measured == pytest.approx(result.rate_spread, abs=1e-3)


def test_only_what_has_no_other_way_to_the_heads_values_below_a_layer():
    b = NetBuilder()
    low = b.relu(b.conv("data", "low", 4))
    side, straight = b.conv(low, "side", 4), b.conv(low, "straight", 4)
    passed = b.graph.op("LRN", straight, size=3)
    b.graph.nearly_homogeneous[passed] = straight
    net = b.finish(b.conv(b.graph.op("Add", side, passed), "head", 4))
    below = values_below(net.graph, Bond(straight, passed, 0, 1), net.graph.outputs)
    assert straight in below
    assert not below & {low, side, passed, *net.graph.outputs}


@pytest.mark.parametrize("name", NETS)
def test_rounds_reach_one_rate_and_say_what_they_did(name):
    net, batches = NETS[name](), pictures()
    caffeinit.init(net, batches, balanced=False)
    before = {u.initializers[0]: u.weight.astype(float).copy() for u in net.units if u.kind == "affine"}
    probe = RateProbe(net, batches[:1])
    found = iterate(Relaxed(net, probe, lambda unit: "", lambda unit: unit.kind == "affine"))
    units = [u for u in net.units if u.kind == "affine"]
    assert spread_of(probe.measure(), units) == pytest.approx(spread_of(found.after, units), abs=1e-4)
    assert spread_of(found.after, units) <= 0.01 < spread_of(found.before, units)
    first = units[0]
    grown = np.log(np.linalg.norm(first.weight) / np.linalg.norm(before[first.initializers[0]]))
    assert found.scales[first.initializers[0]].mean() == pytest.approx(grown, abs=1e-4)


def _ladder():
    """Return a net that adds to a deep branch what two short ones, much smaller, have of the values below it (FCN-8s)."""
    b = NetBuilder()

    def deeper(value, name, count):
        for number in range(count):
            value = b.relu(b.conv(value, f"{name}{number}", 8))
        return value

    def score(value, name, size):
        b.graph.add_initializer(f"{name}/size", np.float32(size))
        return b.graph.op("Mul", b.conv(value, name, 4, kernel=1, pad=0), f"{name}/size")

    low = deeper("data", "low", 5)
    middle = deeper(low, "middle", 3)
    total = b.graph.op("Add", score(deeper(middle, "deep", 11), "top", 1), score(middle, "short", 1e-6))
    return b.finish(b.graph.op("Add", total, score(low, "shorter", 1e-12)))


def test_rounds_that_no_number_can_take_end_with_the_best_one():
    net, batches = _ladder(), pictures()
    caffeinit.init(net, batches, balanced=False)
    units = [u for u in net.units if u.kind == "affine"]
    probe = RateProbe(net, batches[:1])
    found = iterate(Relaxed(net, probe, lambda unit: "", lambda unit: unit.kind == "affine"))
    assert found.rounds < 24
    assert all(rates.is_measured for rates in found.after.values())
    assert spread_of(found.after, units) <= spread_of(found.before, units)
    assert spread_of(probe.measure(), units) == pytest.approx(spread_of(found.after, units), abs=1e-3)


def test_an_approach_that_no_number_can_take_ends_where_it_was():
    net, batches = _ladder(), pictures()
    caffeinit.init(net, batches, balanced=False)
    units = [u for u in net.units if u.kind == "affine"]
    before = {u.initializers[0]: np.log(np.abs(u.weight).max()) for u in units}
    probe = RateProbe(net, batches[:1])
    chosen, counted = (lambda unit: ""), (lambda unit: unit.kind == "affine")
    relaxed = Relaxed(net, probe, chosen, counted)
    given, _ = approach(relaxed, limit=0.01, rounds=12, restorer=Restorer())
    assert all(np.isfinite(u.weight).all() for u in units)
    first = units[0].initializers[0]
    assert given[first].max() == pytest.approx(np.log(np.abs(units[0].weight).max()) - before[first], abs=1e-4)


def test_what_is_reported_after_the_function_has_changed_is_what_units_put_out():
    b = NetBuilder()
    low = b.graph.op("Tanh", b.conv("data", "low", 6))  # its scale is held, that of BatchNorm is not
    branch = b.norm(b.conv(b.relu(b.conv(low, "one", 6)), "two", 6), "norm")
    net = b.finish(b.conv(b.relu(b.conv(b.graph.op("Add", low, branch), "top", 6)), "head", 4))
    result = caffeinit.init(net, pictures())
    found = measure_moments(net, pictures())
    for unit, report in zip(net.units, result.units, strict=True):
        np.testing.assert_allclose(report.after.channel_stds, found[unit.key].std, rtol=1e-4)


def _layer(name, kind, bottoms, settings="", tops=None):
    ends = "".join(f' bottom: "{b}"' for b in bottoms) + "".join(f' top: "{t}"' for t in tops or [name])
    return f'layer {{ name: "{name}" type: "{kind}" {ends} {settings} }}'


def test_sums_beside_lrn_are_made_up_for(tmp_path):
    """Scales that bend at LRN are not all through which the function changes where terms of a sum have their own."""
    conv = (
        'convolution_param {{ num_output: {} kernel_size: 3 pad: 1 weight_filler {{ type: "gaussian" std: 0.1 }} {} }}'
    )
    pool = "pooling_param {{ pool: {} kernel_size: 3 stride: 2 }}"
    rows = [
        _layer("data", "Input", [], "input_param { shape { dim: 4 dim: 3 dim: 12 dim: 10 } }"),
        _layer("c1", "Convolution", ["data"], conv.format(12, "group: 3")),
        _layer("q2", "Pooling", ["data"], pool.format("AVE")),
        _layer("c3", "Convolution", ["q2"], conv.format(4, "")),
        _layer("e4", "Eltwise", ["data", "data"]),
        _layer("c5", "Convolution", ["c1"], conv.format(4, "group: 2")),
        _layer("p6", "PReLU", ["c3"]),
        _layer("z7", "Slice", ["p6"], tops=["z7a", "z7b"]),
        _layer("n8", "LRN", ["c5"], "lrn_param { local_size: 3 alpha: 1 k: 2 }"),
        _layer("z9", "Slice", ["z7a"], tops=["z9a", "z9b"]),
        _layer("e10", "Eltwise", ["z9a", "z9b"], "eltwise_param { coeff: 0.5 coeff: -2 }"),
        _layer("q11", "Pooling", ["z9b"], pool.format("AVE")),
        _layer("c12", "Convolution", ["e10"], conv.format(12, "")),
        _layer("q13", "Pooling", ["z9b"], pool.format("MAX")),
        _layer("ip", "InnerProduct", ["q13"], 'inner_product_param { num_output: 5 weight_filler { type: "xavier" } }'),
    ]
    (tmp_path / "net.prototxt").write_text("\n".join(rows))
    net = caffeinit.load(tmp_path / "net.prototxt")
    batches = pictures(32, batch=16)
    result = caffeinit.init(net, batches)
    for unit, found in zip(result.units, caffeinit.measure(net, batches).units, strict=True):
        assert unit.after.std == pytest.approx(found.stats.std, rel=0.1), unit.name


@pytest.mark.parametrize("mode", ["init", "init, not balanced", "normalize"])
def test_channels_that_balancing_has_made_unlike_are_told(mode):
    b = NetBuilder()
    one, two = b.graph.ops("Split", b.conv("data", "stem", 4), np.asarray([2, 2]), outputs=2, axis=1)
    upper = b.graph.op("Tanh", b.conv(b.relu(one), "upper", 2))
    net = b.finish(b.product(b.graph.op("Concat", upper, b.graph.op("Tanh", two), axis=1), "ip", 3))
    if mode == "normalize":
        result = caffeinit.rescale(net, pictures(), mode="normalize")
    else:
        result = caffeinit.init(net, pictures(), balanced=mode == "init")
    told = [note.rpartition(" in ")[2] for note in result.notes if "not alike any more" in note]
    uneven = [u.name for u in caffeinit.measure(net, pictures()).units if u.stats.out_cvar > 0.02]
    assert uneven == (["stem"] if mode != "init, not balanced" else [])
    assert told == uneven


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_means_that_balancing_has_shifted_are_told(blocks, balanced):
    b = NetBuilder()
    x = b.relu(b.norm(b.conv("data", "stem", 4), "norm"))
    for number in range(blocks):
        y = b.conv(b.graph.op("Add", x, b.conv(x, f"branch{number}", 4)), f"sum{number}", 4)
        x = b.graph.op("Add", x, b.relu(y) if number % 2 else y)
    net = b.finish(b.product(x, "head", 3))
    result = caffeinit.init(net, pictures(), balanced=balanced)
    units = [u for u in caffeinit.measure(net, pictures()).units if u.kind == "affine"]
    shifts = {u.name: np.abs(u.stats.channel_means / u.stats.channel_stds - 0.1).max() for u in units}
    told = [note for note in result.notes if "shifted means" in note]
    if any(shift > 0.25 for shift in shifts.values()):
        assert f"by up to {max(shifts.values()):.2g} deviations" in told[0]
        assert all((name in told[0]) == (shift > 0.25) for name, shift in shifts.items())
    else:
        assert not told
    assert balanced or not told


def test_a_shift_without_a_factor_is_not_told_to_have_been_made_alike():
    b = NetBuilder()
    x = b.graph.op("Max", b.conv("data", "one", 4), b.conv("data", "two", 4))
    shift = b.graph.op("Reshape", b.array("shift", 0, (4,), "bias"), [1, 4, 1, 1])
    net = b.finish(b.product(b.graph.op("Add", x, shift, name="shift"), "ip", 3))
    result = caffeinit.init(net, pictures())
    assert "shift" in [unit.name for unit in net.units]
    assert not [note for note in result.notes if "not alike any more" in note]
