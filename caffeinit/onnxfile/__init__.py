"""All that knows ONNX files: reading one into a Network, and writing back what changed.

`container` and `tensors` index a file where it lies and patch it; `plain`, `calls`, `single`, `bodies`, `build` and `batch`
make the graph that computes what the file does; `learning` tells which arrays are weights; `source` puts these together.
"""

from __future__ import annotations

from caffeinit.onnxfile.source import OnnxSource, load_onnx

__all__ = ["OnnxSource", "load_onnx"]
