"""Which array each parameter of a layer is: its own, or that of an earlier layer with the same `param { name }`.

Source: BVLC/caffe, src/caffe/net.cpp, Net::Init and Net::AppendParam.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from caffeinit.caffe.layers import Layer, LayerType, Param
from caffeinit.errors import LayerError
from caffeinit.graph import Shape

ParamKey = tuple[str, int]
_RATES = ("lr_mult", "decay_mult")


class Sharing:
    """The arrays of a net's layers, which are added one after the other.

    Attributes:
        owners: (layer, index) -> the (layer, index) that holds the array.
    """

    def __init__(self) -> None:
        self.owners: dict[ParamKey, ParamKey] = {}
        self._named: dict[str, ParamKey] = {}
        self._shapes: dict[ParamKey, Shape] = {}
        self._rates: dict[ParamKey, Mapping[str, float]] = {}  # what is stated by any of those that share an array

    def add(self, layer: Layer, params: Sequence[Param]) -> None:
        """Add a layer's arrays. One that cannot share one of them owns none, and lends none to later ones.

        Raises:
            LayerError: an array does not fit, or is to be trained in another way.
        """
        owners: dict[ParamKey, ParamKey] = {}
        own: dict[str, ParamKey] = {}
        rates: dict[ParamKey, Mapping[str, float]] = {}
        for index, param in enumerate(params):
            key = (layer.name, index)
            spec = layer.param[index] if index < len(layer.param) else None
            name = spec.name if spec is not None else ""
            owners[key] = owner = (self._named.get(name) or own.setdefault(name, key)) if name else key
            if owner != key:
                self._check_shape(layer, index, param, owner)
            stated = {rate: float(getattr(spec, rate)) for rate in _RATES if spec is not None and spec.HasField(rate)}
            rates[owner] = self._joined(name, owner, stated)
        self.owners.update(owners)
        self._named.update(own)
        self._shapes.update({key: params[key[1]].shape for key in owners})
        self._rates.update(rates)

    def is_frozen(self, key: ParamKey) -> bool:
        """Return whether the training of an array is switched off."""
        return self._rates[self.owners[key]].get("lr_mult") == 0

    def _check_shape(self, layer: Layer, index: int, param: Param, owner: ParamKey) -> None:
        spec = layer.param[index]
        if owner[0] == layer.name:
            raise LayerError(f'has one array, "{spec.name}", for two of its parameters, which is not supported')
        theirs = self._shapes[owner]
        permissive = spec.share_mode == 1 and math.prod(theirs) == math.prod(param.shape)
        if theirs != param.shape and not permissive:
            raise LayerError(
                f'shares parameter "{spec.name}" with layer "{owner[0]}", but needs {param.shape}, not {theirs}'
            )

    def _joined(self, name: str, owner: ParamKey, stated: Mapping[str, float]) -> Mapping[str, float]:
        """Return what an array's layers state on its training: any of them may, but not differently."""
        known = self._rates.get(owner, {})
        for rate, value in stated.items():
            if (theirs := known.get(rate, value)) != value:
                raise LayerError(
                    f'shares parameter "{name}" with layer "{owner[0]}", but states {rate} {value:g}, not {theirs:g}'
                )
        return {**known, **stated}


def check_specs(layer: Layer, described: LayerType, params: Sequence[Param]) -> None:
    """Raise LayerError where a layer has `param` entries for more arrays than it has."""
    if described.tells_arrays and len(layer.param) > len(params):
        raise LayerError(f"has {len(layer.param)} param entries for {len(params)} array(s)")
