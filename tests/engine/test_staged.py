"""Stages compute what the whole graph computes, each node once, and keep no more than one cut."""

import numpy as np
import pytest

from caffeinit.engine.session import Settings, compile_graph
from caffeinit.engine.staged import StagedRun
from caffeinit.engine.stages import plan_stages
from caffeinit.graph import Graph
from tests.nets import NETS, pictures


def unit_outputs(net):
    return [use.output for unit in net.units for use in unit.uses]


@pytest.mark.parametrize("name", NETS)
def test_every_node_that_sees_data_runs_once(name):
    net = NETS[name]()
    moving = net.graph.moving_values()
    stages = plan_stages(net.graph, unit_outputs(net), net.graph.outputs)
    ran = [id(n) for s in stages for n in net.graph.ancestors(s.outputs, s.inputs) if n.output[0] in moving]
    assert sorted(ran) == sorted(id(n) for n in net.graph.nodes if n.output[0] in moving)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("batch", [12, 5])
def test_stages_compute_what_the_whole_graph_computes(name, batch):
    net, batches = NETS[name](), pictures(batch=batch)
    values = unit_outputs(net)
    run = StagedRun(net.graph, batches, plan_stages(net.graph, values, values), Settings(threads=1))
    for number in range(len(run.stages)):
        run.run(number, lambda value, piece: None)
    session = compile_graph(net.graph, values, Settings(threads=1))
    whole = [session.run(b) for b in batches]
    for value in values:
        expected = np.concatenate([w[value] for w in whole])
        np.testing.assert_allclose(np.concatenate(run.values(value)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_checkpoints_that_do_not_depend_on_each_other_share_a_stage(name):
    net = NETS[name]()
    stages = plan_stages(net.graph, unit_outputs(net))
    depth = {"chain": 4, "inception": 5, "residual": 10}[name]
    assert len(stages) == depth


def test_what_changes_between_stages_is_seen_downstream():
    net, batches = NETS["chain"](), pictures()
    first = net.units[0].uses[0].output
    stages = plan_stages(net.graph, unit_outputs(net), net.graph.outputs)
    run = StagedRun(net.graph, batches, stages, Settings(threads=1))
    for number, stage in enumerate(stages):
        run.run(number, lambda value, piece: None)
        if first in stage.checkpoints:
            for piece in run.values(first):
                piece *= 2
    doubled = NETS["chain"]()
    doubled.units[0].rescale(np.full(8, 2.0), np.zeros(8))
    expected = doubled.graph.outputs[0]
    session = compile_graph(doubled.graph, [expected], Settings(threads=1))
    np.testing.assert_allclose(
        np.concatenate(run.values(expected)),
        np.concatenate([session.run(b)[expected] for b in batches]),
        rtol=1e-4,
        atol=1e-5,
    )


def test_kept_memory_is_a_cut_not_the_whole_net():
    net, batches = NETS["chain"](), pictures(num=40)
    run = StagedRun(net.graph, batches, plan_stages(net.graph, unit_outputs(net)), Settings(threads=1))
    for number in range(len(run.stages)):
        run.run(number, lambda value, piece: None)
        run.release(number)
    per_picture = {v: 4 * int(np.prod(net.graph.shape(v)[1:])) for v in unit_outputs(net)}
    widest = max(per_picture.values()) * 40
    assert widest <= run.peak_bytes < 1.5 * widest
    assert run.peak_bytes < sum(per_picture.values()) * 40


def test_sizes_that_a_net_works_out_are_kept_between_stages():
    """Two stages turn the numbers by an extent without axes, in a net that takes its pictures one by one."""
    graph = Graph()
    first = graph.op("Relu", graph.add_input("data", (1, 6)), name="first")
    height = graph.op("Mul", graph.op("Gather", graph.op("Shape", first), np.asarray(1)), np.asarray(2))
    lines = graph.op("Unsqueeze", graph.op("Div", height, np.asarray(4)), [0])
    second = graph.op("Neg", graph.op("Reshape", first, graph.op("Concat", lines, [-1], axis=0)), name="second")
    width = graph.op("Unsqueeze", graph.op("Div", height, np.asarray(6)), [0])
    graph.op("Reshape", second, graph.op("Concat", width, [-1], axis=0), name="third")
    batches = [{"data": p[None]} for p in np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)]
    stages = plan_stages(graph, ["first", "second"], ["third"])
    run = StagedRun(graph, batches, stages, Settings(threads=1))
    for number in range(len(stages)):
        run.run(number, lambda value, piece: None)
    assert any(height in s.inputs for s in stages)
    for batch, found in zip(batches, run.values("third"), strict=True):
        np.testing.assert_array_equal(found, -np.maximum(batch["data"], 0).reshape(2, 3))
