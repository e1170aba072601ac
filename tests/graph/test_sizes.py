"""Sizes of values for another number of pictures are those that a run of so many makes."""

import numpy as np
import pytest

from caffeinit.engine.device import Device
from caffeinit.engine.session import Session, Settings
from caffeinit.graph import Graph
from caffeinit.graph.sizes import resized, value_bytes
from caffeinit.statistics.rates import RateProbe
from tests.gradients.test_runs import ALL
from tests.nets import pictures


@pytest.mark.parametrize("name", ALL)
def test_values_for_another_number_of_pictures_have_the_size_that_a_run_gives_them(name):
    num = 3
    net = ALL[name]()
    net.settings = Settings(1, Device(resident=True))  # weights' gradients, not what they are made from, are put out
    graph = RateProbe(net, pictures()[:1]).run.graph
    assert graph.batch_size() == 4
    other = resized(graph, num)
    moving = graph.moving_values()
    values = [o for node in graph.nodes for o in node.output if o in moving]
    whole = graph.part(values)
    feeds = {n: np.zeros((num * s[0] // 4, *s[1:]), np.float32) for n, s in whole.inputs.items()}
    found = Session(whole, Settings(threads=1)).run(feeds)
    assert {n: value_bytes(other, n, num) for n in values} == {n: a.nbytes for n, a in found.items()}
    # What is summed over the pictures is as large for any number of them.
    assert any(value_bytes(other, n, num) == value_bytes(graph, n, 4) for n in graph.outputs)


def test_inputs_that_are_not_of_the_batch_keep_their_shape_at_another_size():
    graph = Graph()
    graph.batch_axis_free = True
    x, noise = graph.add_input("x", (4, 3)), graph.add_input("noise", (6, 3), is_still=True)
    y, z = graph.op("Relu", x), graph.op("Relu", noise)
    other = resized(graph, 2)
    assert [other.shape(value) for value in (x, noise, y, z)] == [(2, 3), (6, 3), (2, 3), (6, 3)]
