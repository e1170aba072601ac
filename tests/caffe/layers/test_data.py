import pytest

from caffeinit.caffe.layers import data
from caffeinit.caffe.lower import infer_net
from caffeinit.caffe.net import read_net
from tests.caffe.layers.single import Case, check_every_type_has_a_row

PICTURES = "data_param { batch_size: 8 } transform_param { crop_size: 7 }"


def case(kind, settings, *tops):
    return Case(kind, settings, [], list(tops))


# None: nothing in the prototxt tells the shape.
CASES = [
    case("Input", "input_param { shape { dim: 2 dim: 3 dim: 4 } shape { dim: 2 } }", (2, 3, 4), (2,)),
    case("Input", "input_param { shape { dim: 2 dim: 3 } }", (2, 3), (2, 3)),
    case("Input", "", None),
    case("DummyData", "dummy_data_param { shape { dim: 2 dim: 5 } shape { dim: 2 } }", (2, 5), (2,)),
    case("DummyData", "dummy_data_param { shape { dim: 2 dim: 5 } }", (2, 5), (2, 5)),
    case("DummyData", "dummy_data_param { num: 2 channels: 3 height: 4 width: 5 }", (2, 3, 4, 5)),
    case(
        "DummyData",
        "dummy_data_param { num: 2 num: 2 channels: 3 channels: 1 height: 4 height: 1 width: 5 width: 1 }",
        (2, 3, 4, 5),
        (2, 1, 1, 1),
    ),
    case("MemoryData", "memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 }", (2, 3, 4, 5), (2,)),
    case("Data", PICTURES, (8, 3, 7, 7), (8,)),
    # One value is taken off all channels, four are for four.
    case("Data", "data_param { batch_size: 8 } transform_param { crop_size: 7 mean_value: 100 }", (8, 3, 7, 7)),
    case("Data", f"{PICTURES[:-1]} {'mean_value: 1 ' * 4}}}", (8, 4, 7, 7)),
    case("Data", "data_param { batch_size: 8 } transform_param { crop_size: 7 force_gray: true }", (8, 1, 7, 7)),
    case("Data", "data_param { batch_size: 8 }", None, (8,)),
    case("ImageData", "image_data_param { batch_size: 4 new_height: 6 new_width: 9 }", (4, 3, 6, 9), (4,)),
    case(
        "ImageData", "image_data_param { batch_size: 4 new_height: 6 new_width: 9 is_color: false }", (4, 1, 6, 9), (4,)
    ),
    case(
        "ImageData",
        "image_data_param { batch_size: 4 new_height: 6 new_width: 9 } transform_param { crop_size: 5 }",
        (4, 3, 5, 5),
        (4,),
    ),
    case("MultiImageData", "transform_param { crop_size: 5 }", (1, 3, 5, 5), (1,), (1,)),
    case("WindowData", "window_data_param { batch_size: 4 } transform_param { crop_size: 5 }", (4, 3, 5, 5), (4,)),
    case("VideoData", "video_data_param { batch_size: 4 } transform_param { crop_size: 5 }", (4, 3, 5, 5), (4,)),
    case(
        "DenseImageData",
        "dense_image_data_param { batch_size: 2 crop_height: 6 crop_width: 8 }",
        (2, 3, 6, 8),
        None,
    ),
    case("AnnotatedData", f"{PICTURES}", (8, 3, 7, 7), None),
    case(
        "AnnotatedData",
        "data_param { batch_size: 8 } transform_param { resize_param { prob: 1 height: 6 width: 9 } }",
        (8, 3, 6, 9),
    ),
    case("HDF5Data", "hdf5_data_param { source: 'list.txt' batch_size: 5 }", None, None),
]


def infer(case, tmp_path, given=None):
    path = tmp_path / "net.prototxt"
    path.write_text(case.text())
    return infer_net(read_net(path), given)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tops_have_the_shapes_that_the_layer_tells(case, tmp_path):
    found = infer(case, tmp_path)
    assert not found.blocked
    named = {f"out{i}": shape for i, shape in enumerate(case.tops)}
    assert found.inputs == {name: shape for name, shape in named.items() if shape}
    assert found.unshaped == [name for name, shape in named.items() if not shape]


def test_every_type_has_a_row():
    check_every_type_has_a_row(data, CASES)


def test_a_given_shape_keeps_the_batch_and_tells_the_rest(tmp_path):
    found = infer(case("Data", "data_param { batch_size: 8 }", None), tmp_path, {"out0": (3, 6, 5)})
    assert found.inputs == {"out0": (8, 3, 6, 5)}
    assert not found.unshaped


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (case("Input", "input_param { shape { dim: 2 } shape { dim: 3 } }", *[()] * 3), "2 shapes for 3 tops"),
        (case("Input", "input_param { shape { dim: 2 dim: -3 } }", ()), "negative extents"),
        (case("MemoryData", "", *[()] * 3), "has 3 top(s), needs 2"),
        (
            case("MemoryData", "memory_data_param { batch_size: 2 channels: 3 height: 4 }", *[()] * 2),
            "must all be given",
        ),
        (case("Data", ""), "has 0 top(s), needs 1 to 2"),
        (case("ImageData", "", ()), "has 1 top(s), needs 2"),
        (
            case("ImageData", "image_data_param { new_height: 6 }", (), ()),
            "new_height and new_width must both be given",
        ),
        (case("WindowData", "", ()), "has 1 top(s), needs 2"),
        (case("WindowData", "", (), ()), "crop_size, the extent of the windows, is not given"),
        (case("HDF5Data", "transform_param { scale: 2 }", ()), "takes no transform_param"),
        (case("DummyData", "", ()), "has 0 shape for 1 top(s)"),
        (
            case("DummyData", "dummy_data_param { shape { dim: 1 } shape { dim: 2 } }", *[()] * 3),
            "has 2 shape for 3 top(s)",
        ),
        (case("DummyData", "dummy_data_param { num: 1 channels: 2 height: 3 }", ()), "has 0 width for 1 top(s)"),
        (case("DummyData", "dummy_data_param { shape { dim: 1 } num: 1 }", ()), "gives shape, and num"),
        (
            case("DummyData", "dummy_data_param { shape { dim: 1 } data_filler {} data_filler {} }", *[()] * 3),
            "has 2 data_filler for 3 top(s)",
        ),
    ],
    ids=str,
)
def test_refusals_say_what_is_wrong(case, words, tmp_path):
    assert words in infer(case, tmp_path).blocked["it"]


OPEN = [  # layers that state no size -> how many channels they state; None where the pictures' size would be no answer
    ("Data", "data_param { batch_size: 8 }", 0),
    ("Data", "transform_param { mean_value: 100 }", 0),
    ("Data", "transform_param { mean_value: 1 mean_value: 2 mean_value: 3 }", 3),
    ("Data", "transform_param { force_gray: true }", 1),
    ("Data", "transform_param { force_color: true }", 3),
    ("ImageData", "", 3),
    ("ImageData", "image_data_param { is_color: false }", 1),
    ("DenseImageData", "", 3),
    ("AnnotatedData", "", 0),
    ("VideoData", "", None),
    ("Input", "", None),
    ("HDF5Data", "", None),
]


@pytest.mark.parametrize(("kind", "settings", "channels"), OPEN)
def test_only_layers_of_pictures_are_as_large_as_these(kind, settings, channels, tmp_path):
    found = infer(case(kind, settings, *[None] * (2 if kind == "ImageData" else 1)), tmp_path)
    assert found.as_pictures == ({} if channels is None else {"out0": channels})
    assert found.unshaped == ["out0"]


TWO = """
layer { name: "a" type: "Data" top: "data" top: "label" include { phase: TRAIN } data_param { batch_size: 8 } TRAIN }
layer { name: "b" type: "Data" top: "data" top: "label" include { phase: TEST } data_param { batch_size: 2 } TEST }
"""
CROP = "transform_param { crop_size: 7 }"


@pytest.mark.parametrize(
    ("train", "test", "more", "shape"),
    [
        (CROP, "", "", (2, 3, 7, 7)),
        (CROP, "transform_param { force_gray: true }", "", None),  # another number of channels: not the same pictures
        (CROP, "transform_param { crop_size: 5 }", "", (2, 3, 5, 5)),
        ("", "", "", None),
        (CROP, "", f'layer {{ name: "c" type: "Data" top: "data" include {{ stage: "x" }} {CROP} }}', (2, 3, 7, 7)),
        (CROP, "", 'layer { name: "c" type: "Data" top: "data" include { stage: "x" } STAGED }', None),
        (CROP, "", 'layer { name: "c" type: "Data" top: "other" include { stage: "x" } STAGED }', (2, 3, 7, 7)),
    ],
)
def test_a_size_that_another_phase_states_holds_in_this_one(train, test, more, shape, tmp_path):
    text = TWO.replace("TRAIN }\n", f"{train} }}\n", 1).replace("TEST }\n", f"{test} }}\n", 1) + more
    (tmp_path / "net.prototxt").write_text(text.replace("STAGED", CROP.replace("7", "9")))
    found = infer_net(read_net(tmp_path / "net.prototxt"))
    assert found.inputs.get("data") == shape
    assert found.notes == (
        ['input "data": 3 x 7 x 7, which the net\'s data layer of another phase or stage states']
        if shape == (2, 3, 7, 7)
        else []
    )
