"""One forward pass over pictures that measures what every unit puts out, and changes nothing.

A few pieces of batches are in memory at a time, however many pictures there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import TypeVar

import numpy as np

from caffeinit.arithmetic.buffers import ThreadMemory
from caffeinit.arithmetic.moments import Moments, PictureMoments, picture_moments
from caffeinit.arithmetic.workers import worker_pool
from caffeinit.engine.resident import RUN_BYTES, Piece, Portion, ResidentSession
from caffeinit.engine.session import Session, compile_graph, is_segmented, output_shape
from caffeinit.engine.streaming import PIECE_BYTES as STREAMED_BYTES
from caffeinit.engine.streaming import Streaming, can_stream
from caffeinit.graph import Graph
from caffeinit.graph.rowwise import groups, is_rowwise, most_pictures, row_pieces, rowwise_values
from caffeinit.graph.sizes import numpy_type
from caffeinit.model.following import channel_map, followed_units
from caffeinit.model.network import Network
from caffeinit.storage.paging import trim_heap

Values = Mapping[str, np.ndarray]
Found = Mapping[str, np.ndarray | Piece]
Seen = TypeVar("Seen")
PIECE_BYTES = 1 << 28  # of values that are held at once


def unit_outputs(network: Network, others: Sequence[str] = ()) -> list[str]:
    """Return the output values of all units, and others."""
    return list(dict.fromkeys([*(use.output for unit in network.units for use in unit.uses), *others]))


def looked_at(network: Network, others: Sequence[str] = (), settled: bool = False) -> list[str]:
    """Return the outputs of the units whose moments do not follow from another's, and other values.

    What is compared before and after a change has to be compiled with the same outputs: onnxruntime fuses what nobody
    looks between, and where much cancels out, that alone moves the net's outputs by a thousandth.

    Args:
        settled: as in `followed_units`.
    """
    return list(dict.fromkeys([*_axes(network, settled), *others]))


def _axes(network: Network, settled: bool = False) -> dict[str, int]:
    """Return the outputs of those units -> the axis of their channels."""
    follow = followed_units(network, settled)
    return {use.output: use.axis for unit in network.units if unit.key not in follow for use in unit.uses}


def run_pieces(
    network: Network, batches: Iterable[Values], values: Sequence[str], see: Callable[[Found, Executor | None], Seen]
) -> Iterator[tuple[int, Seen]]:
    """Run a net on piece after piece; yield a number of pictures and what was seen of the values that they give.

    Args:
        see: gets the values, which are gone after it, and threads to share its work among; without these it is called by
            several threads at once. What lives on a device stays there; `np.asarray` brings it here.
    """
    settings = network.settings
    if settings.device.resident:
        for count, found in _run_resident(network, batches, values):
            yield count, see(found, None)
        return
    graph = network.graph
    part = graph.part(values)
    if settings.room is not None:  # holes between small values that an earlier run left
        trim_heap()
    if can_stream(part, settings):
        pieces = cut(graph, batches, values, STREAMED_BYTES)
        yield from Streaming(part, settings).map(pieces, lambda made: see(made, None))
        return
    segmented = is_segmented(part, settings)
    session = compile_graph(graph, values, settings) if segmented else Session(part, settings, sparing=True)
    own, known = ThreadMemory(), written(network, part)
    with worker_pool(settings.threads or os.cpu_count() or 1) as pool:
        for piece in cut(graph, batches, values, PIECE_BYTES):
            # onnxruntime would take memory anew for each piece, and hold what it gives beside what it makes it of.
            into = _memory(own, part, known, piece)
            made = session.run({n: piece[n] for n in session.inputs}, into)
            yield len(next(iter(piece.values()))), see(made, pool)


def written(network: Network, part: Graph) -> list[str]:
    """Return what of a part's outputs can be written where it is wanted: units' outputs, the shapes of which are known."""
    made, of_pictures = {*unit_outputs(network)}, rowwise_values(part)
    known = [v for v in part.outputs if v in made and -1 not in part.shape(v)]
    return [v for v in known if v in of_pictures] if part.batch_axis_free else known


def _memory(own: ThreadMemory, graph: Graph, names: Sequence[str], piece: Values) -> dict[str, np.ndarray]:
    """Return arrays for what a piece gives, which take the place of those for the last one."""
    shapes = {n: graph.shape(n) for n in names}
    if graph.batch_axis_free and graph.inputs:
        first = next(iter(graph.inputs))
        shapes = {n: output_shape(s, graph.shape(first)[0], len(piece[first])) for n, s in shapes.items()}
    return dict(zip(names, own.take([(s, numpy_type(graph, n)) for n, s in shapes.items()]), strict=True))


def _run_resident(
    network: Network, batches: Iterable[Values], values: Sequence[str]
) -> Iterator[tuple[int, dict[str, Piece]]]:
    settings = network.settings
    portion = Portion(settings.device, network.notes)
    session = ResidentSession(network.graph, values, settings, portion, axes=_axes(network))
    most = most_pictures(network.graph, values, RUN_BYTES) if is_rowwise(network.graph.part(values)) else None
    for pieces in groups(cut(network.graph, batches, values, RUN_BYTES), most or 0):
        feeds = {n: portion.send([p[n] for p in pieces]) for n in session.inputs}
        yield sum(len(next(iter(p.values()))) for p in pieces), session.run(feeds)


def cut(
    graph: Graph, batches: Iterable[Values], values: Sequence[str], limit: int, pictures: int | None = None
) -> Iterator[Values]:
    """Cut batches so that these values take no more than `limit` bytes, where they are the same for any number of pictures.

    Args:
        pictures: the most in one piece.
    """
    most = most_pictures(graph, values, limit)
    for batch in batches:
        if most is not None:
            yield from row_pieces(batch, min(most, pictures or most))
        elif len(next(iter(batch.values()))):  # inputs may differ in their rows
            yield batch


def measure_moments(
    network: Network,
    batches: Iterable[Values],
    outputs: Sequence[str] = (),
    see: Callable[[Found], None] = lambda values: None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Moments]:
    """Return the moments of every unit's output in one forward pass; they may not be finite.

    Those of a unit with several uses are pooled of one part for each.

    Args:
        see: gets the values named `outputs`, piece by piece; on a device they stay there.
        progress: called with the pictures done.
    Returns:
        unit's key -> moments.
    """
    follow, axes = followed_units(network), _axes(network)
    each = {use.output: Moments(unit.num_channels) for unit in network.units for use in unit.uses}

    def look(values: Found, pool: Executor | None) -> tuple[dict[str, Sequence[PictureMoments]], Found]:
        moments = {value: picture_moments(values[value], axis, pool) for value, axis in axes.items()}
        return moments, kept_values(values, outputs)

    done = 0
    for count, (moments, kept) in run_pieces(network, batches, looked_at(network, outputs), look):
        for value in axes:
            each[value].fold(moments[value])
        see(kept)
        done += count
        progress(done)
    found = {unit.key: Moments.pooled([each[use.output] for use in unit.uses]) for unit in network.units}
    for unit in network.units:
        if unit.key in follow:
            found[unit.key] = found[follow[unit.key].key].scaled(*channel_map(unit))
    return found


def kept_values(values: Found, names: Sequence[str]) -> Found:
    """Return some values that a piece gave as copies that last; what lives on a device lasts by itself."""
    return {n: v if isinstance(v := values[n], Piece) else v.copy() for n in names}
