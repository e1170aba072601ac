"""One rate between layers: solved without a further pass, and by rounds where the function is free."""

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

import caffeinit
from caffeinit.apply.plan import Plan, apply
from caffeinit.methods.acceleration import Accelerated
from caffeinit.methods.between import (
    Bends,
    Term,
    Terms,
    Within,
    balance,
    find_terms,
    free_groups,
    plan_balance,
    predict,
    scale_system,
    spread_of,
)
from caffeinit.methods.relaxed import Relaxed
from caffeinit.methods.restoring import Restorer
from caffeinit.methods.rounds import approach, iterate
from caffeinit.scales.bonds import Bond, values_below
from caffeinit.scales.sums import Growth
from caffeinit.scales.transfer import Curves, Transfers
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


def test_no_scale_per_unit_gives_a_smaller_sum_of_squares():
    net, batches = NETS["residual"](), pictures()
    _, plan, rates = solved(net, batches[0])
    system = plan.system.tied(free_groups(plan.system))
    terms = find_terms([u for u in net.units if u.kind == "affine"], system, rates)

    def sum_of_squares(unknowns):
        logs = Terms(terms).log_rates(unknowns)
        return ((logs - logs.mean()) ** 2).sum()

    best = balance(terms, system.num_unknowns)
    for unknown in range(system.num_unknowns):
        for step in (-0.01, 0.01):
            other = best.copy()
            other[unknown] += step
            assert sum_of_squares(best) <= sum_of_squares(other) + 1e-6


def test_what_is_farthest_off_counts_most_where_asked():
    """One unknown moves three of four rates, none of which can be like the fourth."""
    logs, rows = (5, 4, 4, 9), (1, -1, -1, 0)
    terms = [
        Term(str(i), np.array([2.0 * c]), np.zeros(1), np.array([[r]]))
        for i, (c, r) in enumerate(zip(logs, rows, strict=True))
    ]

    def largest(unknown):
        found = Terms(terms).log_rates(unknown)
        return np.abs(found - found.mean()).max()

    least = min(largest(np.array([x])) for x in np.linspace(-3, 3, 601))
    assert largest(balance(terms, 1)) > 1.09 * least
    assert largest(balance(terms, 1, evenly=True)) < 1.04 * least


@pytest.mark.parametrize(("most", "found"), [(0.2, 0.2), (3.0, 0.5), (np.inf, 0.5)])
def test_a_scale_goes_to_its_end_and_no_further(most, found):
    """Two rates that would be one at a half."""
    terms = [Term(n, np.array([2.0 * log]), np.zeros(1), np.array([[log]])) for n, log in (("a", 1.0), ("b", 0.0))]
    assert balance(terms, 1, [Within(np.eye(1), np.array([most]))]) == pytest.approx(found, abs=1e-3)


class Wave:
    """Keeps the second unknown on a sine of the first, with more waves than a step can follow."""

    def __init__(self):
        self.asked = 0

    def gap(self, unknowns):
        self.asked += 1
        return unknowns[1:2] - np.sin(20 * unknowns[:1])

    def gradient(self, unknowns):
        slopes = np.zeros(len(unknowns))
        slopes[:2] = -20 * np.cos(20 * unknowns[0]), 1
        return slopes[None]


def test_a_winding_curve_is_not_followed_for_ever():
    # The ridge draws the first unknown far along the curve; each step gets a small piece of the way.
    terms = [Term(name, np.zeros(1), np.zeros(1), np.zeros((1, 50))) for name in "ab"]
    wave = Wave()
    found = balance(terms, 50, [wave], gone=np.where(np.arange(50) == 0, -1000.0, 0.0))
    assert wave.asked <= 210  # 5000 if scipy's own limit ended it
    assert abs(wave.gap(found)) < 1e-3


def test_the_derivatives_of_a_rate_are_its_differences():
    net, batches = NETS["inception"](), pictures()
    _, plan, rates = solved(net, batches[0])
    system = plan.system.tied(free_groups(plan.system))
    x = np.random.default_rng(0).normal(0, 0.5, system.num_unknowns)
    terms = Terms(find_terms(net.units, system, rates))
    for unknown in range(system.num_unknowns):
        step = np.eye(system.num_unknowns)[unknown] * 1e-5
        difference = (terms.log_rates(x + step) - terms.log_rates(x - step)) / 2e-5
        np.testing.assert_allclose(terms.gradients(x)[:, unknown], difference, atol=1e-6)


def test_rates_of_units_together_are_those_of_each():
    net, batches = NETS["inception"](), pictures()
    _, plan, rates = solved(net, batches[0])
    system = plan.system.tied(free_groups(plan.system))
    terms = find_terms(net.units, system, rates)
    for x in np.random.default_rng(0).normal(0, 0.5, (3, system.num_unknowns)):
        for term, log in zip(terms, Terms(terms).log_rates(x), strict=True):
            squares = np.exp(term.diffs - 2 * term.rows @ x).sum(), np.exp(term.weights + 2 * term.rows @ x).sum()
            assert log == pytest.approx(np.log(squares[0] / squares[1]) / 2, abs=1e-12)


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


def test_the_derivatives_of_a_rate_below_a_curve_are_its_differences():
    scales = np.linspace(-12, 12, 25)
    both = np.stack([scales, 0.7 * scales], axis=-1)
    curves = (Curves(CubicSpline(scales, f), np.array([0.4, -0.3])) for f in (np.sin(both), np.cos(0.5 * both)))
    bends = Bends(
        np.array([[0.7, -0.2], [0.1, 0.5]]),
        np.array([[0.0, 1.0], [1.0, 0.3]]),
        Transfers(*curves, np.zeros(2, bool), np.full(2, np.inf)),
    )
    grows = [Growth(bends, layers) for layers in ([0], [0, 1])]
    term = Term("unit", np.array([0.1, -0.4]), np.array([0.3, 0.2]), np.array([[1.0, 0], [0, -1.0]]), grows)
    terms = Terms([term])
    x = np.array([0.35, -0.8])
    for step in 1e-5 * np.eye(2):
        difference = (terms.log_rates(x + step) - terms.log_rates(x - step)) / 2e-5
        assert terms.gradients(x) @ step == pytest.approx(1e-5 * difference, abs=1e-10)
        gaps = (bends.gap(x + step) - bends.gap(x - step)) / 2e-5
        np.testing.assert_allclose(bends.gradient(x) @ step, 1e-5 * gaps, atol=1e-10)


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


def test_acceleration_solves_a_linear_fixed_point_in_as_many_steps_as_it_has_dimensions():
    rng = np.random.default_rng(0)
    matrix = rng.normal(0, 0.1, (3, 3)) + np.diag([1.3, 0.9, 0.5])
    goal = np.array([0.05, -0.1, 0.02])
    accelerated, point = Accelerated(), np.zeros(3)
    for _ in range(6):
        point = accelerated.next(point, matrix @ (goal - point))
    np.testing.assert_allclose(point, goal, atol=1e-9)


@pytest.mark.parametrize("slope", [0.7, 1.0, 1.8, 2.5, 4.0])
def test_long_steps_that_lead_too_far_are_shortened(slope):
    # At 2 steps of their full length go to and fro for ever, above it they grow.
    accelerated, point, goal = Accelerated(), np.zeros(2), np.array([30.0, -8.0])
    for _ in range(12):
        point = accelerated.next(point, slope * (goal - point))
    np.testing.assert_allclose(point, goal, atol=1e-6)


def test_acceleration_does_not_follow_noise_far_away():
    accelerated, start, step = Accelerated(), np.array([0.1, 0.2]), np.array([0.03, 0.0])
    second = accelerated.next(start, step)
    noisy = step * (1 - 1e-4)  # the step has hardly changed: on a line through both, the end is 300 away
    third = accelerated.next(second, noisy)
    np.testing.assert_array_equal(third, second + noisy)
    # What misled is forgotten: the next two points on a true line lead to its end.
    goal = third + np.array([0.02, 0.01])
    point = accelerated.next(third, 0.5 * (goal - third))
    for _ in range(3):
        point = accelerated.next(point, 0.5 * (goal - point))
    np.testing.assert_allclose(point, goal, atol=1e-9)


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


def test_a_shift_without_a_factor_is_not_told_to_have_been_made_alike():
    b = NetBuilder()
    x = b.graph.op("Max", b.conv("data", "one", 4), b.conv("data", "two", 4))
    shift = b.graph.op("Reshape", b.array("shift", 0, (4,), "bias"), [1, 4, 1, 1])
    net = b.finish(b.product(b.graph.op("Add", x, shift, name="shift"), "ip", 3))
    result = caffeinit.init(net, pictures())
    assert "shift" in [unit.name for unit in net.units]
    assert not [note for note in result.notes if "not alike any more" in note]
