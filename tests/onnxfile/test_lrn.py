"""LRN nodes of ONNX models rewritten: alpha makes up for any scale of what the node reads, and nothing else differs."""

import numpy as np
import onnx
import pytest
from onnx import helper

import caffeinit
from caffeinit.apply.plan import Plan, apply
from caffeinit.engine.onnxrun import OnnxFile
from caffeinit.engine.session import compile_graph
from caffeinit.errors import FormatError
from caffeinit.methods.between import scale_system
from caffeinit.scales.free import report_scales
from tests.modes import EXACT, options_of
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, batch

SETTINGS = {
    "all said": {"size": 3, "alpha": 0.5, "beta": 0.75, "bias": 2.0},
    "alpha unsaid": {"size": 5, "beta": 1.0, "bias": 1e-3},
}


def build_lrn(settings=SETTINGS["all said"], shape=("N", 3, 8, 6), **options):
    """Return two convolutions with LRN behind each, the second with the default alpha, and a third."""
    b = Maker(shape=shape, **options)
    x = b.op("LRN", b.op("Relu", b.conv("x", "conv1", 3, 5), out="relu1"), out="norm1", **settings)
    x = b.op("LRN", b.op("Relu", b.conv(x, "conv2", 5, 5), out="relu2"), out="norm2", size=3)
    b.conv(x, "conv3", 5, 4, out="y")
    return b


def alphas(path):
    nodes = [n for n in onnx.load(path, load_external_data=False).graph.node if n.op_type == "LRN"]
    return [next((a.f for a in n.attribute if a.name == "alpha"), None) for n in nodes]


def without_numbers(path):
    """Return the model less its initializers and the alpha of its LRN nodes."""
    model = onnx.load(path, load_external_data=False)
    del model.graph.initializer[:]
    for node in model.graph.node:
        kept = [a for a in node.attribute if node.op_type != "LRN" or a.name != "alpha"]
        del node.attribute[:]
        node.attribute.extend(kept)
    return model


def rewritten(path, out, mode="preserve", num=8):
    net = load(path)
    result = caffeinit.rescale(net, {"x": 5 * batch(num)}, **options_of(mode), rewrite_lrn=True)
    net.save(out)
    return net, result


@pytest.mark.parametrize("mode", ["preserve", "equalize", "balance", EXACT])
@pytest.mark.parametrize("name", SETTINGS)
def test_only_alphas_and_weights_differ_and_the_function_is_kept(name, mode, tmp_path):
    path, out = build_lrn(SETTINGS[name]).save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net, result = rewritten(path, out, mode)
    assert result.units[0].done
    old, new = alphas(path), alphas(out)
    assert new[0] != (old[0] if old[0] is not None else np.float32(1e-4))
    assert "node norm1_2: alpha is" in " ".join(result.notes)
    onnx.checker.check_model(onnx.load(out))
    assert without_numbers(path) == without_numbers(out)
    assert_same_function(path, out, "x", batch(4), 0 if mode == EXACT else 1e-5)
    if mode in ("preserve", "balance"):
        assert result.rate_spread < 1e-4 < 0.01 < result.rate_spread_before
    # What was saved is what the network computes now, at other sizes too, and what is loaded again.
    for given in (batch(2), batch(2, (3, 9, 7))):
        wanted = OnnxFile(path, threads=1).run({"x": given}, ["y"])["y"] if given.shape[2:] == (8, 6) else None
        found = net.forward({"x": given}, ["y"])["y"]
        again = load(out, input_shapes={"x": given.shape[1:]} if wanted is None else {})
        other = again.forward({"x": given}, ["y"])["y"]
        for one in (other, wanted if wanted is not None else other):
            np.testing.assert_allclose(found, one, rtol=0, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize("name", SETTINGS)
def test_a_node_that_is_taken_apart_computes_the_same(name, tmp_path):
    net = load(build_lrn(SETTINGS[name]).save(tmp_path / "net.onnx"))
    x = {"x": 5 * batch(2)}
    before = net.forward(x, ["norm1"])["norm1"]
    net.open_numbers()
    assert "LRN" not in {n.op_type for n in net.graph.nodes}
    np.testing.assert_allclose(net.forward(x, ["norm1"])["norm1"], before, rtol=1e-5, atol=1e-6)


def test_any_scale_can_be_made_up_for(tmp_path):
    path, out = build_lrn().save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    net.open_numbers()
    system = scale_system(net, lambda unit: "", [], relaxed=False, rewritten=True)
    assert system.num_unknowns == len(net.graph.net_numbers) == 2
    apply(net, Plan(system, system.expand(np.array([0.7, -1.2]))))
    net.save(out)
    given, found = np.array([0.5, 1e-4]), np.array(alphas(out))
    np.testing.assert_allclose(sorted(np.log(found / given)), [-1.4, 2.4], rtol=1e-5)
    assert_same_function(path, out, "x", batch(3))


def test_without_the_option_lrn_holds_what_it_reads(tmp_path):
    path, out = build_lrn().save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    result = caffeinit.rescale(net, {"x": batch(8)})
    assert "LRN" in result.units[0].reason
    net.save(out)
    assert out.read_bytes() == path.read_bytes()


def test_reasons_name_the_node_of_the_file(tmp_path):
    net = load(build_lrn().save(tmp_path / "net.onnx"))
    reasons = []
    for _ in range(2):
        reasons.append(report_scales(net.graph, net.units, net.learned, lambda unit: "", place=net.place))
        net.open_numbers()
    assert [u.reasons for u in reasons[0].units] == [u.reasons for u in reasons[1].units]
    assert "LRN norm1_2" in str(reasons[0])


def test_what_does_not_change_keeps_its_bytes(tmp_path):
    path, out = build_lrn().save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    caffeinit.rescale(net, {"x": batch(8)}, layers=["conv3*"], rewrite_lrn=True)
    net.save(out)
    assert out.read_bytes() == path.read_bytes()
    with pytest.raises(FormatError, match="within itself"):
        net.save(tmp_path / "other.onnx", net_path=tmp_path / "net.txt")


def test_numbers_in_data_files_and_halves_are_written_with_the_alphas(tmp_path):
    for name, mode, options, how in (
        ("data", "preserve", {}, {"save_as_external_data": True, "location": "numbers", "size_threshold": 0}),
        ("half", EXACT, {"dtype": np.float16, "raw": False}, {}),
    ):
        (tmp_path / name).mkdir()
        path, out = tmp_path / name / "net.onnx", tmp_path / name / "out.onnx"
        build_lrn(**options).save(path, **how)
        rewritten(path, out, mode)
        assert alphas(out)[0] != alphas(path)[0]
        onnx.checker.check_model(str(out))
        if name == "data":
            assert_same_function(path, out, "x", batch(3))
        else:  # onnxruntime's own runs in half precision; ours in single precision
            x = {"x": batch(3)}
            one, other = (load(p).forward(x, ["y"])["y"] for p in (path, out))
            np.testing.assert_allclose(other, one, rtol=0, atol=4e-3 * np.abs(one).max())


def test_nodes_in_functions_stay(tmp_path):
    b = Maker()
    b.domains["mine"] = 1
    body = [helper.make_node("LRN", ["v"], ["r"], size=3, alpha=0.5)]
    b.functions.append(helper.make_function("mine", "Norm", ["v"], ["r"], body, [helper.make_opsetid("", 17)]))
    x = b.op("Norm", b.conv("x", "conv1", 3, 5), out="norm1", domain="mine")
    b.conv(x, "conv2", 5, 4, out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    _, result = rewritten(path, out)
    assert "no alpha of an LRN had to be rewritten" in result.notes
    assert "LRN" in result.units[0].reason
    assert out.read_bytes() == path.read_bytes()


def test_gradients_go_through_what_is_taken_apart(tmp_path):
    net = load(build_lrn().save(tmp_path / "net.onnx"))
    feeds, diff = {"x": batch(2)}, np.random.default_rng(3).standard_normal((2, 4, 8, 6)).astype(np.float32)
    before = net.backward(feeds, {"y": diff}).params
    net.open_numbers()
    after = net.backward(feeds, {"y": diff}).params
    for name, (gradient, *_) in before.items():
        np.testing.assert_allclose(after[name][0], gradient, rtol=0, atol=1e-4 * np.abs(gradient).max())
    assert compile_graph(net.graph, ["y"], net.settings).run(feeds)["y"].shape == (2, 4, 8, 6)
