"""Running sums hold what they read where it is not known along which axis they run."""

from caffeinit.scales.classes import find_scales
from tests.nets import NetBuilder


def test_sums_along_an_axis_that_is_not_known_hold_what_they_read():
    b = NetBuilder()
    x = b.relu(b.conv("data", "below", 5))
    b.graph.add_input("axis", (1,))
    x = b.graph.op("CumSum", x, b.graph.op("Cast", "axis", to=7), name="running")
    net = b.finish(b.conv(x, "above", 4))
    assert find_scales(net.graph, net.learned).num_unknowns == 0
