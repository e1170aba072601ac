"""What each ONNX operator does to gradients and scales; importing the package registers all rules."""

from caffeinit.ops import (
    activation,
    convolution,
    einsum,
    elementwise,
    gates,
    indexing,
    normalize,
    pooling,
    product,
    recurrent,
    reduction,
    resize,
    sampling,
    shape,
    unmoved,
)

__all__ = [
    "activation",
    "convolution",
    "einsum",
    "elementwise",
    "gates",
    "indexing",
    "normalize",
    "pooling",
    "product",
    "recurrent",
    "reduction",
    "resize",
    "sampling",
    "shape",
    "unmoved",
]
