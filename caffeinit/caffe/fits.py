"""Which weights fit which net, told from shapes alone: no number is read.

`match` brings a chosen net and its weights together; here many are held against each other, so each file is looked at
once and becomes a table of shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike

from caffeinit.caffe.lower import infer_net
from caffeinit.caffe.match import shapes_equal
from caffeinit.caffe.net import read_net
from caffeinit.caffe.weights import open_weights
from caffeinit.graph import Shape
from caffeinit.images.transform_param import mean_name

Path = str | PathLike[str]


@dataclass(frozen=True)
class NetShapes:
    """What a net asks for.

    Attributes:
        name: the net's own name.
        wanted: layer -> shapes of its arrays; layers without any are left out.
        unknown: layers whose shapes cannot be told: their input's shape is not known, or they cannot run.
        is_deploy: all data comes from Input layers, as in the net that one ships.
        cost: multiply-adds for one batch of the net's own, roughly; 0 where no shape is known.
        inputs: input blob -> shape. open_inputs: those whose shape nothing tells.
        means: input blob -> the name of the mean picture that its layer asks for.
    """

    name: str
    wanted: Mapping[str, Sequence[Shape]]
    unknown: frozenset[str]
    is_deploy: bool
    cost: float = 0
    inputs: Mapping[str, Shape] = field(default_factory=dict)
    open_inputs: Sequence[str] = ()
    means: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredShapes:
    """What a weights file holds.

    Attributes:
        layers: layer -> shapes of its blobs (None: left out because it is shared); layers without any are left out.
        is_hdf5: the form that may leave out what is shared.
    """

    layers: Mapping[str, Sequence[Shape | None]]
    is_hdf5: bool


@dataclass
class Fit:
    """How a weights file fits a net.

    Attributes:
        same: layers whose shapes agree. unknown: layers of both whose shapes the net does not tell.
        mismatches: a sentence for each layer of both whose shapes differ.
        missing: layers that only the net has. unused: layers that only the file has.
    """

    same: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    @property
    def is_kin(self) -> bool:
        """Whether the net knows at least half of the file's layers by name, so that they may belong together."""
        common = len(self.same) + len(self.unknown) + len(self.mismatches)
        return common > 0 and common >= len(self.unused)

    @property
    def fits(self) -> bool:
        """Whether the file can be loaded into the net, and is meant for it."""
        return self.is_kin and not self.mismatches


def net_shapes(
    path: Path,
    phase: str = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
    input_shapes: Mapping[str, Shape] | None = None,
) -> NetShapes:
    """Return what a net asks for; arguments and errors are those of `caffeinit.load`."""
    net = read_net(path, phase, level, stages)
    found = infer_net(net, input_shapes)
    wanted = {layer: [p.shape for p in params] for layer, params in found.params.items() if params}
    tops = {e.layer.name: e.tops[0] for e in net.named_layers if e.tops}
    cost = sum(math.prod(shapes[0]) * math.prod(found.shapes[tops[layer]][2:]) for layer, shapes in wanted.items())
    sources = [e for e in net.named_layers if e.tops and not e.bottoms]
    means = {e.tops[0]: name for e in sources if (name := mean_name(e.layer))}
    is_deploy = all(e.layer.type == "Input" for e in sources)
    blocked = frozenset(found.blocked)
    return NetShapes(net.name, wanted, blocked, is_deploy, cost, dict(found.inputs), tuple(found.unshaped), means)


def stored_shapes(path: Path) -> StoredShapes:
    """Return what a weights file holds; errors are those of `open_weights`."""
    file = open_weights(path)
    layers = {name: [b.shape if b else None for b in blobs] for name, blobs in file.layers.items() if blobs}
    return StoredShapes(layers, file.format == "HDF5")


def fit(net: NetShapes, stored: StoredShapes) -> Fit:
    """Hold a weights file against a net."""
    found = Fit(missing=[layer for layer in net.wanted if layer not in stored.layers])
    for layer, blobs in stored.layers.items():
        if layer in net.wanted:
            wanted = net.wanted[layer]
            if _agree(blobs, wanted, stored.is_hdf5):
                found.same.append(layer)
            else:
                found.mismatches.append(
                    f'layer "{layer}": the file has {_shown([b for b in blobs if b])}, the net asks for {_shown(wanted)}'
                )
        elif layer in net.unknown:
            found.unknown.append(layer)
        else:
            found.unused.append(layer)
    return found


def _agree(blobs: Sequence[Shape | None], wanted: Sequence[Shape], may_lack: bool) -> bool:
    if len(blobs) > len(wanted) or (len(blobs) < len(wanted) and not may_lack):
        return False
    return all(b is None or shapes_equal(b, w) for b, w in zip(blobs, wanted, strict=False))


def _shown(shapes: Sequence[Shape]) -> str:
    return " and ".join("x".join(map(str, s)) or "a number" for s in shapes) or "nothing"
