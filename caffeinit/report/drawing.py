"""The graph of a net as SVG: one box for each layer and what follows it, marked with what of it is free, tied or held.

Colour is not all that tells: tied is hatched, held is dotted, and the numbers stand in the box.
"""

from __future__ import annotations

from caffeinit.methods.redraw import holding_reason
from caffeinit.model.network import Network
from caffeinit.patterns import first_of
from caffeinit.printing import printable
from caffeinit.report.boxes import Box, find_boxes, kinds
from caffeinit.report.figures import image
from caffeinit.report.layout import Layout, lay_out
from caffeinit.report.markup import Markup, join, tag
from caffeinit.report.page import scroll, table
from caffeinit.report.plots import short
from caffeinit.scales.free import ScaleReport, UnitScales, report_scales

LARGEST = 1500  # boxes; more make no picture that a person could read
_BOX, _GAP, _LANE = 196, 16, 10  # pixels across
_TALL, _LOW, _STEP, _EDGE = 64, 46, 92, 10  # heights of boxes with and without units, of a layer, and of the margin
_LETTERS = 29  # that fit into a box side by side
_STATES = ("free", "tied", "held")
_MEANINGS = {
    "free": "free: a scale of its own can be chosen, and the net's function is kept",
    "tied": "tied: only together with other units' channels, as in a sum",
    "held": "held: cannot change; what follows would come out otherwise",
}


def network_scales(network: Network) -> ScaleReport:
    """Return what of a net can be rescaled with its function kept, in the words of its layers."""
    missing = [network.params[layer][index] for layer, index in network.missing]
    for array in missing:
        array[...] = 1  # zeros would pass on no scale
    try:
        return report_scales(
            network.graph,
            network.units,
            network.learned,
            lambda unit: holding_reason(unit, network.learned),
            network.graph.outputs or None,
            network.place,
        )
    finally:
        for array in missing:
            array[...] = 0


def graph_section(network: Network) -> Markup:
    """Return the picture of a net's graph with its legend, and the same as a table."""
    scales = network_scales(network)
    boxes = find_boxes(network, scales.units)
    total = {state: sum(getattr(u, state) for u in scales.units) for state in _STATES}
    counts = ", ".join(f"{n} {state}" for state, n in total.items())
    said = f"Channels of all units: {counts}; {scales.num_independent} scales can be chosen independently."
    if len(boxes) > LARGEST:
        picture = tag("p", f"The graph has {len(boxes)} parts, more than a picture can show; the table has them all.")
    else:
        picture = scroll("Graph of the net", _picture(boxes, said), tall=True, kind="graph")
    details = tag("details", tag("summary", f"The same as a table: {len(scales.units)} units"), _scale_table(scales))
    return join(tag("p", said, class_="soft"), _legend(), picture, "\n", details)


def _legend() -> Markup:
    entries = []
    for state in _STATES:
        swatch = tag("svg", *_bar({state: 1}, 0, 0, 26, 12), width="26", height="12", aria_hidden="true")
        entries.append(tag("li", swatch, _MEANINGS[state]))
    return join(_patterns(), tag("ul", *entries, class_="legend"))


def _patterns() -> Markup:
    """Return the fills of the bars, for all pictures of the page."""
    hatch = tag(
        "pattern",
        tag("rect", width="6", height="6", fill="var(--tied)"),
        tag("path", d="M-1,1 l2,-2 M0,6 l6,-6 M5,7 l2,-2", stroke="var(--card)", stroke_width="1.6"),
        id="hatch",
        width="6",
        height="6",
        patternUnits="userSpaceOnUse",
    )
    dots = tag(
        "pattern",
        tag("rect", width="6", height="6", fill="var(--held)"),
        tag("circle", cx="3", cy="3", r="1.5", fill="var(--card)"),
        id="dots",
        width="6",
        height="6",
        patternUnits="userSpaceOnUse",
    )
    hidden = "position:absolute"
    return tag("svg", tag("defs", hatch, dots), width="0", height="0", style=hidden, aria_hidden="true")


_FILLS = {"free": "var(--free)", "tied": "url(#hatch)", "held": "url(#dots)"}


def _bar(counts: dict[str, int], x: float, y: float, width: float, height: float) -> list[Markup]:
    """Return a bar whose parts are as long as the counts of the states."""
    total = sum(counts.values()) or 1
    parts = []
    for state in _STATES:
        part = width * counts.get(state, 0) / total
        if part:
            parts.append(tag("rect", x=_n(x), y=_n(y), width=_n(part), height=_n(height), fill=_FILLS[state]))
        x += part
    return parts


def _picture(boxes: list[Box], said: str) -> Markup:
    layout = lay_out([box.readers for box in boxes], _BOX, _GAP, _LANE)
    width, height = layout.width + 2 * _EDGE, layout.num_rows * _STEP - (_STEP - _TALL) + 2 * _EDGE
    lines = [_line(layout, boxes, *line) for line in layout.lines]
    drawn = [join(_box(box, layout.centers[n] + _EDGE, _top(layout, n)), "\n") for n, box in enumerate(boxes)]
    under = tag("g", *lines, fill="none", stroke="var(--soft)", stroke_width="1.2", stroke_opacity=".75")
    told = f"{len(boxes)} boxes in {layout.num_rows} layers. {said}"
    view = f"0 0 {_n(width)} {_n(height)}"
    return image(
        "graph",
        view,
        "Graph of the net, from its inputs at the top",
        told,
        under,
        *drawn,
        width=_n(width),
        height=_n(height),
    )


def _top(layout: Layout, index: int) -> float:
    return _EDGE + layout.rows[index] * _STEP


def _height(box: Box) -> int:
    return _TALL if box.units else _LOW


def _line(layout: Layout, boxes: list[Box], start: int, end: int, passed: list[float]) -> Markup:
    """Return the line between two boxes: straight past other boxes, bent between layers."""
    x, y = layout.centers[start] + _EDGE, _top(layout, start) + _height(boxes[start])
    path = [f"M{_n(x)},{_n(y)}"]
    for row, lane in enumerate([*passed, None], layout.rows[start] + 1):
        target = layout.centers[end] + _EDGE if lane is None else lane + _EDGE
        down = _EDGE + row * _STEP
        if abs(target - x) < 0.5:
            path.append(f"V{_n(down)}")
        else:
            middle = (y + down) / 2
            path.append(f"C{_n(x)},{_n(middle)} {_n(target)},{_n(middle)} {_n(target)},{_n(down)}")
        x, y = target, down
        if lane is not None:
            y += _TALL
            path.append(f"V{_n(y)}")
    path.append("m-3,-5 l3,5 l3,-5")
    return tag("path", d="".join(path))


def _box(box: Box, center: float, top: float) -> Markup:
    left, height = center - _BOX / 2, _height(box)
    counts = _counts(box.units)
    main = max(_STATES, key=lambda state: counts[state])
    fill = f"var(--{main})" if box.units else "none"
    place = {"x": _n(left), "y": _n(top), "width": _BOX, "height": height, "rx": "5"}
    edge = {"stroke": "var(--soft)", "stroke_opacity": ".55"}
    shape = "×".join(map(str, box.shape or ()))
    numbers = ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state])
    told = printable(kinds(box))
    last = numbers or told
    room = _LETTERS - len(shape)
    parts = [
        tag("title", _told(box)),
        tag("rect", **place, fill="var(--card)"),
        tag("rect", **place, **edge, fill=fill, fill_opacity=".13"),
        _words(short(printable(box.name), 25), left + 9, top + 18, bold=True),
    ]
    if box.units:
        parts.append(_words(_cut(told, _LETTERS + 1), left + 9, top + 34, soft=True))
        parts += _bar(counts, left + 1, top + height - 9, _BOX - 2, 8)
    base = top + (49 if box.units else 34)
    parts.append(_words(last if box.units else _cut(last, room), left + 9, base, soft=not numbers))
    if shape and (len(last) < room or not box.units):
        parts.append(_words(shape, left + _BOX - 9, base, soft=True, anchor="end"))
    return tag("g", *parts)


def _words(text: str, x: float, y: float, bold: bool = False, soft: bool = False, anchor: str | None = None) -> Markup:
    fill = "var(--soft)" if soft else "currentColor"
    style = {"font_size": "12" if bold else "11", "font_weight": "600" if bold else None, "text_anchor": anchor}
    return tag("text", text, x=_n(x), y=_n(y), fill=fill, **style)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1].rstrip(", ") + "…"


def _counts(units: list[UnitScales]) -> dict[str, int]:
    return {state: sum(getattr(u, state) for u in units) for state in _STATES}


def _told(box: Box) -> str:
    lines = [f"{box.name}: {', '.join(box.types)}"]
    lines += [f"{u.name}: {_numbers(u)}{'; ' + _why(u) if _why(u) else ''}" for u in box.units]
    return "\n".join(lines)


def _numbers(unit: UnitScales) -> str:
    return ", ".join(f"{getattr(unit, state)} {state}" for state in _STATES if getattr(unit, state))


def _why(unit: UnitScales) -> str:
    parts = [f"stays as it is: {unit.kept}"] if unit.kept else []
    if unit.tied_with:
        others = ["each other" if name == unit.name else name for name in unit.tied_with]
        parts.append(f"tied with {first_of(others)}")
    parts += [
        f"{count} held by {reason}" if len(unit.reasons) > 1 else f"held by {reason}"
        for reason, count in unit.reasons.items()
    ]
    return "; ".join(parts)


def _scale_table(scales: ScaleReport) -> Markup:
    headings = [tag("th", "unit", scope="col"), tag("th", "kind", scope="col")]
    headings += [tag("th", word, scope="col", class_="n") for word in ("channels", *_STATES)]
    headings.append(tag("th", "tied with what, held by what", scope="col"))
    rows = []
    for unit in scales.units:
        numbers = [unit.num_channels, *(getattr(unit, state) for state in _STATES)]
        cells = [tag("th", unit.name, scope="row"), tag("td", unit.kind), *(tag("td", n, class_="n") for n in numbers)]
        rows.append(join(tag("tr", *cells, tag("td", _why(unit), class_="said")), "\n"))
    return table([headings], rows, "Table of scales")


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
