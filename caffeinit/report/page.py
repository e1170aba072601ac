"""The frame that all pages have: one file without a reference to any other, for light and dark and for phones.

A content security policy in the page itself forbids it to load or run anything; the one script that an index may bring is
named there by its digest.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.metadata
import importlib.resources

from caffeinit.report.markup import Markup, join, tag

# What a file begins with that may be replaced by the next page of its kind.
DOCTYPE = "<!doctype html>\n"


@functools.cache
def resource(name: str) -> str:
    """Return the text of a file of this package."""
    return (importlib.resources.files("caffeinit.report") / name).read_text(encoding="utf-8")


def version() -> str:
    """Return this package's version."""
    return importlib.metadata.version("caffeinit")


def page(title: str, heading: Markup, *body: Markup, script: str = "", kind: str = "report") -> str:
    """Return a whole page.

    Args:
        heading: what stands on top.
        script: runs at the end of the page; the page must say the same without it.
        kind: word for what this is, in the page's head.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=generator(kind)),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(resource("page.css"))),
    )
    foot = tag("footer", f"caffeinit {version()}")
    content = [tag("header", heading), "\n", tag("main", *(join(part, "\n") for part in body)), "\n", foot]
    if script:
        content.append(tag("script", Markup(script)))
    return DOCTYPE + tag("html", head, "\n", tag("body", *content), lang="en") + "\n"


def generator(kind: str) -> str:
    """Return what the head of a page names as its maker."""
    return f"caffeinit {kind}"


def scroll(label: str, *content: Markup, tall: bool = False, kind: str = "") -> Markup:
    """Return a box that scrolls by itself when its content is wider than the page."""
    names = " ".join(["scroll", *(["tall"] if tall else []), *([kind] if kind else [])])
    return tag("div", *content, class_=names, tabindex="0", role="region", aria_label=label)


def table(headings: list[list[Markup]], rows: list[Markup], caption: str, kind: str | None = None) -> Markup:
    """Return a table in a box of its own.

    Args:
        headings: rows of heading cells. rows: the rest, row by row.
        kind: what page.css calls tables that it lays out in a way of their own.
    """
    head = tag("thead", *(tag("tr", *cells) for cells in headings))
    return scroll(caption, tag("table", head, "\n", tag("tbody", *rows), class_=kind))


def facts(pairs: list[tuple[str, object]]) -> Markup:
    """Return a list of terms and what they are."""
    return tag("dl", *(join(tag("dt", term), tag("dd", said)) for term, said in pairs))
