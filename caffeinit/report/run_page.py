"""The page of one run: init, rescale, or measure."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

from caffeinit.measuring import Measurement
from caffeinit.model.network import Network, cause_lines
from caffeinit.report.content import About, Content, content_of
from caffeinit.report.drawing import graph_section
from caffeinit.report.filters import draw_mosaic, first_filters, is_bgr
from caffeinit.report.markup import Markup, join, tag
from caffeinit.report.page import facts, page, table, version
from caffeinit.report.plots import deviations_plots, has_no_place, histograms, rates_plots
from caffeinit.report.showing import (
    all_remarks,
    apart_lines,
    dead_cell,
    measured_columns,
    number,
    outcome,
    plain,
    result_columns,
    stats_cells,
)
from caffeinit.result import Result

Found = Result | Sequence[Measurement]


def run_page(network: Network, found: Found, about: About) -> str:
    """Return the page of a run.

    Args:
        network: as it is after the run; of two that were measured, the first.
        found: the result of init or rescale, or one or two measurements.
    """
    content = content_of(found)
    name = _name(about)
    heading = join(
        tag("p", f"caffeinit {version()}{' · ' + about.job if about.job else ''}", class_="eyebrow"),
        tag("h1", name or "caffeinit"),
        _tiles(found, content),
    )
    of_a = ", of A" if content.sets == ("A", "B") else ""
    body = [
        _warnings(found),
        _section("Run", _facts(about)),
        _plots(content),
        _section("Units", _unit_table(found)),
        _histograms(content),
        _section(f"First layer's filters{of_a}", _filters(network, about.options.get("--channels"))),
        _section(f"What can be rescaled with the function kept{of_a}", graph_section(network)),
        _section("Notes", _notes(found)),
    ]
    title = " · ".join(t for t in (about.job, name, "caffeinit") if t)
    return page(title, heading, *body)


def _name(about: About) -> str:
    path = about.files.get("weights") or about.files.get("output") or about.files.get("net") or ""
    return path.replace("\\", "/").rpartition("/")[2]


def _section(title: str, *content: Markup | None) -> Markup:
    """Return a section; nothing where there is nothing to show."""
    kept = [c for c in content if c]
    return tag("section", tag("h2", title), *kept) if kept else Markup()


def _tile(value: object, words: str) -> Markup:
    return tag("div", tag("b", value), tag("span", words), class_="tile")


def _tiles(found: Found, content: Content) -> Markup:
    tiles = []
    if isinstance(found, Result):
        changed = sum(1 for u in found.units if u.done)
        tiles.append(_tile(join(str(changed), tag("i", f" of {len(found.units)}")), "units changed"))
        dead = sum(len(u.dead) for u in found.units)
        pictures, rated = found.num_images, ""
    else:
        tiles.append(_tile(len(content.units), "units"))
        dead = sum(u.dead for u in found[0].units)
        pictures, rated = (
            found[0].num_images,
            f", rates on {found[0].num_rate_images}" if found[0].num_rate_images else "",
        )
    tiles.append(_spread_tile(content))
    if isinstance(found, Result):
        tiles.append(_moved_tile(found))
    tiles.append(
        _tile(dead, "channels that do not vary" + (f", in {content.sets[0]}" if content.sets == ("A", "B") else ""))
    )
    tiles.append(_tile(pictures, f"pictures{rated}"))
    return tag("div", *tiles, class_="tiles")


def _spread_tile(content: Content) -> Markup:
    words = "spread of the rates, largest |log C − mean|"
    known = [s for s in content.spreads if math.isfinite(s)]
    if not known:
        return _tile("–", f"spread of the rates: {content.no_spread or 'not measured'}")
    if content.is_alone:
        return _tile("–", "spread of the rates: one unit alone has a rate, and there is none to compare it with")
    shown = [tag("span", plain(number(s)) if math.isfinite(s) else "–", class_="once") for s in content.spreads]
    if len(shown) == 1:
        return _tile(shown[0], words)
    if content.sets == ("A", "B"):
        return _tile(join(tag("i", "A "), shown[0], tag("i", ", B "), shown[1]), words)
    return _tile(join(tag("i", shown[0], " → "), shown[1]), words)


def _moved_tile(found: Result) -> Markup:
    if not found.outputs_moved:
        return _tile("not kept", "the function: these weights are a start for training")
    name, worst = max(found.outputs_moved.items(), key=lambda item: item[1])
    what = f"of {len(found.outputs_moved)} values at the end" if len(found.outputs_moved) > 1 else "of the output"
    return _tile(number(worst, 2), f'largest move {what} ("{name}"), as a part of its largest value')


def _warnings(found: Found) -> Markup:
    """Return what a reader must not miss: outputs that are not finite, layers that cannot run."""
    lines = []
    sets = [found] if isinstance(found, Result) else list(found)
    for one in sets:
        if isinstance(one, Measurement) and (broken := [u.name for u in one.units if not u.is_finite]):
            lines.append(f"Not finite on these pictures (NaN or overflow): the output of {', '.join(broken)}")
            lines += [one.first_not_finite] if one.first_not_finite else []
        lines += [f"Left out: {line}" for line in cause_lines(one.skipped)]
    if not lines:
        return Markup()
    items = [tag("li", line) for line in dict.fromkeys(lines)]
    return tag("section", tag("h3", "Look at this first"), tag("ul", *items), class_="card alarm")


def _facts(about: About) -> Markup | None:
    pairs: list[tuple[str, object]] = list(about.files.items())
    if about.pictures:
        pairs.append(("pictures", about.pictures))
    if about.options:
        pairs.append(("options", "\n".join(_option(*item) for item in about.options.items())))
    if not pairs:
        return None
    rest = [_option(*item) for item in about.defaults.items()]
    more = tag("details", tag("summary", "Options not given"), tag("p", "  ".join(rest))) if rest else None
    return join(facts(pairs), more)


def _option(name: str, value: str) -> str:
    return f"{name} {value}".rstrip()


def _legend(content: Content) -> Markup:
    """Return what the marks of the plots mean."""
    ring = tag("circle", cx="6", cy="6", r="4", fill="none", stroke="var(--before)", stroke_width="2")
    diamond = tag("path", d="M6,1 L11,6 L6,11 L1,6 Z", fill="var(--after)")
    marks = [diamond] if len(content.sets) == 1 else [ring, diamond]
    entries = [
        tag("li", tag("svg", mark, width="12", height="12", aria_hidden="true"), word)
        for mark, word in zip(marks, content.sets, strict=True)
    ]
    return tag("ul", *entries, class_="legend")


def _plots(content: Content) -> Markup:
    rates, deviations = rates_plots(content), deviations_plots(content)
    speed = "How fast training would change each unit's weights, relative to their size."
    reach = (
        "Of each unit's channels on the pictures: from smallest to largest, thick the middle half, marked the median."
    )
    left = [_figure(f"Change rates{_part(i, rates)}", speed, picture) for i, picture in enumerate(rates)]
    right = [_figure(f"Channel deviations{_part(i, deviations)}", reach, p) for i, p in enumerate(deviations)]
    parts = [tag("div", *side) for side in (left, right) if side]
    said = [*([] if rates else ["No unit has a rate to draw."]), *has_no_place(content)]
    notes = [tag("p", line, class_="soft") for line in said]
    legend = _legend(content) if parts else None
    return _section("Rates and deviations", legend, tag("div", *parts, class_="pair") if parts else None, *notes)


def _part(index: int, pictures: Sequence[Markup]) -> str:
    return f", part {index + 1} of {len(pictures)}" if len(pictures) > 1 else ""


def _figure(title: str, words: str, picture: Markup) -> Markup:
    return tag("figure", tag("h3", title), tag("figcaption", words), picture, class_="card plot")


def _histograms(content: Content) -> Markup:
    made = histograms(content)
    if made is None:
        return Markup()
    sides = f" {content.sets[0].capitalize()} upwards, {content.sets[1]} downwards." if len(content.sets) > 1 else ""
    words = f"Standard deviations of the channels, one log axis for all units.{sides} The fullest bin has full height."
    return _section("Histograms of channel deviations", tag("p", words, class_="soft"), made)


def _unit_table(found: Found) -> Markup:
    if isinstance(found, Result):
        return _result_table(found)
    return _measured_table(found)


def _head(text: str, kind: str | None = "n", rowspan: int | None = None) -> Markup:
    return tag("th", text, scope="col", class_=kind, rowspan=rowspan)


def _cells(texts: Sequence[str], begins: bool = False) -> list[Markup]:
    """Return numbers as cells; the first has a line before it where a group begins."""
    return [tag("td", plain(t), class_="n first" if begins and i == 0 else "n") for i, t in enumerate(texts)]


def _group(title: str, columns: Sequence[str]) -> tuple[Markup, list[Markup]]:
    """Return the heading of several columns, and theirs."""
    over = tag("th", title, scope="colgroup", colspan=len(columns), class_="first")
    return over, [_head(c, "n first" if i == 0 else "n") for i, c in enumerate(columns)]


def _result_table(found: Result) -> Markup:
    columns = result_columns(found)
    before, below_before = _group("before", columns)
    after, below_after = _group("after", columns)
    tall = 2
    over = [_head("unit", None, rowspan=tall), _head("channels", rowspan=tall), before, after]
    over += [_head("dead", "n first", rowspan=tall), _head("what was done, or why not", None, rowspan=tall)]
    rows = []
    for unit in found.units:
        cells = [tag("th", unit.name, scope="row"), *_cells([str(unit.num_channels)])]
        for stats in (unit.before, unit.after):
            cells += _cells(stats_cells(stats)[: len(columns)], begins=True)
        cells += [*_cells([dead_cell(unit)], begins=True), tag("td", outcome(unit), class_="said")]
        rows.append(join(tag("tr", *cells, class_=None if unit.done else "left"), "\n"))
    return table([over, [*below_before, *below_after]], rows, "Table of units")


def _measured_table(found: Sequence[Measurement]) -> Markup:
    columns = measured_columns(found)
    several = len(found) > 1
    tall = 2 if several else None
    over = [_head("unit", None, rowspan=tall), _head("kind", None, rowspan=tall), _head("channels", rowspan=tall)]
    below: list[Markup] = []
    for heading in columns:
        group, letters = _group(heading, ("A", "B"))
        over.append(group if several else _head(heading))
        below += letters if several else []
    rows = []
    for units in zip(*(m.units for m in found), strict=True):
        cells = [tag("th", units[0].name, scope="row"), tag("td", units[0].kind), *_cells([str(units[0].num_channels)])]
        for show in columns.values():
            cells += _cells([show(u) for u in units], begins=several)
        counts = any(math.isfinite(u.rate) and not u.frozen for u in units)
        rows.append(join(tag("tr", *cells, class_=None if counts else "left"), "\n"))
    return table([over, below] if several else [over], rows, "Table of units")


def _filters(network: Network, channels: str | None) -> Markup:
    found = first_filters(network.units)
    if found is None:
        return tag("p", "The net has no convolution with windows, and so no filters to draw.", class_="soft")
    name, weight = found
    from PIL import Image  # only who wants pictures pays for the import

    raw = io.BytesIO()
    Image.fromarray(draw_mosaic(weight, bgr=is_bgr(channels), clear=True)).save(raw, format="PNG")
    outputs, inputs, height, width = weight.shape
    size = f"{outputs} filters of {height}×{width} on {inputs} {'channels' if inputs > 1 else 'channel'}"
    words = f"{name}: {size}. Zero is mid grey; each filter's largest magnitude is full contrast."
    if inputs == 3:
        order = "blue, green, red" if is_bgr(channels) else "red, green, blue"
        words += f" Its channels are taken as {order}."
    colour = "in colour" if inputs == 3 else "in grey"
    source = f"data:image/png;base64,{base64.b64encode(raw.getvalue()).decode()}"
    picture = tag("img", src=source, alt=f"The {size} of {name}, {colour}, in the order of the channels")
    return tag("figure", tag("figcaption", words), picture, class_="filters")


def _notes(found: Found) -> Markup | None:
    lines: list[str] = []
    if isinstance(found, Result):
        lines = [*apart_lines(found.apart), *found.notes]
    else:
        lines = [line.removeprefix("note: ").replace(": note: ", ": ", 1) for line in all_remarks(found)]
    return tag("ul", *(tag("li", line) for line in lines)) if lines else None
