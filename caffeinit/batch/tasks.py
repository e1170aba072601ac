"""What is to be done for each model: the arguments of the single command, and a fingerprint of all that decides it.

A task's key is a digest of the job, its options, the content of all files that it reads and the versions of the packages
that compute. Picture files count by name, size and time of change: reading a whole data set to see whether it is the
same would take longer than the batch.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import importlib.metadata
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import click
import onnx
from google.protobuf.message import DecodeError

from caffeinit.batch.pairing import Model
from caffeinit.batch.settings import Said, parse_memory
from caffeinit.batch.table import SPEED, Job, options_of, setting_name
from caffeinit.errors import CaffeinitError, OptionError
from caffeinit.images.files import PICTURE_SUFFIXES, list_lines, resolve_listed

_MOST_READ = 1 << 28  # bytes; a larger file of pictures counts by size and time
_PACKAGES = ("caffeinit", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "scikit-learn", "scipy", "Pillow")


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
        OptionError: it does not, and where the word stands.
    """
    # Files do not matter here, but the verb wants to be given as many as it asks for.
    typed = ["x" for p in job.command.params if isinstance(p, click.Argument)]
    typed += [job.output_option, "x"] if job.output and job.output_option else []
    typed += ["--images=x"] if "sources" in options_of(job) and not options.get("sources") else []
    try:
        context = job.command.make_context(job.verb, [*typed, *arguments_of(job, options)])
    except click.ClickException as error:
        where = sorted(set(said.origin.values())) if said else []
        raise OptionError(
            f"{', '.join(where)}: {error.format_message()}" if where else error.format_message()
        ) from None
    return context.params


def build_task(
    zoo: Path, model: Model, job: Job, output: str | None, options: Mapping[str, list[str]], limits: Limits
) -> Task:
    """Return the task for a model.

    Args:
        output: path of the output below the batch's; None where the job has none.
    """
    paths = [str(zoo / p) for p in (model.net, model.weights) if p is not None]
    result = f"{output or model.name}.json"
    outputs = [o for o in (output, result if job.writes_json else None) if o is not None]
    names = {PurePosixPath(o).name: o for o in outputs}
    arguments = [job.verb, *paths, *arguments_of(job, options)]
    if output is not None:
        target = "{files}/" + PurePosixPath(output).name
        arguments += [job.output_option, target] if job.output_option else [target]
    if job.writes_json:
        arguments += ["--json", "{files}/" + PurePosixPath(result).name, "--quiet"]
    inputs = _inputs(zoo, model, job, options)
    deciding = {name: values for name, values in options.items() if name not in SPEED}
    shown = {setting_name(options_of(job)[name]): values for name, values in deciding.items() if values}
    told = {**shown, "job": job.verb, "outputs": outputs, "inputs": inputs, "versions": versions()}
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
        versions=versions(),
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


def _inputs(zoo: Path, model: Model, job: Job, options: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return every file that decides the result -> its fingerprint."""
    found: dict[str, str] = {}
    for path in (model.net, model.weights):
        if path is not None:
            found[path] = digest_file(zoo / path)
    if job.needs != "file":
        found |= _named_in(zoo, model.net)
    for name, option in options_of(job).items():
        for text in options.get(name, ()):
            if name == "sources":
                at, separator, rest = text.partition("=")
                source = rest if separator and at.isidentifier() and not os.path.exists(text) else text
                found[text] = pictures_digest(source)
            elif isinstance(option.type, click.Path):
                found[text] = digest_file(Path(text)) if os.path.isfile(text) else "not there"
    return found


def _named_in(zoo: Path, net: str) -> dict[str, str]:
    """Return the files beside a net that its text names, such as mean files, and the data files of an ONNX model."""
    folder = PurePosixPath(net).parent
    if net.endswith(".onnx"):
        beside = external_files(zoo / net)
    else:
        text = (zoo / net).read_bytes().decode("utf-8", "replace")
        beside = sorted({name for pair in re.findall(r"\"([^\"\n]+)\"|'([^'\n]+)'", text) for name in pair if name})
    found = {}
    for name in beside:
        for candidate in dict.fromkeys((name, PurePosixPath(name).name)):
            path = str(folder / candidate)
            if ".." not in candidate and not candidate.startswith("/") and (zoo / path).is_file():
                found[path] = digest_file(zoo / path)
    return found


def external_files(path: Path) -> list[str]:
    """Return the names of the files that hold an ONNX model's large arrays; none for a file that is no ONNX model."""
    try:
        graph = onnx.load_model(path, load_external_data=False).graph
    except DecodeError:
        return []  # the job will say so
    places = {e.value for t in graph.initializer for e in t.external_data if e.key == "location"}
    return sorted(places)


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        CaffeinitError: it cannot be read.
    """
    try:
        info = path.stat()
        return _digest(str(path), info.st_size, info.st_mtime_ns)
    except OSError as error:
        raise CaffeinitError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None


@functools.cache
def _digest(path: str, size: int, changed: int) -> str:
    """Return a file's digest; one that was changed meanwhile is another to this cache."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def pictures_digest(source: str) -> str:
    """Return a digest of what `--images` names, looked at once in a batch."""
    lines: list[str] = []
    if os.path.isdir(source):
        for folder, folders, names in os.walk(source, followlinks=False):
            folders.sort()
            lines += [_stamp(os.path.join(folder, name), source) for name in sorted(names)]
    else:
        for path in [source] if os.path.exists(source) else sorted(glob.glob(source, recursive=True)):
            lines += _file_stamps(path)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _file_stamps(path: str) -> list[str]:
    """Return the line of a file and, where it is a list, of the files in it."""
    is_picture = os.path.splitext(path)[1].lower() in PICTURE_SUFFIXES
    if is_picture or not os.path.isfile(path) or os.path.getsize(path) > _MOST_READ:
        return [_stamp(path, os.path.dirname(path))]
    stamps = [f"{os.path.basename(path)} {digest_file(Path(path))}"]
    try:
        names = list_lines(path)
    except CaffeinitError:
        names = None  # too large for a list of pictures, or lines too long: it is none
    return stamps + [_stamp(resolve_listed(name, path, None), os.path.dirname(path)) for name in names or ()]


def _stamp(path: str, start: str) -> str:
    try:
        info = os.stat(path)
    except OSError as error:
        return f"{os.path.relpath(path, start)} {error.strerror}"
    return f"{os.path.relpath(path, start)} {info.st_size} {info.st_mtime_ns}"


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of the packages that decide a result's bytes."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # onnxruntime comes under one of two names
    return found
