"""caffeinit rescale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caffeinit.cli.common import image_options, net_options, patterns, run_options, write_options


@click.command("rescale")
@click.argument("net", type=click.Path())
@click.argument("weights", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="default: WEIGHTS.rescaled.caffemodel beside the input.")
@click.option("--mode", type=click.Choice(["normalize", "equalize"]), help="what to reach; has to be written out.")
@click.option("--reinit", metavar="PATTERN[,...]", help="layers to draw again first.")
@image_options
@net_options
@write_options
@run_options
def command(net: str, weights: str, output: str | None, mode: str | None, reinit: str | None, **options: Any) -> None:
    """Rescale the channels of given weights, from what pictures do in the net.

    \b
    caffeinit rescale net.prototxt net.caffemodel --images pictures/ --mode normalize

    Mode normalize gives every channel mean beta and standard deviation 1: a start for training, no longer the same
    function. Layers that the weights file lacks are drawn and normalised with the rest.

    Mode equalize gives standard deviation 1 to every channel whose scale is free, and keeps the net's function: the outputs
    before and after are compared on the pictures, and nothing is written if they differ by more than rounding.
    """
    from caffeinit.cli.work import run_job

    if mode is None:
        raise click.UsageError(
            "--mode has to be given: normalize (the net's function changes) or equalize (it is kept)"
        )
    target = output or str(default_output(Path(weights)))
    run_job("rescale", net, weights, target, options, mode=mode, reinit=patterns(reinit) or [])


def default_output(weights: Path) -> Path:
    """Return where the result goes: beside the input, in its form."""
    name = weights.name
    for ending in (".caffemodel.h5", ".caffemodel", ".h5", ".hdf5"):
        if name.endswith(ending):
            return weights.with_name(f"{name[: -len(ending)]}.rescaled{ending}")
    return weights.with_name(f"{name}.rescaled.caffemodel")
