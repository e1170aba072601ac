"""The plots of a page: change rates and channel deviations per unit, and histograms of channel deviations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from caffeinit.printing import printable
from caffeinit.report.content import Content, drawable
from caffeinit.report.figures import FIRST, SECOND, SOFT, drawing, image, inline, log_axis, new_figure
from caffeinit.report.markup import Markup, join, tag
from caffeinit.report.showing import number, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 4.7  # inches, of what becomes about 450 pixels
_LONGEST_NAME = 22
_BINS = 28
# First and second set: hollow ring and full diamond, told apart without colour.
_MARKERS = (
    {"marker": "o", "markersize": 5, "markerfacecolor": "none", "markeredgewidth": 1.3},
    {"marker": "D", "markersize": 4.2},
)


def colours(content: Content) -> tuple[str, ...]:
    """Return the colour of each set."""
    return (SECOND,) if len(content.sets) == 1 else (FIRST, SECOND)


def rates_plots(content: Content) -> list[Markup]:
    """Return the rates of the units that have one, a row each, in pictures of so many rows that one can look at."""
    every = [content.rates(s) for s in _indices(content)]
    rows = [i for i in range(len(content.units)) if any(len(drawable([each[i]])) for each in every)]
    known = drawable([each[i] for each in every for i in rows])
    made = []
    for number_, part in enumerate(_parts(rows, 45)):
        with drawing():
            figure, axes = _rows([content.units[i].name for i in part], 0.19, "rate of change C (log axis)", known)
            for y, i in enumerate(part):
                pair = drawable([each[i] for each in every])
                if len(pair) == 2:
                    axes.plot(pair, [y, y], color=SOFT, linewidth=1, alpha=0.6, zorder=1)
            for index, each in enumerate(every):
                kept = [(each[i], y) for y, i in enumerate(part) if len(drawable([each[i]]))]
                _markers(axes, content, index, [v for v, _ in kept], [y for _, y in kept])
            told = "; ".join(_range_of(content, s, part) for s in _indices(content))
            title = "Rate of change of each unit, on a log axis"
            made.append(inline(figure, f"rates{number_}", title, told + "."))
    return made


def deviations_plots(content: Content) -> list[Markup]:
    """Return the deviations of each unit's channels: range, middle half and median; in pictures as for rates."""
    every = [content.drawn_deviations(s) for s in _indices(content)]
    rows = [i for i in range(len(content.units)) if any(len(drawable(each[i])) for each in every)]
    known = drawable(np.concatenate([np.zeros(0), *(each[i] for each in every for i in rows)]))
    step = 0.19 if len(every) == 1 else 0.27
    made = []
    for number_, part in enumerate(_parts(rows, 32)):
        with drawing():
            names = [content.units[i].name for i in part]
            figure, axes = _rows(names, step, "standard deviation of the channels (log axis)", known)
            for index, each in enumerate(every):
                shift = 0.0 if len(every) == 1 else (-0.19, 0.19)[index]
                _ranges(axes, content, index, {y + shift: each[i] for y, i in enumerate(part)})
            told = "; ".join(_deviations_told(content, s, part) for s in _indices(content))
            title = "Standard deviations of each unit's channels, on a log axis"
            made.append(inline(figure, f"deviations{number_}", title, told + "."))
    return made


def _ranges(axes: Axes, content: Content, index: int, values: dict[float, np.ndarray]) -> None:
    """Draw ranges, middle halves and medians at these places."""
    kept = {y: found for y, each in values.items() if len(found := drawable(each))}
    parts = np.array([np.quantile(found, (0, 0.25, 0.5, 0.75, 1)) for found in kept.values()]).reshape(-1, 5)
    at, colour = list(kept), colours(content)[index]
    axes.hlines(at, parts[:, 0], parts[:, 4], color=colour, linewidth=0.9)
    axes.hlines(at, parts[:, 1], parts[:, 3], color=colour, linewidth=3.2, alpha=0.55)
    _markers(axes, content, index, list(parts[:, 2]), at)


def _parts(rows: list[int], most: int) -> list[list[int]]:
    """Return rows in parts of about the same length, none longer than `most`."""
    count = -(-len(rows) // most)
    return [rows[len(rows) * n // count : len(rows) * (n + 1) // count] for n in range(count)]


def _indices(content: Content) -> range:
    return range(len(content.sets))


def _rows(names: Sequence[str], step: float, label: str, known: np.ndarray) -> tuple[Figure, Axes]:
    """Return a figure with one row for each name, the first on top, and a log axis for all values of its kind."""
    shown = [short(printable(n), _LONGEST_NAME) for n in names]
    left, top, bottom = 0.18 + 0.074 * max(map(len, shown)), 0.28 if len(names) > 12 else 0.06, 0.45
    height = step * len(names) + top + bottom
    figure = new_figure(_WIDTH, height)
    axes = figure.add_axes((left / _WIDTH, bottom / height, 1 - (left + 0.12) / _WIDTH, 1 - (top + bottom) / height))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), shown)
    axes.tick_params(axis="y", length=0, pad=5)
    axes.tick_params(axis="x", length=0, labeltop=len(names) > 12, pad=3)
    axes.grid(True, axis="both")
    axes.set_axisbelow(True)
    axes.set_xlabel(label, labelpad=4)
    log_axis(axes, known.min(), known.max(), 5)
    return figure, axes


def _markers(axes: Axes, content: Content, index: int, x: Sequence[float], y: Sequence[float]) -> None:
    style = _MARKERS[index if len(content.sets) > 1 else 1]
    axes.plot(x, y, linestyle="none", color=colours(content)[index], zorder=3, **style)  # type: ignore[arg-type]


def short(name: str, longest: int) -> str:
    """Return a name with its middle left out where it is too long: nets number their layers at the end."""
    return (
        name if len(name) <= longest else f"{name[: longest // 3]}…{name[len(name) - (longest - longest // 3 - 1) :]}"
    )


def _range_of(content: Content, index: int, rows: Sequence[int]) -> str:
    rates = content.rates(index)
    known = [(rates[i], content.units[i].name) for i in rows if len(drawable([rates[i]]))]
    if not known:
        return f"{content.sets[index]}: no unit has a rate"
    (low, slow), (high, fast) = min(known), max(known)
    return f"{content.sets[index]}: from {_word(low)} ({slow}) to {_word(high)} ({fast}) in {len(known)} units"


def _deviations_told(content: Content, index: int, rows: Sequence[int]) -> str:
    every = content.drawn_deviations(index)
    return f"{content.sets[index]}: {_reach(np.concatenate([every[i] for i in rows]))}"


def _reach(values: np.ndarray) -> str:
    """Return how far deviations reach, in words."""
    if not len(values):
        return "no channel varies"
    low, middle, high = (_word(float(f(values))) for f in (np.min, np.median, np.max))
    if low == high:
        return f"{len(values)} channels at {low}"
    return f"{len(values)} channels from {low} to {high}, median {middle}"


def _word(value: float) -> str:
    return plain(number(value))


def histograms(content: Content) -> Markup | None:
    """Return one small histogram of channel deviations for each unit, all on one axis; None where nothing varies."""
    every = [content.drawn_deviations(s) for s in _indices(content)]
    known = drawable(np.concatenate([np.zeros(0), *(d for each in every for d in each)]))
    if not len(known):
        return None
    low, high = known.min(), known.max()
    with drawing():
        panel = _Panel(low, high)
        made = []
        for i, unit in enumerate(content.units):
            sets = [drawable(each[i]) for each in every]
            if any(len(values) for values in sets):
                told = "; ".join(f"{s}: {_reach(v)}" for s, v in zip(content.sets, sets, strict=True))
                picture = panel.draw(content, sets, f"hist{i}", f"{unit.name}: deviations of its channels", told)
                words = " → ".join(_spread_word(v) for v in sets)
                caption = tag("figcaption", tag("b", unit.name, title=unit.name), words)
                made.append(tag("figure", caption, picture))
    return join(panel.shared, tag("div", *(join(m, "\n") for m in made), class_="many"))


def _spread_word(values: np.ndarray) -> str:
    if not len(values):
        return "none"
    low, high = plain(number(values.min(), 2)), plain(number(values.max(), 2))
    return low if low == high else f"{low}–{high}"


class _Panel:
    """What all histograms have in common: an axis that is drawn once and used again and again, and the bins."""

    def __init__(self, low: float, high: float) -> None:
        width, height = 1.75, 0.92
        figure = new_figure(width, height)
        axes = figure.add_axes((0.04, 0.24, 0.92, 0.74))
        axes.set_ylim(-1.08, 1.08)
        axes.set_yticks([])
        axes.tick_params(axis="x", length=2, pad=2, labelsize=8)
        log_axis(axes, low, high, 3)
        self.edges = np.geomspace(*axes.get_xlim(), _BINS + 1)
        frame = inline(figure, "frame", "axis", "")
        self.view = frame.partition('viewBox="')[2].partition('"')[0]
        inside = Markup(frame.partition("</desc>")[2].removesuffix("</svg>"))
        symbol = tag("symbol", inside, id="hist-frame", viewBox=self.view)
        self.shared = tag("svg", symbol, width="0", height="0", style="position:absolute", aria_hidden="true")
        box = axes.get_position()
        self.left, self.right = box.x0 * width * 72, box.x1 * width * 72
        self.top, self.bottom = (1 - box.y1) * height * 72, (1 - box.y0) * height * 72

    def draw(self, content: Content, sets: Sequence[np.ndarray], name: str, title: str, told: str) -> Markup:
        """Return a histogram: of one set upwards, of two the second downwards, each as high as there is room."""
        base = self.bottom if len(sets) == 1 else (self.top + self.bottom) / 2
        room = (base - self.top) * 0.95
        parts = [tag("use", href="#hist-frame")]
        for index, values in enumerate(sets):
            counts = np.histogram(values, self.edges)[0]
            heights = counts / max(counts.max(), 1) * (room if index == 0 else -room)
            colour = f"var(--{'after' if len(sets) == 1 or index else 'before'})"
            parts.append(tag("path", d=self._outline(base, heights), fill=colour, fill_opacity=".85"))
        if len(sets) > 1:
            parts.append(tag("path", d=f"M{self.left:.1f},{base:.1f}H{self.right:.1f}", stroke="var(--line)"))
        return image(name, self.view, title, told, *parts)

    def _outline(self, base: float, heights: np.ndarray) -> str:
        """Return the bins that hold something as an SVG path."""
        step = (self.right - self.left) / len(heights)
        bars = []
        for i in np.flatnonzero(heights):
            x, height = self.left + step * int(i), float(heights[i])
            bars.append(f"M{x:.1f},{base:.1f}v{-height:.1f}h{step:.1f}v{height:.1f}z")
        return "".join(bars)


def has_no_place(content: Content) -> list[str]:
    """Return what the log axes leave out, a sentence each."""
    said = []
    for index, name in enumerate(content.sets):
        every = np.concatenate([np.zeros(0), *content.deviations(index)])
        prefix = f"{name}: " if len(content.sets) > 1 else ""
        for count, one, more in (
            (int((~np.isfinite(every)).sum()), "whose deviation is not finite", "whose deviation is not finite"),
            (int((every == 0).sum()), "that does not vary", "that do not vary"),
            (
                int(((every > 0) & (every < content.floor)).sum()),
                f"that varies by less than {_word(content.floor)}",
                f"that vary by less than {_word(content.floor)}",
            ),
        ):
            if count:
                channels = f"1 channel {one} is" if count == 1 else f"{count} channels {more} are"
                said.append(f"{prefix}{channels} not in the pictures.")
    return said
