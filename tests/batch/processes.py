"""Processes of this machine, as /proc tells of them: only those that a test started are ever touched."""

import os
import time
from pathlib import Path

import pytest

PROC = Path("/proc")


def parents():
    """Return process -> its parent, of all that run; skips the test where the system does not tell."""
    if not PROC.exists():
        pytest.skip("needs /proc")
    found = {}
    for entry in filter(str.isdigit, os.listdir(PROC)):
        fields = stat_of(int(entry))
        if fields and fields[0] != "Z":
            found[int(entry)] = int(fields[1])
    return found


def stat_of(pid):
    """Return a process's state, parent and so on; nothing if it is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def below(pid):
    """Return the processes that a process has started, and those that they have."""
    table = parents()
    found = [child for child, parent in table.items() if parent == pid]
    return found + [deep for child in found for deep in below(child)]


def servers_of(pid):
    """Return the fork servers that a process has started."""
    return [p for p, parent in parents().items() if parent == pid and b"caffeinit.batch.server" in command_of(p)]


def command_of(pid):
    try:
        return (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


def log_of(pid):
    """Return the file that a process prints to."""
    try:
        return os.readlink(PROC / str(pid) / "fd" / "1")
    except OSError:
        return ""


def wait_for(true, seconds=60):
    """Wait until something is true, and return it."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
    return found
