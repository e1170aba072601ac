"""Pictures from anywhere to calibration batches: sources, decoding, Caffe's preprocessing, the cut into batches.

`read_images` reads files; `as_calibration` takes arrays. What `--images` can name is told in `sources`, which pictures
are chosen in `batches`, what is done to them in `preprocess`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from caffeinit.errors import ImagesError, OptionError
from caffeinit.images.arrays import ArraySource, Source
from caffeinit.images.batches import Batch, Calibration, Feed
from caffeinit.images.given import GivenBatches, as_calibration
from caffeinit.images.preprocess import BrokenRowError, Preprocessing
from caffeinit.images.sources import Given, open_sources, source_names
from caffeinit.images.transform_param import preprocessing_of, preprocessing_of_net
from caffeinit.printing import printable

__all__ = [
    "Batch",
    "Calibration",
    "GivenBatches",
    "Preprocessing",
    "as_calibration",
    "named_inputs",
    "preprocessing_of",
    "preprocessing_of_net",
    "read_images",
]

Several = Given | Iterable[Given]


def read_images(
    shapes: Mapping[str, Sequence[int]],
    sources: Several | Mapping[str | None, Several],
    *,
    preprocessing: Mapping[str, Preprocessing] | Preprocessing | None = None,
    num_images: int | None = 160,
    batch_size: int = 16,
    strict: bool = False,
    threads: int | None = None,
    root: str | os.PathLike[str] | None = None,
    whole_batches: bool = False,
) -> Calibration:
    """Return the calibration set that files or arrays hold; nothing but headers is read yet.

    Args:
        shapes: input -> shape (N, C, H, W); N is of no meaning.
        sources: a name, an array or several of them; for several inputs a mapping. What stands under None is for the
            input that is left over, or for all that are where it is a .npz or HDF5 file with arrays named like them.
        preprocessing: for all inputs of four axes, or input -> Preprocessing; None for Caffe's ImageData defaults.
        num_images: how many rows to use at most, evenly spread; None for all.
        batch_size: rows in a batch.
        strict: refuse what would be skipped.
        threads: decoding threads; None for one a processor, at most 8.
        root: the folder that the names in list files start from.
        whole_batches: leave the last pictures out where they do not fill a batch, for nets that spell its size out.
    Raises:
        ImagesError: what is named is not there, does not fit the inputs, or holds no usable picture.
        OptionError: it is not said which input the pictures are for, or what was asked for does not fit it.
    """
    assigned = _assign(shapes, sources)
    feeds = [
        _feed(name, tuple(shapes[name]), open_sources(given, name, root), _asked(preprocessing, name, shapes[name]))
        for name, given in assigned.items()
    ]
    return Calibration(feeds, num_images, batch_size, strict, threads, whole_batches)


def named_inputs(sources: Several | Mapping[str | None, Several]) -> set[str | None]:
    """Return the inputs that sources are given for by name, as keys or as names of the arrays in a file."""
    named = dict(sources) if isinstance(sources, Mapping) else {None: sources}
    single = _single(named[None]) if None in named else None
    return {*named, *(source_names(single) if single is not None else ())}


def _assign(shapes: Mapping[str, Sequence[int]], sources: Several | Mapping[str | None, Several]) -> dict[str, Several]:
    """Return for each input what it is read from."""
    named = dict(sources) if isinstance(sources, Mapping) else {None: sources}
    rest = named.pop(None, None)
    all_inputs = ", ".join(f"{printable(n)} {tuple(s)}" for n, s in shapes.items())
    if foreign := [str(n) for n in named if n not in shapes]:
        raise OptionError(f"the net has no input {', '.join(map(printable, foreign))}; its inputs: {all_inputs}.")
    left = [n for n in shapes if n not in named]
    if rest is not None and not left:
        raise OptionError("each input has its pictures already: to which do those without a name belong?")
    if rest is not None and len(left) > 1:
        single = _single(rest)
        if set(left) - set(source_names(single) if single is not None else ()):
            raise OptionError(
                f"the net has several inputs ({all_inputs}): say which pictures are for which, "
                + " ".join(f"--images {printable(n)}=..." for n in left)
                + _as_numbers([n for n in left if len(shapes[n]) != 4])
            )
    elif rest is None and left:
        raise OptionError(f"no pictures for input {', '.join(map(printable, left))}; the net's inputs: {all_inputs}.")
    return {str(n): s for n, s in named.items()} | {n: rest for n in left if rest is not None}  # type: ignore[misc]


def _as_numbers(names: Sequence[str]) -> str:
    """Return what to give for inputs that take no pictures, such as labels; nothing where there are none."""
    listed = ", ".join(map(printable, names))
    rows = "an .npy file with a row for each picture (of labels any will do, such as zeros)"
    verb = "takes" if len(names) == 1 else "take"
    return f". {listed} {verb} numbers, not pictures: {rows}" if names else ""


def _single(given: Several) -> Given | None:
    if isinstance(given, list | tuple):
        return given[0] if len(given) == 1 else None
    return given if isinstance(given, str | os.PathLike) else None


def _asked(given: Mapping[str, Preprocessing] | Preprocessing | None, name: str, shape: Sequence[int]) -> Preprocessing:
    if isinstance(given, Preprocessing):
        return given if len(shape) == 4 else Preprocessing()
    return (given or {}).get(name, Preprocessing())


def _feed(name: str, shape: tuple[int, ...], source: Source, asked: Preprocessing) -> Feed:
    """Return one input's feed, after what can be refused before any picture is decoded."""
    if asked.channels_last and len(shape) == 4:
        shape = tuple(shape[i] for i in (0, 3, 1, 2))
    if not len(source):
        raise ImagesError(f"{printable(source.origin)}: holds no rows.")
    prepares = source.holds_pictures and (len(shape) == 4 or source.holds_files)
    if prepares or (asked.floats and (asked.mean is not None or asked.mean_file is not None)):
        asked = asked.resolved()
        asked.check(name, shape)
    if not source.holds_pictures or isinstance(source, ArraySource):
        # All rows of an array have one shape: what the first does not fit is no matter of single pictures.
        try:
            asked.fit(source.read(0, shape[1:], asked), shape[1:])
        except BrokenRowError:
            pass  # left out and named later, like any damaged picture
        except ImagesError as error:
            raise ImagesError(f'{printable(source.origin)}: input "{printable(name)}": {error}.') from error
    return Feed(name, shape, source, asked)
