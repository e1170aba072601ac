"""Layers of forks that only training or scoring needs. Their values are not computed; nets run without them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caffeinit.caffe.layers.base import Layer, LayerType, ParamGraph, layer_type
from caffeinit.caffe.layers.data import DataLayer
from caffeinit.errors import LayerError
from caffeinit.graph import Shape


@layer_type(
    "MultiBoxLoss",
    "RegionLoss",
    "Yolov3",
    "YoloSeg",
    "YoloLoss",
    "SoftmaxWithLossOHEM",
    "SmoothL1LossOHEM",
    "BoxAnnotatorOHEM",
    "CenterLoss",
    "TripletLoss",
    "FocalLoss",
    "DetectionEvaluate",
    "EvalDetection",
    "SegAccuracy",
    "SegmentationEvaluate",
)
class TrainingOnly(LayerType):
    """A loss or score that compares with labels."""

    is_loss = True
    tells_arrays = False
    num_bottoms = (1, None)
    num_tops = (0, None)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return numbers; none is ever computed."""
        return [()] * len(layer.top)

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Refuse."""
        raise LayerError("is for training or scoring only; its values are not computed")


@layer_type("DetectNetTransformation")
class DetectNetTransformation(DataLayer):
    """Augmented pictures and coverage maps of NVIDIA's DetectNet; its tops take the place of the data layer's."""

    num_bottoms = (1, 2)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Any]:
        """Return (1, 3, H, W) of the training pictures, and nothing for the maps, whose channels are not told."""
        p = layer.detectnet_groundtruth_param
        size = (int(p.image_size_y), int(p.image_size_x))
        return [(1, 3, *size) if all(size) else None, *[None] * (len(layer.top) - 1)]
