"""A process that has imported all packages and forks one process per model: python -m caffeinit.batch.server.

Importing takes longer than many a model; a fork takes a few milliseconds and leaves each model a process of its own,
which may crash, hang or eat memory without harm to others. Requests come as lines of JSON on stdin, answers go as lines
to stdout. At the end of stdin everything is ended: a batch that is killed leaves nothing running.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from caffeinit.batch.child import FILES, LOG, RECORD, run_model
from caffeinit.batch.table import JOBS
from caffeinit.cli import VERBS

_FOR_PAGES = ("caffeinit.report", "matplotlib.figure", "matplotlib.backends.backend_svg", "PIL.Image")
_FOR_CLUSTERS = ("sklearn.cluster",)
_TICK = 0.05  # seconds between two looks at the limits
_PAGE = resource.getpagesize()
_KEPT_LOG = 64 << 10  # bytes of a failed model's log that are kept
_PRELOADED = (
    "caffeinit.cli.work",
    "caffeinit.caffe.source",
    "caffeinit.caffe.hdf5",
    "caffeinit.export",
    "caffeinit.images.decode",
    "caffeinit.caffe.rewrite",
)


@dataclass
class _Child:
    """A model in work."""

    number: int
    folder: Path
    done: Path
    logs: Path
    seconds: float | None
    memory: int | None
    began: float
    peak: int = 0
    ended_for: str = ""


class Server:
    """Forks processes, watches their limits, and answers."""

    def __init__(self, requests: int, answers: BinaryIO) -> None:
        """Serve until `requests`, a file descriptor, ends."""
        self.requests, self.answers = requests, answers
        self.children: dict[int, _Child] = {}
        self._rest = b""
        # Children hold the reading end, and end themselves when the writing end is gone: the server was killed.
        self._life, self._alive = os.pipe()
        self._woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def run(self) -> None:
        """Tell that it is ready, and serve until the requests end."""
        try:
            self.answers.write(b'{"ready": true}\n')
            self.answers.flush()
            while True:
                ready, _, _ = select.select([self.requests, self._woken], [], [], _TICK if self.children else None)
                if self._woken in ready:
                    os.read(self._woken, 4096)
                if self.requests in ready and not self._read():
                    return
                self._reap()
                self._watch()
        except BrokenPipeError:
            return  # whoever asked is gone, and with it the need for answers
        finally:
            for pid in self.children:
                os.kill(pid, signal.SIGKILL)

    def _read(self) -> bool:
        """Start what is asked for; False when nothing more will be."""
        piece = os.read(self.requests, 1 << 16)
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._start(json.loads(line))
        return bool(piece)

    def _start(self, request: dict[str, Any]) -> None:
        task, work = request["task"], Path(request["work"])
        done = work / "done" / task["key"]
        if (done / RECORD).exists():
            self._answer(request["number"], _read_record(done))
            return
        folder = work / "work" / f"{task['key']}.{uuid.uuid4().hex[:12]}"
        try:
            folder.mkdir(parents=True)
            done.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"{folder}: cannot be made: {(error.strerror or str(error)).lower()}"
            self._answer(request["number"], {"result": "failed", "reason": reason})
            return
        for name in _needed(task["arguments"]):
            importlib.import_module(name)
        pid = os.fork()
        if pid == 0:
            self._become_child(task, folder, done, request["threads"])
        limits = task["limits"]
        logs = work / "logs" / f"{task['key'][:16]}.log"
        self.children[pid] = _Child(
            request["number"], folder, done, logs, limits["seconds"], limits["memory"], time.monotonic()
        )

    def _become_child(self, task: dict[str, Any], folder: Path, done: Path, threads: int) -> None:
        """Run a model in the process that was just forked; never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._alive)
            os.close(self.requests)
            os.close(self.answers.fileno())
            threading.Thread(target=self._end_with_server, daemon=True).start()
            _offer_to_the_killer()
            run_model(task, folder, done, threads)
            code = 0
        finally:
            os._exit(code)

    def _end_with_server(self) -> None:
        os.read(self._life, 1)
        os._exit(1)

    def _reap(self) -> None:
        """Answer for the children that have ended."""
        while self.children:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if not pid:
                return
            child = self.children.pop(pid)
            record = self._outcome(child, status)
            record.setdefault("seconds", time.monotonic() - child.began)
            record["peak_memory"] = max(child.peak, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
            if record["result"] != "ok":
                _keep_log(child)
            shutil.rmtree(child.folder, ignore_errors=True)
            self._answer(child.number, record)

    def _outcome(self, child: _Child, status: int) -> dict[str, Any]:
        if (child.done / RECORD).exists():
            return _read_record(child.done)
        told = _read_record(child.folder) if (child.folder / RECORD).exists() and not child.ended_for else {}
        if told.get("result") in ("failed", "left out"):
            return told
        code = os.waitstatus_to_exitcode(status)
        return {"result": "failed", "reason": child.ended_for or _ending(code)}

    def _watch(self) -> None:
        """End the children that take too long or too much memory."""
        for pid, child in self.children.items():
            size = resident_bytes(pid)
            child.peak = max(child.peak, size)
            taken = time.monotonic() - child.began
            if child.seconds is not None and taken > child.seconds:
                child.ended_for = f"took longer than the time limit of {child.seconds:g} s"
            elif child.memory is not None and size > child.memory:
                child.ended_for = f"took more memory than the limit of {child.memory / 2**20:.0f} MB"
            else:
                continue
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so that the number is still this child's

    def _answer(self, number: int, record: dict[str, Any]) -> None:
        self.answers.write(json.dumps({"number": number, "record": record}).encode() + b"\n")
        self.answers.flush()


def _needed(arguments: list[str]) -> list[str]:
    """Return the modules that a task will import, and that take long: here once, instead of in each child."""
    draws = any(a.startswith("--method=") and a.endswith("kmeans") for a in arguments)
    return [*(_FOR_PAGES if "--report" in arguments else ()), *(_FOR_CLUSTERS if draws else ())]


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_bytes())
        is_whole = isinstance(record["reason"], str) and record["result"] in ("ok", "failed", "left out")
        if is_whole and not any("/" in name for name in record.get("outputs", {})):
            return record
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return {"result": "failed", "reason": f"{folder / RECORD}: is no record of a model. Remove the folder"}


def _ending(code: int) -> str:
    """Return in words how a process ended that left no record."""
    if code == -signal.SIGKILL:
        return "the process was killed from outside (SIGKILL); the system does that when memory runs out"
    if code < 0:
        return f"the process crashed ({signal.Signals(-code).name})"
    return f"the process ended without a result (exit code {code})"


def _keep_log(child: _Child) -> None:
    """Keep what a failed model printed, if it did."""
    try:
        text = (child.folder / LOG).read_bytes()[-_KEPT_LOG:]
    except FileNotFoundError:
        return
    if text:
        child.logs.parent.mkdir(parents=True, exist_ok=True)
        child.logs.write_bytes(text.replace(f"{child.folder / FILES}/".encode(), b""))


def resident_bytes(pid: int) -> int:
    """Return the memory that a process holds; 0 where the system does not tell, or it has just ended."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _offer_to_the_killer() -> None:
    """Let the system choose this process first when memory runs out, not the one that keeps account."""
    if os.path.exists("/proc/self/oom_score_adj"):
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")


def main() -> None:
    """Import everything, then serve. What anything prints goes to stderr: stdout is for answers."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in (*_PRELOADED, *(f"caffeinit.cli.{job}_verb" for job in JOBS if job in VERBS)):
        importlib.import_module(name)
    Server(os.dup(0), answers).run()


if __name__ == "__main__":
    main()
