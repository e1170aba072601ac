"""What is to be done: every file of the zoo looked at, held against what the manifest says is done. Nothing is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import click

from caffeinit.batch.beside import completed
from caffeinit.batch.child import FILES, describe
from caffeinit.batch.fingerprints import pictures_digest
from caffeinit.batch.manifest import Entry, Manifest
from caffeinit.batch.pairing import Matchmaker, Model, pair
from caffeinit.batch.settings import Said, Settings
from caffeinit.batch.table import JOBS, Job, setting_name
from caffeinit.batch.tasks import Limits, Task, build_task, limits_of, merged, output_paths, parsed, refusal
from caffeinit.batch.zoo import search_zoo
from caffeinit.errors import CaffeinitError, OptionError, OutputError
from caffeinit.images.files import natural_key
from caffeinit.storage.files import sync_folder

WORK = ".batch"


@dataclass(frozen=True)
class Order:
    """What a user asks for.

    Attributes:
        options: parameter of the single command -> values as typed, with absolute paths.
        force: replace files in the way that are not this batch's.
        report: where the index of the pages goes; None for no pages.
    """

    zoo: Path
    out: Path
    job: str
    options: Mapping[str, list[str]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    force: bool = False
    report: Path | None = None


@dataclass
class Plan:
    """What is to be done.

    Attributes:
        todo: the tasks, in order. why: their names -> why they are not done already.
        have: models that are done. settled: failures that are known before any work. left_out: what is no model.
        lacking: models that an option is not given for -> which, and where it can be given.
        notes: what of the settings has no effect.
    """

    todo: list[Task] = field(default_factory=list)
    why: dict[str, str] = field(default_factory=dict)
    have: list[str] = field(default_factory=list)
    settled: list[Entry] = field(default_factory=list)
    left_out: list[Entry] = field(default_factory=list)
    lacking: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Refuse to begin where an option is not given.

        Raises:
            OptionError: naming the first model, and how many there are.
        """
        if self.lacking:
            model, reason = next(iter(self.lacking.items()))
            more = f"\nThat is the first of {len(self.lacking)} models" if len(self.lacking) > 1 else ""
            raise OptionError(f"{model}: {reason}{more}")

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        todo = [
            {
                "model": t.name,
                "net": t.net,
                "weights": t.weights,
                "outputs": [*t.outputs.values()],
                "why": self.why[t.name],
            }
            for t in self.todo
        ]
        rest = {"failed": self.settled, "left out": self.left_out}
        return {
            "todo": todo,
            "have": self.have,
            "lacking": self.lacking,
            "notes": self.notes,
            **{word: {e.model: e.reason for e in entries} for word, entries in rest.items()},
        }

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
    if order.out == order.zoo:
        raise OptionError(f"--output {order.out}: is the zoo itself; the results need a folder of their own")
    zoo = search_zoo(order.zoo, order.out)
    settings = Settings(order.zoo, zoo.settings)
    said = {path: settings.of(path, order.job) for path in (*zoo.nets, *zoo.weights, *zoo.onnx)}
    states = {path: _state(job, order.options, said[path]) for path in zoo.nets}
    maker = Matchmaker(zoo, said, states)
    found = pair(maker, job.needs, job.takes_onnx, said)
    made = Plan()
    made.left_out = [Entry(n, order.job, "left out", r) for n, r in found.left_out.items()]
    made.settled = [Entry(n, order.job, "failed", r) for n, r in found.failures.items()]
    if not found.models and not found.failures:
        raise CaffeinitError(f"{order.zoo}: no model for job {order.job} is in or below this folder")
    outputs = output_paths(job, found.models)

    def build(model: Model) -> Task | Entry | None:
        own = settings.of(model.net, order.job, [model.weights] if model.weights else [])
        options = merged(order.options, own)
        try:
            options = completed(maker, model.net, job, options)
        except CaffeinitError as error:
            return Entry(model.name, order.job, "failed", str(error), model.net, model.weights)
        parsed(job, options, own)  # refuses what the verb would refuse
        if lacks := _lacking(job, options):
            made.lacking[model.name] = lacks
            return None
        try:
            limits, pages = limits_of(own, *_limits(order)), order.report is not None
            return build_task(order.zoo, model, job, outputs[model.name], options, limits, pages)
        except CaffeinitError as error:
            return Entry(model.name, order.job, "failed", str(error), model.net, model.weights)

    with ThreadPoolExecutor() as pool:  # digests are computed without holding the interpreter
        built = list(pool.map(build, sorted(found.models, key=lambda m: natural_key(m.name))))
    made.notes = settings.unmatched()
    made.lacking = dict(sorted(made.lacking.items(), key=lambda item: natural_key(item[0])))
    _compare(order, manifest, [b for b in built if b is not None], made)
    return made


def _limits(order: Order) -> tuple[float | None, int | None]:
    return order.limits.seconds, order.limits.memory


def _check_manifest(order: Order, manifest: Manifest) -> None:
    other = next((e.job for e in manifest.entries.values() if e.job != order.job), None)
    if other is not None:
        raise OutputError(f"{order.out}: holds the results of job {other}; give job {order.job} a folder of its own")


def _state(job: Job, options: Mapping[str, list[str]], said: Said) -> dict[str, Any]:
    """Return the arguments of `net_shapes` for a net."""
    from caffeinit.cli.common import parse_shapes

    given = merged(options, said)
    known = parsed(job, given, said)
    state: dict[str, Any] = {name: known[name] for name in ("phase", "level", "stages") if name in given}
    if known.get("input_shapes"):
        try:
            state["input_shapes"] = parse_shapes(known["input_shapes"])
        except click.ClickException as error:
            raise refusal(error, [where] if (where := said.origin.get("input_shapes")) else []) from None
    return state


def _lacking(job: Job, options: Mapping[str, list[str]]) -> str:
    """Return which option that the job needs is not given; empty where all are."""
    known = {p.name: p for p in job.command.params if isinstance(p, click.Option)}
    missing = [setting_name(known[name]) for name in job.required if name in known and not options.get(name)]
    if not missing:
        return ""
    return (
        f"job {job.verb} needs --{missing[0].replace('_', '-')}: on the command line for all, or as {missing[0]} in a "
        "caffeinit.toml"
    )


def _compare(order: Order, manifest: Manifest, built: list[Task | Entry], made: Plan) -> None:
    """Sort tasks into what is done and what is not."""
    owned = {path for entry in manifest.entries.values() for path in entry.outputs}

    def is_done(task: Task | Entry) -> bool:
        if isinstance(task, Entry) or (old := manifest.entries.get(task.name)) is None:
            return False
        return old.result == "ok" and old.key == task.key and complete(order.out, old, move=False)

    with ThreadPoolExecutor() as pool:
        done = list(pool.map(is_done, built))
    for task, has_been_done in zip(built, done, strict=True):
        if isinstance(task, Entry):
            made.settled.append(task)
            continue
        if has_been_done:
            made.have.append(task.name)
            continue
        old = manifest.entries.get(task.name)
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


def complete(out: Path, entry: Entry, move: bool) -> bool:
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
            sync_folder(target.parent)
    return True


def _is(path: Path, told: Mapping[str, Any]) -> bool:
    return os.path.isfile(path) and path.stat().st_size == told["bytes"] and describe(path) == told
