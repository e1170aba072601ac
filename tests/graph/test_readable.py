"""Outputs that are no numbers, and what tells them."""

import onnx
import pytest
from onnx import TensorProto, helper

from caffeinit.graph.readable import NUMBERS, in_its_place, innermost_type, told_by

TENSOR = helper.make_tensor_type_proto(TensorProto.STRING, None)


@pytest.mark.parametrize(
    "kind",
    [
        TENSOR,
        helper.make_sequence_type_proto(TENSOR),
        helper.make_optional_type_proto(helper.make_sequence_type_proto(TENSOR)),
        helper.make_map_type_proto(TensorProto.INT64, TENSOR),
    ],
)
def test_the_type_of_tensors_is_found_however_they_are_wrapped(kind):
    assert innermost_type(kind) == TensorProto.STRING
    assert innermost_type(onnx.TypeProto()) not in NUMBERS


def test_the_nearest_values_that_can_be_read_tell_an_output():
    makers = {
        "words": helper.make_node("Gather", ["names", "place"], ["words"]),
        "place": helper.make_node("ArgMax", ["scores"], ["place"]),
        "names": helper.make_node("Identity", ["stored"], ["names"]),
    }
    found = told_by("words", makers.get, {"place", "scores"}.__contains__)
    assert found == ["place"]
    assert told_by("stored", makers.get, {"place"}.__contains__) == []
    told = in_its_place("words", TensorProto.STRING, found)
    assert told == 'output "words" holds words, which are not compared; what it is made of is: place'
    assert (
        in_its_place("few", TensorProto.INT4, []) == 'output "few" holds numbers of type int4, which are not compared'
    )
