"""Results reach their places whatever the interpreter leaves out."""

import subprocess

from tests.batch.conftest import NAMES, content
from tests.batch.running import command


def test_results_are_delivered_by_an_interpreter_that_leaves_assertions_out(place):
    words = command(place)
    done = subprocess.run([words[0], "-O", *words[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert content(place / "out").keys() >= set(NAMES)
