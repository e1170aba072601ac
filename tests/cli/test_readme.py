"""The README's commands and its Python run as they stand there, and its reference is what --help says."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(heading, kind):
    """Return the code blocks below a heading."""
    section = re.search(rf"^## {heading}$(.*?)^## ", README, re.MULTILINE | re.DOTALL)[1]
    return re.findall(rf"^```{kind}$(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def commands(heading):
    """Return the words of each caffeinit command below a heading."""
    lines = [shlex.split(line) for block in blocks(heading, "sh") for line in block.splitlines()]
    return [words[1:] for words in lines if words and words[0] == "caffeinit"]


def test_the_reference_is_current():
    done = subprocess.run([sys.executable, ROOT / "tools" / "reference"], capture_output=True, text=True, check=True)
    assert done.stdout in README, "out of date: tools/reference --write"


@pytest.mark.parametrize("heading", ["Use it", "ONNX models", "A whole zoo", "Fine-tune with Caffe"])
def test_commands_run_as_they_stand(heading, place, weights, cli, monkeypatch):
    monkeypatch.chdir(place)
    text = (place / "net.prototxt").read_text()
    (place / "old.prototxt").write_text(text)
    (place / "train_val.prototxt").write_text(text.replace('"ip"', '"ip_mine"'))
    shutil.copy(weights, place / "given.caffemodel")
    (place / "zoo").mkdir()
    for name in ("net.prototxt", "net.caffemodel"):
        shutil.copy(place / name, place / "zoo" / name)
    if heading == "ONNX models":
        assert cli("convert", "net.prototxt", "net.caffemodel", "-o", "model.onnx").code == 0
    given = commands(heading)
    assert given
    for words in given:
        if "-o" in words and (target := Path(words[words.index("-o") + 1])).is_file():
            os.remove(target)  # the examples are each for themselves
        outcome = cli(*words)
        assert outcome.code == 0, (words, outcome.err)


def test_the_python_runs_as_it_stands(place, weights, monkeypatch):
    monkeypatch.chdir(place)
    shutil.copy(place / "net.prototxt", place / "deploy.prototxt")
    weights.rename(place / "weights.caffemodel")
    names = {"x": np.ones((2, 3, 12, 10), np.float32)}
    (block,) = blocks("From Python", "python")
    exec(block, names)
    assert names["out"]["prob"].shape == (2, 4)
    assert len(names["result"].units) == 2
    assert (place / "new.caffemodel").exists()
