"""Boxes of a graph and their places: nothing overlaps, all lines go down, and no line runs through a box."""

import itertools

import numpy as np
import pytest

from caffeinit.report.boxes import find_boxes, kinds
from caffeinit.report.drawing import network_scales
from caffeinit.report.figures import log_ticks
from caffeinit.report.layout import lay_out
from tests.nets import NETS

WIDTH, GAP, LANE = 100, 10, 8


def random_graph(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    return [
        sorted({int(rng.integers(n + 1, count)) for _ in range(rng.integers(0, 4))} if n + 1 < count else ())
        for n in range(count)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_nothing_overlaps_and_lines_go_down(seed):
    readers = random_graph(seed)
    found = lay_out(readers, WIDTH, GAP, LANE)
    taken = {}
    for node, (row, center) in enumerate(zip(found.rows, found.centers, strict=True)):
        taken.setdefault(row, []).append((center, WIDTH))
        assert all(found.rows[end] > row for end in readers[node])
    for start, end, passed in found.lines:
        assert len(passed) == found.rows[end] - found.rows[start] - 1
        for row, x in enumerate(passed, found.rows[start] + 1):
            taken[row].append((x, LANE))
    for places in taken.values():
        places.sort()
        for (a, wide), (b, other) in itertools.pairwise(places):
            assert b - a >= (wide + other) / 2 + GAP - 1e-6
        assert places[0][0] - places[0][1] / 2 >= -1e-6
        assert places[-1][0] + places[-1][1] / 2 <= found.width + 1e-6
    assert sorted((s, e) for s, e, _ in found.lines) == sorted((n, e) for n, ends in enumerate(readers) for e in ends)
    assert max(found.rows) == found.num_rows - 1


def test_a_chain_is_a_straight_line():
    found = lay_out([[1], [2], [3], []], WIDTH, GAP, LANE)
    assert np.ptp(found.centers) == 0
    assert found.rows == [0, 1, 2, 3]


def test_an_input_stands_right_above_its_reader():
    assert lay_out([[2], [4], [3], [4], []], WIDTH, GAP, LANE).rows == [0, 2, 1, 2, 3]


WANTED = {
    "chain": ["data", "conv1", "conv2", "ip1", "ip2"],
    "inception": ["data", "stem", "one", "reduce", "three", "Concat", "last", "ip"],
    "residual": ["data", "conv1", "conv2", "conv3", "Add", "ip"],
}


@pytest.mark.parametrize("name", NETS)
def test_what_follows_in_a_line_is_one_box(name):
    net = NETS[name]()
    scales = network_scales(net)
    boxes = find_boxes(net, scales.units)
    assert [box.units[0].name if box.units else box.name for box in boxes] == WANTED[name]
    assert [u.name for box in boxes for u in box.units] == [u.name for u in net.units]
    if name == "residual":
        assert [len(b.units) for b in boxes] == [0, 3, 3, 3, 0, 1]
        assert boxes[1].readers == [2, 4]
        assert kinds(boxes[1]) == "Conv, BatchNormalization, Mul, Add, Relu"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.8, 6, [1, 2, 5]),
        (1e-9, 1e9, [1e-9, 1e-5, 1e-1, 1e3, 1e7]),
        (1, 1, [1]),
        (80, 2500, [100, 200, 500, 1000, 2000]),
        (1e-320, 1e308, None),
    ],
)
def test_ticks_are_few_and_round(low, high, expected):
    found = log_ticks(low, high, 5)
    assert len(found) <= 5
    assert all(low <= t <= high for t in found)
    assert expected is None or found == pytest.approx(expected)
