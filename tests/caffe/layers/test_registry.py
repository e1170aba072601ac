"""What holds for all layer types together."""

import importlib
import pkgutil

import pytest

import tests.caffe.layers
from caffeinit.caffe.layers import find_type, known_types, layer_type, unknown_type_message
from caffeinit.caffe.layers.base import LayerType
from caffeinit.caffe.lower import infer_net, lower_net
from caffeinit.caffe.net import read_net
from tests.caffe.layers.single import Case

SHAPES = [(), (3,), (2, 3), (2, 4, 3), (2, 4, 3, 5), (2, 3, 4, 5, 6)]


def tables():
    """Return the rows of all test modules' tables."""
    found = []
    for module in pkgutil.iter_modules(tests.caffe.layers.__path__, "tests.caffe.layers."):
        for value in vars(importlib.import_module(module.name)).values():
            rows = value if isinstance(value, list) else [value]
            found += [row for row in rows if isinstance(row, Case)]
    return found


ROWS = {(row.kind, row.settings, len(row.bottoms)): row for row in tables() if row.bottoms}


def test_every_registered_type_has_a_row_in_a_table():
    assert {find_type(name).type for name in known_types()} == {find_type(row.kind).type for row in tables()}


def test_a_type_is_described_once():
    with pytest.raises(ValueError, match="'Pooling' is described twice"):

        @layer_type("Pooling")
        class Again(LayerType):
            pass


@pytest.mark.parametrize("name", ["AbsVal", "Flatten", "Reshape", "Split"])
def test_what_cannot_work_in_place_is_refused(name, tmp_path):
    row = next(row for row in ROWS.values() if row.kind == name and len(row.tops) < 3)
    (tmp_path / "net.prototxt").write_text(row.text().replace('top: "out0"', 'top: "in0"'))
    assert infer_net(read_net(tmp_path / "net.prototxt")).blocked["it"].startswith("cannot work in place")


def test_an_unknown_type_is_answered_with_its_neighbours():
    assert unknown_type_message("Eltwis") == "layer type 'Eltwis' is not known; did you mean Eltwise?"
    assert unknown_type_message("Relu") == "layer type 'Relu' is not known; did you mean ReLU?"
    assert unknown_type_message("BATCHNORM") == "layer type 'BATCHNORM' is not known; did you mean BatchNorm?"
    assert "a package can supply it" in unknown_type_message("Python")
    assert unknown_type_message("Qwertyuiop") == "layer type 'Qwertyuiop' is not known"


@pytest.mark.parametrize("name", sorted({row.kind for row in ROWS.values() if not find_type(row.kind).is_data}))
def test_bottoms_of_any_rank_are_taken_or_refused(name, tmp_path):
    for row in ROWS.values():
        for shape in SHAPES if row.kind == name else []:
            for rest in [shape, (2,), (1, 2, 3, 4)] if len(row.bottoms) > 1 else [shape]:
                bottoms = [shape, *[rest] * (len(row.bottoms) - 1)]
                case = Case(row.kind, row.settings, bottoms, row.tops)
                found = case.infer(tmp_path)
                lowered = lower_net(found, {"it": case.arrays(found)})
                if "it" not in found.blocked:
                    assert lowered.layer_tops["it"] == [f"out{i}" for i in range(len(row.tops))]
