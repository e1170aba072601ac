"""What `--images` means: turns a name into a source of rows.

A name is looked at in this order: an existing folder (an LMDB database where it holds `data.mdb`, else all pictures in
and below it), an existing file (known by its first bytes, whatever it is called), a shell pattern. A text file is a
Caffe list: pictures with labels, or the HDF5 files of an HDF5Data layer. Listed names are taken below `root` where one
is given, else beside the list, else below the current folder.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np

from caffeinit.errors import ImagesError
from caffeinit.images.arrays import ArraySource, Source, is_idx, looks_packed, npz_names, open_idx, open_npy, open_npz
from caffeinit.images.files import (
    PICTURE_SUFFIXES,
    Listing,
    expand_glob,
    list_lines,
    open_regular,
    resolve_listed,
    search_folder,
    why_not_regular,
)
from caffeinit.images.preprocess import Preprocessing, Sample
from caffeinit.printing import printable
from caffeinit.storage.files import HDF5_MAGIC, is_named_hdf5

Given = str | os.PathLike[str] | np.ndarray
_KINDS = "a folder, pictures, a pattern, a list file, .npy, .npz, idx, LMDB or HDF5 files"


class FilesSource(Source):
    """Picture files, one row each."""

    def __init__(self, found: Listing, origin: str) -> None:
        super().__init__(origin)
        self.holds_files = True
        self.paths = found.paths
        self.skipped = list(found.skipped)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def check(self, index: int) -> None:
        from caffeinit.images.decode import check_header

        try:
            with open_regular(self.paths[index]) as stream:
                self.most_pixels = max(self.most_pixels, check_header(stream))
        except (OSError, ValueError) as error:
            raise ImagesError(_why(error)) from error

    def shape(self, index: int, channels: int = 0) -> tuple[int, int, int]:
        from caffeinit.images.decode import read_shape

        try:
            with open_regular(self.paths[index]) as stream:
                return read_shape(stream)
        except (OSError, ValueError) as error:
            raise ImagesError(_why(error)) from error

    def read(self, index: int, shape: Sequence[int], preprocessing: Preprocessing) -> Sample:
        from caffeinit.images.decode import decode

        window = (shape[1], shape[2])
        try:
            with open_regular(self.paths[index]) as stream:
                grey = preprocessing.wants_grey(shape[0])
                decoded = decode(stream, grey, lambda size: preprocessing.target(size, window), preprocessing.draft)
        except (OSError, ValueError) as error:
            raise ImagesError(_why(error)) from error
        return Sample(decoded.pixels, "bgr", size=decoded.size)


class ChainedSource(Source):
    """Several sources one after the other."""

    def __init__(self, parts: Sequence[Source]) -> None:
        super().__init__(", ".join(part.origin for part in parts))
        self.parts = parts
        self.skipped = [entry for part in parts for entry in part.skipped]
        self.holds_pictures = any(part.holds_pictures for part in parts)
        self.holds_files = any(part.holds_files for part in parts)
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def _locate(self, index: int) -> tuple[Source, int]:
        number = bisect_right(self._ends, index)
        return self.parts[number], index - (self._ends[number - 1] if number else 0)

    def name(self, index: int) -> str:
        part, row = self._locate(index)
        return part.name(row)

    def check(self, index: int) -> None:
        part, row = self._locate(index)
        part.check(row)
        self.most_pixels = max(self.most_pixels, part.most_pixels)

    def shape(self, index: int, channels: int = 0) -> tuple[int, int, int]:
        part, row = self._locate(index)
        return part.shape(row, channels)

    def read(self, index: int, shape: Sequence[int], preprocessing: Preprocessing) -> Sample:
        part, row = self._locate(index)
        return part.read(row, shape, preprocessing)


def open_sources(given: Given | Iterable[Given], input_name: str, root: str | os.PathLike[str] | None = None) -> Source:
    """Return the source that one or several names or arrays describe, for one input.

    Raises:
        ImagesError: a name is not there, is of no known kind, or holds nothing.
    """
    several = [given] if isinstance(given, str | os.PathLike | np.ndarray) else list(given)
    if not several:
        raise ImagesError(f'no pictures are given for input "{printable(input_name)}". Give {_KINDS}.')
    parts = [_open_one(one, input_name, root) for one in several]
    # Single files go together: a shell expands `dir/*.jpg` into hundreds of them.
    return parts[0] if len(parts) == 1 else ChainedSource(parts)


def source_names(given: Given | Iterable[Given]) -> list[str]:
    """Return the names of the arrays that a .npz or HDF5 file holds, [] for anything else."""
    if not isinstance(given, str | os.PathLike) or why_not_regular(given) is not None:
        return []
    head = _head(os.fspath(given))
    if head.startswith(b"PK\x03\x04"):
        return npz_names(os.fspath(given))
    if head.startswith(HDF5_MAGIC):
        from caffeinit.images.databases import hdf5_names

        return hdf5_names(os.fspath(given))
    lines = list_lines(given) if _is_list(os.fspath(given), head) else None
    if lines and is_named_hdf5(lines[0]):
        return source_names(resolve_listed(lines[0], given, None))
    return []


def _open_one(given: Given, input_name: str, root: str | os.PathLike[str] | None) -> Source:
    if isinstance(given, np.ndarray):
        return ArraySource(given)
    path = os.fspath(given)
    if os.path.isdir(path):
        return _open_folder(path)
    if os.path.lexists(path):
        reason = why_not_regular(path)
        if reason is not None:
            raise ImagesError(f"{printable(path)}: {reason}. --images takes {_KINDS}.")
        return _open_file(path, input_name, root)
    if any(c in path for c in "*?["):
        found = expand_glob(path)
        if not found.paths:
            raise ImagesError(f"{printable(path)}: no file matches this pattern.{_first(found)}")
        if all(os.path.splitext(p)[1].lower() in PICTURE_SUFFIXES for p in found.paths):
            return FilesSource(found, path)
        matched = [_open_file(p, input_name, root) for p in found.paths]
        matched[0].skipped = found.skipped + matched[0].skipped
        return ChainedSource(matched)
    raise ImagesError(f"{printable(path)}: not found. --images takes {_KINDS}.")


def _open_folder(path: str) -> Source:
    if os.path.lexists(os.path.join(path, "data.mdb")):
        from caffeinit.images.databases import LmdbSource

        return LmdbSource(path)
    found = search_folder(path)
    if not found.paths:
        packed = next((p for p in found.ignored if looks_packed(p)), None)
        hint = f" Did you mean {printable(packed)}?" if packed else ""
        kinds = " ".join(sorted(PICTURE_SUFFIXES))
        raise ImagesError(f"{printable(path)}: no pictures in or below this folder ({kinds}).{_first(found)}{hint}")
    return FilesSource(found, path)


def _open_file(path: str, input_name: str, root: str | os.PathLike[str] | None) -> Source:
    head = _head(path)
    suffix = os.path.splitext(path)[1].lower()
    if head.startswith(b"\x93NUMPY") or suffix == ".npy":
        return open_npy(path)
    if head.startswith(b"PK\x03\x04") or suffix == ".npz":
        return open_npz(path, input_name)
    if head.startswith(HDF5_MAGIC) or is_named_hdf5(path):
        from caffeinit.images.databases import Hdf5Source

        return Hdf5Source(path, input_name)
    if suffix == ".mdb":
        from caffeinit.images.databases import LmdbSource

        return LmdbSource(path)
    if is_idx(head) or head.startswith(b"\x1f\x8b"):
        return open_idx(path)
    if _is_list(path, head):
        lines = list_lines(path)
        if lines is not None:
            return _open_list(path, lines, input_name, root)
    return FilesSource(Listing([path]), path)


def _open_list(path: str, lines: Sequence[str], input_name: str, root: str | os.PathLike[str] | None) -> Source:
    if not lines:
        raise ImagesError(f"{printable(path)}: an empty list: lines of `path label` are needed.")
    names = [resolve_listed(line, path, root) for line in lines]
    if not is_named_hdf5(names[0]):
        if not any(os.path.lexists(name) for name in names):
            raise ImagesError(
                f"{printable(path)}: none of its {len(names)} names is a file, beside the list or below "
                f"{printable(root or 'the current folder')}; the first is {printable(lines[0][:200])}."
            )
        return FilesSource(Listing(names), path)
    from caffeinit.images.databases import Hdf5Source

    for name in names:
        if (reason := why_not_regular(name)) is not None:
            raise ImagesError(f"{printable(path)}: {printable(name)}: {reason}")
    return ChainedSource([Hdf5Source(name, input_name) for name in names])


def _is_list(path: str, head: bytes) -> bool:
    return bool(head) and os.path.splitext(path)[1].lower() not in PICTURE_SUFFIXES


def _head(path: str) -> bytes:
    try:
        with open_regular(path) as stream:
            return stream.read(16)
    except OSError as error:
        raise ImagesError(f"{printable(path)}: {_why(error)}") from error


def _first(found: Listing) -> str:
    if not found.skipped:
        return ""
    name, reason = found.skipped[0]
    return f" {len(found.skipped)} entries were skipped, the first: {printable(name)}: {reason}."


def _why(error: Exception) -> str:
    return printable(getattr(error, "strerror", None) or error)
