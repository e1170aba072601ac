import numpy as np
import pytest
from PIL import Image

from caffeinit.report.filters import GAP, GROUND, draw_mosaic, save_filters, save_mosaic
from tests.nets import NetBuilder


def test_the_first_filter_is_top_left_and_lines_run_between_tiles():
    weight = np.zeros((4, 3, 2, 2), np.float32)
    weight[0, :, 0, 0] = 1.0
    picture = draw_mosaic(weight, zoom=1)
    assert picture.shape == (7, 7, 3)
    assert picture[1, 1].tolist() == [255, 255, 255]
    assert picture[1, 2].tolist() == [GROUND] * 3
    assert (picture[[0, 3, 6]] == GAP).all()
    assert (picture[:, [0, 3, 6]] == GAP).all()


@pytest.mark.parametrize(("bgr", "red"), [(True, 2), (False, 0)])
def test_colours_are_in_the_stated_order(bgr, red):
    weight = np.zeros((1, 3, 1, 1), np.float32)
    weight[0, red] = 0.5
    assert draw_mosaic(weight, bgr=bgr, zoom=1)[1, 1].tolist() == [255, GROUND, GROUND]


def test_each_filter_has_full_contrast_or_all_share_one_scale():
    weight = np.zeros((2, 1, 1, 2), np.float32)
    weight[0, 0, 0] = [1.0, -1.0]
    weight[1, 0, 0] = [0.5, 0.0]
    each, together = (draw_mosaic(weight, scaling=scaling, zoom=1)[:, :, 0] for scaling in ("filter", "all"))
    assert set(each.ravel()) == {255, 1, GROUND}
    assert set(together.ravel()) == {255, 1, GROUND, 192}


@pytest.mark.parametrize(
    "shape",
    [(96, 3, 11, 11), (1, 1, 5, 5), (7, 1, 3, 3), (5, 4, 3, 2), (6, 40, 3, 3), (10, 12), (4, 3, 9), (2, 3, 2, 3, 4)],
)
def test_weights_of_any_form_make_a_picture_big_enough_to_look_at(shape):
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    picture = draw_mosaic(weight)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert 60 <= max(picture.shape[:2]) <= 1500
    assert len(np.unique(picture)) > 2


def test_grey_filters_show_their_channels_side_by_side():
    weight = np.zeros((1, 2, 1, 2), np.float32)
    weight[0, 1, 0, 1] = -1
    assert draw_mosaic(weight, zoom=1)[1, 1:-1, 0].tolist() == [GROUND, GROUND, GAP, GROUND, 1]


@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (3, 2, 2, 2)])
def test_lines_between_tiles_can_be_clear(shape):
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    plain, clear = draw_mosaic(weight), draw_mosaic(weight, clear=True)
    lines = clear[..., 3] == 0
    assert (plain[lines] == GAP).all()
    assert np.array_equal(plain[~lines], clear[~lines][:, :3])
    assert lines[0].all()
    assert 0.2 < lines.mean() < 0.6


def test_zero_and_broken_filters_are_grey():
    weight = np.full((2, 3, 2, 2), np.nan, np.float32)
    weight[0] = 0
    picture = draw_mosaic(weight, zoom=1)
    assert set(picture.ravel()) == {GROUND, GAP}


def test_zoom_repeats_pixels():
    weight = np.random.default_rng(0).standard_normal((1, 3, 2, 2)).astype(np.float32)
    small, large = draw_mosaic(weight, zoom=1), draw_mosaic(weight, zoom=4)
    assert np.array_equal(large[2:-2:4, 2:-2:4], small[1:-1, 1:-1])


def test_the_saved_file_is_the_picture(tmp_path):
    weight = np.random.default_rng(0).standard_normal((5, 3, 3, 3)).astype(np.float32)
    save_mosaic(weight, tmp_path / "filters.png")
    with Image.open(tmp_path / "filters.png") as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), draw_mosaic(weight))


@pytest.mark.parametrize(
    ("inputs", "channels", "words", "corner"),
    [
        (3, None, "taken as blue, green, red (--channels rgb for red first)", [255, GROUND, GROUND]),
        (3, "bgr", "taken as blue, green, red", [255, GROUND, GROUND]),
        (3, "rgb", "taken as red, green, blue", [GROUND, GROUND, 255]),
        (1, "rgb", "", None),
    ],
)
def test_what_saves_filters_says_how_colours_were_taken(tmp_path, inputs, channels, words, corner):
    builder = NetBuilder(shape=(4, inputs, 12, 10))
    net = builder.finish(builder.conv("data", "conv1", 2))
    net.params["conv1"][0][...] = 0
    net.params["conv1"][0][:, -1] = 1
    said = save_filters(net.units, tmp_path / "f.png", channels=channels)
    assert said.startswith(f"drew the 2 filters of conv1 to {tmp_path}/f.png")
    assert said.endswith(words) if words else "taken as" not in said
    if corner:
        with Image.open(tmp_path / "f.png") as picture:
            assert list(picture.getpixel((20, 20))) == corner
