"""Reading inputs that are what they should be, and writing outputs whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path, PurePosixPath

from caffeinit.errors import FormatError, OutputError

_UMASK = threading.Lock()


def is_onnx(path: str | PathLike[str]) -> bool:
    """Tell whether a file is meant as an ONNX model: by its name, as other forms begin with the same bytes."""
    return os.fspath(path).lower().endswith(".onnx")


HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
HDF5_ENDINGS = (".h5", ".hdf5")
# What h5py raises over damaged files.
HDF5_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, AttributeError, TypeError, OverflowError, MemoryError)
CAFFEMODEL_ENDINGS = (*(f".caffemodel{ending}" for ending in HDF5_ENDINGS), ".caffemodel")


def is_named_hdf5(path: str | PathLike[str]) -> bool:
    """Tell whether a file is meant as HDF5, by its name."""
    return os.fspath(path).lower().endswith(HDF5_ENDINGS)


def is_hdf5(path: str | PathLike[str]) -> bool:
    """Tell whether a file holds HDF5: by its first bytes."""
    with open(path, "rb") as file:
        return file.read(8) == HDF5_MAGIC


def check_regular_file(path: str | PathLike[str]) -> Path:
    """Return the path of a file that can be opened without surprises.

    Raises:
        FormatError: it is missing, a folder, a pipe or device, or not readable.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise FormatError(f"{_shown(path)}: {_reason(error)}") from None
    if stat.S_ISDIR(mode):
        raise FormatError(f"{path}: is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise FormatError(f"{path}: is a pipe or device, not a regular file")
    if not os.access(path, os.R_OK):
        raise FormatError(f"{path}: may not be read")
    return path


def leads_out(name: str) -> bool:
    """Tell whether a name that stands in a file leads out of that file's folder; such names are not followed."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or os.path.isabs(name) or ".." in path.parts


def read_bytes_limited(path: str | PathLike[str], most: int, what: str) -> bytes:
    """Return the content of a regular file.

    Args:
        most: bytes; a larger file is refused unread.
        what: what the file should be, for that refusal: "net definition".

    Raises:
        FormatError: it cannot be read, or is larger.
    """
    path = check_regular_file(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            content = file.read(most + 1) if size <= most else b""
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {_reason(error)}") from None
    if max(size, len(content)) > most:  # it may grow
        raise FormatError(f"{path}: is larger than any {what}")
    return content


@contextlib.contextmanager
def replacing(path: str | PathLike[str], force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside the target; rename it onto the target when the block ends well.

    A symbolic link is followed, so that the link stays and the file behind it changes. On any failure, and when the
    process is told to end, the temporary file is removed and the target is as it was.

    Raises:
        OutputError: the target exists and `force` is not set, is no regular file, or cannot be written.
    """
    target = check_target(path, force)
    with _ending_as_exception():
        temporary = _temporary(path, target)
        try:
            yield temporary
            _finish(temporary, target, force)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {_reason(error)}") from error
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_all(paths: Sequence[str | PathLike[str]], force: bool = False) -> Iterator[list[Path]]:
    """Yield a temporary path for each target, as `replacing`; all targets get their new files, or none does.

    Only `kill -9` between one renaming and the next leaves some new and some old.

    Raises:
        OutputError: as `replacing`, or two targets are one file.
    """
    targets = [check_target(path, force) for path in paths]
    if len(set(targets)) < len(targets):
        raise OutputError(f"{paths[0]}: two outputs would be this one file")
    with _ending_as_exception(), contextlib.ExitStack() as stack:
        temporaries = [_temporary(path, target) for path, target in zip(paths, targets, strict=True)]
        for temporary in temporaries:
            stack.callback(temporary.unlink, missing_ok=True)
        try:
            yield temporaries
            for temporary, target in zip(temporaries, targets, strict=True):
                _to_disk(temporary, target)
            _name_all(temporaries, targets, force)
        except OSError as error:
            raise OutputError(f"{' and '.join(map(str, paths))}: cannot be written: {_reason(error)}") from error


def _name_all(temporaries: Sequence[Path], targets: Sequence[Path], force: bool) -> None:
    """Give files their names; what was named already is taken back if one of them cannot be."""
    with contextlib.ExitStack() as keep, contextlib.ExitStack() as undo:
        for temporary, target in zip(temporaries, targets, strict=True):
            old = _second_name(target) if _mode(target) is not None and force else None
            if old is not None:
                keep.callback(old.unlink, missing_ok=True)
            undo.callback(_take_back, temporary, target, old)
            _name(temporary, target, force)
        undo.pop_all()


def _second_name(target: Path) -> Path:
    """Return a hidden second name of a file, or a copy where the file system has no hard links."""
    second = _temporary(target, target)
    second.unlink()
    try:
        os.link(target, second)
    except OSError:
        try:
            shutil.copy2(target, second)
        except OSError:
            second.unlink(missing_ok=True)
            raise
    return second


def _take_back(temporary: Path, target: Path, old: Path | None) -> None:
    """Bring back what was at a target before our file got its name, if it did."""
    if old is not None:
        os.replace(old, target)
    elif _mode(target) is not None and (not temporary.exists() or temporary.samefile(target)):
        target.unlink()


def _temporary(path: str | PathLike[str], target: Path) -> Path:
    """Return a new empty file beside the target."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", suffix=".tmp", dir=target.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {_reason(error)}") from None
    os.close(handle)
    return Path(name)


@contextlib.contextmanager
def _ending_as_exception() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise SystemExit, so that what is to be cleaned up is; others' handlers stay."""
    ours = []
    if threading.current_thread() is threading.main_thread():
        names = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP
        ours = [
            n for n in (getattr(signal, name, None) for name in names) if n and signal.getsignal(n) == signal.SIG_DFL
        ]
    try:
        for number in ours:
            signal.signal(number, _leave)
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def check_target(path: str | PathLike[str], force: bool = False) -> Path:
    """Return where an output is to go, links followed.

    Raises:
        OutputError: as `replacing`; callers ask before hours of work, not after.
    """
    try:
        target = Path(os.path.realpath(path))
        if not target.parent.is_dir():
            raise OutputError(f"{path}: the folder {target.parent} does not exist")
        mode = _mode(target)
    except (OSError, ValueError) as error:
        raise OutputError(f"{_shown(path)}: cannot be written: {_reason(error)}") from None
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(f"{path}: exists and is not a regular file")
    if mode is not None and not force:
        raise OutputError(f"{path}: exists already; --force replaces it")
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"{path}: the folder {target.parent} may not be written to")
    return target


def _mode(target: Path) -> int | None:
    try:
        return target.lstat().st_mode
    except FileNotFoundError:
        return None


def _finish(temporary: Path, target: Path, force: bool) -> None:
    """Bring the bytes to disk and the name to the target."""
    _to_disk(temporary, target)
    _name(temporary, target, force)


def _to_disk(temporary: Path, target: Path) -> None:
    """Bring the bytes to disk, with the rights of the file that is replaced, or those of any new file."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    old = _mode(target)
    if old is not None:
        temporary.chmod(stat.S_IMODE(old))
        return
    with _UMASK:  # it can only be read by setting it; two threads at once would leave it at 0
        mask = os.umask(0o077)
        os.umask(mask)
    temporary.chmod(0o666 & ~mask)


def _name(temporary: Path, target: Path, force: bool) -> None:
    if force:
        os.replace(temporary, target)
    else:
        _name_first(temporary, target)
    sync_folder(target.parent)


def _name_first(temporary: Path, target: Path) -> None:
    """Give a file a name that no other has got while we worked."""
    try:
        try:
            os.link(temporary, target)  # refuses to replace a file; a rename would not
        except FileExistsError:
            raise
        except OSError:  # the file system has no hard links; an empty file of this name refuses in their place
            os.close(os.open(target, os.O_CREAT | os.O_EXCL))
            try:
                os.replace(temporary, target)
            except OSError:
                target.unlink()
                raise
    except FileExistsError:
        raise OutputError(f"{target}: appeared while the work was going on; --force replaces it") from None


def sync_folder(folder: str | PathLike[str]) -> None:
    """Bring the names in a folder to disk, where the system has a way to, and the folder may be read."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems know of no such thing
            raise
    finally:
        os.close(handle)


def _reason(error: OSError | ValueError) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _shown(path: str | PathLike[str]) -> str:
    return os.fspath(path).replace("\0", "\\0")
