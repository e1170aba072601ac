"""The way of a job that changes weights: load, read pictures, work, show, write."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from caffeinit import jobs
from caffeinit.cli.common import (
    IN_BATCH,
    load_network,
    memory_options,
    read_pictures,
    write_json,
)
from caffeinit.cli.naming_options import parse_methods, patterns
from caffeinit.cli.reporting import about_run
from caffeinit.cli.tables import console, print_units, progress
from caffeinit.cli.targets import WEIGHTS, check_ending, check_targets
from caffeinit.cli.terminal import say
from caffeinit.errors import OptionError
from caffeinit.methods.preserving import MODES as PRESERVING
from caffeinit.model.network import Network, cause_lines
from caffeinit.patterns import check_matched, first_of, unmatched
from caffeinit.report.filters import check_filters, save_filters
from caffeinit.report.showing import apart_lines, number
from caffeinit.result import Result
from caffeinit.storage.files import is_hdf5, is_named_hdf5, is_onnx


def run_job(
    job: str,
    net: str,
    weights: str | None,
    output: str,
    options: dict[str, Any],
    output_net: str | None = None,
    **more: Any,
) -> Result:
    """Run `init` or `rescale` from command-line options, show the table and write the weights.

    Args:
        output_net: where the net goes, if it is rewritten.
    Raises:
        CaffeinitError: something is refused; nothing has been written then.
    """
    files = _Files.taken(net, weights, output, output_net, options)
    files.check()
    network = load_network(net, weights, options)
    network.source.check_writable()
    files.check_form(network)
    methods = options.pop("methods")
    given = {
        "beta": options.pop("beta"),
        "seed": options.pop("seed"),
        "layers": patterns(options.pop("layers")),
        "method": parse_methods(methods),
        **memory_options(options),
    }
    warnings = _lost_patterns(network, given, methods, more)
    warnings += _warnings(network, job, given, methods, more)
    for line in warnings:
        say(f"warning: {line}", err=True)
    channels = options["channels"]
    pictures = read_pictures(network, options)
    assert not options, options
    with progress(f"{job} on {pictures.num_images} pictures", files.quiet) as advance:
        result: Result = getattr(jobs, job)(network, pictures, progress=advance, **given, **more)
    if not _is_changed(result) and not files.shows:  # else the table tells why
        say(f"nothing was changed:\n{_reasons(result)}", err=True)
    # All files are written before anything is shown: whoever reads that may go away.
    notes = [*result.notes]
    result.notes += warnings
    drawn = files.write(job, network, result, pictures.describe(), channels)
    if files.shows:
        trains = job == "init" or more.get("mode") == "normalize"
        show(result, pictures.describe(), notes, trains)
        files.tell_output(result)
    if files.json_file != "-":
        files.tell_beside(drawn)
    return result


def _is_changed(result: Result) -> bool:
    return any(u.done for u in result.units)


@dataclass(frozen=True)
class _Files:
    """The files of a job, and what becomes of them.

    Attributes:
        net, weights: what is read.
        output, output_net: where the weights go, and the net if it is rewritten.
        json_file, filters, report: where what is found goes; "-" is stdout.
        force: write over what is there. dry_run: write nothing but JSON. quiet: show nothing.
    """

    net: str
    weights: str | None
    output: str
    output_net: str | None
    json_file: str | None
    filters: str | None
    report: str | None
    force: bool
    dry_run: bool
    quiet: bool

    @classmethod
    def taken(
        cls, net: str, weights: str | None, output: str, output_net: str | None, options: dict[str, Any]
    ) -> _Files:
        """Take what is about files out of the options."""
        names = ("json_file", "filters", "report", "force", "dry_run", "quiet")
        return cls(net, weights, output, output_net, **{name: options.pop(name) for name in names})

    @property
    def shows(self) -> bool:
        """Whether the table is shown, rather than nothing, or JSON in its place."""
        return not self.quiet and self.json_file != "-"

    @property
    def _outputs(self) -> dict[str, str]:
        return {"output": self.output} | ({"output_net": self.output_net} if self.output_net is not None else {})

    def check(self) -> None:
        """Refuse files that cannot be written, or must not be, before anything is read."""
        # An ONNX model may be written over with itself.
        own = self.net if self.weights is not None or not is_onnx(self.net) else None
        results = {"--output": self.output, "--output-net": self.output_net} if not self.dry_run else {}
        check_targets(results, self.force, {"the net": own})
        shown = {"--filters": self.filters, "--report": self.report} if not self.dry_run else {}
        read = {"the net": self.net, "the weights": self.weights, **results}
        check_targets(shown | {"--json": self.json_file}, self.force, read)
        _check_form(self.output, self.net)

    def check_form(self, network: Network) -> None:
        """Refuse what cannot be written of this net in the form that is asked for."""
        if self.weights is not None and is_named_hdf5(self.output) and not is_hdf5(self.weights):
            raise OptionError(
                f"--output {self.output}: weights are written in the form that they came in, which is not HDF5"
            )
        if self.filters is not None:
            check_filters(network.units, self.filters)

    def write(self, job: str, network: Network, result: Result, pictures: str, channels: str | None) -> str:
        """Write all files; return a sentence on the filters that were drawn.

        Args:
            pictures: what they were, in words.
            channels: the order of the input's channels.
        """
        drawn = ""
        if not self.dry_run:
            network.save(self.output, force=self.force, net_path=self.output_net)
            if self.filters is not None:
                drawn = save_filters(network.units, self.filters, self.force, channels)
            self._write_report(network, result, pictures)
        told = dict.fromkeys(self._outputs) if self.dry_run else self._outputs
        write_json(self.json_file, {"job": job, **told, "taken": network.taken, **result.to_json()}, self.force)
        return drawn

    def _write_report(self, network: Network, result: Result, pictures: str) -> None:
        if self.report is None:
            return
        from caffeinit.report import write_report

        files = {"net": self.net, "weights": self.weights, "output": self.output, "net written": self.output_net}
        write_report(self.report, network, result, about=about_run(files, pictures), force=self.force)

    def tell_output(self, result: Result) -> None:
        """Say where the weights are, and the net."""
        written = " and ".join(shlex.quote(p) for p in self._outputs.values())
        unchanged = "" if _is_changed(result) else ", in which nothing was changed"
        say(f"{'would write' if self.dry_run else 'wrote'} {written}{unchanged}")

    def tell_beside(self, drawn: str) -> None:
        """Say what was written beside: of the filters what `write` returned, and the report."""
        if drawn:
            say(drawn)
        if self.report is not None and not self.dry_run:
            say(f"wrote {shlex.quote(self.report)}")


def _lost_patterns(network: Network, given: dict[str, Any], methods: Sequence[str], more: dict[str, Any]) -> list[str]:
    """Refuse patterns that match no layer; in a batch, take those out that do not, and return a sentence on each.

    A batch's patterns are for all its models, and one that does not match in this one is no mistake for that. Where none of
    an option matches, there is nothing that this model was meant for.

    Raises:
        UnmatchedError: a pattern does not match; in a batch, none of an option's does.
    """
    spares = IN_BATCH in click.get_current_context().meta
    told = []
    for option, place, name in (("--layers", given, "layers"), ("--reinit", more, "reinit")):
        asked = place.get(name) or []
        lost = [p for p in asked if unmatched(option, [p], network.params, "")]
        if not spares or len(lost) == len(asked):
            check_matched(option, asked, network.params)
        elif lost:
            told += unmatched(option, lost, network.params, "layer with weights")
            place[name] = [p for p in asked if p not in lost]
    if not spares:
        check_matched("--method", _patterns_of(methods), network.params)
    return told


def _warnings(
    network: Network, job: str, given: Mapping[str, Any], methods: Sequence[str], more: Mapping[str, Any]
) -> list[str]:
    """Return what of --method and --seed has no effect: where nothing is drawn, or only other layers than named are."""
    if job == "init":
        drawn, why = jobs.drawn_by_init(network, given["layers"]), "--layers matches none"
    else:
        drawn = jobs.drawn_by_rescale(network, more["mode"], more["reinit"])
        keeps = more["mode"] in PRESERVING
        why = f"mode {more['mode']} keeps the function" if keeps else "no layer lacks weights, and --reinit names none"
    if not drawn:
        is_seeded = click.get_current_context().get_parameter_source("seed") is ParameterSource.COMMANDLINE
        options = [f"--method {' '.join(methods)}"] if methods else []
        options += [f"--seed {given['seed']}"] if is_seeded else []
        return [f"{option}: nothing is drawn, for {why}" for option in options]
    return unmatched(
        "--method", _patterns_of(methods), [n for n in network.params if n in drawn], "layer that is drawn"
    )


def _patterns_of(methods: Sequence[str]) -> list[str]:
    by_pattern = parse_methods(methods)
    return [] if isinstance(by_pattern, str) else [p for p in by_pattern if p != "*"]


def _reasons(result: Result) -> str:
    """Return why units were left alone, a line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for unit in result.units:
        by_reason.setdefault(unit.reason, []).append(unit.name)
    return "\n".join(f"  {first_of(names)}: {reason}" for reason, names in by_reason.items())


def _check_form(output: str, net: str) -> None:
    """Refuse a name that tells of another form than the file will have."""
    ending = Path(output).suffix.lower()
    if is_onnx(net) and ending != ".onnx":
        raise OptionError(f"--output {output}: what is written is an ONNX model; give it a name that ends in .onnx")
    if ending == ".onnx" and not is_onnx(net):
        raise OptionError(
            f"--output {output}: what is written is a file of weights. To make an ONNX model of it: caffeinit convert"
        )
    if not is_onnx(net):
        check_ending("--output", output, *WEIGHTS)


def show(result: Result, pictures: str, notes: Sequence[str], trains: bool) -> None:
    """Print the table of units, what was left out, and notes.

    Args:
        trains: the weights were made ready for training, so that rates before are those with all deviations at 1.
    """
    out = console()
    out.print(pictures, markup=False, soft_wrap=True)
    print_units(out, result)
    if not math.isnan(result.rate_spread) or result.no_spread:
        was, now = number(result.rate_spread_before), number(result.rate_spread)
        why = f": {result.no_spread}" if result.no_spread else ""
        start = f"{was} with deviations of 1" if trains else f"before {was}"
        spread = (
            f"{result.alone} alone has a rate: there is none to compare it with"
            if result.alone
            else now + f", {start}{why}"
        )
        out.print(f"rate spread (largest |log rate - mean|): {spread}", markup=False, soft_wrap=True)
    for line in cause_lines(result.skipped):
        out.print(f"left out: {line}", markup=False, soft_wrap=True)
    for line in apart_lines(result.apart):
        out.print(line, markup=False, soft_wrap=True)
    for note in notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
