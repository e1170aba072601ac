"""What a layer type must tell about itself, and the registry of all layer types.

A layer type is described once, in one class: its tops' shapes, its learned arrays, and its lowering to ONNX nodes.
Other packages add types of the same form through the entry point group `caffeinit.layers`.
"""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from caffeinit.errors import CaffeinitError, LayerError
from caffeinit.graph import Graph, Shape

ENTRY_POINTS = "caffeinit.layers"
MAX_AXES, MAX_COUNT = 32, 2**31 - 1  # of a Caffe blob
Layer = Any  # caffe.LayerParameter of the private descriptor pool: today's (V2) form, `name` unique within the net.


@dataclass(frozen=True)
class Param:
    """One learned or stored array of a layer, in Caffe's own layout.

    Attributes:
        shape: Caffe's blob shape.
        role: "weight" and "bias" of affine layers; "slope", "scale", "mean", "variance", "factor", "table", ...
        filler: the layer's FillerParameter for it, or None; Caffe starts an array without filler at zero.
    """

    shape: Shape
    role: str = "weight"
    filler: Any = None


class ParamGraph(Graph):
    """A graph under construction that also knows the net's learned arrays."""

    def param(self, layer: Layer, index: int) -> str:
        """Return the value of blob `index` of `layer`, in Caffe's layout (shared parameters give the owner's value)."""
        raise KeyError((layer.name, index))

    def number(self, layer: Layer, field: str, given: float, degree: float, array: np.ndarray) -> str:
        """Return the value of an array that is proportional to a number of the net's text; see `NetNumber`."""
        return self.constant(array)


class LayerType:
    """Base of all layer types.

    `layer` is always the LayerParameter message. A subclass gives `infer` and `lower`, and `params` where it has any.
    Raise `LayerError` for whatever cannot be done faithfully; the caller prefixes the layer's name and type.

    Attributes:
        type: the name in today's prototxt; set by `layer_type`.
        is_data: tops come from outside and become graph inputs.
        takes_pictures_as_they_are: where the layer states no size for its first top, that is the pictures' own.
        is_loss: compares against labels; left out when its labels are not fed.
        is_verdict: tops are decisions on the bottoms; what a net computes ends before it. Losses are verdicts, too.
        is_nearly_homogeneous: a positive factor on the bottom passes to the top, roughly.
        axis_0: what axis 0 of the tops is. "batch", as long as the bottoms'; "none" where the bottoms' batch does not
            reach (a constant, or rows whose number depends on the data); "time" where its extent is spelt out.
        chooses_rows: the tops have those rows of the bottoms that the data choose.
        takes_in_place: a top may be the blob of the bottom in its place.
        tells_arrays: `params` knows all arrays that the layer has in Caffe.
        num_bottoms, num_tops: (least, most) allowed; most None for any number.
    """

    type: str = ""
    is_data = False
    takes_pictures_as_they_are = False
    is_loss = False
    is_verdict = False
    is_nearly_homogeneous = False
    axis_0 = "batch"
    chooses_rows = False
    takes_in_place = True
    tells_arrays = True
    num_bottoms: tuple[int, int | None] = (1, 1)
    num_tops: tuple[int, int | None] = (1, 1)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the tops' shapes from the bottoms', with Caffe's rounding."""
        raise NotImplementedError

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return the layer's arrays in blob order."""
        return []

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append nodes that compute the tops and return the tops' values.

        A top that equals a bottom may return the bottom's name as it is. Read shapes with `graph.shape(bottom)`,
        arrays with `graph.param(layer, index)`; reshape with `graph.reshape`: the batch size is never spelt out.
        """
        raise NotImplementedError

    def puts_channels_first(self, layer: Layer) -> bool:
        """Return whether the layer turns (N, H, W, C) into (N, C, H, W)."""
        return False

    def holds_batch(self, layer: Layer, bottoms: Sequence[Shape]) -> bool:
        """Return whether the layer takes a part of the batch that is not there in any other one, which no shape shows."""
        return False

    def macs(self, layer: Layer, bottoms: Sequence[Shape]) -> int:
        """Return the multiply-adds of one forward pass at these bottom shapes."""
        return 0


_TYPES: dict[str, LayerType] = {}


def layer_type(*names: str) -> Any:
    """Register a class under its type names: today's first, then other spellings.

    Raises:
        ValueError: one of the names is taken.
    """

    def register(cls: type[LayerType]) -> type[LayerType]:
        described = cls()
        described.type = names[0]
        for name in names:
            if name in _TYPES:
                raise ValueError(f"layer type {name!r} is described twice: {_TYPES[name].__class__} and {cls}")
            _TYPES[name] = described
        return cls

    return register


def find_type(name: str) -> LayerType | None:
    """Return the description of a layer type, or None. Types of other packages are looked for when none of ours fits.

    Raises:
        CaffeinitError: a package that offers layer types is broken.
    """
    if name not in _TYPES:
        _load_plugins()
    return _TYPES.get(name)


@functools.cache
def _load_plugins() -> None:
    """Register what installed packages offer: modules that register their types, or one class each under its name."""
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            offered = entry.load()
            if isinstance(offered, type):
                if not issubclass(offered, LayerType):
                    raise TypeError(f"{entry.value} is no LayerType")
                if all(type(described) is not offered for described in _TYPES.values()):
                    layer_type(entry.name)(offered)
        except Exception as error:  # foreign code: whatever it raises, the user must hear which package it was
            origin = entry.dist.name if entry.dist else "an unknown distribution"
            raise CaffeinitError(
                f"the layers of the package {origin} cannot be loaded ({entry.name} = {entry.value}): "
                f"{type(error).__name__}: {error}. Mend or uninstall it"
            ) from error


def described_types() -> list[tuple[LayerType, list[str]]]:
    """Return every description with its names, today's first, sorted."""
    names: dict[LayerType, list[str]] = {}
    for name, described in _TYPES.items():
        names.setdefault(described, []).append(name)
    return sorted(names.items(), key=lambda item: item[1][0].lower())


def known_types() -> list[str]:
    """Return all names, sorted."""
    return sorted(_TYPES)


def unknown_type_message(name: str) -> str:
    """Return a sentence on an unknown type, with near matches."""
    if name == "Python":  # a package may supply it, so it is no type of ours
        return "what it computes is Python code that is not part of the net; a package can supply it"
    spelt = {known.lower(): known for known in known_types()}
    same = spelt.get(name.lower())  # people write Relu for ReLU
    near = [same] if same else difflib.get_close_matches(name, known_types(), n=3, cutoff=0.75)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"layer type {name!r} is not known{hint}"


def check_ends(layer: Layer, described: LayerType) -> None:
    """Raise LayerError where a layer has bottoms or tops that it cannot have, or not one entry for each of them.

    A loss that names no top makes one without a name.
    """
    for what, found, (least, most) in (
        ("bottom", len(layer.bottom), described.num_bottoms),
        ("top", len(layer.top), described.num_tops),
    ):
        if found < least or (most is not None and found > most):
            wanted = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
            raise LayerError(f"has {found} {what}(s), needs {wanted}")
    if not described.takes_in_place and any(b == t for b, t in zip(layer.bottom, layer.top, strict=False)):
        raise LayerError("cannot work in place: give its top a name of its own")
    tops = max(len(layer.top), described.is_loss)
    for what, given, ends, count in (
        ("loss_weight", layer.loss_weight, "top", tops),
        ("propagate_down", layer.propagate_down, "bottom", len(layer.bottom)),
    ):
        if len(given) not in (0, count):
            raise LayerError(f"has {len(given)} {what} for {count} {ends}(s); there must be one for each, or none")


def check_extents(what: str, shape: Shape, most: int = MAX_COUNT) -> None:
    """Raise LayerError where no blob can have a shape, or it would hold more than `most` numbers.

    Source: BVLC/caffe, src/caffe/blob.cpp, Blob::Reshape: no negative extent, and a count that an int can hold.
    """
    if len(shape) > MAX_AXES:
        raise LayerError(f"{what} would have {len(shape)} axes; a blob has {MAX_AXES} at most")
    if min(shape, default=0) < 0 or math.prod(shape) > most:
        raise LayerError(f"{what} would be {shape}; a blob has extents from 0 and at most {most} numbers")


def canonical_axis(axis: int, rank: int) -> int:
    """Return Caffe's axis, which may count from the end, as a number from 0.

    Raises:
        LayerError: the axis is outside the blob.
    """
    if not -rank <= axis < rank:
        raise LayerError(f"axis {axis} is outside a blob with {rank} axes")
    return axis % rank
