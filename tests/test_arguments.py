"""Arguments of a wrong type or size: refused in words that name them, never from the inside."""

import math

import numpy as np
import pytest

import caffeinit
from caffeinit.errors import CaffeinitError, ImagesError, OptionError
from tests.nets import NETS, pictures

PICTURES = np.zeros((4, 3, 12, 10), np.float32)


@pytest.mark.parametrize("given", [None, "net.prototxt", 5, []], ids=repr)
def test_what_is_no_net_is_named(given, tmp_path):
    net = NETS["chain"]()
    calls = {
        "net": [
            lambda: caffeinit.read_images(given, "pictures"),
            lambda: caffeinit.init(given, pictures()),
            lambda: caffeinit.rescale(given, pictures()),
            lambda: caffeinit.measure(given, pictures()),
            lambda: caffeinit.write_report(tmp_path / "page.html", given, []),
        ],
        "a": [lambda: caffeinit.compare(given, net, pictures())],
        "b": [lambda: caffeinit.compare(net, given, pictures())],
    }
    for name, those in calls.items():
        for call in those:
            with pytest.raises(TypeError, match=rf"^{name} is {type(given).__name__}: give a net, as caffeinit.load"):
                call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [5, PICTURES, "data"], ids=["number", "array", "text"])
def test_what_is_no_mapping_is_named(given):
    net = NETS["chain"]()
    with pytest.raises(TypeError, match=r"^inputs is .*: give input -> array$"):
        net.forward(given)
    with pytest.raises(TypeError, match=r"^inputs is .*: give input -> array$"):
        net.backward(given, {})
    with pytest.raises(TypeError, match=r"^top_diffs is .*: give blob -> gradient$"):
        net.backward({"data": PICTURES}, given)


@pytest.mark.parametrize("given", [None, 5, ["pca"]], ids=repr)
def test_what_is_no_method_is_named(given):
    net = NETS["chain"]()
    before = net.params["conv1"][0].copy()
    for call in (caffeinit.init, lambda *a, **k: caffeinit.rescale(*a, mode="normalize", **k)):
        with pytest.raises(TypeError, match=rf"^method is {type(given).__name__}: give the name of one, or pattern"):
            call(net, pictures(), method=given)
    np.testing.assert_array_equal(net.params["conv1"][0], before)


@pytest.mark.parametrize("given", [None, "page", [], {}, [None], ({5: 5},)], ids=repr)
def test_what_cannot_be_reported_is_named(given, tmp_path):
    with pytest.raises(TypeError, match=r"^what was found is \w+: give .*measure"):
        caffeinit.write_report(tmp_path / "page.html", NETS["chain"](), given)
    assert not list(tmp_path.iterdir())


def test_no_name_is_no_blob():
    with pytest.raises(CaffeinitError, match='blob "" is not there'):
        NETS["chain"]().forward({"data": PICTURES}, "")


@pytest.mark.parametrize("given", ["x", [[1, 2], [3]]], ids=repr)
def test_a_mean_that_is_no_number_is_refused(given, tmp_path):
    np.save(tmp_path / "pictures.npy", PICTURES)
    with pytest.raises(OptionError, match=r"the mean is .*: give a number, or one for each channel"):
        caffeinit.read_images(_loaded(tmp_path), tmp_path / "pictures.npy", mean=given)


def test_input_shapes_that_are_no_mapping_are_named(tmp_path):
    with pytest.raises(TypeError, match=r"^input_shapes is tuple: give input -> shape$"):
        caffeinit.load(tmp_path / "net.prototxt", input_shapes=(1, 3, 8, 8))


@pytest.mark.parametrize("given", [math.nan, 1.5, "4"], ids=repr)
@pytest.mark.parametrize("name", ["batch_size", "num_images", "threads"])
def test_what_is_no_whole_number_is_named(name, given, tmp_path):
    # A batch of NaN pictures would never be full, and reading them never end.
    np.save(tmp_path / "pictures.npy", PICTURES)
    with pytest.raises(TypeError, match=rf"^{name} is {type(given).__name__}: give a whole number"):
        caffeinit.read_images(_loaded(tmp_path), tmp_path / "pictures.npy", **{name: given})


def test_numbers_below_zero_are_refused(tmp_path):
    np.save(tmp_path / "pictures.npy", PICTURES)
    with pytest.raises(ImagesError, match="threads must be at least 0: found -1"):
        caffeinit.read_images(_loaded(tmp_path), tmp_path / "pictures.npy", threads=-1)
    with pytest.raises(OptionError, match="seed -1: has to be 0 or more"):
        caffeinit.measure(NETS["chain"](), pictures(), seed=-1)


def _loaded(folder):
    (folder / "net.prototxt").write_text(
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 10 } } }'
        'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"'
        " convolution_param { num_output: 6 kernel_size: 3 } }"
    )
    return caffeinit.load(folder / "net.prototxt")
