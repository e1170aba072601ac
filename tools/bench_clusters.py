"""How good the clusters of `--method kmeans` are: their inertia against scikit-learn's full k-means on the same patches."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_jobs import Given, prepared, timed, write_net
from sklearn.cluster import KMeans

from caffeinit.arithmetic.workers import single_threaded
from caffeinit.draw import clusters
from caffeinit.methods.redraw import UnitSampler, draw_network
from caffeinit.methods.within import normalize
from caffeinit.model.network import Network

UNITS = ("conv1", "conv2", "conv3", "conv4", "conv5")


class Watched:
    """A unit's sampler that notes what is clustered while it draws, one (points, centres, seconds) for each group."""

    def __init__(self, sampler: UnitSampler) -> None:
        self.sampler = sampler
        self.found: list[tuple[np.ndarray, np.ndarray, float]] = []

    def observe(self, values: np.ndarray, use: int, pictures: int) -> None:
        self.sampler.observe(values, use, pictures)

    def draw(self) -> None:
        ours = clusters.cluster

        def cluster(points: np.ndarray, *more: Any) -> np.ndarray:
            done = timed(lambda: ours(points, *more))
            self.found.append((points, done.result.copy(), done.wall))
            return done.result  # type: ignore[no-any-return]

        clusters.cluster = cluster
        try:
            self.sampler.draw()
        finally:
            clusters.cluster = ours


def bench_clusters(given: Given, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each convolution of CaffeNet: the ratio is our inertia over that of k-means++ and full k-means.

    Units are drawn and normalised one after the other, as `init` does, so that the deeper ones see what it shows them.
    """
    net, batches = prepared(write_net("caffenet", folder), given)
    return [_row(name, watched, given) for name, watched in watch(net, batches, len(UNITS)).items()]


def watch(net: Network, batches: list[dict[str, np.ndarray]], most: int) -> dict[str, Watched]:
    """Draw the first units by k-means and normalise them; returns what was clustered for each."""
    names = [unit.name for unit in net.units if unit.kind == "affine"][:most]
    pictures = sum(len(batch["data"]) for batch in batches)
    drawing = draw_network(net, lambda name: name in names, "kmeans", 0, pictures)
    found = {name: Watched(sampler) for name, sampler in drawing.samplers.items()}
    normalize(net, batches, samplers=found)
    return found


def inertia(points: np.ndarray, centres: np.ndarray) -> float:
    """Return the sum of squared distances of points (n, r) to their nearest centres (k, r)."""
    squares = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
    return float(squares.min(axis=1).sum(dtype=np.float64))


def _row(name: str, watched: Watched, given: Given) -> dict[str, Any]:
    ours = sum(inertia(points, centres) for points, centres, _ in watched.found)
    ratios, seconds, began = [], [], time.perf_counter()
    while len(ratios) < given.rounds and (not ratios or time.perf_counter() - began < given.seconds):
        done = timed(lambda: sum(_full(points, len(centres), len(ratios)) for points, centres, _ in watched.found))
        ratios.append(ours / done.result)
        seconds.append(done.wall)
    return {
        "net": "clusters",
        "job": f"inertia {name}, {watched.found[0][0].shape[0]} x {watched.found[0][0].shape[1]}",
        "images": given.images,
        "rounds": len(ratios),
        "plain_s": statistics.median(seconds),
        "job_s": sum(taken for _, _, taken in watched.found),
        "ratio_min": min(ratios),
        "ratio": statistics.median(ratios),
        "ratio_max": max(ratios),
    }


def _full(points: np.ndarray, count: int, seed: int) -> float:
    """Return the inertia that k-means from k-means++ ends with, with its own bound of 300 rounds."""
    with single_threaded():  # as ours; its threads wait for each other long where the cores are taken
        return float(KMeans(count, init="k-means++", n_init=1, max_iter=300, random_state=seed).fit(points).inertia_)
