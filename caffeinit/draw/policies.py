"""What rows are made of when more are wanted than the data determines.

`rotations`: random orthonormal mixtures in the whitened space, one basis of it after another. Like the principal
directions they respond with unit variance and, within a basis, without correlation. Right where the samples span all
that the input ever does: 64 filters on 27-dimensional patches.

`balanced`: with few samples (an InnerProduct sees one per picture) thousands of mixtures in their small span would be
nearly the same filters, blind to whatever the next picture has outside the span. So: noise in all dimensions, shaped
twice by the data. Its columns follow the root mean square of their inputs: a column's rate of change is its
input's rms over its norm, so all columns train at one rate, which plain noise does not reach. And
directions that vary more than the average are toned down as whitening does, floor included, so that the rows do not all
repeat the few leading directions; nothing is blown up. On the input of CaffeNet's fc6 after `kmeans`, 160 pictures, the
columns' rates vary by 2 % (coefficient of variation; plain noise 71 %, rotations 32 %), two outputs correlate by .07
(.15, .06), and outputs normalised on 80 pictures have deviation 1.6 on 80 others (1.0, 0.4).

`gaussian`: plain noise, for comparison. `auto`: `rotations` with more samples than dimensions, else `balanced`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from caffeinit.arithmetic.workers import each, row_slices

from .baselines import orthonormal_rows
from .patches import PatchSet
from .rng import fill_normal
from .whitening import fit_whitening

# Inputs that hardly ever fire keep at least this share of the typical column, so that they can learn at all.
LEAST_COLUMN = 0.1

# Fills rows (k, d), float32 and contiguous, in place; their responses to the samples get unit deviation.
Policy = Callable[[PatchSet, np.ndarray], None]


def auto(patches: PatchSet, rows: np.ndarray) -> None:
    """Choose `rotations` or `balanced`."""
    num_samples, dimension = patches.samples.shape
    # A single direction cannot be rotated: all its filters would be one.
    spanned = num_samples > dimension and patches.whitening.rank > 1
    (rotations if spanned else balanced)(patches, rows)


def rotations(patches: PatchSet, rows: np.ndarray) -> None:
    """Random orthonormal bases of the whitened space."""
    rank = patches.whitening.rank
    patches.notes.append(f"{len(rows)} filters are random rotations of the {rank}-dimensional whitened space")
    mixtures = orthonormal_rows(len(rows), rank, patches.rng)
    rows[...] = patches.whitening.filters(mixtures, patches.options.threads)


def balanced(patches: PatchSet, rows: np.ndarray) -> None:
    """Noise with columns after the inputs' rms and leading directions toned down."""
    patches.notes.append(
        f"{len(rows)} filters are noise, shaped after the {len(patches.samples)} patches that there are"
    )
    columns = column_weights(patches.samples)
    directions, damping = _damping(patches, columns)
    # What the damping takes from a column, the column gets beforehand; a second fit damps what that makes leading.
    left = 1 - (1 - (1 - damping) ** 2) @ directions**2
    columns /= np.sqrt(np.maximum(left, LEAST_COLUMN**2))
    directions, damping = _damping(patches, columns)
    # Weighted, the directions in which samples vary lie in the span of these: what a filter responds, its part in there
    # tells, which is at hand.
    responses = directions @ (_spread(patches) * columns).T * (1 - damping)[:, None]

    def shape(chunk: np.ndarray) -> np.ndarray:
        along = chunk @ directions.T
        chunk -= (along * damping) @ directions
        chunk *= columns
        return np.asarray(along @ responses)

    _noise(patches, rows, shape)


def _damping(patches: PatchSet, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the principal directions (r, d) of the weighted inputs, and what share (r,) of a filter goes along each.

    The response of a filter w * columns to x is that of w to x * columns, so that is where to look. Directions without
    variance keep all.
    """
    weighted = fit_whitening(patches.samples * columns, patches.options.regulariser, threads=patches.options.threads)
    damping: np.ndarray = 1 - weighted.scales * np.float32(np.sqrt(weighted.floor))
    return weighted.directions, damping


def gaussian(patches: PatchSet, rows: np.ndarray) -> None:
    """Plain noise."""
    patches.notes.append(f"{len(rows)} filters are gaussian noise")
    spread = _spread(patches).T
    _noise(patches, rows, lambda chunk: chunk @ spread)


def _spread(patches: PatchSet) -> np.ndarray:
    """Return (r, d) float32: the principal directions, each as long as the samples deviate along it."""
    whitening = patches.whitening
    return np.asarray(whitening.directions * np.sqrt(whitening.variances)[:, None], np.float32)


def _noise(patches: PatchSet, rows: np.ndarray, shape: Callable[[np.ndarray], np.ndarray]) -> None:
    """Fill rows with normal values, shaped in place block by block, and bring their responses to unit deviation.

    Args:
        shape: shapes rows (k, d) and returns what they respond, (k, any), up to a rotation.
    """
    fill_normal(rows, patches.rng, patches.options.threads)

    def block(part: slice) -> None:
        chunk = rows[part]
        deviations = np.linalg.norm(shape(chunk), axis=1, keepdims=True)
        deviations[deviations == 0] = 1
        chunk /= deviations

    each(block, row_slices(len(rows), 256), patches.options.threads)


def column_weights(samples: np.ndarray) -> np.ndarray:
    """Return the root mean square of each input (d,), relative to its mean over the inputs, bounded from below."""
    rms = np.sqrt(np.einsum("nd,nd->d", samples, samples, dtype=np.float64) / len(samples))
    typical = rms.mean()
    if typical == 0:
        return np.ones(samples.shape[1], np.float32)
    weights: np.ndarray = np.maximum(rms / typical, LEAST_COLUMN).astype(np.float32)
    return weights


POLICIES: dict[str, Policy] = {"auto": auto, "rotations": rotations, "balanced": balanced, "gaussian": gaussian}
