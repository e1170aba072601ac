"""Layer types, one class each. Importing this package fills the registry."""

from caffeinit.caffe.layers import (  # noqa: F401
    activation,
    convolution,
    data,
    eltwise,
    innerproduct,
    loss,
    lrn,
    normalize,
    pooling,
    recurrent,
    reduce,
    select,
    shape,
)
from caffeinit.caffe.layers.base import (
    Layer,
    LayerType,
    Param,
    ParamGraph,
    canonical_axis,
    check_counts,
    find_type,
    known_types,
    layer_type,
    unknown_type_message,
)

__all__ = [
    "Layer",
    "LayerType",
    "Param",
    "ParamGraph",
    "canonical_axis",
    "check_counts",
    "find_type",
    "known_types",
    "layer_type",
    "unknown_type_message",
]
