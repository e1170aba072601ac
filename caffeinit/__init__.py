"""Data-dependent rescaling of the weights of Caffe and ONNX nets.

net = caffeinit.load("deploy.prototxt", "weights.caffemodel")
result = caffeinit.rescale(net, caffeinit.read_images(net, "pictures/"), mode="normalize")
net.save("rescaled.caffemodel")

The packages, in the order in which a job goes through them:
    read     `caffe`, `onnxfile`, `images`: nets and pictures as they lie in files; `protos`: Caffe's messages
             `graph`: nodes, and what can be read off them; `ops`: what is known of an operator; `model`: a net, once read
    run      `engine`: onnxruntime's sessions, whole nets and parts of them
    measure  `statistics`: moments and rates; `gradients`: what rates are made from
    plan     `scales`: which factors a graph leaves free; `methods`: which ones a net is to get
    apply    `apply`: plans and their execution; `draw`: new weights
    write    `storage`: files, written whole or not at all; `proof`: the function is the same
`arithmetic` computes for all of them. None imports what builds on it (tests/test_packages.py).
`jobs` joins them; `cli`, `batch` and `report` show what it returns, and what `inspection` finds before anything is run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from caffeinit.arguments import check_mapping, check_type
from caffeinit.errors import (
    CaffeinitError,
    FormatError,
    ImagesError,
    LayerError,
    OptionError,
    OutputError,
    WeightsError,
)

if TYPE_CHECKING:
    from caffeinit.images import Calibration
    from caffeinit.images.extents import Teller
    from caffeinit.measuring import Measurement
    from caffeinit.model.network import Network
    from caffeinit.proof.comparison import Comparison
    from caffeinit.result import Result

__all__ = [
    "CaffeinitError",
    "FormatError",
    "ImagesError",
    "LayerError",
    "OptionError",
    "OutputError",
    "WeightsError",
    "compare",
    "init",
    "load",
    "measure",
    "read_images",
    "rescale",
    "write_report",
]

# What is skipped stands in results and tables; the log is for those who listen to it.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def load(
    net: str | PathLike[str],
    weights: str | PathLike[str] | None = None,
    *,
    phase: str = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    strict: bool = False,
    device: str = "cpu",
    allow_tf32: bool = False,
    tell: Teller | None = None,
) -> Network:
    """Load a net and, if given, its weights.

    Args:
        net: prototxt of any generation, text or binary, or a solver file that holds or names one; or an ONNX model, a file
            whose name ends in .onnx. `phase`, `level` and `stages` are not for ONNX models.
        weights: caffemodel (binary or HDF5); without it `params` holds zeros of the right shapes.
        phase, level, stages: the state that the net's `include` and `exclude` rules are held against.
        input_shapes: input blob -> shape, where the net does not tell it or another is wanted.
        strict: refuse a net with a layer that cannot run, instead of leaving out what depends on it.
        device: cpu, cuda, cuda:N, or auto for the first GPU that works, else the CPU; `Network.notes` says which.
        allow_tf32: let a GPU round factors to 10 bits where that is faster.
        tell: asked about inputs of a Caffe net that are as large as its pictures, where nothing states how large these
            are; see `caffeinit.images.extents`. `Network.taken` says what was taken.
    Raises:
        FormatError: a file is not what it should be. WeightsError: the weights do not fit the net.
        OptionError: onnxruntime cannot use the device.
    """
    input_shapes = {} if input_shapes is None else input_shapes
    check_mapping("input_shapes", input_shapes, "input -> shape")
    from caffeinit.engine.device import find_device
    from caffeinit.engine.session import Settings

    found, note = find_device(device, allow_tf32)
    network = _read(
        net,
        weights,
        input_shapes={name: tuple(shape) for name, shape in input_shapes.items()},
        strict=strict,
        phase=phase,
        level=level,
        stages=stages,
        tell=tell,
    )
    network.settings = Settings(device=found)
    network.notes += [note] if note else []
    return network


def _read(
    net: str | PathLike[str],
    weights: str | PathLike[str] | None,
    *,
    input_shapes: dict[str, tuple[int, ...]],
    strict: bool,
    **more: Any,
) -> Network:
    """Return the network that the files hold, whichever kind they are."""
    from caffeinit.storage.files import is_onnx

    if is_onnx(net):
        from caffeinit.onnxfile import load_onnx

        if weights is not None:
            raise OptionError(f"{net}: an ONNX model holds its weights; no file of weights goes with it")
        return load_onnx(net, input_shapes, strict=strict)
    from caffeinit.caffe.source import load_caffe

    return load_caffe(net, weights, input_shapes=input_shapes, strict=strict, **more)


def read_images(net: Network, sources: Any, **options: Any) -> Calibration:
    """Read calibration pictures for a net, prepared as its data layer says.

    Args:
        sources: a folder, file, glob, list file, array file, database, or several; or input -> sources.
        options: num_images, batch_size, strict, threads, root as `caffeinit.images.read_images`, labels (True to read
            what is given for inputs of losses alone, too, as `compare` can use it), and whatever a
            `caffeinit.images.Preprocessing` takes (mean, scale, crop, resize, channels, ...), over what the net says.
    Raises:
        ImagesError: no picture can be used.
    """
    _check_network("net", net)
    from caffeinit.calibration import read_calibration

    return read_calibration(net, sources, **options)


def init(net: Network, images: Any, **options: Any) -> Result:
    """Draw all weights of a net and normalise them on pictures; see `caffeinit.jobs.init` for the options."""
    _check_network("net", net)
    from caffeinit import jobs

    return jobs.init(net, images, **options)


def rescale(net: Network, images: Any, **options: Any) -> Result:
    """Rescale the weights of a net by what pictures do in it; see `caffeinit.jobs.rescale` for the options."""
    _check_network("net", net)
    from caffeinit import jobs

    return jobs.rescale(net, images, **options)


def measure(net: Network, images: Any, **options: Any) -> Measurement:
    """Measure what a net's units do on pictures, and change nothing.

    See `caffeinit.measuring.measure` for the options.
    """
    _check_network("net", net)
    from caffeinit import measuring

    return measuring.measure(net, images, **options)


def write_report(path: str | PathLike[str], net: Network, found: Any, **options: Any) -> None:
    """Write a page about what `init`, `rescale` or `measure` returned; see `caffeinit.report.write_report`."""
    _check_network("net", net)
    from caffeinit import report

    report.write_report(path, net, found, **options)


def compare(a: Network, b: Network, images: Any, **options: Any) -> Comparison:
    """Tell whether two nets are the same function on pictures; see `caffeinit.proof.comparison.compare` for the options."""
    _check_network("a", a)
    _check_network("b", b)
    from caffeinit.proof import comparison

    return comparison.compare_networks(a, b, images, **options)


def _check_network(name: str, given: Any) -> None:
    """Refuse an argument that is no net, such as the name of a file; see `arguments.check_type`."""
    from caffeinit.model.network import Network

    check_type(name, given, Network, "a net, as caffeinit.load returns it")
