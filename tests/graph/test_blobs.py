"""Blobs that a run determines, their names and their shapes."""

import numpy as np
import pytest

from caffeinit.errors import CaffeinitError
from caffeinit.graph.blobs import check_blobs, fits, reachable
from tests.nets import NETS


@pytest.fixture
def graph():
    graph = NETS["chain"]().graph
    graph.add_input("label", (4,))
    graph.op("Sub", graph.outputs[0], "label", name="loss")
    return graph


def test_what_follows_from_the_inputs_that_are_given_is_reached(graph):
    known = reachable(graph, ["data"])
    assert {"data", graph.outputs[0]} <= known
    assert "loss" not in known
    assert "loss" in reachable(graph, ["data", "label"])


@pytest.mark.parametrize(
    ("name", "why"),
    [("loss", "depends on an input that was not given"), ("nothing", "is not there"), ("", "not there")],
)
def test_blobs_that_a_run_does_not_determine_are_refused(graph, name, why):
    check_blobs(graph, [graph.outputs[0]], reachable(graph, ["data"]))
    with pytest.raises(CaffeinitError, match=why):
        check_blobs(graph, [name], reachable(graph, ["data"]))


@pytest.mark.parametrize("rows", [1, 4, 9])
def test_shapes_follow_the_batch_where_any_will_do(graph, rows):
    head, feeds = graph.outputs[0], {"data": np.zeros((rows, *graph.shape("data")[1:]), np.float32)}
    own = graph.shape(head)
    assert fits(graph, head, (rows, *own[1:]), feeds)
    assert not fits(graph, head, (rows + 1, *own[1:]), feeds)
    assert not fits(graph, head, (rows, own[1] + 1), feeds)
    graph.batch_axis_free = False
    assert fits(graph, head, (rows, *own[1:]), feeds) == (rows == own[0])
