"""A verb's command: says what words too many were probably meant to be, and what options the given net has no use for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from caffeinit.cli.common import IN_BATCH

_CAFFE_ONLY = ("phase", "level", "stages")


class Verb(click.Command):
    """A command that tells a pattern that the shell has expanded from other words that are too many.

    Options that only Caffe nets have a use for are refused with an ONNX model, but in a batch, whose options are for all.

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

    def invoke(self, ctx: click.Context) -> Any:
        """Run, unless an option is given that is of no use."""
        from caffeinit.storage.files import is_onnx

        if IN_BATCH not in ctx.meta and is_onnx(ctx.params.get("net") or ""):
            self._refuse_caffe_options(ctx)
        return super().invoke(ctx)

    def _refuse_caffe_options(self, ctx: click.Context) -> None:
        for option in self.params:
            is_typed = option.name and ctx.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
            if is_typed and option.name in _CAFFE_ONLY:
                ctx.fail(f"{option.opts[0]} is for Caffe nets: in an ONNX model all that there is takes part.")

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
