"""Trained nets that stock Caffe cannot run, against other sources of the same numbers."""

import numpy as np
import onnxruntime as ort
import pytest

import caffeinit
from tests.caffe.layers.test_detection import decoded, overlap
from tests.conftest import shared


def model(folder, weights):
    return caffeinit.load(shared("models", folder, "deploy.prototxt"), shared("models", folder, weights))


def noise(net, seed=3, scale=1.0):
    rng = np.random.default_rng(seed)
    return {n: (scale * rng.standard_normal(s)).astype(np.float32) for n, s in net.graph.inputs.items()}


def test_ultraface_is_its_published_onnx_file():
    net = model("ultraface_rfb320", "RFB-320.caffemodel")
    assert not net.skipped
    feeds = noise(net)
    out = net.forward(feeds)
    quiet = ort.SessionOptions()
    quiet.log_severity_level = 3
    path = shared("onnx", "version-RFB-320_simplified.onnx")
    session = ort.InferenceSession(str(path), quiet, providers=["CPUExecutionProvider"])
    expected = session.run(["scores", "boxes"], {"input": next(iter(feeds.values()))})
    # Fifty layers, summed in other orders.
    for got, array in zip((out["scores"], out["boxes"]), expected, strict=True):
        assert got.shape == array.shape
        np.testing.assert_allclose(got, array, rtol=0, atol=1e-5 * np.abs(array).max())


def test_wechat_detections_follow_from_its_own_predictions():
    net = model("wechat_qrcode_detect", "detect.caffemodel")
    assert not net.skipped
    out = net.forward(noise(net, scale=128))
    rows = out["detection_output"].reshape(-1, 7)
    with np.errstate(over="ignore"):  # boxes of no score may be of any size
        corners = decoded(out["mbox_loc"][0], out["mbox_priorbox"], "CENTER_SIZE", encoded=False)
    scores = out["mbox_conf_flatten"].reshape(len(corners), -1)
    assert len(rows) > 3
    assert np.all(rows[:, 0] == 0)
    for _, label, score, *box in rows:
        place = np.abs(corners - box).max(axis=1).argmin()
        np.testing.assert_allclose(box, corners[place], rtol=0, atol=1e-5 * max(1, *np.abs(box)))
        assert scores[place, int(label)] == score
    best = scores[:, 1:].max()
    assert rows[:, 2].max() == best
    for label in set(rows[:, 1]):
        same = rows[rows[:, 1] == label]
        assert np.all(np.diff(same[:, 2]) <= 0)
        assert all(overlap(a[3:], b[3:]) <= 0.4501 for i, a in enumerate(same) for b in same[:i])


@pytest.mark.parametrize(
    ("folder", "weights", "top", "shape"),
    [
        ("waifu2x_upresnet10", "scale2.0x_model.json.caffemodel", "/conv_post", (1, 3, 128, 128)),
        (
            "mobilenet_yolov3_lite_tusimple",
            "mobilenet_yolov3_lite_deploy_iter_50000.caffemodel",
            "sigmoid",
            (1, 1, 128, 128),
        ),
        ("retinaface_widerface_minivision", "Widerface-RetinaFace.caffemodel", "mbox_priorbox", (1, 2, 67200)),
    ],
)
def test_fork_nets_run_whole(folder, weights, top, shape):
    net = model(folder, weights)
    assert not net.skipped
    assert net.graph.batch_axis_free
    out = net.forward(noise(net))[top]
    assert out.shape == shape
    assert np.all(np.isfinite(out))
    assert np.ptp(out) > 0
