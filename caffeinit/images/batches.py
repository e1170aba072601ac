"""Calibration batches: which pictures, in which order, cut how; decoded by threads while the net computes.

Of more pictures than asked for, an evenly spread part is taken: the picture list, in natural order, is cut into
`num_images` stretches and the middle of each is taken, so class folders are all represented, and the choice depends
neither on the order in which the file system lists them nor on a seed. With several inputs, rows belong together by
position. Where a net spells out other numbers of rows for its inputs, as for the steps of a sequence and its first state,
each of its runs takes the next so many of each, and counts as one picture.

A picture that cannot be read is left out, counted and named; the rest moves up, so only the last batch may be short.
The batches, their order and content do not depend on the number of threads.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Integral
from types import NoneType

import numpy as np

from caffeinit.arguments import check_type
from caffeinit.errors import ImagesError
from caffeinit.images.arrays import Source
from caffeinit.images.files import Skipped
from caffeinit.images.preprocess import Preprocessing
from caffeinit.printing import printable

Batch = dict[str, np.ndarray]
CACHE_BYTES = 1 << 28  # fitted 8-bit rows are kept for later passes up to this size; 160 of 227x227 take 25 MB
BATCHES_AHEAD = 2
MOST_THREADS = 8
SHOWN_NAMES = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Feed:
    """Where the rows of one input come from and what is done to them.

    Attributes:
        shape: (N, ...), N of no meaning; of pictures (N, C, H, W), also where the input takes channels last.
    """

    name: str
    shape: tuple[int, ...]
    source: Source
    preprocessing: Preprocessing

    @property
    def is_turned(self) -> bool:
        """Whether the input takes channels last."""
        return self.preprocessing.channels_last and len(self.shape) == 4

    @property
    def prepared(self) -> str:
        """How pictures are prepared, in brackets; empty where there are none."""
        if not self.source.holds_pictures or len(self.shape) != 4:
            return ""
        return f" ({self.preprocessing.describe(self.shape, not self.source.holds_files)})"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape as the input takes it."""
        return tuple(self.shape[i] for i in (0, 2, 3, 1)) if self.is_turned else self.shape


@dataclass(frozen=True)
class Row:
    """One input's fitted values and whether mean and scale are meant for them in any case."""

    values: np.ndarray
    raw: bool


def pictures_in(batch: Mapping[str, np.ndarray]) -> int:
    """Return how many pictures a batch holds: its rows, or one run where inputs have different numbers of these."""
    counts = {len(array) for array in batch.values()}
    return counts.pop() if len(counts) == 1 else 1


class Calibration:
    """The calibration set: iterate over it as often as needed for dicts of input -> (n, ...) float32.

    Attributes:
        skipped: (name, reason) of all that could not be read; complete after the first pass.
        notes: what is odd about the pictures, such as all being the same; complete after the first pass.
    """

    def __init__(
        self,
        feeds: Sequence[Feed],
        num_images: int | None = 160,
        batch_size: int = 16,
        strict: bool = False,
        threads: int | None = None,
        whole_batches: bool = False,
    ) -> None:
        check_type("batch_size", batch_size, Integral, "a whole number")
        for name, number in (("num_images", num_images), ("threads", threads)):
            check_type(name, number, (Integral, NoneType), "a whole number or None")
        if batch_size < 1 or (num_images is not None and num_images < 1):
            raise ImagesError(f"num_images and batch_size must be at least 1: found {num_images} and {batch_size}.")
        if threads is not None and threads < 0:
            raise ImagesError(f"threads must be at least 0: found {threads}.")
        self.feeds = feeds
        self._run = _rows_of_a_run(feeds) if whole_batches else {}
        self.batch_size = 1 if self._run else batch_size
        self.strict = strict
        self.threads = threads or min(MOST_THREADS, os.cpu_count() or 1)
        self.whole_batches = whole_batches
        self.notes: list[str] = []
        self._bad: dict[int, Skipped] = {}
        self._cache: list[dict[str, list[Row]]] | None = None
        self._begun: list[dict[str, list[Row]]] = []  # the first rows, from passes that were broken off
        self._passes = 0
        self._found = self._paired_length()
        self._chosen = spread(self._found, num_images)
        for name, reason in (entry for feed in feeds for entry in feed.source.skipped):
            self._refuse_if_strict(name, reason)
        self._check_headers()

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Shape of each input, as given."""
        return {feed.name: feed.input_shape for feed in self.feeds}

    @property
    def num_images(self) -> int:
        """How many pictures the batches hold; those found unreadable so far are not counted."""
        usable = len(self._chosen) - len(self._bad)
        return usable - usable % self.batch_size if self.whole_batches else usable

    @property
    def skipped(self) -> list[Skipped]:
        """What could not be read, and why."""
        return [*(e for f in self.feeds for e in f.source.skipped), *(self._bad[i] for i in sorted(self._bad))]

    @property
    def memory(self) -> int:
        """About how many bytes pictures and batches take while these are made: `kept_memory`, two batches, and so on."""
        row, size = self._row, min(self.batch_size, self.num_images)
        floats = sum(4 * self._numbers(f) for f in self.feeds if not f.source.holds_pictures)
        ahead = (BATCHES_AHEAD + 1) * size * (row + floats)
        # What is decoded ahead is what will be kept.
        rows = min(self.kept_memory + ahead, self.num_images * (row + floats))
        largest = max(feed.source.most_pixels for feed in self.feeds)
        # Pillow holds four bytes a pixel, twice where it converts; then come three colours, and these turned upright.
        return rows + 2 * size * 4 * row + 9 * largest * self.threads

    @property
    def kept_memory(self) -> int:
        """About how many bytes pictures take that are kept for later passes."""
        return min(CACHE_BYTES, self.num_images * self._row)

    @property
    def _row(self) -> int:
        """Numbers of one picture, of all inputs."""
        return sum(map(self._numbers, self.feeds))

    def _numbers(self, feed: Feed) -> int:
        return self._run.get(feed.name, 1) * math.prod(feed.shape[1:])

    def __len__(self) -> int:
        return self.num_images

    def __iter__(self) -> Iterator[Batch]:
        rows: list[dict[str, list[Row]]] = []
        for row in self._rows():
            rows.append(row)
            if len(rows) == self.batch_size:
                yield self._batch(rows)
                rows = []
        if rows and not self.whole_batches:
            yield self._batch(rows)

    def describe(self) -> str:
        """Return one to a few lines: how many pictures, from where, which were skipped."""
        lines = [f"{self.num_images} of {self._found} {self._kind}"]
        lines += [f'input "{printable(f.name)}": {_short(printable(f.source.origin))}{f.prepared}' for f in self.feeds]
        skipped = self.skipped
        if skipped:
            lines.append(f"{len(skipped)} skipped:")
            lines += [f"  {printable(name)}: {reason}" for name, reason in skipped[:SHOWN_NAMES]]
        if len(skipped) > SHOWN_NAMES:
            lines.append(f"  and {len(skipped) - SHOWN_NAMES} more")
        return "\n".join(lines)

    @property
    def _kind(self) -> str:
        """What is counted, in words."""
        if self._run:
            rows = ", ".join(f"{printable(name)} {count}" for name, count in self._run.items())
            return f"runs of the net, which spells out how many rows each takes: {rows}"
        batches = f"pictures in batches of {self.batch_size}"
        is_told = self.whole_batches and self.batch_size > 1
        return f"{batches}, which is what the net spells out" if is_told else batches

    def _paired_length(self) -> int:
        lengths = {feed.name: len(feed.source) for feed in self.feeds}
        runs = {name: length / self._run.get(name, 1) for name, length in lengths.items()}
        if len(set(runs.values())) > 1 or not all(count.is_integer() for count in runs.values()):
            listed = ", ".join(f"{printable(name)} {count}" for name, count in lengths.items())
            if self._run:
                own = ", ".join(f"{printable(name)} {count}" for name, count in self._run.items())
                raise ImagesError(
                    f"the inputs have rows for different numbers of runs: {listed}. The net spells out how many a run "
                    f"takes: {own}. Give so many of each for every run, in one order."
                )
            raise ImagesError(
                f"the inputs have different numbers of rows, which belong together by position: {listed}. Give each "
                f"of them {min(lengths.values())}, in one order: the first row of one goes with the first of the others."
            )
        return int(next(iter(runs.values())))

    def _places(self, feed: Feed, index: int) -> range:
        """Return the rows of an input's source that belong to one row of all inputs: one, or those of a run."""
        count = self._run.get(feed.name, 1)
        return range(index * count, (index + 1) * count)

    def _check_headers(self) -> None:
        """Leave out what is no picture at a glance, so that the count is nearly right before anything is decoded."""
        for index in self._chosen:
            for feed, place in ((f, p) for f in self.feeds for p in self._places(f, index)):
                try:
                    feed.source.check(place)
                except ImagesError as error:
                    self._leave_out(index, feed.source.name(place), str(error))
                    break
        self._refuse_if_empty()

    def _leave_out(self, index: int, name: str, reason: str) -> None:
        self._refuse_if_strict(name, reason)
        if self._passes:
            raise ImagesError(f"{printable(name)}: could be read before, but not any more: {reason}.")
        if index not in self._bad:
            self._bad[index] = (name, reason)
            _log.warning("%s: skipped: %s", printable(name), reason)

    def _refuse_if_strict(self, name: str, reason: str) -> None:
        if self.strict:
            raise ImagesError(f"{printable(name)}: {reason}. Without --strict it would be skipped.")

    def _refuse_if_empty(self) -> None:
        if self.num_images:
            return
        origin = ", ".join(dict.fromkeys(printable(f.source.origin) for f in self.feeds))
        reasons = [f"{printable(name)}: {reason}" for name, reason in self.skipped[:SHOWN_NAMES]]
        if len(self._bad) < len(self._chosen):
            raise ImagesError(
                f"{_short(origin)}: {len(self._chosen) - len(self._bad)} pictures can be used, but the net spells out "
                f"a batch of {self.batch_size}: give {self.batch_size} or more, and see --num-images."
            )
        raise ImagesError("\n".join([f"{_short(origin)}: no picture can be used.", *reasons]))

    def _rows(self) -> Iterator[dict[str, list[Row]]]:
        """Yield the rows in order, decoding some batches ahead of what is taken."""
        if self._cache is not None:
            yield from self._cache
            return
        kept: list[dict[str, list[Row]]] = []
        size = 0
        looks = _Looks()
        done = False
        try:
            for row in itertools.chain(self._begun, self._decoded(len(self._begun))):
                looks.see(row)
                values = [r.values for own in row.values() for r in own]
                size += sum(v.nbytes if v.dtype == np.uint8 else CACHE_BYTES for v in values)
                if size <= CACHE_BYTES:
                    kept.append(row)
                else:
                    kept.clear()
                yield row
            done = True
        finally:
            self._begun = [] if done else max(kept, self._begun, key=len)
        self._refuse_if_empty()
        self._passes += 1
        self._cache = kept or None
        self.notes = looks.notes()

    def _decoded(self, start: int) -> Iterator[dict[str, list[Row]]]:
        """Yield the rows from number `start` on."""
        indices = [i for i in self._chosen if i not in self._bad][start:]
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="caffeinit-images")
        waiting: deque[tuple[int, Future[dict[str, list[Row]] | Skipped]]] = deque()
        try:
            upcoming = iter(indices)
            ahead = BATCHES_AHEAD * self.batch_size
            while True:
                while len(waiting) < ahead and (index := next(upcoming, None)) is not None:
                    waiting.append((index, pool.submit(self._read, index)))
                if not waiting:
                    return
                index, future = waiting.popleft()
                result = future.result()
                if isinstance(result, dict):
                    yield result
                else:
                    self._leave_out(index, *result)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, index: int) -> dict[str, list[Row]] | Skipped:
        row: dict[str, list[Row]] = {}
        for feed in self.feeds:
            found = []
            for place in self._places(feed, index):
                try:
                    sample = feed.source.read(place, feed.shape[1:], feed.preprocessing)
                    found.append(Row(feed.preprocessing.fit(sample, feed.shape[1:]), sample.raw))
                except ImagesError as error:
                    return feed.source.name(place), str(error)
            row[feed.name] = found
        return row

    def _batch(self, rows: Sequence[Mapping[str, list[Row]]]) -> Batch:
        batch = {}
        for feed in self.feeds:
            own = [of for row in rows for of in row[feed.name]]
            out = np.empty((len(own), *own[0].values.shape), np.float32)
            for number, of in enumerate(own):  # also where a row is a single number, which `out` would give a copy of
                feed.preprocessing.normalise(of.values, of.raw, out[number, ...])
            batch[feed.name] = np.ascontiguousarray(np.moveaxis(out, 1, -1)) if feed.is_turned else out
        return batch


def _rows_of_a_run(feeds: Sequence[Feed]) -> dict[str, int]:
    """Return how many rows of each input a run of a net takes that spells them out; nothing where these are as many.

    Raises:
        ImagesError: an input is a single number, and another has rows.
    """
    own = {feed.name: next(iter(feed.shape), 0) for feed in feeds}
    if len(set(own.values())) == 1:
        return {}
    if 0 in own.values():
        listed = ", ".join(name for name, count in own.items() if not count)
        raise ImagesError(
            f"the net takes a single number for {printable(listed)}, which files of rows cannot be given for. "
            "From Python it takes batches: caffeinit.rescale(net, [{input: array}, ...])."
        )
    return own


class _Looks:
    """Notices pictures that cannot calibrate anything: all flat, or all the same."""

    def __init__(self) -> None:
        self.count = 0
        self.flat = 0
        self.seen: set[bytes] = set()

    def see(self, row: Mapping[str, list[Row]]) -> None:
        self.count += 1
        arrays = [r.values for own in row.values() for r in own if r.values.ndim == 3]
        self.flat += bool(arrays) and all(map(is_flat, arrays))
        if len(self.seen) < 2:
            self.seen.add(hashlib.blake2b(b"".join(r.values.tobytes() for own in row.values() for r in own)).digest())

    def notes(self) -> list[str]:
        if self.flat == self.count:
            return ["all pictures are constant: each is one flat colour"]
        if len(self.seen) == 1:
            return ["there is only one picture" if self.count == 1 else "all pictures are identical"]
        return []


def is_flat(planes: np.ndarray, first: int = 1) -> bool:
    """Tell whether each channel of a picture has one value everywhere: one colour, whatever it is.

    What has one pixel only is no picture, but a list of features.

    Args:
        planes: three axes; heights and widths are on axes `first` and `first` + 1.
    """
    corner = planes[:, :1, :1] if first else planes[:1, :1]
    return planes.size > corner.size and bool((planes == corner).all())


def spread(found: int, wanted: int | None) -> list[int]:
    """Return `wanted` of `found` positions, the middle of as many equal stretches; all where there are fewer."""
    if wanted is None or wanted >= found:
        return list(range(found))
    return [(2 * i + 1) * found // (2 * wanted) for i in range(wanted)]


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + " ..."
