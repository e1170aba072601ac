"""Files of weights tell layers by their names: what these would not tell is not written."""

import numpy as np
import pytest

import caffeinit
from caffeinit.errors import WeightsError

NAMELESS = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 9 dim: 9 } } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 4 kernel_size: 3 } %s }
layer { %s type: "Convolution" bottom: "c" top: "d" convolution_param { num_output: 4 kernel_size: 1 } %s }"""


@pytest.mark.parametrize(("name", "why"), [("", "has no name"), ('name: "c"', 'is named "c", as another layer is')])
def test_numbers_that_no_name_tells_are_not_written(tmp_path, name, why):
    (tmp_path / "net.prototxt").write_text(NAMELESS % ("", name, ""))
    net = caffeinit.load(tmp_path / "net.prototxt")
    caffeinit.init(net, np.random.default_rng(0).standard_normal((4, 3, 9, 9)).astype(np.float32))
    with pytest.raises(WeightsError, match=f"the Convolution layer that makes d {why}"):
        net.save(tmp_path / "out.caffemodel")
    assert not (tmp_path / "out.caffemodel").exists()


def test_layers_that_share_all_numbers_need_no_names_of_their_own(tmp_path):
    shared = 'param { name: "w" } param { name: "b" }'
    (tmp_path / "net.prototxt").write_text(
        NAMELESS.replace("dim: 3", "dim: 4", 1).replace("size: 3", "size: 1") % (shared, "", shared)
    )
    net = caffeinit.load(tmp_path / "net.prototxt")
    caffeinit.init(net, np.random.default_rng(0).standard_normal((4, 4, 9, 9)).astype(np.float32))
    net.save(tmp_path / "out.caffemodel")
    again = caffeinit.load(tmp_path / "net.prototxt", tmp_path / "out.caffemodel")
    np.testing.assert_array_equal(again.params["c"][0], net.params["c"][0])
