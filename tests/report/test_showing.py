"""What tables say of units: no word but what is so."""

import numpy as np
import pytest

import caffeinit
from caffeinit.model.network import BEHIND, Skipped
from caffeinit.report.showing import outcome, remarks
from tests.nets import NETS, pictures


def dead(name, unit):
    """Return a net of which one unit puts out constants."""
    net = NETS[name]()
    for array in net.params[unit]:
        array[...] = 0
    return net


JOBS = {
    "init": lambda net, **more: caffeinit.init(net, pictures(), **more),
    "init as drawn": lambda net, **more: caffeinit.init(net, pictures(), normalized=False, **more),
    **{
        mode: lambda net, mode=mode, **more: caffeinit.rescale(net, pictures(), mode=mode, **more)
        for mode in ("preserve", "equalize", "balance", "fp16", "normalize")
    },
}


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize(
    ("name", "unit", "more"),
    [
        ("chain", "", {}),
        ("inception", "reduce", {}),
        ("residual", "conv3", {}),
        ("residual", "", {"layers": ["conv*"]}),
        ("inception", "", {"layers": ["ip"]}),
    ],
)
def test_what_is_left_alone_keeps_every_bit(name, unit, more, job):
    net = dead(name, unit) if unit else NETS[name]()
    before = {u.initializers[0]: [net.graph.initializers[i].copy() for i in u.initializers] for u in net.units}
    result = JOBS[job](net, **more)
    for found, report in zip(net.units, result.units, strict=True):
        now = [net.graph.initializers[i] for i in found.initializers]
        same = all(np.array_equal(a, b) for a, b in zip(before[found.initializers[0]], now, strict=True))
        assert report.done or report.reason
        assert same or report.done, outcome(report)
        if report.done.startswith(("takes up", "scaled")):
            assert not same


@pytest.mark.parametrize("mode", ["preserve", "equalize", "normalize"])
def test_what_has_no_deviation_is_not_said_to_have_been_given_one(mode):
    result = JOBS[mode](dead("inception", "reduce"))
    said = {u.name: outcome(u) for u in result.units}
    assert said["reduce"].endswith("all its channels are dead on these pictures")
    assert "equalized" not in said["reduce"]
    assert any("dead channels, which do not vary" in note and "reduce" in note for note in result.notes)


def test_one_dead_channel_is_counted():
    net = NETS["chain"]()
    net.params["conv1"][0][2] = 0
    assert outcome(JOBS["equalize"](net).units[0]) == "equalized; 1 channel is dead"


def test_a_unit_without_a_bias_is_not_said_to_have_a_new_mean():
    result = caffeinit.init(NETS["residual"](), pictures())
    conv = next(u for u in result.units if u.name == "conv1")
    assert abs(conv.after.mean - 0.1 * conv.after.std) > 0.01
    assert outcome(conv) == "drawn (gaussian), deviations normalised, without a bias to shift means"


@pytest.mark.parametrize("exact", [False, True])
def test_nothing_is_counted_where_nothing_changed(exact):
    result = caffeinit.rescale(NETS["chain"](), pictures(), powers_of_two=exact)
    (note,) = [n for n in result.notes if n.startswith("output ")]
    assert ("did not move" in note) == exact
    assert "for 0 pictures" not in note


def test_units_without_a_rate_are_told_together_in_words_that_fit_each():
    net = NETS["chain"]()
    for layer in ("conv1", "conv2"):
        net.params[layer][0][...] = 0
    lines = [line for line in remarks(caffeinit.measure(net, pictures())) if line.startswith("no rate")]
    assert "no rate: conv1: its weights are all zero; so it is with conv2" in lines


def test_what_cannot_run_is_told_once_for_each_reason():
    net = NETS["chain"]()
    behind = [Skipped(f"late{i}", f'{BEHIND} "two" (Python), which cannot run') for i in range(30)]
    net.skipped = [Skipped("one", "Python"), Skipped("odd", "of another kind"), Skipped("two", "Python"), *behind]
    lines = [line for line in remarks(caffeinit.measure(net, pictures())) if line.startswith("left out")]
    assert lines == [
        "left out: one, two: Python",
        "left out: odd: of another kind",
        "left out: and 30 layers behind these: late0, late1, late2, late3, late4, late5 and 24 more",
    ]
