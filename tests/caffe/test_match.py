"""Bringing files and nets together: Caffe's rules on names, shapes, and what layers share."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from caffeinit.caffe.match import match_weights, mismatch_error, shapes_equal


@dataclass
class Stored:
    """A blob of ascending numbers from `first`."""

    shape: tuple[int, ...]
    first: float = 0.0
    encoding: str = "float"

    def array(self):
        return np.arange(np.prod(self.shape), dtype=np.float32).reshape(self.shape) + np.float32(self.first)


@dataclass
class File:
    layers: dict
    format: str = "V2"
    notes: list = field(default_factory=list)


@pytest.mark.parametrize(
    ("stored", "wanted", "fits"),
    [
        ((3, 4), (3, 4), True),
        ((1, 1, 1, 5), (5,), True),
        ((1, 1, 3, 4), (3, 4), True),
        ((1, 2, 3, 4), (2, 3, 4), True),
        ((1, 1, 1, 1), (), True),
        ((1, 5, 1, 1), (5,), False),  # padded behind, not in front
        ((1, 1, 4, 3), (3, 4), False),
        ((3, 4, 1, 1), (3, 4), False),
        ((5,), (1, 1, 1, 5), False),  # Caffe pads what the net has, not what the file has
        ((1, 5), (5,), False),
        ((2, 1, 3, 4), (2, 3, 4), False),
        ((1, 1, 1, 2, 3), (2, 3), False),
        ((6,), (2, 3), False),
        ((), (1,), False),
    ],
)
def test_shapes_fit_as_in_caffe(stored, wanted, fits):
    assert shapes_equal(stored, wanted) is fits


def test_each_layer_gets_its_blobs_in_the_net_s_shape():
    file = File({"ip": [Stored((1, 1, 2, 3)), Stored((1, 1, 1, 2))], "other": [Stored((1,))], "relu": []})
    found = match_weights(file, {"ip": [(2, 3), (2,)], "new": [(4,)]}, {}, {})
    assert [a.shape for a in found.arrays["ip"]] == [(2, 3), (2,)]
    np.testing.assert_array_equal(found.arrays["ip"][0], np.arange(6).reshape(2, 3))
    assert not found.arrays["new"][0].any()
    assert found.missing == [("new", 0)]
    assert found.unused == ["other"]
    assert not found.mismatches


def test_without_a_file_everything_is_missing_and_zero():
    found = match_weights(None, {"ip": [(2, 3), (2,)]}, {}, {})
    assert found.missing == [("ip", 0), ("ip", 1)]
    assert not any(a.any() for a in found.arrays["ip"])
    assert not found.stored


def test_a_layer_renamed_because_its_name_was_taken_gets_nothing():
    found = match_weights(File({"ip": [Stored((2,))]}), {"ip": [(2,)], "ip#2": [(2,)]}, {}, {"ip#2": "ip"})
    assert found.stored == {("ip", 0): ("ip", 0)}
    assert found.missing == [("ip#2", 0)]


def test_all_mismatches_are_shown_at_once_with_what_to_do():
    file = File(
        {
            "conv2": [Stored((4, 6, 5, 5))],
            "conv3": [Stored((4, 3, 3, 3))],
            "fc8": [Stored((10, 7)), Stored((10,))],
            "fc7": [Stored((7, 9))],
            "bn": [Stored((2,))],
        }
    )
    wanted = {
        "conv2": [(4, 3, 5, 5)],
        "conv3": [(4, 6, 3, 3)],
        "fc8": [(5, 7), (5,)],
        "fc7": [(9, 7)],
        "bn": [(2,), (2,), (1,)],
    }
    found = match_weights(file, wanted, {}, {})
    text = str(mismatch_error(found, "net.prototxt", "net.caffemodel"))
    assert text.startswith("net.caffemodel: the weights do not fit the net net.prototxt:")
    assert "caffeinit inspect net.prototxt net.caffemodel" in text
    assert 'layer "conv2", blob 0: the file has (4, 6, 5, 5), the net asks for (4, 3, 5, 5); the weights look u' in text
    assert "`group` is 2 times too large, or channels are 2 times too few" in text  # as with gray pictures for colour
    assert "`group` is 2 times too small, or channels are 2 times too many" in text
    assert 'layer "fc8", blob 1: the file has (10,), the net asks for (5,); `num_output` differs' in text
    assert 'layer "fc7", blob 0: the file has (7, 9), the net asks for (9, 7)\n' in text
    assert 'layer "bn": the file has 1 blob of (2,), the net asks for 3 blobs of (2,), (2,), (1,)' in text
    assert len(found.mismatches) == 6


def test_of_many_mismatches_the_first_are_shown():
    file = File({f"ip{i}": [Stored((2,))] for i in range(30)})
    found = match_weights(file, {f"ip{i}": [(3,)] for i in range(30)}, {}, {})
    assert "and 10 more" in str(mismatch_error(found, "n", "w"))


OWNERS = {("two", 0): ("one", 0)}
BOTH = {"one": [(2,), (3,)], "two": [(2,), (3,)]}


def test_shared_parameters_are_one_array_and_the_last_copy_counts():
    file = File({"one": [Stored((2,)), Stored((3,))], "two": [Stored((2,), 5), Stored((3,), 7)]})
    found = match_weights(file, BOTH, OWNERS, {})
    assert found.arrays["one"][0] is found.arrays["two"][0]
    np.testing.assert_array_equal(found.arrays["one"][0], [5, 6])
    np.testing.assert_array_equal(found.arrays["two"][1], [7, 8, 9])
    assert len(found.notes) == 1
    assert "share" in found.notes[0]
    both = match_weights(file, BOTH, {**OWNERS, ("two", 1): ("one", 1)}, {})
    assert both.notes == found.notes  # one note for weights and bias


def test_equal_copies_of_a_shared_parameter_need_no_note():
    file = File({"one": [Stored((2,)), Stored((3,))], "two": [Stored((2,)), Stored((3,))]})
    assert not match_weights(file, BOTH, OWNERS, {}).notes


def test_a_shared_parameter_that_only_the_second_layer_holds_is_not_missing():
    found = match_weights(File({"two": [Stored((2,), 5), Stored((3,))]}), BOTH, OWNERS, {})
    assert found.missing == [("one", 1)]
    np.testing.assert_array_equal(found.arrays["one"][0], [5, 6])


@pytest.mark.parametrize(
    ("blobs", "form", "fits"),
    [
        ([None, Stored((3,))], "HDF5", True),  # what Caffe writes: the owner's dataset alone
        ([Stored((2,)), Stored((3,))], "HDF5", True),
        ([Stored((2,))], "HDF5", False),  # index 1 is not shared
        ([Stored((2,)), Stored((3,)), Stored((3,))], "HDF5", False),
        ([Stored((2,))], "V2", False),
    ],
)
def test_hdf5_files_may_leave_out_what_is_shared(blobs, form, fits):
    file = File({"one": [Stored((2,), 1), Stored((3,))], "two": blobs}, form)
    found = match_weights(file, BOTH, OWNERS, {})
    assert bool(found.mismatches) is not fits
    if fits:
        np.testing.assert_array_equal(found.arrays["two"][0], [1, 2] if blobs[0] is None else [0, 1])
        assert not found.missing
