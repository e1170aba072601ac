"""Weight gradients of single pictures: the sums that define them, in whatever bands they are taken."""

import itertools

import numpy as np
import pytest

from caffeinit.ops import correlation
from caffeinit.ops.correlation import correlated
from caffeinit.ops.windows import Windows

WINDOWS = {
    "plain": (Windows((6, 5), (4, 4), (3, 2), (1, 1), (1, 1), (0, 0), (0, 0)), 1),
    "edges, steps, groups": (Windows((13, 12), (6, 6), (3, 3), (2, 2), (1, 1), (1, 0), (1, 1)), 2),
    "holes": (Windows((9, 8), (5, 4), (3, 3), (1, 1), (2, 2), (0, 0), (0, 0)), 1),
    "one place": (Windows((4, 3), (4, 3), (1, 1), (1, 1), (1, 1), (0, 0), (0, 0)), 4),
    "one axis": (Windows((11,), (5,), (3,), (2,), (1,), (0,), (0,)), 1),
    "three axes": (Windows((4, 5, 6), (3, 3, 3), (2, 3, 2), (1, 1, 2), (1, 1, 1), (0, 0, 0), (0, 0, 0)), 1),
}


@pytest.mark.parametrize("band", [1, 1 << 21])
@pytest.mark.parametrize("name", WINDOWS)
def test_each_weight_gets_the_sum_over_its_places(name, band, monkeypatch):
    monkeypatch.setattr(correlation, "_BAND", band)
    w, group = WINDOWS[name]
    rng = np.random.default_rng(0)
    images, diffs = rng.standard_normal((2, 4, *w.sizes)), rng.standard_normal((2, 8, *w.counts))
    found = correlated(images, diffs, w, group)
    padded = np.pad(images, [(0, 0), (0, 0), *zip(w.begin, w.end, strict=True)])
    assert found.shape == (group, 8 // group, 4 // group, *w.kernel)
    for g, o, i, *place in itertools.product(*(range(n) for n in found.shape)):
        starts = [p * d for p, d in zip(place, w.dilation, strict=True)]
        cuts = [slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(starts, w.counts, w.stride, strict=True)]
        seen = padded[(slice(None), g * (4 // group) + i, *cuts)]
        wanted = (seen * diffs[:, g * (8 // group) + o]).sum()
        assert found[(g, o, i, *place)] == pytest.approx(wanted, rel=1e-12, abs=1e-12)
