"""The gradient of a convolution's weight for pictures by themselves, with numpy.

Within a graph the sum over a batch comes out of one product; rates of change want the squares of each picture's gradient
first. Per picture that is one product of dy with the windows of x, laid side by side.
"""

from __future__ import annotations

import numpy as np

from caffeinit.ops.windows import Windows


def correlated(images: np.ndarray, diffs: np.ndarray, w: Windows, group: int) -> np.ndarray:
    """Return the sum over some pictures of the correlation of images with diffs, (group, O/group, I/group, *kernel).

    Args:
        images: (R, I, *w.sizes), the larger side: x of a convolution, dy of a transposed one.
        diffs: (R, O, *w.counts), the smaller side.
        w: how the windows lie.
    """
    places = int(np.prod(w.counts))
    inputs, outputs = images.shape[1] // group, diffs.shape[1] // group
    total: np.ndarray | None = None
    for image, diff in zip(images, diffs, strict=True):
        columns = _unfolded(image, w).reshape(group, -1, places)
        product = np.matmul(diff.reshape(group, outputs, places), columns.transpose(0, 2, 1))
        total = product if total is None else total + product
    assert total is not None
    return total.reshape(group, outputs, inputs, *w.kernel)


def _unfolded(image: np.ndarray, w: Windows) -> np.ndarray:
    """Return what each place of the kernel sees of an image (C, *sizes), as (C, *kernel, *counts)."""
    rank = len(w.kernel)
    if w.counts == w.sizes and set(w.kernel) == {1}:
        return image
    if any((*w.begin, *w.end)):
        image = np.pad(image, [(0, 0), *((b, max(0, e)) for b, e in zip(w.begin, w.end, strict=True))])
    view = np.lib.stride_tricks.sliding_window_view(image, w.reach, axis=tuple(range(1, 1 + rank)))
    starts = (slice(0, (n - 1) * s + 1, s) for n, s in zip(w.counts, w.stride, strict=True))
    view = view[(slice(None), *starts, *(slice(None, None, d) for d in w.dilation))]
    return np.ascontiguousarray(view.transpose(0, *range(1 + rank, 1 + 2 * rank), *range(1, 1 + rank)))
