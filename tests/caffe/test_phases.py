"""Weights of one file serve the nets of all phases: keeping one's function leaves the others' alone."""

import numpy as np
import pytest

import caffeinit

TEXT = """
name: "phases" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 9 } } }
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" convolution_param { num_output: 4 kernel_size: 3
  weight_filler { type: "xavier" } } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "aux" type: "InnerProduct" bottom: "c1" top: "aux" inner_product_param { num_output: 3
  weight_filler { type: "xavier" } } include { phase: TRAIN } }
layer { name: "c2" type: "Convolution" bottom: "c1" top: "c2" convolution_param { num_output: 5 kernel_size: 3
  weight_filler { type: "xavier" } } }
layer { name: "n1" type: "LRN" bottom: "c2" top: "n" lrn_param { alpha: 0.1 } include { phase: TRAIN } }
layer { name: "n2" type: "LRN" bottom: "c2" top: "n" lrn_param { alpha: 0.1 } include { phase: TEST } }
layer { name: "c3" type: "Convolution" bottom: "n" top: "c3" convolution_param { num_output: 6 kernel_size: 3
  weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "c3" top: "c3" include { phase: TRAIN } }
layer { name: "fc" type: "InnerProduct" bottom: "c3" top: "fc" inner_product_param { num_output: 3
  weight_filler { type: "xavier" } } }
"""


@pytest.mark.parametrize("rewrite", [False, True])
@pytest.mark.parametrize("mode", ["preserve", "equalize", "balance"])
def test_the_function_of_the_other_phase_stays(mode, rewrite, tmp_path):
    path, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    path.write_text(TEXT)
    pictures = [np.random.default_rng(0).standard_normal((8, 3, 9, 9)).astype("f4")]
    train = caffeinit.load(path, phase="TRAIN")
    caffeinit.init(train, pictures, method="filler")
    train.params["c1"][0][...] *= np.array([1, 10, 0.1, 3], "f4").reshape(4, 1, 1, 1)
    train.save(weights)
    net = caffeinit.load(path, weights)
    before = caffeinit.load(path, weights, phase="TRAIN").forward({"data": pictures[0]})
    kept = net.params["c1"][0].copy(), net.params["c3"][0].copy()
    caffeinit.rescale(net, pictures, mode=mode, rewrite_lrn=rewrite)
    np.testing.assert_array_equal(net.params["c1"][0], kept[0])
    assert not np.array_equal(net.params["c3"][0], kept[1])  # in-place dropout holds nothing
    net.save(tmp_path / "new.caffemodel")
    after = caffeinit.load(path, tmp_path / "new.caffemodel", phase="TRAIN").forward({"data": pictures[0]})
    for name in ("aux", "fc"):
        np.testing.assert_allclose(after[name], before[name], rtol=0, atol=1e-5 * np.abs(before[name]).max())


def test_layers_that_only_the_weights_file_has_are_told(tmp_path):
    path, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    path.write_text(TEXT)
    pictures = [np.random.default_rng(0).standard_normal((8, 3, 9, 9)).astype("f4")]
    whole = caffeinit.load(path, phase="TRAIN")
    caffeinit.init(whole, pictures, method="filler")
    whole.save(weights)
    assert not [
        n for n in caffeinit.load(path, weights).notes if "the weights file holds layers" in n
    ]  # aux is of another phase
    path.write_text(TEXT.replace('name: "c3"', 'name: "other"'))
    told = [
        n for n in caffeinit.load(path, weights).notes if "layers that the net does not have: c3. Their numbers" in n
    ]
    assert len(told) == 1
