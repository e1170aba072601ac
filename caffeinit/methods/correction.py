"""What takes a unit's output to given means and deviations: the arithmetic of one unit, on its arrays and on kept values.

Corrections are affine in each channel, so that a kept activation is corrected in place instead of being computed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from caffeinit.arithmetic.moments import Moments
from caffeinit.graph.units import Unit


@dataclass(frozen=True)
class Correction:
    """What takes a unit's output to mean beta and deviation 1: output * scale + shift, (C,) float64 each."""

    scale: np.ndarray
    shift: np.ndarray
    dead: np.ndarray


class Trust(Enum):
    """What the deviations of single channels are taken for.

    Attributes:
        FULL: what they are, to be corrected each by itself.
        SAMPLE: estimates from few values; a scatter as large as chance alone would make is taken out of them.
        NONE: chance; all channels get one factor and one shift.
    """

    FULL = 1
    SAMPLE = 2
    NONE = 3


@dataclass(frozen=True)
class Target:
    """What a unit's output is to have.

    Attributes:
        mean, std: of each channel, (C,), or of all; true on average only where single channels are not trusted in full.
    """

    mean: np.ndarray | float
    std: np.ndarray | float = 1.0
    trust: Trust = Trust.FULL


def plan_correction(unit: Unit, moments: Moments, target: Target) -> Correction:
    """Return the correction of a unit with these output moments; dead channels are left as they are.

    So are channels whose deviation is to be 0: those were dead when it was measured. A unit without weight (a learned shift
    alone) keeps its deviation, one without bias keeps its mean's share.
    """
    wanted = np.broadcast_to(target.std, moments.dead.shape)
    dead = moments.dead | (wanted == 0)
    alive = ~dead
    scale = np.ones(len(moments.mean))
    if unit.weight is not None:
        scale[alive] = wanted[alive] / moments.std[alive]
        if alive.any():
            scale[alive] = _trusted(scale[alive], moments.count, target.trust)
    shift = np.zeros_like(scale)
    if unit.bias is not None:
        shift[alive] = (target.mean - moments.mean * scale)[alive]
        if target.trust is Trust.NONE and alive.any():
            shift[alive] = shift[alive].mean()
    return Correction(scale, shift, dead)


def _trusted(scale: np.ndarray, count: float, trust: Trust) -> np.ndarray:
    """Return factors that were found from deviations over so many values, as far as these are trusted.

    The logarithm of a normal sample's deviation scatters with a variance of about 1 / (2 (count - 1)).
    """
    if trust is Trust.FULL:
        return scale
    logs = np.log(scale)
    seen = logs.var()
    kept = 0.0
    if trust is Trust.SAMPLE and count > 1 and seen > 0:
        kept = np.sqrt(max(0.0, 1 - 1 / (2 * (count - 1) * seen)))
    return np.asarray(np.exp(logs.mean() + kept * (logs - logs.mean())))


def set_statistics(unit: Unit, moments: Moments, target: Target) -> Moments:
    """Store the moments of a norm unit's input as its statistics; return the moments of its output.

    The unit's factor and shift become the deviation and the mean aimed at, where it has them.
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
    shift = -moments.mean * scale
    if unit.bias is not None:
        unit.bias[...] = target.mean
        shift = shift + target.mean
    return moments.scaled(scale, shift)
