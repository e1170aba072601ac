"""Whole trained nets, blob by blob, against what Caffe computed for them."""

import numpy as np
import pytest

import caffeinit
from tests.conftest import SHARED, shared

MODELS = sorted(path.stem for path in (SHARED / "golden" / "models").glob("*.npz"))


def files_of(name):
    folder = shared("models", name)
    nets = sorted(folder.glob("deploy*.prototxt"))
    # A deploy file derived from the train_val one stands in where upstream's does not fit the weights.
    net = next((n for n in nets if "derived" in n.name), nets[0])
    weights = next(p for p in folder.iterdir() if p.name.endswith((".caffemodel", ".h5")))
    return net, weights


def input_values(shape):
    """The input that the golden files were computed from."""
    k = np.arange(int(np.prod(shape)), dtype=np.int64)
    return (((7919 * k + 104729) % 251) / 125 - 1).astype(np.float32).reshape(shape)


@pytest.mark.parametrize("name", MODELS)
def test_every_blob_agrees_with_caffe(name):
    golden = np.load(shared("golden", "models", f"{name}.npz"))
    net = caffeinit.load(*files_of(name))
    shapes = dict(str(entry).split(":") for entry in golden["inputs"])
    out = net.forward({blob: input_values([int(d) for d in dims.split(",")]) for blob, dims in shapes.items()})
    blobs = [key[: -len("|shape")] for key in golden.files if key.endswith("|shape")]
    assert blobs
    for blob in blobs:
        value = out[blob]
        assert value.shape == tuple(golden[f"{blob}|shape"])
        flat = value.reshape(-1)
        sample = golden[f"{blob}|sample"]
        index = np.linspace(0, flat.size - 1, min(64, flat.size)).astype(int)
        # 1e-5 of the blob's largest value, as for single layers; twenty layers deep the roundings add up.
        np.testing.assert_allclose(flat[index], sample, rtol=0, atol=3e-5 * np.abs(flat).max(), err_msg=blob)


def test_a_net_in_half_precision_is_its_float_twin():
    nets = [caffeinit.load(*files_of(f"hyperlpr_HorizonalFinemapping{year}")) for year in ("", "_2019")]
    outputs = [net.forward({n: input_values(s) for n, s in net.inputs.items()}, net.outputs) for net in nets]
    assert outputs[0]
    for name, value in outputs[0].items():
        # Half precision keeps eleven bits of each weight.
        np.testing.assert_allclose(outputs[1][name], value, rtol=0, atol=2e-3 * np.abs(value).max())


REFUSED = {
    "lenet_small_jwcom79": ("deploy_upstream.prototxt", "(5, 800)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_do_not_belong_together_are_refused(name):
    net, words = REFUSED[name]
    folder = shared("models", name)
    with pytest.raises(caffeinit.WeightsError) as found:
        caffeinit.load(folder / net, next(folder.glob("*.caffemodel")))
    assert words in str(found.value)


def test_every_model_of_a_fork_runs_whole():
    for name in ("mobilenet_yolov3_lite_tusimple", "retinaface_widerface_minivision", "wechat_qrcode_detect"):
        net = caffeinit.load(*files_of(name))
        assert not net.skipped
        assert not net.missing
