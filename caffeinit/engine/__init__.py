"""Running graphs. The only package that imports onnxruntime."""
