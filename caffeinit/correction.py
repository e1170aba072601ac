"""What takes a unit's output to given means and deviations: the arithmetic of one unit, on its arrays and on kept values.

Corrections are affine in each channel, so that a kept activation is corrected in place instead of being computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from caffeinit.moments import Moments
from caffeinit.units import Unit

_BLOCK_ELEMENTS = 1 << 16


@dataclass(frozen=True)
class Correction:
    """What takes a unit's output to mean beta and deviation 1: output * scale + shift, (C,) float64 each."""

    scale: np.ndarray
    shift: np.ndarray
    dead: np.ndarray


class Correctable(Protocol):
    """A kept activation that lies out of reach, on a device."""

    def correct(self, scale: np.ndarray, shift: np.ndarray, axis: int, rectify: bool) -> None:
        """Have x * scale + shift, and max(x, 0) after it where `rectify` says so, take its place."""


@dataclass(frozen=True)
class Target:
    """What a unit's output is to have.

    Attributes:
        mean, std: of each channel, (C,), or of all.
        pooled: all channels get one factor and one shift, so that this is true on average only.
    """

    mean: np.ndarray | float
    std: np.ndarray | float = 1.0
    pooled: bool = False


def plan_correction(unit: Unit, moments: Moments, target: Target) -> Correction:
    """Return the correction of a unit with these output moments; dead channels are left as they are.

    A unit without weight (a learned shift alone) keeps its deviation, one without bias keeps its mean's share.
    """
    dead = moments.dead
    alive = ~dead
    scale = np.ones(len(moments.mean))
    if unit.weight is not None:
        scale[alive] = np.broadcast_to(target.std, alive.shape)[alive] / moments.std[alive]
        if target.pooled and alive.any():
            scale[alive] = np.exp(np.log(scale[alive]).mean())
    shift = np.zeros_like(scale)
    if unit.bias is not None:
        shift[alive] = (target.mean - moments.mean * scale)[alive]
        if target.pooled and alive.any():
            shift[alive] = shift[alive].mean()
    return Correction(scale, shift, dead)


def set_statistics(unit: Unit, moments: Moments, target: Target) -> Moments:
    """Store the moments of a norm unit's input as its statistics; return the moments of its output.

    The unit's factor becomes the deviation aimed at, and its shift 0, where it has them.
    """
    assert unit.mean is not None
    assert unit.variance is not None
    factor = 1.0
    if unit.factor is not None:
        if unit.factor[0] == 0:
            unit.factor[...] = 1
        factor = float(unit.factor[0])
    variance = moments.std**2
    unit.mean[...] = moments.mean * factor
    unit.variance[...] = variance * factor
    scale = 1 / np.sqrt(variance + unit.epsilon)
    if unit.weight is not None:
        unit.weight[...] = target.std
        scale = scale * target.std
    if unit.bias is not None:
        unit.bias[...] = 0
    return moments.scaled(scale, -moments.mean * scale)


def correct_values(
    pieces: Iterable[np.ndarray | Correctable],
    correction: Correction,
    axis: int,
    rectify: bool = False,
    *,
    pool: Executor | None = None,
) -> None:
    """Apply a correction to kept activations in place, in blocks that stay in the cache.

    Args:
        rectify: take max(x, 0) afterwards.
        pool: threads to share the work among.
    """
    scale, shift = correction.scale.astype(np.float32), correction.shift.astype(np.float32)

    def correct(at: tuple[np.ndarray, slice]) -> None:
        part, channels = at
        trailing = (1,) * (rank - axis % rank - 1)
        np.multiply(part, scale[channels].reshape(-1, *trailing), out=part)
        np.add(part, shift[channels].reshape(-1, *trailing), out=part)
        if rectify:
            np.maximum(part, np.float32(0), out=part)

    for piece in pieces:
        if not isinstance(piece, np.ndarray):
            piece.correct(scale, shift, axis, rectify)
            continue
        rank = piece.ndim
        blocks = _blocks(piece, axis % rank)
        list(pool.map(correct, blocks) if pool else map(correct, blocks))


def _blocks(values: np.ndarray, axis: int) -> Iterator[tuple[np.ndarray, slice]]:
    """Yield views of an activation and the channels that they hold."""
    everything = slice(None)
    if values.ndim <= 2 or axis != 1:
        yield from [(values, everything)] if values.ndim <= 2 or axis == 0 else ((row, everything) for row in values)
        return
    step = max(1, _BLOCK_ELEMENTS // max(math.prod(values.shape[2:]), 1))
    for picture in values:
        for start in range(0, values.shape[1], step):
            channels = slice(start, start + step)
            yield picture[channels], channels
