"""Networks without weights: what reads them says so."""

import numpy as np
import pytest

import caffeinit
from caffeinit.errors import WeightsError
from tests.cli.conftest import NET

PICTURES = np.random.default_rng(0).standard_normal((4, 3, 12, 10)).astype(np.float32)


@pytest.fixture
def bare(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    return caffeinit.load(tmp_path / "net.prototxt")


@pytest.mark.parametrize(
    "job",
    [
        lambda net: caffeinit.measure(net, PICTURES),
        lambda net: caffeinit.rescale(net, PICTURES),
        lambda net: caffeinit.compare(net, net, PICTURES),
    ],
    ids=["measure", "rescale", "compare"],
)
def test_a_net_that_was_loaded_without_weights_is_refused(bare, job):
    with pytest.raises(WeightsError, match="the net has no weights: load it with a weights file"):
        job(bare)
    caffeinit.init(bare, PICTURES, normalized=False)
    job(bare)


def test_weights_that_python_sets_count_and_layers_without_are_named(bare):
    bare.params["conv1"][0][...] = 1
    assert (bare.is_bare, bare.unset) == (False, ["ip"])
    note = "holds no numbers for ip: zeros are"
    assert any(note in told for told in caffeinit.measure(bare, PICTURES).notes)
    assert [f"{side} {note} used" for side in "AB"] == caffeinit.compare(bare, bare, PICTURES).notes[-2:]


def test_arrays_that_were_set_by_hand_are_rescaled_and_not_drawn(tmp_path):
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 9 dim: 9 } } }\n'
        'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" '
        "convolution_param { num_output: 4 kernel_size: 3 } }\n"
        'layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 5 } }\n'
    )
    rng = np.random.default_rng(0)
    images = rng.standard_normal((8, 3, 9, 9)).astype(np.float32)
    for mode in ("preserve", "normalize"):
        net = caffeinit.load(tmp_path / "net.prototxt")
        for array in (a for arrays in net.params.values() for a in arrays):
            array[...] = rng.standard_normal(array.shape)
        weights = net.params["conv"][0].copy()
        assert all(unit.done and "drawn" not in unit.done for unit in caffeinit.rescale(net, images, mode=mode).units)
        ratios = (net.params["conv"][0] / weights).reshape(4, -1)
        assert np.ptp(ratios, axis=1).max() < 1e-6 * ratios.max()
