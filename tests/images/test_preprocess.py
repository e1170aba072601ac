"""Size, crop, channels, mean and scale; what data layers ask for; what does not fit."""

import numpy as np
import pytest
from google.protobuf import text_format

from caffeinit.errors import ImagesError, OptionError
from caffeinit.images import Preprocessing, preprocessing_of, read_images
from caffeinit.images.preprocess import Sample
from caffeinit.protos import schema
from tests.images.pictures import SHAPES, write

RGB = np.random.default_rng(0).integers(0, 256, (10, 16, 3), np.uint8)


def fitted(asked: Preprocessing, shape: tuple[int, ...] = (3, 6, 6), **sample: object) -> np.ndarray:
    return asked.fit(Sample(RGB, **sample), shape)


TARGETS = [
    # asked, (height, width) of the picture, from an array or database -> size before the 6 x 6 middle is cut out
    (Preprocessing(), (10, 16), False, (6, 6)),
    (Preprocessing(), (10, 16), True, (6, 6)),
    (Preprocessing(resize="short"), (10, 16), False, (6, 10)),
    (Preprocessing(resize="short", resize_to=(8, 8)), (16, 10), False, (13, 8)),
    (Preprocessing(resize="none"), (10, 16), False, (10, 16)),
    (Preprocessing(resize="none"), (3, 16), False, (6, 32)),
    (Preprocessing(crop=6), (10, 16), False, (10, 16)),
    (Preprocessing(crop=6, resize="warp"), (10, 16), False, (6, 6)),
    (Preprocessing(crop=6, resize_to=(8, 9)), (10, 16), False, (8, 9)),
    (Preprocessing(crop=6, resize="auto"), (10, 16), False, (6, 6)),
    (Preprocessing(crop=6, resize="auto"), (10, 16), True, (10, 16)),
    (Preprocessing(mean=np.zeros((3, 8, 9)), crop=6, resize="auto"), (10, 16), False, (8, 9)),
    (Preprocessing(mean=np.zeros((3, 8, 9))), (10, 16), True, (8, 9)),
]


@pytest.mark.parametrize(("asked", "size", "stored", "expected"), TARGETS)
def test_what_pictures_are_resized_to(asked, size, stored, expected) -> None:
    assert asked.target(size, (6, 6), stored) == expected


def test_the_middle_is_cut_out() -> None:
    np.testing.assert_array_equal(fitted(Preprocessing(crop=6), order="bgr"), RGB[2:8, 5:11].transpose(2, 0, 1))


def test_channels_come_in_the_order_asked_for() -> None:
    plain, swapped = RGB[2:8, 5:11].transpose(2, 0, 1), RGB[2:8, 5:11, ::-1].transpose(2, 0, 1)
    for order, channels, expected in [
        ("bgr", None, plain), ("bgr", "rgb", swapped), ("rgb", None, swapped), ("rgb", "rgb", plain),
        ("net", None, plain), ("net", "rgb", plain),
    ]:  # fmt: skip
        np.testing.assert_array_equal(fitted(Preprocessing(crop=6, channels=channels), order=order), expected)


def test_grey_is_one_channel_or_repeated() -> None:
    one = fitted(Preprocessing(crop=6), (1, 6, 6))
    three = fitted(Preprocessing(crop=6, channels="gray"))
    assert one.shape == (1, 6, 6)
    np.testing.assert_array_equal(three, np.repeat(one, 3, 0))
    with pytest.raises(ImagesError, match="3 channels, but the net's input has 4"):
        fitted(Preprocessing(crop=6), (4, 6, 6))


MEANS = [5.0, [1.0, 2.0, 3.0], np.random.default_rng(1).normal(size=(3, 10, 16))]


@pytest.mark.parametrize("mean", MEANS, ids=["one", "three", "array"])
def test_mean_then_scale_and_the_mean_array_is_cropped_with_the_picture(mean) -> None:
    asked = Preprocessing(mean=mean, scale=0.25, crop=6)
    out = np.empty((3, 6, 6), np.float32)
    asked.normalise(fitted(asked), False, out)
    whole = np.broadcast_to(np.reshape(mean, (-1, 1, 1)) if np.ndim(mean) < 3 else mean, (3, 10, 16))
    expected = (RGB.transpose(2, 0, 1) - whole) * 0.25
    np.testing.assert_allclose(out, expected[:, 2:8, 5:11], rtol=0, atol=1e-5)  # float32 of values up to 64


UNFIT = [
    (Preprocessing(crop=5), "takes 6x8 pixels, but the crop is 5x5"),
    (Preprocessing(resize_to=(4, 9)), "cannot be cut out of 4x9"),
    (Preprocessing(mean=[1, 2]), "has 3 channels, but the mean has 2 values.*--mean"),
    (Preprocessing(mean=np.zeros((1, 6, 8))), r"mean array is \(1, 6, 8\)"),
    (Preprocessing(mean=np.zeros((3, 5, 8))), "has only 5x8.*another net"),
    (Preprocessing(mean_file="nowhere.binaryproto"), "nowhere.binaryproto.*--mean-file"),
]


@pytest.mark.parametrize(("asked", "reason"), UNFIT, ids=[u[1][:20] for u in UNFIT])
def test_what_does_not_fit_the_input_is_refused(tmp_path, asked, reason) -> None:
    write(tmp_path / "a.png", 10)
    with pytest.raises(ImagesError, match=reason):
        read_images(SHAPES, tmp_path, preprocessing=asked)


@pytest.mark.parametrize("given", [{"crop": 5}, {"resize_to": (4, 9)}, {"mean": [1, 2]}], ids=str)
def test_an_option_that_does_not_fit_the_input_is_told_from_a_net_that_does_not(tmp_path, given) -> None:
    write(tmp_path / "a.png", 10)
    with pytest.raises(OptionError):
        read_images(SHAPES, tmp_path, preprocessing=Preprocessing().override(**given))
    with pytest.raises(ImagesError):
        read_images(SHAPES, tmp_path, preprocessing=Preprocessing(**given).override(scale=2.0))


def test_an_option_that_there_is_not_is_refused_in_words() -> None:
    with pytest.raises(OptionError, match="pictures have no option limit; there are mean, mean_file, "):
        Preprocessing().override(limit=64)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"resize": "warp:64x80"}, "resize is 'warp:64x80': it must be one of warp, short, none, auto"),
        ({"channels": "bogus"}, "channels is 'bogus'"),
        ({"crop": "40"}, "crop is '40': give whole numbers"),
        ({"resize_to": (4, 5, 6)}, "resize is"),
    ],
    ids=str,
)
def test_values_that_mean_nothing_are_refused(given, words) -> None:
    with pytest.raises(OptionError, match=words):
        Preprocessing().override(**given)


def test_several_files_are_told_as_a_folder_of_them_is(tmp_path) -> None:
    for name in ("a.png", "b.png"):
        write(tmp_path / name, 10)
    asked = Preprocessing(crop=6, resize="auto")
    shapes = {"x": (1, 3, 6, 6)}
    told = [
        read_images(shapes, given, preprocessing=asked).describe().rpartition(" (")[2]
        for given in (tmp_path, [tmp_path / "a.png", tmp_path / "b.png"])
    ]
    assert told[0] == told[1]
    assert told[0].startswith("6x6 by warp")


def test_advice_on_a_mean_is_not_what_was_done(tmp_path) -> None:
    write(tmp_path / "a.png", 10)
    with pytest.raises(OptionError, match="Give --mean one value, or 3, one for each channel"):
        read_images(SHAPES, tmp_path, preprocessing=Preprocessing().override(mean=[1, 2]))
    with pytest.raises(OptionError, match=r"one channel, but the mean has 2 values. Give --mean one value\."):
        read_images({"x": (1, 1, 6, 8)}, tmp_path, preprocessing=Preprocessing().override(mean=[1, 2]))
    np.save(tmp_path / "mean.npy", np.zeros((1, 6, 8)))
    with pytest.raises(ImagesError, match="Give that of this net, or values with --mean"):
        read_images(SHAPES, tmp_path / "a.png", preprocessing=Preprocessing().override(mean_file=tmp_path / "mean.npy"))


def test_what_contradicts_itself_is_refused(tmp_path) -> None:
    for bad in (
        {"scale": 0},
        {"scale": float("nan")},
        {"mean": [float("inf")]},
        {"mean": 1, "mean_file": "x"},
        {"crop": -1},
    ):
        with pytest.raises(ImagesError):
            Preprocessing(**bad)
        with pytest.raises(OptionError):
            Preprocessing().override(**bad)
    with pytest.raises(ImagesError, match='one channel, but the channels asked for are "rgb"'):
        read_images({"x": (1, 1, 6, 8)}, write(tmp_path / "a.png", 1), preprocessing=Preprocessing(channels="rgb"))


def layer(text: str) -> object:
    return text_format.Parse('name: "d" top: "data" top: "label" ' + text, schema.message("LayerParameter")())


LAYERS = [
    ('type: "Input"', {}),
    ('type: "Data" transform_param { scale: 0.5 mean_value: 1 mean_value: 2 }', {"scale": 0.5, "mean": [1, 2]}),
    ('type: "Data" transform_param { crop_size: 6 mirror: true }', {"crop": 6, "resize": "auto"}),
    ('type: "ImageData" transform_param { crop_size: 6 }', {"crop": 6}),
    ('type: "ImageData" image_data_param { new_height: 8 new_width: 9 is_color: false } transform_param { crop_size: 6 }',
     {"crop": 6, "resize_to": (8, 9), "channels": "gray"}),
    ('type: "Data" transform_param { force_gray: true }', {"channels": "gray"}),
    ('type: "Data" transform_param { crop_h: 6 crop_w: 8 }', {"crop": (6, 8), "resize": "auto"}),
    ('type: "AnnotatedData" transform_param { resize_param { prob: 1 resize_mode: WARP height: 6 width: 8 } }',
     {"resize_to": (6, 8), "resize": "warp"}),
    ('type: "Data" transform_param { crop_size: 5 resize_param { resize_mode: FIT_SMALL_SIZE height: 6 width: 8 } }',
     {"crop": 5, "resize_to": (6, 8), "resize": "short"}),
    ('type: "Data" transform_param { resize_param { prob: 1 } }', {}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), LAYERS, ids=[t for t, _ in LAYERS])
def test_data_layers_tell_how_pictures_are_prepared(text, expected) -> None:
    assert preprocessing_of(layer(text)) == Preprocessing(floats=False, **expected)


def test_resizing_that_pads_is_refused_once_pictures_need_it() -> None:
    asked = preprocessing_of(
        layer(
            'type: "Data" transform_param { resize_param { resize_mode: FIT_LARGE_SIZE_AND_PAD height: 6 width: 8 } }'
        )
    )
    pictures = np.ones((1, 3, 9, 9), np.uint8)
    with pytest.raises(ImagesError, match=r'layer "d": resize_param fits pictures.*--resize warp'):
        read_images(SHAPES, pictures, preprocessing=asked)
    assert len(read_images(SHAPES, pictures, preprocessing=asked.override(resize="warp"))) == 1


def test_a_crop_need_not_be_square() -> None:
    pictures = np.arange(3 * 10 * 12, dtype=np.uint8).reshape(1, 3, 10, 12)
    asked = preprocessing_of(layer('type: "Data" transform_param { crop_h: 6 crop_w: 8 }'))
    (batch,) = read_images(SHAPES, pictures, preprocessing=asked)
    np.testing.assert_array_equal(batch["data"], pictures[:, :, 2:8, 2:10])
    with pytest.raises(ImagesError, match="the crop is 6x8"):
        read_images({"data": (1, 3, 8, 6)}, pictures, preprocessing=asked)


def mean_file(path, array: np.ndarray) -> None:
    blob = schema.message("BlobProto")(channels=3, num=1, height=array.shape[1], width=array.shape[2])
    # Field 5, packed floats, spelt by hand: how the class holds them is its own affair.
    data = array.astype("<f4").tobytes()
    length = bytes([len(data) & 127 | 128, len(data) >> 7]) if len(data) > 127 else bytes([len(data)])
    path.write_bytes(blob.SerializeToString() + b"\x2a" + length + data)


def test_the_nets_mean_file_is_found_beside_it_and_read_when_pictures_need_it(tmp_path) -> None:
    mean = np.random.default_rng(0).normal(size=(3, 6, 8)).astype(np.float32)
    mean_file(tmp_path / "mean.binaryproto", mean)
    asked = preprocessing_of(layer('type: "Data" transform_param { mean_file: "data/mean.binaryproto" }'), tmp_path)
    np.testing.assert_array_equal(asked.resolved().mean, mean)
    (batch,) = read_images(SHAPES, np.full((1, 3, 6, 8), 9, np.uint8), preprocessing=asked)
    np.testing.assert_array_equal(batch["data"][0], 9 - mean)


@pytest.mark.parametrize("name", ["gone.binaryproto", "/etc/passwd", "../mean.binaryproto", "a/../../b"])
def test_a_mean_file_elsewhere_is_no_matter_until_pictures_need_it(tmp_path, name) -> None:
    mean_file(tmp_path / "mean.binaryproto", np.zeros((3, 6, 8)))
    (tmp_path / "net").mkdir()
    asked = preprocessing_of(layer(f'type: "Data" transform_param {{ mean_file: "{name}" }}'), tmp_path / "net")
    floats, pictures = np.ones((1, 3, 6, 8), np.float32), np.ones((1, 3, 6, 8), np.uint8)
    assert len(read_images(SHAPES, floats, preprocessing=asked)) == 1
    with pytest.raises(ImagesError, match=r'layer "d": mean_file.*Give it with --mean-file'):
        read_images(SHAPES, pictures, preprocessing=asked)
    own = asked.override(mean=[1.0])
    (batch,) = read_images(SHAPES, pictures, preprocessing=own)
    assert (batch["data"] == 0).all()


def test_explicit_options_come_before_the_nets() -> None:
    net = preprocessing_of(layer('type: "Data" transform_param { scale: 2 crop_size: 6 mean_value: 1 }'))
    assert net.override(scale=None, crop=None) == net
    changed = net.override(scale=3.0, crop=0)
    assert (changed.scale, changed.crop, changed.mean, changed.floats) == (3.0, None, [1.0], True)
    assert net.override(crop=5).target((10, 16), (5, 5)) == (10, 16)
