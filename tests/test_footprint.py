"""A bound on memory changes no byte, is kept, leaves nothing behind, and is refused where it cannot be kept."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import caffeinit
from caffeinit import footprint
from caffeinit.arithmetic.buffers import BufferPool
from caffeinit.engine.session import Settings
from caffeinit.engine.shelf import Room, ScratchFile, Shelf, Stored
from caffeinit.engine.staged import StagedRun
from caffeinit.engine.stages import plan_stages
from caffeinit.errors import OptionError, OutputError
from tests.nets import NETS, pictures

PLENTY = 1 << 36


def arrays_of(net):
    return [a for arrays in net.params.values() for a in arrays]


@pytest.fixture
def spilling(monkeypatch):
    """Give whatever is bounded no memory at all for kept values; returns the number of arrays put into files."""
    written = []
    write = ScratchFile.write
    monkeypatch.setattr(ScratchFile, "write", lambda self, array: (written.append(array.nbytes), write(self, array))[1])
    monkeypatch.setattr(footprint, "find_room", lambda net, images, work, limit, folder: Room(0, folder))
    return written


JOBS = {
    "init": lambda net, images, **options: caffeinit.init(net, images, **options),
    "init from patches": lambda net, images, **options: caffeinit.init(net, images, method="pca", **options),
    "preserve": lambda net, images, **options: caffeinit.rescale(net, images, **options),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("job", JOBS)
def test_a_bound_changes_no_byte(name, job, spilling, tmp_path):
    free, bound = NETS[name](), NETS[name]()
    JOBS[job](free, pictures(num=20, batch=5))
    assert not spilling
    JOBS[job](bound, pictures(num=20, batch=5), memory_limit=PLENTY, temp_dir=tmp_path)
    for a, b in zip(arrays_of(free), arrays_of(bound), strict=True):
        np.testing.assert_array_equal(a, b)
    assert bool(spilling) == (job != "preserve")  # what keeps the function goes through the net piece by piece
    assert not list(tmp_path.iterdir())
    assert bound.settings.room is None


@pytest.mark.parametrize("share", [0.0, 0.4, 0.8])
def test_kept_memory_stays_below_the_room(share):
    net, batches = NETS["residual"](), pictures(num=40)
    values = [use.output for unit in net.units for use in unit.uses if len(net.graph.shape(use.output)) == 4]
    stages = plan_stages(net.graph, values)

    def peak(room):
        run = StagedRun(net.graph, batches, stages, Settings(1, room=room))
        for number in range(len(stages)):
            run.run(number, lambda value, piece: None)
            run.release(number)
        return run.peak_bytes

    # Besides the room, what goes into a run and comes out of it is in memory.
    picture = max(sum(4 * np.prod(net.graph.shape(v)[1:]) for v in {*s.inputs, *s.outputs}) for s in stages)
    room = int(share * peak(None))
    assert peak(Room(room)) <= room + 4 * picture < peak(None)


def test_a_small_limit_is_refused_before_anything_is_changed():
    net = NETS["chain"]()
    before = [a.copy() for a in arrays_of(net)]
    with pytest.raises(OptionError, match=r"(?s)--memory-limit 20M is too little: .*Give \d+M or more"):
        caffeinit.init(net, pictures(), memory_limit=20 << 20)
    for a, b in zip(before, arrays_of(net), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_least_limit_that_is_named_is_taken():
    net = NETS["chain"]()
    with pytest.raises(OptionError) as refused:
        caffeinit.measure(net, pictures(), memory_limit=1 << 20)
    least = int(str(refused.value).split("Give ")[1].split("M")[0]) + 8  # the process may have grown a little since
    caffeinit.measure(net, pictures(), memory_limit=least << 20)


def test_outputs_that_wait_to_be_compared_count_as_large_as_they_are():
    net = NETS["chain"]()
    with pytest.raises(OptionError) as refused:
        caffeinit.rescale(net, pictures(), memory_limit=1 << 20)
    least = int(str(refused.value).split("Give ")[1].split("M")[0]) << 20
    assert least <= (footprint.resident_bytes() + (64 << 20)) / 0.97  # 32 MB and 3 % of it are for what is not counted


def test_arrays_come_back_from_the_file_changed_as_asked():
    pool = BufferPool()
    shelf = Shelf(pool, Room(100))
    arrays = [np.arange(n, dtype=np.float32) for n in (20, 30, 7, 0)]
    pieces = [shelf.put(a) for a in arrays]

    def double(given, *, pool=None):
        for array in given:
            array *= 2

    shelf.change_when_read(pieces, double)
    shelf.change_when_read(pieces, double)
    for piece, n in zip(pieces, (20, 30, 7, 0), strict=True):
        factor = 4 if isinstance(piece, Stored) else 1
        np.testing.assert_array_equal(shelf.get(piece), factor * np.arange(n))
    assert sum(isinstance(piece, Stored) for piece in pieces) == 2


def test_places_in_the_file_are_written_again():
    file = ScratchFile()
    first = file.write(np.zeros(100, np.float32))
    file.free(first)
    second = file.write(np.ones((5, 5), np.float64))
    assert file.size == 400
    np.testing.assert_array_equal(file.load(second), np.ones((5, 5)))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_told_in_words(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Path("/dev/full").open("wb", buffering=0))  # noqa: SIM115
    with pytest.raises(OutputError, match=r"no space left on device.*--temp-dir"):
        ScratchFile(tmp_path).write(np.ones(10))


def test_a_folder_that_is_gone_is_told_in_words(tmp_path):
    with pytest.raises(OutputError, match="no such file or directory"):
        ScratchFile(tmp_path / "gone").write(np.ones(10))


KILLED = """
import os, sys, time
import numpy as np
from caffeinit.engine.shelf import ScratchFile
file = ScratchFile(sys.argv[1])
file.write(np.ones(1000))
print("written", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_file_is_left_after_a_signal(number, tmp_path):
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "written\n"
        assert not list(tmp_path.iterdir())  # it has no name from the first moment
        child.send_signal(number)
        child.wait()
    assert not list(Path(tmp_path).iterdir())
