"""Directions drawn from patches: `patches`, `pca` and `zca`.

A method answers with directions in whitened space, at most as many as asked for and as the data determines; mapping
them back to filters, filling up and the fallbacks are the same for all (see `learned`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .spec import DrawOptions
from .whitening import Whitening

# Cosine from which on two directions in float32 are the same.
SAME_DIRECTION = 1 - 1e-6


@dataclass
class PatchSet:
    """The sampled patches of one group, decomposed.

    Attributes:
        samples: (n, d) float32, finite, every row a different patch.
        whitening: of `samples`.
        rng: of this unit and group.
        options: regulariser, fill policy, threads.
        notes: what the reader of the report should know; methods and policies add to it.
    """

    samples: np.ndarray
    whitening: Whitening
    rng: np.random.Generator
    options: DrawOptions
    notes: list[str] = field(default_factory=list)

    def unit_points(self) -> np.ndarray:
        """Return the whitened patches (n', r) at unit length, without those at the mean itself and without repeats."""
        points = self.whitening.whiten(self.samples, self.options.threads)
        lengths = np.sqrt(np.einsum("nr,nr->n", points, points))
        present = lengths > 1e-6 * lengths.max(initial=0.0)
        if not present.all():
            points, lengths = points[present], lengths[present]
        points /= lengths[:, None]
        return self._without_repeats(points)

    def _without_repeats(self, points: np.ndarray) -> np.ndarray:
        """Drop unit points that equal another: different patches may lie in one direction, on one line all do.

        Equal points have equal projections on any line, so they are neighbours once sorted by that.
        """
        line = self.rng.standard_normal(points.shape[1], dtype=np.float32)
        projections = points @ line
        order = np.argsort(projections, kind="stable")
        near = np.flatnonzero(np.diff(projections[order]) < 1e-5 * np.linalg.norm(line))
        one, other = order[near], order[near + 1]
        same = np.einsum("nr,nr->n", points[one], points[other]) > SAME_DIRECTION
        return np.delete(points, other[same], axis=0) if same.any() else points


def pca(patches: PatchSet, count: int) -> np.ndarray:
    """Leading principal directions, in order: responses are uncorrelated."""
    return np.eye(min(count, patches.whitening.rank), patches.whitening.rank, dtype=np.float32)


def zca(patches: PatchSet, count: int) -> np.ndarray:
    """Rows of the symmetric whitening matrix V D V^T, in the order of the inputs.

    With fewer outputs than inputs a random choice of rows; inputs that never vary have none.
    """
    directions = patches.whitening.directions
    strengths = np.einsum("rd,rd->d", directions, directions)
    alive = np.flatnonzero(strengths > 1e-6 * strengths.max(initial=0.0))
    if len(alive) > count:
        alive = np.sort(patches.rng.choice(alive, count, replace=False))
    return np.ascontiguousarray(directions[:, alive].T)


def random_patches(patches: PatchSet, count: int) -> np.ndarray:
    """Whitened patches chosen at random."""
    points = patches.unit_points()
    chosen = patches.rng.choice(len(points), min(count, len(points)), replace=False)
    return points[chosen]
