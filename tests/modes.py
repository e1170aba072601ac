"""The ways of rescaling that keep the function, by name."""

from __future__ import annotations

EXACT = "powers of two"


def options_of(mode: str) -> dict:
    """Return the options of `caffeinit.rescale` for a mode, or for one that moves no bit of the outputs."""
    return {"mode": "equalize", "powers_of_two": True} if mode == EXACT else {"mode": mode}
