"""Brings a weights file's blobs and a net's parameters together, by Caffe's rules, and says where they do not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from caffeinit.caffe.weights import BlobKey, StoredBlob, WeightsFile
from caffeinit.errors import WeightsError
from caffeinit.graph import Shape


@dataclass
class Matched:
    """The arrays of a net.

    Attributes:
        arrays: layer -> its arrays in the net's shapes, float32; shared parameters are one array object.
        stored: (layer, index) of the net -> (layer, index) in the file.
        missing: what the file does not hold; zeros.
        unused: layers with blobs in the file that the net does not have.
        mismatches: one sentence for each blob that does not fit.
    """

    arrays: dict[str, list[np.ndarray]] = field(default_factory=dict)
    stored: dict[BlobKey, BlobKey] = field(default_factory=dict)
    missing: list[BlobKey] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def match_weights(
    file: WeightsFile | None,
    wanted: Mapping[str, Sequence[Shape]],
    owners: Mapping[BlobKey, BlobKey],
    file_names: Mapping[str, str],
) -> Matched:
    """Match by layer name, as Caffe does.

    Where layers share a parameter and the file holds a copy for each, the last copy counts, as it does in Caffe.

    Args:
        wanted: layer -> shapes of its parameters.
        owners: (layer, index) -> the (layer, index) that holds the array.
        file_names: layers that were renamed because the name was taken; Caffe loads nothing into them.
    """
    found = Matched()
    for layer, shapes in wanted.items():
        blobs = file.layers.get(layer, []) if file and layer not in file_names else []
        if blobs and not _complete(file, layer, blobs, shapes, owners):
            stored = [b.shape for b in blobs if b]
            found.mismatches.append(
                f'layer "{layer}": the file has {_count(stored)}, the net asks for {_count(shapes)}'
            )
            blobs = []
        found.arrays[layer] = [
            _place(found, (layer, i), shape, blobs[i] if i < len(blobs) else None, owners)
            for i, shape in enumerate(shapes)
        ]
    if file:
        found.unused = [name for name, blobs in file.layers.items() if blobs and name not in wanted]
    return found


def _complete(
    file: WeightsFile | None,
    layer: str,
    blobs: Sequence[StoredBlob | None],
    shapes: Sequence[Shape],
    owners: Mapping[BlobKey, BlobKey],
) -> bool:
    """Return whether a layer's blobs are as many as its parameters.

    Source: BVLC/caffe, src/caffe/net.cpp: HDF5 files need not hold what the net shares, binary ones must.
    """
    if file is None or file.format != "HDF5":
        return len(blobs) == len(shapes)
    lacking = [i for i in range(len(shapes)) if i >= len(blobs) or blobs[i] is None]
    return len(blobs) <= len(shapes) and all(owners.get((layer, i), (layer, i)) != (layer, i) for i in lacking)


def _count(shapes: Sequence[Shape]) -> str:
    shown = ", ".join(str(tuple(s)) for s in shapes)
    return f"{len(shapes)} blob{'' if len(shapes) == 1 else 's'}" + (f" of {shown}" if shown else "")


def _place(
    found: Matched, key: BlobKey, shape: Shape, blob: StoredBlob | None, owners: Mapping[BlobKey, BlobKey]
) -> np.ndarray:
    """Return the array of one parameter: its owner's where it is shared, filled from the blob if there is one.

    Layers may share an array in different shapes (share_mode PERMISSIVE); each has a view of its own then.
    """
    owner = owners.get(key, key)
    shared = owner != key
    array = found.arrays[owner[0]][owner[1]] if shared else None
    if array is not None and array.shape != tuple(shape):
        array = array.reshape(shape)
    if blob is None:
        if not shared:
            found.missing.append(key)
        return np.zeros(shape, np.float32) if array is None else array
    found.stored[key] = key
    if not shapes_equal(blob.shape, shape):
        found.mismatches.append(
            f'layer "{key[0]}", blob {key[1]}: the file has {blob.shape}, the net asks for {tuple(shape)}'
            + _hint(blob.shape, shape)
        )
        return np.zeros(shape, np.float32) if array is None else array
    stored = blob.array().reshape(shape)
    if array is None:
        return stored
    if owner in found.missing:
        found.missing.remove(owner)
    elif not np.array_equal(array.reshape(-1), stored.reshape(-1)):
        note = f'layers "{owner[0]}" and "{key[0]}" share a parameter, but the file has two; the last counts'
        found.notes += [note] if note not in found.notes else []  # one for weights and bias
    array.reshape(-1)[...] = stored.reshape(-1)
    return array


def shapes_equal(stored: Shape, wanted: Shape) -> bool:
    """Return whether a stored blob fits; old files pad shapes to four axes in front.

    Source: BVLC/caffe, src/caffe/blob.cpp, ShapeEquals.
    """
    if tuple(stored) == tuple(wanted):
        return True
    return len(stored) == 4 and len(wanted) < 4 and (1,) * (4 - len(wanted)) + tuple(wanted) == tuple(stored)


def _hint(stored: Shape, wanted: Shape) -> str:
    """Return what a difference of shapes may come from; nothing where it could be anything."""
    if len(stored) == len(wanted) == 4 and stored[0] == wanted[0] and stored[2:] == tuple(wanted[2:]):
        if wanted[1] and stored[1] % wanted[1] == 0:
            by = stored[1] // wanted[1]
            return f"; the weights look ungrouped: `group` is {by} times too large, or channels are {by} times too few"
        if stored[1] and wanted[1] % stored[1] == 0:
            by = wanted[1] // stored[1]
            return f"; the weights look grouped: `group` is {by} times too small, or channels are {by} times too many"
    if len(stored) == len(wanted) and stored[1:] == tuple(wanted[1:]):
        return "; `num_output` differs: a layer that is to be learned anew needs a name that the file does not have"
    return ""


def mismatch_error(found: Matched, net: object, weights: object) -> WeightsError:
    """Return the error that shows all mismatches together."""
    lines = "\n".join(f"  {m}" for m in found.mismatches[:20])
    more = f"\n  and {len(found.mismatches) - 20} more" if len(found.mismatches) > 20 else ""
    return WeightsError(
        f"{weights}: the weights do not fit the net {net}:\n{lines}{more}\n"
        "Do both files come from the same model, and is the input size right (--input-shape)?\n"
        f"To compare them: caffeinit inspect {net} {weights}"
    )
