"""What a net leaves open and its zoo tells: where its mean picture lies, how large its pictures are, which phase it is for.

A net names its mean by a path of its author's machine; in the zoo it is found by its name, the nearest of several. Of a
net that reads a database only the database knows the size of its pictures: they are as large as the mean, or as a deploy
net of the same folder and model says. A net whose data layers are all for training is taken in that phase. What is found
becomes options, as if it had been typed; what is typed stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from caffeinit.batch.fingerprints import digest_file
from caffeinit.batch.pairing import Matchmaker, distance_between, folder_of
from caffeinit.batch.table import Job, options_of
from caffeinit.caffe.fits import NetShapes, net_shapes
from caffeinit.errors import CaffeinitError
from caffeinit.graph import Shape
from caffeinit.images.means import read_mean
from caffeinit.images.transform_param import find_mean


def completed(maker: Matchmaker, path: str, job: Job, options: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the options for a net, with those that the zoo tells added.

    Args:
        path: of the net, from the zoo's root.
        options: parameter of the single command -> values.
    Raises:
        CaffeinitError: the mean that was found cannot be read.
    """
    done, known = dict(options), options_of(job)
    net = maker.net_at.get(path)
    if net is None or net.shapes is None:
        return done
    if net.phase and "phase" in known:
        done["phase"] = [net.phase]
    mean = _mean_file(maker, path, net.shapes)
    if mean and "mean_file" in known and not options.get("mean") and not options.get("mean_file"):
        done["mean_file"] = [str(maker.zoo.root / mean)]
    given = {text.rpartition("=")[0] for text in options.get("input_shapes", ())}
    for blob in net.shapes.open_inputs if "input_shapes" in known else ():
        shape = None if blob in given else _shape_of(maker, path, net.shapes, blob, mean)
        if shape:
            done["input_shapes"] = [*done.get("input_shapes", ()), f"{blob}={','.join(map(str, shape))}"]
    return done


def _mean_file(maker: Matchmaker, path: str, shapes: NetShapes) -> str | None:
    """Return the file that a net's mean can only be, from the zoo's root; None where the net finds it by itself."""
    names = set(shapes.means.values())
    if len(names) != 1:
        return None  # one option serves all inputs
    name, here = names.pop(), folder_of(path)
    if find_mean(name, maker.zoo.root / here):
        return None
    wanted = PurePosixPath(name.replace("\\", "/")).name
    found = [p for p in maker.zoo.means if PurePosixPath(p).name == wanted]
    nearest = min((distance_between(here, folder_of(p)) for p in found), default=0)
    near = [p for p in found if distance_between(here, folder_of(p)) == nearest]
    alike = len({digest_file(maker.zoo.root / p) for p in near}) == 1
    return near[0] if alike else None


def _shape_of(maker: Matchmaker, path: str, shapes: NetShapes, blob: str, mean: str | None) -> Shape | None:
    """Return the shape of an input that its net leaves open, if the zoo tells it."""
    name = shapes.means.get(blob)
    if name and find_mean(name, maker.zoo.root / folder_of(path)):
        return None  # the job takes it from there
    if name and mean:
        return tuple(read_mean(maker.zoo.root / mean).shape)
    return _shape_of_deploy_net(maker, path, blob)


def _shape_of_deploy_net(maker: Matchmaker, path: str, blob: str) -> Shape | None:
    """Return the shape that an input has in the deploy nets of the same folder and model, if they agree."""
    found = set()
    for other in maker.by_folder[folder_of(path)]:
        if other.path == path or other.shapes is None or not other.shapes.is_deploy or blob not in other.shapes.inputs:
            continue
        shape = tuple(other.shapes.inputs[blob][1:])
        state = {**maker.states[path], **({"phase": phase} if (phase := maker.net_at[path].phase) else {})}
        state["input_shapes"] = {**state.get("input_shapes", {}), blob: shape}
        try:
            tried = net_shapes(maker.zoo.root / path, **state)
        except CaffeinitError:
            continue
        if _are_one_model(tried.wanted, other.shapes.wanted):
            found.add(shape)
    return found.pop() if len(found) == 1 else None


def _are_one_model(one: Mapping[str, Sequence[Shape]], other: Mapping[str, Sequence[Shape]]) -> bool:
    """Return whether two nets have most of their layers in common, with the same shapes."""
    common = one.keys() & other.keys()
    return 2 * len(common) > max(len(one), len(other)) and all(one[layer] == other[layer] for layer in common)
