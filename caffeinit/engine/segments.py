"""Graphs with more weights than one session takes, run in segments; only the weights of one are in memory at a time.

Protobuf ends at 2 GB, and memory may end before. A segment is compiled when it runs and dropped afterwards, which costs
little beside reading its weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from caffeinit.engine.session import FED_ELEMENTS, Session, Settings
from caffeinit.graph import Graph
from caffeinit.storage.mapped import release

SEGMENT_BYTES = 1 << 28  # of weights in one segment; a single node may have more


@dataclass
class Segment:
    """Consecutive nodes: what they are given, what later ones or the caller read, and what nobody reads afterwards."""

    made: dict[str, None] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    last_use: list[str] = field(default_factory=list)


class Segments(Session):
    """A graph ready to run, in segments; see `Session`."""

    def __init__(self, graph: Graph, settings: Settings, most: int = SEGMENT_BYTES) -> None:
        """Cut a graph into segments.

        Args:
            most: bytes of weights in one.
        """
        self.inputs = list(graph.inputs)
        self.outputs = list(graph.outputs)
        self.embedded = {}
        self._graph = graph
        self._settings = settings
        self._segments = cut(graph, most)

    def run(
        self, feeds: Mapping[str, Any], into: Mapping[str, np.ndarray] | None = None, handed_on: Collection[str] = ()
    ) -> dict[str, Any]:
        """Compute the outputs from the inputs; see `Session.run`."""
        into = into or {}
        values = dict(feeds)
        for segment in self._segments:
            part = self._graph.part(segment.outputs, segment.inputs)
            # To build weights in takes several copies of them, and they are of use for one run.
            session = Session(part, self._settings, [n for n, a in part.initializers.items() if a.size >= FED_ELEMENTS])
            targets = {n: into[n] for n in segment.outputs if n in into}
            values |= session.run({n: values[n] for n in session.inputs}, targets, handed_on)
            del session
            for array in part.initializers.values():
                release(array)
            for name in segment.last_use:
                values.pop(name, None)
        return {name: values[name] for name in self.outputs}


def cut(graph: Graph, most: int) -> list[Segment]:
    """Return the segments of a graph; nodes that follow from weights alone go along wherever they are read."""
    moving = graph.moving_values()
    segments = [Segment()]
    reads: list[dict[str, None]] = [{}]
    held: set[str] = set()
    size = 0
    for node in graph.nodes:
        if not any(o in moving for o in node.output):
            continue
        own = _weights(graph, node, moving) - held
        added = sum(graph.initializers[n].nbytes for n in own)
        if size + added > most and segments[-1].made:
            segments.append(Segment())
            reads.append({})
            held, size, own = set(), 0, _weights(graph, node, moving)
            added = sum(graph.initializers[n].nbytes for n in own)
        held |= own
        size += added
        segments[-1].made |= dict.fromkeys(o for o in node.output if o)
        reads[-1] |= dict.fromkeys(i for i in node.input if i in moving)
    last = {name: number for number, read in enumerate(reads) for name in read}
    for number, (segment, read) in enumerate(zip(segments, reads, strict=True)):
        segment.inputs = [i for i in read if i not in segment.made]
        segment.outputs = [o for o in segment.made if o in graph.outputs or last.get(o, -1) > number]
        segment.last_use = [i for i in segment.inputs if last[i] == number and i not in graph.outputs]
    segments[-1].outputs += [o for o in graph.outputs if o not in moving]
    return [segment for segment in segments if segment.outputs]


def _weights(graph: Graph, node: onnx.NodeProto, moving: Collection[str]) -> set[str]:
    """Return the initializers that a node reads, also through nodes that follow from initializers alone."""
    found, pending = set(), [i for i in node.input if i]
    while pending:
        name = pending.pop()
        if name in graph.initializers:
            found.add(name)
        elif name not in moving and (maker := graph.producer(name)) is not None:
            pending += [i for i in maker.input if i]
    return found
