"""Options that name layers by patterns, and how these are drawn: looked at when they are typed, before any work."""

from __future__ import annotations

from collections.abc import Sequence

import click

from caffeinit.errors import OptionError


def patterns(text: str | None) -> list[str] | None:
    """Return the patterns in a comma-separated list; None where there is none."""
    return [p.strip() for p in text.split(",") if p.strip()] if text is not None else None


def named_layers(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    """Return an option's list of patterns as it is, or end with wrong usage where it names none.

    An empty one comes from a shell variable that is not set, and all layers, or none, are hardly what was meant.
    """
    if text is not None and not patterns(text):
        raise click.BadParameter(f'"{text}" names no layer; leave the option out if it is not meant.')
    return text


def parse_methods(given: Sequence[str]) -> str | dict[str, str]:
    """Return one method for all layers, or pattern -> method.

    Raises:
        click.BadParameter: a pattern is empty, or has two methods.
    """
    methods: dict[str, str] = {}
    for text in given:
        pattern, separator, method = text.rpartition("=")
        if separator and not pattern:
            raise click.BadParameter(f'"{text}" names no layers before the "="', param_hint="--method")
        earlier = methods.pop(pattern or "*", method)  # the last place counts
        if earlier != method:
            raise click.BadParameter(
                f"{earlier} and {method} are asked for the same layers ({pattern or 'all'})", param_hint="--method"
            )
        methods[pattern or "*"] = method
    return methods or "gaussian"


def known_methods(context: click.Context, option: click.Parameter, given: Sequence[str]) -> Sequence[str]:
    """Return what --method was given as it is, or end with wrong usage where that makes no sense."""
    if given:
        from caffeinit.draw import find_method

        methods = parse_methods(given)
        try:
            for name in [methods] if isinstance(methods, str) else methods.values():
                find_method(name)
        except OptionError as error:
            raise click.UsageError(str(error)) from None
    return given
