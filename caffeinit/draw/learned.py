"""The one path of all data-driven methods: patches -> whitening -> directions -> filters, filled up and made safe.

Groups are independent: each has its own patches, whitening and random stream.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from caffeinit.arithmetic.workers import each, single_threaded

from .patches import SAME_DIRECTION, PatchSet
from .policies import POLICIES
from .rng import fill_normal, unit_rng
from .spec import Drawn, DrawOptions, WeightSpec
from .whitening import fit_whitening

FITTED_SAMPLES = 4000  # what a whitening is fitted to

Directions = Callable[[PatchSet, int], np.ndarray]


def draw_learned(
    spec: WeightSpec, seed: int, samples: np.ndarray, options: DrawOptions, directions: Directions, in_order: bool
) -> Drawn:
    """Draw a weight from its input patches.

    Args:
        spec: the unit's weight.
        seed: of the whole run.
        samples: (group, n, fan_in) float32 patches; rows that are not finite are left out, and said so.
        options: regulariser, fill policy, threads.
        directions: the method.
        in_order: the method takes the leading directions only, so the others need not be computed.
    """
    assert samples.shape[0] == spec.group, f"{spec.name}: {samples.shape}"
    assert samples.shape[2] == spec.fan_in, f"{spec.name}: {samples.shape}"
    weight = np.empty((spec.group, spec.group_outputs, spec.fan_in), np.float32)

    def draw_group(index: int) -> tuple[int, list[str]]:
        rng = unit_rng(seed, spec.name, index)
        return _draw_rows(weight[index], samples[index], rng, options, directions, in_order)

    with single_threaded():
        counts, notes = zip(*each(draw_group, range(spec.group), options.threads), strict=True)
    return Drawn(weight.reshape(spec.shape), _merge_notes(notes), list(counts))


def _draw_rows(
    rows: np.ndarray,
    samples: np.ndarray,
    rng: np.random.Generator,
    options: DrawOptions,
    directions: Directions,
    in_order: bool,
) -> tuple[int, list[str]]:
    """Draw one group's filters into `rows` (group_outputs, fan_in); return how many the data determined, and notes."""
    given = len(samples)
    everything, notes = _usable(samples)
    samples = _different(_spread(everything, FITTED_SAMPLES))
    whitening = fit_whitening(samples, options.regulariser, len(rows) if in_order else None, options.threads)
    patches = PatchSet(samples, whitening, rng, options, notes)
    if whitening.rank == 0:
        fill_normal(rows, rng, options.threads)
        rows /= np.float32(np.sqrt(rows.shape[1]))
        too_few = len(samples) == 0 or given == 1
        seen = f"{_patches(len(samples))} to draw from" if too_few else "input patches do not vary"
        return 0, [*notes, f"{seen}: drawn as gaussian"]
    found = whitening.filters(_distinct(directions(patches, len(rows))), options.threads)
    found = found[_sound(found)]
    rows[: len(found)] = found
    if len(found) < len(rows):
        POLICIES[options.fill](patches, rows[len(found) :])
    return len(found), notes


def _usable(samples: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return the samples that are finite, and notes on what was left out.

    Their squares and sums of these are far from float32's limits; normalisation sets the scale later.
    """
    notes = []
    largest = _largest(samples)
    if not np.isfinite(largest):
        finite = np.isfinite(samples).all(axis=1)
        samples, notes = samples[finite], [f"{_patches(int((~finite).sum()))} with NaN or infinity left out"]
        largest = _largest(samples)
    return (samples if largest == 0 or 1e-6 < largest < 1e6 else samples / np.float32(largest)), notes


def _largest(samples: np.ndarray) -> float:
    """Return the largest magnitude; NaN if there is any."""
    return float(np.maximum(samples.max(initial=0.0), -samples.min(initial=0.0)))


def _spread(samples: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the samples, evenly spread over them."""
    return samples if len(samples) <= most else samples[np.linspace(0, len(samples) - 1, most).astype(int)]


def _different(samples: np.ndarray) -> np.ndarray:
    """Return the samples, each once, in order."""
    if len(np.unique(samples.sum(axis=1, dtype=np.float64))) == len(samples):  # equal rows would have equal sums
        return samples
    firsts: dict[bytes, int] = {}
    for index, row in enumerate(samples):
        firsts.setdefault(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), index)
    return samples[list(firsts.values())] if len(firsts) < len(samples) else samples


def _distinct(coordinates: np.ndarray) -> np.ndarray:
    """Return directions (k, r) without those that equal an earlier one: inputs that are copies make such rows."""
    lengths = np.linalg.norm(coordinates, axis=1, keepdims=True)
    unit = coordinates / np.where(lengths > 0, lengths, 1)
    repeats = np.tril(unit @ unit.T > SAME_DIRECTION, -1).any(axis=1)
    return coordinates[~repeats] if repeats.any() else coordinates


def _sound(rows: np.ndarray) -> np.ndarray:
    """Return which rows are finite and not zero."""
    squares = np.einsum("kd,kd->k", rows, rows, dtype=np.float64)
    sound: np.ndarray = np.isfinite(squares) & (squares > 0)
    return sound


def _patches(count: int) -> str:
    return f"{count} input patch{'' if count == 1 else 'es'}"


def _merge_notes(groups: Sequence[list[str]]) -> list[str]:
    """Say what several groups have in common once, with the number of groups where it is not all of them."""
    counts = Counter(note for notes in groups for note in notes)
    everywhere = len(groups)
    return [
        note if times == everywhere else f"{note} ({times} of {everywhere} groups)" for note, times in counts.items()
    ]
