"""Where a verb's results may go: looked at before the work, and not after hours of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from caffeinit.errors import OptionError
from caffeinit.storage.files import HDF5_ENDINGS, check_target

DATA = ("data", (".json",))
PAGE = ("a page", (".html",))
NET = ("a net", (".prototxt",))
WEIGHTS = ("a file of weights", (".caffemodel", *HDF5_ENDINGS))
_WRITTEN = {"--json": DATA, "--report": PAGE, "--output-net": NET}


def check_targets(targets: Mapping[str, str | None], force: bool, read: Mapping[str, str | None]) -> None:
    """Refuse what could not be written, and what would take the place of a file that is read, or of each other.

    Args:
        targets: option -> the path that it names; None where it is not given, and - for stdout.
        read: what a file is -> its path, which must stay.
    Raises:
        OutputError: as `check_target`. OptionError: a file would be written over that is read, or written, too; or a name
            says that the file is something else.
    """
    taken = {os.path.realpath(path): what for what, path in read.items() if path is not None}
    for option, target in targets.items():
        if target is None or (option == "--json" and target == "-"):
            continue
        if target == "-":
            raise OptionError(
                f"{option} -: this needs a name; what can go to stdout is --json (a file called so is ./-)"
            )
        place = str(check_target(target, force))
        if place in taken:
            raise OptionError(f"{option} {target}: is the file of {taken[place]}, too")
        taken[place] = option
    for option, what in _WRITTEN.items():
        check_ending(option, targets.get(option), *what)


_KINDS = {
    ".prototxt": "a net",
    ".caffemodel": "weights",
    **dict.fromkeys(HDF5_ENDINGS, "weights in HDF5"),
    ".onnx": "an ONNX model",
    ".html": "a page",
    ".png": "a picture",
    ".json": "a result as data",
}


def check_ending(option: str, target: str | None, what: str, endings: Sequence[str]) -> None:
    """Refuse a name that says that the file is something else; names that say nothing are taken.

    Args:
        target: the path that the option names; None where it is not given.
        what: what is written.
        endings: those that it may have.
    Raises:
        OptionError: the ending is that of another kind.
    """
    ending = os.path.splitext(target or "")[1].lower()
    if ending in _KINDS and ending not in endings:
        raise OptionError(
            f"{option} {target}: what is written is {what}, and a name in {ending} is that of {_KINDS[ending]}. "
            f"Give it one in {' or '.join(endings)}"
        )


def check_batch_json(target: str | None, force: bool) -> None:
    """Refuse a batch's --json where something else is; an earlier one is replaced, as the same command may run again.

    Raises:
        OutputError: the file exists and is none, or cannot be written.
    """
    if target is not None and target != "-":
        check_target(target, force or _is_batch_json(target))
        check_ending("--json", target, *DATA)


def _is_batch_json(path: str) -> bool:
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(100).split()[:2] == [b"{", b'"job":']
