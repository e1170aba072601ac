"""The local pool: hands tasks to a fork server and gives back what came of them, in the order in which they end."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

from caffeinit.batch.tasks import Task
from caffeinit.errors import CaffeinitError

Record = dict[str, Any]
_NUMERIC_LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_MOST_STARTS = 5  # a server that is killed so often will not come to the end


class ServerEndedError(Exception):
    """The fork server is gone, and with it the models in work."""


class ForkServer:
    """A fork server process; safe to use from several threads."""

    def __init__(self, work: Path, threads: int) -> None:
        """Start it.

        Args:
            work: folder for what is being made.
            threads: for each model; 0 for one per core.
        """
        self.work, self.threads = work, threads
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Record]] = {}
        self._count = 0
        environment = dict(os.environ)
        for name in _NUMERIC_LIBRARIES if threads else ():
            environment.setdefault(name, str(threads))
        # A session of its own: Ctrl-C reaches the batch alone, which then closes the server's stdin.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "caffeinit.batch.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def submit(self, task: Task) -> Future[Record]:
        """Ask for a task; the future gives its record, or ServerEndedError."""
        future: Future[Record] = Future()
        with self._lock:
            self._count += 1
            self._waiting[self._count] = future
            request = {"number": self._count, "task": asdict(task), "work": str(self.work), "threads": self.threads}
            assert self.process.stdin is not None
            try:
                self.process.stdin.write(json.dumps(request).encode() + b"\n")
                self.process.stdin.flush()
            except OSError:
                self._waiting.pop(self._count, None)
                future.set_exception(ServerEndedError())
        return future

    def close(self) -> None:
        """End the server and all that it runs."""
        assert self.process.stdin is not None
        if not self._count:  # it may still be importing, for nothing
            self.process.kill()
        with contextlib.suppress(OSError):  # it is gone already
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as answers:
            for line in answers:
                answer = json.loads(line)
                if "number" in answer:
                    with self._lock:
                        future = self._waiting.pop(answer["number"])
                    future.set_result(answer["record"])
        with self._lock:
            left, self._waiting = self._waiting, {}
        for future in left.values():
            future.set_exception(ServerEndedError())


def run_here(
    tasks: Sequence[Task], work: Path, jobs: int, threads: int, server: ForkServer | None = None
) -> Iterator[tuple[Task, Record]]:
    """Run tasks on this machine and yield each with its record, as they end.

    When the server itself is killed, it is started again and the models that were in work are done again, twice at most.

    Args:
        jobs: models at a time. threads: for each; 0 for one per core.
        server: one for the same folder and threads that has been started already; it is closed at the end.
    Raises:
        CaffeinitError: the server does not stay alive.
    """
    if not tasks:
        return
    todo, tries = list(reversed(tasks)), dict.fromkeys((t.name for t in tasks), 0)
    running: dict[Future[Record], Task] = {}
    ready: list[tuple[Task, Record]] = []
    starts, server = 1, server or ForkServer(work, threads)
    try:
        while todo or running:
            while todo and len(running) < jobs:
                task = todo.pop()
                tries[task.name] += 1
                running[server.submit(task)] = task
            yield from ready  # only now: whoever takes a record has something to do with it, and the next model runs
            ready = []
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            lost = any(future.exception() is not None for future in ended)
            for future in wait(running).done if lost else ended:  # all that it ran ends with a server
                task = running.pop(future)
                if future.exception() is None:
                    ready.append((task, future.result()))
                elif tries[task.name] < 2:
                    todo.append(task)
                else:
                    ready.append(
                        (task, {"result": "failed", "reason": "the process that starts models was killed, twice"})
                    )
            if lost and todo:
                server.close()
                starts += 1
                if starts > _MOST_STARTS:
                    raise CaffeinitError(
                        "the process that starts models was killed again and again; is there enough memory? "
                        "Run the same command again to go on"
                    )
                server = ForkServer(work, threads)
        yield from ready
    finally:
        server.close()
