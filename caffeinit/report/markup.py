"""HTML and SVG built from calls, so that no name out of a file can become markup.

What is text is escaped where it enters, control characters and direction marks shown as escapes; only what these
functions made themselves passes as it is.
"""

from __future__ import annotations

import html
from typing import Any

from caffeinit.printing import printable_lines

_VOID = {"meta", "link", "img", "br", "wbr", "path", "rect", "circle", "line", "use", "polygon"}


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def escaped(text: object) -> Markup:
    """Return a text as markup that shows it."""
    return text if isinstance(text, Markup) else Markup(html.escape(printable_lines(text)))


def join(*parts: object) -> Markup:
    """Return parts one after another; None counts as nothing."""
    return Markup("".join(escaped(p) for p in parts if p is not None))


def tag(name: str, /, *content: object, **attributes: Any) -> Markup:
    """Return an element.

    Args:
        content: texts, which are escaped, and markup; None counts as nothing.
        attributes: an _ at the end of a name is left out, others become -; None and False leave one out, True has no value.
    """
    shown = "".join(
        _attribute(key, value) for key, value in attributes.items() if value is not None and value is not False
    )
    if name in _VOID and not content:
        return Markup(f"<{name}{shown}/>")
    return Markup(f"<{name}{shown}>{join(*content)}</{name}>")


def _attribute(key: str, value: object) -> str:
    key = key.rstrip("_").replace("_", "-")
    return f" {key}" if value is True else f' {key}="{escaped(value)}"'
