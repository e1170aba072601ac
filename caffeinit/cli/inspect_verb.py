"""caffeinit inspect."""

from __future__ import annotations

from typing import Any

import click

from caffeinit.cli.common import net_options
from caffeinit.cli.terminal import say
from caffeinit.cli.verb import Verb


@click.command("inspect", cls=Verb)
@click.argument("net", type=click.Path())
@click.argument("weights", type=click.Path(), required=False)
@click.option("--scales", is_flag=True, help="show which channels have scales of their own, instead of the layers.")
@click.option("--filters", type=click.Path(), help="draw the first layer's filters to this PNG file.")
@click.option(
    "--channels",
    type=click.Choice(["bgr", "rgb"], case_sensitive=False),
    help="with --filters: order of colours; default bgr.",
)
@click.option("--force", is_flag=True, help="replace an output that exists.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="write the result as JSON; - is stdout.")
@net_options
def command(
    net: str,
    weights: str | None,
    json_file: str | None,
    scales: bool,
    filters: str | None,
    channels: str | None,
    force: bool,
    **options: Any,
) -> None:
    """Show layers, shapes, parameters, and what can be rescaled.

    \b
    caffeinit inspect net.prototxt net.caffemodel
    caffeinit inspect net.prototxt --scales
    caffeinit inspect model.onnx

    Weights that do not fit are shown beside the net instead of being refused.
    """
    from caffeinit.cli.common import parse_shapes, write_json
    from caffeinit.cli.targets import check_targets
    from caffeinit.inspection import inspect_files
    from caffeinit.storage.files import is_onnx

    if filters is not None:
        from caffeinit.report.filters import check_drawn, check_filters_name, save_filters

        if weights is None and not is_onnx(net):
            raise click.UsageError("--filters draws weights, and a net alone has none: give its WEIGHTS, too")
        check_filters_name(filters)
    check_targets({"--json": json_file, "--filters": filters}, force, {"the net": net, "the weights": weights})
    report = inspect_files(
        net,
        weights,
        phase=options["phase"],
        level=options["level"],
        stages=options["stages"],
        input_shapes=parse_shapes(options["input_shapes"]),
        scales=scales,
    )
    write_json(json_file, report.to_json(), force)
    if json_file != "-":
        from caffeinit.cli.inspect_tables import inspection_tables

        inspection_tables(report)
    if filters is not None:
        check_drawn(report.units, filters)
        drawn = save_filters(report.units, filters, force, channels)
        if json_file != "-":
            say(drawn)
    if report.mismatches or (options["strict"] and report.obstacles):
        raise SystemExit(1)
