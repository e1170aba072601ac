"""Memory that is handed out is nobody else's, and what is given back is what is taken next."""

import numpy as np
import pytest

from caffeinit.arithmetic.buffers import BufferPool, ThreadMemory

FLOAT = np.dtype(np.float32)


@pytest.mark.parametrize("slab", [0, 1 << 12, 1 << 20])
def test_arrays_never_share_memory(slab):
    rng, pool, held = np.random.default_rng(3), BufferPool(slab), []
    for number in range(400):
        if held and rng.random() < 0.48:
            array, value = held.pop(int(rng.integers(len(held))))
            assert (array == value).all()
            pool.give_back(array)
            continue
        array = pool.take((int(rng.integers(1, 40)), int(rng.integers(1, 20))), FLOAT)
        array[...] = number
        parts = pool.split(array, [1, len(array) - 1]) if len(array) > 1 and number % 5 == 0 else [array]
        held += [(part, number) for part in parts]
    assert all((array == value).all() for array, value in held)


@pytest.mark.parametrize("slab", [0, 1 << 20])
def test_memory_that_was_given_back_is_written_again(slab):
    pool = BufferPool(slab)
    for shape in [(8, 1000), (16, 500), (4, 2000)]:
        arrays = [pool.take(shape, FLOAT) for _ in range(5)]
        assert pool.peak == 5 * 32000
        for array in arrays:
            pool.give_back(array)


def test_parts_of_an_array_make_room_for_one_as_large():
    pool = BufferPool()
    whole = pool.take((10, 16), FLOAT)
    behind = pool.take((1, 16), FLOAT)
    for part in pool.split(whole, [3, 3, 4]):
        pool.give_back(part)
    again = pool.take((5, 32), FLOAT)
    assert again.ctypes.data == whole.ctypes.data
    assert not np.shares_memory(again, behind)


def test_where_little_is_to_be_taken_a_small_array_is_not_in_the_way_of_a_large_one():
    pool = BufferPool(0)
    pool.give_back(pool.take((100, 16), FLOAT))
    for _ in range(3):
        small, large = pool.take((2, 16), FLOAT), pool.take((100, 16), FLOAT)
        pool.give_back(small)
        pool.give_back(large)
    assert pool.peak == 102 * 16 * 4


def test_arrays_from_elsewhere_are_let_go():
    pool = BufferPool()
    pool.give_back(np.zeros(5, np.float32))
    assert pool.peak == 0


def test_a_thread_writes_its_own_memory_again():
    memory = ThreadMemory()
    first, second = memory.take([((3, 5), FLOAT), ((7,), np.dtype(np.float64))])
    assert not np.shares_memory(first, second)
    assert first.dtype == np.float32
    assert second.shape == (7,)
    (again,) = memory.take([((2, 5), FLOAT)])
    assert again.ctypes.data == first.ctypes.data
