"""Turns pixels into what a net was trained on: size, crop, channels, mean and scale, as Caffe's DataTransformer does.

A picture is resized to a *frame*, its middle is cropped to the net's input, then (x - mean) * scale. The frame is, in
this order: `resize_to`; the mean array's extent where that is larger than the input; the input itself, so that without
a crop the whole picture is resized to the input. A mean array is cropped at its middle like the picture.

| resize | what |
|---|---|
| warp | both sides to the frame; the aspect ratio is lost, as in Caffe's ImageData layer |
| short | scaled to just cover the frame |
| none | as it is; scaled up to cover the input where it is smaller |
| auto | pictures from files: warp; stored arrays and Datum records with a crop: none |
| not given | warp; with a crop and no frame other than the input: none, which is what Caffe's `crop_size` means |

Mirroring is for training and left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from caffeinit.arguments import check_type
from caffeinit.errors import CaffeinitError, ImagesError, OptionError
from caffeinit.images.means import MEAN_HINT, read_mean
from caffeinit.images.resize import centre, grey_of_bgr, resize_bilinear
from caffeinit.printing import printable

Size = tuple[int, int]
Resize = Literal["warp", "short", "none", "auto"]
Channels = Literal["bgr", "rgb", "gray"]
Order = Literal["bgr", "rgb", "net"]


_HARDLY = 0.5  # of a picture: what is seen of it is told where it is less


class BrokenRowError(ImagesError):
    """One row's values cannot be used; the others' may."""


@dataclass(frozen=True)
class Sample:
    """One row of a source.

    Attributes:
        values: (H, W, C) uint8 pixels, or floats in the input's own shape or (C, H, W).
        order: of the channels of pixels; "net" for planes that are in the net's order already.
        stored: from an array or database, where pictures usually have their training size; else from a picture file.
        raw: floats that mean and scale are always meant for (Datum records), whatever `Preprocessing.floats` says.
        size: (height, width) before a JPEG was decoded smaller.
    """

    values: np.ndarray
    order: Order = "bgr"
    stored: bool = False
    raw: bool = False
    size: Size | None = None

    @property
    def is_pixels(self) -> bool:
        """Whether the values are 8-bit pixels."""
        return self.values.dtype == np.uint8


@dataclass(frozen=True)
class Preprocessing:
    """How pictures become a net's input; the module tells the rules.

    Attributes:
        mean: one value, one per channel, or an array (C, H, W), in the order of the net's channels.
        mean_file: read by `resolved` when pictures need it: .binaryproto or .npy.
        mean_problem: why the net's own mean file cannot be used; an error once pictures need it.
        scale: factor after the mean is taken off.
        crop: Caffe's crop_size in pixels, or (height, width), which must be the input's extent; None without.
        resize: see the module.
        resize_problem: why pictures cannot be resized as the net says; an error once pictures need it.
        resize_to: (height, width) of the frame.
        channels: None for BGR, or grey where the input has one channel. "gray" with three channels repeats the grey.
        draft: decode large JPEGs at a fraction of their size, see `decode`: faster, and no longer Caffe's own pixels.
        floats: whether float arrays are to have mean, scale and crop too; else they are taken as they are.
        channels_last: the input takes (N, H, W, C); nets of other origin than Caffe's do.
        given: the fields that were asked for explicitly; what is wrong with these is wrong with the options.
    """

    mean: float | Sequence[float] | np.ndarray | None = None
    mean_file: str | Path | None = None
    mean_problem: str | None = None
    scale: float = 1.0
    crop: int | Size | None = None
    resize: Resize | None = None
    resize_problem: str | None = None
    resize_to: Size | None = None
    channels: Channels | None = None
    draft: bool = False
    floats: bool = True
    channels_last: bool = False
    given: frozenset[str] = field(default=frozenset(), compare=False)

    def __post_init__(self) -> None:
        check_type("scale", self.scale, Real, "a number")
        if not (np.isfinite(self.scale) and self.scale != 0):
            raise ImagesError(f"scale is {self.scale}: it must be a finite number other than 0.")
        try:
            mean = np.asarray(0.0 if self.mean is None else self.mean, np.float64)
        except ValueError:
            raise ImagesError(f"the mean is {self.mean!r}: give a number, or one for each channel.") from None
        if not np.isfinite(mean).all():
            raise ImagesError("the mean holds values that are not finite numbers.")
        if self.mean is not None and self.mean_file is not None:
            raise ImagesError("both a mean and a mean file are given: give one of them.")
        self._check_kinds()
        if min(*(self.crop_sides or (1,)), *(self.resize_to or (1,))) < 1:
            raise ImagesError(f"crop and resize sizes must be at least 1: found {self.crop or self.resize_to}.")

    def _check_kinds(self) -> None:
        """Refuse words and sizes of which nothing is known to be done."""
        for name, of in (("resize", Resize), ("channels", Channels)):
            if (value := getattr(self, name)) not in (None, *get_args(of)):
                raise ImagesError(f"{name} is {value!r}: it must be one of {', '.join(get_args(of))}.")
        for name in ("crop_sides", "resize_to"):
            sides = getattr(self, name)
            if sides is not None and not (
                isinstance(sides, tuple | list) and len(sides) == 2 and all(isinstance(s, Integral) for s in sides)
            ):
                raise ImagesError(f"{name.partition('_')[0]} is {sides!r}: give whole numbers, (height, width).")

    @property
    def crop_sides(self) -> Size | None:
        """(height, width) of the crop."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop

    def override(self, **given: Any) -> Preprocessing:
        """Return a copy with the explicit options that are not None in place; crop 0 takes a crop away.

        What is asked for explicitly is done to float arrays too.

        Raises:
            OptionError: it makes no sense.
        """
        known = [f.name for f in fields(self) if f.init and f.name != "given"]
        if unknown := [name for name in given if name not in known]:
            raise OptionError(f"pictures have no option {unknown[0]}; there are {', '.join(known)}")
        given = {name: value for name, value in given.items() if value is not None}
        if not given:
            return self
        asked = self.given | given.keys()
        if {"mean", "mean_file"} & given.keys():
            given = {"mean": None, "mean_file": None, "mean_problem": None} | given
        if "crop" in given:
            given["crop"] = given["crop"] or None
            if self.resize == "auto":
                given.setdefault("resize", None)
        if "resize" in given:
            given["resize_problem"] = None
        # How files are decoded says nothing about floats.
        changes: dict[str, Any] = ({"floats": True} if given.keys() - {"draft"} else {}) | given
        try:
            return replace(self, **changes, given=asked)
        except ImagesError as error:
            raise OptionError(str(error)) from None

    def resolved(self) -> Preprocessing:
        """Return a copy with the mean file read.

        Raises:
            ImagesError: the net's mean file is not to be had, or what is named is none.
        """
        for problem in (self.mean_problem, self.resize_problem):
            if problem is not None:
                raise ImagesError(problem)
        if self.mean_file is None:
            return self
        try:
            return replace(self, mean=read_mean(self.mean_file), mean_file=None)
        except ImagesError as error:
            if "mean_file" in self.given:
                raise
            raise ImagesError(f"{error}. {MEAN_HINT}") from None

    def check(self, name: str, shape: Sequence[int]) -> None:
        """Refuse what does not fit an input of shape (N, C, H, W).

        Raises:
            ImagesError, OptionError: naming the input; the latter where it was asked for explicitly.
        """
        where = f'input "{printable(name)}"'
        if len(shape) != 4:
            raise ImagesError(f"{where} has shape {tuple(shape)}: pictures need (N, C, H, W). Give it an array (.npy).")
        channels, height, width = shape[1:]
        if min(height, width) < 1:
            raise ImagesError(f"{where}: its height and width are not known. Give --input-shape {name}=C,H,W.")
        if self.crop_sides not in (None, (height, width)):
            crop = "x".join(map(str, self.crop_sides or ()))
            raise self._refusal("crop", f"{where} takes {height}x{width} pixels, but the crop is {crop}.")
        if self.resize_to and self.resize != "none" and (self.resize_to[0] < height or self.resize_to[1] < width):
            frame = "x".join(map(str, self.resize_to))
            raise self._refusal(
                "resize_to", f"{where} takes {height}x{width} pixels: they cannot be cut out of {frame}."
            )
        if self.channels in ("bgr", "rgb") and channels == 1:
            message = f'{where} has one channel, but the channels asked for are "{self.channels}".'
            raise self._refusal("channels", message)
        self._check_mean(where, channels, height, width)

    def _refusal(self, name: str, message: str) -> CaffeinitError:
        """Return what to raise where a field does not fit the input."""
        return OptionError(message) if name in self.given else ImagesError(message)

    def _check_mean(self, where: str, channels: int, height: int, width: int) -> None:
        mean = np.asarray(0.0 if self.mean is None else self.mean)
        some = f"{channels} channels" if channels != 1 else "one channel"
        if mean.ndim <= 1 and mean.size not in (1, channels):
            found = f"{where} has {some}, but the mean has {mean.size} values."
            each = f", or {channels}, one for each channel in the net's order" if channels > 1 else ""
            advice = f"Give --mean one value{each}." if "mean" in self.given else MEAN_HINT
            raise self._refusal("mean", f"{found} {advice}")
        advice = "Give that of this net, or values with --mean." if "mean_file" in self.given else MEAN_HINT
        if mean.ndim > 1 and (mean.ndim != 3 or mean.shape[0] != channels):
            raise ImagesError(f"{where} has {some}, but the mean array is {mean.shape}. {advice}")
        if mean.ndim == 3 and (mean.shape[1] < height or mean.shape[2] < width):
            raise ImagesError(
                f"{where} takes {height}x{width} pixels, but the mean array has only {mean.shape[1]}x{mean.shape[2]}. "
                f"It belongs to another net. {advice}"
            )

    def wants_grey(self, channels: int) -> bool:
        """Return whether pictures are to be decoded in grey for an input of so many channels."""
        return self.channels == "gray" or (self.channels is None and channels == 1)

    def describe(self, shape: Sequence[int], stored: bool = False) -> str:
        """Return in a few words how pictures become an input of shape (N, C, H, W)."""
        channels, *window = shape[1:]
        frame, mode = self._frame((window[0], window[1])), self._mode((window[0], window[1]), stored)
        size = f"{window[0]}x{window[1]} " + ("from the middle" if mode == "none" else f"by {mode}")
        if mode != "none" and frame != tuple(window):
            share = window[0] * window[1] / (frame[0] * frame[1])
            seen = f", {100 * share:.2g} % of it" if share < _HARDLY else ""
            size = f"{size} to {frame[0]}x{frame[1]} and the middle of it{seen}"
        order = "gray" if self.wants_grey(channels) else self.channels or "bgr"
        mean = np.asarray(0.0 if self.mean is None else self.mean)
        numbers = ",".join(f"{m:g}" for m in mean.reshape(-1)) if mean.ndim < 2 else "picture"
        return f"{size}, {order}, {f'mean {numbers}' if mean.any() else 'no mean'}, scale {self.scale:g}"

    def _frame(self, window: Size) -> Size:
        mean = np.asarray(0.0 if self.mean is None else self.mean)
        return self.resize_to or ((mean.shape[1], mean.shape[2]) if mean.ndim == 3 else window)

    def _mode(self, window: Size, stored: bool) -> Resize:
        plain = self.crop and self._frame(window) == window
        if self.resize == "auto":
            return "none" if stored and plain else "warp"
        return self.resize or ("none" if plain else "warp")

    def target(self, size: Size, window: Size, stored: bool = False) -> Size:
        """Return what a picture of (height, width) is resized to before the middle `window` is cut out."""
        frame, mode = self._frame(window), self._mode(window, stored)
        if mode == "warp":
            return frame
        if mode == "none" and size[0] >= window[0] and size[1] >= window[1]:
            return size
        cover = frame if mode == "short" else window
        ratio = max(cover[0] / size[0], cover[1] / size[1])
        return max(cover[0], round(size[0] * ratio)), max(cover[1], round(size[1] * ratio))

    def fit(self, sample: Sample, shape: Sequence[int]) -> np.ndarray:
        """Return a row in the input's shape (C, H, W): uint8, or float32 for floats; mean and scale not yet applied.

        Raises:
            ImagesError: it cannot be brought there; the message is the reason alone.
        """
        if not sample.is_pixels:
            return self._fit_floats(sample, tuple(shape))
        channels, height, width = shape
        pixels = self._coloured(sample, channels)
        size = self.target(sample.size or (pixels.shape[0], pixels.shape[1]), (height, width), sample.stored)
        pixels = resize_bilinear(pixels, *size)
        pixels = pixels[centre(size[0], height), centre(size[1], width)]
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        return np.repeat(planes, channels, axis=0) if len(planes) < channels else planes

    def _coloured(self, sample: Sample, channels: int) -> np.ndarray:
        """Return pixels (H, W, 1 or `channels`) in the net's order."""
        pixels = sample.values
        found = pixels.shape[2]
        if found == 3 and self.wants_grey(channels):
            return grey_of_bgr(pixels[..., ::-1] if sample.order == "rgb" else pixels)
        if found == channels == 3:
            wanted = "rgb" if self.channels == "rgb" else "bgr"
            return pixels if sample.order in ("net", wanted) else pixels[..., ::-1]
        if found == channels or (found == 1 and channels == 3):
            return pixels
        raise ImagesError(
            f"{found} channels, but the net's input has {channels}; such data is given as an array (.npy) of "
            f"(N, {channels}, H, W)"
        )

    def _fit_floats(self, sample: Sample, shape: tuple[int, ...]) -> np.ndarray:
        values = np.asarray(sample.values, np.float32)
        if self.channels_last and values.ndim == 3 and values.shape[2] == shape[0]:
            values = np.moveaxis(values, -1, 0)
        if self.crop and values.ndim == len(shape) == 3 and (sample.raw or self.floats):
            height, width = shape[1:]
            if values.shape[1] >= height and values.shape[2] >= width:
                values = values[:, centre(values.shape[1], height), centre(values.shape[2], width)]
        if values.shape != shape:
            why = "floats aren't resized"
            if values.ndim < len(shape):  # a single picture, or planes, where rows of pictures are wanted
                why = f"an array of all pictures is (N, {', '.join(map(str, shape))})"
            raise ImagesError(f"values of shape {values.shape}, but the net's input takes {shape}; {why}")
        if not np.isfinite(values).all():
            raise BrokenRowError("holds NaN or infinite values")
        return values

    def normalise(self, row: np.ndarray, sample_is_raw: bool, out: np.ndarray) -> None:
        """Write (row - mean) * scale into `out`, or the row itself where floats are left as they are."""
        if row.dtype != np.uint8 and not (sample_is_raw or self.floats):
            out[...] = row
            return
        np.subtract(row, self.mean_for(out.shape), out=out, dtype=np.float32, casting="unsafe")
        if self.scale != 1.0:
            out *= np.float32(self.scale)

    def mean_for(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the mean as float32 that can be taken off a row of `shape`."""
        mean = np.asarray(0.0 if self.mean is None else self.mean, np.float32)
        if mean.ndim == 3:
            return mean[:, centre(mean.shape[1], shape[1]), centre(mean.shape[2], shape[2])]
        return mean.reshape(-1, *[1] * (len(shape) - 1)) if mean.ndim else mean
