"""Where numbers stop being finite: the first value of a net that holds NaN or infinity on pictures, and what makes it.

A unit whose output is not finite need not be at fault itself: whatever lies below it may have made the first such number.
Of Caffe nets only blobs are looked at, for inside a layer an infinity may be meant; of ONNX models, all values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from caffeinit.arithmetic.moments import Moments
from caffeinit.engine.session import compile_graph
from caffeinit.errors import WeightsError
from caffeinit.model.network import Network
from caffeinit.statistics.forward import PIECE_BYTES, cut
from caffeinit.statistics.largest import is_real, shown_values

Values = Mapping[str, np.ndarray]


def check_finite(network: Network, moments: Mapping[str, Moments], batches: Iterable[Values]) -> None:
    """Refuse units' outputs that are not finite, and tell where the first such number comes from.

    Args:
        moments: unit's key -> moments of its output; of units that are not there nothing is known yet.
        batches: input -> array; only run through the net again where there is something to refuse.
    Raises:
        WeightsError: some unit's output is not finite.
    """
    for unit in network.units:
        found = moments.get(unit.key)
        if found is not None and not (np.isfinite(found.mean) & np.isfinite(found.squares)).all():
            why = describe_first(network, batches, [use.output for use in unit.uses])
            raise WeightsError(f'layer "{unit.name}": its output is not finite on the calibration pictures. {why}')


@dataclass(frozen=True)
class Culprit:
    """The first value that is not finite.

    Attributes:
        kind: "NaN" or "infinity", what it holds.
        largest: of what its maker reads; it is finite.
    """

    value: str
    kind: str
    largest: float


def describe_first(network: Network, batches: Iterable[Values], ends: Sequence[str]) -> str:
    """Return sentences on the first number that is not finite and its maker; empty if all that leads to `ends` is finite.

    Args:
        batches: input -> array; run through the net once more.
        ends: values of the graph that the pictures determine.
    """
    found = find_first(network, batches, ends)
    if found is None:
        return ""
    maker = _maker(network, found.value)
    where = f'blob "{found.value.partition("@")[0]}"' if network.makers else f'value "{found.value}"'
    told = f"The first number that is not finite is {found.kind} in {where}, which {maker} makes of finite ones, "
    return told + f"up to {found.largest:.3g} in size. {_advice(network, found.value)}"


def find_first(network: Network, batches: Iterable[Values], ends: Sequence[str]) -> Culprit | None:
    """Return the first value, in the order of the graph, that is not finite on some picture; None if there is none."""
    graph, values = network.graph, shown_values(network, ends)
    if not values:
        return None
    session = compile_graph(graph, values, network.settings)
    found = None
    for piece in cut(graph, batches, values, PIECE_BYTES):
        made = session.run({name: piece[name] for name in session.inputs})
        first = next((at for at, v in enumerate(values) if not np.isfinite(made[v]).all()), None)
        if first is not None:
            kind = "NaN" if np.isnan(made[values[first]]).any() else "infinity"
            found = Culprit(
                values[first], kind, _largest([{**piece, **made}[v] for v in _read(network, values[first])])
            )
            values = values[:first]  # another picture may show an earlier one
    return found


def _largest(arrays: Sequence[np.ndarray]) -> float:
    return max((float(np.abs(a).max(initial=0)) for a in arrays), default=0.0)


def _read(network: Network, value: str) -> list[str]:
    """Return the values that the maker of `value` reads: blobs, or what a node reads and the pictures move."""
    graph, found = network.graph, dict[str, None]()
    moving, pending = graph.moving_values(), [value]
    while pending:
        node = graph.producer(pending.pop())
        for name in node.input if node else ():
            if name in graph.inputs or (name in moving and name in (network.makers or moving)):
                found[name] = None
            elif name in moving:
                pending.append(name)
    return [name for name in found if name in graph.inputs or is_real(network, name)]


def _maker(network: Network, value: str) -> str:
    if value in network.makers:
        return 'layer "{}" ({})'.format(*network.makers[value])
    node = network.graph.producer(value)
    assert node is not None
    return network.place(value, False) or f"its {node.op_type}"


def _advice(network: Network, value: str) -> str:
    """Return what is to be looked at: the maker's weights, or its parameters where it has none."""
    weights = _weights(network, value)
    if weights:
        bad = sum(int((~np.isfinite(a)).sum()) for a in weights)
        if bad:
            return f"{bad:,} of its weights {'is' if bad == 1 else 'are'} not finite"
        return f"Look for overflow in its weights, up to {_largest(weights):.3g} in size"
    stated = _stated(network, value)
    own = f"It has no weights: look at its parameters ({stated})" if stated else "It has neither weights nor parameters"
    return own + (" and at what it reads" if stated else ": look at what it reads")


def _weights(network: Network, value: str) -> Sequence[np.ndarray]:
    """Return the learned arrays of a value's maker."""
    if value in network.makers:
        return network.params.get(network.makers[value][0], ())
    graph, moving, pending = network.graph, network.graph.moving_values(), [value]
    found = {}
    while pending:
        node = graph.producer(pending.pop())
        names = [name for name in (node.input if node else ()) if name not in moving]
        found.update({name: graph.initializers[name] for name in names if name in network.learned})
        pending += names
    return list(found.values())


def _stated(network: Network, value: str) -> str:
    """Return the parameters of a value's maker as its file states them."""
    if value in network.makers:
        return network.source.parameters(network.makers[value][0])
    node = network.graph.producer(value)
    assert node is not None
    return ", ".join(f"{a.name}: {onnx.helper.get_attribute_value(a)}" for a in node.attribute if a.type != a.GRAPH)
