"""Names of layers that options give as shell patterns."""

from __future__ import annotations

from fnmatch import fnmatchcase


def matches(name: str, pattern: str) -> bool:
    """Tell whether a name matches a pattern; a name that holds signs of patterns itself matches itself, too."""
    return name == pattern or fnmatchcase(name, pattern)
