"""Sessions have weights of their own."""

import numpy as np

from caffeinit.engine.session import Session, Settings
from tests.nets import NetBuilder


def test_arrays_that_change_change_nothing_in_a_session():
    b = NetBuilder()
    b.graph.add_initializer("shift", np.ones((4, 3, 120, 100), np.float32))
    b.graph.outputs = [b.graph.op("Add", b.graph.op("ReduceMean", "data"), "shift")]
    session = Session(b.graph, Settings(threads=1))
    b.graph.initializers["shift"][...] = 7
    (value,) = session.run({"data": np.zeros((4, 3, 12, 10), np.float32)}).values()
    assert (value == 1).all()
