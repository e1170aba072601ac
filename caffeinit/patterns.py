"""Names that options and callers give, of layers as shell patterns."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

from caffeinit.errors import UnmatchedError


def matches(name: str, pattern: str) -> bool:
    """Tell whether a name matches a pattern; a name that holds signs of patterns itself matches itself, too."""
    return name == pattern or fnmatchcase(name, pattern)


def check_matched(option: str, patterns: Iterable[str], names: Collection[str]) -> None:
    """Refuse patterns of an option that name no layer with weights: each is most likely misspelt.

    Raises:
        UnmatchedError: with a sentence for each.
    """
    if lost := unmatched(option, patterns, names, "layer with weights"):
        raise UnmatchedError("\n".join(lost))


def unmatched(option: str, patterns: Iterable[str], names: Collection[str], what: str) -> list[str]:
    """Return a sentence for each pattern of an option that matches none of the names, with those that are nearest.

    Args:
        what: what bears the names, in the singular.
    """
    return [
        f'{option}: no {what} matches "{pattern}"; {_nearest(pattern, names)}'
        for pattern in patterns
        if not any(matches(name, pattern) for name in names)
    ]


def _nearest(pattern: str, names: Collection[str]) -> str:
    """Return up to three names that are much like a pattern, or the first that there are."""
    near = difflib.get_close_matches(pattern.strip("*?"), names, cutoff=0.5)
    shown = ", ".join(f'"{name}"' for name in near or list(names)[:3])
    rest = len(names) - 3
    return f"nearest: {shown}" if near else f"there are: {shown}" + (f" and {rest} more" if rest > 0 else "")


def first_of(names: Sequence[str], most: int = 6) -> str:
    """Return the first of some names in a line, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def one_or_more(given: str | Iterable[str]) -> list[str]:
    """Return names or patterns as a list; a single text is one of them, and not one for each of its letters."""
    return [given] if isinstance(given, str) else list(given)
