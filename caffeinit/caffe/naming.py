"""The values of a net: blobs that layers change in place are several of them, named apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffeinit.caffe.layers import find_type
from caffeinit.errors import FormatError


@dataclass
class NamedLayer:
    """A layer with the values that it reads and makes.

    A blob that layers change in place is several values: the last bears the blob's name, earlier ones "blob@layer". Where
    the blob is an input of the net, it is the input that bears the name, and all later ones are "blob@layer".
    """

    layer: Any
    bottoms: list[str]
    tops: list[str]


def name_values(layers: Sequence[Any], path: Path | str = "net") -> list[NamedLayer]:
    """Name the values of a net apart.

    Raises:
        FormatError: a bottom that no layer before makes (a cycle shows as one), a top made twice and not in place, or
            changed in place where another layer reads it, too: Caffe hands copies out then, and the top is a second one.
    Source: BVLC/caffe, src/caffe/util/insert_splits.cpp and Net::AppendTop in src/caffe/net.cpp.
    """
    version: dict[str, tuple[int, int]] = {}  # blob -> the (layer, top) that made its present version
    reads: list[list[tuple[int, int]]] = []
    for index, layer in enumerate(layers):
        for bottom in layer.bottom:
            if bottom not in version:
                later = any(bottom in entry.top for entry in layers[index:])
                why = "only a later layer makes it" if later else "no layer makes it"
                raise FormatError(f'{path}: layer "{layer.name}" ({layer.type}): bottom "{bottom}": {why}')
        reads.append([version[b] for b in layer.bottom])
        for number, top in enumerate(layer.top):
            in_place = number < len(layer.bottom) and layer.bottom[number] == top
            if top in version and not in_place:
                maker = layers[version[top][0]].name
                raise FormatError(
                    f'{path}: layer "{layer.name}" ({layer.type}): top "{top}" is made by layer "{maker}" already'
                )
            version[top] = (index, number)
    _check_in_place(layers, reads, path)
    named = version | {
        top: (i, n) for i, layer in enumerate(layers) if _brings_data(layer) for n, top in enumerate(layer.top)
    }
    names = {
        (i, n): top if named[top] == (i, n) else f"{top}@{layer.name}"
        for i, layer in enumerate(layers)
        for n, top in enumerate(layer.top)
    }
    return [
        NamedLayer(layer, [names[p] for p in read], [names[i, n] for n in range(len(layer.top))])
        for i, (layer, read) in enumerate(zip(layers, reads, strict=True))
    ]


def _check_in_place(layers: Sequence[Any], reads: Sequence[Sequence[tuple[int, int]]], path: Path | str) -> None:
    readers: dict[tuple[int, int], list[str]] = {}
    for layer, read in zip(layers, reads, strict=True):
        for made in read:
            readers.setdefault(made, []).append(f'layer "{layer.name}"')
    for index, layer in enumerate(layers):
        for number, weight in enumerate(layer.loss_weight[: len(layer.top)]):
            if weight:
                readers.setdefault((index, number), []).append("the loss")
    for layer, read in zip(layers, reads, strict=True):
        for bottom, top, made in zip(layer.bottom, layer.top, read, strict=False):
            if bottom == top and len(readers[made]) > 1:
                others = list(readers[made])
                others.remove(f'layer "{layer.name}"')
                raise FormatError(
                    f'{path}: layer "{layer.name}" ({layer.type}): top "{top}" changes in place what {others[0]} reads, '
                    "too; Caffe takes it for a second blob of that name. Give the top a name of its own"
                )


def _brings_data(layer: Any) -> bool:
    """Tell whether a layer's tops are inputs of the net, as those of an unknown layer without bottoms are."""
    described = find_type(layer.type)
    return not layer.bottom and (described is None or described.is_data)
