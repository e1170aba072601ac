"""Reads from a net's data layer how its pictures were prepared.

Fields: `transform_param` (mean_value, mean_file, scale, crop_size, force_color, force_gray), the same fields where old
nets have them (`data_param`, `image_data_param`, `window_data_param`), ImageData's new_height, new_width, is_color, and
crop_h, crop_w and resize_param of SSD's fork (weiliu89/caffe, branch ssd, src/caffe/util/im_transforms.cpp).
Only a mean file named without leading `/` or `..` is taken from a net: a net file from anywhere must not make us read
what lies elsewhere. Others have to be asked for with `--mean-file`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from caffeinit.errors import ImagesError
from caffeinit.images.means import MEAN_HINT
from caffeinit.images.preprocess import Preprocessing, Resize
from caffeinit.printing import printable
from caffeinit.storage.files import leads_out

# ResizeParameter's WARP and FIT_SMALL_SIZE; the third mode pads.
_RESIZE: dict[int, Resize] = {1: "warp", 2: "short"}
_OLD_PLACES = ("data_param", "image_data_param", "window_data_param", "memory_data_param")


def preprocessing_of(layer: Any, folder: str | os.PathLike[str] | None = None) -> Preprocessing:
    """Return what a data layer asks for; float arrays are left alone unless options say otherwise.

    Args:
        layer: a LayerParameter of any type; one without such fields gives Caffe's defaults.
        folder: where the net's file lies; the mean file is looked for there and below the current folder.
    Raises:
        ImagesError: fields contradict each other. A mean file that is not there or lies elsewhere is `mean_problem`.
    """
    places = _places(layer)
    mean = next((list(p.mean_value) for p in places if getattr(p, "mean_value", None)), None)
    mean_file = mean_name(layer)
    if mean and mean_file:
        raise ImagesError(
            f'layer "{printable(layer.name)}": both mean_value and mean_file are given: remove one of them.'
        )
    mean_path = find_mean(mean_file, folder) if mean_file else None
    crop = _crop(layer, places)
    size = _new_size(layer)
    frame = layer.transform_param.resize_param if _has(layer.transform_param, "resize_param") else None
    if frame is not None and frame.height and frame.width:
        size = (int(frame.height), int(frame.width))
    else:
        frame = None
    is_database = crop is not None and size is None and layer.type != "ImageData"
    return Preprocessing(
        mean=[float(v) for v in mean] if mean else None,
        mean_file=mean_path,
        mean_problem=_mean_problem(layer, mean_file) if mean_file and not mean_path else None,
        scale=float(scale) if (scale := _first(places, "scale")) is not None else 1.0,
        crop=crop,
        # A database's pictures have their training size; those of files that stand in for them have any.
        resize=_RESIZE.get(frame.resize_mode) if frame is not None else "auto" if is_database else None,
        resize_problem=_resize_problem(layer) if frame is not None and frame.resize_mode not in _RESIZE else None,
        resize_to=size,
        channels=_channels(layer),
        floats=False,
    )


def preprocessing_of_net(
    layers: Iterable[Any], folder: str | os.PathLike[str] | None = None
) -> dict[str, Preprocessing]:
    """Return for each top of the layers without bottoms (data layers) how its pictures are prepared."""
    found = {}
    for layer in layers:
        if not layer.bottom and layer.top:
            asked = preprocessing_of(layer, folder)
            found.update({top: asked if i == 0 else Preprocessing(floats=False) for i, top in enumerate(layer.top)})
    return found


def _places(layer: Any) -> list[Any]:
    """Return the messages of a layer that may say how its pictures are prepared."""
    return [getattr(layer, n) for n in ("transform_param", *_OLD_PLACES) if _has(layer, n)]


def _has(message: Any, name: str) -> bool:
    return name in message.DESCRIPTOR.fields_by_name and message.HasField(name)


def _first(places: Iterable[Any], name: str) -> Any:
    return next((getattr(p, name) for p in places if _has(p, name)), None)


def _crop(layer: Any, places: Iterable[Any]) -> int | tuple[int, int] | None:
    """Return the crop's side, or (height, width) where the fork's fields give both."""
    transform = layer.transform_param
    if transform.crop_h and transform.crop_w:
        return int(transform.crop_h), int(transform.crop_w)
    return int(_first(places, "crop_size") or 0) or None


def _resize_problem(layer: Any) -> str:
    return (
        f'layer "{printable(layer.name)}": resize_param fits pictures into its size and pads them, which is not done '
        "here. Say how they are to be resized: --resize warp or --resize short."
    )


def _new_size(layer: Any) -> tuple[int, int] | None:
    if not _has(layer, "image_data_param"):
        return None
    size = (layer.image_data_param.new_height, layer.image_data_param.new_width)
    return (int(size[0]), int(size[1])) if min(size) > 0 else None


def _channels(layer: Any) -> Any:
    transform = layer.transform_param
    colour = _first([transform], "force_color")
    grey = _first([transform], "force_gray")
    if colour and grey:
        raise ImagesError(f'layer "{printable(layer.name)}": force_color and force_gray are both set.')
    if _has(layer, "image_data_param") and not layer.image_data_param.is_color:
        grey = True
    return "gray" if grey else None


def mean_name(layer: Any) -> str | None:
    """Return the name of the mean file that a data layer asks for, as it says it."""
    name: str | None = _first(_places(layer), "mean_file")
    return name or None


def find_mean(name: str, folder: str | os.PathLike[str] | None) -> Path | None:
    """Return where a mean file lies that a net names; None where it is not to be had, or lies elsewhere."""
    if leads_out(name):
        return None
    candidates = [Path(f, name) for f in (folder, ".") if f is not None]
    candidates += [Path(folder, Path(name).name)] if folder is not None else []
    return next((c for c in candidates if os.path.isfile(c)), None)


def _mean_problem(layer: Any, name: str) -> str:
    """Return why there is no mean file."""
    where = f'layer "{printable(layer.name)}": mean_file "{printable(name)}"'
    if leads_out(name):
        return f"{where} lies elsewhere and is only read when asked for. {MEAN_HINT}"
    return f"{where} is neither beside the net nor below the current folder. {MEAN_HINT}"
