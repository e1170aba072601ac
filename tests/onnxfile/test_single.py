"""Models of other precision than single, which they are computed in."""

import pytest
from onnx import TensorProto

from tests.onnxfile.test_files import load
from tests.onnxfile.test_kinds import Maker, chain


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_a_note_tells_which_nodes_round_to_halves_in_the_file(kind, tmp_path):
    b = Maker()
    x = b.op("Cast", b.conv("x", "conv1", 3, 5), out="half", to=kind)
    b.conv(b.op("Cast", x, out="wide", to=TensorProto.FLOAT), "conv2", 5, 4, out="y")
    (note,) = (n for n in load(b.save(tmp_path / "net.onnx")).notes if "half precision" in n)
    assert "by Cast half_1, and are not rounded here" in note


def test_no_note_tells_of_rounding_where_there_is_none(tmp_path):
    assert not load(chain().save(tmp_path / "net.onnx")).notes
