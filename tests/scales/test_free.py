"""Which channels of which units have scales of their own, told per unit."""

from itertools import pairwise

import numpy as np
import pytest

from caffeinit.inspection import inspect_files
from caffeinit.scales.channels import channel_labels
from caffeinit.scales.classes import find_scales
from caffeinit.scales.free import report_scales
from tests.nets import NETS
from tests.onnxnets import ModelBuilder, network_of


def report(net, kept=lambda unit: ""):
    return report_scales(net.graph, net.units, net.learned, kept)


def counts(found):
    return {u.name: (u.free, u.tied, u.held) for u in found.units}


WANTED = {
    "chain": {"conv1": (8, 0, 0), "conv2": (6, 0, 0), "ip1": (20, 0, 0), "ip2": (0, 0, 5)},
    "inception": {
        "stem": (8, 0, 0),
        "one": (4, 0, 0),
        "reduce": (4, 0, 0),
        "three": (6, 0, 0),
        "last": (4, 0, 0),
        "ip": (0, 0, 3),
    },
    "residual": {
        **dict.fromkeys(("conv1", "bn1", "conv2", "bn2", "scale2", "conv3", "bn3"), (8, 0, 0)),
        **dict.fromkeys(("scale1", "scale3"), (0, 8, 0)),
        "ip": (0, 0, 3),
    },
}


@pytest.mark.parametrize("name", NETS)
def test_every_channel_is_free_tied_or_held(name):
    found = report(NETS[name]())
    assert counts(found) == WANTED[name]
    assert all(u.free + u.tied + u.held == u.num_channels for u in found.units)


@pytest.mark.parametrize("name", NETS)
def test_free_channels_and_shared_scales_make_up_the_independent_ones(name):
    net = NETS[name]()
    found = report(net)
    groups = {frozenset([u.name, *u.tied_with]): u.num_shared for u in found.units if u.tied}
    assert sum(u.free for u in found.units) + sum(groups.values()) == found.num_independent
    assert found.num_independent == find_scales(net.graph, net.learned).num_unknowns


def linear_attention(width=8, heads=2):
    """Return (q k') [v, 1], the first columns divided by the last, which has something added that holds it."""
    b, own = ModelBuilder(17), width // heads
    x = b.op("Transpose", b.op("Reshape", "input", np.asarray([0, 3, -1], np.int64)), perm=[0, 2, 1])
    qkv = b.op("Reshape", b.linear(x, "qkv", 3, 3 * width), np.asarray([0, 0, heads, 3 * own], np.int64))
    q, k, v = b.op("Split", b.op("Transpose", qkv, perm=[0, 2, 1, 3]), np.asarray([own] * 3), axis=3, outputs=3)
    ones = b.op("Pad", v, np.asarray([0] * 7 + [1]), np.float32(1))
    weighed = b.op("MatMul", b.op("Transpose", b.op("Relu", k), perm=[0, 1, 3, 2]), ones)
    y = b.op("MatMul", b.op("Relu", q), weighed)
    y, total = b.op("Split", y, np.asarray([own, 1]), axis=3, outputs=2)
    y = b.op("Transpose", b.op("Div", y, b.op("Add", total, np.float32(1e-3))), perm=[0, 2, 1, 3])
    y = b.linear(b.op("Reshape", y, np.asarray([0, 0, width], np.int64)), "proj", width, width)
    return network_of(b.finish(y, rank=3))


def test_what_products_tie_is_told_whichever_of_them_stand_for_the_others():
    units = {u.name: u for u in report(linear_attention()).units}
    (qkv,) = (u for name, u in units.items() if name.startswith("qkv"))
    # All q of a head share the inverse of the scale that its k share; each v has its own.
    assert (qkv.free, qkv.tied, qkv.num_shared) == (8, 16, 2)


@pytest.mark.parametrize("make", [*NETS.values(), linear_attention])
def test_a_channel_is_free_where_the_others_leave_its_scale_open(make):
    net = make()
    found = report(net)
    system = find_scales(net.graph, net.learned)
    labels = [channel_labels(net.graph, system, unit.uses[0]) for unit in net.units]
    rows = system.solution.matrix[np.concatenate(labels)].toarray()
    rank = np.linalg.matrix_rank(rows)
    free = [np.linalg.matrix_rank(np.delete(rows, n, axis=0)) < rank for n in range(len(rows))]
    bounds = np.cumsum([0, *map(len, labels)])
    assert [u.free for u in found.units] == [sum(free[a:b]) for a, b in pairwise(bounds)]


def test_a_sum_ties_its_terms():
    units = {u.name: u for u in report(NETS["residual"]()).units}
    assert (units["scale1"].tied_with, units["scale1"].num_shared) == (["scale3"], 8)
    assert units["scale3"].tied_with == ["scale1"]


def test_a_unit_that_stays_as_it_is_ties_its_output_to_its_input():
    found = report(NETS["residual"](), lambda unit: "mine" if unit.name == "conv2" else "")
    unit = next(u for u in found.units if u.name == "conv2")
    # Every output channel reads all inputs: one scale for all of them.
    assert (unit.tied, unit.num_shared, unit.kept) == (8, 1, "mine")
    assert unit.tied_with == ["scale1", "conv2", "scale3"]


def test_a_shift_that_stays_as_it_is_holds_what_it_is_added_to():
    found = report(NETS["chain"](), lambda unit: "mine" if unit.name == "conv2" else "")
    assert counts(found)["conv2"] == (0, 0, 6)
    assert counts(found)["conv1"] == (0, 0, 8)


PROTOTXT = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 9 dim: 8 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "norm" type: "BatchNorm" bottom: "conv1" top: "conv1" }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "one" type: "Convolution" bottom: "conv1" top: "one" convolution_param { num_output: 2 kernel_size: 1 }
  param { name: "shared" } }
layer { name: "two" type: "Convolution" bottom: "conv1" top: "two" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "lrn" type: "LRN" bottom: "one" top: "lrn" }
layer { name: "elu" type: "ELU" bottom: "two" top: "elu" }
"""


def test_reasons_name_layers_and_weights_are_not_needed(tmp_path):
    (tmp_path / "net.prototxt").write_text(PROTOTXT)
    found = inspect_files(tmp_path / "net.prototxt", scales=True)
    units = {u.name: u for u in found.scales.units}
    assert units["conv1"].free == units["norm"].free == 4
    assert units["one"].reasons == {'layer "lrn" (LRN)': 2}
    assert units["two"].reasons == {'layer "elu" (ELU)': 2}
    assert not any(np.any(u.weight) for u in found.units if u.kind == "affine")
    assert found.to_json()["scales"]["num_independent"] == 8


def test_what_a_layer_reads_that_cannot_run_is_held_by_it(tmp_path):
    odd = 'layer { name: "odd" type: "MyLayer" bottom: "conv1" top: "odd" }'
    (tmp_path / "net.prototxt").write_text(PROTOTXT + odd)
    units = {u.name: u for u in inspect_files(tmp_path / "net.prototxt", scales=True).scales.units}
    assert units["norm"].reasons == {'layer "odd" (MyLayer), which cannot run': 4}
    assert units["conv1"].free == 4


def test_of_all_that_holds_a_unit_the_nearest_is_named(tmp_path):
    def layer(name, bottom, more=""):
        frozen = "param { lr_mult: 0 } param { lr_mult: 0 }" if more == "frozen" else ""
        conv = "convolution_param { num_output: 3 kernel_size: 1 }"
        return f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {frozen} {conv} }}\n'

    text = (
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } } }\n'
        + layer("aside", "data", "frozen")
        + layer("inner", "data")
        + layer("behind", "inner", "frozen")
        + 'layer { name: "both" type: "Concat" bottom: "aside" bottom: "behind" top: "both" }\n'
        + layer("last", "both", "frozen")
    )
    (tmp_path / "net.prototxt").write_text(text)
    units = {u.name: u for u in inspect_files(tmp_path / "net.prototxt", scales=True).scales.units}
    assert units["inner"].reasons == {'layer "behind" (Convolution), which stays as it is': 3}
    assert units["aside"].reasons == {'layer "aside" (Convolution), which stays as it is': 3}


FIXED = {  # layers, and what unit "shift" (the last layer's) is said to be held by
    'layer { name: "shift" type: "Bias" bottom: "data" top: "y" }': 'input "data", whose scale it has',
    """layer { name: "conv" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }
    layer { name: "gate" type: "Sigmoid" bottom: "c" top: "g" }
    layer { name: "pool" type: "Pooling" bottom: "g" top: "p" pooling_param { global_pooling: true } }
    layer { name: "shift" type: "Bias" bottom: "p" top: "y" }""": 'layer "gate" (Sigmoid), whose scale it has',
    """layer { name: "conv" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 4 kernel_size: 1 } }
    layer { name: "relu" type: "ReLU" bottom: "c" top: "c" }
    layer { name: "both" type: "Concat" bottom: "c" bottom: "data" top: "b" }
    layer { name: "shift" type: "Bias" bottom: "b" top: "y" }""": 'input "data", whose scale it has',
    """layer { name: "shift" type: "Embed" bottom: "data" top: "y"
      embed_param { num_output: 4 input_dim: 9 } }""": 'the table of layer "shift", whose scale it has',
}


@pytest.mark.parametrize("layers", FIXED)
def test_what_has_a_scale_that_no_unit_has_a_part_in_is_said_to_have_it(tmp_path, layers):
    ends = 'layer { name: "ip" type: "InnerProduct" bottom: "y" top: "ip" inner_product_param { num_output: 2 } }'
    start = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 9 dim: 8 } } }'
    (tmp_path / "net.prototxt").write_text(f"{start}\n{layers}\n{ends}")
    found = inspect_files(tmp_path / "net.prototxt", scales=True)
    unit = next(u for u in found.scales.units if u.name == "shift")
    assert FIXED[layers] in unit.reasons
