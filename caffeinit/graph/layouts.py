"""How inputs take pictures, by their axes."""

from __future__ import annotations

from collections.abc import Sequence

_CHANNELS = (1, 3, 4)  # of pictures


def is_channels_last(dims: Sequence[object]) -> bool:
    """Tell whether an input takes pictures as (N, H, W, C): its last axis is one of channels and the second is not."""
    return len(dims) == 4 and dims[3] in _CHANNELS and dims[1] not in _CHANNELS


def is_one_picture(dims: Sequence[object]) -> bool:
    """Tell whether an input takes a single picture, (3, H, W), without an axis for more."""
    return len(dims) == 3 and dims[0] == 3
