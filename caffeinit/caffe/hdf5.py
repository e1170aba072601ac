"""Caffe's HDF5 form of a weights file: /data/<layer>/<index>.

Of parameters that layers share, Caffe writes only the owner's; other writers link both names to one dataset. Nothing
outside the file is read, whatever its links say. h5py is an extra: pip install caffeinit[hdf5].
Source: BVLC/caffe, src/caffe/net.cpp, Net::ToHDF5 and Net::CopyTrainedLayersFromHDF5.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from caffeinit.arithmetic.factors import is_finite
from caffeinit.errors import CaffeinitError, FormatError, OutputError, WeightsError
from caffeinit.storage.files import HDF5_DAMAGE, replacing
from caffeinit.storage.stored import FLOAT, NAMES, merged, round_as_stored, to_float

_MAX_BLOBS = 1000  # of one layer
_MAX_LINKS = 8  # one leading to the next
# A file cannot hold more numbers than this many bytes for each of its own, as far as compression of weights goes.
_MAX_GROWTH, _SMALL = 64, 64 << 20


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise CaffeinitError("HDF5 files need the package h5py: pip install 'caffeinit[hdf5]'") from None
    return h5py


@dataclass(frozen=True)
class Hdf5Blob:
    """One dataset, read when it is asked for.

    Attributes:
        name: path of the dataset within the file.
        address: where it lies; links to one dataset have the same.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    address: int

    @property
    def encoding(self) -> str:
        """Name of the stored numbers' type."""
        return NAMES[self.dtype.itemsize]

    def stored(self) -> np.ndarray:
        """Return the numbers in their own type, in the stored shape."""
        try:
            with _h5py().File(self.path, "r") as file:
                numbers: np.ndarray = np.asarray(file[self.name][()])
        except HDF5_DAMAGE as error:
            raise FormatError(f"{self.path}: dataset {self.name} cannot be read: {error}") from None
        return numbers

    def array(self) -> np.ndarray:
        """Return a new float32 array in the stored shape.

        Raises:
            WeightsError: a stored double does not fit into float32.
        """
        return to_float(self.stored(), f"{self.path}: dataset {self.name}")

    def round_as_stored(self, array: np.ndarray) -> bool:
        """Round numbers in place to what the file will hold of them; return whether any became another one.

        Raises:
            WeightsError: a changed number does not fit into the stored type.
        """
        if self.dtype.itemsize >= FLOAT.itemsize:
            return False
        return round_as_stored(self.stored(), array, f"{self.path}: dataset {self.name}")


@dataclass
class Hdf5Weights:
    """A weights file in HDF5."""

    path: Path
    format: str = "HDF5"
    layers: dict[str, list[Hdf5Blob | None]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def write(
        self,
        path: str | PathLike[str],
        arrays: Mapping[tuple[str, int], np.ndarray],
        added: Mapping[str, tuple[str, Sequence[np.ndarray]]],
        force: bool = False,
    ) -> None:
        """Copy the file and assign the datasets whose numbers changed; links stay links.

        Raises:
            WeightsError: a number cannot be written; OutputError: the target. Nothing is written then.
        """
        changed = self._changed(arrays)
        with replacing(path, force) as temporary:
            shutil.copyfile(self.path, temporary)
            if changed or added:
                with _writing(path), _h5py().File(temporary, "r+") as file:
                    for name, new in changed.items():
                        file[name][...] = new.reshape(file[name].shape)
                    _add_layers(file, added)

    def _changed(self, arrays: Mapping[tuple[str, int], np.ndarray]) -> dict[str, np.ndarray]:
        """Return dataset -> its new numbers, for those that changed.

        Raises:
            WeightsError: two layers link to one dataset and are to have different numbers.
        """
        planned: dict[int, tuple[Hdf5Blob, np.ndarray | None]] = {}
        for (layer, index), array in arrays.items():
            blob = self.layers[layer][index]
            assert blob is not None, (layer, index)
            new = merged(blob.stored(), array, f'layer "{layer}", blob {index}')
            other, before = planned.setdefault(blob.address, (blob, new))
            if other is not blob and not _same(before, new):
                raise WeightsError(
                    f"{self.path}: {other.name} and {blob.name} are one dataset, but are to hold different numbers; "
                    "share the parameter in the net, or write a .caffemodel"
                )
        return {blob.name: new for blob, new in planned.values() if new is not None}


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


@contextlib.contextmanager
def _writing(path: str | PathLike[str]) -> Iterator[None]:
    """Say in words what HDF5 fails on; a full disk comes as a RuntimeError where the file is closed."""
    try:
        yield
    except RuntimeError as error:
        raise OutputError(f"{path}: cannot be written: {error}") from None


def open_hdf5(path: Path) -> Hdf5Weights:
    """Index a weights file in HDF5.

    Raises:
        FormatError: it is no HDF5 file, a solverstate, or not Caffe's.
    """
    h5py = _h5py()
    found = Hdf5Weights(path)
    try:
        with h5py.File(path, "r") as file:
            if "data" not in file:
                raise FormatError(f"{path}: {_what(set(file))}")
            data = _member(h5py, file, "data")
            for layer in data:
                found.layers[layer] = _blobs(h5py, found, layer, _member(h5py, data, layer))
    except HDF5_DAMAGE as error:
        raise FormatError(f"{path}: is no HDF5 weights file, or one that is damaged: {error}") from None
    claimed = {b.address: math.prod(b.shape) * b.dtype.itemsize for blobs in found.layers.values() for b in blobs if b}
    size = path.stat().st_size
    if sum(claimed.values()) > max(_SMALL, size * _MAX_GROWTH):
        largest = max((b for blobs in found.layers.values() for b in blobs if b), key=lambda b: math.prod(b.shape))
        raise FormatError(
            f"{path}: claims {sum(claimed.values())} bytes of numbers, the file has {size}; "
            f"the largest is {largest.name} with shape {largest.shape}"
        )
    return found


def _member(h5py: Any, group: Any, name: str, links: int = 0) -> Any:
    """Return a member of a group; soft links are followed step by step, so that none leads out of the file."""
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.HardLink):
        return group[name]
    if not isinstance(link, h5py.SoftLink):
        raise ValueError(f'"{name}" is a link to another file')
    if links == _MAX_LINKS:
        raise ValueError(f'"{name}" links to a link to a link, {links} times')
    at = group.file["/"] if link.path.startswith("/") else group
    for part in filter(None, link.path.split("/")):
        at = at if part == "." else _member(h5py, at, part, links + 1)
    return at


def _blobs(h5py: Any, found: Hdf5Weights, layer: str, group: Any) -> list[Hdf5Blob | None]:
    """Return a layer's datasets by index; None where there is none, because the layer shares another's."""
    blobs: dict[int, Hdf5Blob] = {}
    for name in group:
        if name.isdecimal() and name == str(int(name)) and int(name) < _MAX_BLOBS:
            blobs[int(name)] = _blob(found.path, layer, _member(h5py, group, name))
        else:
            found.notes.append(f'layer "{layer}": "{name}" in its group is no blob and is left as it is')
    return [blobs.get(i) for i in range(max(blobs) + 1)] if blobs else []


def _blob(path: Path, layer: str, dataset: Any) -> Hdf5Blob:
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize not in NAMES:
        raise FormatError(f'{path}: layer "{layer}": numbers of type {dataset.dtype} are not supported')
    if dataset.external or dataset.is_virtual:
        raise FormatError(f'{path}: layer "{layer}": its numbers are in another file, which is not read')
    address = _h5py().h5o.get_info(dataset.id).addr
    return Hdf5Blob(path, dataset.name, tuple(dataset.shape), dataset.dtype, address)


def _what(groups: set[str]) -> str:
    if {"iter", "history"} & groups:
        return "is a solverstate: it holds the solver's history, not weights. The model of the same iteration has them"
    return f'is an HDF5 file without the group "data", not a Caffe weights file (it has {sorted(groups)})'


def _add_layers(file: Any, added: Mapping[str, tuple[str, Sequence[np.ndarray]]]) -> None:
    """Write layers that the file lacks; arrays that are one object become links to one dataset."""
    places: dict[int, str] = {}
    for layer, (_, arrays) in added.items():
        if "/" in layer or layer in ("", "."):
            raise WeightsError(
                f'layer "{layer}": Caffe\'s HDF5 files cannot hold a layer of this name; write a .caffemodel instead'
            )
        group = file.require_group(f"data/{layer}")
        for index, array in enumerate(arrays):
            if not is_finite(array):
                raise WeightsError(f'layer "{layer}": a number to be written is not finite')
            if id(array) in places:
                group[str(index)] = file[places[id(array)]]
            else:
                group.create_dataset(str(index), data=array, dtype="<f4")
                places[id(array)] = f"data/{layer}/{index}"


def write_new_hdf5(
    path: str | PathLike[str], layers: Mapping[str, tuple[str, Sequence[np.ndarray]]], force: bool = False
) -> None:
    """Write a weights file in HDF5 from nothing.

    Raises:
        WeightsError: a number is not finite, or HDF5 has no form for a layer's name.
    """
    h5py = _h5py()
    with replacing(path, force) as temporary, _writing(path), h5py.File(temporary, "w") as file:
        file.require_group("data")
        _add_layers(file, layers)
