"""Verbs on models with NaN, infinity and noise among their numbers: told in words, with no warning of numpy's.

pytest makes warnings errors, so that one in a verb fails its test.
"""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.onnxnets import ModelBuilder


def build():
    """Return conv1 -> norm -> factors -> shifts -> relu -> conv2 -> relu -> fc -> softmax."""
    b = ModelBuilder(17)
    x = b.norm(b.conv("input", "conv1", 3, 6), "norm", 6)
    x = b.op("Mul", x, b.draw("factors", 6, 1, 1))
    x = b.op("Relu", b.op("Add", x, b.draw("shifts", 6, 1, 1)))
    return b.finish(b.op("Softmax", b.head(b.op("Relu", b.conv(x, "conv2", 6, 8)), 8), axis=1))


# Array and number -> the unit that is named where numbers are measured.
DAMAGES = [
    ("conv1.weight", np.nan, "conv1.weight"),
    ("conv1.weight", np.inf, "conv1.weight"),
    ("conv1.weight", 3e38, "conv1.weight"),
    ("norm.weight", -np.inf, "norm.weight"),
    ("norm.running_var", -1, "norm.weight"),
    ("norm.running_var", np.inf, "norm.running_var"),
    ("norm.running_mean", np.nan, "norm.weight"),
    ("factors", np.inf, "factors"),
    ("factors", np.nan, "factors"),
    ("shifts", -np.inf, "factors"),
    ("conv2.bias", np.nan, "conv2.weight"),
]


@pytest.mark.parametrize(("name", "number", "unit"), DAMAGES, ids=str)
def test_the_unit_with_a_number_that_is_not_finite_is_named(name, number, unit, cli, place):
    model = build()
    tensor = next(t for t in model.graph.initializer if t.name == name)
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[0] = number
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(model, place / "net.onnx")
    images, output = ("--images", place / "pictures"), place / "out.onnx"
    for options in ([], ["--mode", "balance"], ["--mode", "fp16"], ["--per-channel-rates"], ["--powers-of-two"]):
        outcome = cli("rescale", place / "net.onnx", *images, *options, "-o", output)
        assert outcome.code == 1
        assert outcome.err.startswith(f'error: layer "{unit}": ')
        assert not output.exists()
    # A start for training sets statistics anew, with factor and shift; all other numbers that it keeps are looked at.
    outcome = cli("rescale", place / "net.onnx", *images, "--mode", "normalize", "-o", output)
    assert outcome.code == (0 if name.startswith("norm") else 1)
    assert outcome.code == 0 or outcome.err.startswith(f'error: layer "{unit}": its output is not finite')
    for verb in ("measure", "inspect", "verify"):
        more = {"measure": images, "inspect": ["--scales"], "verify": [place / "net.onnx", "--first", *images]}[verb]
        assert cli(verb, place / "net.onnx", *more).code in (0, 1)


def test_noise_in_place_of_numbers_is_refused_in_words(cli, place):
    place_of = {"save_as_external_data": True, "location": "numbers", "size_threshold": 0}
    onnx.save(build(), place / "net.onnx", **place_of)
    numbers = place / "numbers"
    numbers.write_bytes(np.random.default_rng(0).bytes(numbers.stat().st_size))
    images = ("--images", place / "pictures")
    outcome = cli("rescale", place / "net.onnx", *images, "-o", place / "out.onnx")
    assert outcome.code == 1
    assert outcome.err.startswith('error: layer "')
    assert "not finite" in outcome.err
    assert not (place / "out.onnx").exists()
    assert cli("init", place / "net.onnx", *images, "-o", place / "out.onnx").code == 0  # it draws all of them
    assert "NOT FINITE" in cli("measure", place / "net.onnx", *images).out
    assert "are NaN or infinite" in cli("inspect", place / "net.onnx").out
