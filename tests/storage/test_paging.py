"""Parts of mapped files are let go of, and read again as they were; what was written in memory alone is not lost."""

import ctypes
import mmap
import subprocess
import sys

import numpy as np
import pytest

from caffeinit.storage.paging import let_go, let_go_of, return_large_blocks, trim_heap


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "numbers"
    np.arange(1 << 18, dtype=np.float32).tofile(path)
    return path


@pytest.mark.parametrize("at", [slice(None), slice(5, 70000), slice(9, 11), slice(0, 0)], ids=str)
def test_what_was_let_go_of_is_read_again(path, at):
    array = np.memmap(path, np.float32, "r")[at]
    wanted = array.copy()
    let_go_of(array)
    np.testing.assert_array_equal(array, wanted)


def test_changes_of_a_private_mapping_stay(path):
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as data:
        array = np.frombuffer(data, np.float32)
        array[::7] = -1
        let_go_of(array)
        assert (array[::7] == -1).all()
        del array


def test_the_heap_can_be_trimmed_while_it_is_used():
    blocks = [bytes([number % 256]) * 5000 for number in range(2000)]
    del blocks[::2]
    trim_heap()
    assert all(block == bytes([(2 * at + 1) % 256]) * 5000 for at, block in enumerate(blocks))


FREED = """
import os
import ctypes
import subprocess
import sys

import numpy as np
from caffeinit.footprint import resident_bytes
from caffeinit.storage.paging import return_large_blocks
return_large_blocks()
values = [np.ones(1 << 17, np.float32) for _ in range(200)]
before = resident_bytes()
del values[:-1]
print((before - resident_bytes()) >> 20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="C's allocator is another one here")
def test_values_of_half_a_megabyte_leave_no_holes():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 95  # of 99


def test_other_memory_is_left_alone():
    array = np.ones(1 << 16, np.float32)
    array.flags.writeable = False
    let_go_of(array[3:])
    let_go(b"bytes", 0, 5)
    assert (array == 1).all()


def test_a_system_without_a_c_library_of_its_own_is_left_alone(monkeypatch):
    """On Windows there is none to ask for; the loader fails there."""

    def load(name):
        raise TypeError("bad argument type for built-in operation")

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "CDLL", load)
    trim_heap()
    return_large_blocks()
