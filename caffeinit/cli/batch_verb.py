"""caffeinit batch."""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caffeinit.batch.table import JOBS, OWNED, Job, options_of
from caffeinit.cli import VERBS
from caffeinit.cli.terminal import say
from caffeinit.cli.verb import Verb
from caffeinit.patterns import first_of

if TYPE_CHECKING:
    from caffeinit.batch.manifest import Entry
    from caffeinit.batch.planning import Order
    from caffeinit.batch.run import Executor

_MOST_REASONS = 12  # why files were left out
_JOBS = [name for name in JOBS if name in VERBS]


class BatchCommand(Verb):
    """A command that also takes the options of the job it runs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the job first: what else may stand on the line depends on it."""
        ctx.meta["job"] = _job_in(args)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the batch's own options and the job's; what a job requires, settings may give as well."""
        own = super().get_params(ctx)
        known = {p.name for p in own}
        more = []
        for option in options_of(JOBS[ctx.meta.get("job", "rescale")]).values():
            if option.name not in known:
                option = copy.copy(option)
                option.required = False
                more.append(option)
        return [*own, *more]


def _job_in(args: list[str]) -> str:
    for index, text in enumerate(args):
        name = text.partition("=")[2] if text.startswith("--job=") else ""
        if text == "--job" and index + 1 < len(args):
            name = args[index + 1]
        if name in _JOBS:
            return name
    return "rescale"


@click.command("batch", cls=BatchCommand)
@click.argument("zoo", type=click.Path(file_okay=False))
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="folder for results.")
@click.option("--job", type=click.Choice(_JOBS), default="rescale", show_default=True, help="what to do with each.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="models at a time.")
@click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), help="seconds that a model may take.")
@click.option("--model-memory", metavar="SIZE", help="memory that a model may take, such as 512M or 4G.")
@click.option(
    "--dask", metavar="ADDRESS", help="run on a Dask cluster: tcp://HOST:8786. Files must lie in a shared folder."
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="write a page with pictures beside each output, and an index of them to this HTML file.",
)
@click.option("--force", is_flag=True, help="replace files in the way that are not this batch's.")
@click.option("--dry-run", is_flag=True, help="list what would be done.")
@click.option("--quiet", is_flag=True, help="no progress and no table.")
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False), help="write the result as JSON here; - is stdout."
)
@click.pass_context
def command(context: click.Context, /, zoo: str, output: str, job: str, **options: Any) -> None:
    """Run one job on all models in a folder, each in a process of its own.

    \b
    caffeinit batch zoo/ -o results/ --images pictures/
    caffeinit batch zoo/ -o results/ --job convert --jobs 4

    Nets and weights are paired by their shapes. Options are those of the single command (see --job JOB --help); a file
    caffeinit.toml in a folder sets them for the nets in and below it. The same command again does only what is missing
    or has changed, also after a kill. results/manifest.jsonl tells what came of each model. A pattern of layers need not
    match in every model; where none does, the model is left out.
    """
    if not hasattr(os, "fork"):
        raise click.ClickException("batch needs a system whose processes can fork, such as Linux or macOS")
    from caffeinit.batch.planning import Order
    from caffeinit.batch.tasks import Limits
    from caffeinit.cli.common import parse_memory
    from caffeinit.cli.targets import PAGE, check_batch_json, check_ending

    if options["dask"] and context.get_parameter_source("jobs") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("--jobs is for this machine; with --dask the cluster's workers tell how many models run")
    size = options["model_memory"]
    limits = Limits(options["time_limit"], None if size is None else parse_memory(size))
    given = _given(context, JOBS[job])
    report = None if options["report"] is None else Path(options["report"]).absolute()
    order = Order(Path(zoo).resolve(), Path(output).resolve(), job, given, limits, options["force"], report)
    check_ending("--report", options["report"], *PAGE)
    check_batch_json(options["json_file"], options["force"])
    if options["dry_run"]:
        _show_plan(order, options["json_file"])
        return
    raise SystemExit(_run(order, options))


def _given(context: click.Context, job: Job) -> dict[str, list[str]]:
    """Return the job's options that were typed, as texts, with absolute paths."""
    from caffeinit.batch.settings import absolute

    typed = {}
    for name, option in options_of(job).items():
        value = context.params.get(name)
        source = context.get_parameter_source(name)
        if name in OWNED or source in (None, click.core.ParameterSource.DEFAULT) or value is None:
            continue
        if option.is_flag:
            typed[name] = ["true"] if value else []
        else:
            values = value if option.multiple else [value]
            typed[name] = [absolute(option, str(v), Path.cwd()) for v in values]
    return typed


def _show_plan(order: Order, json_file: str | None) -> None:
    from caffeinit.batch.manifest import Manifest
    from caffeinit.batch.planning import plan
    from caffeinit.batch.run import MANIFEST
    from caffeinit.cli.common import write_json

    made = plan(order, Manifest(order.out / MANIFEST))
    write_json(json_file, {"job": order.job, **made.to_json()}, force=True)
    if json_file == "-":
        return
    for task in made.todo:
        output = next(iter(task.outputs.values()))
        files = f"{task.net} + {task.weights}" if task.weights else task.net
        say(f"do        {files} -> {output} ({made.why[task.name]})")
    for name in made.have:
        say(f"have      {name}")
    for word, entries in (("left out", made.left_out), ("failed", made.settled)):
        for entry in entries:
            say(f"{word:<9} {entry.model}: {entry.reason}")
    for model, reason in made.lacking.items():
        say(f"lacks     {model}: {reason}")
    for note in made.notes:
        _note(note)
    say(
        f"{len(made.todo)} to do, {len(made.have)} done already, {len(made.left_out)} left out, "
        f"{len(made.settled)} cannot be done" + (f", {len(made.lacking)} lack an option" if made.lacking else "")
    )


def _run(order: Order, options: dict[str, Any]) -> int:
    """Run the batch and show it; returns the exit code."""
    from caffeinit.batch.run import run, summary
    from caffeinit.batch.settings import hint
    from caffeinit.cli.common import write_json
    from caffeinit.cli.tables import lines_and_bar

    with (
        _ending_at_sigterm(),
        lines_and_bar(order.job, options["quiet"]) as show,
        contextlib.ExitStack() as stack,
    ):

        def finished(entry: Entry, seconds: float, done: int, total: int) -> None:
            words = {"ok": "", "failed": "FAILED: ", "left out": "left out: "}[entry.result]
            what = entry.summary if entry.result == "ok" else words + _short(entry.reason)
            show(f"{entry.model}  {what}  {seconds:.1f} s", done, total)

        try:
            entries = run(order, _executor(order, options, stack), finished, _note)
        except KeyboardInterrupt:
            say("stopped; the same command goes on from here", err=True)
            return 1
    failed = [e for e in entries if e.result == "failed"]
    # What was left out on the way, after it was taken up: no pattern of an option matches in it.
    unmatched = [e for e in entries if e.result == "left out" and e.key]
    is_misspelt = bool(unmatched) and not any(e.result == "ok" for e in entries)
    write_json(options["json_file"], {"job": order.job, **summary(entries)}, force=True)
    if options["json_file"] != "-" and not options["quiet"]:
        counts = summary(entries)["counts"]
        say(f"{counts['ok']} ok, {counts['failed']} failed, {counts['left out']} left out; all in {order.out}")
    if options["json_file"] != "-":
        if not options["quiet"]:
            for line in _left_out(e for e in entries if e.result == "left out"):
                say(line)
        if advice := hint(order.job, (e.reason for e in failed)):
            say(advice)
        for entry in failed:
            say(f"failed: {entry.model}: {_short(entry.reason)}")
        if is_misspelt:
            say(f"no model is done; left out: {unmatched[0].model}: {_short(unmatched[0].reason)}")
    return 1 if failed or is_misspelt else 0


def _note(text: str) -> None:
    say(f"note: {text}", err=True)


def _left_out(entries: Iterable[Entry]) -> list[str]:
    """Return a line for each reason why files are no models, with the first of these; all of it is in the manifest."""
    by_reason: dict[str, list[str]] = {}
    for entry in entries:
        by_reason.setdefault(_short(entry.reason), []).append(entry.model)
    lines = [f"left out: {first_of(models, 3)}: {reason}" for reason, models in by_reason.items()]
    more = len(lines) - _MOST_REASONS
    return lines if more <= 0 else [*lines[:_MOST_REASONS], f"left out: {more} more reasons are in the manifest"]


def _executor(order: Order, options: dict[str, Any], stack: contextlib.ExitStack) -> Executor:
    """Return what runs the tasks: this machine, with its cores divided among the jobs, or a cluster."""
    if options["dask"]:
        from caffeinit.batch.cluster import run_there

        return lambda tasks, work: run_there(tasks, work, options["dask"])
    from caffeinit.batch.planning import WORK
    from caffeinit.batch.pool import ForkServer, run_here
    from caffeinit.batch.run import MANIFEST

    jobs, server = options["jobs"], None
    threads = max(1, (os.cpu_count() or 1) // jobs)
    if not (order.out / MANIFEST).exists():
        # There is work then, almost for certain: packages are imported while the zoo is still looked at.
        server = stack.enter_context(contextlib.closing(ForkServer(order.out / WORK, threads)))
    return lambda tasks, work: run_here(tasks, work, jobs, threads, server)


def _short(reason: str) -> str:
    """Return a reason in one line: its beginning, which names the cause; all of it is in the manifest."""
    lines = [" ".join(line.split()) for line in reason.splitlines() if line.strip()]
    most = 3 if len(lines) == 3 else 2
    shown = [line if line.endswith((":", ".", ",")) else f"{line};" for line in lines[:most]]
    more = f" ({len(lines) - most} more lines are in the manifest)" if len(lines) > most else ""
    return " ".join(shown).removesuffix(";") + more


@contextlib.contextmanager
def _ending_at_sigterm() -> Iterator[None]:
    """Let SIGTERM end the batch as Ctrl-C does: what runs is ended too."""

    def stop(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
