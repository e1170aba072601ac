"""One forward pass over pictures that measures what every unit puts out, and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from caffeinit.engine.session import Session, compile_graph
from caffeinit.errors import WeightsError
from caffeinit.moments import Moments
from caffeinit.network import Network

Values = Mapping[str, np.ndarray]


def compile_units(network: Network, outputs: Sequence[str] = ()) -> Session:
    """Return the net compiled with the outputs of all units, and others.

    What is compared with what this gives has to be compiled with the same outputs: onnxruntime fuses what nobody looks
    between, and where much cancels out that alone moves outputs by a thousandth.
    """
    uses = [use.output for unit in network.units for use in unit.uses]
    return compile_graph(network.graph, list(dict.fromkeys([*uses, *outputs])), network.settings)


def measure_moments(
    network: Network,
    batches: Iterable[Values],
    outputs: Sequence[str] = (),
    see: Callable[[Values], None] = lambda values: None,
) -> dict[str, Moments]:
    """Return the moments of every unit's output, all its uses together, in one forward pass.

    Args:
        see: gets the values named `outputs` of each batch.
    Returns:
        unit's first initializer -> moments.
    Raises:
        WeightsError: an output is not finite.
    """
    uses = {use.output: (unit, use) for unit in network.units for use in unit.uses}
    session = compile_units(network, outputs)
    found = {unit.initializers[0]: Moments(unit.num_channels) for unit in network.units}
    with ThreadPoolExecutor(network.settings.threads or os.cpu_count()) as pool:
        for batch in batches:
            values = session.run({n: batch[n] for n in session.inputs})
            for value, (unit, use) in uses.items():
                found[unit.initializers[0]].update(values[value], use.axis, pool)
            see({name: values[name] for name in outputs})
    for unit in network.units:
        if not np.isfinite(found[unit.initializers[0]].std).all():
            raise WeightsError(f'layer "{unit.name}": its output is not finite on the calibration pictures')
    return found
