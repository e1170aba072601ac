"""Arithmetic on arrays: in blocks that stay in the cache, among threads, with no copy of the whole."""
