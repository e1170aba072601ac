"""convert: the ONNX file is valid, says what it is, and computes what the net computes."""

from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import caffeinit
from caffeinit.export import export_onnx
from tests.cli.conftest import NET

FINE = 1e-5  # of the largest number: the same operators, fused differently


def run(path, feeds):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_the_file_computes_what_the_net_computes_at_any_batch(cli, place, weights):
    outcome = cli("convert", place / "net.prototxt", weights, "-o", place / "net.onnx")
    assert outcome.code == 0
    for word in ("opset 17", "input  data  Nx3x12x10", "output prob  Nx4", "largest difference"):
        assert word in outcome.out
    net = caffeinit.load(place / "net.prototxt", weights)
    for batch in (1, 5):
        feeds = {"data": np.random.default_rng(batch).normal(size=(batch, 3, 12, 10)).astype(np.float32)}
        found, wanted = run(place / "net.onnx", feeds)["prob"], net.forward(feeds, ["prob"])["prob"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=FINE * wanted.max())


@pytest.mark.parametrize("name", ["net.prototxt", "net.caffemodel"])
def test_what_it_is_made_from_is_not_written_over(cli, place, weights, name):
    raw = (place / name).read_bytes()
    outcome = cli("convert", place / "net.prototxt", weights, "-o", place / name, "--force")
    assert outcome.code == 2
    assert f"--output {place / name}: is the file of the" in outcome.err
    assert (place / name).read_bytes() == raw


def test_the_file_says_what_it_is(cli, place, weights):
    cli("convert", place / "net.prototxt", weights, "-o", place / "net.onnx")
    model = onnx.load(place / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.producer_name == "caffeinit"
    assert model.producer_version == version("caffeinit")
    assert model.doc_string == "Made from net.prototxt and net.caffemodel"
    values = {o for node in model.graph.node for o in node.output}
    assert {"conv1", "conv1@conv1", "ip", "prob"} <= values


def test_second_outputs_of_operators_are_no_outputs_of_the_file(cli, place, weights):
    (place / "net.prototxt").write_text(
        NET + 'layer { name: "best" type: "ArgMax" bottom: "prob" top: "best" argmax_param { top_k: 2 } }'
    )
    assert cli("convert", place / "net.prototxt", weights, "-o", place / "net.onnx").code == 0
    assert [o.name for o in onnx.load(place / "net.onnx").graph.output] == ["best"]


def test_outputs_that_cannot_be_computed_are_named_or_refused(cli, place, weights):
    (place / "net.prototxt").write_text(NET + 'layer { name: "odd" type: "MyLayer" bottom: "ip" top: "odd" }')
    outcome = cli("convert", place / "net.prototxt", weights, "-o", place / "net.onnx")
    assert outcome.code == 0
    assert "left out: output odd" in outcome.out
    assert "MyLayer" in outcome.out
    strict = cli("convert", place / "net.prototxt", weights, "-o", place / "strict.onnx", "--strict")
    assert strict.code == 1
    assert "MyLayer" in strict.err
    assert not (place / "strict.onnx").exists()


def test_a_net_without_any_output_is_refused(cli, place, weights):
    (place / "net.prototxt").write_text(NET.replace('type: "Convolution"', 'type: "MyLayer"'))
    outcome = cli("convert", place / "net.prototxt", weights, "-o", place / "net.onnx")
    assert outcome.code == 1
    assert "no output" in outcome.err
    assert not (place / "net.onnx").exists()


def test_layers_without_numbers_are_named(cli, place, weights):
    (place / "net.prototxt").write_text(NET.replace('name: "ip"', 'name: "fresh"'))
    outcome = cli("convert", place / "net.prototxt", weights, "-o", place / "net.onnx")
    assert outcome.code == 0
    assert "no numbers for fresh" in outcome.out
    assert cli("convert", place / "net.prototxt", weights, "-o", place / "x.onnx", "--strict").code == 1


def test_an_output_that_exists_stays(cli, place, weights):
    (place / "net.onnx").write_text("mine")
    outcome = cli("convert", place / "net.prototxt", weights, "-o", place / "net.onnx")
    assert outcome.code == 1
    assert "exists already" in outcome.err
    assert (place / "net.onnx").read_text() == "mine"


def test_large_weights_lie_beside_the_model(place, weights):
    net = caffeinit.load(place / "net.prototxt", weights)
    done = export_onnx(net, place / "net.onnx", most=1000)
    assert done.data == place / "net.onnx.data"
    assert (place / "net.onnx").stat().st_size < done.data.stat().st_size
    feeds = {"data": np.ones((2, 3, 12, 10), np.float32)}
    wanted = net.forward(feeds, ["prob"])["prob"]
    np.testing.assert_allclose(run(place / "net.onnx", feeds)["prob"], wanted, rtol=0, atol=FINE)


def test_a_file_that_computes_something_else_is_not_written(place, weights, monkeypatch):
    net = caffeinit.load(place / "net.prototxt", weights)
    true = net.forward
    monkeypatch.setattr(net, "forward", lambda *a: {n: v + 0.01 for n, v in true(*a).items()})
    with pytest.raises(caffeinit.CaffeinitError, match="differs"):
        export_onnx(net, place / "net.onnx")
    assert not list(place.glob("*net.onnx*"))
