"""Which fields inspect calls forks'."""

import pytest

from caffeinit.caffe.forks import fork_fields
from caffeinit.caffe.net import read_net
from caffeinit.inspection import inspect_files
from tests.caffe.test_source import CONV, input_layer
from tests.conftest import shared


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("", []),
        (
            'layer { name: "p" type: "Permute" bottom: "conv" top: "p" permute_param { order: 0 } }',
            ["LayerParameter.permute_param"],
        ),
        (
            'layer { name: "p" type: "Pooling" bottom: "conv" top: "p" pooling_param { kernel_size: 2 ceil_mode: false } }',
            ["PoolingParameter.ceil_mode"],
        ),
        (
            'layer { name: "d" type: "Data" top: "d" transform_param { crop_h: 4 resize_param { height: 3 } } }',
            ["TransformationParameter.crop_h", "TransformationParameter.resize_param"],
        ),
        ('layer { name: "c" type: "Clip" bottom: "conv" top: "c" clip_param { min: 0 max: 1 } }', []),
    ],
)
def test_fields_of_forks_are_named(tmp_path, more, found):
    (tmp_path / "net.prototxt").write_text(input_layer(1, 3, 8, 8) + CONV + more)
    assert fork_fields(read_net(tmp_path / "net.prototxt").message) == found


def test_bvlcs_own_nets_have_none():
    for path in shared("zoo", "bvlc_caffe_head").glob("*.prototxt"):
        assert fork_fields(read_net(path).message) == []


def test_weights_files_tell_them_from_the_net_in_them():
    folder = shared("models", "wechat_qrcode_detect")
    report = inspect_files(folder / "deploy.prototxt", next(folder.glob("*.caffemodel")))
    wanted = [f"LayerParameter.{name}_param" for name in ("detection_output", "permute", "prior_box")]
    assert [file.fork_fields for file in report.files] == [wanted, wanted]
