"""Fingerprints of all that decides a result: files by their content, pictures by name, size and time, versions.

Reading a whole data set to see whether it is the same would take longer than the batch.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import importlib.metadata
import mmap
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import click
import onnx
from google.protobuf.message import DecodeError

from caffeinit.batch.table import Job, options_of
from caffeinit.errors import CaffeinitError
from caffeinit.images.files import PICTURE_SUFFIXES, list_lines, resolve_listed, search_folder
from caffeinit.onnxfile.within import tensors_beside
from caffeinit.storage import wire
from caffeinit.storage.files import is_onnx, leads_out

_NUMBERS: wire.PruneTree = {7: {5: {9: None}}}  # the bytes of an ONNX model's arrays
_MOST_READ = 1 << 28  # bytes; a larger file of pictures counts by size and time
_PACKAGES = ("caffeinit", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "scikit-learn", "scipy", "Pillow")


def inputs_of(
    zoo: Path, net: str, weights: str | None, job: Job, options: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Return every file that decides a model's result -> its fingerprint.

    Args:
        net, weights: paths from the zoo.
    Raises:
        CaffeinitError: one of them cannot be read.
    """
    found = {path: digest_file(zoo / path) for path in (net, weights) if path is not None}
    if job.needs != "file":
        found |= _named_in(zoo, net)
    for name, option in options_of(job).items():
        for text in options.get(name, ()):
            if name == "sources":
                at, separator, rest = text.partition("=")
                source = rest if separator and at.isidentifier() and not os.path.exists(text) else text
                found[text] = pictures_digest(source)
            elif isinstance(option.type, click.Path):
                found[text] = digest_file(Path(text)) if os.path.isfile(text) else "not there"
    return found


def _named_in(zoo: Path, net: str) -> dict[str, str]:
    """Return the files beside a net that its text names, such as mean files, and the data files of an ONNX model."""
    folder = PurePosixPath(net).parent
    if is_onnx(net):
        beside = external_files(zoo / net)
    else:
        text = (zoo / net).read_bytes().decode("utf-8", "replace")
        beside = sorted({name for pair in re.findall(r"\"([^\"\n]+)\"|'([^'\n]+)'", text) for name in pair if name})
    found = {}
    for name in beside:
        for candidate in dict.fromkeys((name, PurePosixPath(name).name)):
            path = str(folder / candidate)
            if not leads_out(candidate) and os.path.isfile(zoo / path):
                found[path] = digest_file(zoo / path)
    return found


def external_files(path: Path) -> list[str]:
    """Return the names of the files that hold an ONNX model's large arrays; none for a file that is no ONNX model."""
    model = onnx.ModelProto()
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            model.ParseFromString(wire.pruned(data, 0, len(data), _NUMBERS))
    except (DecodeError, ValueError):
        return []  # the job will say so
    parts = [part for s in model.graph.sparse_initializer for part in (s.values, s.indices)]
    tensors = (*model.graph.initializer, *parts, *tensors_beside(model))
    told = [e.value for t in tensors for e in t.external_data if e.key == "location"]
    return sorted({posixpath.normpath(name) for name in told if isinstance(name, str)})  # bytes where it is damaged


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        CaffeinitError: it cannot be read.
    """
    try:
        info = path.stat()
        return _digest(str(path), info.st_size, info.st_mtime_ns)
    except OSError as error:
        raise CaffeinitError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None


@functools.cache
def _digest(path: str, size: int, changed: int) -> str:
    """Return a file's digest; one that was changed meanwhile is another to this cache."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def pictures_digest(source: str) -> str:
    """Return a digest of what `--images` names, looked at once in a batch."""
    lines: list[str] = []
    if os.path.isdir(source):
        seen = search_folder(source)
        lines += [_stamp(path, source) for path in sorted([*seen.paths, *seen.ignored])]
    else:
        for path in [source] if os.path.exists(source) else sorted(glob.glob(source, recursive=True)):
            lines += _file_stamps(path)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _file_stamps(path: str) -> list[str]:
    """Return the line of a file and, where it is a list, of the files in it."""
    is_picture = os.path.splitext(path)[1].lower() in PICTURE_SUFFIXES
    if is_picture or not os.path.isfile(path) or os.path.getsize(path) > _MOST_READ:
        return [_stamp(path, os.path.dirname(path))]
    stamps = [f"{os.path.basename(path)} {digest_file(Path(path))}"]
    try:
        names = list_lines(path)
    except CaffeinitError:
        names = None  # too large for a list of pictures, or lines too long: it is none
    return stamps + [_stamp(resolve_listed(name, path, None), os.path.dirname(path)) for name in names or ()]


def _stamp(path: str, start: str) -> str:
    try:
        info = os.stat(path)
    except OSError as error:
        return f"{os.path.relpath(path, start)} {error.strerror}"
    return f"{os.path.relpath(path, start)} {info.st_size} {info.st_mtime_ns}"


@functools.cache
def versions(pages: bool = False) -> dict[str, str]:
    """Return the versions of the packages that decide a result's bytes, with or without its page's."""
    found = {}
    for name in (*_PACKAGES, *(("matplotlib",) if pages else ())):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # onnxruntime comes under one of two names
    return found
