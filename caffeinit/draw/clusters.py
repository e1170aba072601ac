"""Spherical k-means in the whitened space.

Patches have unit length, scikit-learn's k-means clusters them, and the centres are brought back to unit length.

Seeding is k-means++ by blocks: it chooses centres one at a time, which for hundreds of centres takes several times as
long as all rounds after it, while random centres end 1 to 2 % worse however long the rounds go on. A block draws
candidates by squared distance and keeps those that lower the inertia most; centres of one block do not see each other.
Sources: Coates & Ng, "Learning feature representations with k-means", 2012; Arthur & Vassilvitskii, "k-means++: the
advantages of careful seeding", 2007; Bahmani et al., "Scalable k-means++", 2012.
"""

from __future__ import annotations

import numpy as np

from caffeinit.arithmetic.workers import each, row_slices, single_threaded

from .patches import PatchSet

# The only centre of a single cluster is the mean, and whitened patches have mean zero: with few outputs (depthwise
# kernels have one per group) so many clusters are made, and some chosen.
LEAST_CLUSTERS = 8
SEED_BLOCKS = 16
CANDIDATES = 3  # for each centre of a block
LEAST_DISTANCE = 1e-6  # squared, between unit points; below it is rounding


def kmeans(patches: PatchSet, count: int) -> np.ndarray:
    """Return cluster centres of unit length; with no more patches than clusters, the patches themselves."""
    points = patches.unit_points()
    clusters = max(count, LEAST_CLUSTERS)
    if len(points) <= clusters:
        chosen = patches.rng.permutation(len(points))[:count]
        patches.notes.append(f"{len(points)} patches are too few to be clustered: each is its own centre")
        return points[chosen]
    centres = cluster(points, clusters, patches.rng, patches.options.clustering_rounds, patches.options.threads)
    lengths = np.linalg.norm(centres, axis=1)
    # A centre of almost no length is a cluster of opposite patches: it has no direction.
    usable = np.flatnonzero(lengths > 1e-3)
    if len(usable) > count:
        usable = np.sort(patches.rng.choice(usable, count, replace=False))
    centres = centres[usable]
    centres /= lengths[usable, None]
    return centres


def cluster(
    points: np.ndarray, count: int, rng: np.random.Generator, rounds: int, threads: int | None = None
) -> np.ndarray:
    """Return k-means centres (count, r), not of unit length, of different unit points (n, r), n above count."""
    from sklearn.cluster import KMeans  # half a second to import

    first = points[seed_centres(points, count, rng, threads)]
    with single_threaded():
        fitted = KMeans(len(first), init=first, n_init=1, max_iter=rounds).fit(points)
    return np.asarray(fitted.cluster_centers_, np.float32)


def seed_centres(points: np.ndarray, count: int, rng: np.random.Generator, threads: int | None = None) -> np.ndarray:
    """Return the indices of `count` unit points (n, r) to start k-means from; fewer if no more are different."""
    nearest = np.full(len(points), 2.0, np.float32)  # squared distance to the nearest centre so far
    chosen: list[np.ndarray] = []
    bounds = np.arange(SEED_BLOCKS + 1) * count // SEED_BLOCKS
    for wanted in np.diff(bounds)[np.diff(bounds) > 0]:
        weights = np.where(nearest > LEAST_DISTANCE, nearest, 0.0).astype(np.float64)
        num_candidates = min(CANDIDATES * wanted, np.count_nonzero(weights))
        if num_candidates == 0:
            break
        candidates = rng.choice(len(points), num_candidates, replace=False, p=weights / weights.sum())
        distances = _squared_distances(points, points[candidates], threads)
        gains = np.maximum(nearest[:, None] - distances, 0.0).sum(axis=0)
        best = np.argsort(-gains, kind="stable")[:wanted]
        chosen.append(candidates[best])
        np.minimum(nearest, distances[:, best].min(axis=1), out=nearest)
        nearest[candidates[best]] = 0.0
    return np.concatenate(chosen)


def _squared_distances(points: np.ndarray, centres: np.ndarray, threads: int | None) -> np.ndarray:
    """Return (n, k) for unit points and unit centres; exactly 0 may come out as rounding."""
    out = np.empty((len(points), len(centres)), np.float32)

    def block(rows: slice) -> None:
        np.matmul(points[rows], centres.T, out=out[rows])

    each(block, row_slices(len(points)), threads)
    out *= -2.0
    out += 2.0
    return np.maximum(out, 0.0, out=out)
