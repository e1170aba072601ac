"""caffeinit measure."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from caffeinit.cli.common import bounded_options, image_options, net_options, run_options
from caffeinit.cli.terminal import say
from caffeinit.cli.verb import Verb


@click.command("measure", cls=Verb)
@click.argument("net", type=click.Path())
@click.argument("weights", type=click.Path(), required=False)
@click.option(
    "--compare",
    "other",
    type=click.Path(),
    metavar="OTHER",
    help="another weights file, or ONNX model, to lay beside it.",
)
@click.option(
    "--rate-batches",
    type=click.IntRange(min=0),
    help="batches that rates of change are measured on; 0 leaves them out. By default as many as have 16 pictures.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="of the rates' noise.")
@click.option(
    "--report", type=click.Path(dir_okay=False), metavar="FILE", help="write a page with pictures to this HTML file."
)
@click.option("--force", is_flag=True, help="replace a JSON file or page that exists.")
@image_options
@net_options
@run_options
@bounded_options
def command(
    net: str,
    weights: str | None,
    other: str | None,
    rate_batches: int | None,
    seed: int,
    report: str | None,
    force: bool,
    quiet: bool,
    json_file: str | None,
    **options: Any,
) -> None:
    """Measure what every layer does on pictures, and how fast it would learn.

    \b
    caffeinit measure net.prototxt net.caffemodel --images pictures/
    caffeinit measure net.prototxt before.caffemodel --compare after.caffemodel --images pictures/
    caffeinit measure before.onnx --compare after.onnx --images pictures/

    Of each unit's output: averages of its channels' means and standard deviations (std), the variation of the deviations
    among channels (cvar), the largest magnitude, and channels that do not vary (dead); they count in the averages and in
    cvar, as in the authors' measure_stat. Of its weights: the rate of change
    C, relative to their size, under gradients of one strength, and its variation among input channels.
    """
    from caffeinit.cli.common import (
        check_runs,
        check_weights,
        load_network,
        loading_options,
        memory_options,
        read_pictures,
        write_json,
    )
    from caffeinit.cli.measure_tables import measurement_tables
    from caffeinit.cli.reporting import about_run
    from caffeinit.cli.tables import progress
    from caffeinit.cli.targets import check_targets
    from caffeinit.measuring import measure

    read = {"the net": net, "the weights": weights, "the other weights": other}
    check_targets({"--report": report, "--json": json_file}, force, read)
    loading = loading_options(options)
    check_weights(net, weights)
    files = [weights or net] if other is None else [weights or net, other]
    networks = [load_network(net if weights else f, f if weights else None, dict(loading)) for f in files]
    if other is not None and weights is not None:
        for network, file in zip(networks, files, strict=True):
            check_runs(network, net, file)
    bound = memory_options(options)
    pictures = read_pictures(networks[0], options)
    found = []
    for network, file in zip(networks, files, strict=True):
        with progress(f"measuring {Path(file).name}", quiet) as advance:
            found.append(measure(network, pictures, rate_batches=rate_batches, seed=seed, progress=advance, **bound))
    if report is not None:
        from caffeinit.report import write_report

        about = about_run({"net": net, "weights": weights, "compared with": other}, pictures.describe())
        write_report(report, networks[0], found, about=about, force=force)
    data = {"net": net, "weights": weights, "taken": networks[0].taken, **found[0].to_json()}
    if other is not None:
        data["compare"] = {"weights": other, **found[1].to_json()}
    write_json(json_file, data, force)
    if not quiet and json_file != "-":
        measurement_tables(found, files, pictures.describe())
        if report is not None:
            say(f"wrote {shlex.quote(report)}")
