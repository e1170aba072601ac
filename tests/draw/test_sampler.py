from itertools import product

import numpy as np
import pytest

from caffeinit.draw import PatchSampler, Rows, Window

WINDOWS = [
    Window((3, 3), (1, 1), (0, 0), (0, 0), (1, 1)),
    Window((3, 2), (2, 1), (1, 0), (1, 0), (1, 1)),
    Window((2, 3), (1, 2), (0, 2), (1, 1), (2, 1)),  # pads differ at begin and end, dilation differs by axis
    Window((1, 1), (1, 1), (0, 0), (0, 0), (1, 1), group=2),
    Window((3, 3), (2, 2), (1, 1), (1, 1), (1, 2), group=3),
    Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1), group=6),  # depthwise
    Window((3,), (2,), (1,), (0,), (1,)),
    Window((2, 1, 2), (1, 1, 2), (0, 0, 1), (0, 0, 1), (1, 1, 1), group=2),
]


def value_for(window, num_pictures=5, channels=6):
    shape = (num_pictures, channels, *(9, 8, 7)[: len(window.kernel)])
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1


def columns_by_loops(window, value):
    """Return every im2col column (N, positions, group, d), element by element."""
    spatial = value.shape[2:]
    placements = [
        range((size + b + e - d * (k - 1) - 1) // s + 1)
        for size, k, s, b, e, d in zip(
            spatial, window.kernel, window.stride, window.pads_begin, window.pads_end, window.dilation, strict=True
        )
    ]
    per_group = value.shape[1] // window.group
    columns = []
    for picture, place in product(range(len(value)), product(*placements)):
        for channel, tap in product(range(value.shape[1]), product(*map(range, window.kernel))):
            at = [
                p * s - b + t * d
                for p, s, b, t, d in zip(place, window.stride, window.pads_begin, tap, window.dilation, strict=True)
            ]
            inside = all(0 <= x < size for x, size in zip(at, spatial, strict=True))
            columns.append(value[(picture, channel, *at)] if inside else 0.0)
    taps = per_group * int(np.prod(window.kernel))
    return np.array(columns, np.float32).reshape(len(value), -1, window.group, taps)


@pytest.mark.parametrize("channels", [6, 96])  # a few channels of a group are gathered in another way than many
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_all_positions_are_im2col(window, channels):
    value = value_for(window, channels=channels)
    expected = columns_by_loops(window, value)
    num_positions = expected.shape[1]
    sampler = PatchSampler("conv", [window], num_positions * 5 * 10, 5, seed=0)
    sampler.add(value)
    samples = sampler.samples()
    assert samples.dtype == np.float32
    assert np.array_equal(samples, expected.reshape(5 * num_positions, window.group, -1).transpose(1, 0, 2))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_sampled_columns_exist_are_different_and_even_over_pictures(window):
    value = value_for(window)
    sampler = PatchSampler("conv", [window], 23, 5, seed=0)
    sampler.add(value)
    samples = sampler.samples().transpose(1, 0, 2).reshape(-1, np.prod(sampler.samples().shape[::2]))
    columns = columns_by_loops(window, value)
    per_picture = []
    for picture in columns:
        known = [row.tobytes() for row in picture.reshape(len(picture), -1)]
        per_picture.append(sum(row.tobytes() in known for row in samples))
    wanted = min(23, 5 * columns.shape[1])
    assert sum(per_picture) == len(samples) == len({row.tobytes() for row in samples}) == wanted
    assert max(per_picture) - min(per_picture) <= 1


@pytest.mark.parametrize("cut", [[5], [1, 1, 1, 1, 1], [2, 3], [4, 1]])
@pytest.mark.parametrize("window", WINDOWS[:3], ids=str)
def test_the_cut_into_batches_does_not_change_a_byte(window, cut):
    value = value_for(window)
    whole = PatchSampler("conv", [window], 31, 5, seed=3)
    whole.add(value)
    parts = PatchSampler("conv", [window], 31, 5, seed=3)
    for part in np.split(value, np.cumsum(cut)[:-1]):
        parts.add(part)
    assert parts.samples().tobytes() == whole.samples().tobytes()


def test_positions_depend_on_seed_unit_and_picture():
    window = Window((1, 1), (1, 1), (0, 0), (0, 0), (1, 1))
    value = np.tile(np.arange(100, dtype=np.float32).reshape(1, 1, 10, 10), (2, 1, 1, 1))

    def positions(name, seed):
        sampler = PatchSampler(name, [window], 20, 2, seed)
        sampler.add(value)
        return sampler.samples().ravel()

    chosen = positions("a", 0)
    assert not np.array_equal(chosen[:10], chosen[10:])
    assert not np.array_equal(chosen, positions("b", 0))
    assert not np.array_equal(chosen, positions("a", 1))
    assert np.array_equal(chosen, positions("a", 0))


def test_positions_are_spread_over_the_whole_picture():
    window = Window((1, 1), (1, 1), (0, 0), (0, 0), (1, 1))
    value = np.tile(np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4), (2000, 1, 1, 1))
    sampler = PatchSampler("conv", [window], 8000, 2000, seed=0)
    sampler.add(value)
    counts = np.bincount(sampler.samples().ravel().astype(int), minlength=16)
    assert counts == pytest.approx(500, abs=100)  # five standard deviations


def test_an_inner_product_sees_the_whole_picture():
    value = np.arange(48, dtype=np.float32).reshape(4, 3, 2, 2)
    sampler = PatchSampler("fc", [Rows(12)], 1000, 4, seed=0)
    sampler.add(value[:1])
    sampler.add(value[1:])
    assert np.array_equal(sampler.samples(), value.reshape(1, 4, 12))


def test_an_inner_product_with_leading_axes_sees_rows():
    value = np.arange(60, dtype=np.float32).reshape(2, 5, 6)
    sampler = PatchSampler("ip", [Rows(6)], 6, 2, seed=0)
    sampler.add(value)
    rows = sampler.samples()[0]
    assert rows.shape == (6, 6)
    assert {tuple(row) for row in rows} <= {tuple(row) for row in value.reshape(10, 6)}


def test_a_matrix_from_the_left_sees_columns():
    value = np.arange(120, dtype=np.float32).reshape(2, 2, 6, 5)
    sampler = PatchSampler("left", [Rows(6, axis=-2)], 1000, 2, seed=0)
    sampler.add(value)
    assert np.array_equal(sampler.samples()[0], value.swapaxes(-1, -2).reshape(20, 6))


def test_shared_weights_pool_all_uses_in_any_order():
    uses = [WINDOWS[0], WINDOWS[0]]
    small, large = value_for(WINDOWS[0]), np.pad(value_for(WINDOWS[0]), ((0, 0), (0, 0), (0, 4), (0, 0))) + 0.5
    one, other = (PatchSampler("shared", uses, 41, 5, seed=0) for _ in range(2))
    one.add(small, use=0)
    one.add(large, use=1)
    for start in (0, 3):
        other.add(large[start : start + 3], use=1)
    for start in (0, 3):
        other.add(small[start : start + 3], use=0)
    assert one.samples().tobytes() == other.samples().tobytes()
    from_large = (one.samples()[0] % 1 == 0.5).any(axis=1).sum()
    assert one.samples().shape == (1, 41, 54)
    assert abs(from_large - 20.5) <= 1


def test_more_pictures_than_announced_are_our_mistake():
    sampler = PatchSampler("fc", [Rows(2)], 10, 1, seed=0)
    with pytest.raises(AssertionError, match="fc: more than the announced 1"):
        sampler.add(np.zeros((2, 2), np.float32), pictures=2)


def test_of_rows_that_nobody_announced_the_first_count():
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    sampler = PatchSampler("fc", [Rows(2)], 10, 3, seed=0)
    for part in (rows[:0], rows[:2], rows[:0], rows[2:]):
        sampler.add(part)
    np.testing.assert_array_equal(sampler.samples()[0], rows[:3])


def test_only_what_is_sampled_is_kept():
    window = Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    sampler = PatchSampler("conv", [window], 10, 2, seed=0)
    sampler.add(np.zeros((2, 8, 50, 50), np.float32))
    samples = sampler.samples()
    assert samples.shape == (1, 10, 72)
    assert samples.base is None or samples.base.size == samples.size


def test_of_rows_that_are_no_multiple_of_the_pictures_the_first_count():
    """Behind a Transpose the first axis of a fixed batch may be the width."""
    rows = np.arange(18, dtype=np.float32).reshape(9, 2)
    sampler = PatchSampler("fc", [Rows(2)], 10, 4, seed=0)
    for start in (0, 3, 6):
        sampler.add(rows[start : start + 3], pictures=2)
    np.testing.assert_array_equal(sampler.samples()[0], rows[:4])
