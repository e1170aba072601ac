"""Rows from where Caffe users keep pictures: LMDB databases of Datum records, and the files of an HDF5Data layer.

A Datum holds 8-bit planes (BGR by Caffe's custom), an encoded picture, or floats; mean and scale apply to all three, as
in Caffe's Data layer. HDF5 values are fed as they are, as in Caffe's HDF5Data layer, unless preprocessing is asked for
explicitly; reading them needs an extra package: `pip install caffeinit[hdf5]`.
"""

from __future__ import annotations

import importlib
import io
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from caffeinit.errors import ImagesError
from caffeinit.images.arrays import Source, check_row, choose_named, values_shape
from caffeinit.images.decode import check_header, decode, read_shape
from caffeinit.images.lmdbfile import LmdbFile
from caffeinit.images.preprocess import Preprocessing, Sample
from caffeinit.printing import printable
from caffeinit.storage.files import HDF5_DAMAGE


def _h5py(path: str) -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise ImagesError(
            f"{printable(path)}: reading it needs the package h5py. Install it with: pip install caffeinit[hdf5]"
        ) from error


class LmdbSource(Source):
    """The records of an LMDB database, in the order of their keys."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        try:
            self._file = LmdbFile(os.path.join(path, "data.mdb") if os.path.isdir(path) else path)
            self._records = self._file.records()
        except (OSError, ImagesError) as error:
            raise ImagesError(f"{printable(path)}: cannot be read as an LMDB database: {printable(error)}.") from error
        if not self._records:
            raise ImagesError(f"{printable(path)}: an empty database.")

    def __len__(self) -> int:
        return len(self._records)

    def name(self, index: int) -> str:
        return f"{self.origin}[{self._records[index].key.decode('utf-8', 'backslashreplace')}]"

    def check(self, index: int) -> None:
        datum = self._datum(index)
        if datum.encoded:
            check_header(io.BytesIO(datum.data))

    def shape(self, index: int, channels: int = 0) -> tuple[int, int, int]:
        datum = self._datum(index)
        if datum.encoded:
            return read_shape(io.BytesIO(datum.data))
        return datum.channels, datum.height, datum.width

    def read(self, index: int, shape: Sequence[int], preprocessing: Preprocessing) -> Sample:
        return datum_sample(self._datum(index), shape, preprocessing)

    def _datum(self, index: int) -> Any:
        return parse_datum(self._file.value(self._records[index]))


def parse_datum(raw: bytes) -> Any:
    """Return a Datum message.

    Raises:
        ImagesError: the record is none.
    """
    from google.protobuf.message import DecodeError

    from caffeinit.protos import schema

    try:
        return schema.message("Datum").FromString(raw)
    except DecodeError as error:
        raise ImagesError("not a Datum record") from error


def datum_sample(datum: Any, shape: Sequence[int], preprocessing: Preprocessing) -> Sample:
    """Return a Datum's pixels or floats; ImagesError where their number is not what its dimensions say."""
    if datum.encoded:
        target = lambda size: preprocessing.target(size, (shape[1], shape[2]), stored=True)  # noqa: E731
        decoded = decode(io.BytesIO(datum.data), preprocessing.wants_grey(shape[0]), target)
        return Sample(decoded.pixels, "bgr", stored=True, size=decoded.size)
    dims = (datum.channels, datum.height, datum.width)
    if min(dims) < 1:
        raise ImagesError(f"a Datum of {dims[0]}x{dims[1]}x{dims[2]}")
    count = dims[0] * dims[1] * dims[2]
    if datum.data:
        values = np.frombuffer(datum.data, np.uint8)
    else:
        floats = datum.float_data
        values = np.frombuffer(floats, "<f4") if isinstance(floats, bytes) else np.array(floats, np.float32)
    if values.size != count:
        raise ImagesError(f"a Datum with {values.size} values where {dims[0]}x{dims[1]}x{dims[2]} needs {count}")
    planes = values.reshape(dims)
    if planes.dtype == np.uint8:
        return Sample(planes.transpose(1, 2, 0), "bgr", stored=True)
    return Sample(planes, stored=True, raw=True)


class Hdf5Source(Source):
    """The rows of one dataset of an HDF5 file: the one named like the input, or the only one that could be meant."""

    def __init__(self, path: str, input_name: str) -> None:
        super().__init__(path)
        self.holds_pictures = False
        h5py = _h5py(path)
        try:
            self._file = h5py.File(path, "r")
            # Links and virtual datasets may name other files: those are not what the user asked to read.
            names = [n for n in self._file if isinstance(self._file.get(n, getlink=True), h5py.HardLink)]
            names = [n for n in names if isinstance(self._file[n], h5py.Dataset)]
            self._rows = self._file[choose_named(names, input_name, path)]
            self._shape: tuple[int, ...] = self._rows.shape or ()
            dtype, chunks = self._rows.dtype, self._rows.chunks or ()
            lies_elsewhere = self._rows.is_virtual or self._rows.external
        except HDF5_DAMAGE as error:
            raise ImagesError(f"{printable(path)}: no usable HDF5 file: {printable(error)}") from error
        if lies_elsewhere:
            raise ImagesError(f"{printable(path)}: its values lie in other files: give those files themselves.")
        if not self._shape or dtype.kind not in "buif":
            raise ImagesError(f"{printable(path)}: {printable(self._rows.name)} is {dtype} {self._shape}.")
        # What was never written takes no room in the file, and a chunk is unpacked as a whole.
        check_row(path, max(self._shape[1:], chunks, key=math.prod))

    def __len__(self) -> int:
        return int(self._shape[0])

    def name(self, index: int) -> str:
        return f"{self.origin}[{index}]"

    def shape(self, index: int, channels: int = 0) -> tuple[int, int, int]:
        return values_shape(self._shape[1:])

    def read(self, index: int, shape: Sequence[int], preprocessing: Preprocessing) -> Sample:
        try:
            row = self._rows[index]
        except HDF5_DAMAGE as error:
            raise ImagesError(printable(error)) from error
        return Sample(np.asarray(row, np.float32), stored=True)


def hdf5_names(path: str) -> list[str]:
    """Return the names of the datasets in an HDF5 file."""
    h5py = _h5py(path)
    try:
        with h5py.File(path, "r") as file:
            return [n for n in file if isinstance(file.get(n, getlink=True), h5py.HardLink)]
    except HDF5_DAMAGE as error:
        raise ImagesError(f"{printable(path)}: no usable HDF5 file: {printable(error)}") from error
