"""The same command gives the same bytes, run again in another process and whatever --threads says."""

import os
import subprocess
import sys

import pytest

METHODS = ("gaussian", "kmeans", "pca")


@pytest.mark.parametrize("method", METHODS)
def test_threads_and_hash_seeds_leave_no_trace(place, method):
    contents = []
    for threads, hashes in ((1, "0"), (2, "1"), (4, "2"), (0, "3")):
        target = place / f"{threads}.caffemodel"
        words = ["init", "net.prototxt", "--images", "pictures", "-o", target, "--method", method]
        program = [sys.executable, "-m", "caffeinit", *words, "--threads", str(threads), "--quiet"]
        subprocess.run(program, cwd=place, check=True, env=os.environ | {"PYTHONHASHSEED": hashes})
        contents.append(target.read_bytes())
    assert all(content == contents[0] for content in contents)
