"""A verb's command: says what words too many were probably meant to be, and what options the given net has no use for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from caffeinit.cli.common import IN_BATCH

_CAFFE_ONLY = ("phase", "level", "stages")
# Options, what makes them useless, told from all that was typed, and the words for that.
_USELESS: list[tuple[str, Callable[[Mapping[str, Any]], bool], str]] = [
    ("temp_dir", lambda given: given["memory_limit"] is None, "is for --memory-limit: without that no file is needed"),
    ("allow_tf32", lambda given: given["device"] == "cpu", "is for GPUs, and --device cpu takes none"),
    (
        "draft",
        lambda given: (given["resize"] or "").strip() == "none",
        "decodes pictures at less than their size, which --resize none is to leave",
    ),
    (
        "channels",
        lambda given: "sources" not in given and given["filters"] is None,
        "is for --filters: without pictures nothing else has colours",
    ),
    (
        "seed",
        lambda given: given.get("mode", "normalize") != "normalize",
        "is for drawing weights, which --mode normalize can do: modes that keep the function draw none",
    ),
    ("seed", lambda given: given["rate_batches"] == 0, "is for the noise of rates, which --rate-batches 0 leaves out"),
]


class Verb(click.Command):
    """A command that tells a pattern that the shell has expanded from other words that are too many.

    Options that only Caffe nets have a use for are refused with an ONNX model, and so are those that another option makes
    useless; but not in a batch, whose options are for all models, and to which its settings add others.

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

        if IN_BATCH not in ctx.meta and "net" in ctx.params:
            self._refuse_useless(ctx, is_onnx(ctx.params["net"]))
        return super().invoke(ctx)

    def _refuse_useless(self, ctx: click.Context, is_onnx: bool) -> None:
        for option in self.params:
            name = option.name or ""
            if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
                continue
            if is_onnx and name in _CAFFE_ONLY:
                ctx.fail(f"{option.opts[0]} is for Caffe nets: in an ONNX model all that there is takes part.")
            for useless, is_useless, why in _USELESS:
                if useless == name and is_useless(ctx.params):
                    ctx.fail(f"{option.opts[0]} {why}.")

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
