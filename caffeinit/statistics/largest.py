"""How large the numbers of a net become on pictures, at every place between its layers.

Beside units there are values that are larger than all that units put out: products of two of them, sums, powers. Of Caffe
nets only blobs are looked at, of ONNX models all values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from caffeinit.engine.session import compile_graph
from caffeinit.graph import Shape
from caffeinit.graph.sizes import numpy_type
from caffeinit.model.network import Network
from caffeinit.ops.building import reduced
from caffeinit.ops.labels import of_rank
from caffeinit.statistics.forward import PIECE_BYTES, cut, unit_outputs

Values = Mapping[str, np.ndarray]
_REAL = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)


def is_real(network: Network, value: str) -> bool:
    """Tell whether a value is known to hold real numbers."""
    return network.graph.is_typed(value) and network.graph.elem_type(value) in _REAL


def shown_values(network: Network, ends: Sequence[str]) -> list[str]:
    """Return the values of real numbers that pictures move and that lead to `ends`, in the order of the graph."""
    graph = network.graph
    moving = graph.moving_values()
    shown = network.makers or moving
    return [v for n in graph.ancestors(ends) for v in n.output if v in shown and v in moving and is_real(network, v)]


def measure_largest(
    network: Network, batches: Iterable[Values], ends: Sequence[str], labels: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the largest absolute numbers of the values before `ends` that no unit puts out, in one forward pass.

    Infinities do not count, such as those that masks hold: they are the same in any precision.

    Args:
        labels: value -> array that broadcasts to its shape, along the axes of which numbers are told apart.
    Returns:
        value -> array shaped like its labels, of as many axes as the value has; values whose extents the data choose are
        not among them.
    """
    graph = network.graph.copy()
    known = {*unit_outputs(network)}
    values = [v for v in shown_values(network, ends) if v in labels and v not in known and -1 not in graph.shape(v)]
    largest, shapes = {}, {}
    for value in values:
        shapes[value] = of_rank(labels[value], len(graph.shape(value))).shape
        axes = [axis for axis, extent in enumerate(shapes[value]) if extent == 1]
        size = graph.op("Abs", value)
        kind = numpy_type(graph, value)
        is_finite = graph.op("Less", size, np.asarray(np.inf, kind))
        size = graph.op("Where", is_finite, size, np.asarray(0, kind))
        largest[value] = reduced(graph, "ReduceMax", size, axes) if axes else size
    if not values:
        return {}
    session = compile_graph(graph, list(largest.values()), network.settings)
    found: dict[str, np.ndarray] = {}
    for piece in cut(network.graph, batches, values, PIECE_BYTES):
        made = session.run({name: piece[name] for name in session.inputs})
        for value, name in largest.items():
            sizes = _of_all_pictures(made[name], shapes[value], graph.batch_size())
            found[value] = np.maximum(found.get(value, 0.0), sizes)
    return found


def _of_all_pictures(sizes: np.ndarray, shape: Shape, pictures: int) -> np.ndarray:
    """Return the largest numbers of any picture where each has several rows on axis 0, told apart by their labels.

    Args:
        shape: of the labels, which are for so many `pictures`.
    """
    if sizes.shape == shape:
        return sizes
    of_any = sizes.reshape(-1, shape[0] // pictures, *shape[1:]).max(0)
    return np.concatenate([of_any] * pictures)
