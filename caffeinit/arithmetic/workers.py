"""Work spread over threads in a way that cannot change the result.

A BLAS or OpenMP library that cuts one sum over its threads gives other last digits for another number of threads, and
k-means turns last digits into other centres. So the libraries run on one thread each, and the work is cut here
instead, by sizes that do not depend on the number of workers, and put together in order.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")

_inside = threading.local()


@contextmanager
def single_threaded() -> Iterator[None]:
    """Hold numeric libraries to one thread per caller.

    OpenMP's limit belongs to the thread that sets it, so whoever calls scikit-learn from a worker enters this too.
    """
    with _controller("sklearn.cluster" in sys.modules).limit(limits=1):
        yield


@contextmanager
def worker_pool(threads: int) -> Iterator[Executor]:
    """Give threads to share numeric work among; libraries do not add threads of their own, which would wait by spinning."""
    with single_threaded(), ThreadPoolExecutor(threads) as pool:
        yield pool


@functools.cache
def _controller(with_sklearn: bool) -> ThreadpoolController:
    """Return the handle on all numeric libraries loaded; scikit-learn brings one more, and looking takes 2 ms."""
    return ThreadpoolController()


def each(function: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None) -> list[Result]:
    """Return `[function(item) for item in items]`, computed by several threads.

    A call from inside a worker runs in that worker: the outer cut has the cores already.
    """
    todo = list(items)
    workers = min(len(todo), threads or os.cpu_count() or 1)
    if workers <= 1 or getattr(_inside, "worker", False):
        return [function(item) for item in todo]
    with ThreadPoolExecutor(workers, initializer=_mark_worker) as pool:
        return list(pool.map(function, todo))


def _mark_worker() -> None:
    _inside.worker = True


def row_slices(num_rows: int, block: int = 1024) -> list[slice]:
    """Cut rows into blocks whose size depends on nothing else."""
    return [slice(start, min(start + block, num_rows)) for start in range(0, num_rows, block)]
