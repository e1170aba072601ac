"""What is told of outputs that were given a scale, and of units without a rate."""

import numpy as np
import pytest

import caffeinit
from caffeinit.methods.telling import loose_notes
from tests.nets import NetBuilder, pictures


@pytest.mark.parametrize(
    ("held", "spread", "words"),
    [
        (0.7, 0.01, "differ from their mean by up to a factor of 2.01 with outputs that deviate by 1"),
        (0.7, 0.9, "tied to their size. "),  # the search did not keep what it promised
        (0.01, 0.01, "far along the curves"),
    ],
)
def test_outputs_of_another_size_are_told_with_what_was_won(held, spread, words):
    (note,) = loose_notes(held, (3.0, spread))
    assert note.startswith("the net's outputs do not deviate by 1: ")
    assert words in note
    assert note.endswith("`--no-balance` leaves them at 1")


def test_outputs_that_were_given_none_are_not_told():
    assert loose_notes(None, (3.0, 0.5)) == []


@pytest.mark.parametrize(
    ("count", "others"),
    [(1, ""), (2, "; so it is with dead1"), (9, "; so it is with dead1, dead2, dead3, dead4, dead5, dead6 and 2 more")],
)
def test_units_without_a_rate_for_the_same_reason_are_told_in_one_sentence(count, others):
    build = NetBuilder()
    heads = [build.conv("data", f"dead{i}", 2) for i in range(count)]
    net = build.finish(build.graph.op("Concat", *heads, build.conv("data", "alive", 2), axis=1))
    for i in range(count):
        net.params[f"dead{i}"][0][...] = 0
    notes = [n for n in caffeinit.rescale(net, pictures(), mode="normalize").notes if "no rate" in n]
    assert notes == [f"dead0 has no rate: its weights are all zero{others}"]


def test_what_holds_the_units_whose_rates_are_farthest_off_is_told():
    """Two outputs of 3 and 12 numbers that read one value: no scale of theirs is free, and none of it parts their rates."""
    build = NetBuilder()
    below = build.relu(build.conv("data", "conv1", 8))
    heads = [build.product(below, name, outputs) for name, outputs in (("few", 3), ("many", 12))]
    net = build.finish(build.graph.op("Concat", *heads, axis=1))
    net.graph.outputs = heads
    result = caffeinit.rescale(net, pictures(), mode="normalize")
    assert result.rate_spread > 0.02
    (told,) = [n for n in result.notes if "could not be made equal" in n]
    assert told.endswith('highest in few (its output is held: net output "few")')


def test_a_unit_that_learns_too_fast_for_its_pictures_is_told_what_scale_does():
    """Sigmoids hold both outputs: with smaller pictures weights are larger for the same, and learn slower."""
    rates = []
    for loud in (60, 6):
        build = NetBuilder()
        below = build.graph.op("Sigmoid", build.conv("data", "conv1", 8))
        net = build.finish(build.graph.op("Sigmoid", build.product(below, "ip", 5)))
        batches = [{"data": batch["data"] * loud} for batch in pictures()]
        result = caffeinit.init(net, batches)
        rates.append(result.units[0].after.rate / result.units[1].after.rate)
        (told,) = [n for n in result.notes if "could not be made equal" in n]
        std = np.concatenate([batch["data"] for batch in batches])[:16].std()
        assert "highest in conv1" in told
        assert told.endswith(
            f"(it reads numbers that deviate by {std:.3g}: a `--scale` of 1/k brings its rate down by about k²)"
        )
    assert rates[0] / rates[1] == pytest.approx(100, rel=1e-3)
