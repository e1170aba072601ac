"""A small net with pictures, and the command line run in this process."""

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from caffeinit.cli import main

NET = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 10 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "ip" type: "InnerProduct" bottom: "conv1" top: "ip" inner_product_param { num_output: 4 } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _as_in_a_pipe(monkeypatch):
    """Tables are as wide as they need to be, wherever the tests themselves run."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def cli(capfd):
    """Run the command line; a traceback of ours would be an exception here."""

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Outcome(stopped.value.code or 0, out, err)

    return run


@pytest.fixture
def place(tmp_path):
    """A folder with net.prototxt and twelve pictures in pictures/."""
    (tmp_path / "net.prototxt").write_text(NET)
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8)).save(folder / f"{index}.png")
    return tmp_path


@pytest.fixture
def weights(place, cli):
    """Weights drawn for the small net."""
    target = place / "net.caffemodel"
    outcome = cli("init", place / "net.prototxt", "--images", place / "pictures", "--no-balance", "-o", target)
    assert outcome.code == 0
    return target
