"""A small zoo, made from nothing: nets of a few layers with random weights, and pictures."""

import numpy as np
import pytest
from PIL import Image

import caffeinit

DEPLOY = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 10 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "ip" type: "InnerProduct" bottom: "conv1" top: "ip" inner_product_param { num_output: 4 } }
"""
TRAIN = DEPLOY.replace(
    'type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 10 } }',
    'type: "ImageData" top: "data" top: "label" transform_param { crop_size: 12 } '
    'image_data_param { source: "list.txt" batch_size: 2 }',
)
OTHER = DEPLOY.replace("num_output: 6", "num_output: 5").replace('"small"', '"other"')


def write_net(folder, text=DEPLOY, name="deploy.prototxt"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def write_weights(net, name="net.caffemodel", seed=0):
    """Write random weights that fit a net, beside it."""
    network = caffeinit.load(net)
    rng = np.random.default_rng(seed)
    for arrays in network.params.values():
        for array in arrays:
            array[...] = rng.standard_normal(array.shape)
    network.save(net.parent / name, force=True)
    return net.parent / name


def write_pictures(folder, count=6):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (14, 12, 3), np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def place(tmp_path):
    """A folder with pictures/, and zoo/ with three models: first, deep/er/second and third."""
    write_pictures(tmp_path / "pictures")
    for seed, name in enumerate(("first", "deep/er/second", "third")):
        write_weights(write_net(tmp_path / "zoo" / name, OTHER if name == "third" else DEPLOY), seed=seed)
    return tmp_path


NAMES = ["deep/er/second/net.caffemodel", "first/net.caffemodel", "third/net.caffemodel"]


def content(out):
    """Return path -> bytes of all that is the same each time: all but the times and the batch's own workplace."""
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in sorted(out.rglob("*"))
        if p.is_file() and ".batch" not in p.parts and p.name != "times.jsonl"
    }
