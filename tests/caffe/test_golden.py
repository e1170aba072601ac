"""What real Caffe computed, layer by layer. The cases were made by BVLC Caffe 1.0 on a CPU."""

import numpy as np
import pytest

import caffeinit
from tests.conftest import GOLDEN

CASES = sorted(path.stem for path in (GOLDEN / "layers").glob("*.prototxt"))


def group(archive, prefix):
    return {key[len(prefix) :]: archive[key] for key in archive.files if key.startswith(prefix)}


def load_case(name):
    archive = np.load(GOLDEN / "layers" / f"{name}.npz")
    net = caffeinit.load(GOLDEN / "layers" / f"{name}.prototxt")
    for key, array in group(archive, "param/").items():
        layer, index = key.rsplit("/", 1)
        assert net.params[layer][int(index)].shape == array.shape
        net.params[layer][int(index)][...] = array
    return net, archive


@pytest.mark.parametrize("name", CASES)
def test_forward_is_what_caffe_computed(name):
    net, archive = load_case(name)
    assert not net.skipped
    out = net.forward(group(archive, "in/"))
    for blob, expected in group(archive, "out/").items():
        assert out[blob].shape == expected.shape
        # Sums of a few thousand products in another order: roundings of 6e-8 each.
        tolerance = (1e-4 if "lstm" in name else 1e-5) * np.abs(expected).max()
        np.testing.assert_allclose(out[blob], expected, rtol=0, atol=tolerance, err_msg=blob)
