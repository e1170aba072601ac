"""caffeinit init."""

from __future__ import annotations

from typing import Any

import click

from caffeinit.cli.common import image_options, net_options, run_options, write_options


@click.command("init")
@click.argument("net", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="caffemodel to write; .h5 gives HDF5.")
@click.option("--no-normalize", is_flag=True, help="leave the weights as drawn.")
@image_options
@net_options
@write_options
@run_options
def command(net: str, output: str, no_normalize: bool, **options: Any) -> None:
    """Draw all weights of a net, then normalise them on pictures.

    \b
    caffeinit init net.prototxt --images pictures/ -o net.caffemodel

    Every channel of every layer then has mean beta and standard deviation 1 on the pictures.
    """
    from caffeinit.cli.work import run_job

    run_job("init", net, None, output, options, normalized=not no_normalize)
