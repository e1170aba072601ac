"""Rows from where Caffe users keep pictures: LMDB databases of Datum records, and the files of an HDF5Data layer.

Both need an extra package: `pip install caffeinit[lmdb]`, `pip install caffeinit[hdf5]`. A Datum holds 8-bit planes
(BGR by Caffe's custom), an encoded picture, or floats; mean and scale apply to all three, as in Caffe's Data layer. HDF5
values are fed as they are, as in Caffe's HDF5Data layer, unless preprocessing is asked for explicitly.
"""

from __future__ import annotations

import importlib
import io
import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from caffeinit.errors import ImagesError
from caffeinit.images.arrays import Source, choose_named, values_shape
from caffeinit.images.decode import check_header, decode, read_shape
from caffeinit.images.files import open_regular
from caffeinit.images.preprocess import Preprocessing, Sample
from caffeinit.printing import printable

_LMDB_MAGIC = b"\xde\xc0\xef\xbe"  # at offset 16 of the first page, little endian
# An environment must not be opened twice in one process.
_environments: weakref.WeakValueDictionary[str, _Environment] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def _need(module: str, extra: str, path: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImagesError(
            f"{printable(path)}: reading it needs the package {module}. Install it with: pip install caffeinit[{extra}]"
        ) from error


class _Environment:
    """One open LMDB file, read-only and without a lock file: nothing is written beside the user's data."""

    def __init__(self, path: str) -> None:
        self.lmdb = _need("lmdb", "lmdb", path)
        try:
            with open_regular(path) as stream:
                head = stream.read(20)
            if head[16:20] != _LMDB_MAGIC:
                raise ImagesError(
                    f"{printable(path)}: not an LMDB database, or written on a machine of another byte order."
                )
            self.handle = self.lmdb.open(path, subdir=False, readonly=True, lock=False, readahead=False, max_readers=64)
        except (OSError, self.lmdb.Error) as error:
            raise ImagesError(f"{printable(path)}: cannot be opened as an LMDB database: {printable(error)}") from error

    def keys(self) -> list[bytes]:
        try:
            with self.handle.begin() as transaction:
                return list(transaction.cursor().iternext(keys=True, values=False))
        except self.lmdb.Error as error:
            raise ImagesError(f"LMDB: {printable(error)}") from error

    def get(self, key: bytes) -> bytes | None:
        try:
            with self.handle.begin() as transaction:
                return transaction.get(key)  # type: ignore[no-any-return]
        except self.lmdb.Error as error:
            raise ImagesError(f"LMDB: {printable(error)}") from error


def _environment(path: str) -> _Environment:
    real = os.path.realpath(os.path.join(path, "data.mdb") if os.path.isdir(path) else path)
    with _lock:
        found = _environments.get(real)
        if found is None:
            found = _environments[real] = _Environment(real)
        return found


class LmdbSource(Source):
    """The records of an LMDB database, in the order of their keys."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._environment = _environment(path)
        self._keys = self._environment.keys()
        if not self._keys:
            raise ImagesError(f"{printable(path)}: an empty database.")

    def __len__(self) -> int:
        return len(self._keys)

    def name(self, index: int) -> str:
        return f"{self.origin}[{self._keys[index].decode('utf-8', 'backslashreplace')}]"

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
        raw = self._environment.get(self._keys[index])
        if raw is None:
            raise ImagesError("the record is gone")
        return parse_datum(raw)


def parse_datum(raw: bytes) -> Any:
    """Return a Datum message.

    Raises:
        ImagesError: the record is none.
    """
    from google.protobuf.message import DecodeError

    from caffeinit.caffe import schema

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
        h5py = _need("h5py", "hdf5", path)
        try:
            self._file = h5py.File(path, "r")
            # Links and virtual datasets may name other files: those are not what the user asked to read.
            names = [n for n in self._file if isinstance(self._file.get(n, getlink=True), h5py.HardLink)]
            names = [n for n in names if isinstance(self._file[n], h5py.Dataset)]
            self._rows = self._file[choose_named(names, input_name, path)]
        except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
            raise ImagesError(f"{printable(path)}: no usable HDF5 file: {printable(error)}") from error
        if self._rows.is_virtual or self._rows.external:
            raise ImagesError(f"{printable(path)}: its values lie in other files: give those files themselves.")
        if self._rows.ndim < 2 or self._rows.dtype.kind not in "buif":
            raise ImagesError(
                f"{printable(path)}: {printable(self._rows.name)} is {self._rows.dtype} {self._rows.shape}."
            )

    def __len__(self) -> int:
        return int(self._rows.shape[0])

    def name(self, index: int) -> str:
        return f"{self.origin}[{index}]"

    def shape(self, index: int, channels: int = 0) -> tuple[int, int, int]:
        return values_shape(self._rows.shape[1:])

    def read(self, index: int, shape: Sequence[int], preprocessing: Preprocessing) -> Sample:
        try:
            row = self._rows[index]
        except (OSError, RuntimeError, ValueError) as error:
            raise ImagesError(printable(error)) from error
        return Sample(np.asarray(row, np.float32), stored=True)


def hdf5_names(path: str) -> list[str]:
    """Return the names of the datasets in an HDF5 file."""
    h5py = _need("h5py", "hdf5", path)
    try:
        with h5py.File(path, "r") as file:
            return [n for n in file if isinstance(file.get(n, getlink=True), h5py.HardLink)]
    except (OSError, RuntimeError) as error:
        raise ImagesError(f"{printable(path)}: no usable HDF5 file: {printable(error)}") from error
