"""Lines for the terminal. All that the verbs print without a table goes through here."""

from __future__ import annotations

import click

from caffeinit.printing import printable_lines


def say(text: str, err: bool = False) -> None:
    """Print lines to stdout, or stderr, with control characters in them spelt as escapes."""
    click.echo(printable_lines(text), err=err)
