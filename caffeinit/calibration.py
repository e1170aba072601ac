"""Pictures for the inputs that a network's units depend on: read from files, or brought by a user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caffeinit.errors import CaffeinitError, OptionError
from caffeinit.graph import Graph, Shape
from caffeinit.graph.heads import find_heads
from caffeinit.images import Calibration, GivenBatches, Preprocessing, as_calibration, named_inputs, read_images
from caffeinit.model.network import Network, listed
from caffeinit.printing import printable


def needed_inputs(network: Network) -> dict[str, Shape]:
    """Return the inputs that some unit depends on; labels that only a loss reads are not among them.

    A net without units needs all its inputs, and so does one of whose outputs these do not determine any.
    """
    graph = network.graph
    needed = _inputs_of(graph, [use.output for unit in network.units for use in unit.uses])
    if needed and len(needed) < len(graph.inputs):
        ends = [*(graph.outputs or graph.unused()), *find_heads(graph, network.unit_arrays)]
        if not any(_inputs_of(graph, [end]) <= needed for end in ends):
            needed = set()
    return {n: s for n, s in graph.inputs.items() if n in needed} or dict(graph.inputs)


def _label_inputs(network: Network) -> dict[str, Shape]:
    """Return the further inputs that an output depends on: what losses compare with."""
    graph = network.graph
    read = _inputs_of(graph, graph.outputs or graph.unused()).difference(needed_inputs(network))
    return {n: s for n, s in graph.inputs.items() if n in read}


def _inputs_of(graph: Graph, values: Sequence[str]) -> set[str]:
    """Return the inputs that values depend on."""
    read = {i for node in graph.ancestors(values) for i in node.input}
    return {name for name in graph.inputs if name in read}


def read_calibration(
    network: Network,
    sources: Any,
    *,
    num_images: int | None = 160,
    batch_size: int = 16,
    strict: bool = False,
    threads: int | None = None,
    root: str | None = None,
    labels: bool = False,
    **preprocessing: Any,
) -> Calibration:
    """Read the pictures for the inputs that units depend on; see `caffeinit.read_images`.

    Args:
        labels: read what is given for inputs of losses alone, too, as it is: two nets can be compared on it.
    """
    pictures = inputs = needed_inputs(network)
    if labels:
        given = named_inputs(sources)
        inputs = pictures | {n: s for n, s in _label_inputs(network).items() if n in given}
    if not inputs or (network.skipped and not network.units):
        raise no_unit(network)
    _check_wanted(network, inputs, sources)
    if not network.graph.batch_axis_free:
        # The net spells its batch size out: every batch must have just that many rows.
        batch_size = next((s[0] for s in inputs.values() if s), batch_size)
    _check_takes_pictures(pictures, preprocessing)
    told = network.source.preprocessing()
    asked = {name: told.get(name, Preprocessing()) for name in inputs}
    asked |= {n: asked[n].override(**preprocessing) for n, shape in pictures.items() if len(shape) == 4}
    return read_images(
        inputs,
        sources,
        preprocessing=asked,
        num_images=num_images,
        batch_size=batch_size,
        strict=strict,
        threads=threads,
        root=root,
        whole_batches=not network.graph.batch_axis_free,
    )


def _check_wanted(network: Network, inputs: Mapping[str, Shape], sources: Any) -> None:
    """Refuse pictures for inputs that the net has, but that have no part in what is measured."""
    readers = network.graph.consumers()
    for name in sources if isinstance(sources, Mapping) else ():
        if name in network.inputs and name not in inputs:
            why = "no layer with weights depends on it" if readers.get(name) else "nothing in the net reads it"
            raise OptionError(f'there is no use for pictures for input "{printable(name)}": {why}. Leave them out')


def _check_takes_pictures(inputs: Mapping[str, Shape], asked: Mapping[str, Any]) -> None:
    """Refuse options for pictures where no input takes any."""
    wanted = [name for name, value in asked.items() if value is not None]
    if wanted and not any(len(shape) == 4 for shape in inputs.values()):
        named = ", ".join(f"{printable(name)} {tuple(shape)}" for name, shape in inputs.items())
        raise OptionError(
            f"{wanted[0].replace('_', '-')} is for pictures, (N, C, H, W), and the net takes none: {named}"
        )


def given_calibration(network: Network, images: Any, labels: bool = False) -> Calibration | GivenBatches:
    """Return what a user brings as pictures, checked, for the inputs that units depend on.

    Args:
        images: what `read_images` returned, or float32 batches: arrays (N, ...) or dicts input -> array.
        labels: take what is given for inputs of losses alone, too.
    """
    return as_calibration(
        images,
        needed_inputs(network),
        optional=_label_inputs(network) if labels else {},
        unused=network.inputs,
        whole_batches=not network.graph.batch_axis_free,
    )


def no_unit(network: Network) -> CaffeinitError:
    """Return what to raise where a network has nothing that could be measured or changed."""
    if not network.skipped:
        return CaffeinitError("the net has no layer whose weights could be changed")
    return CaffeinitError(f"no layer with weights can run:{listed(network.skipped)}")
