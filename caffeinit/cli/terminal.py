"""Lines for the terminal. All that the verbs print without a table goes through here.

Who reads our output may go away (`caffeinit inspect | head`). What is left of it is then printed for nobody, and the work
goes on: files are written, and the exit code tells what came of it.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

import click

from caffeinit.printing import printable_lines


def say(text: str, err: bool = False) -> None:
    """Print lines to stdout, or stderr, with control characters in them spelt as escapes."""
    try:
        click.echo(printable_lines(text), err=err)
    except BrokenPipeError:
        read_by_nobody(sys.stderr if err else sys.stdout)


def write_out(text: str) -> None:
    """Write data to stdout as it is."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        read_by_nobody(sys.stdout)


def read_by_nobody(stream: TextIO) -> None:
    """Let what is written to a stream from now on vanish, also what Python still holds of it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
