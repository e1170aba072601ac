import numpy as np
import pytest

from caffeinit.caffe.layers import shape
from tests.caffe.layers.single import Case, check_case, check_every_type_has_a_row, check_refusal, lower

BLOB = (2, 3, 4, 5)


def joined(axis):
    return lambda *bottoms: [np.concatenate(bottoms, axis)]


def cut(points, axis):
    return lambda x: np.split(x, points, axis)


def shaped(*dims):
    """Reshape all but the batch."""
    return lambda x: [x.reshape(len(x), *dims)]


def reshape(settings, bottom, top, define, **more):
    return Case("Reshape", f"reshape_param {{ {settings} }}", [bottom], [top], define, **more)


def flatten(settings, top, define, **more):
    return Case("Flatten", f"flatten_param {{ {settings} }}", [BLOB], [top], define, **more)


CASES = [
    Case("Concat", "", [BLOB, (2, 1, 4, 5), BLOB], [(2, 7, 4, 5)], joined(1), name="Concat-of three"),
    Case("Concat", "concat_param { axis: -1 }", [BLOB, (2, 3, 4, 1)], [(2, 3, 4, 6)], joined(3)),
    Case("Concat", "concat_param { concat_dim: 2 }", [BLOB, (2, 3, 1, 5)], [(2, 3, 5, 5)], joined(2)),
    Case("Concat", "concat_param { axis: 0 }", [BLOB, (1, 3, 4, 5)], [(3, 3, 4, 5)], joined(0), is_bound=True),
    Case("Concat", "", [BLOB], [BLOB], lambda x: [x], name="Concat-of one"),
    Case("Slice", "", [(2, 6, 4)], [(2, 2, 4)] * 3, cut(3, 1), name="Slice-evenly"),
    Case(
        "Slice",
        "slice_param { slice_point: 1 slice_point: 3 }",
        [(2, 6, 4)],
        [(2, 1, 4), (2, 2, 4), (2, 3, 4)],
        cut([1, 3], 1),
    ),
    Case("Slice", "slice_param { axis: -1 slice_point: 3 }", [BLOB], [(2, 3, 4, 3), (2, 3, 4, 2)], cut([3], 3)),
    Case("Slice", "slice_param { slice_dim: 0 }", [(4, 3)], [(2, 3)] * 2, cut(2, 0), is_bound=True),
    Case("Slice", "", [BLOB], [BLOB], lambda x: [x], name="Slice-into one"),
    Case("Split", "", [BLOB], [BLOB] * 2, lambda x: [x, x]),
    Case("Silence", "", [BLOB, (2, 1)], []),
    Case("HDF5Output", "hdf5_output_param { file_name: 'never_written.h5' }", [BLOB, (2, 1)], []),
    flatten("", (2, 60), shaped(60)),
    flatten("axis: 1 end_axis: 2", (2, 12, 5), shaped(12, 5)),
    flatten("axis: -2", (2, 3, 20), shaped(3, 20)),
    flatten("axis: 0 end_axis: 1", (6, 4, 5), lambda x: [x.reshape(-1, 4, 5)], is_bound=True),
    reshape("shape { dim: 0 dim: -1 dim: 2 }", BLOB, (2, 30, 2), shaped(30, 2)),
    reshape("shape { dim: 2 dim: 6 dim: 10 }", BLOB, (2, 6, 10), lambda x: [x.reshape(2, 6, 10)], is_bound=True),
    reshape("axis: 1 shape { dim: 2 dim: -1 }", BLOB, (2, 2, 30), shaped(2, 30)),
    reshape("axis: 1 num_axes: 2 shape { dim: 12 }", BLOB, (2, 12, 5), shaped(12, 5)),
    reshape("axis: 1 num_axes: 0 shape { dim: 1 }", BLOB, (2, 1, 3, 4, 5), shaped(1, 3, 4, 5)),
    reshape("axis: -1 shape { dim: 1 dim: 1 }", (2, 3), (2, 3, 1, 1), shaped(3, 1, 1)),
    reshape("shape { dim: -1 dim: 3 }", BLOB, (40, 3), lambda x: [x.reshape(-1, 3)], is_bound=True),
]


@pytest.mark.parametrize("case", [c for c in CASES if c.tops], ids=str)
def test_layer_is_its_definition(case, tmp_path):
    check_case(case, tmp_path)


@pytest.mark.parametrize("case", [c for c in CASES if not c.tops], ids=str)
def test_what_swallows_makes_nothing_of_anything(case, tmp_path):
    found = case.infer(tmp_path)
    assert not found.blocked
    assert set(found.shapes) == {"in0", "in1"}
    assert lower(found, []).nodes == []


def test_every_type_has_a_row():
    check_every_type_has_a_row(shape, CASES)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case("Concat", "", [BLOB, (2, 3, 4, 4)], [()]), "differ beside axis 1"),
        (Case("Concat", "", [BLOB, (2, 3)], [()]), "differ beside axis 1"),
        (Case("Concat", "concat_param { axis: 1 concat_dim: 1 }", [BLOB, BLOB], [()]), "both axis and concat_dim"),
        (Case("Slice", "", [BLOB], [()] * 2), "3 along axis 1 does not divide into 2 tops"),
        (Case("Slice", "slice_param { slice_point: 1 }", [BLOB], [()] * 3), "1 slice points for 3 tops"),
        (Case("Slice", "slice_param { slice_point: 3 }", [BLOB], [()] * 2), "do not rise within 3"),
        (Case("Slice", "slice_param { axis: 1 slice_dim: 1 }", [BLOB], [()]), "both axis and slice_dim"),
        (flatten("axis: 2 end_axis: 1", (), None), "end_axis 1 comes before axis 2"),
        (reshape("shape { dim: 7 dim: -1 }", BLOB, (), None), "cannot be reshaped to [7, -1]"),
        (reshape("shape { dim: -1 dim: -1 }", BLOB, (), None), "more than one dim is -1"),
        (reshape("shape { dim: -2 }", BLOB, (), None), "dim: -2 is no extent"),
        (reshape("axis: 3 num_axes: 2 shape { dim: 1 }", BLOB, (), None), "num_axes 2 are outside"),
        (reshape("shape { dim: 2 dim: 60 dim: 0 dim: 0 dim: 0 }", BLOB, (), None), "has no axis"),
    ],
    ids=str,
)
def test_refusals_name_the_parameter(case, words, tmp_path):
    check_refusal(case, words, tmp_path)
