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
from caffeinit.ops.base import OpRule, find_rule, known_ops, op_rule

__all__ = [
    "OpRule",
    "activation",
    "convolution",
    "einsum",
    "elementwise",
    "find_rule",
    "gates",
    "indexing",
    "known_ops",
    "normalize",
    "op_rule",
    "pooling",
    "product",
    "recurrent",
    "reduction",
    "resize",
    "sampling",
    "shape",
    "unmoved",
]
