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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import click

from caffeinit.batch.child import FILES, describe
from caffeinit.batch.manifest import Entry, Manifest, append_time
from caffeinit.batch.pairing import Matchmaker, Model, pair
from caffeinit.batch.settings import Said, Settings
from caffeinit.batch.table import JOBS, Job, setting_name
from caffeinit.batch.tasks import Limits, Task, build_task, limits_of, merged, output_paths, parsed, pictures_digest
from caffeinit.batch.zoo import search_zoo
from caffeinit.errors import CaffeinitError, OptionError, OutputError
from caffeinit.images.files import natural_key

MANIFEST, TIMES, WORK = "manifest.jsonl", "times.jsonl", ".batch"
Executor = Callable[[list[Task], Path], Iterator[tuple[Task, dict[str, Any]]]]


@dataclass(frozen=True)
class Order:
    """What a user asks for.

    Attributes:
        options: parameter of the single command -> values as typed, with absolute paths.
        force: replace files in the way that are not this batch's.
    """

    zoo: Path
    out: Path
    job: str
    options: Mapping[str, list[str]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    force: bool = False


@dataclass
class Plan:
    """What is to be done.

    Attributes:
        todo: the tasks, in order. why: their names -> why they are not done already.
        have: models that are done. settled: failures that are known before any work. left_out: what is no model.
    """

    todo: list[Task] = field(default_factory=list)
    why: dict[str, str] = field(default_factory=dict)
    have: list[str] = field(default_factory=list)
    settled: list[Entry] = field(default_factory=list)
    left_out: list[Entry] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Everything that gets a line in the manifest, in its order."""
        names = [t.name for t in self.todo] + self.have + [e.model for e in (*self.settled, *self.left_out)]
        return sorted(names, key=natural_key)


def plan(order: Order, manifest: Manifest) -> Plan:
    """Look at the zoo and at what is done, and return what is to be done; nothing is written.

    Raises:
        CaffeinitError: the zoo, a settings file or an option makes no sense.
    """
    pictures_digest.cache_clear()  # they may have changed since an earlier batch of this process
    job = JOBS[order.job]
    _check_manifest(order, manifest)
    zoo = search_zoo(order.zoo, order.out)
    settings = Settings(order.zoo, zoo.settings)
    said = {path: settings.of(path, order.job) for path in (*zoo.nets, *zoo.weights, *zoo.onnx)}
    states = {path: _state(job, order.options, said[path]) for path in zoo.nets}
    found = pair(Matchmaker(zoo, said, states), job.needs, job.takes_onnx, said)
    made = Plan()
    made.left_out = [Entry(n, order.job, "left out", r) for n, r in found.left_out.items()]
    made.settled = [Entry(n, order.job, "failed", r) for n, r in found.failures.items()]
    if not found.models and not found.failures:
        raise CaffeinitError(f"{order.zoo}: no model for job {order.job} is in or below this folder")
    outputs = output_paths(job, found.models)

    def build(model: Model) -> Task | Entry:
        own = settings.of(model.net, order.job, [model.weights] if model.weights else [])
        options = merged(order.options, own)
        _check_options(job, model, options, own)
        try:
            return build_task(order.zoo, model, job, outputs[model.name], options, limits_of(own, *_limits(order)))
        except CaffeinitError as error:
            return Entry(model.name, order.job, "failed", str(error), model.net, model.weights)

    with ThreadPoolExecutor() as pool:  # digests are computed without holding the interpreter
        built = list(pool.map(build, sorted(found.models, key=lambda m: natural_key(m.name))))
    _compare(order, manifest, built, made)
    return made


def from_long_to_short(tasks: list[Task]) -> list[Task]:
    """Return tasks in the order in which they should start: a long one at the end would keep one core busy alone."""
    return sorted(tasks, key=lambda task: -task.cost)


def _limits(order: Order) -> tuple[float | None, int | None]:
    return order.limits.seconds, order.limits.memory


def _check_manifest(order: Order, manifest: Manifest) -> None:
    other = next((e.job for e in manifest.entries.values() if e.job != order.job), None)
    if other is not None:
        raise OutputError(f"{order.out}: holds the results of job {other}; give job {order.job} a folder of its own")


def _state(job: Job, options: Mapping[str, list[str]], said: Said) -> dict[str, Any]:
    """Return the arguments of `net_shapes` for a net."""
    from caffeinit.cli.common import parse_shapes

    known = parsed(job, merged(options, said), said)
    state: dict[str, Any] = {name: known[name] for name in ("phase", "level", "stages") if name in known}
    if known.get("input_shapes"):
        try:
            state["input_shapes"] = parse_shapes(known["input_shapes"])
        except click.ClickException as error:
            where = said.origin.get("input_shapes", "")
            raise OptionError(f"{where}: {error.format_message()}" if where else error.format_message()) from None
    return state


def _check_options(job: Job, model: Model, options: Mapping[str, list[str]], said: Said) -> None:
    params = parsed(job, options, said)
    known = {p.name: p for p in job.command.params if isinstance(p, click.Option)}
    for name in job.required:
        if name in known and not options.get(name):
            option = setting_name(known[name])
            raise OptionError(
                f"{model.name}: job {job.verb} needs --{option.replace('_', '-')}: on the command line for all, or as "
                f"{option} in a caffeinit.toml"
            )
    assert params


def _compare(order: Order, manifest: Manifest, built: list[Task | Entry], made: Plan) -> None:
    """Sort tasks into what is done and what is not."""
    owned = {path for entry in manifest.entries.values() for path in entry.outputs}
    for task in built:
        if isinstance(task, Entry):
            made.settled.append(task)
            continue
        old = manifest.entries.get(task.name)
        if old and old.result == "ok" and old.key == task.key and _complete(order.out, old, move=False):
            made.have.append(task.name)
            continue
        foreign = [p for p in task.outputs.values() if p not in owned and os.path.lexists(order.out / p)]
        if foreign and not order.force:
            reason = f"{order.out / foreign[0]} exists already and is not this batch's; --force replaces it"
            made.settled.append(Entry(task.name, order.job, "failed", reason, task.net, task.weights))
            continue
        made.todo.append(task)
        made.why[task.name] = _why(old, task)


def _why(old: Entry | None, task: Task) -> str:
    """Return why a task is not done already."""
    if old is None or old.result == "left out":
        return "new"
    if old.result == "failed":
        return "failed before"
    for what in ("inputs", "options", "versions"):
        if getattr(old, what) != getattr(task, what):
            return f"{what} changed"
    return "outputs missing or changed"


def _complete(out: Path, entry: Entry, move: bool) -> bool:
    """Return whether an entry's outputs are in their places, or lie ready for them; `move` puts those there."""
    ready = out / WORK / "done" / entry.key / FILES
    for path, told in entry.outputs.items():
        target, source = out / path, ready / PurePosixPath(path).name
        if _is(target, told):
            continue
        if not _is(source, told):
            return False
        if move:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
    return True


def _is(path: Path, told: Mapping[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == told["bytes"] and describe(path) == told


def run(order: Order, execute: Executor, finished: Callable[[Entry, float, int, int], None]) -> list[Entry]:
    """Run a batch and return what came of every model, in the manifest's order.

    Args:
        execute: runs tasks and yields them with their records, as they end.
        finished: called for each model with its entry, its seconds, and how many of how many are done.
    Raises:
        CaffeinitError: the zoo, the output folder or an option makes no sense.
    """
    try:
        (order.out / WORK).mkdir(parents=True, exist_ok=True)
        with _locked(order.out):
            return _run(order, execute, finished)
    except OSError as error:
        where = error.filename or order.out
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"{where}: {reason}; once that is mended, the same command goes on from here") from None


def _run(order: Order, execute: Executor, finished: Callable[[Entry, float, int, int], None]) -> list[Entry]:
    manifest = Manifest(order.out / MANIFEST)
    made = plan(order, manifest)
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
    return list(manifest.entries.values())


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
    for name in made.have:
        assert _complete(out, manifest.entries[name], move=True), name
    shutil.rmtree(out / WORK / "work", ignore_errors=True)
    wanted = {task.key for task in made.todo}
    for folder in (out / WORK / "done").glob("*"):
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
        assert _complete(order.out, entry, move=True), f"{task.name}: its outputs are not where its process left them"
    shutil.rmtree(order.out / WORK / "done" / task.key, ignore_errors=True)
    return entry


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
