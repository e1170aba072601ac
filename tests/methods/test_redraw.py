"""Units are drawn from what they really see in the net, wherever they stand in it and whatever their form."""

import numpy as np
import pytest

import caffeinit
from caffeinit.engine.session import Settings
from caffeinit.errors import OptionError
from caffeinit.methods.redraw import UnitSampler, method_for
from tests.methods.test_within import measured
from tests.nets import NETS, pictures

LEARNED = ("patches", "pca", "zca", "kmeans")
FORMS = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 4 dim: 14 dim: 12 } } }
layer { name: "tall" type: "Convolution" bottom: "data" top: "tall" convolution_param {
  num_output: 12 kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 2 pad_h: 1 pad_w: 0 group: 2 } }
layer { name: "relu" type: "ReLU" bottom: "tall" top: "tall" }
layer { name: "point" type: "Convolution" bottom: "tall" top: "point" convolution_param { num_output: 30 kernel_size: 1 } }
layer { name: "depth" type: "Convolution" bottom: "point" top: "depth" convolution_param {
  num_output: 60 kernel_size: 3 group: 30 pad: 1 } }
layer { name: "wide" type: "Convolution" bottom: "depth" top: "wide" convolution_param {
  num_output: 8 kernel_size: 3 dilation: 2 bias_term: false } }
layer { name: "turned" type: "InnerProduct" bottom: "wide" top: "turned" inner_product_param {
  num_output: 25 transpose: true } }
layer { name: "last" type: "InnerProduct" bottom: "turned" top: "last" inner_product_param { num_output: 3 } }
"""
SHARED = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 8 dim: 12 dim: 10 } } }
layer { name: "halves" type: "Slice" bottom: "data" top: "left" top: "right" }
layer { name: "one" type: "Convolution" bottom: "left" top: "one" param { name: "w" } param { name: "b" }
  convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "two" type: "Convolution" bottom: "right" top: "two" param { name: "w" } param { name: "b" }
  convolution_param { num_output: 4 kernel_size: 1 } }
"""
KEPT = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 12 dim: 10 } } }
layer { name: "up" type: "Deconvolution" bottom: "data" top: "up" convolution_param {
  num_output: 6 kernel_size: 2 stride: 2 } }
layer { name: "smooth" type: "Deconvolution" bottom: "data" top: "smooth" convolution_param {
  num_output: 3 group: 3 kernel_size: 4 stride: 2 pad: 1 bias_term: false weight_filler { type: "bilinear" } } }
layer { name: "frozen" type: "Convolution" bottom: "data" top: "frozen" param { lr_mult: 0 } param { lr_mult: 0 }
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "constant" value: 0.25 } } }
"""


def load(place, text, threads=1):
    (place / "net.prototxt").write_text(text)
    net = caffeinit.load(place / "net.prototxt")
    net.settings = Settings(threads=threads)
    return net


def natural(num=12, shape=(3, 12, 10), batch=4, seed=0):
    """Pictures with correlated neighbours and channels, as photographs have."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((num, shape[0], shape[1] + 2, shape[2] + 2)).astype(np.float32)
    smooth = sum(noise[:, :, i : i + shape[1], j : j + shape[2]] for i in range(3) for j in range(3)) / 3
    mixed = np.einsum("ncij,cd->ndij", smooth, rng.standard_normal((shape[0], shape[0])).astype(np.float32) + 1)
    return [{"data": np.ascontiguousarray(mixed[i : i + batch])} for i in range(0, num, batch)]


def assert_unit_channels(net, batches):
    again = measured(net, batches)
    for unit in net.units:
        np.testing.assert_allclose(again[unit.name].std, 1, atol=1e-3)
        if unit.bias is not None and unit.kind != "norm":
            np.testing.assert_allclose(again[unit.name].mean, 0.1, atol=1e-3)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", LEARNED)
def test_every_unit_is_drawn_from_its_inputs(name, method):
    # These nets have units that read a ReLU, a pooling, a Concat and a Sum.
    net, batches = NETS[name](), pictures()
    for arrays in net.params.values():
        for array in arrays:
            array[...] = 0
    result = caffeinit.init(net, batches, method=method, balanced=False)
    assert not any(report.dead for report in result.units)
    for unit in net.units:
        if unit.kind == "affine":
            assert unit.weight.any(axis=tuple(range(2, unit.weight.ndim))).all(), unit.name
    assert_unit_channels(net, batches)


@pytest.mark.parametrize("method", LEARNED)
def test_every_form_of_layer_is_drawn(tmp_path, method):
    # Two groups, h unlike w, 1x1 with more outputs than inputs, depthwise, dilated, without bias, transposed.
    net, batches = load(tmp_path, FORMS), natural(shape=(4, 14, 12))
    result = caffeinit.init(net, batches, method=method, balanced=False)
    done = [f"drawn ({method}), normalised"] * 6
    done[3] = f"drawn ({method}), deviations normalised, without a bias to shift means"
    assert [r.done for r in result.units] == done
    for unit in net.units:
        rows = unit.weight.reshape(unit.num_channels, -1)
        assert np.isfinite(rows).all()
        assert rows.any(axis=1).all()
        if unit.weight.shape[1] > 1:  # filters of one group are different
            for group in unit.weight.reshape(*unit.weight.shape[:2], -1):
                directions = group / np.linalg.norm(group, axis=1, keepdims=True)
                assert (np.triu(directions @ directions.T, 1) < 1 - 1e-6).all(), unit.name
    assert_unit_channels(net, batches)


def test_pca_channels_are_uncorrelated_on_the_pictures(tmp_path):
    net, batches = load(tmp_path, FORMS), natural(num=400, shape=(4, 14, 12), batch=50)
    caffeinit.init(net, batches, method="pca", balanced=False)
    for name in ("wide", "last"):
        outputs = np.concatenate([net.forward(b, [name])[name] for b in batches])
        rows = np.moveaxis(outputs, 1, 0).reshape(outputs.shape[1], -1)
        correlation = np.corrcoef(rows) - np.eye(len(rows))
        assert np.abs(correlation).max() < 0.05, name


def test_shared_weights_are_drawn_from_all_their_uses(tmp_path):
    # One use sees variation in its channels 0 and 1 only, the other in its channels 2 and 3.
    net = load(tmp_path, SHARED)
    deviations = np.array([4, 2, 0, 0, 0, 0, 3, 1], np.float32).reshape(8, 1, 1)
    values = np.random.default_rng(0).standard_normal((40, 8, 12, 10)).astype(np.float32) * deviations
    caffeinit.init(net, [values[i : i + 10] for i in range(0, 40, 10)], method="pca", balanced=False)
    filters = net.params["one"][0].reshape(4, 4)
    filters = filters / np.linalg.norm(filters, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(filters), np.eye(4)[[0, 2, 1, 3]], atol=0.1)
    np.testing.assert_array_equal(net.params["one"][0], net.params["two"][0])


@pytest.mark.parametrize("method", LEARNED)
def test_threads_move_no_byte_and_batches_only_the_last_digits(tmp_path, method):
    drawn = []
    for threads, batch in ((1, 4), (2, 4), (3, 4), (1, 12), (1, 5)):
        net = load(tmp_path, FORMS, threads)
        caffeinit.init(net, natural(shape=(4, 14, 12), batch=batch), method=method, seed=3, balanced=False)
        drawn.append({name: [a.copy() for a in arrays] for name, arrays in net.params.items()})
    first, *others = drawn
    for number, other in enumerate(others):
        for name, arrays in first.items():
            for a, b in zip(arrays, other[name], strict=True):
                if number < 2:
                    np.testing.assert_array_equal(a, b)
                else:
                    np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(a).max())


@pytest.mark.parametrize("method", LEARNED)
def test_what_is_kept_is_kept_and_reported(tmp_path, method):
    net = load(tmp_path, KEPT)
    result = caffeinit.init(net, natural(), method=method, balanced=False)
    told = {r.name: r for r in result.units}
    assert told["up"].done == "drawn (gaussian), normalised"
    assert f"up: gaussian: {method} is not defined for a deconvolution" in result.notes
    assert told["smooth"].reason == "bilinear up-sampling"
    np.testing.assert_allclose(net.params["smooth"][0][1, 0, 1], [0.1875, 0.5625, 0.5625, 0.1875])
    assert told["frozen"].reason == "its training is switched off (lr_mult 0)"
    assert (net.params["frozen"][0] == 0.25).all()


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"beta": float("nan")}, {"beta": float("inf")}], ids=str)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        caffeinit.init(NETS["chain"](), pictures(), **wrong)


def test_a_network_is_shown_in_one_line():
    shown = repr(NETS["chain"]())
    assert "'data': (4, 3, 12, 10)" in shown
    assert "parameters in 4 units" in shown
    assert len(shown) < 200


def test_patches_are_given_up_when_their_unit_is_drawn(monkeypatch):
    held = []
    draw = UnitSampler.draw

    def drawn(self):
        draw(self)
        held.append(self.sampler.samples_held)

    monkeypatch.setattr(UnitSampler, "draw", drawn)
    caffeinit.init(NETS["chain"](), pictures(), method="pca")
    assert held == [0] * 4


@pytest.mark.parametrize("net", ["chain", "inception"])
def test_balancing_too_depends_on_neither_threads_nor_batches(net):
    drawn = []
    for threads, batch in ((1, 4), (2, 4), (3, 4), (2, 12), (2, 20), (2, 7)):
        network = NETS[net]()
        network.settings = Settings(threads=threads)
        caffeinit.init(network, pictures(num=40, batch=batch))
        drawn.append([a.copy() for arrays in network.params.values() for a in arrays])
    for number, other in enumerate(drawn):
        for a, b in zip(drawn[0], other, strict=True):
            if number < 3:
                np.testing.assert_array_equal(a, b)
            else:
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("job", ["init", "drawn only", "preserve", "normalize", "columns"])
def test_progress_goes_one_way_to_the_end(job):
    seen = []
    options = {"progress": lambda done, total: seen.append(done / total)}
    net = NETS["residual"]()
    if job in ("init", "drawn only", "columns"):
        more = {"normalized": job != "drawn only", "per_channel_rates": job == "columns"}
        caffeinit.init(net, pictures(), **options, **more)
    else:
        caffeinit.rescale(net, pictures(), mode=job, **options)
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert len(seen) > 3


@pytest.mark.parametrize("methods", [{"two": "pca"}, {"one": "gaussian", "two": "pca"}, {"one": "pca"}])
def test_shared_weights_are_chosen_by_the_name_of_either_layer(tmp_path, methods):
    drawn = []
    (tmp_path / "net.prototxt").write_text(SHARED)
    for method in (methods, "pca"):
        net = caffeinit.load(tmp_path / "net.prototxt")
        assert net.lenders == {"two": "one"}
        batches = np.random.default_rng(0).standard_normal((16, 8, 12, 10)).astype("f4")
        caffeinit.init(net, [batches], method=method, layers=["two"])
        drawn.append(net.params["one"][0])
    np.testing.assert_array_equal(*drawn)


def test_what_pictures_say_nothing_of_is_told_to_be_drawn_as_noise(tmp_path):
    (tmp_path / "net.prototxt").write_text(SHARED)
    net = caffeinit.load(tmp_path / "net.prototxt")
    constant = caffeinit.init(net, [np.ones((16, 8, 12, 10), "f4")], method="pca", balanced=False)
    assert constant.units[0].done.startswith("drawn (gaussian, for want of data for pca)")
    varied = np.random.default_rng(0).standard_normal((16, 8, 12, 10)).astype("f4")
    assert caffeinit.init(net, [varied], method="pca").units[0].done == "drawn (pca), normalised"


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ({"*": "pca", "p*": "xavier"}, ("xavier", "pca")),
        ({"p*": "xavier", "*": "pca"}, ("xavier", "pca")),
        ({"p*": "xavier", "po*": "msra"}, ("msra", "gaussian")),
        ({"po*": "msra", "p*": "xavier"}, ("xavier", "gaussian")),
    ],
)
def test_a_pattern_goes_before_the_method_for_all_and_the_last_before_others(tmp_path, methods, expected):
    (tmp_path / "net.prototxt").write_text(FORMS)
    network = caffeinit.load(tmp_path / "net.prototxt")
    assert (method_for(network, "point", methods), method_for(network, "tall", methods)) == expected
