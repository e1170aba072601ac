"""matplotlib figures as inline SVG: text stays text, colours are the page's, the same figure gives the same bytes.

Figures are drawn in stand-in colours, which become the page's variables afterwards, so that one picture fits light and
dark. No pyplot, no window system; a user's matplotlibrc does not count.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from caffeinit.report.markup import Markup, join, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, GRID, FIRST, SECOND = "#010203", "#010204", "#010205", "#010206", "#010207"
_COLOURS = {
    INK: "currentColor",
    SOFT: "var(--soft)",
    GRID: "var(--line)",
    FIRST: "var(--before)",
    SECOND: "var(--after)",
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "caffeinit",
    "font.size": 9.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.linewidth": 0.8,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.unicode_minus": False,
    "xtick.color": GRID,
    "xtick.labelcolor": SOFT,
    "ytick.color": GRID,
    "ytick.labelcolor": INK,
    "xtick.minor.visible": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
}
_SHORT_NUMBER = re.compile(r"-?\d+\.\d{3,}")


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Hold matplotlib to our style within a block, whatever the user's settings are."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)  # type: ignore[arg-type]
        # Names may have letters that matplotlib's font lacks; the browser has fonts of its own.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def inline(figure: Figure, name: str, title: str, description: str) -> Markup:
    """Return a figure as an SVG element with a text alternative.

    Args:
        name: unique in the page.
        title: what the picture shows. description: what is to be seen in it.
    """
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(text.getvalue())
    referenced = {v[1:] for e in root.iter() for k, v in e.attrib.items() if k.endswith("href") and v.startswith("#")}
    referenced |= {m for e in root.iter() for v in e.attrib.values() for m in re.findall(r"url\(#([^)]+)\)", v)}
    inside = [_plain(child, name, referenced) for child in root]
    return image(name, root.attrib["viewBox"], title, description, *inside)


def image(name: str, view: str, title: str, description: str, *content: Markup | None, **attributes: object) -> Markup:
    """Return an SVG element that tells its content to those who do not see it."""
    told = join(tag("title", title, id=f"{name}-t"), tag("desc", description, id=f"{name}-d"))
    labels = f"{name}-t {name}-d"
    return tag("svg", told, *content, viewBox=view, role="img", aria_labelledby=labels, **attributes)


def _plain(element: ElementTree.Element, name: str, referenced: set[str]) -> Markup | None:
    """Return an element of matplotlib's as part of this page: no namespaces, no style for all, no numbers too long."""
    kind = element.tag.rpartition("}")[2]
    if kind in ("metadata", "style"):
        return None
    attributes = {}
    for key, value in element.attrib.items():
        key = key.rpartition("}")[2]
        if key == "id":
            if value in referenced:
                attributes[key] = f"{name}-{value}"
            continue
        attributes[key] = _value(key, value, name)
    children = [c for c in (_plain(child, name, referenced) for child in element) if c is not None]
    words = element.text if kind == "text" or kind == "tspan" else None
    if not children and not words and kind in ("g", "defs"):
        return None
    made = tag(kind, words, *children)
    shown = join(*(Markup(f' {k}="{Markup(v)}"') for k, v in attributes.items()))
    return Markup(made.replace(f"<{kind}", f"<{kind}{shown}", 1))


def _value(key: str, value: str, name: str) -> Markup:
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    if key == "href":
        value = value.replace("#", f"#{name}-", 1)
    if key in ("d", "x", "y", "transform"):
        value = " ".join(_SHORT_NUMBER.sub(lambda m: f"{float(m[0]):.2f}", value).split())
    for stand_in, colour in _COLOURS.items():
        value = value.replace(stand_in, colour)
    return Markup(value.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;"))


def log_axis(axes: Axes, low: float, high: float, most: int = 6) -> None:
    """Make x a log axis over a range, with few round ticks spelt as plain numbers.

    Args:
        low, high: above 0, of the data.
        most: ticks.
    """
    if high / low < 4:
        middle = math.sqrt(low) * math.sqrt(high)
        low, high = middle / 2, middle * 2
    low, high = low / 1.25, high * 1.25
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = log_ticks(low, high, most)
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xticks([], minor=True)


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Return round numbers between two numbers above 0, a few: 1, 2, 5 of each decade, or whole decades."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [float(f"{d}e{e}") for e in decades for d in digits]
        found = [t for t in found if low <= t <= high]
        if len(found) <= most:
            return found
    step = math.ceil(len(found) / most)
    return found[::step]
