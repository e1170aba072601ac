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
