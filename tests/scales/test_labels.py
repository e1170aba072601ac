"""Labels of many places are solved as those of few, and no slower than these for it."""

import numpy as np
import pytest

from caffeinit.scales import labels
from caffeinit.scales.labels import Constraints
from caffeinit.scales.solving import solve


def gated(channels=5, places=7):
    """Return what varies along channels times what varies along places, of which only channels are told apart."""
    c = Constraints()
    by_channel, by_place, aside = c.fresh((1, channels)), c.fresh((places, 1)), c.fresh((3,))
    product = c.combine((1.0, by_channel), (1.0, by_place))
    c.collapse(product, [0])
    c.combine((0.5, aside[:2]), (1.0, aside[1:]))
    return c


def test_rows_that_differ_in_one_label_are_not_looked_at_one_by_one(monkeypatch):
    looked_at = []
    reduced = labels._reduced_rows
    monkeypatch.setattr(labels, "_reduced_rows", lambda *of: looked_at.append(reduced(*of)) or looked_at[-1])
    monkeypatch.setattr(labels, "_LONG", 10)
    found = solve(gated()).matrix.toarray()
    assert all(len(rows) <= 5 + 2 for rows in looked_at)
    monkeypatch.setattr(labels, "_LONG", 1000)
    wanted = solve(gated()).matrix.toarray()
    ranks = {np.linalg.matrix_rank(m) for m in (found, wanted, np.hstack([found, wanted]))}
    assert ranks == {found.shape[1]} == {5 + 1 + 3}


@pytest.mark.parametrize("columns", [1, 3])
def test_distinct_rows_are_those_of_numpy(columns):
    rows = np.random.default_rng(0).integers(-1, 4, (200, columns))
    found, inverse = labels._distinct(rows)
    wanted = np.unique(rows, axis=0)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(found[inverse], rows)
