"""caffeinit upgrade."""

from __future__ import annotations

import click

from caffeinit.cli.terminal import say
from caffeinit.cli.verb import Verb


@click.command("upgrade", cls=Verb)
@click.argument("source", metavar="IN", type=click.Path())
@click.argument("target", metavar="OUT", type=click.Path())
@click.option("--drop-unknown", is_flag=True, help="leave out, and list, what has no place in today's form.")
@click.option("--force", is_flag=True, help="replace an output that exists.")
def command(source: str, target: str, drop_unknown: bool, force: bool) -> None:
    """Write a net or weights of 2013 or 2014 (V0, V1) in today's form (V2).

    \b
    caffeinit upgrade old.prototxt new.prototxt
    caffeinit upgrade old.caffemodel new.caffemodel

    IN is a net's text or a binary file; which one is seen from its content. Blobs are copied byte for byte.
    """
    from caffeinit.caffe.rewrite import is_text, upgrade_file
    from caffeinit.cli.targets import NET, WEIGHTS, check_ending

    check_ending("OUT", target, *(NET if is_text(source) else WEIGHTS))
    done = upgrade_file(source, target, drop_unknown, force)
    if done.copied:
        say(f"{source} is in today's form already; it was copied to {target}")
        return
    how = "input fields or parameters of an older habit" if done.generation == "V2" else done.generation
    say(f"wrote {target}: {done.form}, V2; was {how}")
    for line in done.dropped:
        say(f"left out: {line}", err=True)
