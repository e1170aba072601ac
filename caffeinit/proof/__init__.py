"""Proof on pictures that two nets, or one before and after a change, are the same function."""
