"""Layers whose tops come from outside. They become inputs of the net; no database is opened.

Shapes are what the layer's own parameters tell; where nothing tells a top's shape it is None, and the user must.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caffeinit.caffe.layers.base import Layer, LayerType, ParamGraph, layer_type
from caffeinit.errors import LayerError
from caffeinit.graph import Shape


class DataLayer(LayerType):
    """A layer with tops and no bottoms."""

    is_data = True
    num_bottoms: tuple[int, int | None] = (0, 0)
    num_tops: tuple[int, int | None] = (1, None)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Any]:
        """Return each top's shape, or None where nothing tells it."""
        raise NotImplementedError

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Data layers have nothing to lower."""
        raise AssertionError("data layers become graph inputs")


@layer_type("Input")
class Input(DataLayer):
    """Inputs of a deploy net."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Any]:
        """Return the shapes given; one shape serves all tops."""
        shapes: list[Any] = [tuple(int(d) for d in s.dim) for s in layer.input_param.shape]
        if not shapes:
            return [None] * len(layer.top)
        if any(d < 0 for shape in shapes for d in shape):
            raise LayerError(f"shapes {shapes} have negative extents")
        if len(shapes) not in (1, len(layer.top)):
            raise LayerError(f"{len(shapes)} shapes for {len(layer.top)} tops")
        return shapes * (len(layer.top) if len(shapes) == 1 else 1)


@layer_type("DummyData")
class DummyData(DataLayer):
    """Constants or noise in nets for timing; here an input."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Any]:
        """Return the shapes given, in today's or the four-axes form."""
        p = layer.dummy_data_param
        tops = len(layer.top)
        axes = {name: [int(v) for v in getattr(p, name)] for name in ("num", "channels", "height", "width")}
        is_old = any(axes.values())
        if is_old and p.shape:
            raise LayerError("gives shape, and num, channels, height and width")
        for name, given in (axes if is_old else {"shape": p.shape}).items():
            if len(given) not in (1, tops):
                raise LayerError(f"has {len(given)} {name} for {tops} top(s); there must be one, or one for each")
        if len(p.data_filler) not in (0, 1, tops):
            raise LayerError(
                f"has {len(p.data_filler)} data_filler for {tops} top(s); there must be one, or one for each"
            )
        shapes = [tuple(shape.dim) for shape in p.shape] or [
            tuple(a[i % len(a)] for a in axes.values()) for i in range(tops)
        ]
        return [shapes[i % len(shapes)] for i in range(tops)]


@layer_type("MemoryData")
class MemoryData(DataLayer):
    """Pictures and labels handed over in memory."""

    num_tops = (2, 2)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Any]:
        """Return (N, C, H, W) and (N,)."""
        p = layer.memory_data_param
        data = (int(p.batch_size), int(p.channels), int(p.height), int(p.width))
        if 0 in data:
            raise LayerError(f"batch_size, channels, height and width must all be given, got {data}")
        return [data, (data[0],)]


class PictureData(DataLayer):
    """Pictures, and labels in the further tops; the size is that of the crop where there is one."""

    param = ""
    takes_pictures_as_they_are = True

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Any]:
        """Return (N, C, H, W) and (N,) for a label.

        H and W are 0 where neither crop nor new size tells them, and C is, too, where the layer does not tell it then.
        With a size it is 3 by Caffe's custom.
        """
        own = getattr(layer, self.param) if self.param else None
        batch = int(getattr(own, "batch_size", 0) or 1)
        channels, size = self._channels(layer, own), self._size(layer, own)
        data = (batch, channels or 3, *size) if size else (batch, channels, 0, 0)
        label: Shape | None = (batch,)
        return [data, *[label if self.labels_are_single else None] * (len(layer.top) - 1)]

    labels_are_single = True

    @staticmethod
    def _channels(layer: Layer, own: Any) -> int:
        """Return how many channels the layer tells of, 0 where that is left to the pictures.

        A single mean_value tells nothing: it is taken off all channels.
        Source: BVLC/caffe, src/caffe/data_transformer.cpp.
        """
        t = layer.transform_param
        if own is not None and "is_color" in own.DESCRIPTOR.fields_by_name:
            return 3 if own.is_color and not t.force_gray else 1
        if t.force_gray or t.force_color:
            return 1 if t.force_gray else 3
        return len(t.mean_value) if len(t.mean_value) > 1 else 0

    @staticmethod
    def _size(layer: Layer, own: Any) -> tuple[int, int] | None:
        t = layer.transform_param
        for height, width in (
            (t.crop_h, t.crop_w),
            (t.crop_size, t.crop_size),
            (layer.cpm_transform_param.crop_size_y, layer.cpm_transform_param.crop_size_x),
            (t.resize_param.height, t.resize_param.width),
            (getattr(own, "crop_height", 0), getattr(own, "crop_width", 0)),
            (getattr(own, "crop_size", 0), getattr(own, "crop_size", 0)),
            (getattr(own, "new_height", 0), getattr(own, "new_width", 0)),
        ):
            if height and width:
                return int(height), int(width)
        return None


@layer_type("Data")
class Data(PictureData):
    """A LevelDB or LMDB of Datum records."""

    param = "data_param"
    num_tops = (1, 2)


@layer_type("MultiImageData", "ImageDataMulti")
class MultiImageData(PictureData):
    """A list of several picture files, or labels, a line; forks'."""

    param = "image_data_param"

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Any]:
        """Return each top's shape."""
        p = layer.image_data_param
        if bool(p.new_height) != bool(p.new_width):
            raise LayerError("new_height and new_width must both be given, or neither")
        return super().infer(layer, bottoms)


@layer_type("ImageData")
class ImageData(MultiImageData):
    """A list of picture files, with a label each."""

    num_tops = (2, 2)


@layer_type("WindowData")
class WindowData(PictureData):
    """Windows cut from pictures."""

    param = "window_data_param"
    num_tops = (2, 2)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Any]:
        """Return each top's shape."""
        if not layer.transform_param.crop_size:
            raise LayerError("crop_size, the extent of the windows, is not given")
        return super().infer(layer, bottoms)


@layer_type("VideoData")
class VideoData(PictureData):
    """Frames of videos; forks'. TSN stacks the frames (or x and y of the flow) of all segments along the channels."""

    param = "video_data_param"
    takes_pictures_as_they_are = False

    @staticmethod
    def _channels(layer: Layer, own: Any) -> int:
        frame = 2 if own.modality == own.FLOW else 3
        return frame * int(own.new_length or 1) * int(own.num_segments or 1)


@layer_type("DenseImageData", "ImageLabelmapData", "ImageSegData", "SegData", "ImageLabelData")
class DenseImageData(PictureData):
    """Pictures with a label per pixel; forks'."""

    param = "dense_image_data_param"
    labels_are_single = False


@layer_type("AnnotatedData", "BoxData", "LaneData", "DocData", "CPMData", "ImageDetectionData", "ROIData")
class AnnotatedData(PictureData):
    """Pictures with annotations; forks'."""

    param = "data_param"
    labels_are_single = False


class OutsideData(DataLayer):
    """A source that tells nothing: HDF5 files, a Python or custom layer without bottoms."""

    tells_arrays = False

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Any]:
        """Return None for each top."""
        return [None] * len(layer.top)


@layer_type("HDF5Data")
class HDF5Data(OutsideData):
    """Arrays from HDF5 files; only the files tell their shapes."""

    tells_arrays = True

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Any]:
        """Return None for each top."""
        if layer.HasField("transform_param"):
            raise LayerError("takes no transform_param: its arrays are fed as they are")
        return super().infer(layer, bottoms)
