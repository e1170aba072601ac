"""What is counted before work starts, to be held against a bound on memory, is what then runs."""

import pytest

import caffeinit
from caffeinit import footprint, jobs
from caffeinit.engine.shelf import Room
from caffeinit.images import as_calibration
from caffeinit.methods import preserving
from caffeinit.methods.training import keeps_function
from caffeinit.model.following import followed_units
from caffeinit.statistics import forward
from caffeinit.statistics.forward import looked_at
from tests.nets import NETS, NetBuilder, pictures

JOBS = {
    "measure": lambda net, images: caffeinit.measure(net, images, memory_limit=1 << 36),
    "preserve": lambda net, images: caffeinit.rescale(net, images, memory_limit=1 << 36),
    "equalize": lambda net, images: caffeinit.rescale(net, images, mode="equalize", memory_limit=1 << 36),
    "init": lambda net, images: caffeinit.init(net, images, memory_limit=1 << 36),
    "init, columns": lambda net, images: caffeinit.init(net, images, per_channel_rates=True, memory_limit=1 << 36),
    "init, no rates": lambda net, images: caffeinit.init(net, images, balanced=False, memory_limit=1 << 36),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("job", JOBS)
def test_what_runs_forward_is_what_was_counted(name, job, monkeypatch):
    net, ran, counted = NETS[name](), [], []
    run_pieces = forward.run_pieces

    def find_room(network, images, work, limit, folder):
        counted.append(work)
        return Room(0, folder)

    def run(network, batches, values, see):
        ran.append(set(values))
        return run_pieces(network, batches, values, see)

    monkeypatch.setattr(footprint, "find_room", find_room)
    for module in (forward, preserving):
        monkeypatch.setattr(module, "run_pieces", run)
    JOBS[job](net, pictures())
    (work,) = counted
    expected = [] if work.forward is None else [set(looked_at(net, work.forward, settled=s)) for s in (False, True)]
    assert all(values in expected for values in ran)
    assert bool(ran) <= (work.forward is not None)


def test_verdicts_that_measuring_does_not_look_at_are_not_counted():
    net = NETS["chain"]()
    measured, compared = (
        footprint._phases(net, as_calibration(pictures(), net.inputs), footprint.Work(forward=values))
        for values in ((), ["data"] * 1000)
    )
    assert measured["a forward run"].least < compared["a forward run"].least


def test_statistics_that_are_still_to_be_set_are_taken_as_set():
    net = NETS["residual"]()
    norms = [unit for unit in net.units if unit.kind == "norm"]
    for unit in norms:
        unit.factor[:] = 0
    before = followed_units(net)
    assert norms
    assert not before.keys() & {unit.key for unit in norms}
    settled = followed_units(net, settled=True)
    for unit in norms:
        unit.factor[:] = 1
    assert settled == followed_units(net)
    assert settled.keys() > before.keys()


def pinned():
    b = NetBuilder()
    x = b.relu(b.conv(b.graph.op("Sigmoid", b.conv("data", "conv1", 8)), "conv2", 6))
    return b.finish(b.product(x, "ip", 5))


@pytest.mark.parametrize(
    ("made", "left", "keeps"),
    [
        (NETS["chain"], "", True),
        (NETS["chain"], "conv2", False),  # it keeps the rate that it has
        (NETS["residual"], "", False),  # terms of a sum are scaled apart
        (pinned, "", False),  # two units have one scale between them
    ],
    ids=["chain", "chain but one", "sum", "pinned"],
)
def test_a_forward_run_counts_where_one_rate_may_change_the_function(made, left, keeps):
    net = made()

    def reason(unit):
        return "left alone" if unit.name == left else ""

    assert keeps_function(net, reason) == keeps
    images = as_calibration(pictures(), net.inputs)
    for balanced in (True, False):
        options = jobs._rate_options(balanced, False, None)
        work = jobs._training_work(net, set(), "gaussian", images, options, reason, 1 << 36)
        assert (work.forward is None) == (keeps or not balanced)
