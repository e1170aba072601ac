"""Which files below a folder are nets, weights, ONNX models or settings: told by their content.

A name only decides what is said of a file that is no such thing: nothing, or that it should be one. Names that start
with a dot are left, and so is the batch's own output. Symbolic links are followed; no folder is entered twice. Pictures
are not opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from caffeinit.errors import CaffeinitError
from caffeinit.images.files import PICTURE_SUFFIXES, natural_key
from caffeinit.storage.files import CAFFEMODEL_ENDINGS, HDF5_MAGIC, is_onnx

SETTINGS_NAME = "caffeinit.toml"
_HEAD_BYTES = 4096
_MOST_TEXT = 1 << 26  # bytes; no net's text is as long
_LAYER = re.compile(rb"(?m)^[^#\n]*\blayers?\s*[:{]")
_NET_NAMES = (".prototxt", ".pt", ".pbtxt")
_MEAN_NAMES = (".binaryproto", ".npy")
_NET_TAGS = (b"\x0a", b"\x12", b"\x1a", b"\xa2\x06")  # a net's name, a V1 layer, an input, a V2 layer


@dataclass
class Zoo:
    """What lies below a folder; paths are relative to it, with "/" between their parts, in natural order.

    Attributes:
        nets: texts that look like nets. weights: binary files that may hold weights.
        onnx: ONNX models. settings: files named caffeinit.toml.
        others: files named like nets that speak of no layers: solvers, label maps.
        means: files that may be mean pictures, by their names.
        unreadable: path -> why a folder or file could not be read.
    """

    root: Path
    nets: list[str] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    onnx: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    means: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


def search_zoo(root: Path, leave_out: Path) -> Zoo:
    """Look through a folder.

    Args:
        leave_out: a folder that is not entered.
    Raises:
        CaffeinitError: there is no such folder.
    """
    if not root.is_dir():
        raise CaffeinitError(f"{root}: is no folder; batch takes the folder that the nets lie in or below")
    zoo = Zoo(root)
    for path in sorted(_files(root, leave_out, zoo), key=natural_key):
        try:
            _sort_in(path, zoo)
        except OSError as error:
            zoo.unreadable[path] = (error.strerror or str(error)).lower()
    return zoo


def _files(root: Path, leave_out: Path, zoo: Zoo) -> Iterator[str]:
    """Yield all regular files."""
    entered = {os.path.realpath(leave_out)}

    def failed(error: OSError) -> None:
        where = os.path.relpath(error.filename or root, root)
        zoo.unreadable[Path(where).as_posix()] = (error.strerror or str(error)).lower()

    for folder, folders, names in os.walk(root, onerror=failed, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in names:
            path = os.path.join(folder, name)
            if not name.startswith(".") and os.path.isfile(path):
                yield Path(os.path.relpath(path, root)).as_posix()


def _sort_in(path: str, zoo: Zoo) -> None:
    name = path.rpartition("/")[2]
    if name == SETTINGS_NAME:
        zoo.settings.append(path)
        return
    if os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES:
        return
    if name.endswith(_MEAN_NAMES):
        zoo.means.append(path)
    with open(zoo.root / path, "rb") as file:
        head = file.read(_HEAD_BYTES)
        is_text = not any(byte < 9 or 13 < byte < 32 for byte in head)
        speaks_of_layers = is_text and _LAYER.search(head + file.read(_MOST_TEXT)) is not None
    if claims_weights(name) or (not is_text and head.startswith((HDF5_MAGIC, *_NET_TAGS)) and not is_onnx(name)):
        zoo.weights.append(path)
    elif speaks_of_layers:
        zoo.nets.append(path)
    elif is_text and claims_net(name):
        zoo.others.append(path)
    elif is_onnx(name):
        zoo.onnx.append(path)


def claims_weights(path: str) -> bool:
    """Return whether a file's name says that it holds weights, so that it is a failure if it does not."""
    return path.endswith(CAFFEMODEL_ENDINGS)


def claims_net(path: str) -> bool:
    """Return whether a file's name says that it holds a net, so that one that cannot be read is named."""
    return path.endswith(_NET_NAMES)
