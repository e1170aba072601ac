"""Caffe's HDF5 form of a weights file: /data/<layer>/<index>; shared parameters are links to one dataset.

h5py is an extra: pip install caffeinit[hdf5].
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from caffeinit.errors import CaffeinitError, FormatError, WeightsError
from caffeinit.files import replacing

_TYPES = {2: "float16", 4: "float", 8: "double"}


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
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def encoding(self) -> str:
        """Name of the stored numbers' type."""
        return _TYPES[self.dtype.itemsize]

    def array(self) -> np.ndarray:
        """Return a new float32 array in the stored shape."""
        try:
            with _h5py().File(self.path, "r") as file:
                array: np.ndarray = np.asarray(file[self.name][()], np.float32)
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise FormatError(f"{self.path}: dataset {self.name} cannot be read: {error}") from None
        return array


@dataclass
class Hdf5Weights:
    """A weights file in HDF5."""

    path: Path
    format: str = "HDF5"
    layers: dict[str, list[Hdf5Blob]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def write(
        self,
        path: str | PathLike[str],
        arrays: Mapping[tuple[str, int], np.ndarray],
        added: Mapping[str, tuple[str, Sequence[np.ndarray]]],
        force: bool = False,
    ) -> None:
        """Copy the file and assign the datasets whose numbers changed; links stay links."""
        changed = {}
        for (layer, index), array in arrays.items():
            blob = self.layers[layer][index]
            old = blob.array()
            new = array.reshape(blob.shape)
            if not np.array_equal(old.view(np.uint32), new.view(np.uint32)):
                _check_finite(layer, new[old != new])
                changed[blob] = new
        with replacing(path, force) as temporary:
            shutil.copyfile(self.path, temporary)
            if changed or added:
                with _h5py().File(temporary, "r+") as file:
                    for blob, new in changed.items():
                        file[blob.name][...] = new
                    _add_layers(file, added)


def open_hdf5(path: Path) -> Hdf5Weights:
    """Index a weights file in HDF5.

    Raises:
        FormatError: it is no HDF5 file, a solverstate, or not Caffe's.
    """
    found = Hdf5Weights(path)
    try:
        with _h5py().File(path, "r") as file:
            if "data" not in file:
                raise FormatError(f"{path}: {_what(set(file))}")
            for layer, group in file["data"].items():
                blobs = [group[str(i)] for i in range(len(group))]
                found.layers[layer] = [_blob(path, layer, dataset) for dataset in blobs]
    except (OSError, RuntimeError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise FormatError(f"{path}: is no HDF5 weights file, or one that is damaged: {error}") from None
    return found


def _blob(path: Path, layer: str, dataset: Any) -> Hdf5Blob:
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize not in _TYPES:
        raise FormatError(f'{path}: layer "{layer}": numbers of type {dataset.dtype} are not supported')
    return Hdf5Blob(path, dataset.name, tuple(dataset.shape), dataset.dtype)


def _what(groups: set[str]) -> str:
    if {"iter", "history"} & groups:
        return "is a solverstate: it holds the solver's history, not weights. The model of the same iteration has them"
    return f'is an HDF5 file without the group "data", not a Caffe weights file (it has {sorted(groups)})'


def _check_finite(layer: str, numbers: np.ndarray) -> None:
    if not np.isfinite(numbers).all():
        raise WeightsError(f'layer "{layer}": a number to be written is not finite')


def _add_layers(file: Any, added: Mapping[str, tuple[str, Sequence[np.ndarray]]]) -> None:
    for layer, (_, arrays) in added.items():
        for index, array in enumerate(arrays):
            _check_finite(layer, array)
            file.require_group(f"data/{layer}").create_dataset(str(index), data=array, dtype="<f4")


def write_new_hdf5(
    path: str | PathLike[str], layers: Mapping[str, tuple[str, Sequence[np.ndarray]]], force: bool = False
) -> None:
    """Write a weights file in HDF5 from nothing; arrays that are one object become links."""
    h5py = _h5py()
    places: dict[int, str] = {}
    with replacing(path, force) as temporary, h5py.File(temporary, "w") as file:
        for layer, (_, arrays) in layers.items():
            group = file.require_group(f"data/{layer}")
            for index, array in enumerate(arrays):
                _check_finite(layer, array)
                if id(array) in places:
                    group[str(index)] = file[places[id(array)]]
                else:
                    group.create_dataset(str(index), data=array, dtype="<f4")
                    places[id(array)] = f"data/{layer}/{index}"
