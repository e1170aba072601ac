"""What Python callers give: another type than is asked for is a TypeError that names the argument."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_type(name: str, given: Any, wanted: type | tuple[type, ...], what: str) -> None:
    """Refuse an argument of another type.

    Args:
        what: what is to be given, in words.
    Raises:
        TypeError: it is of none of the types that are wanted.
    """
    if not isinstance(given, wanted):
        raise TypeError(f"{name} is {type(given).__name__}: give {what}")


def check_mapping(name: str, given: Any, what: str) -> None:
    """Refuse an argument that is no mapping; see `check_type`."""
    check_type(name, given, Mapping, what)
