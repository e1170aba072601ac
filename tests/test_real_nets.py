"""Real nets and pictures: what the written file holds is measured again by tools/remeasure, a plain forward of its own."""

import importlib.machinery
import importlib.util
from pathlib import Path

import pytest

import caffeinit
from tests.conftest import shared

TOOL = Path(__file__).resolve().parents[1] / "tools" / "remeasure"
CIFAR, MNIST, PHOTOS = ("cifar10", "train"), ("mnist", "t10k-images-idx3-ubyte.gz"), ("imagenet160",)
# Net below models/, weights, pictures, how they are read, input shape. VDSR keeps 20 layers of 64 maps in the size of
# the picture: 256x256 as in its prototxt would take minutes.
NETS = {
    "lenet": ("lenet_v2_ethereon/deploy.prototxt", "lenet_iter_10000.caffemodel", MNIST, {"scale": 1 / 256}, None),
    "cifar10_full": (
        "cifar10_full_v1_everpeace/deploy.prototxt",
        "cifar10_full_iter_70000.caffemodel",
        CIFAR,
        {},
        None,
    ),
    "resnet20": (
        "resnet20_cifar10_worstirelia/deploy_derived.prototxt",
        "solver_iter_64000.caffemodel",
        CIFAR,
        {"channels": "rgb"},
        None,
    ),
    "onet": ("mtcnn_onet/deploy.prototxt", "det3.caffemodel", PHOTOS, {"scale": 1 / 128}, None),
    "vdsr": ("vdsr/deploy.prototxt", "VDSR_Adam.caffemodel", PHOTOS, {"scale": 1 / 256}, {"data": (1, 1, 40, 32)}),
}


def load_tool():
    loader = importlib.machinery.SourceFileLoader("remeasure", str(TOOL))
    tool = importlib.util.module_from_spec(importlib.util.spec_from_loader("remeasure", loader))
    loader.exec_module(tool)
    return tool


@pytest.mark.parametrize("job", ["init", "rescale"])
@pytest.mark.parametrize("name", NETS)
def test_the_written_file_has_unit_channels(tmp_path, monkeypatch, name, job):
    monkeypatch.setattr("sys.dont_write_bytecode", True)  # the tool has no .py, its cache would lie beside it
    net, weights, images, preparation, shapes = NETS[name]
    path, weights = shared("models", net), shared("models", net).with_name(weights)
    network = caffeinit.load(path, None if job == "init" else weights, input_shapes=shapes)
    pictures = caffeinit.read_images(network, str(shared("images", *images)), num_images=48, **preparation)
    options = {"method": "kmeans"} if job == "init" else {"mode": "normalize"}
    result = getattr(caffeinit, job)(network, pictures, balanced=False, **options)
    dead = {unit.name: len(unit.dead) for unit in result.units}
    # VDSR as published has filters of zeros.
    assert all(unit.done for unit in result.units)
    assert not any(dead.values()) or (name, job) == ("vdsr", "rescale")
    network.save(tmp_path / "new.caffemodel")
    worst = load_tool().farthest(caffeinit.load(path, tmp_path / "new.caffemodel", input_shapes=shapes), pictures, 0.1)
    assert {unit: count for *_, count, unit in worst} == dead
    # 1e-3 is what is asked for; float32 sums over a few thousand inputs leave some 1e-6.
    assert max(max(mean, deviation) for mean, deviation, *_ in worst) < 1e-3
