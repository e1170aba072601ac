"""Options that several verbs share, and what they mean. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import glob
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from caffeinit.cli.naming_options import known_methods, named_layers
from caffeinit.errors import OptionError

if TYPE_CHECKING:
    from caffeinit.images import Calibration
    from caffeinit.images.extents import Extent, Teller
    from caffeinit.model.network import Network

IN_BATCH = "caffeinit.in_batch"  # key of a context's meta: the command is run for one of many models

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Finite(click.types.FloatParamType):
    """A number that is neither NaN nor infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or end with wrong usage."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


_NET = [
    click.option(
        "--phase",
        type=click.Choice(["TEST", "TRAIN"], case_sensitive=False),
        default="TEST",
        show_default=True,
        help="phase.",
    ),
    click.option("--level", type=int, default=0, help="level that include rules are held against."),
    click.option("--stage", "stages", multiple=True, metavar="NAME", help="stage that include rules ask for; repeat."),
    click.option(
        "--input-shape",
        "input_shapes",
        multiple=True,
        metavar="BLOB=C,H,W",
        help="shape of an input, with or without the batch size; repeat for several inputs.",
    ),
    click.option("--strict", is_flag=True, help="refuse what would be left out, such as layers that cannot run."),
]
_IMAGES = [
    click.option(
        "--images",
        "sources",
        multiple=True,
        required=True,
        metavar="[BLOB=]SOURCE",
        help="folder, file, glob, list file, .npy/.npz, idx, LMDB or HDF5; repeat for several inputs.",
    ),
    click.option("--num-images", type=click.IntRange(min=1), default=160, show_default=True, help="pictures to use."),
    click.option(
        "--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="pictures in a batch."
    ),
    click.option("--mean", metavar="V[,V...]", help="value to take off, one or one per channel in the net's order."),
    click.option("--mean-file", type=click.Path(), help="mean picture (.binaryproto or .npy) to take off."),
    click.option("--scale", type=Finite(), help="factor after the mean is taken off."),
    click.option("--crop", type=click.IntRange(min=0), help="crop from the middle, pixels; 0 for none."),
    click.option(
        "--resize",
        metavar="MODE[:HxW]",
        help="how pictures get the net's size: warp (default), short (side to the size, middle cut out) or none; "
        "warp:256x256 resizes to that and cuts the middle out.",
    ),
    click.option(
        "--draft",
        is_flag=True,
        help="decode JPEGs of 2 megapixels or more at 1/2 to 1/8 where the net's size is far smaller: fast, not exact.",
    ),
    click.option(
        "--channels",
        type=click.Choice(["bgr", "rgb", "gray"], case_sensitive=False),
        help="channel order; bgr by default, also for ONNX models.",
    ),
]
_RUN = [
    click.option("--threads", type=click.IntRange(min=0), default=0, help="threads; 0 for one a core."),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        metavar="auto|cpu|cuda[:N]",
        help="what runs the net; auto is the first GPU that onnxruntime can use, else the CPU.",
    ),
    click.option("--allow-tf32", is_flag=True, help="let a GPU round factors to 10 bits where that is faster."),
    click.option("--quiet", is_flag=True, help="no progress and no table."),
    click.option(
        "--json", "json_file", type=click.Path(dir_okay=False), help="write the result as JSON here; - is stdout."
    ),
]
_MEMORY = [
    click.option(
        "--memory-limit",
        metavar="SIZE",
        help="keep below this size of memory, such as 2G or 500M, by putting values into a temporary file.",
    ),
    click.option(
        "--temp-dir",
        type=click.Path(exists=True, file_okay=False),
        help="folder for that file; default: the system's, as TMPDIR says.",
    ),
]
_WRITE = [
    click.option("--force", is_flag=True, help="replace an output that exists."),
    click.option("--dry-run", is_flag=True, help="do everything but write; only --json is written."),
    click.option("--filters", type=click.Path(dir_okay=False), help="draw the first layer's filters to this PNG file."),
    click.option(
        "--report",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="write a page with pictures to this HTML file.",
    ),
    click.option(
        "--layers",
        metavar="PATTERN[,...]",
        callback=named_layers,
        help="only these layers; shell patterns, each of which must match.",
    ),
    click.option(
        "--beta", type=Finite(), help="mean that init and --mode normalize give channels, in deviations; default: 0.1."
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="of all that is random."),
    click.option(
        "--method",
        "methods",
        multiple=True,
        metavar="[PATTERN=]METHOD",
        callback=known_methods,
        help="how init and --mode normalize draw weights: gaussian (default), orthonormal, patches, pca, zca, kmeans, "
        "filler, xavier, msra, orthogonal, random-walk; for the layers that a pattern matches, or for all others. Of "
        "several patterns that match a layer the last counts.",
    ),
]


def _all(options: Sequence[Decorator]) -> Decorator:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


net_options = _all(_NET)
image_options = _all(_IMAGES)
run_options = _all(_RUN)
bounded_options = _all(_MEMORY)
rate_options = _all(
    [
        click.option("--no-balance", is_flag=True, help="leave the rates of the layers as they come."),
        click.option(
            "--per-channel-rates", is_flag=True, help="one rate for the columns of a layer, not one deviation."
        ),
        click.option(
            "--rate-batches",
            type=click.IntRange(min=1),
            help="batches that rates are measured on. By default as many as have 16 pictures.",
        ),
    ]
)
write_options = _all(_WRITE)


def parse_shapes(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return blob -> shape from BLOB=C,H,W texts."""
    shapes = {}
    for text in given:
        name, _, dims = text.rpartition("=")
        try:
            shape = tuple(int(d) for d in dims.replace("x", ",").split(","))
        except ValueError:
            shape = ()
        if not name or not shape or min(shape) < 1:
            raise click.BadParameter(f'"{text}" is not BLOB=C,H,W with numbers from 1', param_hint="--input-shape")
        shapes[name] = shape
    return shapes


def parse_resize(text: str | None) -> dict[str, Any]:
    """Return the `resize` and `resize_to` of Preprocessing from MODE, MODE:SIZE or MODE:HxW."""
    if text is None:
        return {}
    mode, separator, size = text.partition(":")
    sides = [int(s) if s.isdecimal() and len(s) < 6 else 0 for s in size.split("x")]
    if mode not in ("warp", "short", "none") or (separator and (mode == "none" or len(sides) > 2 or min(sides) < 1)):
        raise click.BadParameter(
            f'"{text}" is not warp, short or none, nor a size such as warp:256 or warp:256x320 (height x width)',
            param_hint="--resize",
        )
    return {"resize": mode, "resize_to": (sides[0], sides[-1]) if separator else None}


def parse_sources(given: Sequence[str], inputs: Sequence[str]) -> dict[str | None, list[str]]:
    """Return input -> sources; what has no input's name before it stands under None."""
    sources: dict[str | None, list[str]] = {}
    for text in given:
        name, separator, rest = text.partition("=")
        key = name if separator and name in inputs and not os.path.exists(text) else None
        if separator and key is None and name.isidentifier() and not glob.has_magic(text) and not os.path.exists(text):
            raise click.BadParameter(
                f'"{text}": there is no input "{name}"; inputs: {", ".join(inputs)}', param_hint="--images"
            )
        sources.setdefault(key, []).append(rest if key is not None else text)
    return sources


def check_weights(net: str, weights: str | None) -> None:
    """End with wrong usage where a Caffe net comes without weights, or an ONNX model with some."""
    from caffeinit.storage.files import is_onnx

    if weights is None and not is_onnx(net):
        raise click.UsageError("Missing argument 'WEIGHTS': a net needs a file of weights (an ONNX model does not).")
    if weights is not None and is_onnx(net):
        raise click.UsageError(f"{net} is an ONNX model, which holds its weights: no WEIGHTS go with it.")


def parse_memory(text: str) -> int:
    """Return bytes from a text such as 512M or 4G.

    Raises:
        OptionError: it is none.
    """
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in units else (text, "")
    try:
        size = float(number)
    except ValueError:
        size = 0
    if not 0 < size < 1e15:
        raise OptionError(f'"{text}" is no size of memory: 512M or 4G are')
    return int(size * 2 ** units.get(unit, 0))


def memory_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return what a job takes of --memory-limit and --temp-dir, taken out of `options`."""
    limit, folder = options.pop("memory_limit"), options.pop("temp_dir")
    return {"memory_limit": None if limit is None else parse_memory(limit), "temp_dir": folder}


def loading_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return what `load_network` takes, for verbs that call it twice; what only it takes is taken out of `options`."""
    own = ("phase", "level", "stages", "input_shapes", "threads", "device", "allow_tf32")
    return {key: options.pop(key) for key in own} | {"strict": options["strict"]} | _telling(options)


def check_runs(network: Network, net: str, weights: str) -> None:
    """Refuse one of several weights files with which no layer that has weights can run, by its name.

    Raises:
        WeightsError: it is so.
    """
    from caffeinit.errors import WeightsError
    from caffeinit.model.network import listed

    if network.skipped and not network.units:
        raise WeightsError(
            f"{weights}: no layer of {net} that has weights can run with these:{listed(network.skipped)}\n"
            "Two files of weights can only be laid side by side on pictures of one size, which has to fit both."
        )


def _telling(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in ("sources", "mean_file", "crop", "resize") if key in options}


def load_network(net: str, weights: str | None, options: dict[str, Any]) -> Network:
    """Load the net that a verb was given, with its shared options taken out of `options`."""
    import caffeinit

    network = caffeinit.load(
        net,
        weights,
        phase=options.pop("phase"),
        level=options.pop("level"),
        stages=options.pop("stages"),
        input_shapes=parse_shapes(options.pop("input_shapes")),
        strict=options["strict"],
        device=options.pop("device", "cpu"),
        allow_tf32=options.pop("allow_tf32", False),
        tell=_teller(**_telling(options)) if "sources" in options else None,
    )
    network.settings = replace(network.settings, threads=options.pop("threads"))
    return network


def _teller(sources: Sequence[str], mean_file: str | None, crop: int | None, resize: str | None) -> Teller:
    """Return what tells how large an input is from the pictures, and the options, that are given for it."""

    def tell(wanted: Mapping[str, int], takers: Sequence[str], inputs: Sequence[str]) -> Mapping[str, Extent]:
        from caffeinit.images.extents import Extent, extents
        from caffeinit.images.means import read_mean

        if crop or parse_resize(resize).get("resize_to"):
            return {}  # what the net is fed has another size than the pictures have
        if mean_file is None:
            return extents(wanted, takers, parse_sources(sources, inputs))
        shape = read_mean(mean_file).shape
        return {name: Extent(shape, f"taken from the mean {mean_file}") for name in wanted}

    return tell


def read_pictures(network: Network, options: dict[str, Any], labels: bool = False) -> Calibration:
    """Read the calibration pictures, with their options taken out of `options`; see `read_calibration` for `labels`."""
    import caffeinit

    mean = options.pop("mean")
    values = None
    if mean is not None:
        try:
            values = [float(v) for v in mean.split(",")]
            if not all(map(math.isfinite, values)):
                raise ValueError
        except ValueError:
            raise click.BadParameter(f'"{mean}" is not one or more numbers', param_hint="--mean") from None
    return caffeinit.read_images(
        network,
        parse_sources(options.pop("sources"), list(network.inputs)),
        num_images=options.pop("num_images"),
        batch_size=options.pop("batch_size"),
        strict=options.pop("strict"),
        threads=network.settings.threads or None,
        mean=values,
        mean_file=options.pop("mean_file"),
        scale=options.pop("scale"),
        crop=options.pop("crop"),
        **parse_resize(options.pop("resize")),
        draft=options.pop("draft") or None,
        channels=options.pop("channels"),
        labels=labels,
    )


def write_json(path: str | None, data: dict[str, Any], force: bool = False) -> None:
    """Write a result as JSON to a file or, for "-", to stdout."""
    from caffeinit.cli.terminal import write_out
    from caffeinit.storage.files import replacing

    if path is None:
        return
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    if path == "-":
        write_out(text)
        return
    with replacing(path, force) as temporary:
        temporary.write_text(text)
