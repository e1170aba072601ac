"""What operators' rules speak to while a graph is walked for its scales: which labels each value has.

A learned array may be read through Reshape, Transpose and the like; the labels of what a node reads are brought back to
the array's own layout, so that an array is scaled as the file has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np
import onnx

from caffeinit.arithmetic.factors import is_zero
from caffeinit.errors import GradientError
from caffeinit.graph import Graph, attribute
from caffeinit.graph.nodes import VIEWS, name_of, readers_behind_views
from caffeinit.graph.norms import Statistic, find_statistic, stored_factor
from caffeinit.graph.products import Product
from caffeinit.graph.rules import find_rule
from caffeinit.graph.units import array_view
from caffeinit.ops.building import constant_of
from caffeinit.ops.labels import (
    PINNED,
    ZEROS,
    Constraints,
    Labels,
    compact,
    last_axes,
    of_rank,
    reshaped,
    same_rank,
    weight_labels,
)
from caffeinit.scales.bonds import Bond, interior, pass_layer, passed_layers
from caffeinit.scales.links import Link, Use, lowest_gain

__all__ = ["Link", "Scales", "Use"]


class Scales:
    """What operators' rules speak to while a graph is walked."""

    def __init__(
        self,
        graph: Graph,
        learned: Collection[str],
        relaxed: bool = False,
        rewritten: bool = False,
        bending: bool = True,
    ) -> None:
        self.graph = graph
        self.learned = learned
        self.relaxed = relaxed
        self._passed = passed_layers(graph, relaxed, rewritten, bending)
        self._interior = interior(graph, self._passed)
        self.constraints = Constraints()
        self.values: dict[str, Labels] = {}
        self.links: list[Link] = []
        self.bonds: list[Bond] = []
        self.sums: dict[str, tuple[str, ...]] = {}
        self.standardised: set[str] = set()
        self.unknown_operators: list[str] = []
        self._uses: dict[str, list[tuple[int, Use]]] = {}
        self._variances: dict[str, list[float]] = {}  # array -> epsilon of each norm that has it as its variance

    def visit(self, node: onnx.NodeProto) -> None:
        """Apply a node's rule if what it reads is fed, and hold what it says nothing about."""
        self.constraints.reason = name_of(node)
        if id(node) in self._interior:
            for top in self._passed.keys() & {*node.output}:
                if self._passed[top].bottom in self.values:
                    pass_layer(self, top, self._passed[top])
            return
        if not any(i in self.values for i in node.input):
            return
        rule = find_rule(node)
        if rule is None:
            self.unknown_operators.append(name_of(node))
        if rule is None or not self._are_shapes_known(node):
            self.barrier(node, "" if rule is None else "extents that are known only at run time")
            return
        try:
            rule.scale(node, self)
        except GradientError:  # a setting is computed in the graph
            self.barrier(node)

    def _are_shapes_known(self, node: onnx.NodeProto) -> bool:
        try:
            return all(-1 not in self.graph.shape(v) for v in (*node.input, *node.output) if v)
        except KeyError:
            return False

    # --- what rules ask and state -------------------------------------------------------------------------------

    def of(self, value: str) -> Labels:
        """Return a value's labels; arrays that no input feeds have factor 1, except where they are zero or infinite."""
        if value in self.values:
            return self.values[value]
        array = self._constant(value)
        if array is None:
            return np.full((1,) * len(self.graph.shape(value)), PINNED)
        return compact(np.where((array == 0) | (array == np.inf) | (array == -np.inf), ZEROS, PINNED))

    def _constant(self, value: str) -> np.ndarray | None:
        """Return an array that no input feeds; None where it is not known, or no initializer and large."""
        if (view := array_view(self.graph, value)) is not None:
            return view[1]
        return constant_of(self.graph, value)

    def put(self, value: str, labels: Labels) -> None:
        """State a value's labels."""
        if value:
            assert labels.ndim == len(self.graph.shape(value)), value
            self.values[value] = labels

    def full(self, value: str, axes: Iterable[int]) -> Labels:
        """Return a value's labels with the given axes at full extent."""
        labels, shape = self.of(value), self.graph.shape(value)
        wide = {a % len(shape) for a in axes}
        sizes = zip(labels.shape, shape, strict=True)
        return np.broadcast_to(labels, [n if a in wide else m for a, (m, n) in enumerate(sizes)])

    def wide(self, labels: Labels, value: str) -> Labels:
        """Return labels with as many axes as a value has."""
        return of_rank(labels, len(self.graph.shape(value)))

    def merge(self, *values: str) -> Labels:
        """Tie values to each other, element by element, and return their common labels."""
        return self.constraints.merge(*same_rank([self.of(v) for v in values]))

    def total(self, node: onnx.NodeProto, *values: str) -> Labels:
        """Return the labels of a sum: all terms have one scale. Relaxed, it has the mean of its terms' scales."""
        if not self.relaxed or len(values) < 2:
            return self.merge(*values)
        self.sums[node.output[0]] = values
        arrays = same_rank([self.of(v) for v in values])
        return self.constraints.combine(*((1 / len(values), a) for a in arrays))

    def standardise(self, node: onnx.NodeProto, axes: Iterable[int], groups: int = 0) -> None:
        """State that a node divides what it reads by its deviation over axes, which takes up any scale that they share.

        But for the epsilon beside the variance: only relaxed, when the function need not be kept, is the input free.

        Args:
            groups: into so many the second axis is cut, whose parts are standardised each by itself; 0 leaves it whole.
        """
        x, *others = node.input
        if not self.relaxed or any(map(self.is_moving, others)) or any(node.output[1:]):
            self.barrier(node)
            return
        self.constraints.collapse(self.of(x), axes)
        if groups:
            self.constraints.collapse(np.moveaxis(self.full(x, [1]), 1, -1).reshape(groups, -1), [1])
        self.forget(node.output[0])

    def forget(self, value: str) -> None:
        """State that a value has lost the scale of what it was made from, to a deviation that is no number of the net."""
        self.hold(value)
        self.standardised.add(value)

    def combine(self, *terms: tuple[float, str]) -> Labels:
        """Return the labels of a product of powers of values."""
        arrays = same_rank([self.of(v) for _, v in terms])
        return self.constraints.combine(*((c, a) for (c, _), a in zip(terms, arrays, strict=True)))

    def collapse(self, value: str, axes: Iterable[int]) -> Labels:
        """Tie a value along axes and return its labels with size 1 there."""
        return self.constraints.collapse(self.of(value), axes)

    def hold(self, value: str, reason: str = "") -> None:
        """State that a value has factor 1, and why, where that is not said by what reads it."""
        shape = (1,) * len(self.graph.shape(value))
        self.put(value, self.constraints.fresh(shape) if reason else np.full(shape, PINNED))
        self.constraints.pin(self.values[value], reason)

    def barrier(self, node: onnx.NodeProto, reason: str = "") -> None:
        """Hold all of a node's inputs and outputs; the outputs for a reason of their own, where there is one."""
        for value in node.input:
            if value in self.values:
                self.constraints.pin(self.values[value])
        for value in node.output:
            if value:
                try:
                    self.hold(value, reason)
                except KeyError:  # its rank is not known; nothing behind it can be free then
                    self.values[value] = np.full((), PINNED)

    def is_moving(self, value: str) -> bool:
        """Tell whether a value depends on the net's inputs."""
        return value in self.values

    # --- learned arrays -----------------------------------------------------------------------------------------

    def source(self, value: str) -> str | None:
        """Return the learned initializer that a value is a plain view of, or None."""
        while value and value not in self.graph.initializers:
            node = self.graph.producer(value)
            if node is None or node.op_type not in VIEWS:
                return None
            value = node.input[0]
        return value if value in self.learned else None

    def use(self, node: onnx.NodeProto, value: str, plus: Labels, minus: Labels) -> None:
        """State that a node multiplies what it reads of a learned array by exp(plus - minus)."""
        while value not in self.graph.initializers:
            view = self.graph.producer(value)
            assert view is not None
            plus, minus = (self._undo(view, labels) for labels in (plus, minus))
            value = view.input[0]
        self._uses.setdefault(value, []).append((id(node), Use(plus, minus)))

    def _undo(self, view: onnx.NodeProto, labels: Labels) -> Labels:
        if view.op_type == "Transpose":
            perm = attribute(view, "perm", list(range(labels.ndim))[::-1])
            return labels.transpose(np.argsort(perm))
        return reshaped(labels, self.graph.shape(view.output[0]), self.graph.shape(view.input[0]))

    def first_uses(self) -> dict[str, Use]:
        """Return how each learned array is scaled."""
        return {name: uses[0][1] for name, uses in self._uses.items()}

    def close(self) -> None:
        """Make all uses of a learned array scale it alike; where it is read in another way, it stays as it is.

        Zeros stay zeros however they are scaled. In relaxed systems, whose biases will be shifted, they count as others.
        """
        readers = self.graph.consumers()
        alone = {n for n, uses in self._uses.items() if len(uses) == 1}
        for name, uses in self._uses.items():
            if not self.relaxed and is_zero(self.graph.initializers[name]):
                continue
            self.constraints.reason = f"{name} is used twice"
            known = {n for n, _ in uses}
            if (
                not self._is_of_one_kind(name)
                or any(id(n) not in known for n in readers_behind_views(name, readers))
                or name in self.graph.outputs
            ):
                self.constraints.reason = f"{name} is also read in another way"
                self.constraints.tie(uses[0][1].plus, uses[0][1].minus)
                alone.discard(name)
            for _, other in uses[1:]:
                self._equal(uses[0][1], other)
        self.links = [replace(link, lifts=self._can_lift(link, alone)) for link in self.links]

    def _can_lift(self, link: Link, alone: Collection[str]) -> bool:
        """Tell whether a norm has a factor for each channel that may change for its sake only."""
        weight = link.initializers.get("weight", "")
        return link.kind == "norm" and weight in alone and self._uses[weight][0][1].plus.size == len(link.inputs)

    def _is_of_one_kind(self, name: str) -> bool:
        """Tell whether one factor is right for all uses: that of a variance, beside epsilon, is not that of its root."""
        variances = self._variances.get(name, [])
        return not variances or (len(variances) == len(self._uses[name]) and len(set(variances)) == 1)

    def _equal(self, one: Use, other: Use) -> None:
        """State plus - minus = plus' - minus' for arrays that vary along different axes: both differences are equal."""
        c = self.constraints
        first = c.combine((1, one.plus), (-1, other.plus))
        second = c.combine((1, one.minus), (-1, other.minus))
        c.tie(first, second)

    def affine(
        self, node: onnx.NodeProto, weight_axes: tuple[int, int], group: int = 1, product: Product | None = None
    ) -> Labels:
        """Return the labels (O,) of the output of a convolution or matrix product.

        Args:
            weight_axes: of the weight as the node reads it: output channels, input channels. With a group the first axis of
                the two runs over all channels, the other over those of one group.
            product: of a matrix product: where weight and channels are.
        """
        side = product.side if product else 1
        weight, bias = node.input[side], product.bias if product else (*node.input, "")[2]
        inputs = self._channels(node.input[1 - side], product.input_axis if product else 1)
        shape = self.graph.shape(weight)
        by_group = inputs.reshape(group, -1)
        o, i = (a % len(shape) for a in weight_axes)
        num_outputs = shape[o] if o < i or group == 1 else shape[o] * group
        name = self.source(weight)
        outputs = self.constraints.fresh((num_outputs,))
        if name is None:
            self._fixed(weight, outputs, by_group, (o, i))
        else:
            plus, minus = weight_labels(outputs, by_group, len(shape), o, i)
            self.use(node, weight, plus, minus)
        roles = {"weight": name} if name else {}
        if bias:
            self.shift(node, bias, outputs if side == 1 else outputs[:, None])
            roles |= {"bias": source} if (source := self.source(bias)) else {}
        if name:
            self.links.append(Link(node, "affine", {k: v for k, v in roles.items() if v}, inputs, outputs, group))
        return outputs

    def _channels(self, value: str, axis: int) -> Labels:
        """Return a value's labels per channel, tied over everything else."""
        labels, shape = self.of(value), self.graph.shape(value)
        axis %= len(shape)
        labels = self.constraints.collapse(labels, [a for a in range(len(shape)) if a != axis])
        return np.broadcast_to(labels.reshape(-1), (shape[axis],))

    def _fixed(self, weight: str, outputs: Labels, by_group: Labels, axes: tuple[int, int]) -> None:
        """Tie outputs to the inputs that a weight which stays as it is connects them with."""
        array = self._constant(weight)
        group = len(by_group)
        rows = outputs.reshape(group, -1)
        if array is None:
            self.constraints.tie(rows[:, :, None], by_group[:, None, :])
            return
        o, i = axes
        joined = np.moveaxis(array != 0, (o, i), (0, 1)).reshape(*(array.shape[a] for a in axes), -1).any(-1)
        if i < o:  # the input channels run over all groups
            joined = joined.T.reshape(group, -1, joined.shape[0]).swapaxes(1, 2)
        joined = joined.reshape(group, rows.shape[1], by_group.shape[1])
        joined = joined | ~joined.any(2, keepdims=True)  # a channel of zeros has no use for a scale of its own
        rows = rows[:, :, None] if joined.all() else np.where(joined, rows[:, :, None], ZEROS)
        self.constraints.tie(rows, by_group[:, None, :])

    def shift(self, node: onnx.NodeProto, value: str, labels: Labels, may_learn: bool = True) -> Labels:
        """Tie labels to what is added to them: a learned array takes their scale up, another holds them."""
        name = self.source(value) if may_learn else None
        shape = self.graph.shape(value)
        rank = max(labels.ndim, len(shape))
        labels = of_rank(labels, rank)
        if name is None:
            return self.constraints.merge(*same_rank([labels, self.of(value)]))
        labels = self.constraints.instead_of_zeros(labels)
        padded = (1,) * (rank - len(shape)) + shape
        tied = self.constraints.collapse(labels, [a for a, n in enumerate(padded) if n == 1])
        self.use(node, value, last_axes(tied, len(shape)), np.full((1,) * len(shape), PINNED))
        if node.op_type in ("Add", "Sub", "Sum"):
            self.links.append(Link(node, "shift", {"bias": name}, tied, tied))
        return tied

    def factors(self, node: onnx.NodeProto, value: str, factor: str) -> Labels:
        """Return the labels of a value times a learned array."""
        name = self.source(factor)
        assert name is not None
        shape = self.graph.shape(factor)
        labels, padded = same_rank([self.of(value), np.empty(shape)])
        outputs = self.constraints.fresh(padded.shape)
        narrow = [a for a, n in enumerate(padded.shape) if n == 1]
        if padded.size > 1:
            labels = self.constraints.collapse(labels, narrow)
        minus = labels
        if any(labels.shape[a] > 1 for a in narrow):
            # One factor serves channels of several scales: they keep their ratios.
            change, minus = outputs, np.full((1,) * labels.ndim, PINNED)
            outputs = self.constraints.combine((1.0, labels), (1.0, change))
            self.use(node, factor, last_axes(change, len(shape)), last_axes(minus, len(shape)))
        else:
            self.use(node, factor, last_axes(outputs, len(shape)), last_axes(minus, len(shape)))
        self.links.append(Link(node, "channel", {"weight": name}, labels, outputs))
        return outputs

    def norm(self, node: onnx.NodeProto) -> None:
        """State the labels of a BatchNormalization's output; learned statistics take up any scale of the input."""
        x, scale, bias = node.input[:3]
        inputs = self._channels(x, 1)
        statistics = [find_statistic(self.graph, node, v) for v in node.input[3:5]]
        inverse = stored_factor(self.graph, node)
        is_learned = all(s and s.initializer in self.learned for s in statistics) and inverse not in (None, 0.0)
        if not is_learned:
            inputs = self.constraints.merge(inputs, self.of(node.input[3]).reshape(-1))
        weight = self.source(scale)
        outputs = self.constraints.fresh(inputs.shape) if is_learned or weight else inputs
        roles = {"weight": weight} if weight else {}
        if weight:
            self.use(node, scale, outputs, np.full(1, PINNED) if is_learned else inputs)
        outputs = self.shift(node, bias, outputs)
        if source := self.source(bias):
            roles["bias"] = source
        floor = None
        if is_learned and inverse:
            roles |= self._statistics(node, statistics, inputs, np.full(1, PINNED) if weight else outputs)
            variance = self.graph.initializers[roles["variance"]].reshape(-1).astype(np.float64) * inverse
            epsilon = attribute(node, "epsilon", 1e-5)
            floor = lowest_gain(variance + epsilon, epsilon)
        if roles:
            kind = "norm" if is_learned else "channel"
            self.links.append(Link(node, kind, roles, inputs, outputs, floor=floor))
        rank = len(self.graph.shape(node.output[0]))
        self.put(node.output[0], outputs.reshape(1, -1, *[1] * (rank - 2)))

    def _statistics(
        self, node: onnx.NodeProto, found: Sequence[Statistic | None], inputs: Labels, outputs: Labels
    ) -> dict[str, str]:
        names = {}
        for role, statistic, minus in zip(("mean", "variance"), found, (np.full(1, PINNED), outputs), strict=True):
            assert statistic is not None
            shape = self.graph.initializers[statistic.initializer].shape
            size = (1,) * (len(shape) - 1)
            plus, minus = (a.reshape(*size, -1) for a in (inputs, minus))
            self._uses.setdefault(statistic.initializer, []).append((id(statistic.reader), Use(plus, minus)))
            names[role] = statistic.initializer
        self._variances.setdefault(names["variance"], []).append(attribute(node, "epsilon", 1e-5))
        return names
