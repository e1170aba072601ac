"""caffeinit convert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caffeinit.cli.common import net_options
from caffeinit.cli.terminal import say
from caffeinit.cli.verb import Verb


@click.command("convert", cls=Verb)
@click.argument("net", type=click.Path())
@click.argument("weights", metavar="WEIGHTS", type=click.Path(), required=False)
@click.option("-o", "--output", required=True, type=click.Path(), help="ONNX file to write.")
@click.option("--force", is_flag=True, help="replace an output that exists.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="threads; 0 for one a core.")
@net_options
def command(net: str, weights: str | None, output: str, force: bool, **options: Any) -> None:
    """Write a net with its weights as an ONNX file, checked and run once.

    \b
    caffeinit convert deploy.prototxt net.caffemodel -o net.onnx

    Values keep Caffe's blob names. Weights of more than 1.9 GB go to OUTPUT.data beside it.
    """
    from caffeinit.cli.common import check_weights, load_network
    from caffeinit.cli.targets import check_ending, check_targets
    from caffeinit.export import export_onnx, missing_outputs
    from caffeinit.storage.files import is_onnx

    if is_onnx(net):
        raise click.UsageError(f"{net} is an ONNX model already: there is nothing to convert.")
    check_weights(net, weights)
    assert weights is not None
    check_targets({"--output": output}, force, {"the net": net, "the weights": weights})
    check_ending("--output", output, "an ONNX model", (".onnx",))
    strict = options["strict"]
    network = load_network(net, weights, options)
    if network.missing and strict:
        from caffeinit.errors import CaffeinitError

        raise CaffeinitError(f"{weights}: holds no numbers for {_layers(network.missing)}")
    done = export_onnx(network, output, f"{Path(net).name} and {Path(weights).name}", force)
    say(f"wrote {output}: ONNX opset {done.opset}" + (f", weights in {done.data.name}" if done.data else ""))
    for what, values in (("input", done.inputs), ("output", done.outputs)):
        for name, dims in values.items():
            say(f"  {what:<6} {name}  {'x'.join('?' if d is None else str(d) for d in dims) or 'number'}")
    say(f"checked by onnx, run in onnxruntime: largest difference {done.difference:.1e} of a value's largest")
    for name, reason in missing_outputs(network).items():
        say(f"left out: output {name}: {reason}")
    if network.missing:
        say(f"zeros: the weights file holds no numbers for {_layers(network.missing)}")


def _layers(missing: list[tuple[str, int]]) -> str:
    names = list(dict.fromkeys(layer for layer, _ in missing))
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more layers" if len(names) > 8 else "")
