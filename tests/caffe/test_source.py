"""Loading whole nets: inputs of train_val files, blocked parts, shared parameters, other shapes."""

import numpy as np
import pytest

import caffeinit
from caffeinit.errors import CaffeinitError, OptionError
from caffeinit.inspection import inspect_files
from caffeinit.protos import schema

WINDOWS = "convolution_param { num_output: 4 kernel_size: 3 }"
CONV = f'layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" {WINDOWS} }}\n'
PRODUCT = 'layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 2 } }\n'
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }\n'
DATABASE = 'layer { name: "data" type: "Data" top: "data" top: "label" data_param { batch_size: 5 } %s }\n'


def input_layer(*dims, name="data"):
    shape = " ".join(f"dim: {d}" for d in dims)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {shape} }} }} }}\n'


def load(tmp_path, text, **options):
    (tmp_path / "net.prototxt").write_text(text)
    return caffeinit.load(tmp_path / "net.prototxt", **options)


def test_a_database_becomes_inputs_of_its_crop(tmp_path):
    net = load(tmp_path, DATABASE % "transform_param { crop_size: 9 }" + CONV + PRODUCT + LOSS)
    assert net.inputs == {"data": (5, 3, 9, 9), "label": (5,)}


def test_a_database_without_size_takes_that_of_its_mean(tmp_path):
    blob = schema.message("BlobProto")(num=1, channels=1, height=7, width=6, data=np.zeros(42, "<f4").tobytes())
    (tmp_path / "mean.binaryproto").write_bytes(blob.SerializeToString())
    net = load(tmp_path, DATABASE % 'transform_param { mean_file: "some/where/mean.binaryproto" }' + CONV)
    assert net.inputs["data"] == (5, 1, 7, 6)


def test_a_size_that_nothing_tells_is_asked_for(tmp_path):
    text = DATABASE % "" + CONV + PRODUCT + LOSS
    assert "--input-shape data=C,H,W" in load(tmp_path, text).skipped[0].reason
    net = load(tmp_path, text, input_shapes={"data": (1, 8, 8)})
    assert net.inputs == {"data": (5, 1, 8, 8), "label": (5,)}
    assert not net.skipped


def test_pictures_alone_run_a_net_with_a_loss(tmp_path):
    net = load(tmp_path, DATABASE % "transform_param { crop_size: 9 }" + CONV + PRODUCT + LOSS)
    caffeinit.init(net, [np.random.default_rng(0).standard_normal((4, 3, 9, 9)).astype("f4")])
    out = net.forward({"data": np.zeros((2, 3, 9, 9))})
    assert set(out) == {"data", "conv", "ip"}
    whole = net.forward({"data": np.zeros((2, 3, 9, 9)), "label": np.zeros(2)})
    assert whole["loss"].shape == ()


def test_only_what_depends_on_a_custom_layer_is_left_out(tmp_path):
    custom = 'layer { name: "odd" type: "Custom" bottom: "data" top: "odd" }\n'
    after = (
        'layer { name: "late" type: "InnerProduct" bottom: "odd" top: "late" inner_product_param { num_output: 2 } }\n'
    )
    net = load(tmp_path, input_layer(1, 3, 8, 8) + custom + after + CONV + PRODUCT)
    assert {s.name for s in net.skipped} == {"odd", "late"}
    result = caffeinit.init(net, [np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype("f4")])
    assert [u.name for u in result.units if u.done] == ["conv", "ip"]
    with pytest.raises(CaffeinitError, match="odd") as found:
        load(tmp_path, input_layer(1, 3, 8, 8) + custom + after + CONV, strict=True)
    assert "late" in str(found.value)


SIAMESE = (
    input_layer(2, 3, 8, 8, name="data")
    + input_layer(2, 3, 8, 8, name="other")
    + "".join(
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
        f'param {{ name: "w" }} param {{ name: "b" }} {WINDOWS} }}\n'
        for name, bottom in (("one", "data"), ("two", "other"))
    )
)


def test_shared_parameters_are_one_array(tmp_path):
    net = load(tmp_path, SIAMESE)
    assert net.params["one"][0] is net.params["two"][0]
    assert [(u.name, len(u.uses)) for u in net.units] == [("one", 2)]
    rng = np.random.default_rng(0)
    batch = {n: rng.standard_normal((6, 3, 8, 8)).astype("f4") for n in ("data", "other")}
    caffeinit.init(net, [batch])
    out = net.forward(batch)
    pooled = np.concatenate([out["one"], out["two"]])
    np.testing.assert_allclose(pooled.std(axis=(0, 2, 3)), 1, atol=1e-3)
    net.save(tmp_path / "w.caffemodel")
    again = caffeinit.load(tmp_path / "net.prototxt", tmp_path / "w.caffemodel")
    np.testing.assert_array_equal(again.forward(batch)["two"], out["two"])


def test_hdf5_without_the_copies_of_shared_parameters_is_kept_as_it_is(tmp_path):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["data/one/0"] = rng.standard_normal((4, 3, 3, 3)).astype("f4")
        file["data/one/1"] = rng.standard_normal(4).astype("f4")
        file.create_group("data/two")
    (tmp_path / "net.prototxt").write_text(SIAMESE)
    net = caffeinit.load(tmp_path / "net.prototxt", tmp_path / "w.h5")
    assert net.params["two"][0] is net.params["one"][0]
    assert net.params["two"][0].any()
    net.save(tmp_path / "same.h5")
    assert (tmp_path / "same.h5").read_bytes() == (tmp_path / "w.h5").read_bytes()
    net.params["two"][1][...] = 7
    net.save(tmp_path / "new.h5")
    with h5py.File(tmp_path / "new.h5") as file:
        assert (file["data/one/1"][()] == 7).all()
        assert not list(file["data/two"])


def test_a_frozen_layer_keeps_its_values(tmp_path):
    frozen = CONV.replace("convolution_param", "param { lr_mult: 0 } convolution_param")
    net = load(tmp_path, input_layer(1, 3, 8, 8) + frozen + PRODUCT)
    net.params["conv"][0][...] = 7
    net.missing.clear()
    result = caffeinit.rescale(net, [np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype("f4")])
    assert "lr_mult 0" in result.units[0].reason
    assert (net.params["conv"][0] == 7).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"phase": "train"}, 'phase "train": has to be TRAIN or TEST'),
        ({"input_shapes": {"data": (3, 0, 7)}}, r'the shape \(3, 0, 7\) for input "data": has to be of numbers from 1'),
    ],
)
def test_a_state_or_a_shape_that_is_none_is_refused(tmp_path, options, words):
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 7 } } }'
        'layer { name: "r" type: "ReLU" bottom: "data" top: "r" include { phase: TEST } }'
    )
    with pytest.raises(OptionError, match=words):
        caffeinit.load(path, **options)


def test_other_picture_sizes_where_the_weights_allow_them(tmp_path):
    net = load(tmp_path, input_layer(1, 3, 8, 8) + CONV)
    assert net.forward({"data": np.zeros((3, 3, 8, 8))})["conv"].shape == (3, 4, 6, 6)
    assert net.forward({"data": np.zeros((1, 3, 20, 11))})["conv"].shape == (1, 4, 18, 9)
    net = load(tmp_path, input_layer(1, 3, 8, 8) + CONV + PRODUCT)
    with pytest.raises(CaffeinitError, match="ip"):
        net.forward({"data": np.zeros((1, 3, 20, 11))})


@pytest.mark.parametrize(
    ("inputs", "blobs", "words"),
    [
        ({"date": np.zeros((1, 3, 8, 8))}, None, 'no input "date"'),
        ({"data": np.zeros((3, 8, 8))}, None, "the net wants"),
        ({"data": np.zeros((1, 3, 8, 8))}, ["nothing"], 'blob "nothing"'),
        ({}, ["conv"], "not given"),
    ],
)
def test_wrong_calls_of_forward_are_explained(tmp_path, inputs, blobs, words):
    net = load(tmp_path, input_layer(1, 3, 8, 8) + CONV)
    with pytest.raises(CaffeinitError, match=words):
        net.forward(inputs, blobs)


def test_a_single_text_names_one_blob(tmp_path):
    net = load(tmp_path, input_layer(1, 3, 8, 8) + CONV)
    x = {"data": np.ones((1, 3, 8, 8))}
    assert list(net.forward(x, "conv")) == ["conv"]
    assert list(net.backward(x, {"conv": np.ones((1, 4, 6, 6))}, "data").inputs) == ["data"]


def test_a_change_of_a_parameter_is_seen_by_the_next_forward(tmp_path):
    net = load(tmp_path, input_layer(1, 3, 8, 8) + CONV)
    x = {"data": np.ones((1, 3, 8, 8))}
    assert not net.forward(x)["conv"].any()
    net.params["conv"][1][...] = 3
    assert (net.forward(x)["conv"] == 3).all()


def test_a_net_that_spells_its_batch_out_runs_at_that_batch(tmp_path):
    reshape = 'layer { name: "r" type: "Reshape" bottom: "conv" top: "r" reshape_param { shape { dim: 4 dim: -1 } } }\n'
    net = load(tmp_path, input_layer(4, 3, 8, 8) + CONV + reshape)
    assert not net.graph.batch_axis_free
    rng = np.random.default_rng(0)
    caffeinit.init(net, [rng.standard_normal((4, 3, 8, 8)).astype("f4") for _ in range(3)])
    assert net.params["conv"][0].any()


def test_an_input_that_a_layer_changes_is_fed_by_its_name(tmp_path):
    halve = 'layer { name: "halve" type: "Power" bottom: "data" top: "data" power_param { scale: 0.5 } }\n'
    net = load(tmp_path, DATABASE % "transform_param { crop_size: 9 scale: 2 }" + halve + CONV)
    assert set(net.inputs) == {"data", "label"}
    assert net.source.preprocessing()["data"].scale == 2
    x = np.ones((1, 3, 9, 9), np.float32)
    out = net.forward({"data": x})
    assert (out["data"] == 1).all()
    assert (out["data@halve"] == 0.5).all()
    assert load(tmp_path, input_layer(1, 3, 9, 9) + halve).outputs == ["data@halve"]


def test_labels_may_be_given_that_no_unit_needs(tmp_path):
    net = load(tmp_path, DATABASE % "transform_param { crop_size: 9 }" + CONV + PRODUCT + LOSS)
    x = np.random.default_rng(0).standard_normal((4, 3, 9, 9)).astype("f4")
    assert all(u.done for u in caffeinit.init(net, [{"data": x, "label": np.zeros(4)}]).units)
    with pytest.raises(CaffeinitError, match="the net has no input extra"):
        caffeinit.init(net, [{"data": x, "extra": x}])


def test_inputs_of_different_lengths_are_no_matter_where_the_net_spells_them_out(tmp_path):
    text = (
        input_layer(5, 2, 3, name="x")
        + input_layer(5, 2, name="cont")
        + input_layer(1, 2, 4, name="state")
        + 'layer { name: "rnn" type: "RNN" bottom: "x" bottom: "cont" bottom: "state" top: "y" top: "last" '
        "recurrent_param { num_output: 4 expose_hidden: true } }\n"
    )
    net = load(tmp_path, text)
    rng = np.random.default_rng(0)
    given = {n: rng.standard_normal(s).astype("f4") for n, s in net.inputs.items()}
    assert [u.done for u in caffeinit.init(net, given).units] == ["drawn (gaussian), normalised"] * 2
    assert net.params["rnn"][0].all()
    with pytest.raises(CaffeinitError, match="different numbers of rows"):
        caffeinit.init(net, {**given, "state": np.ones((3, 2, 4))})


def test_a_batch_cut_into_halves_may_have_any_even_size(tmp_path):
    halves = 'layer { name: "cut" type: "Slice" bottom: "conv" top: "a" top: "b" slice_param { axis: 0 } }\n'
    net = load(tmp_path, input_layer(4, 3, 8, 8) + CONV + halves)
    out = net.forward({"data": np.random.default_rng(0).standard_normal((10, 3, 8, 8))})
    assert out["a"].shape[0] == out["b"].shape[0] == 5


def test_a_batch_cut_into_three_is_that_of_the_net(tmp_path):
    thirds = 'layer { name: "cut" type: "Slice" bottom: "conv" top: "a" top: "b" top: "c" slice_param { axis: 0 } }\n'
    net = load(tmp_path, input_layer(6, 3, 8, 8) + CONV + thirds)
    assert not net.graph.batch_axis_free
    batches = [np.random.default_rng(i).standard_normal((6, 3, 8, 8)).astype("f4") for i in range(4)]
    (told,) = caffeinit.init(net, batches).units
    (unit,) = caffeinit.measure(net, batches).units
    assert unit.rate == pytest.approx(told.after.rate, rel=1e-4)


def test_a_crop_that_leaves_pictures_out_holds_the_batch(tmp_path):
    half = """
    layer { name: "cut" type: "Slice" bottom: "conv" top: "a" top: "b" slice_param { axis: 0 } }
    layer { name: "crop" type: "Crop" bottom: "conv" bottom: "a" top: "c" crop_param { axis: 0 offset: 0 } }
    """
    assert not load(tmp_path, input_layer(4, 3, 8, 8) + CONV + half).graph.batch_axis_free


def test_factors_along_the_batch_hold_it(tmp_path):
    factors = 'layer { name: "s" type: "Scale" bottom: "conv" top: "s" scale_param { axis: 0 num_axes: -1 } }\n'
    assert not load(tmp_path, input_layer(4, 3, 8, 8) + CONV + factors).graph.batch_axis_free


# The operand has as many rows as there are pictures by chance.
@pytest.mark.parametrize(
    "text",
    [
        """layer { name: "b" type: "Input" top: "b" input_param { shape { dim: 4 } } }
        layer { name: "sum" type: "Bias" bottom: "data" bottom: "b" top: "sum" bias_param { axis: 1 } }""",
        """layer { name: "y" type: "Input" top: "y" top: "h" input_param { shape { dim: 4 } shape { dim: 4 dim: 4 } } }
        layer { name: "loss" type: "InfogainLoss" bottom: "data" bottom: "y" bottom: "h" top: "loss" }""",
    ],
    ids=["Bias", "InfogainLoss"],
)
def test_an_operand_that_does_not_follow_the_batch_holds_it(tmp_path, text):
    text = 'layer { name: "d" type: "Input" top: "data" input_param { shape { dim: 4 dim: 4 } } }' + text
    assert not load(tmp_path, text).graph.batch_axis_free


def test_what_init_has_drawn_is_not_drawn_again(tmp_path):
    net = load(tmp_path, input_layer(1, 3, 8, 8) + CONV)
    x = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype("f4")
    caffeinit.init(net, [x])
    before = net.params["conv"][0].copy()
    caffeinit.rescale(net, [x], mode="normalize", seed=1)
    np.testing.assert_allclose(net.params["conv"][0], before, rtol=1e-4)


@pytest.mark.parametrize("method", ["gaussian", "pca"])
def test_frames_before_the_channels_are_drawn_for(tmp_path, method):
    frames = CONV.replace("num_output", "axis: 2 num_output")
    rows = PRODUCT.replace("num_output", "axis: 2 num_output")
    net = load(tmp_path, input_layer(2, 5, 3, 8, 8) + frames + rows)
    x = np.random.default_rng(0).standard_normal((6, 5, 3, 8, 8)).astype("f4")
    caffeinit.init(net, [x[:2], x[2:]], method=method, balanced=False)
    out = net.forward({"data": x})
    np.testing.assert_allclose(out["conv"].std((0, 1, 3, 4)), 1, atol=1e-3)
    np.testing.assert_allclose(out["ip"].std((0, 1)), 1, atol=1e-3)


def test_a_layer_that_is_refused_late_does_not_hold_the_batch(tmp_path):
    even = 'layer { name: "norm" type: "LRN" bottom: "conv" top: "norm" lrn_param { local_size: 4 } }\n'
    net = load(tmp_path, input_layer(4, 3, 8, 8) + CONV + even)
    assert [s.name for s in net.skipped] == ["norm"]
    assert net.graph.batch_axis_free


def test_blobs_may_be_called_what_our_own_values_are_called(tmp_path):
    text = (
        input_layer(2, 3, 8, 8, name="const")
        + CONV.replace('"data"', '"const"').replace('top: "conv"', 'top: "conv/param0"')
        + 'layer { name: "a" type: "Power" bottom: "conv/param0" top: "b/Mul" power_param { scale: 2 shift: 1 } }\n'
        + 'layer { name: "b" type: "Power" bottom: "b/Mul" top: "diff/out" power_param { scale: 3 shift: 1 } }\n'
    )
    net = load(tmp_path, text)
    x = {"const": np.random.default_rng(0).standard_normal((2, 3, 8, 8))}
    caffeinit.init(net, [x])
    out = net.forward(x)
    np.testing.assert_allclose(out["diff/out"], (out["conv/param0"] * 2 + 1) * 3 + 1, rtol=1e-5)
    assert net.backward(x, {"diff/out": np.ones_like(out["diff/out"])}).params["conv"][0].any()


def test_an_array_shared_in_two_shapes_has_each_layers_own(tmp_path):
    def scale(name, bottom, more):
        return f'layer {{ name: "{name}" type: "Scale" bottom: "{bottom}" top: "{name}" {more} }}\n'

    text = (
        input_layer(2, 6, name="flat")
        + input_layer(2, 2, 3, name="square")
        + scale("a", "flat", 'param { name: "s" }')
        + scale("b", "square", 'param { name: "s" share_mode: PERMISSIVE } scale_param { num_axes: 2 }')
    )
    net = load(tmp_path, text)
    net.params["a"][0][...] = np.arange(6)
    assert net.params["b"][0].tolist() == [[0, 1, 2], [3, 4, 5]]
    net.save(tmp_path / "shared.caffemodel")
    again = caffeinit.load(tmp_path / "net.prototxt", tmp_path / "shared.caffemodel")
    assert again.params["b"][0].shape == (2, 3)
    x = {"flat": np.ones((2, 6)), "square": np.ones((2, 2, 3))}
    diffs = net.backward(x, {"a": np.ones((2, 6)), "b": np.full((2, 2, 3), 10)}).params
    assert diffs["a"][0].tolist() == [22] * 6
    assert diffs["b"][0].tolist() == [[22] * 3] * 2


def test_a_layer_that_cannot_share_one_array_lends_no_other(tmp_path):
    def product(name, outputs, *names):
        shared = " ".join(f'param {{ name: "{n}" }}' for n in names)
        return (
            f'layer {{ name: "{name}" type: "InnerProduct" bottom: "data" top: "{name}" {shared} '
            f"inner_product_param {{ num_output: {outputs} }} }}\n"
        )

    text = input_layer(2, 6) + product("a", 3, "x", "bias") + product("b", 4, "w", "bias") + product("c", 4, "w", "own")
    (tmp_path / "net.prototxt").write_text(text)
    layers = {layer.name: layer for layer in inspect_files(tmp_path / "net.prototxt", scales=True).layers}
    assert 'shares parameter "bias" with layer "a", but needs (4,), not (3,)' in layers["b"].reason
    assert not layers["a"].reason
    assert not layers["c"].reason
    assert set(load(tmp_path, text).params) == {"a", "c"}


def test_a_layer_with_one_array_for_both_parameters_cannot_run(tmp_path):
    both = 'param { name: "s" } param { name: "s" } scale_param { bias_term: true }'
    text = input_layer(2, 6) + f'layer {{ name: "a" type: "Scale" bottom: "data" top: "a" {both} }}\n'
    (tmp_path / "net.prototxt").write_text(text)
    (layer,) = [layer for layer in inspect_files(tmp_path / "net.prototxt").layers if layer.name == "a"]
    assert 'has one array, "s", for two of its parameters' in layer.reason


@pytest.mark.parametrize("own", ["", "bias_term: false"])
def test_units_that_share_a_weight_have_names_of_their_own(tmp_path, own):
    def conv(name, bottom, more=""):
        return (
            f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" param {{ name: "w" }} '
            f"convolution_param {{ num_output: 3 kernel_size: 3 pad: 1 {more} }} }}\n"
        )

    net = load(tmp_path, input_layer(1, 3, 8, 8) + conv("c1", "data") + conv("c2", "c1", own) + conv("c3", "c2", own))
    names = [u.name for u in net.units]
    assert names == (["c1", "c2", "c3"] if not own else ["c1", "c2"])  # c2 and c3 are one unit where both have no bias
    x = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype("f4")
    for more in ({"normalized": False}, {"balanced": False}, {}):
        result = caffeinit.init(net, [x], method="kmeans", **more)
        assert [u.name for u in result.units] == names
    # The weight is normalised with the first; the statistics are each unit's own.
    assert result.units[1].reason == "its weight is normalised with c1"
    found = caffeinit.measure(net, [x]).units
    out = net.forward({"data": x})
    for unit in found[: 2 if not own else 1]:
        np.testing.assert_allclose(unit.stats.channel_stds, out[unit.name].std((0, 2, 3)), rtol=1e-3)
    np.testing.assert_allclose(out["c1"].std((0, 2, 3)), out["c1"].std((0, 2, 3)).mean(), rtol=1e-3)
    reasons = {u.name: u.reason for u in caffeinit.rescale(net, [x], mode="normalize", layers=["c2"]).units}
    assert [n for n, reason in reasons.items() if "not among the chosen" not in reason] == ["c2"]
