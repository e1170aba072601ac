"""Remarks of converted files: what is told comes back, and what is no remark tells nothing."""

import onnx
import pytest

import caffeinit
from caffeinit.export import export_onnx
from caffeinit.graph.remarks import KEY, Remarks
from tests.nets import NETS, pictures


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


@pytest.mark.parametrize(
    ("below", "is_taken"),
    [("ip", True), ("ip label", True), ("loss", False), ("after", False), ("label", False), ("lost ip", False)],
)
def test_only_what_is_made_before_can_be_judged(below, is_taken):
    graph = NETS["chain"]().graph
    graph.add_input("label", (4,))
    head = graph.outputs[0]
    loss = graph.op("Sub", head, "label")
    names = {"ip": head, "loss": loss, "after": graph.op("Relu", loss)}
    told = {loss: [names.get(name, name) for name in below.split()]}
    assert Remarks(told).verdicts_in(graph) == (told if is_taken else {})


def test_remarks_that_are_nonsense_do_not_change_the_rates(tmp_path):
    export_onnx(NETS["chain"](), tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    wanted = caffeinit.measure(caffeinit.load(tmp_path / "net.onnx"), pictures())
    top = model.graph.output[0].name
    Remarks({top: [top]}).write(model)
    onnx.save(model, tmp_path / "odd.onnx")
    found = caffeinit.measure(caffeinit.load(tmp_path / "odd.onnx"), pictures())
    assert [u.rate for u in found.units] == [u.rate for u in wanted.units]
