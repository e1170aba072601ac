"""Net and weights brought together, with the shapes of inputs that the net itself leaves open.

A net that reads a database does not state how large its pictures are. They are as large as its mean picture; else, where
pictures are at hand that all have one size, as large as these, but only if the net can run so and its weights, where there
are any, fit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from caffeinit.caffe.lower import Inference, infer_net, times
from caffeinit.caffe.match import Matched, match_weights
from caffeinit.caffe.net import Net
from caffeinit.caffe.weights import WeightsFile
from caffeinit.errors import ImagesError
from caffeinit.graph import Shape
from caffeinit.images import preprocessing_of_net
from caffeinit.images.extents import Teller
from caffeinit.images.means import read_mean


@dataclass
class Opened:
    """A net at the shapes of its inputs, and its arrays.

    Attributes:
        taken: input -> what its shape is and where it was taken from, where that is not the net.
    """

    found: Inference
    matched: Matched
    taken: dict[str, str] = field(default_factory=dict)


def open_net(net: Net, file: WeightsFile | None, given: Mapping[str, Shape], tell: Teller | None = None) -> Opened:
    """Work out the shapes of a net and fill its arrays.

    Args:
        given: input -> shape.
        tell: asked about the inputs that neither the net nor `given` nor a mean picture tells the size of.
    """
    found = infer_net(net, given)
    if found.unshaped:
        given = {**_mean_shapes(net, found.unshaped), **given}
        found = infer_net(net, given)
    if found.as_pictures and tell is not None:
        return _as_pictures(found, file, given, tell)
    return Opened(found, _match(found, file))


def _as_pictures(found: Inference, file: WeightsFile | None, given: Mapping[str, Shape], tell: Teller) -> Opened:
    net = found.net
    sources = [entry.tops for entry in net.named_layers if entry.tops and not entry.bottoms]
    # Labels and the like are further tops.
    told = tell(found.as_pictures, [tops[0] for tops in sources], [top for tops in sources for top in tops])
    shapes = {name: extent.shape for name, extent in told.items() if extent.shape is not None}
    why = {name: f" ({extent.words})" for name, extent in told.items() if extent.shape is None}
    if shapes:
        tried = infer_net(net, {**given, **shapes}, why=why)
        opened = Opened(tried, _match(tried, file))
        # What a mismatch may come from (behind the semicolon) is another size here.
        objection = next(iter(opened.matched.mismatches), "").partition(";")[0] or _refusal(tried)
        if not objection:
            opened.taken = {name: f"{times(shape)} {told[name].words}" for name, shape in shapes.items()}
            return opened
        why |= {n: f" ({times(s)} could be {told[n].words}, but {objection})" for n, s in shapes.items()}
    found = infer_net(net, given, why=why)
    return Opened(found, _match(found, file))


def _match(found: Inference, file: WeightsFile | None) -> Matched:
    wanted = {layer: [p.shape for p in params] for layer, params in found.params.items()}
    return match_weights(file, wanted, found.owners, found.net.file_names)


def _refusal(found: Inference) -> str:
    """Return the first layer that cannot run with these shapes, and why."""
    layers = [entry.layer for entry in found.net.named_layers if entry.layer.name in found.refused]
    return f'layer "{layers[0].name}" ({layers[0].type}): {found.blocked[layers[0].name]}' if layers else ""


def _mean_shapes(net: Net, blobs: Sequence[str]) -> dict[str, Shape]:
    """Return the shapes that mean files tell: a net without crop takes pictures of its mean's size."""
    shapes = {}
    for blob, asked in preprocessing_of_net(net.layers, net.path.parent).items():
        if blob in blobs and asked.mean_file is not None:
            with contextlib.suppress(ImagesError):  # a mean that cannot be read tells no shape; pictures will say so
                shapes[blob] = tuple(read_mean(asked.mean_file).shape)
    return shapes
