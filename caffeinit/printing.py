"""Names from anywhere as text that a terminal only shows.

Layer names, file names and damaged files' bytes end up in messages and tables. An escape sequence among them could move
the cursor, recolour or retitle the reader's terminal, or make one text look like another.
"""

from __future__ import annotations


def printable(name: object) -> str:
    """Return a name with control characters, direction marks and undecodable bytes spelt as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def printable_lines(text: object) -> str:
    """Return a text of several lines with all but its line ends and tabs as `printable` gives them."""
    return "".join(c if c in "\n\t" else printable(c) for c in str(text))
