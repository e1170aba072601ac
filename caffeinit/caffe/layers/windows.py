"""What layers with sliding windows have in common: kernel, stride, pad and dilation per axis, and output sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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


def per_axis(
    param: Any, name: str, stem: str, axes: int, default: int | None, side: int | None = None
) -> tuple[int, ...]:
    """Return a window parameter for each spatial axis, from `name` or from stem_h and stem_w.

    Args:
        default: of all, where nothing is given; None if something must be.
        side: of stem_h where only stem_w is given, and the other way round; None if both must be.
    Raises:
        LayerError: it is not given, in both ways, or for another number of axes.
    """
    given = getattr(param, name)
    values = list(given) if not isinstance(given, int) else [given] if param.HasField(name) else []
    sides = [n for n in (f"{stem}_h", f"{stem}_w") if n in param.DESCRIPTOR.fields_by_name]
    stated = [n for n in sides if param.HasField(n)]
    if stated:
        if values:
            raise LayerError(f"gives both {name} and {'/'.join(stated)}")
        if axes != 2:
            raise LayerError(f"{' and '.join(sides)} are for two spatial axes, the bottom has {axes}")
        if len(stated) == 1 and side is None:
            raise LayerError(f"gives {stated[0]} alone; {' and '.join(sides)} go together")
        return tuple(int(getattr(param, n)) if n in stated else int(side or 0) for n in sides)
    if not values and axes:
        if default is None:
            raise LayerError(f"{name} is not given")
        values = [default]
    if values and len(values) not in (1, axes):
        raise LayerError(f"{name} is given {len(values)} times for {axes} spatial axes")
    return tuple(int(v) for v in values * (axes if len(values) == 1 else 1))


def side_pads(param: Any, pads: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return pads in front and behind, with the forks' pad_t, pad_l, pad_b, pad_r where they are given."""
    names = ("pad_t", "pad_l", "pad_b", "pad_r")
    if not any(param.HasField(n) for n in names):
        return pads, pads
    if len(pads) != 2:
        raise LayerError(f"{', '.join(names)} are for two spatial axes, the bottom has {len(pads)}")
    top, left, bottom, right = (
        int(getattr(param, n)) if param.HasField(n) else pads[i % 2] for i, n in enumerate(names)
    )
    return (top, left), (bottom, right)


def reaching(windows: Windows, size: Sequence[int]) -> Windows:
    """Return the windows with as much more padding behind as the first of them needs, where it needs any.

    Caffe divides what is left beside one window by the stride, and rounds towards 0: a window that is too large by less
    than the stride is placed once, and what it sees beyond the far edge is 0.
    """
    spans = zip(size, windows.pads, windows.ends, windows.extent, windows.stride, strict=True)
    lacking = [extent - (s + a + b) for s, a, b, extent, _ in spans]
    more = [gap if 0 < gap < step else 0 for gap, step in zip(lacking, windows.stride, strict=True)]
    return replace(windows, ends=tuple(b + gap for b, gap in zip(windows.ends, more, strict=True)))


def check_positive(windows: Windows) -> None:
    """Raise LayerError where a window has no extent or does not move."""
    for name, values in (("kernel", windows.kernel), ("stride", windows.stride), ("dilation", windows.dilation)):
        if min(values, default=1) < 1:
            raise LayerError(f"{name} is {values}, must be at least 1")
