"""Factors on arrays of weights, in place.

Weights are the largest arrays there are, and one factor a channel is all that most steps do to them. The work goes through
blocks that stay in the cache, shared among threads; no copy of the whole is made, and the cut does not show in the result.
"""

from __future__ import annotations

import math

import numpy as np

from caffeinit.arithmetic.workers import each

_BLOCK_ELEMENTS = 1 << 17  # of float64, which stay in the cache


def multiply(array: np.ndarray, *factors: np.ndarray, threads: int = 0) -> bool:
    """Multiply a float32 array by the product of these factors, in place, rounding each number once.

    Args:
        factors: float64, or a single one of float32, which takes half of the time; of the array's rank, broadcast to it.
        threads: 0 for one per core.
    Returns:
        Whether all numbers are finite afterwards.
    """
    if array.ndim == 0:
        array, factors = array.reshape(1), tuple(f.reshape(1) for f in factors)
    one = _single(factors)
    is_short = len(factors) == 1 and factors[0].dtype == np.float32
    if one == 1:
        return is_finite(array, threads)

    def change(at: tuple[slice, ...]) -> bool:
        block = array[at]
        # Threads have error states of their own.
        with np.errstate(over="ignore", invalid="ignore"):
            if one is not None:
                # One factor for all stays a float32 product, which is many times faster.
                np.multiply(block, one, out=block, casting="same_kind")
            elif is_short:
                np.multiply(block, _cut(factors[0], at), out=block)
            else:
                product = np.multiply(block, _cut(factors[0], at), dtype=np.float64)
                for more in factors[1:]:
                    product *= _cut(more, at)
                block[...] = product
        return bool(np.isfinite(block).all())

    return all(each(change, _blocks(array), threads))


def is_finite(array: np.ndarray, threads: int = 0) -> bool:
    """Tell whether all numbers are finite, without an array of flags as long as the array."""
    array = array.reshape(1) if array.ndim == 0 else array
    return all(each(lambda at: bool(np.isfinite(array[at]).all()), _blocks(array), threads))


def is_zero(array: np.ndarray) -> bool:
    """Tell whether all numbers are zero; of an array that is not, little is looked at as a rule."""
    array = array.reshape(1) if array.ndim == 0 else array
    with np.errstate(invalid="ignore"):  # NaN of a kind that processors complain of
        return not any(array[at].any() for at in _blocks(array))


def shortened(factors: np.ndarray) -> np.ndarray:
    """Return factors in single precision, as they are where that has no room for them."""
    with np.errstate(over="ignore", under="ignore"):
        short = factors.astype(np.float32)
    limits = np.finfo(np.float32)
    sizes = np.abs(short[factors != 0])
    return short if ((sizes >= limits.tiny) & (sizes <= limits.max)).all() else factors


def moves(logs: np.ndarray) -> bool:
    """Tell whether log factors change a number in single precision."""
    with np.errstate(over="ignore"):  # what leaves it changes numbers, too
        return bool((np.exp(logs).astype(np.float32) != 1).any())


def fits(array: np.ndarray, *factors: np.ndarray, threads: int = 0) -> bool:
    """Tell whether `multiply` would leave finite numbers only; nothing is changed."""
    if not array.size:
        return True
    array, factors = (array, factors) if array.ndim else (array.reshape(1), tuple(f.reshape(1) for f in factors))
    largest = max(each(lambda at: _magnitude(array[at]), _blocks(array), threads))
    most = math.prod(float(f.max()) for f in factors)
    if largest * most <= float(np.finfo(np.float32).max):
        return True

    def stays(at: tuple[slice, ...]) -> bool:
        product = array[at].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            for factor in factors:
                product *= _cut(factor, at)
            return bool(np.isfinite(product.astype(np.float32)).all())

    return all(each(stays, _blocks(array), threads))


def _magnitude(block: np.ndarray) -> float:
    """Return the largest magnitude; NaN where there is one."""
    return float(np.maximum(block.max(), -block.min()))


def copied(array: np.ndarray, threads: int = 0) -> np.ndarray:
    """Return a copy; most of the time goes into memory that is touched for the first time, which threads share."""
    copy = np.empty_like(array)
    put(copy, array, threads)
    return copy


def put(array: np.ndarray, values: np.ndarray, threads: int = 0) -> None:
    """Set an array to values of its shape, in place."""
    if array.ndim == 0:
        array[...] = values
        return

    def fill(at: tuple[slice, ...]) -> None:
        array[at] = values[at]

    each(fill, _blocks(array), threads)


def _single(factors: tuple[np.ndarray, ...]) -> float | None:
    """Return the one number that the factors are; None where they vary."""
    if any(f.size != 1 for f in factors):
        return None
    return float(np.prod([float(f.reshape(-1)[0]) for f in factors]))


def _cut(factors: np.ndarray, at: tuple[slice, ...]) -> np.ndarray:
    """Return the part of broadcast factors that belongs to a block."""
    return factors[tuple(slice(None) if size == 1 else part for part, size in zip(at, factors.shape, strict=True))]


def _blocks(array: np.ndarray) -> list[tuple[slice, ...]]:
    """Cut an array along the axis whose entries lie farthest from each other in memory."""
    if not array.size:
        return []
    axis = max(range(array.ndim), key=lambda a: (array.shape[a] > 1, abs(array.strides[a])))
    step = max(1, _BLOCK_ELEMENTS * array.shape[axis] // array.size)
    whole = [slice(None)] * array.ndim
    return [
        (*whole[:axis], slice(start, start + step), *whole[axis + 1 :]) for start in range(0, array.shape[axis], step)
    ]
