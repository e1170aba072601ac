import numpy as np
import pytest

from caffeinit.draw import WeightSpec, unit_rng

SPECS = [
    WeightSpec("convolution", (6, 2, 3, 2), group=3),
    WeightSpec("inner product", (4, 5)),
    WeightSpec("transposed inner product", (4, 5), transposed=True),
    WeightSpec("deconvolution", (6, 2, 3, 2), group=3, transposed=True),
    WeightSpec("one spatial axis", (4, 3, 5)),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_canonical_form_has_all_numbers_of_the_stored_one(spec):
    stored = np.arange(np.prod(spec.shape), dtype=np.float32).reshape(spec.stored_shape)
    assert spec.from_stored(stored).shape == spec.shape
    assert np.array_equal(np.sort(spec.from_stored(stored), axis=None), stored.ravel())


def test_a_transposed_inner_product_is_the_matrix_transposed():
    spec = WeightSpec("ip", (2, 3), transposed=True)
    assert spec.stored_shape == (3, 2)
    assert np.array_equal(spec.from_stored(np.arange(6).reshape(3, 2)), [[0, 2, 4], [1, 3, 5]])


def test_a_deconvolution_swaps_axes_within_each_group():
    spec = WeightSpec("up", (4, 3, 1, 1), group=2, transposed=True)
    stored = np.arange(12).reshape(spec.stored_shape)
    assert spec.stored_shape == (6, 2, 1, 1)
    canonical = spec.from_stored(stored)
    for group in range(2):
        for output in range(2):
            for inputs in range(3):
                assert canonical[2 * group + output, inputs] == stored[3 * group + inputs, output]


def test_fans_count_one_output_and_one_input():
    spec = WeightSpec("conv", (6, 2, 3, 5), group=3)
    assert (spec.fan_in, spec.fan_out, spec.group_outputs) == (30, 90, 2)


def test_random_streams_differ_by_seed_name_and_index_and_nothing_else():
    keys = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (0, "a", 0, 0)]
    draws = [tuple(unit_rng(*key).integers(0, 2**60, 4)) for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws == [tuple(unit_rng(*key).integers(0, 2**60, 4)) for key in keys]


def test_the_stream_is_the_same_on_every_machine():
    # numpy keeps PCG64 streams, and the name goes in by SHA-256: this number must never change, or weights do.
    assert unit_rng(3, "conv1", 2).integers(0, 2**32) == 2709285510
