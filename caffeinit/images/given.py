"""Calibration batches that a Python user brings: checked, cut, and made to be gone through again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np

from caffeinit.errors import ImagesError
from caffeinit.graph.layouts import is_channels_last
from caffeinit.images.batches import Batch, Calibration, is_flat, pictures_in
from caffeinit.printing import printable

Shapes = Mapping[str, Sequence[int]]
Given = np.ndarray | Mapping[str, np.ndarray]


class GivenBatches:
    """Batches held in memory; iterate as often as needed for dicts of input -> (n, ...) float32."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches
        self.skipped: list[tuple[str, str]] = []
        self.notes: list[str] = []
        arrays = [a for b in batches for a in b.values() if a.ndim == 4]
        if arrays and all(is_flat(picture, 0 if is_channels_last(a.shape) else 1) for a in arrays for picture in a):
            self.notes.append("all pictures are constant: each is one flat colour")

    @property
    def num_images(self) -> int:
        """How many pictures there are in all batches."""
        return sum(map(pictures_in, self._batches))

    @property
    def batch_size(self) -> int:
        """Pictures in the largest batch."""
        return max(map(pictures_in, self._batches))

    def __len__(self) -> int:
        return self.num_images

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def describe(self) -> str:
        """Return how many rows there are."""
        return f"{self.num_images} pictures in {len(self._batches)} batches given as arrays"


def as_calibration(
    images: Calibration | GivenBatches | Given | Iterable[Given],
    inputs: Shapes,
    batch_size: int = 16,
    optional: Shapes | None = None,
    unused: Collection[str] = (),
    whole_batches: bool = False,
) -> Calibration | GivenBatches:
    """Return `images` as a calibration set for a net's inputs.

    Args:
        images: what `read_images` returned; an array (N, ...) of all rows, or a dict input -> array, which are cut into
            batches; or an iterable of batches, each an array or a dict. A generator is used up and kept.
        inputs: input -> shape (N, ...); N is of no meaning but for `whole_batches`, other extents below 1 are unknown.
        batch_size: for arrays that hold all rows at once.
        optional: further inputs, which are taken where all batches have them.
        unused: further inputs of the net, which may be given and are passed over: labels.
        whole_batches: the net spells the size of its batches out, and takes no others.
    Raises:
        ImagesError: another shape, other inputs, NaN, no rows at all, or something that is no array.
    """
    if isinstance(images, Calibration | GivenBatches):
        _check_inputs(images, inputs)
        return images
    optional = optional or {}
    if isinstance(images, np.ndarray | Mapping):
        whole = _checked(images, _wanted(images, inputs, optional), "the images", unused)
        counts = sorted({len(a) for a in whole.values()})
        own = min(shape[0] for shape in inputs.values()) if whole_batches else batch_size
        step = own if len(counts) == 1 else counts[-1]
        batches = [{n: a[i : i + step] for n, a in whole.items()} for i in range(0, counts[-1], step)]
    elif isinstance(images, Iterable) and not isinstance(images, str | bytes):
        checked = (
            _checked(batch, _wanted(batch, inputs, optional), f"batch {i}", unused) for i, batch in enumerate(images)
        )
        # Whatever makes batches one by one may fill the same array each time.
        is_held = isinstance(images, list | tuple)
        batches = list(checked) if is_held else [{n: a.copy() for n, a in batch.items()} for batch in checked]
        everywhere = {*inputs, *(name for name in optional if all(name in batch for batch in batches))}
        batches = [{name: array for name, array in batch.items() if name in everywhere} for batch in batches]
    else:
        raise ImagesError(f"images are {type(images).__name__}: give arrays, or what caffeinit.read_images returns.")
    if not any(len(a) for b in batches for a in b.values()):
        raise ImagesError("no images are given: at least one picture is needed.")
    if whole_batches:
        _check_rows(batches, {**inputs, **optional})
    return GivenBatches([b for b in batches if len(next(iter(b.values())))])


def _check_inputs(images: Calibration | GivenBatches, inputs: Shapes) -> None:
    found = images.inputs if isinstance(images, Calibration) else {n: a.shape for n, a in next(iter(images)).items()}
    for name, shape in inputs.items():
        if name not in found or not _fits(found[name], shape):
            raise ImagesError(
                f'input "{printable(name)}" takes {_spell(shape)}, but the images were read for '
                + ", ".join(f'"{printable(n)}" {_spell(s)}' for n, s in found.items())
                + "."
            )


def _check_rows(batches: Sequence[Batch], inputs: Shapes) -> None:
    """Refuse batches of another size than the net's own."""
    for number, batch in enumerate(batches):
        for name, array in batch.items():
            if len(array) not in (0, inputs[name][0]):
                raise ImagesError(
                    f'batch {number}, input "{printable(name)}": {len(array)} rows, but the net spells out a batch of '
                    f"{inputs[name][0]} and takes no other: give batches of that size, or a multiple of it as one array."
                )


def _wanted(batch: object, inputs: Shapes, optional: Shapes) -> Shapes:
    """Return the inputs that are taken from a batch."""
    given = batch if isinstance(batch, Mapping) else {}
    return {**inputs, **{n: shape for n, shape in optional.items() if n in given}}


def _checked(batch: object, inputs: Shapes, where: str, unused: Collection[str]) -> Batch:
    if not isinstance(batch, Mapping):
        if len(inputs) != 1:
            names = ", ".join(map(printable, inputs))
            raise ImagesError(f"{where}: the net has the inputs {names}: give a dict of one array for each.")
        batch = {next(iter(inputs)): batch}
    if missing := [n for n in inputs if n not in batch]:
        raise ImagesError(f"{where}: nothing for input {', '.join(map(printable, missing))}.")
    if foreign := [str(n) for n in batch if n not in inputs and n not in unused]:
        listed = ", ".join(map(printable, inputs))
        raise ImagesError(f"{where}: the net has no input {', '.join(map(printable, foreign))}; its inputs: {listed}.")
    checked = {n: _array(batch[n], inputs[n], f'{where}, input "{printable(n)}"') for n in inputs}
    # Rows differ by right where the net spells them out: steps of a sequence beside its first state.
    if len({len(a) for a in checked.values()}) > 1 and any(len(a) != inputs[n][0] for n, a in checked.items()):
        counts = ", ".join(f"{printable(n)} {len(a)}" for n, a in checked.items())
        raise ImagesError(
            f"{where}: different numbers of rows: {counts}. Rows belong together by position: give as many for each input."
        )
    return checked


def _array(values: object, shape: Sequence[int], where: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "buif":
        raise ImagesError(f"{where}: {array.dtype}: an array of float32 is needed.")
    if not shape:
        raise ImagesError(f"{where}: the net takes one number for all pictures, and only rows can be given.")
    if not _fits(array.shape, shape):
        hint = " A single picture needs a first axis of 1." if array.ndim == len(shape) - 1 else ""
        raise ImagesError(f"{where}: the array is {_spell(array.shape, 0)}, but the net takes {_spell(shape)}.{hint}")
    array = np.ascontiguousarray(array, np.float32)
    # A sum is NaN or infinite where any value is; unlike isfinite it makes no array of flags.
    if not np.isfinite(array.sum(dtype=np.float64)):
        raise ImagesError(f"{where}: holds NaN or infinite values.")
    return array


def _fits(found: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(found) == len(wanted) and all(w < 1 or f == w for f, w in zip(found[1:], wanted[1:], strict=True))


def _spell(shape: Sequence[int], free: int = 1) -> str:
    return "(" + ", ".join(["N"] * free + [str(s) if s > 0 else "?" for s in shape[free:]]) + ")"
