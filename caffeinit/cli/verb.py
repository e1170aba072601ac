"""A verb's command: says what words too many were probably meant to be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click


class Verb(click.Command):
    """A command that tells a pattern that the shell has expanded from other words that are too many.

    Args:
        surplus: what to do instead, where a verb takes no second file and a user may think that it does.
    """

    def __init__(self, *args: Any, surplus: str = "", **more: Any) -> None:
        super().__init__(*args, **more)
        self._surplus = surplus

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and refuse what is left over with what it looks like."""
        ctx.allow_extra_args = True
        left = super().parse_args(ctx, args)
        sources = ctx.params.get("sources") or ()
        weights = ctx.params.get("weights")
        if weights is not None and _is_picture(weights) and _goes_with(weights, sources):
            left = [weights, *left]
        if left:
            ctx.fail(f"{_counted(left)}. {self._advice(ctx, left, sources)}")
        return left

    def _advice(self, ctx: click.Context, left: Sequence[str], sources: Sequence[str]) -> str:
        expanded = next((s for s in sources for word in left if _goes_with(word, [s])), None)
        if expanded is not None:
            name, separator, path = expanded.rpartition("=")
            pattern = Path(path).with_name(f"*{Path(path).suffix}")
            return (
                "The shell has probably made several words of a pattern: put it in quotes, as in "
                f"--images {name}{separator}'{pattern}', or give the folder: --images {name}{separator}{pattern.parent}"
            )
        names = " ".join(p.make_metavar(ctx) for p in self.params if isinstance(p, click.Argument))
        return self._surplus or f"{self.name} takes {names}; a name with spaces has to be in quotes"


def _counted(left: Sequence[str]) -> str:
    shown = " ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
    return f"Got {len(left)} argument{'s' if len(left) > 1 else ''} too many: {shown}"


def _is_picture(word: str) -> bool:
    from caffeinit.images.files import PICTURE_SUFFIXES

    return Path(word).suffix.lower() in PICTURE_SUFFIXES


def _goes_with(word: str, sources: Sequence[str]) -> bool:
    """Tell whether a word may come from the same pattern as one of the sources."""
    path = Path(word)
    others = [Path(s.rpartition("=")[2]) for s in sources]
    if not path.suffix and path.parent == Path():
        return False
    return any(o.parent == path.parent and o.suffix.lower() == path.suffix.lower() for o in others)
