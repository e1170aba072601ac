"""Verbs on a failing disk, told to end, or racing: the old file or the new one, whole, and no other left behind."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from caffeinit.caffe.weights import open_weights


@pytest.fixture
def command(place):
    """Return what gives the words of an `init` with this seed and output."""

    def words(target, seed=1):
        net, pictures = place / "net.prototxt", place / "pictures"
        return ["init", net, "--images", pictures, "--no-balance", "--seed", str(seed), "--force", "-o", target]

    return words


def start(words, **more):
    program = [sys.executable, "-m", "caffeinit", *map(str, words)]
    return subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **more)


def bytes_of(cli, command, place, seed=1):
    reference = place / "reference"
    assert cli(*command(reference, seed)).code == 0
    content = reference.read_bytes()
    reference.unlink()
    return content


def test_a_file_that_may_not_grow_leaves_the_old_one(weights, place, command):
    old, before = weights.read_bytes(), sorted(os.listdir(place))

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(old) // 2, len(old) // 2))

    with start(command(weights), preexec_fn=limit) as child:
        assert child.wait(60) == 1
        assert "file too large" in child.stderr.read()
    assert weights.read_bytes() == old
    assert sorted(os.listdir(place)) == before


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 kB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not shutil.which("mount") or mount("-t", "tmpfs", "-o", "size=64k", "none", disk):
        pytest.skip("needs the right to mount")
    yield disk
    subprocess.run(["umount", disk], check=True)


def mount(*words):
    return subprocess.run(["mount", *words], capture_output=True).returncode


def test_a_full_disk_is_told_and_leaves_the_old_file(small_disk, cli, command):
    target = small_disk / "net.caffemodel"
    target.write_bytes(b"old")
    (small_disk / "filler").write_bytes(bytes(59 << 10))
    outcome = cli(*command(target))
    assert outcome.code == 1
    assert "no space left" in outcome.err
    assert target.read_bytes() == b"old"
    assert sorted(os.listdir(small_disk)) == ["filler", "net.caffemodel"]


def test_a_link_to_another_file_system_is_written_there(place, cli, command):
    far = Path("/dev/shm")
    if not far.is_dir() or far.stat().st_dev == place.stat().st_dev:
        pytest.skip("needs a second file system")
    with tempfile.TemporaryDirectory(dir=far) as folder:
        (place / "link").symlink_to(Path(folder, "net.caffemodel"))
        assert cli(*command(place / "link")).code == 0
        assert (place / "link").is_symlink()
        assert Path(folder, "net.caffemodel").read_bytes() == bytes_of(cli, command, place)
        assert os.listdir(folder) == ["net.caffemodel"]


def test_a_target_in_no_real_folder_is_refused(place, cli, command):
    outcome = cli(*command("/proc/net.caffemodel"))
    assert outcome.code == 1
    assert outcome.err.startswith("error: /proc/net.caffemodel: ")


def test_a_read_only_disk_is_refused_in_all_verbs_and_keeps_its_files(small_disk, place, weights, cli, command):
    net, pictures, old = place / "net.prototxt", place / "pictures", small_disk / "old"
    (small_disk / "old").write_bytes(b"old")
    assert mount("-o", "remount,ro", small_disk) == 0
    commands = [
        command(old),
        command(small_disk / "new.caffemodel"),
        ("rescale", net, weights, "--images", pictures, "--force", "-o", old),
        ("measure", net, weights, "--images", pictures, "--force", "--json", old),
        ("inspect", net, weights, "--force", "--filters", small_disk / "new.png"),
        ("convert", net, weights, "--force", "-o", old),
        ("upgrade", net, small_disk / "new.prototxt"),
        ("batch", place, "--images", pictures, "-o", small_disk / "out"),
    ]
    for words in commands:
        outcome = cli(*words)
        assert outcome.code == 1
        assert outcome.err.startswith(f"error: {small_disk}/")
        assert "may not be written to" in outcome.err or "read-only file system" in outcome.err
    assert {p.name: p.read_bytes() for p in small_disk.iterdir()} == {"old": b"old"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name)
def test_a_run_ended_at_any_moment_leaves_the_old_file_or_the_new(weights, place, cli, command, number):
    old, new = weights.read_bytes(), bytes_of(cli, command, place)
    before = sorted(os.listdir(place))
    began = time.monotonic()
    with start(command(weights)) as child:
        assert child.wait(60) == 0
    whole = time.monotonic() - began
    for share in (0.3, 0.6, 0.8, 0.9, 0.95, 1.0):
        weights.write_bytes(old)
        with start(command(weights)) as child:
            try:
                child.wait(whole * share)
            except subprocess.TimeoutExpired:
                child.send_signal(number)
            child.wait(60)
        assert weights.read_bytes() in (old, new)
        left = set(os.listdir(place)) - set(before)
        if number == signal.SIGKILL:
            # Nobody is there to clean up; what is left is hidden, and says what it is.
            assert all(name.startswith(".net.caffemodel.") and name.endswith(".tmp") for name in left)
        else:
            assert left == set()


def test_of_two_runs_with_one_output_one_wins_whole(weights, place, cli, command):
    news = [bytes_of(cli, command, place, seed) for seed in (1, 2)]
    before = sorted(os.listdir(place))
    children = [start(command(weights, seed)) for seed in (1, 2)]
    for child in children:
        assert child.wait(60) == 0
        child.stderr.close()
    assert weights.read_bytes() in news
    assert sorted(os.listdir(place)) == before
    assert set(open_weights(weights).layers) == {"conv1", "ip"}
