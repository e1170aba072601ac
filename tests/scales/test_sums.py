"""Sums whose terms take scales of their own: what that does to rates, foretold and measured."""

import numpy as np
import pytest

import caffeinit
from caffeinit.apply.plan import Plan, apply
from caffeinit.methods.relaxed import Relaxed
from caffeinit.methods.restoring import find_restorer
from caffeinit.methods.terms import Terms
from caffeinit.scales.mixtures import Mixtures, Part
from caffeinit.statistics.rates import RateProbe

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 16 dim: 16 } } }\n'


def conv(name, below, outputs=8, kernel=3, stride=1):
    """Return the text of a convolution that keeps the extent, or divides it by its stride."""
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{below}" top: "{name}" convolution_param {{ '
        f"num_output: {outputs} kernel_size: {kernel} stride: {stride} pad: {kernel // 2} }} }}\n"
    )


def relu(value, top=""):
    return f'layer {{ name: "relu_{value}" type: "ReLU" bottom: "{value}" top: "{top or value}" }}\n'


def total(name, *terms):
    bottoms = " ".join(f'bottom: "{term}"' for term in terms)
    return f'layer {{ name: "{name}" type: "Eltwise" top: "{name}" {bottoms} }}\n'


def classifier(below):
    of = "inner_product_param { num_output: 7 }"
    return f'layer {{ name: "fc" type: "InnerProduct" bottom: "{below}" top: "fc" {of} }}\n'


def doubled(name, below, channels):
    """Return the text of a bilinear enlargement that is not trained."""
    return (
        f'layer {{ name: "{name}" type: "Deconvolution" bottom: "{below}" top: "{name}" param {{ lr_mult: 0 }} '
        f"convolution_param {{ num_output: {channels} group: {channels} kernel_size: 4 stride: 2 pad: 1 bias_term: false "
        'weight_filler { type: "bilinear" } } }\n'
    )


def residual():
    """A residual net without normalisation, whose identities carry on what is before a ReLU."""
    text, below = conv("c", "data"), "c"
    for i in range(4):
        text += relu(below, f"r{i}") + conv(f"a{i}", f"r{i}") + relu(f"a{i}") + conv(f"b{i}", f"a{i}")
        text, below = text + total(f"e{i}", below, f"b{i}"), f"e{i}"
    return text + classifier(below)


def pyramid():
    """Three scales, each added to the one above it once that is enlarged."""
    text = (
        conv("c1", "data") + relu("c1") + conv("c2", "c1", 12, stride=2) + relu("c2") + conv("c3", "c2", 16, stride=2)
    )
    text += relu("c3") + conv("l3", "c3", kernel=1) + doubled("u3", "l3", 8) + conv("l2", "c2", kernel=1)
    text += total("m2", "u3", "l2") + doubled("u2", "m2", 8) + conv("l1", "c1", kernel=1) + total("m1", "u2", "l1")
    return text + conv("head", "m1", 5)


def scores():
    """Scores of three scales, added up: each of its units sets its rate through scores alone."""
    text = (
        conv("c1", "data") + relu("c1") + conv("c2", "c1", 12, stride=2) + relu("c2") + conv("c3", "c2", 16, stride=2)
    )
    text += relu("c3") + conv("s3", "c3", 5, 1) + doubled("u3", "s3", 5) + conv("s2", "c2", 5, 1)
    return text + total("m2", "u3", "s2") + doubled("u2", "m2", 5) + conv("s1", "c1", 5, 1) + total("m1", "u2", "s1")


def unfinished():
    """Scores as in FCN-8s: what enlarges them is not trained and waits for weights, what they read is made small before."""
    text, below = "", "data"
    for name, stride in (("c1", 1), ("c2", 2), ("c3", 2), ("c4", 1), ("c5", 1), ("c6", 1)):
        text += conv(name, below, 12, stride=stride) + relu(name)
        below = name
    up = "convolution_param { num_output: 5 kernel_size: 4 stride: 2 pad: 1 bias_term: false }"
    for name, factor in (("c1", 1e-4), ("c2", 1e-2)):
        text += f'layer {{ name: "f{name}" type: "Scale" bottom: "{name}" top: "f{name}" param {{ lr_mult: 0 }} '
        text += f'scale_param {{ filler {{ type: "constant" value: {factor} }} }} }}\n' + conv(
            f"s{name}", f"f{name}", 5, 1
        )
    below = "s6"
    text += conv(below, "c6", 5, 1)
    for name in ("c2", "c1"):
        text += (
            f'layer {{ name: "u{name}" type: "Deconvolution" bottom: "{below}" top: "u{name}" param {{ lr_mult: 0 }} '
        )
        text += up + " }\n" + total(f"m{name}", f"u{name}", f"s{name}")
        below = f"m{name}"
    return text


def gathered():
    """Sums of three layers that follow on each other."""
    text, below = conv("c", "data") + relu("c"), "c"
    for i in range(2):
        text += conv(f"x{i}", below) + relu(f"x{i}") + conv(f"y{i}", f"x{i}") + relu(f"y{i}") + conv(f"z{i}", f"y{i}")
        text, below = text + relu(f"z{i}") + total(f"s{i}", f"x{i}", f"y{i}", f"z{i}"), f"s{i}"
    return text + classifier(below)


def positive():
    """A residual net whose sums go through ReLUs: after some, most of a value's energy is in its channels' means."""
    text, below = conv("c", "data") + relu("c"), "c"
    for i in range(6):
        text += conv(f"a{i}", below) + relu(f"a{i}") + conv(f"b{i}", f"a{i}")
        text, below = text + total(f"e{i}", below, f"b{i}") + relu(f"e{i}"), f"e{i}"
    return text + classifier(below)


def joined():
    """Two residual parts whose sums go through ReLUs, and between them what is pooled joined with a layer's outputs."""
    text, below = conv("c", "data") + relu("c"), "c"
    for part, channels in enumerate((8, 16)):
        for i in range(part, part + 2):
            text += conv(f"a{part}{i}", below, 4) + relu(f"a{part}{i}") + conv(f"b{part}{i}", f"a{part}{i}", channels)
            text += total(f"e{part}{i}", below, f"b{part}{i}") + relu(f"e{part}{i}")
            below = f"e{part}{i}"
        if not part:
            pooling = "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"
            text += f'layer {{ name: "p" type: "Pooling" bottom: "{below}" top: "p" {pooling} }}\n'
            text += conv("y", below, stride=2) + relu("y")
            text += 'layer { name: "z" type: "Concat" bottom: "p" bottom: "y" top: "z" }\n'
            below = "z"
    return text + classifier(below)


NETS = {net.__name__: net for net in (residual, pyramid, scores, gathered, positive, joined)}


@pytest.fixture
def load(tmp_path):
    def load(text):
        (tmp_path / "net.prototxt").write_text(INPUT + text)
        return caffeinit.load(tmp_path / "net.prototxt")

    return load


def pictures(count=16):
    return np.random.default_rng(0).standard_normal((count, 3, 16, 16)).astype("f4")


def every_unit(unit):
    return unit.kind == "affine" and not unit.frozen


def foretold_of(terms, unknowns):
    """Return unit's key -> logarithm of the rate that is foretold."""
    return dict(zip((term.unit for term in terms), Terms(terms).log_rates(unknowns), strict=True))


def reason_to_keep(unit):
    return "frozen" if unit.frozen else ""


def relaxed_of(net):
    return Relaxed(net, RateProbe(net, [{"data": pictures()}]), reason_to_keep, every_unit)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETS)
def test_nets_with_sums_get_one_rate(load, name, seed):
    net = load(NETS[name]())
    batches = np.split(pictures(64), 4)
    told = caffeinit.init(net, batches, seed=seed)
    measured = caffeinit.measure(net, batches)
    assert told.rate_spread < 0.02
    assert measured.rate_spread == pytest.approx(told.rate_spread, abs=1e-3)
    deviations = [u.stats.channel_stds for u in measured.units if u.kind == "affine" and not u.frozen]
    assert max(found.std() / found.mean() for found in deviations) < 0.05  # one for all channels of a unit
    assert min(found.min() for found in deviations) > 1e-3  # no branch is given up


@pytest.mark.parametrize("seed", range(3))
def test_layers_that_are_not_trained_and_wait_for_weights_help_to_make_rates_equal(load, seed):
    net = load(unfinished())
    batches = np.split(pictures(64), 4)
    told = caffeinit.init(net, batches, seed=seed)
    measured = caffeinit.measure(net, batches)
    assert told.rate_spread < 0.02
    assert measured.rate_spread == pytest.approx(told.rate_spread, abs=1e-3)
    assert not any("outputs do not deviate by 1" in note for note in told.notes)
    assert any(note.startswith("not in the spread") and note.endswith("uc2, uc1") for note in told.notes)
    assert (net.params["fc1"][0] == np.float32(1e-4)).all()  # as its filler says
    assert {u.name: u.done for u in told.units}[
        "uc1"
    ] == "drawn (gaussian), deviations normalised, without a bias to shift means"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "is_held"), [("residual", False), ("pyramid", False), ("gathered", True)])
def test_outputs_deviate_by_1_unless_sums_tie_the_rates_to_them(load, name, is_held, seed):
    net = load(NETS[name]())
    result = caffeinit.init(net, [pictures()], seed=seed)
    assert any("outputs do not deviate by 1" in note for note in result.notes) == (not is_held)
    assert (abs(result.units[-1].after.std - 1) < 0.1) == is_held


def sides():
    """Edges as HED finds them, by layers of three scales and by all together; what enlarges them waits for weights."""
    text = conv("c1", "data") + relu("c1") + conv("c2", "c1", 12) + relu("c2") + conv("c3", "c2", 16) + relu("c3")
    text += "".join(conv(f"s{i}", f"c{i}", 1, 1) for i in (1, 2, 3))
    for i in (2, 3):
        text += f'layer {{ name: "u{i}" type: "Deconvolution" bottom: "s{i}" top: "u{i}" param {{ lr_mult: 0 }} '
        text += "convolution_param { num_output: 1 kernel_size: 3 pad: 1 bias_term: false } }\n"
    scores = ("s1", "u2", "u3")
    bottoms = " ".join(f'bottom: "{score}"' for score in scores)
    text += f'layer {{ name: "all" type: "Concat" top: "all" {bottoms} }}\n' + conv("s0", "all", 1, 1)
    return text + "".join(
        f'layer {{ name: "p{score}" type: "Sigmoid" bottom: "{score}" top: "p{score}" }}\n' for score in ("s0", *scores)
    )


@pytest.mark.parametrize("seed", range(3))
def test_outputs_that_tie_each_other_are_scaled_together(load, seed):
    net, batches = load(sides()), [pictures()]
    told = caffeinit.init(net, batches, seed=seed)
    measured = caffeinit.measure(net, batches)
    assert told.rate_spread < 0.02
    assert measured.rate_spread == pytest.approx(told.rate_spread, abs=1e-3)
    stds = {u.name: u.stats.std for u in measured.units}
    assert [stds[name] for name in ("s1", "u2", "u3")] == pytest.approx([stds["s0"]] * 3, rel=1e-3)


@pytest.mark.parametrize("judge", ["Softmax", "Sigmoid"])
@pytest.mark.parametrize("name", ["residual", "pyramid"])
def test_what_judges_the_outputs_changes_nothing(load, name, judge):
    top = {"residual": "fc", "pyramid": "head"}[name]
    layer = f'layer {{ name: "judged" type: "{judge}" bottom: "{top}" top: "judged" }}\n'
    plain, judged = load(NETS[name]()), load(NETS[name]() + layer)
    told = [caffeinit.init(net, [pictures()]) for net in (plain, judged)]
    assert told[1].rate_spread == told[0].rate_spread < 0.02
    for layer, arrays in plain.params.items():
        for array, other in zip(arrays, judged.params[layer], strict=True):
            np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("methods", [{"*": "pca"}, {"*": "gaussian", "b": "pca"}])
def test_weights_that_are_drawn_and_then_left_alone_pass_scales_on_as_they_are(load, methods):
    text = conv("a", "data") + 'layer { name: "t" type: "TanH" bottom: "a" top: "t" }\n' + conv("b", "t") + relu("b")
    net = load(text + conv("c", "b") + relu("c") + classifier("c"))
    told = caffeinit.init(net, [pictures()], method=methods, layers=["a", "c", "fc"])
    units = {u.name: u.stats for u in caffeinit.measure(net, [pictures()]).units}
    for name in ("c", "fc"):
        np.testing.assert_allclose(
            units[name].channel_stds, told.units[[u.name for u in told.units].index(name)].after.channel_stds, rtol=1e-3
        )
        assert units[name].channel_stds.std() < 1e-3 * units[name].channel_stds.mean()
    assert units["fc"].std == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", NETS)
def test_a_step_leads_to_the_rates_that_it_foretells(load, name):
    net = load(NETS[name]())
    caffeinit.init(net, [pictures()])
    relaxed = relaxed_of(net)
    before = relaxed.probe.measure()
    relaxed.step(before)  # looks at energies
    moved = np.random.default_rng(1).normal(0, 0.1, relaxed.system.num_unknowns)
    foretold = foretold_of(relaxed.terms(before), moved)
    apply(net, Plan(relaxed.system, relaxed.system.expand(moved)))
    after = relaxed.probe.measure()
    changes = {key: np.log(after[key].rate / before[key].rate) for key in foretold}
    errors = [np.log(after[key].rate) - log for key, log in foretold.items()]
    assert max(map(abs, changes.values())) > 0.1
    assert np.abs(errors - np.mean(errors)).max() < 0.25 * np.std(list(changes.values()))


def scale_branches(relaxed, restorer, by):
    """Scale what is added to the sums, and give all outputs their sizes back; return the unknowns that say so."""
    net = relaxed.network
    outputs = [relaxed.system.labels[u.uses[0].output].ravel() for u in net.units if u.name.startswith("b")]
    moved = relaxed.system.unknowns_for(np.concatenate(outputs), np.full(sum(map(len, outputs)), by))
    plan = Plan(relaxed.system, relaxed.system.expand(moved))
    scales = {u.key: plan.factors(net.graph, u) for u in net.units}
    restorer.begin({u.key: np.zeros(u.num_channels) for u in net.units}, np.zeros(1))
    restorer.prepare(np.ones(1))
    apply(net, plan)
    restorer.restore(scales, np.ones(1))
    return moved


def reparametrised():
    """A residual net whose branches are added to what a stored normalisation makes of sums."""
    text, below = conv("c", "data") + relu("c"), "c"
    for i in range(3):
        norm = "batch_norm_param { use_global_stats: true }"
        text += f'layer {{ name: "n{i}" type: "BatchNorm" bottom: "{below}" top: "n{i}" {norm} }}\n'
        text += conv(f"b{i}", below) + total(f"e{i}", f"n{i}", f"b{i}")
        text, below = text + relu(f"e{i}"), f"e{i}"
    return text + classifier(below)


@pytest.mark.parametrize("make", [joined, reparametrised])
def test_a_step_after_which_outputs_are_restored_leads_to_the_rates_that_it_foretells(load, make):
    net = load(make())
    caffeinit.init(net, [pictures()], balanced=False)
    probe = RateProbe(net, [{"data": pictures()}])
    relaxed = Relaxed(net, probe, reason_to_keep, every_unit, restored=lambda system: True)
    restorer = find_restorer(net, [{"data": pictures()}], relaxed.why_unrestored, least=0)
    scale_branches(relaxed, restorer, -2.0)  # most of a sum is its channels' means then
    before = relaxed.probe.measure()
    relaxed.step(before)  # looks at energies
    terms = relaxed.terms(before)
    foretold = foretold_of(terms, scale_branches(relaxed, restorer, 0.3))
    after = relaxed.probe.measure()
    changes = [np.log(after[key].rate / before[key].rate) for key in foretold]
    errors = [np.log(after[key].rate) - log for key, log in foretold.items()]
    assert np.std(errors) < 0.2 * np.std(changes)


def test_what_is_foretold_of_gradients_below_one_sum_is_exact(load):
    net = load(conv("a", "data") + conv("b", "data") + relu("b") + conv("c", "b") + total("s", "a", "c"))
    caffeinit.init(net, [pictures()], balanced=False)
    relaxed = relaxed_of(net)
    before = relaxed.probe.measure()
    moved = np.random.default_rng(1).normal(0, 1, relaxed.system.num_unknowns)
    foretold = foretold_of(relaxed.terms(before), moved)
    apply(net, Plan(relaxed.system, relaxed.system.expand(moved)))
    for key, rates in relaxed.probe.measure().items():
        assert np.log(rates.rate) == pytest.approx(foretold[key], abs=1e-4)


def part(row, *edge, functions=()):
    return Part.of(functions, np.asarray(row, float), ("value", *edge))


def test_mixtures_have_the_derivatives_that_they_tell():
    rng = np.random.default_rng(0)
    mixtures = Mixtures(3)
    first = mixtures.add([part(rng.normal(size=3), "a", "x"), part(rng.normal(size=3), "a", "y")])
    above = part(rng.normal(size=3), "b", "x", functions=[(first, -2.0)])
    second = mixtures.add([above, part(rng.normal(size=3), "b", "y")])
    energies = {("a", "x"): 3.0, ("a", "y"): 1.0, ("b", "x"): np.nan, ("b", "y"): 1.0}
    mixtures.weigh({("value", *edge): energy for edge, energy in energies.items()})
    x, step = rng.normal(size=3), 1e-6
    slopes = mixtures.at(x)[1]
    for axis in range(3):
        there, back = (mixtures.at(x + sign * step * np.eye(3)[axis])[0] for sign in (1, -1))
        np.testing.assert_allclose((there - back) / (2 * step), slopes[:, axis], atol=1e-7)
    assert mixtures.at(np.zeros(3))[0][second] == pytest.approx(0)


def test_equal_parts_of_a_mixture_are_one():
    mixtures = Mixtures(2)
    assert mixtures.add([part([0, 0], "a", "x"), part([0, 0], "a", "y")]) == 0
    number = mixtures.add([part([1, 1], "b", "x"), part([1, 1], "b", "y")])
    assert mixtures.at(np.array([0.5, 1.0]))[0][number] == pytest.approx(1.5)
    assert mixtures.add([part([0, 0], "c", "x", functions=[(number, 1.0)])]) == number
    half = mixtures.add([part([0, 0], "d", "x", functions=[(number, 0.5)])])
    assert mixtures.at(np.array([0.5, 1.0]))[0][half] == pytest.approx(0.75)
    assert mixtures.add([]) == 0


def test_outputs_do_not_go_far_for_one_rate(load):
    text, below = "", "data"
    for i in range(18):
        text, below = text + conv(f"d{i}", below) + relu(f"d{i}"), f"d{i}"
    text += conv("s15", "d17", 5, 1) + conv("s10", "d9", 5, 1) + conv("s7", "d6", 5, 1)
    net = load(text + total("both", "s15", "s10") + total("all", "both", "s7"))
    result = caffeinit.init(net, [pictures()])
    assert 0.1 < net.forward({"data": pictures()})["all"].std() < 10  # it would be 1800
    assert 0.1 < result.rate_spread < 1
    told = next(note for note in result.notes if "could not be made equal" in note)
    rates = {u.name: u.after.rate for u in result.units}
    assert told.endswith(f"lowest in {min(rates, key=rates.get)}, highest in {max(rates, key=rates.get)}")
    assert any(
        note.startswith("one rate for all units would take the net's outputs to another") for note in result.notes
    )
