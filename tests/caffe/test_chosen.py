"""Layers behind a Filter run on the rows that the data choose, as many as there are."""

import numpy as np
import pytest

import caffeinit
from tests.modes import EXACT, options_of

NET = """
input: "data" input_shape { dim: 8 dim: 3 dim: 6 dim: 5 }
layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "s" type: "InnerProduct" bottom: "c" top: "s" inner_product_param { num_output: 1 } }
layer { name: "t" type: "Threshold" bottom: "s" top: "t" threshold_param { threshold: 0.1 } }
layer { name: "f" type: "Filter" bottom: "c" bottom: "t" top: "kept" }
layer { name: "ip" type: "InnerProduct" bottom: "kept" top: "ip" inner_product_param { num_output: 5 } }
layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
"""


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    return caffeinit.load(path)


def batches():
    values = np.random.default_rng(1).standard_normal((24, 3, 6, 5)).astype(np.float32)
    return [{"data": values[:8]}, {"data": values[8:16]}, {"data": values[16:]}]


def test_init_normalises_what_is_chosen(net):
    caffeinit.init(net, batches())
    counts = []
    rows = []
    for batch in batches():
        found = net.forward(batch, blobs=["c", "s", "kept"])
        chosen = found["s"][:, 0] > 0.1
        np.testing.assert_array_equal(found["kept"], found["c"][chosen])
        rows.append(found["kept"].reshape(chosen.sum(), -1) @ net.params["ip"][0].T + net.params["ip"][1])
        counts.append(int(chosen.sum()))
    assert len(set(counts)) > 1
    assert not {0, 8} & set(counts)
    together = np.concatenate(rows)
    np.testing.assert_allclose(together.std(axis=0), 1, rtol=1e-4)
    np.testing.assert_allclose(together.mean(axis=0), 0.1, atol=1e-4)
    measured = {unit.name: unit.stats for unit in caffeinit.measure(net, batches()).units}
    np.testing.assert_allclose(measured["ip"].channel_stds, 1, rtol=1e-4)


@pytest.mark.parametrize("mode", ["preserve", "equalize", EXACT])
def test_the_function_stays(net, mode):
    caffeinit.init(net, batches(), balanced=False)
    before = [net.forward(batch)["ip"] for batch in batches()]
    caffeinit.rescale(net, batches(), **options_of(mode))
    for batch, old in zip(batches(), before, strict=True):
        np.testing.assert_allclose(net.forward(batch)["ip"], old, rtol=0, atol=1e-5 * np.abs(old).max())


CHOSEN = """
input: "data" input_shape { dim: 1 dim: 3 dim: 6 dim: 5 }
input: "keep" input_shape { dim: 1 }
layer { name: "f" type: "Filter" bottom: "data" bottom: "keep" top: "kept" }
layer { name: "ip" type: "InnerProduct" bottom: "kept" top: "ip" inner_product_param { num_output: 5 } }
"""


@pytest.mark.parametrize("method", ["pca", "patches", "kmeans"])
@pytest.mark.parametrize("kept", [range(5, 12), [5], []], ids=["some", "one", "none"])
def test_weights_are_drawn_from_what_is_chosen(tmp_path, method, kept):
    (tmp_path / "net.prototxt").write_text(CHOSEN)
    net = caffeinit.load(tmp_path / "net.prototxt")
    x = np.random.default_rng(1).standard_normal((12, 3, 6, 5)).astype("f4")
    keep = np.isin(np.arange(12), list(kept)).astype("f4")
    # Of the first batches no row is chosen.
    parts = [{"data": x[i : i + 4], "keep": keep[i : i + 4]} for i in range(0, 12, 4)]
    (unit,) = caffeinit.init(net, parts, method=method).units
    assert unit.done.startswith(
        f"drawn ({method})" if len(kept) > 1 else f"drawn (gaussian, for want of data for {method}"
    )
    ip = net.forward({"data": x, "keep": keep})["ip"]
    assert ip.shape == (len(kept), 5)
    if len(kept) > 1:
        np.testing.assert_allclose(ip.std(axis=0), 1, rtol=1e-4)
