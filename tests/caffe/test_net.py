"""Net files: the text format, phases and stages, old generations, and how values are named apart."""

import contextlib
import re

import pytest

from caffeinit.caffe.lower import infer_net
from caffeinit.caffe.naming import name_values
from caffeinit.caffe.net import read_net
from caffeinit.caffe.rewrite import upgrade_file
from caffeinit.caffe.textformat import read_text
from caffeinit.errors import CaffeinitError, FormatError
from caffeinit.protos import schema
from tests.conftest import SHARED

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }\n'


def net_of(tmp_path, text, **state):
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    return read_net(path, **state)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("scale: 1.", "scale", 1.0),
        ("scale: .5", "scale", 0.5),
        ("scale: 1e-3f", "scale", 1e-3),
        ("scale: 5", "scale", 5.0),
        ("scale: -2.5", "scale", -2.5),
        ("scale: - 2.5", "scale", -2.5),
        ("scale: inf", "scale", float("inf")),
        ("crop_size: 0x10", "crop_size", 16),
        ("crop_size: 010", "crop_size", 8),
        ("mirror: true", "mirror", True),
        ("mirror: t", "mirror", True),
        ("mirror: 0", "mirror", False),
        ("mean_file: 'a\\tb'", "mean_file", "a\tb"),
        ('mean_file: "a" "b"\n\'c\'', "mean_file", "abc"),
        ("mean_value: [1, 2, 3]", "mean_value", [1, 2, 3]),
        ("mean_value: 1; mean_value: 2, # three\n mean_value: 3", "mean_value", [1, 2, 3]),
        ("resize_param: { height: 3 }", "resize_param.height", 3),
        ("resize_param < height: 3 >", "resize_param.height", 3),
        ("resize_param { resize_mode: 2 }", "resize_param.resize_mode", 2),
        ("resize_param { resize_mode: FIT_SMALL_SIZE }", "resize_param.resize_mode", 2),
    ],
)
def test_text_is_read_as_the_c_parser_reads_it(text, field, value):
    message = schema.message("TransformationParameter")()
    reading = read_text(text, message, "x")
    for name in field.split("."):
        message = getattr(message, name)
    assert (list(message) if isinstance(value, list) else message) == pytest.approx(value)
    assert not reading.notes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scale: ", 'x:1: field "scale" has no value'),
        ("scale 5", 'x:1: expected ":"'),
        ("\n\nscale: abc", "x:3: field \"scale\" of TransformationParameter cannot be 'abc'"),
        ("crop_size: 1.5", "crop_size"),
        ("crop_size: -1", "crop_size"),
        ("scale: 1 scale: 2", "given twice"),
        ("resize_param { height: 3", '"}" is missing'),
        ("mean_file: abc", "needs a quoted string"),
        ("scale: 1 $", "x:1:10: '$'"),
        ('mean_file: "abc', "x:1:12: a text that begins here is not closed"),
        ("mean_file: 'abc\"\nscale: 1 crop_size: '2'", "x:1:12: a text that begins here is not closed"),
    ],
)
def test_what_is_no_text_format_is_refused_with_its_place(text, words):
    with pytest.raises(FormatError) as found:
        read_text(text, schema.message("TransformationParameter")(), "x")
    assert words in str(found.value)


def test_text_files_of_windows_are_read(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"\xef\xbb\xbf" + RULED.replace("\n", "\r\n").encode())
    assert [layer.name for layer in read_net(path).layers] == [layer.name for layer in net_of(tmp_path, RULED).layers]
    path.write_bytes(RULED.encode("utf-16"))
    with pytest.raises(FormatError, match="UTF-16"):
        read_net(path)


def test_a_field_that_nobody_declares_is_passed_over_and_noted():
    message = schema.message("TransformationParameter")()
    reading = read_text("odd_param { a: 1 b { c: [1, 2] } d: 'x' 'y' } scal: 2 scale: 3", message, "x")
    assert message.scale == 3
    assert reading.unknown_fields == ["TransformationParameter.odd_param", "TransformationParameter.scal"]
    assert "did you mean scale" in reading.notes[1]


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        ("convolution_param { num_outputs: 4 kernel_size: 3 }", "num_output"),
        ("convolution_param { num_output: 4 kernel_sise: 3 }", "kernel_size"),
        ("convolutional_param { num_output: 4 kernel_size: 3 }", "convolution_param"),
    ],
)
def test_a_layer_that_lacks_something_names_the_misspelt_field_that_may_have_been_meant(tmp_path, field, meant):
    net = net_of(
        tmp_path, DATA + f'layer {{ name: "c" type: "Convolution" bottom: "data" top: "c" {field} }}\nnmae: "x"'
    )
    reason = infer_net(net).blocked["c"]
    assert re.match(rf"(num_output|kernel_size) is not given; line \d: .* passed over; did you mean {meant}\?$", reason)
    assert list(net.misspelt) == ["c"]  # what stands outside of layers belongs to none


def test_a_misspelt_field_that_a_layer_can_do_without_is_noted_alone(tmp_path):
    relu = 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" relu_param { negative_slop: 0.1 } }'
    net = net_of(tmp_path, DATA + relu)
    assert not infer_net(net).blocked
    assert any("did you mean negative_slope" in note for note in net.notes)


def test_a_layer_with_an_unknown_enum_value_is_not_run_with_the_default(tmp_path):
    text = (
        DATA
        + 'layer { name: "p" type: "Pooling" bottom: "data" top: "p" pooling_param { pool: MEDIAN kernel_size: 2 } }'
    )
    assert "MEDIAN" in net_of(tmp_path, text).refusals["p"]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "is a picture, not a net"),
        (b"PK\x03\x04" + bytes(40), "is a zip archive .*, not a net"),
        (bytes(range(256)), "neither a text nor a binary net"),
        (b"<html><body>404</body></html>", "is a web page; the download went wrong$"),
        (b'{"a": 1}', r'is no Caffe net: the word "layer" is not in it. \(.*:1: expected a field name'),
        (b"hello world", "there are no layers in it, and so it is no Caffe net"),
        (b"layer { name: 3 }", r":1: field .name. needs a quoted string"),
    ],
)
def test_what_is_no_net_is_named(tmp_path, raw, words):
    (tmp_path / "net.prototxt").write_bytes(raw)
    with pytest.raises(FormatError, match=words) as refused:
        read_net(tmp_path / "net.prototxt")
    assert str(refused.value).startswith(str(tmp_path / "net.prototxt"))


def test_deep_nesting_is_refused(tmp_path):
    with pytest.raises(FormatError):
        net_of(tmp_path, "layer { a { " * 3000)


RULED = DATA + "".join(
    f'layer {{ name: "{name}" type: "ReLU" bottom: "data" top: "{name}" {rule} }}\n'
    for name, rule in {
        "always": "",
        "train": "include { phase: TRAIN }",
        "not_train": "exclude { phase: TRAIN }",
        "level": "include { min_level: 1 max_level: 2 }",
        "stage": "include { stage: 'a' stage: 'b' }",
        "not_stage": "include { not_stage: 'a' }",
        "either": "include { phase: TRAIN } include { stage: 'a' }",
    }.items()
)


@pytest.mark.parametrize(
    ("state", "present"),
    [
        ({}, {"always", "not_train", "not_stage"}),
        ({"phase": "TRAIN"}, {"always", "train", "not_stage", "either"}),
        ({"level": 1}, {"always", "not_train", "level", "not_stage"}),
        ({"level": 3}, {"always", "not_train", "not_stage"}),
        ({"stages": ["a"]}, {"always", "not_train", "either"}),
        ({"stages": ["a", "b"]}, {"always", "not_train", "stage", "either"}),
    ],
)
def test_rules_choose_layers(tmp_path, state, present):
    assert {layer.name for layer in net_of(tmp_path, RULED, **state).layers} - {"data"} == present


def names(tmp_path, text):
    return [(e.layer.name, e.bottoms, e.tops) for e in net_of(tmp_path, text).named_layers]


def test_the_last_version_of_a_blob_has_its_name(tmp_path):
    chain = "".join(f'layer {{ name: "r{i}" type: "ReLU" bottom: "x" top: "x" }}\n' for i in range(2))
    first = 'layer { name: "first" type: "ReLU" bottom: "data" top: "x" }\n'
    assert names(tmp_path, DATA + first + chain)[1:] == [
        ("first", ["data"], ["x@first"]),
        ("r0", ["x@first"], ["x@r0"]),
        ("r1", ["x@r0"], ["x"]),
    ]


def test_an_input_that_layers_change_keeps_its_name(tmp_path):
    chain = "".join(f'layer {{ name: "r{i}" type: "ReLU" bottom: "data" top: "data" }}\n' for i in range(2))
    assert names(tmp_path, DATA + chain) == [
        ("data", [], ["data"]),
        ("r0", ["data"], ["data@r0"]),
        ("r1", ["data@r0"], ["data@r1"]),
    ]


def test_a_learned_array_that_layers_change_gives_its_name_to_the_last_version(tmp_path):
    chain = 'layer { name: "p" type: "Parameter" top: "p" } layer { name: "r" type: "ReLU" bottom: "p" top: "p" }'
    assert names(tmp_path, DATA + chain)[1:] == [("p", [], ["p@p"]), ("r", ["p@p"], ["p"])]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('layer { name: "a" type: "ReLU" bottom: "b" top: "a" }', ['layer "a"', '"b"', "no layer makes it"]),
        (
            'layer { name: "a" type: "ReLU" bottom: "y" top: "x" } layer { name: "b" type: "ReLU" bottom: "x" top: "y" }',
            ['layer "a"', '"y"', "only a later layer"],
        ),
        ('layer { name: "a" type: "ReLU" bottom: "data" top: "c" }' * 2, ['"c"', "made by layer"]),
        (
            'layer { name: "a" type: "ReLU" bottom: "data" top: "x" } layer { name: "b" type: "ReLU" bottom: "data" '
            'top: "data" }',
            ['layer "b" (ReLU): top "data" changes in place what layer "a" reads, too', "a name of its own"],
        ),
        (
            'layer { name: "a" type: "Eltwise" bottom: "data" bottom: "data" top: "data" }',
            ['layer "a" (Eltwise): top "data" changes in place what layer "a" reads, too'],
        ),
        (
            'layer { name: "a" type: "ReLU" bottom: "data" top: "x" loss_weight: 1 }'
            'layer { name: "b" type: "ReLU" bottom: "x" top: "x" }',
            ['layer "b" (ReLU): top "x" changes in place what the loss reads, too'],
        ),
        ('input: "x" input_dim: 3 input_dim: 8 input_dim: 8', ["input_dim is given 3 times", "input_shape"]),
        ('input: "x" input: "y" input_shape { dim: 3 }', ["the net has 2 inputs, but 1 input shapes"]),
    ],
    ids=["dangling", "cycle", "twice", "read before", "read twice", "weighted before", "three extents", "one shape"],
)
def test_graphs_that_cannot_be_are_refused(tmp_path, text, words):
    with pytest.raises(FormatError) as found:
        names(tmp_path, DATA + text)
    assert all(word in str(found.value) for word in words)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('bottom: "data" top: "padded"', 'top: "padded"'),
        ('top: "padded"', 'top: "padded" top: "again"'),
        ('bottom: "padded"', 'bottom: "padded" bottom: "data"'),
    ],
)
def test_padding_of_2013_goes_from_one_blob_to_another(tmp_path, old, new):
    assert old in V0
    with pytest.raises(FormatError, match='reads the padding layer "pad": both must have one bottom'):
        net_of(tmp_path, V0.replace(old, new, 1))


def test_layers_of_one_name_are_told_apart(tmp_path):
    twice = "".join(f'layer {{ name: "r" type: "ReLU" bottom: "data" top: "t{i}" }}\n' for i in range(2))
    net = net_of(tmp_path, DATA + twice)
    assert [layer.name for layer in net.layers] == ["data", "r", "r#2"]
    assert net.file_names == {"r#2": "r"}


V1 = """
input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
layers { name: "s" type: SOFTMAX_LOSS bottom: "c" bottom: "data" top: "s" include { phase: TRAIN } }
"""
V0 = """
input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layers { layer { name: "pad" type: "padding" pad: 1 } bottom: "data" top: "padded" }
layers { layer { name: "c" type: "conv" num_output: 4 kernelsize: 3
  blobs_lr: 1. blobs_lr: 2. weight_decay: 1. weight_decay: 0. }
  bottom: "padded" top: "c" }
"""


@pytest.mark.parametrize(("text", "generation"), [(V1, "V1"), (V0, "V0")])
def test_old_generations_become_todays_form(tmp_path, text, generation):
    net = net_of(tmp_path, text)
    assert net.generation == generation
    data, conv = net.layers
    assert (data.type, list(data.top), list(data.input_param.shape[0].dim)) == ("Input", ["data"], [1, 3, 8, 8])
    assert (conv.type, list(conv.bottom)) == ("Convolution", ["data"])
    assert (list(conv.convolution_param.pad), conv.convolution_param.num_output) == ([1], 4)
    assert [(p.lr_mult, p.decay_mult) for p in conv.param] == [(1, 1), (2, 0)]


def test_a_binary_net_is_the_text_net(tmp_path):
    net = net_of(tmp_path, RULED)
    (tmp_path / "net.bin").write_bytes(net.message.SerializeToString())
    binary = read_net(tmp_path / "net.bin")
    assert binary.form == "binary"
    assert [layer.name for layer in binary.layers] == [layer.name for layer in net.layers]


@pytest.mark.parametrize("name", [b"data", b"Input"])
def test_a_binary_net_with_a_text_that_is_none_is_refused(tmp_path, name):
    raw = net_of(tmp_path, RULED).message.SerializeToString()
    assert name in raw
    (tmp_path / "net.bin").write_bytes(raw.replace(name, b"\x9d" * len(name)))
    with pytest.raises(FormatError, match="neither a text nor a binary net, or one that is damaged"):
        read_net(tmp_path / "net.bin")
    with pytest.raises(FormatError, match="does not parse"):
        upgrade_file(tmp_path / "net.bin", tmp_path / "new")


def test_a_solver_gives_its_net(tmp_path):
    net_of(tmp_path, DATA)
    for name, text in {
        "named": 'net: "net.prototxt" base_lr: 0.1',
        "elsewhere": 'net: "models/x/net.prototxt"',
        "inline": f"net_param {{ {DATA} }} base_lr: 0.1",
    }.items():
        (tmp_path / f"{name}.prototxt").write_text(text)
        assert [layer.name for layer in read_net(tmp_path / f"{name}.prototxt").layers] == ["data"]
    (tmp_path / "loop.prototxt").write_text('net: "named.prototxt"')
    with pytest.raises(FormatError, match="there are no layers"):
        read_net(tmp_path / "loop.prototxt")
    (tmp_path / "lost.prototxt").write_text('net: "other.prototxt"')
    with pytest.raises(FormatError, match=r"other\.prototxt"):
        read_net(tmp_path / "lost.prototxt")


def test_a_solver_gives_the_net_of_the_phase(tmp_path):
    nets = [f"{name} {{ {DATA.replace('data', name)} }}" for name in ("train_net_param", "test_net_param")]
    (tmp_path / "solver.prototxt").write_text(" ".join(nets))
    for phase, name in (("TRAIN", "train_net_param"), ("TEST", "test_net_param")):
        assert [layer.name for layer in read_net(tmp_path / "solver.prototxt", phase).layers] == [name]


def test_the_state_that_files_name_joins_what_is_asked_for(tmp_path):
    text = f"state {{ stage: 'b' }} {RULED}"
    assert "stage" in [layer.name for layer in net_of(tmp_path, text, stages=["a"]).layers]
    assert "level" in [layer.name for layer in net_of(tmp_path, f"state {{ level: 1 }} {RULED}").layers]
    (tmp_path / "solver.prototxt").write_text(f"net_param {{ {text} }} test_state {{ stage: 'a' }}")
    assert "stage" in [layer.name for layer in read_net(tmp_path / "solver.prototxt").layers]
    assert "stage" not in [layer.name for layer in read_net(tmp_path / "solver.prototxt", "TRAIN").layers]


def test_a_name_in_a_solver_does_not_lead_out_of_its_folder(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "net.prototxt").write_text(DATA)
    for name in ("../net.prototxt", str(tmp_path / "net.prototxt"), "n" * 5000):
        (tmp_path / "inside" / "solver.prototxt").write_text(f'net: "{name}" base_lr: 1')
        with pytest.raises(FormatError, match="is not beside it"):
            read_net(tmp_path / "inside" / "solver.prototxt")
    (tmp_path / "inside" / "net.prototxt").write_text(DATA)
    (tmp_path / "inside" / "solver.prototxt").write_text('net: "/home/author/net.prototxt" base_lr: 1')
    assert read_net(tmp_path / "inside" / "solver.prototxt").path.name == "solver.prototxt"


def test_an_unknown_value_inside_a_solver_refuses_its_layer(tmp_path):
    odd = 'layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { pool: MEDIAN kernel_size: 2 } }'
    (tmp_path / "solver.prototxt").write_text(f"net_param {{ {DATA} {odd} }}")
    assert "MEDIAN" in read_net(tmp_path / "solver.prototxt").refusals["pool"]


ZOO = sorted((SHARED / "zoo").glob("*/*.prototxt"))


@pytest.mark.parametrize("path", ZOO[::6], ids=lambda p: p.name)
def test_damaged_nets_are_refused_or_read(tmp_path, path):
    raw = path.read_bytes()
    for step in range(12):
        cut = raw[: len(raw) * step // 12] if step % 2 else raw[: 997 * step] + b"\x01{" + raw[997 * step :]
        (tmp_path / "damaged.prototxt").write_bytes(cut)
        with contextlib.suppress(CaffeinitError):  # any other error is ours, and fails
            assert read_net(tmp_path / "damaged.prototxt").named_layers


def test_versions_of_a_blob_that_two_layers_change_in_turn():
    layer = schema.message("LayerParameter")
    layers = [
        layer(name="d", type="Input", top=["x"]),
        layer(name="a", type="ReLU", bottom=["x"], top=["x"]),
        layer(name="b", type="ReLU", bottom=["x"], top=["x"]),
        layer(name="c", type="Eltwise", bottom=["x", "x"], top=["z"]),
    ]
    assert [e.bottoms for e in name_values(layers)] == [[], ["x"], ["x@a"], ["x@b", "x@b"]]
    layers[0].bottom.append("outside")
    layers.insert(0, layer(name="o", type="Input", top=["outside"]))
    assert [e.bottoms for e in name_values(layers)] == [[], ["outside"], ["x@d"], ["x@a"], ["x", "x"]]
