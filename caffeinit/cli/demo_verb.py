"""caffeinit demo."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import click

from caffeinit.cli.terminal import say
from caffeinit.cli.verb import Verb


@click.command("demo", cls=Verb)
@click.argument("folder", type=click.Path(file_okay=False), default="caffeinit-demo")
@click.option("--force", is_flag=True, help="replace files of an earlier demo.")
def command(folder: str, force: bool) -> None:
    """Try it out: a small real net and real pictures, nothing needed.

    \b
    caffeinit demo
    caffeinit demo some/folder

    Writes nets and pictures into the folder (default caffeinit-demo), runs the verbs on them, and shows the commands.
    """
    from caffeinit.demo import write_demo

    place = Path(folder)
    digits, photos = write_demo(place, force)
    again = ["--force"] if force else []
    weights = {name: str(place / f"{name}.caffemodel") for name in ("badly_scaled", "normalized", "photos")}
    bad = ["--method", "filler", "--no-normalize"]
    normalize = ["--mode", "normalize"]
    images = ["--images", str(place / "digits"), "--scale", "0.0039"]
    steps = [
        (
            "Weights as the net's own fillers draw them: look at the column std.",
            ["init", str(digits), *images, *bad, "-o", weights["badly_scaled"], *again],
        ),
        (
            "The same weights, rescaled: one deviation for the channels of a unit, and one rate for all units.",
            ["rescale", str(digits), weights["badly_scaled"], *images, *normalize, "-o", weights["normalized"], *again],
        ),
        (
            "Weights drawn from pieces of photographs by k-means, then normalised.",
            [
                "init",
                str(photos),
                "--images",
                str(place / "photos"),
                "--method",
                "kmeans",
                "-o",
                weights["photos"],
                *again,
            ],
        ),
        (
            "Its first filters as a picture: edges and colours.",
            ["inspect", str(photos), weights["photos"], "--filters", str(place / "filters.png"), *again],
        ),
    ]
    called = _called_as()
    for text, arguments in steps:
        say(f"\n# {text}\n{called} {shlex.join(arguments)}")
        _run(arguments)
    say(f"\nAll of it lies in {shlex.quote(str(place))}; the commands above, with --force, do it again.")


def _called_as() -> str:
    """Return what is typed to call this program, so that the commands that are shown can be pasted."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return "python -m caffeinit"
    is_found = shutil.which("caffeinit") is not None or called.name != "caffeinit"
    return "caffeinit" if is_found else shlex.quote(sys.argv[0])


def _run(arguments: list[str]) -> None:
    """Run a verb in this process, as the command line would."""
    from caffeinit.cli import group

    group.main(arguments, standalone_mode=False)
