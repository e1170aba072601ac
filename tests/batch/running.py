"""The command line's batch, run in this process or ready to be run in another, and what it leaves behind."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

from caffeinit.cli import main


def command(place, *more, out="out"):
    return [
        *(sys.executable, "-m", "caffeinit", "batch", str(place / "zoo"), "-o", str(place / out)),
        *("--images", str(place / "pictures"), "--mode", "normalize", *map(str, more)),
    ]


@dataclass
class Outcome:
    returncode: int
    stdout: str
    stderr: str


def run_here(arguments):
    """Run the command line in this process; a traceback of ours would be an exception here."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    return Outcome(stopped.value.code or 0, out.getvalue(), err.getvalue())


def batch(place, *more, out="out"):
    return run_here(command(place, *more, out=out)[3:])


def entries(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def times(out):
    return [json.loads(line)["model"] for line in (out / "times.jsonl").read_text().splitlines()]
