"""What rates are made from: values of a graph with gradients, and what squares of the weights' gradients add up to.

Each picture's gradient is squared by itself. It is made from what the unit reads and the gradient of what it puts out;
where few rows go through a matrix product, only its squares are. On a device, where these values are better left,
pieces have one picture each, and the weight's gradient is asked for, whose squares are added up there (`resident.py`).
So it is where nothing else can be done; over a piece of several pictures it is their sum, whose square is the same on
average, but scatters more. What follows from the learned arrays alone is computed once for all pieces of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import onnx

from caffeinit.engine.session import Session, Settings
from caffeinit.gradients.squares import PictureSquares, ProductSquares, Squares, array_squares
from caffeinit.graph import Graph
from caffeinit.graph.products import PRODUCTS, Product
from caffeinit.graph.rules import PictureGradient, find_rule
from caffeinit.graph.sizes import numpy_type
from caffeinit.graph.units import Unit, Use, grouped_view
from caffeinit.storage.mapped import ScratchArrays, empty_pages, release

MOST_PICTURES = 8  # in a piece of a batch
PREPARED_BYTES = 1 << 28  # of a large net's weights no second copy is held; the rest is computed for each piece


class Prepared:
    """What of a graph follows from changing arrays alone (turned kernels, folded factors), as arrays.

    The pieces share it, so that it is computed once for each measurement and not once for each piece.
    """

    def __init__(self, graph: Graph, settings: Settings, changing: Collection[str]) -> None:
        """Prepare; `changing`: the initializers that change from one measurement to the next."""
        self._changing = changing
        self._settings = replace(settings, threads=1)
        names = _following(graph, changing)
        self.arrays = {n: empty_pages(graph.shape(n), numpy_type(graph, n)) for n in names}
        self._session = Session(graph.part(names), settings, fed=changing, sparing=True) if names else None

    def refresh(self) -> None:
        """Compute the arrays from the changing ones as they now are."""
        if self._session:
            self._session.run({}, into=self.arrays)

    def forget(self) -> None:
        """Give the arrays' memory back; they hold nothing until they are computed anew."""
        for array in self.arrays.values():
            release(array)

    def part(self, graph: Graph, outputs: Sequence[str], inputs: Sequence[str]) -> Graph:
        """Return the part of a graph that computes values with these arrays, from `inputs` and the graph's own."""
        part = graph.part(outputs, [*inputs, *self.arrays])
        for name in part.inputs.keys() & self.arrays.keys():
            del part.inputs[name]
            part.initializers[name] = self.arrays[name]
        return part

    def compile(self, graph: Graph, outputs: Sequence[str], inputs: Sequence[str] = ()) -> Session:
        """Return the session that runs a part, on one thread: pieces run side by side."""
        part = self.part(graph, outputs, inputs)
        for name in part.inputs.keys() - graph.inputs.keys():
            if part.is_typed(name):  # its size goes with the piece, who knows along which axis
                part.set_shape(name, (-1,) * len(part.shape(name)), part.elem_type(name))
        return Session(part, self._settings, fed=[*self._changing, *self.arrays], sparing=True)


def _following(graph: Graph, changing: Iterable[str]) -> list[str]:
    """Return the values that follow from changing arrays and constants alone and are read by what depends on pictures."""
    moving = graph.moving_values()
    fixed = set(changing)
    for node in graph.nodes:
        if not any(o in moving for o in node.output) and any(i in fixed for i in node.input):
            fixed.update(o for o in node.output if o)
    read = (i for n in graph.nodes if any(o in moving for o in n.output) for i in n.input)
    found, room = [], PREPARED_BYTES
    for name in dict.fromkeys(read):
        if name in fixed and graph.producer(name) and -1 not in (shape := graph.shape(name)):
            size = math.prod(shape) * numpy_type(graph, name).itemsize
            if size <= room:
                found.append(name)
                room -= size
    return found


class Way(Enum):
    """How the squares of a unit's gradient are found; later ones need more."""

    ROWS = "from products of few rows"
    PICTURES = "from each picture's gradient"
    SUM = "from the gradient of a piece"


@dataclass
class GradientSource:
    """Where the gradient of one use of a weight comes from.

    Attributes:
        differentiated: the value whose gradient is asked for: what the unit puts out, or the weight.
        gradient: the value that holds it.
        read: what the unit reads; empty where the weight's gradient is asked for.
        factor: what the output's gradient is multiplied with, because the node has a multiple of the weight; or empty.
        compute: returns the weight's gradient from both.
    """

    use: Use
    way: Way
    differentiated: str
    read: str = ""
    factor: str = ""
    compute: PictureGradient | None = None
    gradient: str = ""

    @property
    def values(self) -> list[str]:
        """The values to be computed."""
        return [v for v in (self.gradient, self.read, self.factor) if v]


def find_sources(
    graph: Graph, unit: Unit, readers: Mapping[str, Sequence[onnx.NodeProto]], is_alone: bool = False
) -> list[GradientSource]:
    """Return where the gradients of a unit's uses come from, all in one way.

    Args:
        readers: value -> the nodes of `graph` that read it.
        is_alone: whether a piece is one picture, so that the sum over it is what is wanted.
    """
    taken: set[int] = set()
    found = [_of_use(graph, use, readers.get(use.input, ()), taken) for use in unit.uses]
    sources = [source for source in found if source is not None]
    are_rows = all(source.way is Way.ROWS for source in sources)
    if len(sources) < len(found) or (is_alone and not are_rows):
        return [GradientSource(use, Way.SUM, use.node.input[use.side]) for use in unit.uses]
    for source in sources:
        source.way = Way.ROWS if are_rows else Way.PICTURES
    return sources


def _of_use(graph: Graph, use: Use, readers: Sequence[onnx.NodeProto], taken: set[int]) -> GradientSource | None:
    """Return the source for pictures by themselves, if there is one; `taken`: nodes that stand for other uses."""
    free = [node for node in readers if id(node) not in taken]
    node, factor = (use.node, "") if use.node.op_type in PRODUCTS else _standing_for(graph, use, free)
    rule = find_rule(node) if node is not None else None
    compute = rule.picture_gradient(node, graph, use.side) if rule and node is not None else None
    if node is None or compute is None:
        return None
    taken.add(id(node))
    return GradientSource(use, _way(graph, use), node.output[0], use.input, factor, compute)


def _way(graph: Graph, use: Use) -> Way:
    if use.node.op_type not in PRODUCTS:
        return Way.PICTURES
    product = Product.of(use.node, use.side, len(graph.shape(use.input)))
    if (product.side, product.input_axis, product.alpha) != (1, -1, 1.0):
        return Way.PICTURES
    num_rows = math.prod(graph.shape(use.input)[:-1])
    if graph.batch_axis_free:
        num_rows = num_rows * MOST_PICTURES // graph.batch_size()
    is_few = num_rows <= MOST_PICTURES or 2 * num_rows <= min(graph.shape(use.node.input[use.side])[-2:])
    return Way.ROWS if is_few else Way.PICTURES


def _standing_for(graph: Graph, use: Use, readers: Sequence[onnx.NodeProto]) -> tuple[onnx.NodeProto | None, str]:
    """Return the convolution that stands for a use, and what it has the weight multiplied with (`absorbing.py`)."""
    weight = use.node.input[use.side]
    for node in readers:
        if node.op_type != use.node.op_type or node.input[0] != use.input:
            continue
        if node.input[1] == weight:
            return node, ""
        maker = graph.producer(node.input[1])
        if maker is not None and maker.op_type == "Mul" and maker.input[0] == weight:
            return node, maker.input[1]
    return None, ""


def gradient_squares(
    sources: Sequence[GradientSource],
    values: Mapping[str, np.ndarray],
    pictures: int,
    place: ScratchArrays | None = None,
) -> Squares:
    """Return the squares of the sum of all uses' gradients.

    Args:
        pictures: how many there are, one behind the other on axis 0; 1 where that cannot be told.
        place: for rows of products that are not to be kept in memory.
    """
    if sources[0].way is Way.ROWS:
        return _row_squares(sources, values, pictures, place)
    if sources[0].way is Way.PICTURES:
        return _picture_squares(sources, values, pictures)
    gradient = gradient_sum(sources, values)
    return array_squares(gradient, most=gradient.size)


def _row_squares(
    sources: Sequence[GradientSource], values: Mapping[str, np.ndarray], pictures: int, place: ScratchArrays | None
) -> ProductSquares:
    diffs, rows = (
        [values[v].reshape(-1, values[v].shape[-1]) for v in names]
        for names in ([s.gradient for s in sources], [s.read for s in sources])
    )
    numbers = [np.arange(len(part)) * pictures // len(part) for part in diffs]
    return ProductSquares(np.concatenate(diffs), np.concatenate(rows), np.concatenate(numbers), place)


def _picture_squares(
    sources: Sequence[GradientSource], values: Mapping[str, np.ndarray], pictures: int
) -> PictureSquares:
    squares: PictureSquares | None = None
    given = [(s, values[s.read], _times(values[s.gradient], values.get(s.factor))) for s in sources]
    for number in range(pictures):
        gradient: np.ndarray | None = None
        for source, x, dy in given:
            assert source.compute is not None
            rows = _picture(x, number, pictures)
            if len(rows):
                one = source.compute(rows, _picture(dy, number, pictures))
                gradient = one if gradient is None else gradient + one
        if gradient is None:
            continue
        if squares is None:
            squares = PictureSquares(np.zeros(gradient.shape[:3]))
        squares.add(gradient)
    assert squares is not None
    return squares


def _picture(array: np.ndarray, number: int, pictures: int) -> np.ndarray:
    """Return the entries of one picture: its share of them, which is none where there are fewer than pictures."""
    return array[len(array) * number // pictures : len(array) * (number + 1) // pictures]


def _times(dy: np.ndarray, factor: np.ndarray | None) -> np.ndarray:
    """Return dy (N, O, ...) with its channels multiplied by a factor (O, 1, ...)."""
    return dy if factor is None else dy * factor.reshape(1, -1, *[1] * (dy.ndim - 2))


def gradient_sum(sources: Sequence[GradientSource], values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the sum of all uses' weight gradients over the pictures, (group, O/group, I/group, *kernel)."""
    total = None
    for source in {s.differentiated: s for s in sources}.values():  # the gradient of a value sums over its uses
        array = grouped_view(source.use.node, values[source.gradient], source.use.side)
        assert array is not None
        total = array if total is None else total + array
    assert total is not None
    return total
