"""Running a graph on a device whose memory keeps what goes in and what comes out.

A value stays where it was computed, as a `Piece` for each batch. What leaves the device is named here and nowhere else:
the moments of each picture's channels (`_run_rows`), how channels go together (`Piece.products`), vectors at sampled
places (`Piece.vectors`), and a value as a whole where a caller asks for its numbers, or its shape depends on the data
(`Piece.__array__`).

Where memory runs out in the middle of a run, the batch goes through in halves, which are views of the same pieces, unless
a picture's values hang on the others'; where there is none for what is to be kept, it is kept in the machine's memory.
Both are said once.
All of it runs with the device "cpu" as well; only the provider's name differs on CUDA.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort

from caffeinit.arithmetic.moments import PictureMoments
from caffeinit.engine.additions import add_moments, product_graph, vector_graph, whole_graph
from caffeinit.engine.affine import Affine, with_corrections
from caffeinit.engine.arrays import DeviceArray
from caffeinit.engine.device import Device
from caffeinit.engine.failures import MEMORY_ERRORS, explained, is_out_of_memory
from caffeinit.engine.session import FED_ELEMENTS, Settings, declare, fed_weights, output_shape, start
from caffeinit.graph import Graph
from caffeinit.graph.rowwise import is_rowwise
from caffeinit.graph.sizes import numpy_type

HOST = Device()
RUN_BYTES = 1 << 31  # of what a run reads and gives: a GPU is idle while the next run is begun, so that few are best


@dataclass
class Portion:
    """How much a device takes at a time.

    Attributes:
        notes: takes a sentence when memory has run out.
        most: pictures in a run; None for whole batches.
    """

    device: Device
    notes: list[str] = field(default_factory=list)
    most: int | None = None

    def halve(self, count: int) -> None:
        """Take half of so many pictures from now on."""
        self.most = (count + 1) // 2
        self._say(f"out of memory on {self.device}: pictures went through it", f"{self.most} at a time")

    def send(self, arrays: Sequence[np.ndarray]) -> DeviceArray:
        """Return arrays, one behind the other, on the device; where it has no memory left, each run takes them there."""
        try:
            return DeviceArray.joined(self.device, arrays)
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
        self.keep_here()
        return DeviceArray.joined(HOST, arrays)

    def keep_here(self) -> None:
        """Say that kept values went to the machine's memory."""
        self._say(
            f"out of memory on {self.device}: part of what is kept between layers went to", "the machine's memory"
        )

    def _say(self, what: str, how: str) -> None:
        logging.getLogger(__name__).warning("%s %s", what, how)
        self.notes[:] = [*(note for note in self.notes if not note.startswith(what)), f"{what} {how}"]


class Piece:
    """A value of some pictures, on a device.

    Attributes:
        array: where its numbers lie, without the correction.
        correction: what is still to be applied to them; whoever reads them does it.
    """

    def __init__(
        self,
        array: DeviceArray,
        settings: Settings,
        found: Sequence[PictureMoments] = (),
        axis: int | None = None,
        readers: dict[tuple[Any, ...], ort.InferenceSession] | None = None,
    ) -> None:
        """Take what a run has left on a device.

        Args:
            found, axis: moments of its channels, and the axis of these; None where they were not asked for.
            readers: small sessions over such pieces, shared by all of one value: setting one up takes longer than its run.
        """
        self.array = array
        self.correction: Affine | None = None
        self._settings = settings
        self._found = found
        self._axis = axis
        self._readers = {} if readers is None else readers

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""
        return self.array.shape

    def __len__(self) -> int:
        return len(self.array)

    def moments(self, axis: int) -> Sequence[PictureMoments] | None:
        """Return the moments of the channels on `axis`, as they were found when it was computed.

        None if they were not, or if the device's single precision could not hold them.
        """
        if self._axis is None or any(found.are_lost for found in self._found):
            return None
        assert axis % len(self.shape) == self._axis % len(self.shape)
        return self._found

    def correct(self, correction: Affine) -> None:
        """Have a correction read in place of the value."""
        assert self.correction is None
        self.correction = correction

    def vectors(self, index: np.ndarray, axis: int) -> np.ndarray:
        """Return the vectors along an axis at some places, (*index.shape, C).

        Args:
            index: (m, k) flat numbers over all other axes; -1 gives zeros.
        """
        with explained("run"):
            places = DeviceArray.place(self.array.device, np.maximum(index, 0).astype(np.int32))
        key = ("vectors", axis, index.shape[1:])
        found = self._read(key, lambda: vector_graph(self.shape, axis, index.shape), {"index": places})
        found[index < 0] = 0
        return found

    def products(self, axis: int, centre: np.ndarray) -> np.ndarray:
        """Return sums of products of the first channels of each group, (groups, most + 1, most + 1); see `product_graph`.

        Args:
            centre: (groups, most, 1) float32, taken from the channels on `axis` first.
        """
        groups, most = centre.shape[:2]
        with explained("run"):
            given = {"centre": DeviceArray.place(self.array.device, centre)}
        return self._read(
            ("products", axis, groups, most), lambda: product_graph(self.shape, axis, groups, most), given
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.correction is None:
            found = self.array.fetch()
        else:
            found = self._read(("whole",), lambda: whole_graph(self.shape), {})
        return found if dtype is None else found.astype(dtype)

    def _read(self, key: tuple[Any, ...], build: Callable[[], Graph], more: Mapping[str, DeviceArray]) -> np.ndarray:
        """Return the output of a small graph over this value, "x"; of one key there is one graph for all pieces."""
        key = (*key, self.correction is not None)
        if key not in self._readers:
            graph, _ = with_corrections(build(), {"x": self.correction} if self.correction else {})
            self._readers[key] = start(graph.to_model(), self._settings)
        session = self._readers[key]
        binding = session.io_binding()
        with explained("run"):
            for given in session.get_inputs():
                more.get(given.name, self.array).bind(binding.bind_input, given.name)
            binding.bind_output(session.get_outputs()[0].name, "cpu")
            _run(session, binding)
        return np.array(binding.get_outputs()[0].numpy())


class ResidentSession:
    """A part of a graph that takes and gives pieces.

    Attributes:
        inputs: the values a run must be given.
    """

    def __init__(
        self,
        graph: Graph,
        outputs: Sequence[str],
        settings: Settings,
        portion: Portion,
        inputs: Sequence[str] = (),
        axes: Mapping[str, int] | None = None,
        corrections: Mapping[str, Affine] | None = None,
        extremes: bool = True,
    ) -> None:
        """Compile the part of `graph` that computes `outputs` from `inputs` (and graph inputs).

        Args:
            axes: outputs whose moments are wanted -> the axis of their channels. Those whose shape depends on the data
                may be empty, and are not reduced.
            corrections: inputs that are to be corrected first.
            extremes: as in `moments.picture_moments`.
        """
        part = graph.part(outputs, inputs)
        self.inputs = list(part.inputs)
        self._is_rowwise = is_rowwise(part)
        part, self._renamed = with_corrections(part, corrections or {})
        self._axes = {n: axis for n, axis in (axes or {}).items() if n in outputs and min(graph.shape(n)) >= 0}
        self._moments = {name: add_moments(part, name, axis, extremes) for name, axis in self._axes.items()}
        self._outputs = list(outputs)
        part.outputs = [*outputs, *(name for names in self._moments.values() for name in names)]
        self._graph, self._settings, self._portion = graph, settings, portion
        self._readers: dict[str, dict[tuple[Any, ...], ort.InferenceSession]] = {name: {} for name in outputs}
        # They are sent once, and a session that has them built in takes longer to set up.
        weights = {name: part.initializers[name] for name in fed_weights(part, FED_ELEMENTS)}
        self._session = start(declare(part, weights), settings)
        with explained("set up"):
            self._weights = {name: DeviceArray.place(settings.device, array) for name, array in weights.items()}

    def run(self, feeds: Mapping[str, DeviceArray]) -> dict[str, Piece]:
        """Compute the outputs."""
        total = self._pictures(feeds)
        found: dict[str, list[PictureMoments]] = {name: [] for name in self._moments}
        with explained("run"):
            made = {name: self._allocate(name, total) if total else None for name in self._outputs}
            can_split = self._is_rowwise and None not in made.values()
            total = total or 1
            done = 0
            while done < total:
                count = min(self._portion.most or total, total - done) if can_split else total
                try:
                    part = self._run_rows(feeds, made, (done, done + count), total)
                except MEMORY_ERRORS as error:
                    if not can_split or count == 1 or not is_out_of_memory(error):
                        raise
                    self._portion.halve(count)
                    continue
                done += count
                for name, moments in part.items():
                    found[name].append(moments)
        return {
            name: Piece(array, self._settings, found.get(name, ()), self._axes.get(name), self._readers[name])
            for name, array in made.items()
            if array is not None
        }

    def _pictures(self, feeds: Mapping[str, DeviceArray]) -> int:
        """Return how many pictures the feeds are of; 0 if none tells."""
        rows = {name: (*self._graph.shape(name), -1)[0] for name in feeds}
        return next(
            (len(feeds[name]) * self._graph.batch_size() // count for name, count in rows.items() if count > 0), 0
        )

    def _allocate(self, name: str, pictures: int) -> DeviceArray | None:
        """Return memory for an output; None where its shape depends on the data."""
        shape = self._graph.shape(name)
        if min(shape, default=1) < 0:
            return None
        if self._graph.batch_axis_free:
            shape = output_shape(shape, self._graph.batch_size(), pictures)
        dtype = numpy_type(self._graph, name)
        try:
            return DeviceArray.allocate(self._settings.device, shape, dtype)
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
        self._portion.keep_here()
        return DeviceArray.allocate(HOST, shape, dtype)

    def _run_rows(
        self,
        feeds: Mapping[str, DeviceArray],
        made: dict[str, DeviceArray | None],
        rows: tuple[int, int],
        total: int,
    ) -> dict[str, PictureMoments]:
        """Compute the outputs of some pictures into their places in `made`; return the moments, all that is fetched."""
        settings, binding = self._settings, self._session.io_binding()
        given = {n: _rows(a, rows, total).aligned() for n, a in feeds.items()}
        for name, array in given.items():
            array.bind(binding.bind_input, self._renamed.get(name, name))
        for name, array in self._weights.items():
            array.bind(binding.bind_input, name)
        targets, aside = {}, {}
        for name, whole in made.items():
            if whole is None:
                binding.bind_output(name, settings.device.kind, settings.device.number)
                continue
            targets[name] = _rows(whole, rows, total)
            if not targets[name].is_aligned:
                aside[name] = DeviceArray.allocate(whole.device, targets[name].shape, whole.dtype)
            aside.get(name, targets[name]).bind(binding.bind_output, name)
        for names in self._moments.values():
            for name in names:
                binding.bind_output(name, "cpu")
        _run(self._session, binding)
        for name, array in aside.items():
            array.copy_to(targets[name])
        results = dict(zip([o.name for o in self._session.get_outputs()], binding.get_outputs(), strict=True))
        for name, whole in made.items():
            if whole is None:
                made[name] = DeviceArray.taken(settings.device, results[name])
        return {
            name: PictureMoments.of(_size(made[name], rows, total), *(results[n].numpy() for n in names))
            for name, names in self._moments.items()
        }


def _rows(array: DeviceArray, rows: tuple[int, int], total: int) -> DeviceArray:
    """Return the rows of some of all pictures; a value may have several for each."""
    if rows == (0, total):
        return array
    return array.rows(*(len(array) * r // total for r in rows))


def _size(array: DeviceArray | None, rows: tuple[int, int], total: int) -> int:
    assert array is not None
    return int(np.prod(_rows(array, rows, total).shape))


def _run(session: ort.InferenceSession, binding: Any) -> None:
    """Run, and wait for it: the next session that reads an output has a queue of its own."""
    binding.synchronize_inputs()
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
