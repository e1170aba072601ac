"""Leading eigenvectors of symmetric matrices, several at a time.

scipy's functions hold the interpreter's lock while LAPACK works, so that the groups of a convolution would wait for each
other. The routine behind them is the same here, reached through the table that scipy keeps for Cython; ctypes lets other
threads go on.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

# LAPACK's name for a type of numbers.
_LETTERS = {np.dtype(np.float32): "s", np.dtype(np.float64): "d"}


def leading_eigenvectors(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest eigenvalues in rising order, (count,), and unit eigenvectors as rows, (count, order).

    Args:
        matrix: (order, order) float32 or float64, symmetric; destroyed.
        count: 1 up to the order.
    Raises:
        ArithmeticError: LAPACK's iteration did not converge, or the matrix is not finite.
    """
    order, kind = len(matrix), matrix.dtype
    values, vectors = np.empty(order, kind), np.empty((count, order), kind)
    support, found = np.empty(2 * order, np.intc), np.zeros(1, np.intc)
    scalar = _C_TYPES[kind]
    first, last = ctypes.c_int(order - count + 1), ctypes.c_int(order)
    size, zero, info = ctypes.c_int(order), scalar(0), ctypes.c_int(0)
    work, numbers = np.empty(1, kind), np.empty(1, np.intc)
    for asked in (True, False):
        _routine(_LETTERS[kind] + "syevr")(
            b"V", b"I", b"L", _at(size), matrix.ctypes.data, _at(size), _at(zero), _at(zero), _at(first), _at(last),
            _at(zero), found.ctypes.data, values.ctypes.data, vectors.ctypes.data, _at(size), support.ctypes.data,
            work.ctypes.data, _at(ctypes.c_int(-1 if asked else len(work))), numbers.ctypes.data,
            _at(ctypes.c_int(-1 if asked else len(numbers))), _at(info),
        )  # fmt: skip
        if asked:  # only how much room it needs
            work, numbers = np.empty(int(work[0]), kind), np.empty(int(numbers[0]), np.intc)
    if info.value or found[0] != count or not np.isfinite(values[:count]).all():
        raise ArithmeticError(f"no {count} leading eigenvectors of a matrix of order {order} were found")
    return values[:count], vectors


_C_TYPES: dict[np.dtype, Any] = {np.dtype(np.float32): ctypes.c_float, np.dtype(np.float64): ctypes.c_double}


def _at(value: Any) -> Any:
    return ctypes.byref(value)


@functools.cache
def _routine(name: str) -> Callable[..., None]:
    """Return a LAPACK routine; all its arguments are pointers."""
    import scipy.linalg.cython_lapack as table

    capsule = table.__pyx_capi__[name]
    get_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    address = get_pointer(capsule, get_name(capsule))
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 21)(address)
