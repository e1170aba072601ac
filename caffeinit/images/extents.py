"""How large pictures are, where all of them are alike: a net that states no size takes them as they come, as Caffe does.

The size of Caffe's Data layer is that of the first record, and its ImageData layer's that of the first file. A single
picture tells too little here, for those at hand may be any: all that are looked at have to have one size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caffeinit.errors import ImagesError
from caffeinit.images.arrays import Source
from caffeinit.images.batches import spread
from caffeinit.images.sources import open_sources

LOOKED_AT = 160  # rows, evenly spread; only headers are read
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Extent:
    """What is known of an input's (C, H, W).

    Attributes:
        shape: None where it is not to be told.
        words: where the shape is from, or why there is none.
    """

    shape: Shape | None
    words: str


# Asked with inputs that are as large as pictures -> their channels, 0 if open; those that may take any; and all inputs.
Teller = Callable[[Mapping[str, int], Sequence[str], Sequence[str]], Mapping[str, Extent]]


def extents(wanted: Mapping[str, int], takers: Sequence[str], sources: Mapping[str | None, Any]) -> dict[str, Extent]:
    """Return what pictures tell of the inputs that they are for.

    Args:
        wanted: input -> channels that the net states, 0 for none.
        takers: inputs that may take pictures. What stands under None is for the one of them that is left over.
        sources: input -> sources, as `read_images` takes them.
    Raises:
        ImagesError: what is named is not there.
    """
    left = [name for name in takers if name not in sources]
    found = {}
    for name, channels in wanted.items():
        given = sources.get(name) or (sources.get(None) if left == [name] else None)
        if given is not None:
            found[name] = common_extent(open_sources(given, name), channels)
    return found


def common_extent(source: Source, channels: int = 0) -> Extent:
    """Return the (C, H, W) of a source's rows, if it is the same for all.

    Of more than `LOOKED_AT` rows an evenly spread part is looked at; what cannot be read is passed over. Grey pictures
    among those in colour count as in colour.

    Args:
        channels: what the net asks for, 0 where it does not tell.
    """
    rows = spread(len(source), LOOKED_AT)
    seen: dict[tuple[int, int], str] = {}
    depths = set()
    for index in rows:
        try:
            depth, *size = source.shape(index, channels)
        except ImagesError:
            continue  # whoever reads the pictures names it
        seen.setdefault((size[0], size[1]), source.name(index))
        depths.add(depth)
    if not seen:
        return Extent(None, "none of the pictures can be read")
    if len(seen) > 1:
        one, other = ((f"{h} x {w}", name) for (h, w), name in list(seen.items())[:2])
        return Extent(None, f"the pictures have different sizes: {one[0]} ({one[1]}), {other[0]} ({other[1]})")
    if not channels and len(depths) > 1 and depths != {1, 3}:
        return Extent(None, f"the pictures have different numbers of channels: {', '.join(map(str, sorted(depths)))}")
    height, width = next(iter(seen))
    all_of_them = "which all have" if len(rows) == len(source) else f"of which the {len(rows)} looked at have"
    return Extent((channels or max(depths), height, width), f"taken from the pictures, {all_of_them} that size")
