"""Finds picture files: folders, globs and Caffe's list files; opens regular files and nothing else.

A pipe, device or socket is never opened, wherever its name came from. A folder is searched with all folders below it;
symbolic links are followed, but no folder is entered twice, so links that form a loop end. Names are in natural order
(`2.png` before `10.png`), which depends neither on the file system nor on the locale.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from caffeinit.errors import ImagesError
from caffeinit.printing import printable

Skipped = tuple[str, str]  # name and reason
PICTURE_SUFFIXES = frozenset(
    f".{kind}"
    for kinds in ("jpg jpeg jpe jfif png bmp dib", "ppm pgm pbm pnm tif tiff gif webp jp2 j2k")
    for kind in kinds.split()
)
MAX_LIST_BYTES = 1 << 28  # ImageNet's train.txt has 43 MB
MAX_LIST_LINE = 8192
_LABEL = re.compile(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?")
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass
class Listing:
    """What a folder, glob or list file held.

    Attributes:
        paths: picture files in order.
        skipped: entries that cannot be pictures, with the reason.
        ignored: names of the files that do not claim to be pictures.
    """

    paths: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def natural_key(path: str) -> tuple[object, ...]:
    """Return a sort key: folder by folder, numbers inside names by value; the path itself decides ties."""
    parts = re.split(r"[/\\]", path)
    return (tuple(_rank(run) for part in parts for run in _runs(part)), path)


def _rank(run: str) -> tuple[int, int, str]:
    if not run:
        return (0, 0, "")
    return (1, int(run), "") if len(run) < 19 and run.isdecimal() and run.isascii() else (2, 0, run)


def _runs(part: str) -> list[str]:
    # The empty end of each part puts `a/9` before `a10/1`. Longer runs of digits than any counter has are text: int()
    # refuses thousands of them.
    return [*(r for r in re.split(r"([0-9]+)", part) if r), ""]


def why_not_regular(path: str | os.PathLike[str]) -> str | None:
    """Return why a path is not a regular file that may be opened, or None if it is one."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link to a file that is not there" if os.path.islink(path) else "not found"
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    if stat.S_ISREG(mode):
        return None
    return next((text for test, text in _KINDS if test(mode)), "a special file") + ", not a picture file"


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: there is none, or something else took its name meanwhile.
    """
    reason = why_not_regular(path)
    if reason is not None:
        raise OSError(reason)
    # Between the look and the opening the file may be exchanged: without O_NONBLOCK a pipe would hold us for ever.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("not a regular file any more")
    return os.fdopen(handle, "rb")


def search_folder(folder: str | os.PathLike[str]) -> Listing:
    """Return all picture files in and below a folder, judged by their suffixes; names that start with a dot are left.

    Raises:
        ImagesError: the folder cannot be read.
    """
    found = Listing()
    plain, linked = deque([os.fspath(folder)]), deque[str]()
    entered: set[tuple[int, int]] = set()
    while plain or linked:
        # Real folders first: what can be reached by its own name is not listed under a link's.
        here = plain.popleft() if plain else linked.popleft()
        try:
            info = os.stat(here)
            entries = sorted(os.scandir(here), key=lambda e: natural_key(e.name))
        except OSError as error:
            if here == os.fspath(folder):
                raise ImagesError(f"{printable(here)}: {error.strerror}") from error
            found.skipped.append((here, error.strerror or str(error)))
            continue
        if (info.st_dev, info.st_ino) in entered:
            found.skipped.append((here, "a link to a folder that is searched already"))
            continue
        entered.add((info.st_dev, info.st_ino))
        for entry in entries:
            if not entry.name.startswith("."):
                _sort_in(entry, found, plain, linked)
    found.paths.sort(key=natural_key)
    return found


def _sort_in(entry: os.DirEntry[str], found: Listing, plain: deque[str], linked: deque[str]) -> None:
    if _is_folder(entry):
        (linked if entry.is_symlink() else plain).append(entry.path)
        return
    reason = why_not_regular(entry.path)
    named_so = os.path.splitext(entry.name)[1].lower() in PICTURE_SUFFIXES
    if reason is not None:
        found.skipped.append((entry.path, reason))
    elif named_so:
        found.paths.append(entry.path)
    else:
        found.ignored.append(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def expand_glob(pattern: str) -> Listing:
    """Return the files that a shell pattern matches (`**` for folders at any depth); folders among them are left."""
    found = Listing()
    for path in sorted(glob.glob(pattern, recursive=True), key=natural_key):
        reason = why_not_regular(path)
        if reason is None:
            found.paths.append(path)
        elif not os.path.isdir(path):
            found.skipped.append((path, reason))
    return found


def list_lines(path: str | os.PathLike[str]) -> list[str] | None:
    """Return the names in a Caffe list file, labels taken off; None where the file is not text.

    A line is `name`, or `name label` with one or more numbers; a name may hold spaces, as in Caffe.

    Raises:
        ImagesError: the file is too large or a line too long for a list.
    """
    with open_regular(path) as stream:
        raw = stream.read(MAX_LIST_BYTES + 1)
    if b"\0" in raw[:65536]:
        return None
    if len(raw) > MAX_LIST_BYTES:
        raise ImagesError(f"{printable(path)}: too large for a list of pictures ({MAX_LIST_BYTES >> 20} MB at most).")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    longest = max(map(len, lines), default=0)
    if longest > MAX_LIST_LINE:
        raise ImagesError(f"{printable(path)}: a line of {longest} characters: this is no list of pictures.")
    return [_without_labels(line) for line in lines]


def _without_labels(line: str) -> str:
    """Return a line without the numbers at its end, word by word: one pattern for all takes the square of their count."""
    while len(cut := line.rsplit(None, 1)) == 2 and _LABEL.fullmatch(cut[1]):
        line = cut[0]
    return line


def resolve_listed(name: str, list_path: str | os.PathLike[str], root: str | os.PathLike[str] | None) -> str:
    """Return where a listed file lies: below `root`, else beside the list, else below the current folder."""
    folders = [os.fspath(root)] if root else [str(Path(list_path).parent), "."]
    candidates = [os.path.join(folder, name) for folder in folders]
    # Lists written for Caffe's root_folder often have names such as /n01440764/x.JPEG.
    candidates += [os.path.join(folder, name.lstrip("/")) for folder in folders if name.startswith("/")]
    return next((c for c in candidates if os.path.lexists(c)), candidates[0])
