"""LRN rewritten: alpha makes up for any scale of what the layer reads, and the net that is written says so."""

import re

import numpy as np
import pytest

import caffeinit
from caffeinit.apply.plan import Plan, apply
from caffeinit.errors import FormatError, OptionError, OutputError
from caffeinit.methods.between import scale_system
from tests.caffe.test_models import files_of
from tests.conftest import shared
from tests.modes import EXACT, options_of
from tests.nets import pictures

INPUT = 'name: "small"\ninput: "data" input_dim: 4 input_dim: 3 input_dim: 12 input_dim: 10\n'


def net_of(norm):
    """Return two convolutions with LRN behind each; `norm` is what stands in LRN's entries."""
    return (
        INPUT
        + "".join(
            f"""
layer {{ name: "conv{i}" type: "Convolution" bottom: "{below}" top: "conv{i}"
  convolution_param {{ num_output: 6 kernel_size: 3 }} }}
layer {{ name: "relu{i}" type: "ReLU" bottom: "conv{i}" top: "conv{i}" }}  # in place
layer {{
  name: "norm{i}"
  type: "LRN" bottom: "conv{i}" top: "norm{i}"
  {norm}  # of layer {i}
}}
"""
            for i, below in ((1, "data"), (2, "norm1"))
        )
        + 'layer { name: "ip" type: "InnerProduct" bottom: "norm2" top: "ip" inner_product_param { num_output: 4 } }\n'
    )


V1 = (
    INPUT
    + """
layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1" convolution_param { num_output: 6 kernel_size: 3 } }
layers { name: "norm1" type: LRN bottom: "conv1" top: "norm1" lrn_param { local_size: 3 } }
layers { name: "ip" type: INNER_PRODUCT bottom: "norm1" top: "ip" inner_product_param { num_output: 4 } }
"""
)
V0 = (
    INPUT
    + """
layers { layer { name: "pad1" type: "padding" pad: 1 } bottom: "data" top: "pad1" }
layers { layer { name: "conv1" type: "conv" num_output: 6 kernelsize: 3 } bottom: "pad1" top: "conv1" }
layers { layer { name: "norm1" type: "lrn" alpha: 2.5 local_size: 3 } bottom: "conv1" top: "norm1" }
layers { layer { name: "ip" type: "innerproduct" num_output: 4 } bottom: "norm1" top: "ip" }
"""
)
NETS = {
    "across": net_of("lrn_param { local_size: 3 alpha: 1 beta: 0.75 }"),
    "across_k": net_of("lrn_param {\n    alpha: 3e-1 local_size: 5\n    beta: 0.6 k: 2 }"),
    "within": net_of("lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 alpha: 0.5 }"),
    "default": net_of(""),
    "V1": V1,
    "V0": V0,
}


def drawn(folder, text):
    """Return a loaded net with weights of unlike sizes, and where its text lies."""
    path = folder / "net.prototxt"
    path.write_text(text)
    net = caffeinit.load(path)
    rng = np.random.default_rng(0)
    for arrays in net.params.values():
        arrays[0][...] = rng.standard_normal(arrays[0].shape) * rng.uniform(0.2, 2)
    net.params["conv1"][0][...] *= 8
    for arrays in net.params.values():
        arrays[1][...] = rng.standard_normal(arrays[1].shape)
    net.missing = []
    return net, path


def outputs(net, batches):
    return np.concatenate([net.forward(batch, ["ip"])["ip"] for batch in batches])


@pytest.mark.parametrize("mode", ["preserve", "equalize", "balance", EXACT])
@pytest.mark.parametrize("name", NETS)
def test_the_written_files_are_the_same_function(name, mode, tmp_path):
    net, path = drawn(tmp_path, NETS[name])
    batches = pictures()
    before = outputs(net, batches)
    result = caffeinit.rescale(net, batches, **options_of(mode), rewrite_lrn=True)
    if mode in ("preserve", "balance"):
        assert result.rate_spread < 1e-5 < 0.01 < result.rate_spread_before
    assert any("lrn_param.alpha is" in note for note in result.notes)
    net.save(tmp_path / "new.caffemodel", net_path=tmp_path / "new.prototxt")
    again = caffeinit.load(tmp_path / "new.prototxt", tmp_path / "new.caffemodel")
    for one in (net, again):
        np.testing.assert_allclose(outputs(one, batches), before, rtol=0, atol=1e-5 * np.abs(before).max())
    # The weights that were made do not fit the old text.
    stale = outputs(caffeinit.load(path, tmp_path / "new.caffemodel"), batches)
    assert np.abs(stale - before).max() > 1e-3 * np.abs(before).max()


@pytest.mark.parametrize("name", NETS)
def test_any_scales_can_be_made_up_for(name, tmp_path):
    net, _ = drawn(tmp_path, NETS[name])
    batches = pictures()
    before = outputs(net, batches)
    system = scale_system(net, lambda unit: "", [], relaxed=False, rewritten=True)
    assert system.num_unknowns == len(net.graph.net_numbers) > 0
    moved = np.random.default_rng(1).normal(0, 1, system.num_unknowns)
    plan = Plan(system, system.expand(moved))
    apply(net, plan)
    for number, scale in zip(net.graph.net_numbers.values(), moved, strict=True):
        assert number.now == pytest.approx(number.given * np.exp(-2 * scale), rel=1e-6)
    np.testing.assert_allclose(outputs(net, batches), before, rtol=0, atol=1e-5 * np.abs(before).max())
    held = scale_system(net, lambda unit: "", [], relaxed=False)
    assert held.num_unknowns == 0


def test_powers_of_two_change_no_bit_of_the_outputs(tmp_path):
    net, _ = drawn(tmp_path, NETS["across"])
    batches = pictures()
    before = outputs(net, batches)
    caffeinit.rescale(net, batches, **options_of(EXACT), rewrite_lrn=True)
    changed = [n for n in net.graph.net_numbers.values() if n.is_changed]
    assert changed
    assert all(np.log2(n.now / n.given) % 2 == 0 for n in changed)
    np.testing.assert_array_equal(outputs(net, batches), before)


@pytest.mark.parametrize("name", NETS)
def test_only_alphas_differ_in_the_text(name, tmp_path):
    net, path = drawn(tmp_path, NETS[name])
    old = path.read_text()
    caffeinit.rescale(net, pictures(), rewrite_lrn=True)
    net.save(tmp_path / "new.caffemodel", net_path=tmp_path / "new.prototxt")
    new = (tmp_path / "new.prototxt").read_text()
    changed = caffeinit.load(tmp_path / "new.prototxt")
    for number, fresh in zip(net.graph.net_numbers.values(), changed.graph.net_numbers.values(), strict=True):
        assert fresh.given == number.now != number.given
    texts = [re.sub(r"\s*lrn_param { }", "", re.sub(r"\s*alpha: [-+.e\d]+", "", text)) for text in (old, new)]
    assert texts[0] == texts[1]
    assert new != old


def test_other_input_sizes_read_the_new_numbers(tmp_path):
    text = NETS["across_k"][: NETS["across_k"].index('layer { name: "ip"')]
    net, _ = drawn(tmp_path, text)
    large = {"data": np.random.default_rng(2).standard_normal((2, 3, 20, 17)).astype("f4")}
    batches = [{"data": batch["data"]} for batch in pictures()]
    before = net.forward(large, ["norm2"])["norm2"]
    net.graph.outputs = ["norm2"]
    # The last layer's scale is held, so that only the first is rewritten.
    caffeinit.rescale(net, batches, mode="equalize", rewrite_lrn=True)
    assert [n.layer for n in net.graph.net_numbers.values() if n.is_changed] == ["norm1"]
    after = net.forward(large, ["norm2"])["norm2"]
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_without_the_option_lrn_holds_and_the_weights_are_saved_alone(tmp_path):
    net, _ = drawn(tmp_path, NETS["across"])
    caffeinit.rescale(net, pictures())
    assert not any(n.is_changed for n in net.graph.net_numbers.values())
    net.save(tmp_path / "new.caffemodel")


def test_rewritten_weights_are_not_saved_without_their_net(tmp_path):
    net, _ = drawn(tmp_path, NETS["across"])
    caffeinit.rescale(net, pictures(), rewrite_lrn=True)
    with pytest.raises(OutputError, match="need the net"):
        net.save(tmp_path / "new.caffemodel")
    assert not (tmp_path / "new.caffemodel").exists()


def test_a_net_without_text_is_refused_before_the_work(tmp_path):
    net, path = drawn(tmp_path, NETS["across"])
    (tmp_path / "net.pb").write_bytes(net.source.net.message.SerializeToString())
    (tmp_path / "solver.prototxt").write_text(f"net_param {{ {path.read_text()} }} base_lr: 1")
    for name in ("net.pb", "solver.prototxt"):
        other = caffeinit.load(tmp_path / name)
        other.missing = []
        with pytest.raises(FormatError, match="holds no net as text"):
            caffeinit.rescale(other, pictures(), rewrite_lrn=True)


def test_a_net_that_a_solver_names_is_rewritten(tmp_path):
    _, path = drawn(tmp_path, NETS["across"])
    (tmp_path / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 1')
    net = caffeinit.load(tmp_path / "solver.prototxt")
    assert net.source.net_text() == path.read_bytes()


def test_a_mode_that_does_not_keep_the_function_does_not_rewrite(tmp_path):
    net, _ = drawn(tmp_path, NETS["across"])
    with pytest.raises(OptionError, match="rewrite-lrn"):
        caffeinit.rescale(net, pictures(), mode="normalize", rewrite_lrn=True)


def test_a_trained_net_with_lrn_gets_one_rate(tmp_path):
    net = caffeinit.load(*files_of("cifar10_full_v1_everpeace"))
    options = {"channels": "rgb", "mean": [125.3, 123, 113.9], "num_images": 32}
    batches = list(caffeinit.read_images(net, str(shared("images", "cifar10", "test")), **options))
    before = [net.forward(batch, ["ip1"])["ip1"] for batch in batches]
    result = caffeinit.rescale(net, batches, rewrite_lrn=True)
    assert result.rate_spread < 1e-5 < 2 < result.rate_spread_before
    net.save(tmp_path / "new.caffemodel", net_path=tmp_path / "new.prototxt")
    again = caffeinit.load(tmp_path / "new.prototxt", tmp_path / "new.caffemodel")
    for batch, old in zip(batches, before, strict=True):
        new = again.forward(batch, ["ip1"])["ip1"]
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-5 * np.abs(old).max())
