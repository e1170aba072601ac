"""Are two nets the same function? Compared on pictures, batch by batch; nothing outlives its batch.

Each side is a network or an ONNX file. Differences are relative to a value's largest magnitude over all pictures, so that
what counts is what is visible beside the value itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from caffeinit.calibration import given_calibration
from caffeinit.errors import CaffeinitError, WeightsError
from caffeinit.graph import Shape
from caffeinit.images.batches import pictures_in
from caffeinit.model.network import BARE, Network
from caffeinit.proof.functions import Function, NetFunction, Run, Values, differences
from caffeinit.proof.verify import TOLERANCE, Difference, is_kept
from caffeinit.result import finite

Pairs = list[tuple[str, str]]


@dataclass
class Comparison:
    """What `compare` found.

    Attributes:
        outputs: one entry for each output that both sides have and the pictures determine.
        parting: the first value, in the order of A's graph, at which the sides part; if it was looked for.
        notes: what was left out.
    """

    outputs: list[Difference]
    tolerance: float
    num_images: int
    parting: Difference | None = None
    notes: list[str] = field(default_factory=list)

    def agree(self, difference: Difference) -> bool:
        """Tell whether a value counts as the same."""
        return difference.relative <= self.tolerance

    @property
    def same(self) -> bool:
        """Whether all outputs are the same within the tolerance."""
        return all(map(self.agree, self.outputs))

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON; a difference that is not finite becomes None."""
        return {
            "same": self.same,
            "tolerance": self.tolerance,
            "num_images": self.num_images,
            "outputs": [self._entry(d) for d in self.outputs],
            "first_difference": self._entry(self.parting) if self.parting else None,
            "notes": self.notes,
        }

    def _entry(self, found: Difference) -> dict[str, Any]:
        numbers = {"largest": found.largest, "difference": found.gap, "relative": found.relative}
        plain = {key: finite(value) for key, value in numbers.items()}
        counts = {"counted": found.counted, "unequal": found.unequal, "ties": found.ties} if found.is_whole else {}
        return {"name": found.name, **plain, **counts, "predictions_changed": found.changed, "same": self.agree(found)}


def compare(
    a: Function,
    b: Function,
    batches: Iterable[Values],
    *,
    tolerance: float = TOLERANCE,
    first: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Compare the outputs of two functions on all batches.

    Args:
        tolerance: of each output's largest magnitude.
        first: also look for the first value at which they part, in another pass, picture by picture.
        progress: called with the number of pictures done; with `first` each counts twice.
    Raises:
        CaffeinitError: there is no output that both have and that the pictures determine, or a side takes pictures of
            another shape.
    """
    given = {name: array.shape for name, array in next(iter(batches)).items()}
    sides = [_Side(function, given) for function in (a, b)]
    pairs, notes = _paired_outputs(*sides)
    found = Comparison([], tolerance, 0, notes=notes)
    outputs = differences(a, [name for name, _ in pairs], tolerance)
    found.num_images = _run(sides, pairs, outputs, batches, progress)
    fixed, only = _fixed_outputs(a, b, tolerance)
    found.outputs = outputs = [*outputs, *fixed]
    notes += only
    notes += [
        f'output "{d.name}" comes in steps of {d.step:.1g} of a number, in half precision: rounding alone can exceed a '
        f"tolerance of {tolerance:g}"
        for d in outputs
        if d.step > max(tolerance, float(np.finfo(np.float32).eps))
    ]
    notes += [f'output "{d.name}": {d.told_apart()}' for d in outputs if d.unequal]
    known = {d.name: d for d in outputs}
    notes += [
        f'output "{d.name}" has other entries, but what they are chosen from is the same: rounding chose, or another rule'
        for d in outputs
        if not found.agree(d) and is_kept(d, known, tolerance)
    ]
    if first:
        pairs = _common_values(*sides)
        inner = differences(a, [name for name, _ in pairs], tolerance)
        rows = min(a.rows, b.rows) and max(a.rows, b.rows)
        _run(sides, pairs, inner, _pieces(batches, rows), lambda done: progress(found.num_images + done))
        found.parting = next((d for d in inner if not found.agree(d)), None)
    return found


def compare_networks(a: Network, b: Network, images: Any, **options: Any) -> Comparison:
    """Compare two networks on pictures.

    Args:
        images: what `caffeinit.read_images` returned, or float32 batches: arrays (N, ...) or dicts input -> array.
        options: tolerance, first and progress as for `compare`.
    """
    for label, network in (("A", a), ("B", b)):
        if network.is_bare:
            raise WeightsError(f"{label}: {BARE}, before it is compared")
    found = compare(NetFunction(a, "A"), NetFunction(b, "B"), given_calibration(a, images, labels=True), **options)
    found.notes += [
        f"{label} holds no numbers for {', '.join(network.unset)}: zeros are used"
        for label, network in (("A", a), ("B", b))
        if network.unset
    ]
    return found


class _Side:
    """A function with its inputs matched to those of the pictures."""

    def __init__(self, function: Function, given: Mapping[str, Shape]) -> None:
        self.function = function
        own = list(function.inputs)
        self._names = {name: name for name in own if name in given}
        if len(own) == 1 and not self._names and (source := _only_fitting(function.inputs[own[0]], given)):
            self._names = {own[0]: source}
        for name, source in self._names.items():
            _check_shape(function, name, given[source])
        self.values = function.values(list(self._names))
        known = set(self.values)
        outputs = [name for name in function.outputs if name in known and not function.is_of_all(name)]
        fixed = set(function.fixed())
        self.left_out: dict[str, str] = {}
        for name in function.outputs:
            if (name not in known and name not in fixed) or function.is_of_all(name):
                instead = [value for value in function.judged(name) if value in known]
                outputs += instead
                self.left_out[name] = _replaced(function, name, self._names, instead)
        self.outputs = list(dict.fromkeys(outputs))

    @property
    def is_fed(self) -> bool:
        """Whether there are pictures for any of its inputs."""
        return bool(self._names)

    def compile(self, values: Sequence[str]) -> Run:
        run = self.function.compile(values)
        return lambda batch: run({own: batch[name] for own, name in self._names.items()})


def _only_fitting(axes: Sequence[int | None], given: Mapping[str, Shape]) -> str:
    """Return the pictures that an only input takes, by their shape where there are several; empty if that tells none."""
    if len(given) == 1:
        return next(iter(given))
    fitting = [name for name, shape in given.items() if _takes(axes, shape)]
    return fitting[0] if len(fitting) == 1 else ""


def _takes(axes: Sequence[int | None], shape: Shape) -> bool:
    """Tell whether an input takes arrays of a shape; the first axis is the batch, and 0 or less, or None, is open."""
    return len(axes) == len(shape) and all((a or 0) in (n, 0, -1) for a, n in zip(axes[1:], shape[1:], strict=True))


def _check_shape(function: Function, name: str, found: Shape) -> None:
    """Refuse pictures of another shape than a side takes."""
    if not _takes(function.inputs[name], found):
        axes = [axis or 0 for axis in function.inputs[name]]
        takes = ", ".join(["N", *("?" if a < 1 else str(a) for a in axes[1:])])
        gets = ", ".join(["N", *map(str, found[1:])])
        raise CaffeinitError(
            f'{function.label}: input "{name}" takes ({takes}), but the pictures are ({gets}), as the net takes them.\n'
            "Two functions can only be compared on the same pictures. Where the net allows another size, give it: "
            f"--input-shape {name}={','.join(str(a) for a in axes[1:] if a > 0) or 'C,H,W'}"
        )


def _replaced(function: Function, output: str, fed: Collection[str], instead: Sequence[str]) -> str:
    """Return why an output is not compared itself, as what goes on from its name.

    Args:
        fed: the inputs with pictures.
    """
    if function.is_of_all(output):
        where = f"is one number for the {function.rows} that {function.label} takes at a time"
        return (
            f"{where}; what it judges is compared: {', '.join(instead)}" if instead else f"{where} and is not compared"
        )
    if output not in function.values(list(function.inputs)):
        return "is an input and is not compared"
    where = f"depends on an input without pictures ({', '.join(name for name in function.inputs if name not in fed)})"
    return f"{where}; what it judges is compared: {', '.join(instead)}" if instead else f"{where} and is not compared"


def _left_out(a: _Side, b: _Side) -> list[str]:
    """Return a note for each output that is not compared; one for both sides where they say the same of it."""
    notes = []
    for side, other in ((a, b), (b, a)):
        for name, why in side.left_out.items():
            both = other.left_out.get(name) == why
            notes.append(f'{"" if both else f"{side.function.label}: "}output "{name}" {why}')
    return list(dict.fromkeys(notes))


def _paired_outputs(a: _Side, b: _Side) -> tuple[Pairs, list[str]]:
    """Return which output of A is compared with which of B, and what is left out.

    Raises:
        CaffeinitError: nothing is left.
    """
    notes = list(dict.fromkeys([*a.function.replaced.values(), *b.function.replaced.values()])) + _left_out(a, b)
    known = set(a.values).intersection(b.values)
    left_out = a.left_out.keys() | b.left_out.keys()
    wanted = [name for name in dict.fromkeys(a.outputs + b.outputs) if name in known]
    outputs = [name for name in wanted if name not in left_out]
    # A softmax that is saturated does not show what changes before it.
    before = [value for name in wanted for side in (a, b) for value in side.function.judged(name) if value in known]
    pairs = [(name, name) for name in dict.fromkeys([*outputs, *before])]
    if not pairs and len(a.outputs) == len(b.outputs):
        pairs = list(zip(a.outputs, b.outputs, strict=True))
        notes += [f'output "{x}" is compared with "{y}": the names differ' for x, y in pairs]
    if not pairs and not {*a.function.fixed()} & {*b.function.fixed()}:
        if a.is_fed != b.is_fed:
            takes = " and ".join(f"{s.function.label} takes {', '.join(s.function.inputs)}" for s in (a, b))
            raise CaffeinitError(
                f"the inputs differ, and two functions can only be compared on the same pictures: {takes}"
            )
        listed = " and ".join(f"{s.function.label} has {', '.join(s.outputs) or 'none'}" for s in (a, b))
        raise CaffeinitError(f"there is no output to compare that the pictures determine: {listed}")
    for side, names in ((a, {x for x, _ in pairs}), (b, {y for _, y in pairs})):
        notes += [f'only {side.function.label} has the output "{n}"' for n in side.outputs if n not in names]
    return pairs, notes


def _fixed_outputs(a: Function, b: Function, tolerance: float) -> tuple[list[Difference], list[str]]:
    """Return what the outputs differ by that no input influences, such as anchors, and notes on those of one side only."""
    of = [(side, dict.fromkeys(side.fixed())) for side in (a, b)]
    names = [name for name in of[0][1] if name in of[1][1]]
    found = differences(a, names, tolerance)
    if names:
        one, other = (side.compile(names)({}) for side in (a, b))
        for difference in found:
            _see(difference, *_without_common_nan(one[difference.name], other[difference.name]), None)
            difference.changed = None  # their rows are no pictures
    return found, [f'only {side.label} has the output "{n}"' for side, own in of for n in own if n not in names]


def _without_common_nan(a: Any, b: Any) -> tuple[Any, Any]:
    """Return two values, of real numbers with zeros where both are NaN: what is stored is the same there."""
    if not all(isinstance(v, np.ndarray) and v.dtype.kind == "f" for v in (a, b)) or a.shape != b.shape:
        return a, b
    both = np.isnan(a) & np.isnan(b)
    return np.where(both, 0, a), np.where(both, 0, b)


def _common_values(a: _Side, b: _Side) -> Pairs:
    known = set(b.values)
    pairs = [(name, name) for name in a.values if name in known]
    if not pairs:
        raise CaffeinitError(
            f"{a.function.label} and {b.function.label} have no value of the same name: none can be the first to part"
        )
    return pairs


def _run(
    sides: Sequence[_Side],
    pairs: Pairs,
    differences: Sequence[Difference],
    batches: Iterable[Values],
    progress: Callable[[int], None],
) -> int:
    """Run both sides over all batches and return the number of pictures."""
    if not pairs:
        return sum(map(pictures_in, batches))
    wanted = [list(names) for names in zip(*pairs, strict=True)]
    known = set(sides[0].values)
    ranked = [d.places.value if d.places and d.places.value in known else "" for d in differences]
    wanted[0] += [name for name in dict.fromkeys(ranked) if name and name not in wanted[0]]
    runs = [side.compile(names) for side, names in zip(sides, wanted, strict=True)]
    done = 0
    for batch in batches:
        one, other = (run(batch) for run in runs)
        for (x, y), difference, source in zip(pairs, differences, ranked, strict=True):
            _see(difference, one[x], other[y], one[source] if source else None)
        done += pictures_in(batch)
        progress(done)
    return done


def _see(difference: Difference, a: Any, b: Any, ranked: np.ndarray | None) -> None:
    """Take in one batch of a value of both sides; of sequences and maps, tensor by tensor."""
    mine, yours = list(_tensors(a)), list(_tensors(b))
    if len(mine) != len(yours):
        difference.shapes, difference.gap = ((len(mine),), (len(yours),)), float("inf")
        return
    for one, other in zip(mine, yours, strict=True):
        difference.see(one, other, ranked)


def _tensors(value: Any) -> Iterator[np.ndarray]:
    """Yield the tensors of what onnxruntime returns: an array, a list of these or of maps, or None."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield np.asarray([value[key] for key in sorted(value)])


def _pieces(batches: Iterable[Values], rows: int) -> Iterator[Values]:
    """Cut batches into pieces of so many rows; 0 leaves them whole, and so do inputs of other numbers of rows."""
    for batch in batches:
        count, *others = {len(array) for array in batch.values()}
        if others:
            yield batch
            continue
        for start in range(0, count, rows or count):
            yield {name: array[start : start + (rows or count)] for name, array in batch.items()}
