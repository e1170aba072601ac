"""Operators that onnx's reference implementation gets wrong or does not do, written down plainly in numpy."""

from __future__ import annotations

import itertools

import numpy as np
from onnx.reference.op_run import OpRun
from scipy.special import erf


def _windows(shape, counts, kernel, strides, dilations):
    """Yield (place in the kernel, slices of that place in all windows) over the spatial axes of a padded array."""
    for place in itertools.product(*(range(k) for k in kernel)):
        starts = [p * d for p, d in zip(place, dilations, strict=True)]
        yield place, tuple(slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(starts, counts, strides, strict=True))


def _halves(sums, is_upper):
    """Return pads that add up to sums; of an odd one the larger half lies behind, or in front."""
    small, large = [p // 2 for p in sums], [p - p // 2 for p in sums]
    return small + large if is_upper else large + small


class Compress(OpRun):
    """A condition may be longer than the axis."""

    def _run(self, x, condition, axis=None):
        extent = x.size if axis is None else x.shape[axis]
        return (np.compress(condition[:extent], x, axis),)


class GridSample(OpRun):
    """In double precision, which the differences of coordinates need."""

    def _run(self, x, grid, align_corners=0, mode=None, padding_mode=None):
        sizes = np.asarray(x.shape[:1:-1])
        place = grid * (sizes - align_corners) / 2 + (sizes - 1) / 2
        if padding_mode == "reflection":
            low, length = (0, sizes - 1) if align_corners else (-0.5, sizes)
            place = low + length - np.abs((place - low) % (2 * length) - length)
        if padding_mode not in (None, "zeros"):
            place = np.clip(place, 0, sizes - 1)
        y = np.zeros((*x.shape[:2], *grid.shape[1:3]), x.dtype)
        first = np.rint(place) if mode == "nearest" else np.floor(place)
        for step in itertools.product((0,) if mode == "nearest" else (0, 1), repeat=2):
            index = (first + step).astype(int)
            weight = 1.0 if mode == "nearest" else np.prod(1 - np.abs(place - index), -1)
            weight = weight * ((index >= 0) & (index < sizes)).all(-1)
            column, row = np.moveaxis(np.clip(index, 0, sizes - 1), -1, 0)
            for n in range(len(x)):
                y[n] += x[n][:, row[n], column[n]] * weight[n]
        return (y,)


class ConvTranspose(OpRun):
    def _run(
        self, x, w, b=None, auto_pad=None, dilations=None, group=1, kernel_shape=None, output_padding=None,
        output_shape=None, pads=None, strides=None,
    ):  # fmt: skip
        rank = x.ndim - 2
        kernel, counts = w.shape[2:], x.shape[2:]
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        pads, extra = pads or [0] * 2 * rank, output_padding or [0] * rank
        full = [
            (n - 1) * s + (k - 1) * d + 1 + e
            for n, s, k, d, e in zip(counts, strides, kernel, dilations, extra, strict=True)
        ]
        if output_shape or str(auto_pad).startswith("SAME"):
            wanted = output_shape or [n * s for n, s in zip(counts, strides, strict=True)]
            pads = _halves([max(0, f - n) for f, n in zip(full, wanted, strict=True)], auto_pad == "SAME_UPPER")
        outputs = w.shape[1]
        y = np.zeros((x.shape[0], group, outputs, *full), x.dtype)
        xs = x.reshape(x.shape[0], group, -1, *counts)
        ws = w.reshape(group, -1, *w.shape[1:])
        for place, cut in _windows(full, counts, kernel, strides, dilations):
            y[(slice(None),) * 3 + cut] += np.einsum("ngi...,gio->ngo...", xs, ws[(..., *place)])
        y = y.reshape(x.shape[0], group * outputs, *full)
        ends = [f - e for f, e in zip(full, pads[rank:], strict=True)]
        y = y[(slice(None), slice(None), *(slice(a, e) for a, e in zip(pads[:rank], ends, strict=True)))]
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


class MaxPool(OpRun):
    def _run(
        self, x, auto_pad=None, ceil_mode=0, dilations=None, kernel_shape=None, pads=None, storage_order=0, strides=None
    ):
        rank, sizes = x.ndim - 2, x.shape[2:]
        strides, dilations, pads = strides or [1] * rank, dilations or [1] * rank, pads or [0] * 2 * rank
        if str(auto_pad).startswith("SAME"):
            counts = [-(-n // s) for n, s in zip(sizes, strides, strict=True)]
            sums = [(c - 1) * s + k - n for c, s, k, n in zip(counts, strides, kernel_shape, sizes, strict=True)]
            pads = _halves([max(0, p) for p in sums], auto_pad == "SAME_UPPER")
        counts, behind = [], []
        for i in range(rank):
            reach = (kernel_shape[i] - 1) * dilations[i] + 1
            span = sizes[i] + pads[i] + pads[rank + i] - reach
            counts.append((-(-span // strides[i]) if ceil_mode else span // strides[i]) + 1)
            counts[i] -= bool(ceil_mode) and (counts[i] - 1) * strides[i] >= sizes[i] + pads[i]
            behind.append(max(0, (counts[i] - 1) * strides[i] + reach - sizes[i] - pads[i]))
        around = [(0, 0), (0, 0), *zip(pads[:rank], behind, strict=True)]
        padded = np.pad(x, around, constant_values=-np.inf)
        where = np.pad(np.arange(x.size).reshape(x.shape), around, constant_values=-1)
        cuts = [
            (slice(None), slice(None), *cut) for _, cut in _windows(sizes, counts, kernel_shape, strides, dilations)
        ]
        values = np.stack([padded[c] for c in cuts])
        first = values.argmax(0)[None]
        places = np.stack([where[c] for c in cuts])
        found = np.take_along_axis(values, first, 0)[0], np.take_along_axis(places, first, 0)[0]
        return found[: len(self.onnx_node.output)]


class Erf(OpRun):
    def _run(self, x):
        return (erf(x),)


class Gelu(OpRun):
    def _run(self, x, approximate="none"):
        if approximate == "tanh":
            return (x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),)
        return (x / 2 * (1 + erf(x / np.sqrt(2))),)


class GlobalLpPool(OpRun):
    def _run(self, x, p=2):
        return ((np.abs(x) ** p).sum(tuple(range(2, x.ndim)), keepdims=True) ** (1 / p),)


class GroupNormalization(OpRun):
    """onnx's own works in single precision inside."""

    def _run(self, x, scale, bias, epsilon=1e-5, num_groups=None, stash_type=1):
        groups = x.reshape(x.shape[0], num_groups, -1)
        centred = groups - groups.mean(2, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(2, keepdims=True) + epsilon)
        rows = normal.reshape(x.shape[0], len(scale), -1)
        return ((rows * scale[:, None] + bias[:, None]).reshape(x.shape),)


class LpNormalization(OpRun):
    def _run(self, x, axis=-1, p=2):
        return (x / (np.abs(x) ** p).sum(axis, keepdims=True) ** (1 / p),)


class MeanVarianceNormalization(OpRun):
    def _run(self, x, axes=(0, 2, 3)):
        centred = x - x.mean(tuple(axes), keepdims=True)
        return (centred / (np.sqrt((centred**2).mean(tuple(axes), keepdims=True)) + 1e-9),)


class LRN(OpRun):
    def _run(self, x, alpha=1e-4, beta=0.75, bias=1.0, size=None):
        channels = np.arange(x.shape[1])
        near = np.abs(channels[:, None] - channels) <= size // 2
        return (x / (bias + alpha / size * np.einsum("ij,nj...->ni...", near, x * x)) ** beta,)


class OneHot(OpRun):
    """Indices out of bounds are nowhere; up to onnx 1.22 they were taken by their remainder."""

    def _run(self, indices, depth, values, axis=-1):
        index = np.expand_dims(np.where(indices < 0, indices + depth, indices), axis)
        shape = [1] * index.ndim
        shape[axis] = -1
        is_there = index == np.arange(int(depth)).reshape(shape)
        return (np.where(is_there, values[1], values[0]),)


class Pad(OpRun):
    def _run(self, x, pads, value=None, axes=None, mode="constant"):
        axes = range(x.ndim) if axes is None else axes
        given = zip(axes, pads[: len(axes)].tolist(), pads[len(axes) :].tolist(), strict=True)
        around = [(0, 0)] * x.ndim
        for axis, front, behind in given:
            around[axis] = (front, behind)
        x = x[tuple(slice(max(0, -a), n - max(0, -b)) for (a, b), n in zip(around, x.shape, strict=True))]
        filler = {"constant_values": 0 if value is None else value} if mode == "constant" else {}
        return (np.pad(x, [(max(0, a), max(0, b)) for a, b in around], mode=mode, **filler),)


NEW_OPS = [
    Compress, ConvTranspose, GridSample, MaxPool, Erf, Gelu, GlobalLpPool, GroupNormalization, LpNormalization,
    MeanVarianceNormalization, LRN, OneHot, Pad,
]  # fmt: skip
