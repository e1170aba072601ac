"""What every unit puts out on pictures, in one pass; small nets, in single precision."""

import numpy as np
import pytest

from caffeinit.engine.session import Session, Settings, compile_graph
from caffeinit.graph.rowwise import rowwise_values
from caffeinit.statistics import forward
from caffeinit.statistics.forward import looked_at, measure_moments, written
from caffeinit.statistics.rates import RateProbe
from tests.nets import NETS, batch_statistics, pictures


def test_a_batch_whose_statistics_count_is_not_cut(monkeypatch):
    """With one picture, rows of products less their mean over the batch are all zero."""
    for name in ("PIECE_BYTES", "STREAMED_BYTES"):
        monkeypatch.setattr(f"caffeinit.statistics.forward.{name}", 1)
    net, batches = batch_statistics(), pictures()
    found = measure_moments(net, batches)
    values = {unit.key: unit.uses[0].output for unit in net.units}
    session = compile_graph(net.graph, list(values.values()), Settings(threads=1))
    runs = [session.run(batch) for batch in batches]
    for key, value in values.items():
        whole = np.concatenate([run[value] for run in runs])
        np.testing.assert_allclose(found[key].std, whole.std(axis=(0, *range(2, whole.ndim))), rtol=1e-5)
    assert all(rates.is_measured for rates in RateProbe(net, batches).measure().values())


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
