"""The jobs that a batch can run: what each needs, and what it writes.

A job is a verb of the command line, run as it stands: its options, its refusals and its bytes are those of the single
command. A new verb becomes a job by an entry here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import click

from caffeinit.storage.files import CAFFEMODEL_ENDINGS, is_onnx


def _same_name(path: PurePosixPath) -> str:
    return path.name


def _ending(new: str) -> Callable[[PurePosixPath], str]:
    """Return what gives a file's name another ending; .caffemodel.h5 counts as one. ONNX models keep theirs."""

    def renamed(path: PurePosixPath) -> str:
        name = path.name
        if is_onnx(path):
            return name
        for ending in (*CAFFEMODEL_ENDINGS, path.suffix):
            if ending and name.endswith(ending):
                return name[: -len(ending)] + new
        return name + new

    return renamed


@dataclass(frozen=True)
class Job:
    """A verb, and how a model becomes its arguments.

    Attributes:
        needs: what a model is: "weights" (a net with weights that fit), "net" (a net, with or without), or
            "file" (every net and every weights file by itself).
        output: the first argument's path -> the output's name; None where the job writes no file but its result.
        output_option: how the output is told; "" where it is the last argument.
        takes_onnx: ONNX models are models for it.
        writes_json: it has --json.
        required: options that must be given for every model, by the batch or its settings.
    """

    verb: str
    needs: str
    output: Callable[[PurePosixPath], str] | None
    output_option: str = "--output"
    takes_onnx: bool = False
    writes_json: bool = True
    required: tuple[str, ...] = ()

    @property
    def writes_page(self) -> bool:
        """Tell whether the verb has --report."""
        return any(p.name == "report" for p in self.command.params)

    @property
    def command(self) -> click.Command:
        """The verb's command."""
        module = importlib.import_module(f"caffeinit.cli.{self.verb}_verb")
        command: click.Command = module.command
        return command


JOBS = {
    job.verb: job
    for job in (
        Job("rescale", "weights", _same_name, takes_onnx=True, required=("sources",)),
        Job("init", "net", _ending(".caffemodel"), takes_onnx=True, required=("sources",)),
        Job("convert", "weights", _ending(".onnx"), writes_json=False),
        Job("measure", "weights", None, takes_onnx=True, required=("sources",)),
        Job("upgrade", "file", _same_name, output_option="", writes_json=False),
    )
}

# What the batch decides for all models, and so is no option of single ones.
OWNED = ("output", "output_net", "force", "dry_run", "quiet", "json_file", "filters", "report", "other")
# Options that change how fast a result is there, and nothing about it.
SPEED = ("threads", "memory_limit", "temp_dir")


def options_of(job: Job) -> dict[str, click.Option]:
    """Return the options of a job that a batch and its settings can set: parameter -> option."""
    return {p.name: p for p in job.command.params if isinstance(p, click.Option) and p.name and p.name not in OWNED}


def setting_name(option: click.Option) -> str:
    """Return an option's name in settings: that of the command line, with _ for -."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")
