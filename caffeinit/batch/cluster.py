"""The same tasks on the machines of a Dask cluster: pip install 'caffeinit[cluster]'.

Every Dask worker keeps a fork server of its own, so that a model that crashes takes no worker with it. Files lie in a
folder that all machines see by the same name. What a worker has finished lies complete in that folder before the worker
says so: if it dies then, whoever is given the model next finds it done.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from caffeinit.batch.fingerprints import versions
from caffeinit.batch.pool import ForkServer, Record, ServerEndedError
from caffeinit.batch.tasks import Task
from caffeinit.errors import CaffeinitError

_CONNECT_SECONDS = 5
_SEEN_SECONDS = 60
_servers: dict[str, ForkServer] = {}
_lock = threading.Lock()


def run_there(tasks: Sequence[Task], work: Path, address: str) -> Iterator[tuple[Task, Record]]:
    """Run tasks on a cluster and yield each with its record, as they end.

    A worker that dies has its models done again elsewhere; one model that takes several workers with it has failed.

    Raises:
        CaffeinitError: there is no such cluster, or its workers do not see the files or compute with other versions.
    """
    if not tasks:
        return
    try:
        import distributed
    except ImportError:
        raise CaffeinitError("--dask needs the package distributed: pip install 'caffeinit[cluster]'") from None
    logging.getLogger("distributed").setLevel(logging.ERROR)  # of lost workers, what matters is said by the batch
    try:
        client = distributed.Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise CaffeinitError(f"--dask {address}: no scheduler answers there: {error}") from None
    with client:
        threads = _check_workers(client, address, work)
        run = uuid.uuid4().hex[:12]  # else the scheduler would hand out what an earlier batch's task gave
        futures = {
            client.submit(execute, task, str(work), threads, key=f"{task.key[:16]}-{run}", pure=False): task
            for task in tasks
        }
        try:
            for future in distributed.as_completed(list(futures)):
                task = futures.pop(future)
                yield task, _seen(_record(future, distributed), work / "done" / task.key)
        finally:
            client.cancel(list(futures))
            client.run(close_servers, str(work))


def _check_workers(client: Any, address: str, work: Path) -> int:
    """See that the workers can do what they will be asked for, and return how many threads a model gets.

    It is the same number everywhere: rates depend on it in their last digits, and so would results on who made them.
    """
    token = work / f"seen-by-all-{uuid.uuid4().hex[:8]}"
    token.touch()
    try:
        found = client.run(look, str(token), on_error="return")
    finally:
        token.unlink()
    if not found:
        raise CaffeinitError(f"--dask {address}: the cluster has no workers")
    for worker, answer in found.items():
        if isinstance(answer, BaseException):
            raise CaffeinitError(
                f"--dask {address}: worker {worker} cannot run caffeinit: {type(answer).__name__}: {answer}. "
                "Is it installed there?"
            )
        theirs, sees, _ = answer
        if not sees:
            raise CaffeinitError(
                f"--dask {address}: worker {worker} does not see {work.parent}: zoo, pictures and output have to lie in "
                "a folder that all machines share, under the same name"
            )
        differing = [f"{n} {theirs.get(n)} (here {v})" for n, v in versions().items() if theirs.get(n) != v]
        if differing:
            raise CaffeinitError(
                f"--dask {address}: worker {worker} has other versions, so that results could differ: "
                f"{', '.join(differing)}"
            )
    return int(min(cores for _, _, cores in found.values()))


def _record(future: Any, distributed: Any) -> Record:
    try:
        record: Record = future.result()
    except distributed.KilledWorker as error:
        return {"result": "failed", "reason": f"the workers that tried it died, one after the other: {error}"}
    except distributed.client.FutureCancelledError as error:
        raise CaffeinitError(f"the cluster gave up: {error}. The same command goes on from here") from None
    return record


def _seen(record: Record, done: Path) -> Record:
    """Wait until this machine sees what another has written: shared folders may show it some seconds later."""
    waited = 0.0
    while record["result"] == "ok" and not os.path.exists(done):
        if waited > _SEEN_SECONDS:
            reason = f"worker {record['machine']} has written {done}, but it cannot be seen from here"
            return {"result": "failed", "reason": reason}
        time.sleep(0.2)
        waited += 0.2
        os.listdir(done.parent)  # asks the folder's server again
    return record


def look(token: str, dask_worker: Any) -> tuple[dict[str, str], bool, int]:
    """Return a worker's versions, whether it sees a file, and its cores for each task that it runs at a time."""
    return versions(), os.path.exists(token), max(1, (os.cpu_count() or 1) // dask_worker.state.nthreads)


def execute(task: Task, work: str, threads: int) -> Record:
    """Run a task on the worker that this is called on."""
    for _ in range(2):
        try:
            record = _server(work, threads).submit(task).result()
        except ServerEndedError:
            _forget(work)
            continue
        return {**record, "machine": socket.gethostname()}
    return {"result": "failed", "reason": "the process that starts models was killed, twice"}


def _server(work: str, threads: int) -> ForkServer:
    """Return this worker's fork server."""
    with _lock:
        if work not in _servers:
            _servers[work] = ForkServer(Path(work), threads)
        return _servers[work]


def _forget(work: str) -> None:
    """Drop a server that has ended; another thread may have done so and started a new one."""
    with _lock:
        server = _servers.get(work)
        if server is not None and server.process.poll() is not None:
            _servers.pop(work).close()


def close_servers(work: str) -> None:
    """End this worker's fork server for a batch."""
    with _lock:
        server = _servers.pop(work, None)
    if server is not None:
        server.close()
