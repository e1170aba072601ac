"""caffeinit verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from caffeinit.cli.common import image_options, net_options, run_options
from caffeinit.cli.verb import Verb
from caffeinit.files import is_onnx

if TYPE_CHECKING:
    from caffeinit.functions import Function


@click.command("verify", cls=Verb)
@click.argument("net", type=click.Path())
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path(), required=False)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    help="largest difference that counts as the same, as a part of the output's largest value; default 1e-4.",
)
@click.option("--first", is_flag=True, help="also name the first value inside the net at which the two part.")
@click.option("--force", is_flag=True, help="replace a JSON file that exists.")
@image_options
@net_options
@run_options
def command(
    net: str,
    a: str,
    b: str | None,
    tolerance: float | None,
    first: bool,
    force: bool,
    quiet: bool,
    json_file: str | None,
    **options: Any,
) -> None:
    """Tell whether two weight files are the same function, on pictures.

    \b
    caffeinit verify net.prototxt before.caffemodel after.caffemodel --images pictures/
    caffeinit verify net.prototxt net.caffemodel net.onnx --images pictures/
    caffeinit verify before.onnx after.onnx --images pictures/

    A and B are weights for NET, or ONNX files made from it. Of two ONNX models the first is both NET and A. The exit code
    is 0 if all outputs are the same within the tolerance, else 1.
    """
    from caffeinit.cli.common import loading_options, read_pictures, write_json
    from caffeinit.cli.tables import progress
    from caffeinit.cli.verify_tables import comparison_table
    from caffeinit.comparison import compare
    from caffeinit.verify import TOLERANCE

    loading = loading_options(options)
    files = [a, b] if b is not None else [net, a]
    if b is None and not all(map(is_onnx, files)):
        raise click.UsageError("Missing argument 'B': only of two ONNX models none is the net of the other.")
    network, (one, other), lacking = _open(net, files, loading)
    pictures = read_pictures(network, options)
    with progress("comparing", quiet) as advance:
        found = compare(
            one,
            other,
            pictures,
            tolerance=TOLERANCE if tolerance is None else tolerance,
            first=first,
            progress=lambda done: advance(done, pictures.num_images * (2 if first else 1)),
        )
    found.notes += lacking
    if not quiet and json_file != "-":
        comparison_table(found, (files[0], files[1]), pictures.describe(), first, network.place)
    write_json(json_file, {"net": net, "a": files[0], "b": files[1], **found.to_json()}, force)
    if not found.same:
        raise SystemExit(1)


def _open(net: str, files: list[str], loading: dict[str, Any]) -> tuple[Any, list[Function], list[str]]:
    """Return the network that tells how pictures are prepared, both sides, and what they lack."""
    from caffeinit.cli.common import load_network
    from caffeinit.engine.device import find_device
    from caffeinit.engine.onnxrun import OnnxFunction
    from caffeinit.export import missing_outputs
    from caffeinit.functions import NetFunction

    network = load_network(net, None, dict(loading))
    sides: list[Function] = []
    device, note = find_device(loading["device"], loading["allow_tf32"])
    notes = [note] if note else []
    notes += [f'output "{name}" is not compared: {reason}' for name, reason in missing_outputs(network).items()]
    for file in files:
        if is_onnx(file):
            side = OnnxFunction(file, loading["threads"], device)
            if side.is_implemented():
                sides.append(side)
            else:
                sides.append(NetFunction(load_network(file, None, dict(loading)), file))
                notes.append(f"{file} is computed in single precision: onnxruntime lacks its operators for its types")
        else:
            network = load_network(net, file, dict(loading))
            sides.append(NetFunction(network, file))
            layers = dict.fromkeys(layer for layer, _ in network.missing)
            notes += [f"{file} holds no numbers for {', '.join(layers)}: zeros are used"] if layers else []
    notes += [f'input "{name}": {words}' for name, words in network.taken.items()]
    return network, sides, notes
