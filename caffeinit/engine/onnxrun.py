"""Running an ONNX file as another program would: nothing of our graph, only what is on the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath

import numpy as np
import onnxruntime as ort


class OnnxFile:
    """An ONNX file in a session of its own."""

    def __init__(self, path: str | PathLike[str], threads: int = 0) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(fspath(path), options, providers=["CPUExecutionProvider"])

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Return output -> array."""
        return dict(zip(outputs, self._session.run(list(outputs), dict(feeds)), strict=True))
