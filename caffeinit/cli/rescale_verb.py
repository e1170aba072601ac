"""caffeinit rescale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caffeinit.cli.common import (
    bounded_options,
    check_weights,
    image_options,
    net_options,
    rate_options,
    run_options,
    write_options,
)
from caffeinit.cli.naming_options import named_layers, patterns
from caffeinit.cli.verb import Verb
from caffeinit.storage.files import CAFFEMODEL_ENDINGS, HDF5_ENDINGS


@click.command("rescale", cls=Verb)
@click.argument("net", type=click.Path())
@click.argument("weights", type=click.Path(), required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="default: WEIGHTS.rescaled.caffemodel beside the input, or MODEL.rescaled.onnx.",
)
@click.option(
    "--mode",
    type=click.Choice(["preserve", "equalize", "balance", "fp16", "normalize"]),
    default="preserve",
    show_default=True,
    help="what rescale is to reach, as its help says.",
)
@rate_options
@click.option(
    "--powers-of-two",
    is_flag=True,
    help="round all factors to powers of two: in single precision, no bit of the outputs moves.",
)
@click.option("--rewrite-lrn", is_flag=True, help="let alpha of LRN layers change, and write the net, too.")
@click.option("--output-net", type=click.Path(), help="with --rewrite-lrn; default: OUTPUT.prototxt beside OUTPUT.")
@click.option(
    "--reinit",
    metavar="PATTERN[,...]",
    callback=named_layers,
    help="layers to draw again first, each pattern must match.",
)
@image_options
@net_options
@write_options
@run_options
@bounded_options
def command(
    net: str,
    weights: str | None,
    output: str | None,
    mode: str,
    no_balance: bool,
    per_channel_rates: bool,
    rate_batches: int | None,
    powers_of_two: bool,
    rewrite_lrn: bool,
    output_net: str | None,
    reinit: str | None,
    **options: Any,
) -> None:
    """Rescale the channels of given weights, from what pictures do in the net.

    \b
    caffeinit rescale net.prototxt net.caffemodel --images pictures/
    caffeinit rescale model.onnx --images pictures/ --channels rgb

    An ONNX model holds its weights, and takes the place of NET and WEIGHTS. It does not tell how pictures are prepared:
    without options they are fed as bytes, 0 to 255, blue first.

    Mode preserve keeps the net's function: the channels of a unit get one standard deviation, and the units one rate of
    change, wherever scales are free. The outputs before and after are compared on the pictures, and nothing is written if
    they differ by more than rounding.

    Modes equalize (standard deviation 1), balance (rates only) and fp16 (head-room in half precision, by powers of two)
    keep the function in the same way.

    Mode normalize gives the channels of every unit one mean and standard deviation, and the units one rate: a start for
    training, no longer the same function. Layers that the weights file lacks are drawn first.

    LRN holds the scales of what it reads. With --rewrite-lrn the modes that keep the function change alpha with them, and
    write the net's text with nothing else changed: the new weights belong to the new net. Of an ONNX model the attribute
    is rewritten where it stands.
    """
    from caffeinit.cli.work import run_job
    from caffeinit.storage.files import check_regular_file, is_onnx

    check_weights(net, weights)
    if output_net is not None and not rewrite_lrn:
        raise click.UsageError("--output-net is for --rewrite-lrn; without it the net stays as it is")
    if output_net is not None and is_onnx(net):
        raise click.UsageError("--output-net is for Caffe nets; an ONNX model has its net within itself")
    target = output or str(default_output(check_regular_file(weights or net)))
    run_job(
        "rescale",
        net,
        weights,
        target,
        options,
        mode=mode,
        balanced=not no_balance,
        per_channel_rates=per_channel_rates,
        rate_batches=rate_batches,
        output_net=(output_net or str(_stem(Path(target), ".prototxt"))) if rewrite_lrn and not is_onnx(net) else None,
        rewrite_lrn=rewrite_lrn,
        powers_of_two=powers_of_two,
        reinit=patterns(reinit) or [],
    )


def default_output(weights: Path) -> Path:
    """Return where the result goes: beside the input, in its form."""
    ending = next((e for e in _ENDINGS if weights.name.endswith(e)), "")
    return _stem(weights, f".rescaled{ending or '.caffemodel'}")


_ENDINGS = (*CAFFEMODEL_ENDINGS, *HDF5_ENDINGS, ".onnx")


def _stem(path: Path, new: str) -> Path:
    """Return a weights file's path with another ending."""
    ending = next((e for e in _ENDINGS if path.name.endswith(e)), "")
    return Path(str(path).removesuffix(ending) + new)
