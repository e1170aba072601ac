"""caffeinit verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from caffeinit.cli.common import image_options, net_options, run_options
from caffeinit.cli.verb import Verb
from caffeinit.storage.files import is_onnx

if TYPE_CHECKING:
    from caffeinit.proof.functions import Function


@click.command("verify", cls=Verb)
@click.argument("net", type=click.Path())
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path(), required=False)
@click.option(
    "--net-b",
    type=click.Path(),
    metavar="OTHER",
    help="another net that B is for, or A where there is no B; pictures are prepared as NET says.",
)
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
    net_b: str | None,
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
    caffeinit verify net.prototxt net.caffemodel free.caffemodel --net-b free.prototxt --images pictures/

    A and B are weights for NET, or ONNX files made from it. Of two ONNX models the first is both NET and A. What rescale
    --rewrite-lrn has written is a net of its own: --net-b. The exit code is 0 if all outputs are the same within the
    tolerance, else 1.
    """
    from caffeinit.cli.common import loading_options, read_pictures, write_json
    from caffeinit.cli.tables import progress
    from caffeinit.cli.targets import check_targets
    from caffeinit.cli.verify_tables import comparison_table
    from caffeinit.proof.comparison import compare
    from caffeinit.proof.verify import TOLERANCE

    loading = loading_options(options)
    if net_b is not None:
        if any(map(is_onnx, (net, net_b, b or a))):
            raise click.UsageError("--net-b is for Caffe nets: an ONNX model has its net within itself")
        b = b or a
    files = [a, b] if b is not None else [net, a]
    if b is None and not all(map(is_onnx, files)):
        raise click.UsageError("Missing argument 'B': only of two ONNX models none is the net of the other.")
    check_targets({"--json": json_file}, force, {"the net": net, "the other net": net_b, "A": files[0], "B": files[1]})
    network, (one, other), lacking = _open([net, net_b or net], files, loading)
    pictures = read_pictures(network, options, labels=True)
    with progress("comparing", quiet) as advance:
        found = compare(
            one,
            other,
            pictures,
            tolerance=TOLERANCE if tolerance is None else tolerance,
            first=first,
            progress=lambda done: advance(done, pictures.num_images * (2 if first else 1)),
        )
    found.notes += [*lacking, *pictures.notes]
    told = {} if net_b is None else {"net_b": net_b}
    write_json(json_file, {"net": net, **told, "a": files[0], "b": files[1], **found.to_json()}, force)
    if not quiet and json_file != "-":
        shown = (one.label, other.label)
        comparison_table(found, shown, pictures.describe(), first, network.place)
    if not found.same:
        raise SystemExit(1)


def _open(nets: list[str], files: list[str], loading: dict[str, Any]) -> tuple[Any, list[Function], list[str]]:
    """Return the network that tells how pictures are prepared, both sides, and what they lack.

    Args:
        nets: of either side; of an ONNX file, the Caffe net that it was made from, or anything.
    """
    from caffeinit.cli.common import check_runs, load_network
    from caffeinit.engine.device import find_device
    from caffeinit.engine.onnxrun import OnnxFunction
    from caffeinit.export import missing_outputs
    from caffeinit.proof.functions import NetFunction, ToldFunction

    network = load_network(nets[0], None, dict(loading))
    is_bare = True
    sides: list[Function] = []
    device, note = find_device(loading["device"], loading["allow_tf32"])
    notes = [note] if note else []
    notes += [f'output "{name}" is not compared: {reason}' for name, reason in missing_outputs(network).items()]
    for net, file in zip(nets, files, strict=True):
        if is_onnx(file):
            side = OnnxFunction(file, loading["threads"], device)
            if obstacle := side.obstacle():
                loaded = load_network(file, None, dict(loading))
                sides.append(NetFunction(loaded, file))
                lost = {*side.outputs} - {*loaded.outputs}
                left_out = "; what follows from that is not compared" if lost else ""
                notes.append(f"{file} is computed in single precision: {obstacle}{left_out}")
            else:
                sides.append(ToldFunction(side, network) if file == nets[0] else side)
        else:
            loaded = load_network(net, file, dict(loading))
            check_runs(loaded, net, file)
            sides.append(NetFunction(loaded, file if nets[0] == nets[1] else f"{net} with {file}"))
            if is_bare and net == nets[0]:
                network, is_bare = loaded, False
            notes += [f"{file} holds no numbers for {', '.join(loaded.unset)}: zeros are used"] if loaded.unset else []
    notes += [f'input "{name}": {words}' for name, words in network.taken.items()]
    return network, sides, notes
