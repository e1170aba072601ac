"""The gradient of a convolution's weight for pictures by themselves, with numpy.

Within a graph the sum over a batch comes out of one product; rates of change want the squares of each picture's gradient
first. Per picture that is a product of dy with the windows of x, laid side by side, for some rows of windows at a time:
side by side, the places of a 3x3 kernel are nine times x.
"""

from __future__ import annotations

import numpy as np

from caffeinit.ops.windows import Windows

_BAND = 1 << 21  # numbers that lie side by side at once


def correlated(images: np.ndarray, diffs: np.ndarray, w: Windows, group: int) -> np.ndarray:
    """Return the sum over some pictures of the correlation of images with diffs, (group, O/group, I/group, *kernel).

    Args:
        images: (R, I, *w.sizes), the larger side: x of a convolution, dy of a transposed one.
        diffs: (R, O, *w.counts), the smaller side.
        w: how the windows lie.
    """
    inputs, outputs = images.shape[1] // group, diffs.shape[1] // group
    fan_in = inputs * int(np.prod(w.kernel))
    total: np.ndarray | None = None
    row = images.shape[1] * int(np.prod((*w.kernel, *w.counts[1:])))
    rows = max(1, _BAND // max(1, row))
    for image, diff in zip(images, diffs, strict=True):
        seen = _windows(image, w)
        for start in range(0, w.counts[0], rows):
            band = slice(start, start + rows)
            columns = np.ascontiguousarray(seen[(slice(None),) * (1 + len(w.kernel)) + (band,)])
            columns = columns.reshape(group, fan_in, -1)
            product = np.matmul(diff[:, band].reshape(group, outputs, -1), columns.transpose(0, 2, 1))
            total = product if total is None else np.add(total, product, out=total)
    if total is None:  # no picture, or no window in it
        total = np.zeros((group, outputs, fan_in), images.dtype)
    return total.reshape(group, outputs, inputs, *w.kernel)


def _windows(image: np.ndarray, w: Windows) -> np.ndarray:
    """Return a view of what each place of the kernel sees of an image (C, *sizes), (C, *kernel, *counts)."""
    rank = len(w.kernel)
    if any((*w.begin, *w.end)):
        image = np.pad(image, [(0, 0), *((b, max(0, e)) for b, e in zip(w.begin, w.end, strict=True))])
    view = np.lib.stride_tricks.sliding_window_view(image, w.reach, axis=tuple(range(1, 1 + rank)))
    starts = (slice(0, (n - 1) * s + 1, s) for n, s in zip(w.counts, w.stride, strict=True))
    view = view[(slice(None), *starts, *(slice(None, None, d) for d in w.dilation))]
    return view.transpose(0, *range(1 + rank, 1 + 2 * rank), *range(1, 1 + rank))
