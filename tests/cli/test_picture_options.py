"""The options that tell where pictures are and how they are prepared."""

import click
import pytest

from caffeinit.cli.common import parse_resize, parse_sources


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, {}),
        ("warp", {"resize": "warp", "resize_to": None}),
        ("none", {"resize": "none", "resize_to": None}),
        ("short:256", {"resize": "short", "resize_to": (256, 256)}),
        ("warp:256x320", {"resize": "warp", "resize_to": (256, 320)}),
    ],
)
def test_resize(text, expected) -> None:
    assert parse_resize(text) == expected


@pytest.mark.parametrize(
    "text", ["", "wrap", "warp:", "warp:0", "warp:1x2x3", "short:-3", "none:5", "warp:²", "warp:1e3"]
)
def test_what_is_no_resize(text) -> None:
    with pytest.raises(click.BadParameter, match="is not warp, short or none"):
        parse_resize(text)


def test_sources_go_to_their_inputs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data=set").mkdir()
    assert parse_sources(["a.png", "b.png", "info=x.npy", "other=*.png"], ["data", "info"]) == {
        None: ["a.png", "b.png", "other=*.png"],
        "info": ["x.npy"],
    }
    assert parse_sources(["data=set"], ["data"]) == {None: ["data=set"]}


def test_pictures_for_an_input_that_is_not_there_are_refused():
    with pytest.raises(click.BadParameter, match='no input "label"; inputs: data, info'):
        parse_sources(["data=x", "label=y.npy"], ["data", "info"])
