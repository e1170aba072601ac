"""One forward pass over pictures that measures what every unit puts out, and changes nothing.

One piece of a batch is in memory at a time, however many pictures there are.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from caffeinit.engine.arrays import DeviceArray
from caffeinit.engine.resident import Piece, Portion, ResidentSession
from caffeinit.engine.session import Session, compile_graph
from caffeinit.graph import Graph
from caffeinit.moments import Moments
from caffeinit.network import Network
from caffeinit.rowwise import row_pieces
from caffeinit.sizes import made_for
from caffeinit.workers import worker_pool

Values = Mapping[str, np.ndarray]
Found = Mapping[str, np.ndarray | Piece]
PIECE_BYTES = 1 << 28  # of values that are held at once
DEVICE_BYTES = 1 << 30  # the same on a device, which wants many pictures at a time


def unit_outputs(network: Network, others: Sequence[str] = ()) -> list[str]:
    """Return the output values of all units, and others.

    What is compared before and after a change has to be compiled with the same outputs: onnxruntime fuses what nobody
    looks between, and where much cancels out, that alone moves the net's outputs by a thousandth.
    """
    return list(dict.fromkeys([*(use.output for unit in network.units for use in unit.uses), *others]))


def run_pieces(network: Network, batches: Iterable[Values], values: Sequence[str]) -> Iterator[tuple[int, Found]]:
    """Yield a number of pictures and the values that they give, piece by piece; of units' outputs also the moments.

    Values that live on a device stay there; `np.asarray` brings one here.
    """
    if network.settings.device.resident:
        yield from _run_resident(network, batches, values)
        return
    session: Session = compile_graph(network.graph, values, network.settings)
    for piece in cut(network.graph, batches, values, PIECE_BYTES):
        yield len(next(iter(piece.values()))), session.run({n: piece[n] for n in session.inputs})


def _run_resident(
    network: Network, batches: Iterable[Values], values: Sequence[str]
) -> Iterator[tuple[int, dict[str, Piece]]]:
    settings = network.settings
    axes = {use.output: use.axis for unit in network.units for use in unit.uses}
    session = ResidentSession(network.graph, values, settings, Portion(settings.device, network.notes), axes=axes)
    for piece in cut(network.graph, batches, values, DEVICE_BYTES):
        feeds = {n: DeviceArray.place(settings.device, piece[n]) for n in session.inputs}
        yield len(next(iter(piece.values()))), session.run(feeds)


def cut(
    graph: Graph, batches: Iterable[Values], values: Iterable[str], limit: int, pictures: int | None = None
) -> Iterator[Values]:
    """Cut batches so that these values take no more than `limit` bytes, where the net takes any number of pictures.

    Args:
        pictures: the most in one piece.
    """
    shapes = [graph.shape(v) for v in values]
    picture = 4 * sum(math.prod(s) for s in shapes if -1 not in s) // made_for(graph)
    most = max(1, min(limit // max(picture, 1), pictures or limit)) if graph.batch_axis_free else None
    for batch in batches:
        count = len(next(iter(batch.values())))
        yield from row_pieces(batch, most or count) if count else ()


def measure_moments(
    network: Network,
    batches: Iterable[Values],
    outputs: Sequence[str] = (),
    see: Callable[[Values], None] = lambda values: None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Moments]:
    """Return the moments of every unit's output, all its uses together, in one forward pass; they may not be finite.

    Args:
        see: gets the values named `outputs`, piece by piece.
        progress: called with the pictures done.
    Returns:
        unit's key -> moments.
    """
    uses = {use.output: (unit.key, use.axis) for unit in network.units for use in unit.uses}
    found = {unit.key: Moments(unit.num_channels) for unit in network.units}
    done = 0
    with worker_pool(network.settings.threads or os.cpu_count() or 1) as pool:
        for count, values in run_pieces(network, batches, unit_outputs(network, outputs)):
            for value, (key, axis) in uses.items():
                found[key].update(values[value], axis, pool)
            see({name: np.asarray(values[name]) for name in outputs})
            del values  # before the next piece's are made
            done += count
            progress(done)
    return found
