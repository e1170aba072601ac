"""What there is to know of a net before anything is run: layers, shapes, parameters, cost, and what can be rescaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike

from caffeinit.errors import OptionError
from caffeinit.graph import Shape
from caffeinit.inspection.found import FileReport, Inspection, LayerReport
from caffeinit.storage.files import is_onnx

__all__ = ["FileReport", "Inspection", "LayerReport", "inspect_files"]


def inspect_files(
    net_path: str | PathLike[str],
    weights_path: str | PathLike[str] | None = None,
    *,
    phase: str = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
    input_shapes: Mapping[str, Shape] | None = None,
    scales: bool = False,
) -> Inspection:
    """Look at a net and, if given, its weights; what does not fit is reported, not refused.

    Args:
        scales: also find which channels' scales can be chosen; see `scale_report`.
    Raises:
        FormatError: a file is not what it should be.
    """
    if is_onnx(net_path):
        from caffeinit.inspection.onnxmodel import inspect_onnx

        if weights_path is not None:
            raise OptionError(f"{net_path}: an ONNX model holds its weights; no file of weights goes with it")
        return inspect_onnx(net_path, input_shapes, scales)
    from caffeinit.inspection.caffenet import inspect_caffe

    return inspect_caffe(net_path, weights_path, phase, level, stages, input_shapes, scales)
