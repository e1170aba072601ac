"""The whole batch: find the models, leave what is done, run the rest, keep account.

The order of steps makes a kill at any moment harmless: a model's outputs lie complete in OUT/.batch/done before its line
is in the manifest, the line is there before they get their names, and a line whose outputs are not all in their places
is completed from there, or done again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from caffeinit.batch.manifest import Entry, Manifest, append_time
from caffeinit.batch.planning import WORK, Order, Plan, complete, plan
from caffeinit.batch.tasks import Task
from caffeinit.errors import OutputError

MANIFEST, TIMES = "manifest.jsonl", "times.jsonl"
Executor = Callable[[list[Task], Path], Iterator[tuple[Task, dict[str, Any]]]]


def from_long_to_short(tasks: list[Task]) -> list[Task]:
    """Return tasks in the order in which they should start: a long one at the end would keep one core busy alone."""
    return sorted(tasks, key=lambda task: -task.cost)


def run(
    order: Order,
    execute: Executor,
    finished: Callable[[Entry, float, int, int], None],
    told: Callable[[str], None] = lambda note: None,
) -> list[Entry]:
    """Run a batch and return what came of every model, in the manifest's order.

    Args:
        execute: runs tasks and yields them with their records, as they end.
        finished: called for each model with its entry, its seconds, and how many of how many are done.
        told: called with what of the settings has no effect, before work begins.
    Raises:
        CaffeinitError: the zoo, the output folder or an option makes no sense.
    """
    try:
        (order.out / WORK).mkdir(parents=True, exist_ok=True)
        if order.report is not None:
            from caffeinit.batch.index import check_index  # only who wants pages pays for the import

            check_index(order.report, order.force)
        with _locked(order.out):
            return _run(order, execute, finished, told)
    except OSError as error:
        where = error.filename or order.out
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"{where}: {reason}; once that is mended, the same command goes on from here") from None


def _run(
    order: Order,
    execute: Executor,
    finished: Callable[[Entry, float, int, int], None],
    told: Callable[[str], None],
) -> list[Entry]:
    manifest = Manifest(order.out / MANIFEST)
    made = plan(order, manifest)
    made.check()
    for note in made.notes:
        told(note)
    if order.report is not None:
        from caffeinit.batch.index import check_not_an_output

        check_not_an_output(order.report, order.out, _outputs(made, manifest))
    _clear(order.out, made, manifest)
    total, count = len(made.todo) + len(made.settled), 0
    for entry in made.settled:
        _forget_outputs(order.out, manifest, entry)
        manifest.append(entry)
        count += 1
        finished(entry, 0, count, total)
    with contextlib.closing(execute(from_long_to_short(made.todo), order.out / WORK)) as results:  # type: ignore[type-var]
        for task, record in results:
            entry = _deliver(order, manifest, task, record)
            count += 1
            append_time(order.out / TIMES, _times(task, record))
            finished(entry, record.get("seconds", 0.0), count, total)
    manifest.entries |= {e.model: e for e in made.left_out}
    manifest.put_in_order(made.names, order.out / WORK / "manifest.new")
    _sweep(order.out)
    entries = list(manifest.entries.values())
    if order.report is not None:
        from caffeinit.batch.index import write_index

        write_index(order.report, order.out, order.job, entries)
    return entries


def _outputs(made: Plan, manifest: Manifest) -> Iterator[str]:
    """Yield the paths of all that is written or kept."""
    for task in made.todo:
        yield from task.outputs.values()
    for name in made.have:
        yield from manifest.entries[name].outputs


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the output folder against a second batch; the system lets go whatever happens to this process."""
    with open(out / WORK / "lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{out}: another batch is writing there; wait for its end or give another -o") from None
        yield


def _clear(out: Path, made: Plan, manifest: Manifest) -> None:
    """Put in their places what a killed run had ready, and remove what it left half done."""
    for entry in (manifest.entries[name] for name in made.have):
        if (out / WORK / "done" / entry.key).exists():
            _put_in_place(out, entry)
    shutil.rmtree(out / WORK / "work", ignore_errors=True)
    wanted = {task.key for task in made.todo}
    (out / WORK / "done").mkdir(exist_ok=True)
    for folder in (out / WORK / "done").iterdir():
        if folder.name not in wanted:
            shutil.rmtree(folder)


def _sweep(out: Path) -> None:
    """Remove what is of no use after the end; logs stay."""
    for name in ("work", "done"):
        shutil.rmtree(out / WORK / name, ignore_errors=True)


def _deliver(order: Order, manifest: Manifest, task: Task, record: Mapping[str, Any]) -> Entry:
    """Write a model's line and put its outputs in their places."""
    entry = _entry(task, record)
    if entry.result == "ok":
        owned = {path for e in manifest.entries.values() for path in e.outputs}
        foreign = [p for p in entry.outputs if p not in owned and os.path.lexists(order.out / p)]
        if foreign and not order.force:
            entry.result, entry.outputs = "failed", {}
            entry.reason = f"{order.out / foreign[0]} appeared while the work was going on; --force replaces it"
    _forget_outputs(order.out, manifest, entry)
    manifest.append(entry)
    if entry.result == "ok":
        _put_in_place(order.out, entry)
    shutil.rmtree(order.out / WORK / "done" / task.key, ignore_errors=True)
    return entry


def _put_in_place(out: Path, entry: Entry) -> None:
    """Put a model's outputs where its line says.

    Raises:
        OutputError: they are not where its process left them.
    """
    if not complete(out, entry, move=True):
        raise OutputError(f"{entry.model}: its outputs are not where its process left them, below {out / WORK}")


def _entry(task: Task, record: Mapping[str, Any]) -> Entry:
    beside = next(iter(task.outputs.values()), task.name)
    places = {n: task.outputs.get(n, str(PurePosixPath(beside).with_name(n))) for n in record.get("outputs", {})}
    return Entry(
        model=task.name,
        job=task.job,
        result=record["result"],
        reason=record["reason"],
        net=task.net,
        weights=task.weights,
        summary=record.get("summary", ""),
        outputs={places[name]: told for name, told in record.get("outputs", {}).items()},
        inputs=task.inputs,
        options=task.options,
        versions=task.versions,
        key=task.key,
    )


def _forget_outputs(out: Path, manifest: Manifest, entry: Entry) -> None:
    """Remove what an earlier run wrote for a model and this one does not write: it would be mistaken for new."""
    old = manifest.entries.get(entry.model)
    for path in old.outputs if old else ():
        if path not in entry.outputs:
            (out / path).unlink(missing_ok=True)


def _times(task: Task, record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": task.name,
        "result": record["result"],
        "seconds": round(record.get("seconds", 0.0), 3),
        "peak_memory": record.get("peak_memory"),
        "machine": record.get("machine", socket.gethostname()),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def summary(entries: list[Entry]) -> dict[str, Any]:
    """Return what came of a batch as plain data."""
    counts = {what: sum(1 for e in entries if e.result == what) for what in ("ok", "failed", "left out")}
    return {"counts": counts, "models": [asdict(e) for e in entries]}
