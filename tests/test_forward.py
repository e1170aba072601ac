"""Pieces of a forward run that do not stream are written into memory that is taken once."""

import numpy as np
import pytest

from caffeinit import forward
from caffeinit.engine.session import Session
from caffeinit.forward import looked_at, measure_moments, written
from caffeinit.rowwise import rowwise_values
from tests.nets import NETS, pictures


@pytest.mark.parametrize("name", NETS)
def test_pieces_that_do_not_stream_are_written_into_the_same_memory(name, monkeypatch):
    net, batches = NETS[name](), pictures(num=11, batch=4)
    expected = measure_moments(net, batches)
    places, run = [], Session.run

    def watch(self, feeds, into=None, **more):
        places.append({value: array.ctypes.data for value, array in (into or {}).items()})
        return run(self, feeds, into, **more)

    monkeypatch.setattr(forward, "can_stream", lambda part, settings: False)
    monkeypatch.setattr(Session, "run", watch)
    found = measure_moments(net, batches)
    assert len(places) == 3
    assert places[0] == places[1]
    assert places[0].keys() == set(looked_at(net))
    for key, moments in expected.items():
        np.testing.assert_array_equal(found[key].mean, moments.mean)
        np.testing.assert_array_equal(found[key].std, moments.std)


def test_what_belongs_to_no_picture_is_not_written_where_it_is_wanted():
    net = NETS["chain"]()
    first = next(use.output for unit in net.units for use in unit.uses)
    whole = net.graph.op("ReduceMean", first, axes=[0, 1, 2, 3], keepdims=0)
    after = net.graph.op("Mul", net.graph.unused()[0], whole)
    part = net.graph.part([*looked_at(net), after])
    assert first in rowwise_values(part)
    assert not {whole, after} & rowwise_values(part)
    assert set(written(net, part)) == set(looked_at(net))
