"""A small net and real pictures for trying things out, made from what scikit-learn carries: digits and photographs."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
from PIL import Image

from caffeinit.errors import OutputError
from caffeinit.storage.files import replacing

NET = """\
name: "digits"
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 1 dim: {channels} dim: 32 dim: 32 }} }} }}
layer {{ name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param {{ num_output: 24 kernel_size: 5 pad: 2 weight_filler {{ type: "gaussian" std: 0.0001 }} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }}
layer {{ name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param {{ pool: MAX kernel_size: 3 stride: 2 }} }}
layer {{ name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  convolution_param {{ num_output: 32 kernel_size: 3 pad: 1 weight_filler {{ type: "gaussian" std: 0.01 }} }} }}
layer {{ name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }}
layer {{ name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2"
  pooling_param {{ pool: AVE kernel_size: 3 stride: 2 }} }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1"
  inner_product_param {{ num_output: 64 weight_filler {{ type: "gaussian" std: 0.1 }} }} }}
layer {{ name: "relu3" type: "ReLU" bottom: "ip1" top: "ip1" }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param {{ num_output: 10 weight_filler {{ type: "gaussian" std: 0.1 }} }} }}
layer {{ name: "prob" type: "Softmax" bottom: "ip2" top: "prob" }}
"""


def write_demo(folder: Path, force: bool = False) -> list[Path]:
    """Write two nets with their pictures and return the nets' paths.

    Below `folder`: digits.prototxt and digits/ (320 grey ones), photos.prototxt and photos/ (pieces of the two
    photographs).

    Raises:
        OutputError: an earlier demo lies there and `force` is not set, or a file cannot be written.
    """
    from sklearn.datasets import load_digits, load_sample_images

    nets = [folder / f"{name}.prototxt" for name in ("digits", "photos")]
    if not force and any(net.exists() for net in nets):
        raise OutputError(
            f"{folder}: an earlier demo lies there already.\n"
            f"To do it again: caffeinit demo {shlex.quote(str(folder))} --force\nTo do it elsewhere: caffeinit demo FOLDER"
        )
    digits = [np.kron(16 - d, np.ones((4, 4))) * 15.9 for d in load_digits().images[:320]]
    pieces = [
        photo[y : y + 64, x : x + 64]
        for photo in load_sample_images().images
        for y in range(0, photo.shape[0] - 64, 48)
        for x in range(0, photo.shape[1] - 64, 64)
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_pictures(folder / "digits", [d.astype(np.uint8) for d in digits])
        _write_pictures(folder / "photos", pieces)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(
            f"{error.filename or folder}: cannot be written: {reason}.\nTo do it elsewhere: caffeinit demo FOLDER"
        ) from None
    for net, channels in zip(nets, (1, 3), strict=True):
        with replacing(net, force) as temporary:
            temporary.write_text(NET.format(channels=channels).replace('"digits"', f'"{net.stem}"'))
    return nets


def _write_pictures(folder: Path, pictures: list[np.ndarray]) -> None:
    folder.mkdir(exist_ok=True)
    for index, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"{index:03}.png")
