"""DetectionOutput: from a single-shot detector's predictions to the boxes that are left.

Source: weiliu89/caffe (branch ssd), src/caffe/layers/detection_output_layer.cpp and src/caffe/util/bbox_util.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from caffeinit.caffe.layers.base import Layer, LayerType, ParamGraph, layer_type
from caffeinit.errors import LayerError
from caffeinit.graph import Shape

_CORNER, _CENTER_SIZE, _CORNER_SIZE = 1, 2, 3
_LEAST = float(np.finfo(np.float32).min)


@layer_type("DetectionOutput")
class DetectionOutput(LayerType):
    """Rows (picture, class, score, x1, y1, x2, y2), (1, 1, K, 7), by picture, class and falling score.

    How many there are is known only at run time; the shape stated has one, as in Caffe's set-up. A picture set without
    any detection gives one row per picture with -1 for all but the picture. Equal scores at a top_k bound are all kept.
    """

    is_verdict = True
    axis_0 = "none"
    num_bottoms = (3, 3)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return (1, 1, 1, 7)."""
        p, (location, confidence, prior) = layer.detection_output_param, bottoms
        boxes = prior[2] // 4 if len(prior) > 2 else 0
        if p.num_classes < 1:
            raise LayerError("num_classes is not given")
        found = location[1:2], confidence[1:2]
        if found != ((4 * boxes,), (p.num_classes * boxes,)) or math.prod((*location[2:], *confidence[2:])) != 1:
            raise LayerError(
                f"{boxes} prior boxes ask for {4 * boxes} locations and {p.num_classes * boxes} scores on axis 1, "
                f"got {location} and {confidence}"
            )
        if location[0] != confidence[0]:
            raise LayerError(f"locations {location} and scores {confidence} are not of equally many pictures")
        nms = p.nms_param
        if nms.nms_threshold < 0:
            raise LayerError(f"nms_threshold is {nms.nms_threshold:g}, must not be below 0")
        if 0 in (p.keep_top_k, nms.top_k if nms.HasField("top_k") else -1):
            raise LayerError("keep_top_k or top_k is 0, so that nothing would be left")
        return [(1, 1, 1, 7)]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append decoding, NonMaxSuppression per class, the bound on their number, and the rows."""
        p = layer.detection_output_param
        if not p.share_location:
            raise LayerError("share_location: false is not supported")
        if p.nms_param.HasField("eta") and p.nms_param.eta != 1:
            raise LayerError(f"nms_param eta {p.nms_param.eta:g}: a changing threshold is not supported")
        boxes = graph.shape(bottoms[2])[2] // 4
        locations = graph.op("Reshape", bottoms[0], [-1, boxes, 4])
        corners = decode(graph, p, locations, bottoms[2], boxes)
        classes = [c for c in range(p.num_classes) if c != p.background_label_id]
        scores = graph.op("Reshape", bottoms[1], [-1, boxes, int(p.num_classes)])
        scores = graph.op("Transpose", graph.op("Gather", scores, classes, axis=2), perm=[0, 2, 1])
        selected = self._suppress(layer, graph, corners, scores, boxes)
        kept, values = self._keep_best(layer, graph, scores, selected, len(classes) * boxes)
        return [self._rows(graph, corners, classes, kept, values)]

    @staticmethod
    def _suppress(layer: Layer, graph: ParamGraph, corners: str, scores: str, boxes: int) -> str:
        """Return (K, 3): picture, class and box of what is left after suppression."""
        p = layer.detection_output_param
        candidates = int(p.nms_param.top_k) if p.nms_param.HasField("top_k") else -1
        ranked = scores
        if 0 < candidates < boxes:
            best, _ = graph.ops("TopK", scores, [candidates], outputs=2, axis=2)
            bound = graph.op("Slice", best, [candidates - 1], [candidates], [2])
            ranked = graph.op("Where", graph.op("GreaterOrEqual", scores, bound), scores, _LEAST)
        threshold = p.confidence_threshold if p.HasField("confidence_threshold") else _LEAST
        if p.code_type != _CENTER_SIZE:
            # A box whose corners changed sides overlaps nothing in Caffe; ONNX would turn it round.
            low, high = graph.ops("Split", corners, [2, 2], outputs=2, axis=2)
            corners = graph.op("Concat", low, graph.op("Max", low, high), axis=2)
        return graph.op(
            "NonMaxSuppression",
            corners,
            ranked,
            np.asarray([boxes], np.int64),
            np.asarray([p.nms_param.nms_threshold], np.float32),
            np.asarray([threshold], np.float32),
        )

    @staticmethod
    def _keep_best(layer: Layer, graph: ParamGraph, scores: str, selected: str, most: int) -> tuple[str, str]:
        """Return the keep_top_k best rows of each picture, still in order, and their scores."""
        values = graph.op("GatherND", scores, selected)
        bound = int(layer.detection_output_param.keep_top_k)
        if not 0 < bound < most:
            return selected, values
        nothing = graph.op("Expand", _LEAST, graph.op("Shape", scores))
        places = graph.op("Reshape", graph.op("ScatterND", nothing, selected, values), [-1, most])
        best, _ = graph.ops("TopK", places, [bound], outputs=2, axis=1)
        least = graph.op("Slice", best, [bound - 1], [bound], [1])
        picture = graph.op("Gather", selected, np.asarray(0, np.int64), axis=1)
        own = graph.op("Reshape", graph.op("Gather", least, picture, axis=0), [-1])
        keep = graph.op("GreaterOrEqual", values, own)
        return graph.op("Compress", selected, keep, axis=0), graph.op("Compress", values, keep, axis=0)

    @staticmethod
    def _rows(graph: ParamGraph, corners: str, classes: list[int], kept: str, values: str) -> str:
        """Return (1, 1, K, 7)."""
        picture, label, box = graph.ops("Split", kept, [1, 1, 1], outputs=3, axis=1)
        found = graph.op("GatherND", corners, graph.op("Concat", picture, box, axis=1))
        numbers = graph.op("Concat", picture, graph.op("Gather", classes, label, axis=0), axis=1)
        columns = [graph.op("Cast", numbers, to=TensorProto.FLOAT), graph.op("Unsqueeze", values, [1]), found]
        rows = graph.op("Concat", *columns, axis=1)
        # One row per picture if there is nothing in any of them.
        pictures = graph.op("Squeeze", graph.op("Shape", corners, start=0, end=1), [0])
        count = graph.op("Squeeze", graph.op("Shape", rows, start=0, end=1), [0])
        missing = graph.op("Mul", pictures, graph.op("Sub", 1, graph.op("Min", count, 1)))
        index = graph.op("Cast", graph.op("Range", 0, missing, 1), to=TensorProto.FLOAT)
        empty = graph.op("Pad", graph.op("Unsqueeze", index, [1]), [0, 0, 0, 6], -1.0)
        return graph.op("Unsqueeze", graph.op("Concat", rows, empty, axis=0), [0, 1])


def decode(graph: ParamGraph, p: Any, locations: str, prior: str, boxes: int) -> str:
    """Return (N, boxes, 4) corners (x1, y1, x2, y2) from predictions relative to the prior boxes.

    Args:
        p: DetectionOutputParameter.
        locations: (N, boxes, 4).
        prior: (1, 2, 4 * boxes), boxes and variances.
    """
    code, encoded = p.code_type, p.variance_encoded_in_target
    split = graph.op("Reshape", prior, [2, boxes, 4])
    given, variance = graph.ops("Split", split, [1, 1], outputs=2, axis=0)
    change = locations if encoded else graph.op("Mul", locations, variance)
    if code == _CORNER:
        return graph.op("Add", given, change)
    low, high = graph.ops("Split", given, [2, 2], outputs=2, axis=2)
    size = graph.op("Sub", high, low)
    if code == _CORNER_SIZE:
        return graph.op("Add", given, graph.op("Mul", change, graph.op("Concat", size, size, axis=2)))
    shift, growth = graph.ops("Split", change, [2, 2], outputs=2, axis=2)
    middle = graph.op("Mul", graph.op("Add", low, high), 0.5)
    centre = graph.op("Add", graph.op("Mul", shift, size), middle)
    half = graph.op("Mul", graph.op("Mul", graph.op("Exp", growth), size), 0.5)
    return graph.op("Concat", graph.op("Sub", centre, half), graph.op("Add", centre, half), axis=2)
