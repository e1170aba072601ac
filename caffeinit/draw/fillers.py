"""Caffe's weight and bias fillers: the same distributions, from numpy's generators.

Fans are Caffe's: fan_in is the stored array's size over its axis 0, fan_out its size over axis 1, also where layers
store inputs first (Deconvolution, `transpose: true`) or have groups.
Source: BVLC/caffe, include/caffe/filler.hpp.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..errors import LayerError
from .spec import Filler

FillFunction = Callable[[Filler, tuple[int, ...], np.random.Generator], np.ndarray]


def fill(filler: Filler, shape: tuple[int, ...], rng: np.random.Generator, name: str = "") -> np.ndarray:
    """Return a float32 array of Caffe's stored `shape`, filled as `filler` says.

    Raises:
        LayerError: unknown type, or a request that Caffe refuses too (sparse where it is not supported, a bilinear
            filler on kernels that are not square), naming the layer `name`.
    """
    function = _FILLERS.get(filler.type)
    if function is None:
        raise LayerError(
            f'layer "{name}": filler type "{filler.type}" is not one of Caffe\'s ({", ".join(sorted(_FILLERS))}).\n'
            "Choose another --method for this layer, or correct the prototxt."
        )
    if filler.sparse != -1 and filler.type != "gaussian":
        raise LayerError(
            f'layer "{name}": filler type "{filler.type}" does not take `sparse` (found {filler.sparse}); '
            "only gaussian does.\nRemove `sparse` from the filler."
        )
    try:
        return function(filler, shape, rng).astype(np.float32, copy=False)
    except LayerError as error:
        raise LayerError(f'layer "{name}": {error}') from error


def _constant(filler: Filler, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return np.full(shape, filler.value, np.float32)


def _uniform(filler: Filler, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if filler.min > filler.max:
        raise LayerError(f"uniform filler has min {filler.min:g} above max {filler.max:g}.\nSwap the two.")
    return _between(filler.min, filler.max, shape, rng)


def _gaussian(filler: Filler, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Normal values; with `sparse`, each stays with probability sparse / shape[0] and is zero otherwise."""
    if filler.std <= 0 or filler.sparse < -1 or filler.sparse > shape[0]:
        raise LayerError(
            f"gaussian filler has std {filler.std:g} and sparse {filler.sparse} for {shape[0]} outputs.\n"
            "std must be above 0, and sparse at most the number of outputs (-1: not sparse)."
        )
    values = _normal(filler.mean, filler.std, shape, rng)
    if filler.sparse >= 0:
        values *= rng.random(shape, dtype=np.float32) < filler.sparse / shape[0]
    return values


def _positive_unitball(filler: Filler, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Uniform values on (0, 1], divided by the sum over everything but axis 0."""
    values = 1.0 - rng.random((shape[0], math.prod(shape[1:])))
    values /= values.sum(axis=1, keepdims=True)
    return values.reshape(shape)


def _xavier(filler: Filler, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Glorot & Bengio, AISTATS 2010: variance 1 / n, uniform."""
    bound = math.sqrt(3.0 / _fan(filler, shape))
    return _between(-bound, bound, shape, rng)


def _msra(filler: Filler, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """He, Zhang, Ren & Sun, ICCV 2015: variance 2 / n, normal."""
    return _normal(0.0, math.sqrt(2.0 / _fan(filler, shape)), shape, rng)


def _bilinear(filler: Filler, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return the interpolation kernel that every channel pair gets.

    Older Caffe centred odd kernels whose half is even (3, 7, ...) off by half a pixel; this is today's form. The two
    agree for the usual kernel size 2 * factor - factor % 2.
    """
    if len(shape) != 4 or shape[2] != shape[3]:
        raise LayerError(f"bilinear filler needs a square 2-D kernel, found a weight of shape {shape}.")
    half = math.ceil(shape[3] / 2)
    centre = (shape[3] - 1) / (2 * half)
    ramp = 1.0 - np.abs(np.arange(shape[3]) / half - centre)
    return np.broadcast_to(np.outer(ramp, ramp), shape).copy()


def _fan(filler: Filler, shape: tuple[int, ...]) -> float:
    size = math.prod(shape)
    fan_in = size / shape[0]
    fan_out = size / shape[1] if len(shape) > 1 else size
    fans = {"FAN_IN": fan_in, "FAN_OUT": fan_out, "AVERAGE": (fan_in + fan_out) / 2}
    if filler.variance_norm not in fans:
        raise LayerError(f"variance_norm {filler.variance_norm!r} is not one of {', '.join(fans)}.")
    return fans[filler.variance_norm]


def _between(low: float, high: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    values = rng.random(shape, dtype=np.float32)
    values *= np.float32(high - low)
    values += np.float32(low)
    return values


def _normal(mean: float, std: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    values = rng.standard_normal(shape, dtype=np.float32)
    values *= np.float32(std)
    values += np.float32(mean)
    return values


_FILLERS: dict[str, FillFunction] = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}
FILLER_TYPES = tuple(sorted(_FILLERS))
