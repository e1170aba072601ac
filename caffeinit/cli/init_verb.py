"""caffeinit init."""

from __future__ import annotations

from typing import Any

import click

from caffeinit.cli.common import bounded_options, image_options, net_options, rate_options, run_options, write_options
from caffeinit.cli.verb import Verb


@click.command(
    "init",
    cls=Verb,
    surplus="init draws all weights and reads none; to change those of a file: caffeinit rescale NET WEIGHTS",
)
@click.argument("net", type=click.Path())
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(),
    help="caffemodel to write; .h5 gives HDF5. For an ONNX model, the .onnx file.",
)
@click.option("--no-normalize", is_flag=True, help="leave the weights as drawn.")
@rate_options
@image_options
@net_options
@write_options
@run_options
@bounded_options
def command(
    net: str,
    output: str,
    no_normalize: bool,
    no_balance: bool,
    per_channel_rates: bool,
    rate_batches: int | None,
    **options: Any,
) -> None:
    """Draw all weights of a net, then normalise them on pictures.

    \b
    caffeinit init net.prototxt --images pictures/ -o net.caffemodel
    caffeinit init model.onnx --images pictures/ -o start.onnx

    The channels of every layer then have one standard deviation on the pictures (1 with --no-balance), beta times that as
    their mean, and all layers one rate at which their weights change in training.
    """
    from caffeinit.cli.work import run_job

    run_job(
        "init",
        net,
        None,
        output,
        options,
        normalized=not no_normalize,
        balanced=not no_balance,
        per_channel_rates=per_channel_rates,
        rate_batches=rate_batches,
    )
