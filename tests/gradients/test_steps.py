"""A graph with gradients that runs in steps gives what it gives in one, and holds no value longer than it is needed."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from caffeinit.gradients import steps
from caffeinit.gradients.runs import WholeRun
from caffeinit.gradients.squares import KeptSquares, SquaresInOrder
from caffeinit.gradients.steps import cut_on_way_back, held_beside
from caffeinit.graph import Graph
from caffeinit.statistics.rates import RateProbe
from tests.gradients.test_runs import ALL
from tests.nets import pictures


@pytest.fixture
def finely(monkeypatch):
    """Return what has all nets run in so many steps, at most, from then on."""

    def use(most):
        monkeypatch.setattr(steps, "LEAST_ELEMENTS", 0)
        monkeypatch.setattr("caffeinit.gradients.runs.NUM_STEPS", most)

    return use


def probe_of(name, threads=2):
    net = ALL[name]()
    net.settings = replace(net.settings, threads=threads)
    return RateProbe(net, pictures())


@pytest.mark.parametrize("name", ALL)
def test_the_cut_does_not_show_in_a_single_bit(name, finely):
    finely(1)
    whole = probe_of(name)
    wanted = whole.measure()
    finely(1000)
    probe = probe_of(name)
    assert isinstance(probe.run, WholeRun)
    assert len(list(whole.run.steps(1))) == 1 < len(list(probe.run.steps(1)))
    for _ in range(2):  # what is computed once for all pieces has been forgotten in between
        for key, rates in probe.measure().items():
            assert rates.rate == wanted[key].rate
            np.testing.assert_array_equal(rates.column_rates, wanted[key].column_rates)


@pytest.mark.parametrize("name", ALL)
def test_steps_are_given_what_earlier_ones_made_and_keep_nothing_that_is_not_needed(name, finely):
    finely(1000)
    run = probe_of(name).run
    there, sources = {*run.graph.inputs}, {v for of in run.sources.values() for s in of for v in s.values}
    for number, (step, beside) in enumerate(zip(run._steps, held_beside(run._steps), strict=True)):
        assert there.issuperset(step.inputs)
        assert not there.intersection(step.made)
        assert there - {*run.graph.inputs} == {*beside, *step.inputs} - {*run.graph.inputs}
        there = (there | {*step.outputs}) - {*step.last_use}
        later = {name for after in run._steps[number + 1 :] for name in after.inputs}
        assert there - {*run.graph.inputs} <= later | sources
    assert there == {*run.graph.inputs}


def test_what_an_earlier_step_has_made_needs_none_of_its_own(monkeypatch):
    """Two units whose gradients come from the same values, as turned views of one array."""
    monkeypatch.setattr(steps, "LEAST_ELEMENTS", 0)
    graph = Graph()
    first = graph.op("Relu", graph.add_input("data", (2, 3)))
    second = graph.op("Neg", first)
    sources = {"one": [SimpleNamespace(values=[second])], "other": [SimpleNamespace(values=[first, second])]}
    (step,) = cut_on_way_back(graph, sources, [])
    assert set(step.outputs) == set(step.last_use) == {first, second}


def test_masks_are_made_on_the_way_back(finely):
    finely(1000)
    run = probe_of("chain").run
    first = run.graph.part(run._steps[0].outputs, run._steps[0].inputs)
    made = {node.op_type for node in run.graph.nodes}
    assert "Greater" in made
    # The gradient of the last unit is there without any mask; the forward pass hands none on.
    assert not any(first.elem_type(name) == 9 for name in run._steps[0].outputs)


def test_squares_are_added_in_the_order_of_the_pieces_whoever_is_first():
    sums = SquaresInOrder(["unit"])
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((1, 3, 4)) * 10.0 ** rng.integers(-8, 8) for _ in range(6)]
    gates = [threading.Event() for _ in parts]

    def piece(number):
        with sums.turn(number) as add:
            if number % 2 == 0:
                gates[number].wait(10)  # its successor comes first
            else:
                gates[number - 1].set()
            add("unit", KeptSquares(parts[number].copy()))

    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(piece, range(len(parts))))
    wanted = parts[0].copy()
    for part in parts[1:]:
        wanted += part
    np.testing.assert_array_equal(sums.parts["unit"][0].sums, wanted)


def test_an_error_in_one_piece_holds_no_other_up():
    sums = SquaresInOrder(["unit"])

    def piece(number):
        with sums.turn(number) as add:
            if number == 0:
                raise ValueError("broken")
            add("unit", KeptSquares(np.ones((1, 1, 1))))

    with ThreadPoolExecutor(3) as pool, pytest.raises(ValueError, match="broken"):
        list(pool.map(piece, range(3)))
