"""What layers with sliding windows have in common: kernel, stride, pad and dilation per axis, and output sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from caffeinit.errors import LayerError


@dataclass(frozen=True)
class Windows:
    """A window per spatial axis; pads in front (`pads`) and behind (`ends`) may differ in some forks."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[int, ...]
    ends: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """What a window spans, holes included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def onnx_pads(self) -> list[int]:
        """Pads in ONNX's order: all begins, then all ends."""
        return [*self.pads, *self.ends]


def per_axis(param: Any, name: str, stem: str, axes: int, default: int | None) -> tuple[int, ...]:
    """Return a window parameter for each spatial axis, from `name` or from stem_h and stem_w.

    Raises:
        LayerError: it is not given, or for another number of axes.
    """
    height, width = f"{stem}_h", f"{stem}_w"
    given = getattr(param, name)
    values = list(given) if not isinstance(given, int) else [given] if param.HasField(name) else []
    if any(param.DESCRIPTOR.fields_by_name.get(n) and param.HasField(n) for n in (height, width)):
        if values and stem != "pad":
            raise LayerError(f"gives both {name} and {height}/{width}")
        if axes != 2:
            raise LayerError(f"{height} and {width} are for two spatial axes, the bottom has {axes}")
        fallback = values[0] if values else (default if default is not None else 0)
        return tuple(int(getattr(param, n)) if param.HasField(n) else fallback for n in (height, width))
    if not values:
        if default is None:
            raise LayerError(f"{name} is not given")
        values = [default]
    if len(values) not in (1, axes):
        raise LayerError(f"{name} is given {len(values)} times for {axes} spatial axes")
    return tuple(int(v) for v in values * (axes if len(values) == 1 else 1))


def side_pads(param: Any, pads: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return pads in front and behind, with the forks' pad_t, pad_l, pad_b, pad_r where they are given."""
    names = ("pad_t", "pad_l", "pad_b", "pad_r")
    if len(pads) != 2 or not any(param.HasField(n) for n in names):
        return pads, pads
    top, left, bottom, right = (
        int(getattr(param, n)) if param.HasField(n) else pads[i % 2] for i, n in enumerate(names)
    )
    return (top, left), (bottom, right)


def check_positive(windows: Windows) -> None:
    """Raise LayerError where a window has no extent or does not move."""
    for name, values in (("kernel", windows.kernel), ("stride", windows.stride), ("dilation", windows.dilation)):
        if min(values, default=1) < 1:
            raise LayerError(f"{name} is {values}, must be at least 1")
