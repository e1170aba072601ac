"""What happens in a model's own process: the single command is run, and what came of it is left as files.

A model is worked on in WORK/<key>.<attempt>/: `files/` takes the outputs, `log` what the command prints, `record.json`
what came of it. When all is well the folder is renamed to DONE/<key>/, at once and whole: whoever finds it there need not
do the model again.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from caffeinit.batch.manifest import as_line
from caffeinit.batch.table import JOBS
from caffeinit.cli.common import IN_BATCH
from caffeinit.errors import CaffeinitError, UnmatchedError
from caffeinit.printing import printable_lines

RECORD, FILES, LOG = "record.json", "files", "log"


def run_model(task: Mapping[str, Any], folder: Path, done: Path, threads: int) -> None:
    """Run a task in this process and leave its record in `folder`, or all of it in `done`.

    Args:
        task: `tasks.Task` as plain data.
        folder: an empty folder of this attempt.
        threads: for the command; 0 for one per core.
    """
    files = folder / FILES
    files.mkdir()
    began = time.monotonic()
    with _printing_to(folder / LOG):
        result, reason = _result(task, files, threads)
    record: dict[str, Any] = {"result": result, "reason": reason.replace(f"{files}/", "")}
    if not reason:
        _hide_place(files)
        record["outputs"] = {p.name: describe(p) for p in sorted(files.iterdir())}
        record["summary"] = _summary(task, files, folder / LOG)
    record["seconds"] = time.monotonic() - began
    write_record(folder, record)
    if not reason:
        try:
            os.rename(folder, done)
        except OSError:
            if not (done / RECORD).exists():  # else another attempt was faster, and its record counts
                raise


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all, and on disk before this returns."""
    temporary = folder / f"{RECORD}.new"
    with open(temporary, "wb") as file:
        file.write(as_line(record))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / RECORD)


def describe(path: Path) -> dict[str, Any]:
    """Return what the manifest keeps of an output."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _result(task: Mapping[str, Any], files: Path, threads: int) -> tuple[str, str]:
    """Run the command and return what came of it, as in `manifest.Entry`, and why, where it is not ok."""
    try:
        reason = _reason(task, files, threads)
    except UnmatchedError as error:
        return "left out", str(error)
    return ("failed" if reason else "ok"), reason


def _reason(task: Mapping[str, Any], files: Path, threads: int) -> str:
    """Run the command and return why it failed; nothing if it did not.

    Raises:
        UnmatchedError: none of an option's patterns matches in this model.
    """
    arguments = [str(a).replace("{files}", str(files)) for a in task["arguments"]]
    if task["sees_threads"]:
        arguments.append(f"--threads={threads}")
    try:
        with contextlib.suppress(FileNotFoundError):  # on another machine; all paths are absolute anyway
            os.chdir(task["working_folder"])
        with JOBS[task["job"]].command.make_context("caffeinit", arguments[1:]) as context:
            context.meta[IN_BATCH] = True
            context.command.invoke(context)
    except UnmatchedError:
        raise
    except CaffeinitError as error:
        return str(error)
    except click.ClickException as error:
        return error.format_message()
    except SystemExit as stopped:
        return "" if not stopped.code else f"the command ended with exit code {stopped.code}"
    except MemoryError as error:
        return f"out of memory: {error}" if str(error) else "out of memory"
    except Exception as error:  # a mistake of ours: the batch goes on, and the log tells where it happened
        traceback.print_exc()
        return f"internal error, please report it: {type(error).__name__}: {error}"
    return ""


@contextlib.contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Send what this process prints, from Python or from native libraries, to a file."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _hide_place(files: Path) -> None:
    """Take the folder of this attempt out of the texts that were written: it would differ from run to run."""
    place = f"{files}/"
    for path in files.iterdir():
        if path.suffix in (".json", ".html"):
            shown = html.escape(printable_lines(place)) if path.suffix == ".html" else place
            raw = path.read_bytes()
            new = raw.replace(shown.encode(), b"")
            if new != raw:
                path.write_bytes(new)


def _summary(task: Mapping[str, Any], files: Path, log: Path) -> str:
    """Return in one line what was done: counts from the result, or the first line that the command prints."""
    for path in sorted(files.glob("*.json")) if JOBS[task["job"]].writes_json else []:
        found = json.loads(path.read_bytes())
        units = found.get("units", [])
        changed = sum(1 for u in units if u.get("done"))
        left = sum(1 for u in units if u.get("reason"))
        text = f"{changed} of {len(units)} units changed" if changed else f"{len(units)} units"
        taken = "".join(f"; input {name} {words}" for name, words in found.get("taken", {}).items())
        return text + (f", {left} left alone" if left else "") + taken
    lines = log.read_text(errors="replace").replace(f"{files}/", "").strip().splitlines()
    return re.sub(r"\s+", " ", lines[0]) if lines else ""
