"""The README's commands run as they stand there, and its reference is what --help says."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def commands(heading):
    """Return the words of each caffeinit command in the first code block below a heading."""
    block = re.search(rf"^## {heading}$.*?^```sh$(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for line in block[1].splitlines()]
    return [words[1:] for words in lines if words and words[0] == "caffeinit"]


def test_the_reference_is_current():
    done = subprocess.run([sys.executable, ROOT / "tools" / "reference"], capture_output=True, text=True, check=True)
    assert done.stdout in README, "out of date: tools/reference --write"


@pytest.mark.parametrize("heading", ["Use it", "Fine-tune with Caffe"])
def test_commands_run_as_they_stand(heading, place, weights, cli, monkeypatch):
    monkeypatch.chdir(place)
    text = (place / "net.prototxt").read_text()
    for name in ("old.prototxt", "train_val.prototxt"):
        (place / name).write_text(text)
    given = commands(heading)
    assert given
    for words in given:
        if "-o" in words and (target := Path(words[words.index("-o") + 1])).exists():
            os.remove(target)  # the examples are each for themselves
        outcome = cli(*words)
        assert outcome.code == 0, (words, outcome.err)
