"""Which array each parameter of a layer is: its own, or that of an earlier layer with the same `param { name }`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from caffeinit.caffe.layers import Layer, Param
from caffeinit.errors import LayerError

ParamKey = tuple[str, int]


def share(
    layer: Layer, params: Sequence[Param], named: Mapping[str, ParamKey], known: Mapping[str, Sequence[Param]]
) -> tuple[dict[ParamKey, ParamKey], dict[str, ParamKey]]:
    """Return (layer, index) -> the (layer, index) that holds the array, and the names that this layer is first to give.

    A layer that cannot share one of its arrays owns none, and lends none to later ones.

    Args:
        named: name -> the parameter that was first to have it.
        known: layer -> its arrays, of the layers before.
    Raises:
        LayerError: an array does not fit.
    """
    owners: dict[ParamKey, ParamKey] = {}
    own: dict[str, ParamKey] = {}
    for index, param in enumerate(params):
        key = (layer.name, index)
        name = layer.param[index].name if index < len(layer.param) else ""
        owner = named.get(name) or own.setdefault(name, key) if name else key
        if owner != key:
            if owner[0] == layer.name:
                raise LayerError(f'has one array, "{name}", for two of its parameters, which is not supported')
            theirs = known[owner[0]][owner[1]].shape
            permissive = layer.param[index].share_mode == 1
            if theirs != param.shape and not (permissive and np.prod(theirs) == np.prod(param.shape)):
                raise LayerError(
                    f'shares parameter "{name}" with layer "{owner[0]}", but needs {param.shape}, not {theirs}'
                )
        owners[key] = owner
    return owners, own
