"""Rates of change: how fast each unit's weights would move, relative to their size, under gradients of one strength.

The rate C of a unit is the root of sum(dW^2) / sum(W^2), where dW is the gradient of <eta, head> for one picture and eta is
noise of covariance 1 on the net's heads (`statistics/noise.py`, `graph/heads.py`); squares are averaged over pictures. C_j
is the same over the weights that read input channel j alone. Noise and pictures stay the same from one measurement to the
next, so that two of them can be compared to more digits than an average over the noise would have.
Method: Krähenbühl et al., Data-dependent Initializations of Convolutional Neural Networks, ICLR 2016, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from caffeinit.arithmetic.factors import is_zero
from caffeinit.engine.session import is_segmented
from caffeinit.errors import CaffeinitError, GradientError
from caffeinit.gradients.absorbing import absorbed
from caffeinit.gradients.backward import PIECE_PICTURES
from caffeinit.gradients.resident import ResidentGradients
from caffeinit.gradients.reverse import append_backward
from caffeinit.gradients.runs import SegmentedRun, WholeRun
from caffeinit.gradients.sources import MOST_PICTURES, find_sources
from caffeinit.gradients.squares import FiledSquares, Squares, array_squares
from caffeinit.graph import Graph
from caffeinit.graph.heads import find_heads
from caffeinit.graph.nodes import operator_of
from caffeinit.graph.products import PRODUCTS
from caffeinit.graph.rowwise import most_pictures
from caffeinit.graph.rules import find_rule
from caffeinit.graph.sizes import count_pictures, scaled_rows
from caffeinit.graph.units import Unit
from caffeinit.model.network import Network, Place
from caffeinit.scales.links import Link
from caffeinit.statistics.forward import cut
from caffeinit.statistics.noise import PictureNoise, draw_signs
from caffeinit.storage.mapped import ScratchArrays
from caffeinit.storage.paging import trim_heap

Batch = Mapping[str, np.ndarray]
# Batches are cut into pieces that run side by side, one thread each: what a convolution with threads of its own adds up
# depends on how many they are. Each piece reads all matrices: where that is most of the work, pieces are larger.
LARGE_PIECE_PICTURES = MOST_PICTURES
LARGE_PIECE_BYTES = 1 << 28  # of a larger piece's values
# Of the values of a piece's forward pass, most of which the way back needs, and of units' gradients.
PASS_BYTES = 1 << 28
SEGMENTED_PASS_BYTES = 1 << 27  # the same where weights are so many that they are not in memory at once

KEPT_BYTES = 1 << 26  # of all units' squares: fewer may be kept beside those of the next measurement


@dataclass
class UnitRates:
    """The rates of one affine unit.

    Attributes:
        rate: C; 0 where no gradient reaches the unit, infinite where its weights are all zero, NaN where both are.
        column_rates: (I,) C_j of every input channel.
        diffs: squares of the gradient, summed over pictures and divided by their number.
        weights: squares of the weights as they are now.
    """

    rate: float = math.nan
    column_rates: np.ndarray = field(default_factory=lambda: np.zeros(0))
    diffs: Squares | None = None
    weights: Squares | None = None

    @classmethod
    def of(cls, diffs: Squares, weights: Squares, num_outputs: int) -> UnitRates:
        """Return the rates that follow from these squares."""
        ones = np.ones(num_outputs)
        found, sizes = diffs.columns(ones), weights.columns(ones)
        return cls(float(_root(found.sum(), sizes.sum())), _root(found, sizes), diffs, weights)

    def columns(
        self, members: np.ndarray, link: Link, scales: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return squares per input channel, (I,), of gradient and weights, once the values have been scaled.

        Args:
            members: (O,) 1 for the output channels that count, 0 for others.
            link: the unit's place in a scale system.
            scales: (labels + 1,) log scales of that system; the values stay as they are without.
        """
        assert self.diffs is not None
        assert self.weights is not None
        if scales is None:
            return self.diffs.columns(members), self.weights.columns(members)
        outgoing, incoming = np.exp(2 * scales[link.outputs]), np.exp(2 * scales[link.inputs])
        return (
            self.diffs.columns(members / outgoing) * incoming,
            self.weights.columns(members * outgoing) / incoming,
        )

    def scaled(self, link: Link, scales: np.ndarray) -> UnitRates:
        """Return the rates that these become once the values have been scaled; see `columns`."""
        found, sizes = self.columns(np.ones(len(link.outputs)), link, scales)
        return UnitRates(float(_root(found.sum(), sizes.sum())), _root(found, sizes))

    def alone(self) -> UnitRates:
        """Return the rates without the squares that they come from, which take memory."""
        return UnitRates(self.rate, self.column_rates)

    @property
    def rate_cvar(self) -> float:
        """Coefficient of variation of the column rates; columns without weights or gradients are left out."""
        alive = self.column_rates[np.isfinite(self.column_rates) & (self.column_rates > 0)]
        return float(alive.std() / alive.mean()) if len(alive) else math.nan

    @property
    def is_measured(self) -> bool:
        """Whether the rate is a positive number."""
        return math.isfinite(self.rate) and self.rate > 0

    def why_unmeasured(self, unit: Unit) -> str:
        """Return why the unit, which gradients were taken of, has no rate; empty if it has one."""
        if self.is_measured:
            return ""
        if unit.weight is not None and not np.isfinite(unit.weight).all():
            return "its weights are not all finite"
        if unit.weight is not None and is_zero(unit.weight):
            return "its weights are all zero"
        if self.rate == 0:
            return "no gradient reaches it on these pictures"
        return "" if math.isfinite(self.rate) else "its gradient is not finite on these pictures"


def _root(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt(numerator / denominator))


def without_squares(rates: Mapping[str, UnitRates]) -> dict[str, UnitRates]:
    """Return unit's key -> its rates, to be looked at when nothing is to be planned any more; see `UnitRates.alone`."""
    return {key: known.alone() for key, known in rates.items()}


def rate_spread(rates: Iterable[float]) -> float:
    """Return max |log C - mean of log C|; 0 for fewer than two rates."""
    logs = np.log([r for r in rates if math.isfinite(r) and r > 0])
    return float(np.abs(logs - logs.mean()).max()) if len(logs) else 0.0


def known_spread(rates: Iterable[float]) -> float:
    """Return the spread of the rates that there are; NaN where there is none."""
    known = [r for r in rates if math.isfinite(r) and r > 0]
    return rate_spread(known) if known else math.nan


@dataclass
class _Batches:
    """Squares of the gradient summed over several batches."""

    parts: list[Squares]
    share: float

    def columns(self, factors: np.ndarray) -> np.ndarray:
        """Return the sums for every input channel."""
        return np.asarray(sum(part.columns(factors) for part in self.parts)) * self.share


class RateProbe:
    """Measures the rates of a network on fixed pictures with fixed noise, again and again while its weights change.

    Attributes:
        batches: input -> array, each; large ones are cut.
        heads: values that the noise is put on.
        unreached: unit's key -> why it has no rate.
        run: the graph that runs, gradients included.
    """

    def __init__(
        self, network: Network, batches: Sequence[Batch], seed: int = 0, changing: Collection[str] = ()
    ) -> None:
        """Prepare to measure.

        Args:
            batches: input -> array; the noise is drawn once for each.
            changing: initializers that change from one measurement to the next, beside the learned arrays.
        Raises:
            CaffeinitError: the net has no value that the noise could be put on, or the pictures determine none.
        """
        self.network = network
        self.graph = network.graph
        self.batches = list(batches)
        self._changing = {*network.learned, *changing}
        self.heads = [h for h in find_heads(self.graph, network.unit_arrays) if self._is_given(h)]
        if not self.heads:
            raise CaffeinitError(
                "no output of the net depends on its weights and on the pictures alone, so that no rates can be measured"
            )
        made = [o for node in self.graph.ancestors(self.heads) for o in node.output if o]
        made += [use.output for unit in network.units if unit.kind == "affine" for use in unit.uses]
        values = [o for o in made if self.graph.is_typed(o)]  # sequences have no shape
        self._is_segmented = is_segmented(self.graph.part(self.heads), network.settings)
        most = SEGMENTED_PASS_BYTES if self._is_segmented else PASS_BYTES
        # A device adds up the squares of whole gradients, so that each picture goes through it by itself. What is looked at
        # roughly, or on the first piece, is the same pictures there all the same.
        self._is_alone = network.settings.device.resident and most_pictures(self.graph, values, most) is not None
        self.batches = list(cut(self.graph, self.batches, values, most, _piece_pictures(self.graph, values)))
        self._units = [unit for unit in network.units if unit.kind == "affine"]
        self.unreached = _without_gradient(self.graph, self._units, self.heads, network.place)
        self.run, self._diffs = self._differentiate()
        self._noise = list(self._draw(np.random.default_rng(seed)))

    @property
    def can_keep(self) -> bool:
        """Whether what one measurement gives is little enough to be kept while another is made."""
        shapes = [unit.weight.shape for unit in self._units if unit.weight is not None]
        squares = 8 * sum(math.prod(shape[:3]) for shape in shapes)
        return not self._is_segmented and self.network.settings.room is None and squares <= KEPT_BYTES

    def _is_given(self, head: str) -> bool:
        given = set(self.batches[0])
        return all(i in given for n in self.graph.ancestors([head]) for i in n.input if i in self.graph.inputs)

    def _differentiate(self) -> tuple[WholeRun | ResidentGradients | SegmentedRun, dict[str, str]]:
        """Return what runs the gradients, and head -> its noise's input."""
        while True:
            graph = absorbed(self.graph, self.heads)
            diffs = {h: graph.add_input_like(h, f"noise/{h}") for h in self.heads}
            units = [u for u in self._units if u.key not in self.unreached]
            readers = graph.consumers()
            sources = {u.key: find_sources(graph, u, readers, self._is_alone) for u in units}
            wanted = list(dict.fromkeys(s.differentiated for of in sources.values() for s in of))
            try:
                found = append_backward(graph, diffs, wanted)
            except GradientError as error:
                if error.node is None:
                    raise
                self.unreached |= _without_gradient(self.graph, units, self.heads, self.network.place, error)
                continue
            for of in sources.values():
                for source in of:
                    source.gradient = found[source.differentiated]
            outputs = [v for of in sources.values() for s in of for v in s.values if v not in graph.inputs]
            if not sources:
                raise CaffeinitError(_no_rates(self._units, self.unreached))
            part, settings = graph.part(list(dict.fromkeys(outputs))), self.network.settings
            whole = ResidentGradients if settings.device.resident else WholeRun
            run = SegmentedRun if self._is_segmented else whole
            return run(part, sources, settings, self._changing, graph), diffs

    def _draw(self, rng: np.random.Generator) -> Iterator[dict[str, np.ndarray]]:
        """Yield each batch's noise, drawn picture by picture where it can be: the cut into batches does not show in it."""
        made, is_free = self.graph.batch_size(), self.graph.batch_axis_free
        shapes = {self._diffs[head]: self.graph.shape(head) for head in self.heads}
        rows = {n: (s[0] // made, *s[1:]) for n, s in shapes.items() if s and s[0] % made == 0}
        each = PictureNoise(rows, rng.spawn(1)[0])
        for batch in self.batches:
            count = count_pictures(self.graph, batch) if is_free else made
            # A head of no picture of its own is a number, or a part of the batch.
            whole = {n: scaled_rows(s, count, made) for n, s in shapes.items() if n not in each.shapes}
            yield {n: draw_signs(rng, s) for n, s in whole.items()} | each.draw(count)

    @np.errstate(over="ignore", invalid="ignore")
    def measure(self, rough: bool = False) -> dict[str, UnitRates]:
        """Return unit's key -> its rates with the weights of now, for all affine units.

        Values that are not finite leave units without rate.

        Args:
            rough: on the first half of the pictures.
        """
        feeds: list[Batch] = [{**batch, **noise} for batch, noise in zip(self.batches, self._noise, strict=True)]
        feeds = _half(self.graph, feeds) if rough else feeds
        feeds = [piece for feed in feeds for piece in _pictures(self.graph, feed)] if self._is_alone else feeds
        self._make_room()
        parts, place = self.run.squares(feeds), ScratchArrays()
        self._make_room()
        num_pictures = sum(count_pictures(self.graph, feed) for feed in feeds)
        found = {}
        for unit in self._units:
            key = unit.key
            assert unit.weight is not None
            weights = (
                FiledSquares.of(unit.weight, place, self.network.settings.threads)
                if self._is_segmented
                else array_squares(unit.weight, self.network.settings.threads)
            )
            if key in parts:
                diffs = _Batches(parts[key], 1 / num_pictures)
                found[key] = UnitRates.of(diffs, weights, unit.num_channels)
            else:
                found[key] = UnitRates(weights=weights)
        return found

    def _make_room(self) -> None:
        """Where memory is bounded, let what follows find as much as there was before."""
        if self.network.settings.room is not None:
            trim_heap()


def _no_rates(units: Sequence[Unit], unreached: Mapping[str, str]) -> str:
    """Return why a net has no rate at all."""
    if not units:
        return "the net has no convolution and no product of matrices with weights"
    return "no gradient reaches weights: " + "; ".join(dict.fromkeys(unreached[unit.key] for unit in units))


def _half(graph: Graph, feeds: list[Batch]) -> list[Batch]:
    """Return pieces with half of the pictures: half of each where there are too few for all cores, and they can be cut."""
    if len(feeds) > 2 or not graph.batch_axis_free:
        return feeds[: math.ceil(len(feeds) / 2)]
    counts = [count_pictures(graph, feed) for feed in feeds]
    return [_rows(feed, 0, math.ceil(count / 2), count) for feed, count in zip(feeds, counts, strict=True)]


def _pictures(graph: Graph, feed: Batch) -> Iterator[Batch]:
    """Yield a piece picture by picture."""
    count = count_pictures(graph, feed)
    return (_rows(feed, number, number + 1, count) for number in range(count))


def _rows(feed: Batch, start: int, end: int, whole: int) -> Batch:
    """Return the rows of some of all pictures; a value may have several for each."""
    return {
        name: array[len(array) * start // whole : len(array) * end // whole] if array.ndim else array
        for name, array in feed.items()
    }


def _piece_pictures(graph: Graph, values: Sequence[str]) -> int:
    """Return how many pictures a piece is to have: more where matrices have more numbers than some pictures' values."""
    picture = sum(math.prod(s) for v in values if -1 not in (s := graph.shape(v))) / graph.batch_size()
    matrices = {i for n in graph.nodes if n.op_type in PRODUCTS for i in n.input if i in graph.initializers}
    num_weights = sum(graph.initializers[i].size for i in matrices)
    is_small = 4 * LARGE_PIECE_PICTURES * picture <= LARGE_PIECE_BYTES
    return LARGE_PIECE_PICTURES if is_small and num_weights > PIECE_PICTURES * picture else PIECE_PICTURES


def _without_gradient(
    graph: Graph, units: Sequence[Unit], heads: Sequence[str], place: Place, error: GradientError | None = None
) -> dict[str, str]:
    """Return which units have no rate, and why.

    Args:
        place: as in `Network`.
        error: raised by an operator that was thought to have a gradient.
    """
    on_path = {id(n) for n in graph.ancestors(heads)}
    cut: dict[str, str] = {}  # value below an operator without a gradient -> which one
    for node in reversed(graph.nodes):
        if id(node) not in on_path:
            continue
        rule = find_rule(node)
        why = next((cut[o] for o in node.output if o in cut), "")
        where = place(node.output[0], False) or f"{operator_of(node)} ({node.output[0]})"
        if error is not None and error.node is node:
            why = f"there is no gradient through {where}: {error.why}"
        elif rule is None or rule.refusal is not None:
            why = f"there is no gradient through {where}"
        if why:
            cut.update((i, why) for i in node.input if i)
    reached = {v for h in heads for n in graph.ancestors([h]) for v in n.output} | set(heads)
    behind = {v for n in graph.ancestors(graph.outputs or graph.unused()) for v in n.output}
    found = {}
    for unit in units:
        outputs = [use.node.output[0] for use in unit.uses]
        if not any(o in reached for o in outputs):
            stands = f"it stands behind what rates are taken on ({', '.join(heads)})"
            is_read = any(o in behind for o in outputs)
            found[unit.key] = stands if is_read else "nothing that the net puts out depends on it"
        elif reason := next((cut[o] for o in outputs if o in cut), ""):
            found[unit.key] = reason
    return found
