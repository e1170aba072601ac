"""Mean pictures: Caffe's .binaryproto (a BlobProto) and numpy's .npy."""

from __future__ import annotations

import tokenize
from os import PathLike

import numpy as np

from caffeinit.errors import CaffeinitError, ImagesError, WeightsError
from caffeinit.printing import printable
from caffeinit.protos.blobs import read_blob
from caffeinit.storage.files import check_regular_file
from caffeinit.storage.wire import WireError

# What NumPy raises on damaged headers; one of an old kind is cut into tokens by Python's own tokenizer.
HEADER_ERRORS = (
    OSError, ValueError, TypeError, EOFError, SyntaxError, OverflowError, MemoryError, RecursionError,
    tokenize.TokenError,
)  # fmt: skip
MEAN_HINT = "Give it with --mean-file FILE, or the values with --mean."
MAX_BYTES = 1 << 28


def read_mean(path: str | PathLike[str]) -> np.ndarray:
    """Return a mean picture, (C, H, W) float32.

    Raises:
        ImagesError: the file is no mean picture, or a damaged one.
    """
    try:
        path = check_regular_file(path)
    except CaffeinitError as error:
        raise ImagesError(str(error)) from None
    if path.stat().st_size > MAX_BYTES:
        raise ImagesError(f"{path}: is larger than any mean picture")
    array = _read_npy(path) if path.suffix == ".npy" else _read_blob(path)
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3 or not np.isfinite(array).all():
        raise ImagesError(
            f"{path}: is no mean picture: {array.shape} numbers" + ("" if array.ndim == 3 else ", not C,H,W")
        )
    return array


def load_npy(path: str | PathLike[str]) -> np.ndarray:
    """Map the array in a .npy file: a header that claims more than the file holds is refused before memory is asked for.

    Raises:
        ImagesError: there is none; np.load alone would open an archive of arrays, too.
    """
    try:
        return np.lib.format.open_memmap(path, "r")
    except HEADER_ERRORS as error:
        raise ImagesError(f"{printable(path)}: is no .npy file that can be read: {printable(error)}") from None


def _read_npy(path: PathLike[str]) -> np.ndarray:
    array = load_npy(path)
    if array.dtype.kind not in "buif":
        raise ImagesError(f"{path}: is no mean picture: it holds {array.dtype}, no numbers")
    return np.array(array, np.float32)


def _read_blob(path: PathLike[str]) -> np.ndarray:
    with open(path, "rb") as file:
        data = file.read()
    try:
        return read_blob(data, 0, len(data), str(path)).array()
    except WireError as error:
        raise ImagesError(f"{path}: is no mean file, or one that is damaged or cut off: {error}") from None
    except WeightsError as error:
        raise ImagesError(str(error)) from None
