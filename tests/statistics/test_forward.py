"""What every unit puts out on pictures, in one pass; small nets, in single precision."""

import numpy as np

from caffeinit.engine.session import Settings, compile_graph
from caffeinit.statistics.forward import measure_moments
from caffeinit.statistics.rates import RateProbe
from tests.nets import batch_statistics, pictures


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
