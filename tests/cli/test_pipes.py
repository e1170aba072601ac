"""Who reads the output may go away: what is to be written is written, and the exit code is that of the work."""

import os
import subprocess
import sys

import pytest


def _with_a_closed_pipe(place, *arguments):
    """Run the command line with a stdout that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "caffeinit", *map(str, arguments)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=place, text=True, check=False)
    os.close(writer)
    return done.returncode, done.stderr


@pytest.mark.parametrize("more", [[], ["--json", "-"]], ids=["table", "data"])
def test_all_files_are_written_though_nobody_reads(place, more):
    images = ["--images", "pictures", "-o", "x.caffemodel", "--report", "x.html", "--filters", "x.png"]
    assert _with_a_closed_pipe(place, "init", "net.prototxt", *images, *more) == (0, "")
    assert all((place / f"x.{ending}").exists() for ending in ("caffemodel", "html", "png"))


def test_the_exit_code_is_told_though_nobody_reads(place, weights):
    text = (place / "net.prototxt").read_text()
    assert _with_a_closed_pipe(place, "inspect", "net.prototxt", weights) == (0, "")
    (place / "net.prototxt").write_text(text.replace("num_output: 4", "num_output: 5"))
    assert _with_a_closed_pipe(place, "inspect", "net.prototxt", weights) == (1, "")
