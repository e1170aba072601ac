"""Which net belongs to which weights: a model is a weights file with the net that its shapes fit.

Of several nets that fit, the one wins that lacks nothing, then the nearest folder, then a deploy net before one with
data layers, then the one that uses most of the file. Nets of one folder that fit the same weights are one model's.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from caffeinit.batch.settings import Said
from caffeinit.batch.zoo import Zoo, claims_net, claims_weights
from caffeinit.caffe.fits import Fit, NetShapes, StoredShapes, fit, net_shapes, stored_shapes
from caffeinit.caffe.net import MAX_NET_BYTES
from caffeinit.errors import CaffeinitError
from caffeinit.storage.files import read_bytes_limited


@dataclass(frozen=True)
class Model:
    """What a job runs on; paths are relative to the zoo.

    Attributes:
        net: prototxt or ONNX file; of job upgrade, whatever file.
        weights: the weights that fit it, if there are any.
        cost: multiply-adds of the net, roughly.
    """

    net: str
    weights: str | None = None
    cost: float = field(default=0, compare=False)

    @property
    def name(self) -> str:
        """What the model is called: its weights' path, for of these there is one per model; else its net's."""
        return self.weights or self.net


@dataclass
class Pairing:
    """What became of a zoo's files: every net and weights file is in one of these.

    Attributes:
        models: in natural order.
        left_out: path -> why it is no model of its own.
        failures: path -> why a model that is there cannot be had.
    """

    models: list[Model] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


_Rank = tuple[bool, int, bool, int, int, float, str]


@dataclass
class _Net:
    path: str
    shapes: NetShapes | None
    digest: str
    error: str = ""
    phase: str = ""  # that it has to be read in, where that is not the usual one

    @property
    def cost(self) -> float:
        """Multiply-adds, as far as they are known."""
        return self.shapes.cost if self.shapes else 0


class Matchmaker:
    """Looks into a zoo's files, each once, and pairs them."""

    def __init__(self, zoo: Zoo, said: Mapping[str, Said], states: Mapping[str, Mapping[str, Any]]) -> None:
        """Look into all files.

        Args:
            said: path -> what its settings say.
            states: path of a net -> the arguments of `net_shapes` that its settings and the command line give. A net that
                cannot be read without its layers for training is read in that phase, unless one is given.
        """
        self.zoo = zoo
        self._fits: dict[tuple[str, str], Fit] = {}
        self._known: dict[str, tuple[NetShapes, str]] = {}
        self.states = states
        self.nets = [self._look(path, states[path]) for path in zoo.nets]
        self.net_at = {net.path: net for net in self.nets}
        self.stored: dict[str, tuple[StoredShapes, str]] = {}
        self.broken: dict[str, str] = {}
        for path in zoo.weights:
            self._index(path)
        self.by_folder: dict[str, list[_Net]] = {}
        for net in self.nets:
            self.by_folder.setdefault(folder_of(net.path), []).append(net)
        self._own = {net.path: w for net in self.nets if (w := said[net.path].weights) and not said[net.path].skip}
        self.given_away: dict[
            str, str
        ] = {}  # weights that only nets fit to which settings give others -> why, in words

    def _look(self, path: str, arguments: Mapping[str, Any]) -> _Net:
        full = self.zoo.root / path
        try:
            raw = read_bytes_limited(full, MAX_NET_BYTES, "net definition")
        except CaffeinitError as error:
            return _Net(path, None, "", one_line(error, full))
        digest = hashlib.sha256(raw + repr(arguments).encode()).hexdigest()
        if digest not in self._known:
            try:
                self._known[digest] = net_shapes(full, **arguments), ""
            except CaffeinitError as error:
                reason = one_line(error, full)
                if "phase" in arguments:
                    return _Net(path, None, digest, reason)
                try:
                    self._known[digest] = net_shapes(full, phase="TRAIN", **arguments), "TRAIN"
                except CaffeinitError as other:
                    more = f". And then: {one_line(other, full)}" if "Give --phase TRAIN" in reason else ""
                    return _Net(path, None, digest, reason + more)
        shapes, phase = self._known[digest]
        return _Net(path, shapes, digest, phase=phase)

    def _index(self, path: str) -> None:
        full = self.zoo.root / path
        try:
            shapes = stored_shapes(full)
        except CaffeinitError as error:
            if claims_weights(path):
                self.broken[path] = one_line(error, full)
            return
        digest = hashlib.sha256(repr((shapes.is_hdf5, dict(shapes.layers))).encode()).hexdigest()
        if shapes.layers:
            self.stored[path] = shapes, digest
        elif claims_weights(path):
            self.broken[path] = "holds layers, but no numbers"

    def fit(self, net: _Net, weights: str) -> Fit | None:
        """Return how a weights file fits a net; None for a net that cannot be read."""
        stored, digest = self.stored[weights]
        if net.shapes is None:
            return None
        key = (net.digest, digest)
        if key not in self._fits:
            self._fits[key] = fit(net.shapes, stored)
        return self._fits[key]

    def best(self, weights: str) -> tuple[_Net | None, str]:
        """Return the net for a weights file, or why there is none.

        A net to which the settings give weights takes no others, and these take no other net.
        """
        if told := [self.net_at[path] for path, own in self._own.items() if own == weights]:
            return self._best_of(told, weights), ""
        found: list[tuple[_Rank, _Net]] = []
        near: list[tuple[int, int, str]] = []
        for distance, nets in self._from_near_to_far(folder_of(weights)):
            for net in nets:
                how = self.fit(net, weights)
                if how is None:
                    near += [(0, 0, f"{net.path}: {net.error}")] if distance == 0 else []
                elif how.fits and net.path in self._own:
                    why = f"fits {net.path}, to which a caffeinit.toml gives {self._own[net.path]}"
                    self.given_away.setdefault(weights, why)
                elif how.fits:
                    found.append((_rank(net, weights, how, distance), net))
                elif how.is_kin:
                    near.append((distance, len(how.mismatches), f"{net.path}: {how.mismatches[0]}"))
            found.sort(key=lambda entry: entry[0])
            if (found and not found[0][0][0]) or (weights in self.given_away and not found):
                break  # one that lacks nothing; a farther one would not go before it
        if found:
            self.given_away.pop(weights, None)
            return found[0][1], ""
        nearest = f"; nearest is {min(near)[2]}" if near else ""
        return None, self.given_away.get(weights) or f"no net in the folder fits these weights{nearest}"

    def _best_of(self, nets: Sequence[_Net], weights: str) -> _Net:
        """Return the net that fits best of those that settings give these weights to; any, where none fits."""
        fitting = [(how, net) for net in nets if (how := self.fit(net, weights)) and how.fits]
        return min(fitting, key=lambda one: _rank(one[1], weights, one[0], 0))[1] if fitting else nets[-1]

    def lost(self) -> dict[str, str]:
        """Return what settings give to nets as weights and is none -> why, in words."""
        return {
            weights: f"a caffeinit.toml gives it to {path}, and "
            + ("it holds no weights" if (self.zoo.root / weights).exists() else "there is no such file")
            for path, weights in self._own.items()
            if weights not in self.stored and weights not in self.broken
        }

    def _from_near_to_far(self, here: str) -> Iterator[tuple[int, list[_Net]]]:
        """Yield all nets by their distance; the far ones are only put in order when someone asks for them."""
        yield 0, self.by_folder.get(here, [])
        groups: dict[int, list[_Net]] = {}
        for folder, nets in self.by_folder.items():
            if folder != here:
                groups.setdefault(distance_between(here, folder), []).extend(nets)
        yield from sorted(groups.items())


def _rank(net: _Net, weights: str, how: Fit, distance: int) -> _Rank:
    """Return the sort key of a net that fits; the first is the best."""
    assert net.shapes is not None
    likeness = difflib.SequenceMatcher(None, _stem(net.path), _stem(weights)).ratio()
    unlike_deploy = not net.shapes.is_deploy
    return bool(how.missing), distance, unlike_deploy, len(how.unused), len(how.missing), -likeness, net.path


def pair(maker: Matchmaker, needs: str, takes_onnx: bool, said: Mapping[str, Said]) -> Pairing:
    """Return the models of a zoo for a job.

    Args:
        needs: what a model is, see `table.Job`.
        said: path -> what its settings say.
    """
    zoo, done = maker.zoo, Pairing()
    done.left_out |= dict.fromkeys(zoo.others, "speaks of no layers: a solver, a label map, or empty")
    done.failures |= zoo.unreadable
    skipped = {path: s.skip for path, s in said.items() if s.skip}
    if needs == "file":
        files = [*(n.path for n in maker.nets if not n.error or claims_net(n.path)), *maker.stored, *maker.broken]
        done.models = [Model(path) for path in files]
    else:
        _pair_nets(maker, needs, done, skipped)
    if takes_onnx:
        done.models += [Model(path) for path in zoo.onnx]
    else:
        done.left_out |= dict.fromkeys(zoo.onnx, "is an ONNX model, which this job does not take")
    for model in done.models:
        for path in (model.net, model.weights):
            if path in skipped:
                done.left_out[model.name] = skipped[path]
    done.models = [m for m in done.models if m.name not in done.left_out]
    done.failures = {p: r for p, r in done.failures.items() if p not in skipped}
    done.left_out |= {p: reason for p, reason in skipped.items() if p not in done.left_out}
    return done


def _pair_nets(maker: Matchmaker, needs: str, done: Pairing, skipped: Mapping[str, str]) -> None:
    """Find the models of jobs that take nets."""
    chosen: dict[str, _Net] = {}
    fitting: dict[str, list[str]] = {}  # folder of a chosen net -> the weights it was chosen for
    for weights in [w for w in maker.stored if w not in skipped]:
        net, reason = maker.best(weights)
        if net is not None:
            chosen[weights] = net
            fitting.setdefault(folder_of(net.path), []).append(weights)
        elif needs == "weights" and weights in maker.given_away:
            done.left_out[weights] = reason
        elif needs == "weights":
            done.failures[weights] = reason
    if needs == "weights":
        done.failures |= maker.broken | maker.lost()
        done.models = [Model(net.path, w, net.cost) for w, net in chosen.items()]
    taken = {net.path for net in chosen.values()}
    for net in maker.nets:
        if net.path in taken:
            if needs == "net":
                done.models.append(Model(net.path, cost=net.cost))
            continue
        if net.error and not claims_net(net.path):
            continue  # a text that only speaks of layers
        twin = _twin(maker, net, chosen, fitting.get(folder_of(net.path), []))
        if twin:
            done.left_out[net.path] = twin
        elif needs == "net" and net.error:
            done.failures[net.path] = net.error
        elif needs == "net":
            done.models.append(Model(net.path, cost=net.cost))
        else:
            done.left_out[net.path] = net.error or _why_alone(maker, net)


def _twin(maker: Matchmaker, net: _Net, chosen: Mapping[str, _Net], near: Sequence[str]) -> str:
    """Return that a net belongs to a model which has another net of its folder, if it is so."""
    for weights in near:
        how = maker.fit(net, weights)
        if how is not None and how.fits:
            return f"same model as {chosen[weights].path}: both fit {weights}"
    return ""


def _why_alone(maker: Matchmaker, net: _Net) -> str:
    """Return why a net has no weights."""
    for weights in maker.stored:
        how = maker.fit(net, weights) if folder_of(weights) == folder_of(net.path) else None
        if how is not None and how.mismatches:
            return f"does not fit {weights}: {how.mismatches[0]}"
    return "no weights in the folder fit it"


def folder_of(path: str) -> str:
    """Return the folder that a path of the zoo lies in; the root is ""."""
    return path.rpartition("/")[0]


def distance_between(one: str, other: str) -> int:
    """Return how many steps lead from one folder to another."""
    a, b = one.split("/") if one else [], other.split("/") if other else []
    common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return len(a) + len(b) - 2 * common


def _stem(path: str) -> str:
    return PurePosixPath(path).name.split(".")[0].lower()


def one_line(error: Exception, path: object) -> str:
    """Return an error's text in one line, without the path that the reader sees anyway."""
    text = re.sub(rf"{re.escape(str(path))}:(?=\d)", "line ", str(error))
    return " ".join(text.replace(f"{path}:", "").split())
