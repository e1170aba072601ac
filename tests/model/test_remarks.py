"""Remarks of converted files: what is told comes back, and what is no remark tells nothing."""

import onnx
import pytest

from caffeinit.model.remarks import KEY, Remarks


def test_what_is_told_comes_back():
    told, model = Remarks({"loss": ["scores", "label"]}, ["conv/param0"]), onnx.ModelProto()
    told.write(model)
    assert Remarks.read(model) == told


def test_where_nothing_is_told_nothing_is_written():
    model = onnx.ModelProto()
    Remarks().write(model)
    assert not model.metadata_props
    assert Remarks.read(model) == Remarks()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        '"x"',
        '{"verdicts": ["a"], "frozen": {"a": 1}}',
        '{"verdicts": {"a": "b"}, "frozen": "a"}',
        '{"verdicts": {"a": [1]}, "frozen": [null]}',
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_remark_tells_nothing(text):
    model = onnx.ModelProto()
    model.metadata_props.add(key=KEY, value=text)
    assert Remarks.read(model) == Remarks()
