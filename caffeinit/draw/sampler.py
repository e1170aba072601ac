"""Input patches of a unit, gathered at random positions while batches stream by.

A patch is what one output sees: the im2col column of a convolution, zero padding included, or the whole flattened
input of an InnerProduct. Each picture gives the same number of patches (give or take one) per use of the weight,
at positions without repetition; a picture with fewer positions gives them all. Positions depend on the seed, the unit,
the use and the picture's index, so the cut into batches does not matter. Only what is sampled is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from caffeinit.arithmetic.workers import each, row_slices

from .rng import unit_rng

_PART = 4  # pictures that a thread gathers from at a time
_ABREAST = 64  # patches that are put together from the vectors of their places at a time
_LONG = 16  # channels of a group from which on that is faster than to copy each row of the kernel


class Remote(Protocol):
    """A value that lies out of reach, on a device; vectors at single places can be had."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""
        ...

    def __len__(self) -> int: ...

    def vectors(self, index: np.ndarray, axis: int) -> np.ndarray:
        """Return the vectors along an axis, (*index.shape, C), at flat places over all other axes; zeros at -1."""
        ...


class Geometry(Protocol):
    """How a unit's input is cut into patches."""

    @property
    def group(self) -> int:
        """How many groups of channels there are."""
        ...

    def positions(self, shape: tuple[int, ...]) -> int:
        """Return how many patches one picture has, of an input value (N, ...) with N the pictures."""
        ...

    def dimension(self, shape: tuple[int, ...]) -> int:
        """Return the length of one group's patch."""
        ...

    def gather(self, value: np.ndarray | Remote, pictures: np.ndarray, positions: np.ndarray, into: np.ndarray) -> None:
        """Write the patches of the given pictures of the batch at the given flat positions into (group, m, d)."""
        ...


@dataclass(frozen=True)
class Window:
    """A convolution's sliding window over (N, C, *spatial), any number of spatial axes.

    Attributes:
        kernel, stride, dilation, pads_begin, pads_end: one entry per spatial axis.
        group: channels are cut into so many consecutive groups.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]
    dilation: tuple[int, ...]
    group: int = 1

    def placements(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return how many windows fit along each spatial axis: the unit's output extent."""
        axes = zip(shape[2:], self.kernel, self.stride, self.pads_begin, self.pads_end, self.dilation, strict=True)
        return tuple(
            (size + begin + end - (dilation * (kernel - 1) + 1)) // stride + 1
            for size, kernel, stride, begin, end, dilation in axes
        )

    def positions(self, shape: tuple[int, ...]) -> int:
        """Return how many windows one picture has."""
        return math.prod(self.placements(shape))

    def dimension(self, shape: tuple[int, ...]) -> int:
        """Return I/group * kH * kW."""
        return shape[1] // self.group * math.prod(self.kernel)

    def gather(self, value: np.ndarray | Remote, pictures: np.ndarray, positions: np.ndarray, into: np.ndarray) -> None:
        """Write im2col columns into (group, m, d), d ordered (I/group, *kernel)."""
        places = np.unravel_index(positions, self.placements(value.shape))
        channels = value.shape[1] // self.group
        if isinstance(value, np.ndarray) and channels < _LONG:
            index: tuple[Any, ...] = (pictures, slice(None), *places)
            columns = self._windows(value)[index]
            into[...] = columns.reshape(len(pictures), self.group, -1).transpose(1, 0, 2)
            return
        flat = self._flat(value.shape, pictures, places)
        into = into.reshape(*into.shape[:2], channels, -1)
        if isinstance(value, np.ndarray):
            vectors = _channels_last(value)
            for rows in row_slices(len(flat), _ABREAST):  # few enough to be in the cache when they are turned
                self._turn(vectors[flat[rows]], into[:, rows])
        else:
            self._turn(value.vectors(flat, 1), into)

    def _turn(self, vectors: np.ndarray, into: np.ndarray) -> None:
        """Write vectors (m, places in a kernel, C) into (group, m, C/group, places)."""
        into[...] = vectors.reshape(*vectors.shape[:2], self.group, -1).transpose(2, 0, 3, 1)

    def _flat(self, shape: tuple[int, ...], pictures: np.ndarray, places: tuple[np.ndarray, ...]) -> np.ndarray:
        """Return where windows lie in (N, *spatial), (m, places in a kernel) flat; -1 in the padding."""
        count, axes = len(pictures), len(self.kernel)
        flat, inside = pictures.reshape(-1, *[1] * axes), np.ones(1, bool)
        for axis, (extent, place) in enumerate(zip(shape[2:], places, strict=True)):
            steps = np.arange(self.kernel[axis]) * self.dilation[axis] - self.pads_begin[axis]
            along = place[:, None] * self.stride[axis] + steps
            along = along.reshape(count, *(-1 if a == axis else 1 for a in range(axes)))
            flat = flat * extent + along
            inside = inside & (along >= 0) & (along < extent)
        return np.where(inside, flat, -1).reshape(count, -1)

    def _windows(self, value: np.ndarray) -> np.ndarray:
        """Return a view (N, C, *placements, *kernel) of the padded value."""
        if any(self.pads_begin) or any(self.pads_end):
            value = np.pad(value, ((0, 0), (0, 0), *zip(self.pads_begin, self.pads_end, strict=True)))
        extents = tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        axes = tuple(range(2, value.ndim))
        view = np.lib.stride_tricks.sliding_window_view(value, extents, axis=axes)
        steps = (slice(None, None, step) for step in (*self.stride, *self.dilation))
        return view[(slice(None), slice(None), *steps)]


@dataclass(frozen=True)
class Rows:
    """The input of an InnerProduct or a matrix product.

    Attributes:
        features: K, what one output sees. A value (N, ...) is read as (N, positions, K): one patch per picture for an
            InnerProduct over a whole blob, several where leading axes are kept.
        axis: where the K numbers lie, counted from the end; not that of the pictures.
    """

    features: int
    group: int = 1
    axis: int = -1

    def positions(self, shape: tuple[int, ...]) -> int:
        """Return how many rows of `features` one picture has."""
        return math.prod(shape[1:]) // self.features

    def dimension(self, shape: tuple[int, ...]) -> int:
        """Return K."""
        return self.features

    def gather(self, value: np.ndarray | Remote, pictures: np.ndarray, positions: np.ndarray, into: np.ndarray) -> None:
        """Write rows into (1, m, K)."""
        if not isinstance(value, np.ndarray):
            into[0] = value.vectors((pictures * self.positions(value.shape) + positions)[:, None], self.axis)[:, 0]
        elif self.axis == -1:
            into[0] = value.reshape(len(value), -1, self.features)[pictures, positions]
        else:
            moved = np.moveaxis(value, self.axis, -1)
            into[0] = moved[(pictures, *np.unravel_index(positions, moved.shape[1:-1]))]


class PatchSampler:
    """Collects one unit's patches over all its uses and batches.

    The order of calls among uses does not matter; within a use pictures come in order.
    """

    def __init__(
        self,
        name: str,
        uses: list[Geometry],
        num_samples: int,
        num_pictures: int,
        seed: int,
        threads: int | None = None,
    ) -> None:
        """Plan for `num_samples` patches per group from `num_pictures` pictures and all `uses` together."""
        self.name = name
        self.uses = uses
        self.seed = seed
        self.num_pictures = num_pictures
        self._threads = threads
        self._quotas = _shares(num_samples, len(uses) * num_pictures).reshape(len(uses), num_pictures)
        self._buffers: dict[int, np.ndarray] = {}
        self._filled = [0] * len(uses)
        self._seen = [0] * len(uses)

    def add(self, value: np.ndarray | Remote, use: int = 0, pictures: int | None = None) -> None:
        """Take what is needed from the next batch of the input of one use, (N, C, *spatial) or (N, ...).

        Args:
            pictures: how many pictures the batch has. Where N is a multiple of it, each has as many entries on axis 0, one
                behind the other: frames, or the rows of a matrix. Else, and by default, each entry counts as a picture, and
                what is more than those announced is passed over.
        """
        geometry, start = self.uses[use], self._seen[use]
        if not len(value):  # none of these pictures' rows was chosen
            self._buffers.setdefault(use, np.empty((geometry.group, 0, geometry.dimension(value.shape)), np.float32))
            return
        is_whole = pictures is not None and len(value) % pictures == 0
        frames = len(value) // pictures if pictures and is_whole else 1
        stop = start + len(value) // frames
        stop = stop if is_whole else min(stop, self.num_pictures)
        if stop == start:
            return
        assert stop <= self.num_pictures, f"{self.name}: more than the announced {self.num_pictures} pictures"
        positions = geometry.positions(value.shape)
        available = frames * positions
        counts = np.minimum(self._quotas[use, start:stop], available)
        picked = np.concatenate([self._pick(use, start + i, int(count), available) for i, count in enumerate(counts)])
        entries = np.repeat(np.arange(stop - start) * frames, counts) + picked // positions
        buffer = self._buffer(use, geometry, value.shape, available)
        filled = self._filled[use]
        ends = np.cumsum([0, *counts])

        def take(part: slice) -> None:
            rows = slice(ends[part.start], ends[part.stop])
            of_part = value[part.start * frames : part.stop * frames] if isinstance(value, np.ndarray) else value
            into = buffer[:, filled + rows.start : filled + rows.stop]
            geometry.gather(of_part, entries[rows] - part.start * frames, picked[rows] % positions, into)

        each(take, row_slices(stop - start, _PART if isinstance(value, np.ndarray) else stop - start), self._threads)
        self._filled[use] = filled + len(entries)
        self._seen[use] = stop

    def samples(self) -> np.ndarray:
        """Return the patches so far, (group, n, d) float32, uses one after another."""
        parts = [self._buffers[use][:, : self._filled[use]] for use in sorted(self._buffers)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    @property
    def samples_held(self) -> int:
        """How many patches take up memory, those still to come included."""
        return sum(buffer.shape[1] for buffer in self._buffers.values())

    def release(self) -> None:
        """Give up the patches: a net's samplers live as long as its pass, and together hold gigabytes."""
        self._buffers.clear()

    def _pick(self, use: int, picture: int, count: int, available: int) -> np.ndarray:
        rng = unit_rng(self.seed, f"patches of {self.name}", use, picture)
        return np.sort(rng.choice(available, count, replace=False))

    def _buffer(self, use: int, geometry: Geometry, shape: tuple[int, ...], available: int) -> np.ndarray:
        if use not in self._buffers or not self._buffers[use].size:
            rows = int(np.minimum(self._quotas[use], available).sum())
            self._buffers[use] = np.empty((geometry.group, rows, geometry.dimension(shape)), np.float32)
        return self._buffers[use]


def _channels_last(value: np.ndarray) -> np.ndarray:
    """Return the vectors of all places of a value (N, C, *spatial), (N * places + 1, C); the last is 0."""
    count, channels = value.shape[:2]
    places = math.prod(value.shape[2:])
    vectors = np.empty((count * places + 1, channels), value.dtype)
    vectors[:-1].reshape(count, places, channels)[...] = value.reshape(count, channels, places).transpose(0, 2, 1)
    vectors[-1] = 0
    return vectors


def _shares(total: int, parts: int) -> np.ndarray:
    """Cut a total into whole shares that differ by at most one, spread evenly."""
    return np.diff(np.arange(parts + 1) * total // parts)
