"""Losses and accuracy, as values. They compare against labels, and are left out where no labels are fed.

A loss divides by the number of pictures, which is not spelt out: sums over pictures are means over axis 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from caffeinit.caffe.layers.base import Layer, LayerType, ParamGraph, canonical_axis, layer_type
from caffeinit.errors import LayerError
from caffeinit.graph import Shape

_FULL, _VALID, _BATCH_SIZE, _NONE, _PRE_FIXED = range(5)
_SMALLEST = 1e-20  # Caffe's floor under a probability before the logarithm


class Loss(LayerType):
    """A layer with one number as its top."""

    is_loss = True
    num_bottoms = (2, 2)
    num_tops = (0, 1)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return a scalar, and where there is a second top the shape of the scores."""
        if () in bottoms:
            raise LayerError("a bottom is a single number, without pictures to divide by")
        if bottoms[0][0] != bottoms[1][0]:
            raise LayerError(f"its bottoms are {bottoms[0]} and {bottoms[1]}: they must be of equally many pictures")
        if len(layer.top) > 1 and not layer.loss_weight:
            raise LayerError(f"has {len(layer.top)} tops: there must be a loss_weight for each")
        return [(), bottoms[0]][: len(layer.top)]


def total(graph: ParamGraph, value: str) -> str:
    """Return the sum over everything, as a scalar."""
    return graph.op("ReduceSum", value, keepdims=0)


def per_picture(graph: ParamGraph, value: str) -> str:
    """Return the sum over everything, divided by the extent of axis 0, as a scalar."""
    rank = len(graph.shape(value))
    if rank > 1:
        value = graph.op("ReduceSum", value, np.arange(1, rank), keepdims=0)
    return graph.op("ReduceMean", value, keepdims=0)


def alike(graph: ParamGraph, value: str, model: str) -> str:
    """Return a bottom in the other's shape.

    Caffe compares counts alone: scores (N, 1) go with labels (N,), which ONNX would broadcast to (N, N).

    Raises:
        LayerError: the counts differ.
    """
    found, wanted = graph.shape(value), graph.shape(model)
    if int(np.prod(found)) != int(np.prod(wanted)) or found[:1] != wanted[:1]:
        raise LayerError(f"its bottoms are {wanted} and {found}: they must have equally many numbers per picture")
    return graph.reshape(value, wanted)


def normalized(
    layer: Layer, graph: ParamGraph, losses: str, valid: str | None, default: int, inner: int | None = None
) -> str:
    """Return the sum of (N, ...) losses divided as `loss_param` says.

    Args:
        valid: ones where a loss counts, shaped like `losses`; None if all do.
        default: the mode where the net states none.
        inner: losses per member of Caffe's "batch", which ends at the class axis; by default those per picture.
    """
    p = layer.loss_param
    if p.class_weighting or p.weight_by_label_freqs:
        raise LayerError("weights for classes are not supported")
    mode = p.normalization if p.HasField("normalization") else default
    if p.HasField("normalize") and not p.HasField("normalization"):
        mode = _VALID if p.normalize else _BATCH_SIZE
    if mode == _NONE:
        return total(graph, losses)
    if mode == _PRE_FIXED:
        return graph.op("Div", total(graph, losses), float(p.pre_fixed_normalizer))
    if mode == _BATCH_SIZE:
        if inner is None:
            return per_picture(graph, losses)
        return graph.op("Mul", graph.op("ReduceMean", losses, keepdims=0), float(inner))
    if mode == _VALID and valid is not None:
        return graph.op("Div", total(graph, losses), graph.op("Max", total(graph, valid), 1.0))
    return graph.op("ReduceMean", losses, keepdims=0)


def labelled(
    layer: Layer, graph: ParamGraph, scores: str, labels: str, axis: int, ignores: bool = True
) -> tuple[str, str, str]:
    """Return (scores of the labelled class, integer labels, ones where the label counts), class axis kept as 1.

    Args:
        ignores: whether the layer takes notice of `ignore_label`.
    """
    shape = list(graph.shape(scores))
    one = [*shape[:axis], 1, *shape[axis + 1 :]]
    if int(np.prod(graph.shape(labels))) != int(np.prod(one)):
        raise LayerError(f"{graph.shape(labels)} labels do not fit scores of {tuple(shape)} on axis {axis}")
    given = graph.reshape(labels, one)
    whole = graph.op("Cast", given, to=TensorProto.INT64)
    p = layer.accuracy_param if layer.type == "Accuracy" else layer.loss_param
    if ignores and p.HasField("ignore_label"):
        ignored = graph.op("Equal", whole, np.asarray(p.ignore_label, np.int64))
        valid = graph.mask(graph.op("Not", ignored))
        whole = graph.op("Where", ignored, np.asarray(0, np.int64), whole)
    else:
        valid = graph.mask(graph.op("Equal", given, given))
    return graph.op("GatherElements", scores, whole, axis=axis), whole, valid


@layer_type("SoftmaxWithLoss", "SoftmaxLoss")
class SoftmaxWithLoss(Loss):
    """Cross entropy of a softmax; a second top gives the probabilities."""

    num_bottoms = (2, 3)
    num_tops = (0, 2)

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a LogSoftmax, the label's entry, and their mean."""
        if len(bottoms) > 2:
            raise LayerError("weights for pictures are not supported")
        shape = graph.shape(bottoms[0])
        axis = canonical_axis(layer.softmax_param.axis, len(shape))
        # Caffe takes no logarithm of less than 1e-38; its gradient knows nothing of that, and neither do we.
        logs = graph.op("LogSoftmax", bottoms[0], axis=axis)
        picked, _, valid = labelled(layer, graph, logs, bottoms[1], axis)
        losses = graph.op("Mul", graph.op("Neg", picked), valid)
        tops = [normalized(layer, graph, losses, valid, _VALID, int(np.prod(shape[axis + 1 :])))]
        return [*tops, graph.op("Softmax", bottoms[0], axis=axis)] if len(layer.top) > 1 else tops


@layer_type("EuclideanLoss")
class EuclideanLoss(Loss):
    """Half the mean squared distance."""

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append the squared difference's sum."""
        difference = graph.op("Sub", bottoms[0], alike(graph, bottoms[1], bottoms[0]))
        return [graph.op("Mul", per_picture(graph, graph.op("Mul", difference, difference)), 0.5)]


@layer_type("L1Loss")
class L1Loss(Loss):
    """Mean absolute distance; a fork's."""

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append the absolute difference's sum."""
        return [per_picture(graph, graph.op("Abs", graph.op("Sub", bottoms[0], alike(graph, bottoms[1], bottoms[0]))))]


@layer_type("SmoothL1Loss")
class SmoothL1Loss(Loss):
    """Squared distance near 0, absolute distance beyond; with weights as further bottoms; R-CNN's."""

    num_bottoms = (2, 4)

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append both branches."""
        square = float(layer.smooth_l1_loss_param.sigma) ** 2
        if not square > 0:
            raise LayerError(f"sigma is {layer.smooth_l1_loss_param.sigma:g}, must not be 0")
        others = [alike(graph, b, bottoms[0]) for b in bottoms[1:]]
        difference = graph.op("Sub", bottoms[0], others[0])
        if len(others) > 1:
            difference = graph.op("Mul", difference, others[1])
        size = graph.op("Abs", difference)
        near = graph.op("Mul", graph.op("Mul", size, size), square / 2)
        far = graph.op("Sub", size, 0.5 / square)
        losses = graph.op("Where", graph.op("Less", size, 1 / square), near, far)
        if len(others) > 2:
            losses = graph.op("Mul", losses, others[2])
        return [per_picture(graph, losses)]


@layer_type("HingeLoss")
class HingeLoss(Loss):
    """Sum over classes of max(0, 1 - x) at the label and max(0, 1 + x) elsewhere; squared with norm L2."""

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append the margins' sum."""
        shape = graph.shape(bottoms[0])
        scores = graph.reshape(bottoms[0], [shape[0], int(np.prod(shape[1:]))])
        classes = graph.shape(scores)[1]
        if int(np.prod(graph.shape(bottoms[1]))) != shape[0]:
            raise LayerError(f"{graph.shape(bottoms[1])} labels for {shape[0]} pictures")
        labels = graph.op("Cast", graph.reshape(bottoms[1], [shape[0], 1]), to=TensorProto.INT64)
        is_label = graph.op("Equal", labels, np.arange(classes)[None])
        signed = graph.op("Where", is_label, graph.op("Neg", scores), scores)
        margins = graph.op("Relu", graph.op("Add", signed, 1.0))
        if layer.hinge_loss_param.norm == 2:
            margins = graph.op("Mul", margins, margins)
        return [per_picture(graph, margins)]


@layer_type("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Loss):
    """Cross entropy of independent probabilities."""

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append max(x, 0) - x t + log(1 + exp(-|x|)), which does not overflow."""
        x, target = bottoms[0], alike(graph, bottoms[1], bottoms[0])
        soft = graph.op("Softplus", graph.op("Neg", graph.op("Abs", x)))
        losses = graph.op("Add", graph.op("Sub", graph.op("Relu", x), graph.op("Mul", x, target)), soft)
        valid = None
        if layer.loss_param.HasField("ignore_label"):
            whole = graph.op("Cast", target, to=TensorProto.INT64)
            ignored = graph.op("Equal", whole, np.asarray(layer.loss_param.ignore_label, np.int64))
            valid = graph.mask(graph.op("Not", ignored))
            losses = graph.op("Mul", losses, valid)
        return [normalized(layer, graph, losses, valid, _BATCH_SIZE)]


@layer_type("MultinomialLogisticLoss")
class MultinomialLogisticLoss(Loss):
    """Mean of -log of the label's probability, which the bottom gives."""

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append the label's entry and its logarithm."""
        shape = graph.shape(bottoms[0])
        scores = graph.reshape(bottoms[0], [shape[0], int(np.prod(shape[1:]))])
        picked, _, _ = labelled(layer, graph, scores, bottoms[1], 1, ignores=False)
        return [per_picture(graph, graph.op("Neg", graph.op("Log", graph.op("Max", picked, _SMALLEST))))]


@layer_type("InfogainLoss")
class InfogainLoss(Loss):
    """Cross entropy weighted by a matrix, given as third bottom."""

    num_bottoms = (2, 3)
    num_tops = (0, 2)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return a scalar, and the scores' shape."""
        classes = bottoms[0][canonical_axis(layer.infogain_loss_param.axis, len(bottoms[0]))]
        if len(bottoms) > 2 and int(np.prod(bottoms[2])) != classes**2:
            raise LayerError(f"its matrix is {bottoms[2]} for {classes} classes")
        return super().infer(layer, bottoms)

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append the label's row of the matrix times the logarithms."""
        if len(bottoms) < 3:
            raise LayerError(f'its matrix is in the file "{layer.infogain_loss_param.source}", which is not read')
        shape = graph.shape(bottoms[0])
        axis = canonical_axis(layer.infogain_loss_param.axis, len(shape))
        probabilities = graph.op("Softmax", bottoms[0], axis=axis)
        classes = shape[axis]
        matrix = graph.op("Reshape", bottoms[2], [classes, classes])
        _, labels, valid = labelled(layer, graph, bottoms[0], bottoms[1], axis)
        rows = graph.op("Gather", matrix, graph.op("Squeeze", labels, [axis]), axis=0)
        rank = len(shape)
        rows = graph.op("Transpose", rows, perm=[*range(axis), rank - 1, *range(axis, rank - 1)])
        logs = graph.op("Log", graph.op("Max", probabilities, _SMALLEST))
        losses = graph.op("Neg", graph.op("ReduceSum", graph.op("Mul", rows, logs), [axis], keepdims=1))
        inner = int(np.prod(shape[axis + 1 :]))
        tops = [normalized(layer, graph, graph.op("Mul", losses, valid), valid, _VALID, inner)]
        return [*tops, probabilities] if len(layer.top) > 1 else tops


@layer_type("ContrastiveLoss")
class ContrastiveLoss(Loss):
    """Pulls pairs of one kind together, pushes others apart up to a margin."""

    num_bottoms = (3, 3)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return a scalar."""
        if any(math.prod(bottom[2:]) != 1 for bottom in bottoms):
            raise LayerError(
                f"its bottoms {', '.join(map(str, bottoms))} have places; they must be (N, C) or (N, C, 1, 1)"
            )
        return super().infer(layer, bottoms)

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append both terms."""
        p = layer.contrastive_loss_param
        shape = graph.shape(bottoms[0])
        difference = graph.op("Sub", bottoms[0], alike(graph, bottoms[1], bottoms[0]))
        square = graph.op("Mul", difference, difference)
        square = graph.op("ReduceSum", square, np.arange(1, len(shape)), keepdims=0)
        if int(np.prod(graph.shape(bottoms[2]))) != shape[0]:
            raise LayerError(f"{graph.shape(bottoms[2])} labels for {shape[0]} pairs")
        # Any label but 0 tells a pair of one kind, and 0.5 is 0.
        whole = graph.op("Cast", graph.reshape(bottoms[2], [shape[0]]), to=TensorProto.INT64)
        same = graph.mask(graph.op("Cast", whole, to=TensorProto.BOOL))
        if p.legacy_version:
            apart = graph.op("Relu", graph.op("Sub", float(p.margin), square))
        else:
            gap = graph.op("Relu", graph.op("Sub", float(p.margin), graph.op("Sqrt", square)))
            apart = graph.op("Mul", gap, gap)
        together = graph.op("Mul", same, square)
        losses = graph.op("Add", together, graph.op("Mul", graph.op("Sub", 1.0, same), apart))
        return [graph.op("Mul", per_picture(graph, losses), 0.5)]


@layer_type("Accuracy")
class Accuracy(Loss):
    """Share of pictures whose label is among the top_k scores; equal scores count against the label."""

    num_tops = (1, 2)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return a scalar; a second top has one share per class."""
        p = layer.accuracy_param
        axis = canonical_axis(p.axis, len(bottoms[0]))
        if p.top_k > bottoms[0][axis]:
            raise LayerError(f"top_k {p.top_k} of {bottoms[0][axis]} classes")
        return [(), (bottoms[0][axis],)][: len(layer.top)]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a count of scores that are not below the label's."""
        p = layer.accuracy_param
        axis = canonical_axis(p.axis, len(graph.shape(bottoms[0])))
        picked, labels, valid = labelled(layer, graph, bottoms[0], bottoms[1], axis)
        ahead = graph.mask(graph.op("GreaterOrEqual", bottoms[0], picked))
        rank = graph.op("ReduceSum", ahead, [axis], keepdims=1)
        correct = graph.mask(graph.op("LessOrEqual", rank, float(p.top_k)))
        correct = graph.op("Mul", correct, valid)
        tops = [graph.op("Div", total(graph, correct), graph.op("Max", total(graph, valid), 1.0))]
        if len(layer.top) > 1:
            classes = graph.shape(bottoms[0])[axis]
            index = np.arange(classes).reshape([-1 if i == axis else 1 for i in range(len(graph.shape(bottoms[0])))])
            member = graph.op("Mul", graph.mask(graph.op("Equal", labels, index)), valid)
            others = [i for i in range(len(graph.shape(bottoms[0]))) if i != axis]
            hits = graph.op("ReduceSum", graph.op("Mul", member, correct), others, keepdims=0)
            count = graph.op("ReduceSum", member, others, keepdims=0)
            tops.append(graph.op("Div", hits, graph.op("Max", count, 1.0)))
        return tops
