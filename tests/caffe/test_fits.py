"""Which weights fit which net, from shapes alone."""

import pytest

from caffeinit.caffe.fits import fit, net_shapes, stored_shapes
from tests.batch.conftest import DEPLOY, OTHER, TRAIN, write_net, write_weights
from tests.conftest import shared


@pytest.fixture
def stored(tmp_path):
    return stored_shapes(write_weights(write_net(tmp_path)))


def of(tmp_path, text, **state):
    return net_shapes(write_net(tmp_path, text, "asked.prototxt"), **state)


def test_a_net_fits_its_own_weights(tmp_path, stored):
    found = fit(of(tmp_path, DEPLOY), stored)
    assert found.fits
    assert found.same == ["conv1", "ip"]
    assert not found.missing + found.unused + found.unknown


def test_another_number_of_channels_does_not_fit(tmp_path, stored):
    found = fit(of(tmp_path, OTHER), stored)
    assert not found.fits
    assert found.is_kin
    assert found.mismatches[0] == 'layer "conv1": the file has 6x3x3x3 and 6, the net asks for 5x3x3x3 and 5'
    assert len(found.mismatches) == 2


def test_a_new_classifier_is_missing_and_the_old_one_unused(tmp_path, stored):
    found = fit(of(tmp_path, DEPLOY.replace('"ip"', '"ip_new"')), stored)
    assert (found.fits, found.missing, found.unused) == (True, ["ip_new"], ["ip"])


def test_a_net_without_one_common_name_is_no_kin(tmp_path, stored):
    text = DEPLOY.replace('"ip"', '"a"').replace('"conv1"', '"b"')
    assert not fit(of(tmp_path, text), stored).is_kin


def test_what_depends_on_an_unknown_input_shape_is_unknown_not_wrong(tmp_path, stored):
    text = TRAIN.replace("crop_size: 12", "")
    found = fit(of(tmp_path, text), stored)
    assert (found.fits, found.same, found.unknown) == (True, [], ["conv1", "ip"])
    told = fit(of(tmp_path, text, input_shapes={"data": (3, 12, 10)}), stored)
    assert told.same == ["conv1", "ip"]


def test_deploy_nets_are_told_from_nets_with_data_layers(tmp_path):
    assert of(tmp_path, DEPLOY).is_deploy
    assert not of(tmp_path, TRAIN).is_deploy


def test_cost_counts_multiply_adds(tmp_path):
    assert of(tmp_path, DEPLOY).cost == 6 * 27 * 10 * 8 + 4 * 480


def test_hdf5_may_leave_out_what_is_shared(tmp_path):
    one = shared("models", "cifar10_full_h5_siegfriedgreg", "cifar10_full_iter_100000.caffemodel.h5")
    assert fit(net_shapes(one.parent / "deploy.prototxt"), stored_shapes(one)).fits
