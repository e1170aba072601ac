"""What is to be done for each model: the arguments of the single command, and a fingerprint of all that decides it.

A task's key is a digest of the job, its options, the files that it reads and the versions of the packages that compute.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import click

from caffeinit.batch.fingerprints import inputs_of, versions
from caffeinit.batch.pairing import Model
from caffeinit.batch.settings import Said
from caffeinit.batch.table import JOBS, SPEED, Job, options_of, setting_name
from caffeinit.cli.common import parse_memory
from caffeinit.errors import CaffeinitError, FormatError, OptionError


@dataclass(frozen=True)
class Limits:
    """What a model may take; None for no limit.

    Attributes:
        seconds: of wall time. memory: bytes of resident memory.
    """

    seconds: float | None = None
    memory: int | None = None


@dataclass(frozen=True)
class Task:
    """One run of the single command; plain data that other processes and machines understand.

    Attributes:
        name: the model's.
        key: fingerprint of all that decides the result, hexadecimal.
        arguments: of the command line; "{files}" stands for the folder that outputs are written to.
        outputs: name in that folder -> path below the batch's output. Further files the command writes go beside these.
        options, inputs, versions: what the key was made from, for the manifest.
        sees_threads: the command has --threads, and the user has not set it.
        cost: how long it may take, compared with others.
    """

    name: str
    job: str
    net: str
    weights: str | None
    key: str
    arguments: list[str]
    outputs: dict[str, str]
    options: dict[str, list[str]]
    inputs: dict[str, str]
    versions: dict[str, str]
    sees_threads: bool
    cost: float
    limits: Limits = field(default_factory=Limits)
    working_folder: str = field(default_factory=os.getcwd)


def arguments_of(job: Job, options: Mapping[str, Sequence[str]]) -> list[str]:
    """Return options as they are typed, in the verb's own order."""
    typed: list[str] = []
    for name, option in options_of(job).items():
        flag = max(option.opts, key=len)
        for text in options.get(name, ()):
            typed.append(flag if option.is_flag else f"{flag}={text}")
    return typed


def merged(given: Mapping[str, Sequence[str]], said: Said) -> dict[str, list[str]]:
    """Return the options that hold for a model: the command line's, and over them those of its settings."""
    return {**{k: list(v) for k, v in given.items()}, **said.options}


def parsed(job: Job, options: Mapping[str, Sequence[str]], said: Said | None = None) -> dict[str, Any]:
    """Return the options as the verb understands them.

    Raises:
        OptionError: it does not. FormatError: a settings file says so.
    """
    try:
        return _parsed(job.verb, tuple((name, tuple(values)) for name, values in sorted(options.items())))
    except click.ClickException as error:
        raise refusal(error, sorted(set(said.origin.values())) if said else []) from None


@functools.lru_cache(maxsize=256)
def _parsed(verb: str, given: tuple[tuple[str, tuple[str, ...]], ...]) -> dict[str, Any]:
    """Return what `parsed` returns; hundreds of models have the same options, and each parse takes milliseconds."""
    job, options = JOBS[verb], dict(given)
    # Files do not matter here, but the verb wants to be given as many as it asks for.
    typed = ["x" for p in job.command.params if isinstance(p, click.Argument)]
    typed += [job.output_option, "x"] if job.output and job.output_option else []
    typed += ["--images=x"] if "sources" in options_of(job) and not options.get("sources") else []
    return job.command.make_context(verb, [*typed, *arguments_of(job, options)]).params


def refusal(error: click.ClickException, where: Sequence[str]) -> CaffeinitError:
    """Return what to raise for an option that the verb refuses: the settings files' fault, where there are any."""
    message = error.format_message()
    return FormatError(f"{', '.join(where)}: {message}") if where else OptionError(message)


def build_task(
    zoo: Path,
    model: Model,
    job: Job,
    output: str | None,
    options: Mapping[str, list[str]],
    limits: Limits,
    pages: bool = False,
) -> Task:
    """Return the task for a model.

    Args:
        output: path of the output below the batch's; None where the job has none.
        pages: write a page about the model, where the job has one.
    """
    paths = [str(zoo / p) for p in (model.net, model.weights) if p is not None]
    result = f"{output or model.name}.json"
    report = f"{output or model.name}.html" if pages and job.writes_page else None
    outputs = [o for o in (output, result if job.writes_json else None, report) if o is not None]
    names = {PurePosixPath(o).name: o for o in outputs}
    arguments = [job.verb, *paths, *arguments_of(job, options)]
    if output is not None:
        target = "{files}/" + PurePosixPath(output).name
        arguments += [job.output_option, target] if job.output_option else [target]
    if job.writes_json:
        arguments += ["--json", "{files}/" + PurePosixPath(result).name, "--quiet"]
    if report is not None:
        arguments += ["--report", "{files}/" + PurePosixPath(report).name]
    inputs = inputs_of(zoo, model.net, model.weights, job, options)
    deciding = {name: values for name, values in options.items() if name not in SPEED}
    shown = {setting_name(options_of(job)[name]): values for name, values in deciding.items() if values}
    told = {**shown, "job": job.verb, "outputs": outputs, "inputs": inputs, "versions": versions(report is not None)}
    key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    sees_threads = "threads" in options_of(job) and not options.get("threads")
    return Task(
        name=model.name,
        job=job.verb,
        net=model.net,
        weights=model.weights,
        key=key,
        arguments=arguments,
        outputs=names,
        options=shown,
        inputs=inputs,
        versions=versions(report is not None),
        sees_threads=sees_threads,
        cost=model.cost,
        limits=limits,
    )


def output_paths(job: Job, models: Sequence[Model]) -> dict[str, str | None]:
    """Return model -> path of its output; where two would be the same, the whole old name is kept in both."""
    if job.output is None:
        return {m.name: None for m in models}
    paths = {m.name: PurePosixPath(m.name) for m in models}
    plain = {name: str(path.with_name(job.output(path))) for name, path in paths.items()}
    count = Counter(plain.values())
    ending = {name: PurePosixPath(plain[name]).suffix for name in plain}
    return {name: out if count[out] == 1 else f"{name}{ending[name]}" for name, out in plain.items()}


def limits_of(said: Said, seconds: float | None, memory: int | None) -> Limits:
    """Return a model's limits: its settings' or the batch's."""
    size = memory if said.model_memory is None else parse_memory(said.model_memory)
    if size is not None and not os.path.exists("/proc/self/statm"):
        raise OptionError("--model-memory: this system does not tell how much memory another process holds")
    return Limits(seconds if said.time_limit is None else said.time_limit, size)
