"""Labels of many places are solved as those of few, and no slower than these for it."""

from itertools import pairwise

import numpy as np
import pytest

from caffeinit.ops import labels
from caffeinit.ops.labels import Constraints
from caffeinit.scales import solving
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
    reduced = solving._reduced_rows
    monkeypatch.setattr(solving, "_reduced_rows", lambda *of: looked_at.append(reduced(*of)) or looked_at[-1])
    monkeypatch.setattr(solving, "_LONG", 10)
    found = solve(gated()).matrix.toarray()
    assert all(len(rows) <= 6 + 2 for rows in looked_at)  # of 35 and 2
    monkeypatch.setattr(solving, "_LONG", 1000)
    wanted = solve(gated()).matrix.toarray()
    ranks = {np.linalg.matrix_rank(m) for m in (found, wanted, np.hstack([found, wanted]))}
    assert ranks == {found.shape[1]} == {5 + 1 + 3}


@pytest.mark.parametrize("columns", [1, 3])
def test_distinct_rows_are_those_of_numpy(columns):
    rows = np.random.default_rng(0).integers(-1, 4, (200, columns))
    found, inverse = labels.distinct(rows)
    wanted = np.unique(rows, axis=0)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(found[inverse], rows)


def test_a_chain_of_matrices_that_comes_back_turned_is_solved_at_any_width():
    """Widths a, b, c: the way back gives a the inverse, b what two c take of it, and c, in the middle, is one number.

    Rows for each entry of each matrix would take hours to eliminate one by one.
    """
    widths = (300, 120, 40)
    known = Constraints()
    there = [known.fresh((n,)) for n in widths]
    back = [known.fresh((n,)) for n in widths[:-1]]
    ways = [*there, *back[::-1]]
    for k, (inner, outer) in enumerate(pairwise(there)):
        first = known.combine((1.0, outer[:, None]), (-1.0, inner[None, :]))
        last, next_one = (there[-1], back[-1]) if k == len(widths) - 2 else (back[k + 1], back[k])
        second = known.combine((1.0, next_one[None, :]), (-1.0, last[:, None]))
        known.tie(first, second)
    solution = solve(known).matrix.toarray()
    unknowns = np.random.default_rng(0).standard_normal(solution.shape[1])
    values = [solution[labels] @ unknowns for labels in ways]
    assert solution.shape[1] == 300 + 120 + 1
    forth, middle, code = values[0], values[1], values[2]
    assert np.ptp(code) < 1e-9
    assert len(np.unique(forth.round(9))) == 300
    np.testing.assert_allclose(values[3] + middle, 2 * code[0], atol=1e-9)
    np.testing.assert_allclose(values[4] + forth, 2 * code[0], atol=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_what_is_left_out_of_long_relations_follows_from_the_rest(monkeypatch, seed):
    """Random sums along two axes, tied to each other and to single labels: the same scales, however they are solved."""
    found = []
    for least in (2, 10**9):
        monkeypatch.setattr(solving, "_LONG", least)
        rng = np.random.default_rng(seed)
        known = Constraints()
        parts = [known.fresh((n,)) for n in rng.integers(2, 5, 6)]
        made = []
        for _ in range(5):
            one, other = (parts[i] for i in rng.integers(0, len(parts), 2))
            signs = rng.choice([-1.0, 1.0, 0.5], 2)
            made.append(known.combine((signs[0], one[:, None]), (signs[1], other[None, :])))
        for a in made:
            for b in made:
                if a is not b and a.shape == b.shape and rng.random() < 0.6:
                    known.tie(a, b)
        if rng.random() < 0.4:
            known.pin(parts[0][:1], "held")
        found.append(solve(known).matrix.toarray())
    ranks = [np.linalg.matrix_rank(m) if m.size else 0 for m in (*found, np.hstack(found))]
    assert ranks == [found[0].shape[1]] * 3
