"""What a job will take of memory, told before it starts, so that a bound that cannot be held is refused in time.

A job goes through phases; its peak is the largest of them. To what the process holds already (Python, libraries, the
weights as loaded) each phase adds what it cannot do without: the values that live at one moment while one batch or one
piece of it goes through a part of the net, from the graph's shapes; arrays that are drawn or copied; patches; pictures.
What the bound leaves above that in the pass over all pictures is room for kept values, and the rest of these goes to a
file (`engine/shelf.py`). The cut into batches and pieces stays what it is without a bound, and so do all bytes that are
written.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
import onnx

from caffeinit.engine.abreast import can_cut, num_parts
from caffeinit.engine.session import fed_weights
from caffeinit.engine.shelf import Room
from caffeinit.engine.staged import MERGED_BYTES, can_merge
from caffeinit.engine.stages import Stage, plan_stages
from caffeinit.engine.streaming import PIECE_BYTES as STREAMED_BYTES
from caffeinit.engine.streaming import can_stream
from caffeinit.errors import CaffeinitError, OptionError
from caffeinit.gradients.sources import Way
from caffeinit.graph import Graph
from caffeinit.graph.rowwise import most_pictures
from caffeinit.graph.sizes import value_bytes
from caffeinit.graph.units import Unit
from caffeinit.images.batches import Calibration
from caffeinit.methods.within import plan_pass
from caffeinit.model.network import Network
from caffeinit.proof.verify import SPOOL_BYTES
from caffeinit.statistics.forward import PIECE_BYTES, looked_at, unit_outputs, written
from caffeinit.statistics.rates import RateProbe
from caffeinit.storage.paging import return_large_blocks, trim_heap

# onnxruntime's arena rounds up, and leaves holes.
_ARENA = 1.25
# What a thread takes for products and for the windows of convolutions, beside values, at most.
_WORKING = 1 << 25
# Small things, and what the allocators of C and Python do not give back.
_SLACK, _SLACK_PART = 32 << 20, 0.03
_GROWN_MB = 4


@dataclass(frozen=True)
class Work:
    """What a job does, as far as it takes memory.

    Attributes:
        passes: a normalising pass goes over all pictures, stage by stage.
        forward: values that the whole net runs forward for, beside its units' outputs; None where it does not.
        compares: these are kept to be compared.
        rate_pictures: pictures that rates are measured on; 0 if they are not.
        rates_last: they are when all else is done.
        patches: value -> bytes of the patches that are taken from it.
        drawn: bytes that drawing one unit takes at most.
        libraries: bytes of what is still to be loaded for it.
    """

    passes: bool = False
    forward: Sequence[str] | None = None
    compares: bool = False
    rate_pictures: int = 0
    rates_last: bool = False
    patches: Mapping[str, int] | None = None
    drawn: int = 0
    libraries: int = 0


@contextmanager
def bounded(
    network: Network, calibration: Any, work: Work, limit: int | None, folder: str | PathLike[str] | None
) -> Iterator[None]:
    """Run a block with the process' memory below `limit` bytes; without a limit as it comes.

    Raises:
        OptionError: the limit is too small for the job, or this system does not tell a process' memory.
    """
    if limit is None:
        yield
        return
    return_large_blocks()
    before = network.settings
    network.settings = replace(before, room=find_room(network, calibration, work, limit, folder))
    try:
        yield
    finally:
        network.settings = before


def find_room(
    network: Network, calibration: Any, work: Work, limit: int, folder: str | PathLike[str] | None = None
) -> Room:
    """Return what a limit leaves for kept values; see `bounded`."""
    phases = _phases(network, calibration, work)
    slack = _SLACK + int(_SLACK_PART * limit)
    name, phase = max(phases.items(), key=lambda p: p[1].least)
    if phase.least + slack > limit:
        # The process may have grown a little when it is asked again.
        enough = math.ceil((phase.least + _SLACK) / (1 - _SLACK_PART) / (1 << 20)) + _GROWN_MB
        raise OptionError(
            f"--memory-limit {limit >> 20}M is too little: {name} takes about {phase.least >> 20} MB by itself.\n"
            f"Give {enough}M or more, or a smaller --batch-size (now {_batch_size(calibration)}), which changes last digits"
        )
    room = limit - slack
    workers = min((1 + (room - p.least) // p.further for p in phases.values() if p.further), default=1)
    kept = room - phases["the pass over the pictures"].least if work.passes else 0
    return Room(kept, folder, int(min(workers, 1 << 10)))


def resident_bytes() -> int:
    """Return how much memory this process holds now.

    Raises:
        OptionError: the system does not tell.
    """
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        raise OptionError("--memory-limit: this system does not tell how much memory a process holds") from None


@dataclass(frozen=True)
class _Phase:
    """What one phase of a job takes, the process as it is included.

    Attributes:
        least: bytes that it cannot do without.
        further: what it takes more for each further piece that runs beside the first; 0 where none does.
    """

    least: int
    further: int = 0


def _phases(network: Network, calibration: Any, work: Work) -> dict[str, _Phase]:
    """Return the phases of a job."""
    graph = network.graph
    rates = _rates(network, min(work.rate_pictures, int(calibration.num_images)))
    trim_heap()
    # Arrays of zeros are not in memory before they are drawn.
    missing = sum(network.params[layer][index].nbytes for layer, index in network.missing)
    pictures = _pictures(calibration)
    base = resident_bytes() + missing + pictures + work.libraries
    phases = {}
    if network.missing or work.drawn:
        phases["drawing weights"] = _Phase(base + work.drawn)
    if work.rate_pictures:
        # No pictures are read meanwhile.
        others = base - pictures + _kept_pictures(calibration)
        least = others + rates.held + rates.beside + _with_working(rates.piece)
        # Windows and sums of two pieces are seldom at their largest at one time: there is room for one's.
        phases["measuring rates"] = _Phase(least, rates.piece)
        if not work.rates_last:
            # Where rates are measured again and again, what they come from is not kept in between.
            base += rates.held + (2 * rates.squares if work.compares else 0)
    phases["holding weights and libraries"] = _Phase(base)
    if work.passes:
        phases["the pass over the pictures"] = _Phase(base + _pass(network, calibration, work))
    if work.forward is not None:
        spool = _spool(graph, work.forward, calibration) if work.compares else 0
        # A pass sets statistics, and moments follow from others then that did not before.
        runs = {s: looked_at(network, work.forward, settled=s) for s in (False, work.passes)}
        piece, further = map(
            max, zip(*(_forward(network, wanted, calibration) for wanted in runs.values()), strict=True)
        )
        phases["a forward run"] = _Phase(base + spool + piece, further)
    phases["writing the file"] = _Phase(base)
    return phases


def _spool(graph: Graph, values: Sequence[str], calibration: Any) -> int:
    """Return what values take in memory while they wait to be compared."""
    return min(SPOOL_BYTES, int(_ARENA * sum(value_bytes(graph, n, int(calibration.num_images)) for n in values)))


def _pass(network: Network, calibration: Any, work: Work) -> int:
    """Return what one batch in the widest stage takes, and the patches beside it."""
    graph, size = network.graph, _batch_size(calibration)
    if work.patches:  # what weights are drawn from is kept as it is
        stages = plan_stages(graph, unit_outputs(network))
    else:
        graph, stages = plan_pass(network)
    patches = sum(sorted((work.patches or {}).values())[-2:])
    # A stage that is fed batches gets those that count as pictures; a later one has them from the file, and no pictures.
    fed = graph.inputs.keys() if _pictures(calibration) else ()
    sizes = [
        _stage_bytes(graph, s, _merged(graph, s, size, calibration.num_images), network.settings.cores, fed)
        for s in stages
    ]
    return patches + max(sizes, default=0)


def _merged(graph: Graph, stage: Stage, size: int, num_images: int) -> int:
    """Return how many pictures go through a stage at once: all where they are merged (`StagedRun`)."""
    fits = sum(value_bytes(graph, v, num_images) for v in stage.inputs) <= MERGED_BYTES
    return num_images if fits and can_merge(graph, stage) else size


def _stage_bytes(graph: Graph, stage: Stage, pictures: int, cores: int, fed: Collection[str]) -> int:
    kept = {*stage.inputs, *stage.outputs} - {*fed}
    part = graph.part(stage.outputs, stage.inputs)
    is_cut = can_cut(part)
    if is_cut:
        kept -= {name for name in stage.unread if len(graph.shape(name)) > 2}
    held = sum(value_bytes(graph, v, pictures) for v in kept)
    if is_cut:
        pictures = min(pictures, cores * math.ceil(pictures / num_parts(part, pictures, cores)))
    return _with_weights(part, held + _with_working(int(_ARENA * living(graph, stage.outputs, stage.inputs, pictures))))


def _with_working(values: int) -> int:
    """Return what it takes to compute values of so many bytes: them, and windows and sums beside them."""
    return values + min(_WORKING, 2 * values)


def _with_weights(part: Graph, running: int) -> int:
    """Return what a session takes: building weights in takes several copies of them, and then it has two of its own."""
    fed = set(fed_weights(part))
    sizes = [array.nbytes for name, array in part.initializers.items() if name not in fed]
    return max(running + 2 * sum(sizes), int(4.5 * sum(sizes) + 1.5 * max(sizes, default=0)))


def _forward(network: Network, wanted: Sequence[str], calibration: Any) -> tuple[int, int]:
    """Return what one piece takes, and what a further one beside it, if there is to be one.

    That is what is wanted, as arrays and in onnxruntime's own layout, and what is between.
    """
    graph, part = network.graph, network.graph.part(wanted)
    streams = can_stream(part, network.settings)
    most = most_pictures(graph, wanted, STREAMED_BYTES if streams else PIECE_BYTES)
    pictures = min(_batch_size(calibration), most or _batch_size(calibration))
    anew = () if streams else {*wanted} - {*written(network, part)}  # these are copied once more
    arrays = sum(value_bytes(graph, v, pictures) for v in (*wanted, *anew))
    # All pieces share the session.
    piece = _with_weights(part, arrays + int(_ARENA * living(graph, wanted, (), pictures)))
    return piece, piece if streams else 0


@dataclass(frozen=True)
class _Rates:
    """What measuring rates takes, in bytes.

    Attributes:
        held: from the first measurement to the last: the pictures, and what is compiled.
        piece: the values of one piece while it goes forward and back.
        beside: beside the pieces.
        squares: what is kept of the gradients' squares; the weights' own take as much, and are taken after them.
    """

    held: int = 0
    piece: int = 0
    beside: int = 0
    squares: int = 0


def _rates(network: Network, pictures: int) -> _Rates:
    """Return what it takes to measure rates on so many pictures."""
    if not pictures:
        return _Rates()
    graph, rows = network.graph, network.graph.batch_size()
    batches = 1 if graph.batch_axis_free else math.ceil(pictures / rows)
    pictures = pictures if graph.batch_axis_free else rows
    batch = {n: np.zeros((pictures * s[0] // rows, *s[1:]), np.float32) for n, s in graph.inputs.items() if s}
    trim_heap()
    before = resident_bytes()
    try:
        probe = RateProbe(network, [batch])
    except CaffeinitError:  # there are no rates then, and the job says why
        return _Rates()
    trim_heap()
    compiled = max(0, resident_bytes() - before)
    first, run = probe.batches[0], probe.run
    size = len(next(iter(first.values()))) * rows // max(next(iter(graph.inputs.values()))[0], 1)
    units = {unit.key: unit for unit in network.units if unit.key in run.sources} if run.is_whole else {}
    squares = sum(_squares(graph, u, run.sources[key][0].way, pictures * batches) for key, u in units.items())
    made = max((_squared_once(graph, u, run.sources[key][0].way) for key, u in units.items()), default=0)
    given = batches * sum(a.nbytes for a in batch.values())
    piece = max(living(part, part.outputs, (), part.batch_size()) + beside for part, beside in run.steps(size)) + made
    return _Rates(given + compiled, piece, squares + run.shared_bytes, squares)


def _squares(graph: Graph, unit: Unit, way: Way, pictures: int) -> int:
    """Return what is kept of the squares of a unit's gradient (`gradients/squares.py`)."""
    assert unit.weight is not None
    if way is not Way.ROWS:
        return 8 * math.prod(unit.weight.shape[:3])
    rows = sum(math.prod(graph.shape(use.input)[:-1]) for use in unit.uses) * pictures // graph.batch_size()
    return 8 * sum(unit.weight.shape) * rows


def _squared_once(graph: Graph, unit: Unit, way: Way) -> int:
    """Return what it takes to square the gradient of one picture: it and a part of it, their squares, what they are of."""
    assert unit.weight is not None
    if way is Way.ROWS:
        return 0
    read = max(value_bytes(graph, use.input, 1) for use in unit.uses)
    return 2 * unit.weight.nbytes + 12 * math.prod(unit.weight.shape[:3]) + read


def _pictures(calibration: Any) -> int:
    """Return what batches and decoded pictures take."""
    return calibration.memory if isinstance(calibration, Calibration) else 0


def _kept_pictures(calibration: Any) -> int:
    """Return what pictures take that are kept for later passes."""
    return calibration.kept_memory if isinstance(calibration, Calibration) else 0


def living(graph: Graph, outputs: Sequence[str], inputs: Sequence[str], pictures: int) -> int:
    """Return the most bytes of values that live at once when onnxruntime runs a part of a graph.

    Inputs and outputs are among them, since onnxruntime brings those of convolutions into a layout of its own.
    """
    nodes = _running_order(graph.ancestors(outputs, inputs))
    last = {name: i for i, node in enumerate(nodes) for name in node.input}
    moving = graph.moving_values()
    held = {o for o in outputs if o not in inputs}
    sizes: dict[str, int] = {}
    now = peak = 0
    for index, node in enumerate(nodes):
        for name in (*node.input, *node.output):
            if name and name not in graph.initializers and name not in sizes:
                sizes[name] = value_bytes(graph, name, pictures, name in moving)
                now += sizes[name]
        peak = max(peak, now)
        for name in {*node.input, *node.output} & sizes.keys():
            if last.get(name, index) <= index and name not in held:
                now -= sizes[name]
                sizes[name] = 0
    return peak


def _running_order(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return nodes, given in some topological order, in the one in which onnxruntime runs them.

    It goes back from the last node that nothing reads, and from each node to its inputs, the latest first.
    Source: microsoft/onnxruntime, onnxruntime/core/graph/graph.cc, Graph::ReverseDFSFrom.
    """
    made = {o: i for i, node in enumerate(nodes) for o in node.output if o}
    sources = [sorted({made[i] for i in node.input if i in made}) for node in nodes]
    read = {source for of in sources for source in of}
    stack = [(i, False) for i in range(len(nodes)) if i not in read]
    seen: set[int] = set()
    order = []
    while stack:
        index, done = stack.pop()
        if done:
            order.append(nodes[index])
        elif index not in seen:
            seen.add(index)
            stack.append((index, True))
            stack += [(source, False) for source in sources[index] if source not in seen]
    return order


def _batch_size(calibration: Any) -> int:
    return min(int(calibration.batch_size), max(int(calibration.num_images), 1))
