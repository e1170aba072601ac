"""The jobs of tools/bench on files: a 240 MB caffemodel read and written back, held against a copy, and the start-up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_jobs import Given, in_turns, peak_bytes, write_net

import caffeinit

Work = Callable[[], Any]


def _load(folder: Path) -> tuple[Work, Work]:
    path, weights = _written(folder)
    return lambda: _copy(weights), lambda: caffeinit.load(path, weights)


def _save(folder: Path) -> tuple[Work, Work]:
    path, weights = _written(folder)
    net = caffeinit.load(path, weights)

    def save() -> None:
        net.params["conv1"][0][...] += 1
        net.save(folder / "saved.caffemodel", force=True)

    return lambda: _copy(weights), save


def _start_up(folder: Path) -> tuple[Work, Work]:
    return lambda: _python("-c", ""), lambda: _python("-m", "caffeinit", "--help")


# Name -> what makes the thing to compare with and the job.
FILE_JOBS: dict[str, Callable[[Path], tuple[Work, Work]]] = {
    "load 240 MB / copy": _load,
    "save 240 MB / copy": _save,
    "caffeinit --help / python -c ''": _start_up,
}


def bench_file(job: str, given: Given, folder: Path) -> dict[str, Any]:
    """Return the row of one job; to be called in a process of its own, whose memory is part of the result."""
    base, run = FILE_JOBS[job](folder)
    run()
    peak = peak_bytes()
    found = in_turns(base, run, given)
    del found["result"]
    return {"net": "files", "job": job, **found, "peak_mb": peak / 2**20}


def _written(folder: Path) -> tuple[Path, Path]:
    """Return CaffeNet's prototxt and a caffemodel for it, written before if it is not there yet.

    A child writes it: what that takes is not part of the job's memory.
    """
    path, weights = write_net("caffenet", folder), folder / "caffenet.caffemodel"
    if not weights.exists():
        lines = (
            f"import caffeinit; n = caffeinit.load({str(path)!r}); [a.fill(1) for p in n.params.values() for a in p]"
        )
        _python("-c", f"{lines}; n.save({str(weights)!r})")
    return path, weights


def _copy(weights: Path) -> None:
    shutil.copyfile(weights, weights.with_name("copy"))
    with open(weights.with_name("copy"), "rb+") as file:
        os.fsync(file.fileno())


def _python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
