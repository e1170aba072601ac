"""Inputs that are what they should be; outputs whole or not at all, whatever happens on the way."""

import os
import signal
import stat
import subprocess
import sys
import threading

import pytest

from caffeinit.errors import FormatError, OutputError
from caffeinit.storage import files
from caffeinit.storage.files import check_regular_file, check_target, read_bytes_limited, replacing, replacing_all


@pytest.fixture
def old(tmp_path):
    """A folder with an output of an earlier run."""
    (tmp_path / "out").write_bytes(b"old")
    return tmp_path / "out"


def write(path, content=b"new", force=True):
    with replacing(path, force) as temporary:
        temporary.write_bytes(content)


def test_an_output_is_written_and_nothing_else_is_left(tmp_path):
    write(tmp_path / "out", force=False)
    assert (tmp_path / "out").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out"]


def test_the_target_is_whole_at_every_moment(old):
    with replacing(old, force=True) as temporary:
        assert temporary.parent == old.parent
        temporary.write_bytes(b"half")
        assert old.read_bytes() == b"old"
        temporary.write_bytes(b"new")
    assert old.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_a_failure_leaves_the_old_file_and_no_other(old, error):
    def fail():
        with replacing(old, force=True) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert old.read_bytes() == b"old"
    assert os.listdir(old.parent) == ["out"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("number", "words"), [(28, "no space left"), (30, "read-only"), (5, "input/output error"), (27, "file too large")]
)
def test_a_failing_disk_is_told_in_words(old, force, number, words):
    target = old if force else old.parent / "other"
    with pytest.raises(OutputError, match=words) as found, replacing(target, force):
        raise OSError(number, os.strerror(number))
    assert str(found.value).startswith(str(target))
    assert old.read_bytes() == b"old"
    assert os.listdir(old.parent) == ["out"]


def test_a_really_full_disk_leaves_the_old_file(old):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with pytest.raises(OutputError, match="no space left"), replacing(old, force=True), open("/dev/full", "wb") as full:
        full.write(bytes(1 << 20))
    assert old.read_bytes() == b"old"
    assert os.listdir(old.parent) == ["out"]


def test_an_existing_output_stays_without_force(old):
    with pytest.raises(OutputError, match="exists already; --force"):
        write(old, force=False)
    assert old.read_bytes() == b"old"


def test_an_output_that_appears_meanwhile_stays_without_force(tmp_path):
    with pytest.raises(OutputError, match="appeared"), replacing(tmp_path / "out"):
        (tmp_path / "out").write_bytes(b"of another process")
    assert (tmp_path / "out").read_bytes() == b"of another process"
    assert os.listdir(tmp_path) == ["out"]


def test_without_hard_links_a_new_output_is_renamed(tmp_path, monkeypatch):
    def no_link(*args, **kwargs):
        raise OSError(95, "not supported")

    monkeypatch.setattr(files.os, "link", no_link)
    write(tmp_path / "out", force=False)
    assert (tmp_path / "out").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out"]


def test_a_link_stays_a_link(old):
    link = old.parent / "link"
    link.symlink_to("out")
    write(link)
    assert link.is_symlink()
    assert old.read_bytes() == b"new"


def test_a_link_into_another_folder_is_written_there(old, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "link").symlink_to(old)
    write(tmp_path / "sub" / "link")
    assert old.read_bytes() == b"new"
    assert os.listdir(tmp_path / "sub") == ["link"]


def test_a_link_to_nothing_yet_makes_its_target(tmp_path):
    (tmp_path / "link").symlink_to("target")
    write(tmp_path / "link", force=False)
    assert (tmp_path / "target").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()


def test_permissions_are_those_of_any_new_file(tmp_path):
    mask = os.umask(0o027)
    try:
        write(tmp_path / "out")
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640
    finally:
        os.umask(mask)


def test_a_replaced_file_keeps_its_permissions(old):
    old.chmod(0o600)
    write(old)
    assert stat.S_IMODE(old.stat().st_mode) == 0o600
    with replacing_all([old], force=True) as (temporary,):
        temporary.write_bytes(b"newer")
    assert stat.S_IMODE(old.stat().st_mode) == 0o600


def test_without_hard_links_an_output_that_appears_meanwhile_stays(tmp_path, monkeypatch):
    def no_link(*args, **kwargs):
        (tmp_path / "out").write_bytes(b"of another process")
        raise OSError(1, "not permitted")

    monkeypatch.setattr(files.os, "link", no_link)
    with pytest.raises(OutputError, match="appeared"):
        write(tmp_path / "out", force=False)
    assert (tmp_path / "out").read_bytes() == b"of another process"
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_may_not_be_read_takes_outputs(old, monkeypatch):
    opened = os.open

    def refused(path, *args, **kwargs):
        if path == old.parent:
            raise PermissionError(13, "permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(files.os, "open", refused)
    write(old)
    assert old.read_bytes() == b"new"


def test_an_old_file_that_cannot_be_set_aside_leaves_no_part_of_a_copy(old, monkeypatch):
    def fails(*args, **kwargs):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(files.os, "link", fails)
    monkeypatch.setattr(files.shutil, "copy2", fails)
    with pytest.raises(OutputError, match="no space"), replacing_all([old], force=True) as (temporary,):
        temporary.write_bytes(b"new")
    assert old.read_bytes() == b"old"
    assert os.listdir(old.parent) == ["out"]


def fifo(path):
    os.mkfifo(path)


def loop(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [os.mkdir, fifo, loop], ids=["folder", "pipe", "link to itself"])
@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_file_is_not_replaced(tmp_path, make, force):
    make(tmp_path / "out")
    with pytest.raises(OutputError, match="is not a regular file"):
        write(tmp_path / "out", force=force)
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no/such/out", "folder .* does not exist"),
        ("old/out", "folder .* does not exist"),
        ("x" * 300, "file name too long"),
        ("a\0b", r"a\\0b: cannot be written"),
    ],
    ids=["no folder", "below a file", "long", "zero byte"],
)
def test_an_impossible_name_is_refused_before_the_work(tmp_path, name, words):
    (tmp_path / "old").write_bytes(b"old")
    with pytest.raises(OutputError, match=words):
        check_target(f"{tmp_path}/{name}", force=True)


CHILD = """
import signal, sys, time
from caffeinit.storage.files import replacing
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup and background jobs hand on others
signal.signal(signal.SIGINT, signal.default_int_handler)
with replacing(sys.argv[1], force=True) as temporary:
    temporary.write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_process_told_to_end_leaves_the_old_file_and_no_other(old, number):
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(old)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(number)
        assert child.wait(20) != 0
    assert old.read_bytes() == b"old"
    assert os.listdir(old.parent) == ["out"]


def test_signal_handlers_of_others_stay(old):
    seen = []
    other = signal.getsignal(signal.SIGHUP)
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with replacing(old, force=True) as temporary:
            os.kill(os.getpid(), signal.SIGTERM)
            temporary.write_bytes(b"new")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
    assert old.read_bytes() == b"new"
    assert signal.getsignal(signal.SIGHUP) == other


def test_writers_of_one_file_leave_one_of_theirs_whole(old):
    contents = [bytes([i]) * 100_000 for i in range(8)]
    mask = os.umask(0o022)
    threads = [threading.Thread(target=write, args=(old, c)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.umask(mask) == 0o022
    assert old.read_bytes() in contents
    assert os.listdir(old.parent) == ["out"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no such file"),
        (os.mkdir, "is a folder"),
        (fifo, "is a pipe or device"),
        (loop, "too many levels"),
    ],
    ids=["missing", "folder", "pipe", "link to itself"],
)
def test_an_input_that_is_no_file_is_refused_unopened(tmp_path, make, words):
    make(tmp_path / "in")
    for check in (check_regular_file, lambda path: read_bytes_limited(path, 10, "net")):
        with pytest.raises(FormatError, match=words):
            check(tmp_path / "in")


def test_an_input_s_name_may_hold_anything():
    with pytest.raises(FormatError, match=r"a\\0b"):
        check_regular_file("a\0b")


def test_an_unreadable_input_is_refused(old, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)  # the tests may run as root, who may read all
    with pytest.raises(FormatError, match="may not be read"):
        check_regular_file(old)


def test_no_more_is_read_than_allowed(old):
    assert read_bytes_limited(old, 3, "net definition") == b"old"
    with pytest.raises(FormatError, match="larger than any net definition"):
        read_bytes_limited(old, 2, "net definition")


@pytest.fixture(params=[True, False], ids=["old first", "old second"])
def pair(request, tmp_path):
    """Two targets, one of which is there from an earlier run."""
    paths = [tmp_path / "weights", tmp_path / "net"]
    paths[not request.param].write_bytes(b"old")
    return paths


def write_both(paths, force=True):
    with replacing_all(paths, force) as temporaries:
        for temporary in temporaries:
            temporary.write_bytes(b"new")


def here(paths):
    folder = paths[0].parent
    return {name: (folder / name).read_bytes() for name in os.listdir(folder)}


def test_two_outputs_are_written_and_nothing_else_is_left(pair):
    write_both(pair)
    assert here(pair) == {"weights": b"new", "net": b"new"}


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["disk", "Ctrl-C"])
@pytest.mark.parametrize("named", [0, 1, 2])
def test_where_one_cannot_get_its_name_none_does(pair, monkeypatch, named, error, links):
    before, real, done = here(pair), files._name, []

    def name(temporary, target, force):
        # Of two files, as many get their names as `named` says; then the disk fails, or someone ends the run.
        if len(done) < named:
            real(temporary, target, force)
            done.append(target)
        if len(done) == named:
            raise error

    def no_link(*arguments):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files, "_name", name)
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        write_both(pair)
    assert here(pair) == before


def test_one_that_appears_meanwhile_stays_and_the_other_is_not_written(tmp_path):
    paths = [tmp_path / "weights", tmp_path / "net"]

    def race():
        with replacing_all(paths) as temporaries:
            for temporary in temporaries:
                temporary.write_bytes(b"new")
            paths[1].write_bytes(b"another's")

    with pytest.raises(OutputError, match="appeared"):
        race()
    assert here(paths) == {"net": b"another's"}


def test_two_outputs_of_one_name_are_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "weights")
    with pytest.raises(OutputError, match="one file"):
        write_both([tmp_path / "weights", tmp_path / "link"])
