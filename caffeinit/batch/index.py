"""The index of a batch's pages: a row and a small picture for each model, made from the manifest and the results' data.

It holds nothing that the manifest does not, so that it is the same however the batch came to its end.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from caffeinit.batch.manifest import Entry
from caffeinit.batch.settings import hint
from caffeinit.errors import FormatError, OptionError
from caffeinit.report.markup import Markup, join, tag
from caffeinit.report.page import facts, generator, page, resource, table, version
from caffeinit.report.showing import number, plain
from caffeinit.storage.files import check_target, replacing

_KIND = "index"
_WIDTH, _HEIGHT, _EDGE = 150, 34, 3  # pixels of the small pictures
_ORDER = {"failed": 0, "left out": 1, "ok": 2}  # what a person should look at first
_TITLES = ("model", "what came of it", "unit by unit", "rate spread before", "after", "outputs moved", "units")
_MOST_LINES = 3  # of a reason; the rest is there to be opened


def check_index(path: Path, force: bool) -> None:
    """Refuse a place for an index where something else is; an earlier index may be replaced.

    Raises:
        OutputError: the file exists and is no index, or cannot be written.
    """
    check_target(path, force or _is_index(path))


def _is_index(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return f'content="{generator(_KIND)}"'.encode() in file.read(1000)


def check_not_an_output(path: Path, out: Path, outputs: Iterable[str]) -> None:
    """Refuse an index in the place of a model's output.

    Raises:
        OptionError: it is.
    """
    if any(os.path.realpath(out / output) == os.path.realpath(path) for output in outputs):
        raise OptionError(f"--report {path}: is the place of a model's own output; give the index another name")


def write_index(path: Path, out: Path, job: str, entries: Sequence[Entry]) -> None:
    """Write the index.

    Args:
        out: the batch's folder, which outputs are told from.
        entries: in the order of the rows.
    Raises:
        OutputError: it cannot be written.
    """
    text = index_page(path, out, job, entries)
    with replacing(path, force=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def index_page(path: Path, out: Path, job: str, entries: Sequence[Entry]) -> str:
    """Return the page that `write_index` writes."""
    counts = {what: sum(1 for e in entries if e.result == what) for what in ("ok", "failed", "left out")}
    tiles = [tag("div", tag("b", n), tag("span", what), class_="tile") for what, n in counts.items()]
    num_models = counts["ok"] + counts["failed"]
    heading = join(
        tag("p", f"caffeinit {version()} · batch", class_="eyebrow"),
        tag("h1", f"{job}: {num_models} {'model' if num_models == 1 else 'models'}"),
        tag("div", *tiles, class_="tiles three"),
        _shared_options(entries),
    )
    rows = [join(_row(entry, _read(out, entry), path, out), "\n") for entry in entries]
    words = (
        "The small pictures show the rate of change of each unit on a log axis, from the first unit to the last, "
        "each model for itself; where there are no rates, the deviations. Dashed is before, solid after."
    )
    told = hint(job, (e.reason for e in entries if e.result == "failed"))
    advice = tag("p", f"{told}.", class_="soft") if told else None
    headings = [tag("th", t, scope="col", class_="n" if i > 2 else None) for i, t in enumerate(_TITLES)]
    listed = table([headings], rows, "Table of models", kind="models")
    models = tag("section", tag("h2", "Models"), tag("p", words, class_="soft"), advice, listed)
    return page(f"batch {job} · caffeinit", heading, models, script=resource("index.js"), kind=_KIND)


def _shared_options(entries: Sequence[Entry]) -> Markup | None:
    """Return the options that all models were given."""
    given = [e.options for e in entries if e.key]
    if not given:
        return None
    shared = {name: values for name, values in given[0].items() if all(o.get(name) == values for o in given)}
    lines = [f"--{n.replace('_', '-')} {'' if v == ['true'] else ' '.join(v)}".rstrip() for n, v in shared.items()]
    return facts([("options for all", "\n".join(lines))]) if lines else None


@dataclass(frozen=True)
class _Found:
    """What a row shows of a result; NaN where there is nothing.

    Attributes:
        lines: of the small picture: value of each unit before, and after; one only where nothing was changed.
        of: what the values are.
    """

    before: float = math.nan
    after: float = math.nan
    moved: float = math.nan
    num_units: float = math.nan
    lines: tuple[list[float], ...] = ()
    of: str = ""


def _read(out: Path, entry: Entry) -> _Found:
    """Return what an entry's result says."""
    name = next((p for p in entry.outputs if p.endswith(".json")), None)
    if name is None:
        return _Found()
    try:
        return _found(json.loads((out / name).read_bytes()))
    except OSError as error:
        raise FormatError(
            f"{out / name}: the manifest says that it was written, and it cannot be read "
            f"({(error.strerror or str(error)).lower()}). Run the batch again with its model, or take its line out of "
            "manifest.jsonl"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise FormatError(
            f"{out / name}: is no result of a job ({type(error).__name__}: {error}). Remove it to have its model done again"
        ) from None


def _found(told: dict[str, Any]) -> _Found:
    units = told["units"]
    rates, deviations = _lines(units, "rate"), _lines(units, "out_std")
    rated = any(math.isfinite(v) for line in rates for v in line)
    return _Found(
        before=_or_nan(told.get("rate_spread_before")),
        after=_or_nan(told.get("rate_spread")),
        moved=max(told.get("outputs_moved", {}).values(), default=math.nan),
        num_units=len(units),
        lines=rates if rated else deviations,
        of="rates" if rated else "deviations",
    )


def _lines(units: Sequence[dict[str, Any]], key: str) -> tuple[list[float], ...]:
    if any("before" in u for u in units):
        return tuple([_or_nan((u[when] or {}).get(key)) for u in units] for when in ("before", "after"))
    return ([_or_nan(u.get(key)) for u in units],)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _row(entry: Entry, found: _Found, path: Path, out: Path) -> Markup:
    """Return a model's row; what came of it takes the place of pictures and numbers where there are none."""
    target = next((p for p in entry.outputs if p.endswith(".html")), None) or next(iter(entry.outputs), None)
    name = _breakable(entry.model)
    if target is not None:
        name = tag("a", name, href=_link(path, out / target))
    is_ok = entry.result == "ok"
    width = None if is_ok else len(_TITLES) - 1
    came = tag("td", *_came(entry), data_v=_ORDER[entry.result], class_="said", colspan=width)
    cells = [tag("th", name, scope="row", data_v=entry.model), came]
    if is_ok:
        cells.append(tag("td", _picture(found)))
        for value in (found.before, found.after, found.moved, found.num_units):
            known = not math.isnan(value)
            shown, sorted_by = (plain(number(value)), f"{value!r}") if known else ("–", "")
            cells.append(tag("td", shown, class_="n" if known else "n no", data_v=sorted_by))
    return tag("tr", *cells, class_=entry.result.replace(" ", "-"))


def _breakable(path: str) -> Markup:
    """Return a path that may go on in a new line behind each of its parts."""
    *folders, name = path.split("/")
    return join(*(join(folder, "/", tag("wbr")) for folder in folders), name)


def _came(entry: Entry) -> list[object]:
    """Return a result and what there is to say of it."""
    first, *more = (entry.summary or entry.reason).split("\n")
    said: list[object] = [tag("b", entry.result), f" {first}" if first else ""]
    if len(more) < _MOST_LINES:
        return [*said, *(f"\n{line}" for line in more)]
    said += [f"\n{line}" for line in more[: _MOST_LINES - 1]]
    rest = more[_MOST_LINES - 1 :]
    word = f"{len(rest)} more {'line' if len(rest) == 1 else 'lines'}"
    return [*said, tag("details", tag("summary", word), "\n".join(rest))]


def _link(page_path: Path, target: Path) -> str:
    """Return the way from one file to another as it stands in a link."""
    start = os.path.dirname(os.path.realpath(page_path))
    way = os.path.relpath(os.path.realpath(target), start).replace(os.sep, "/")
    return quote(os.fsencode(way)) if ":" not in way.partition("/")[0] else f"./{quote(os.fsencode(way))}"


def _picture(found: _Found) -> Markup | str:
    """Return a model's units as small lines, with words for those who do not see them."""
    known = [v for line in found.lines for v in line if math.isfinite(v) and v > 0]
    if not known:
        return "–"
    low, high = math.log(min(known)), math.log(max(known))
    names = ("before", "after") if len(found.lines) > 1 else ("measured",)
    lines, told = [], []
    for name, line in zip(names, found.lines, strict=True):
        points = [(i, math.log(v)) for i, v in enumerate(line) if math.isfinite(v) and v > 0]
        if not points:
            continue
        ends = [plain(number(math.exp(f(y for _, y in points)))) for f in (min, max)]
        told.append(f"{name} {ends[0]} to {ends[1]}")
        lines.append(_line(points, len(line), low, high, name == "before"))
    label = f"{found.of} of {len(known) // len(lines)} units: {', '.join(told)}"
    view = f"0 0 {_WIDTH} {_HEIGHT}"
    return tag("svg", *lines, viewBox=view, width=_WIDTH, height=_HEIGHT, role="img", aria_label=label, fill="none")


def _line(points: Sequence[tuple[int, float]], count: int, low: float, high: float, is_before: bool) -> Markup:
    across = (_WIDTH - 2 * _EDGE) / max(count - 1, 1)
    down = (_HEIGHT - 2 * _EDGE) / (high - low) if high > low else 0
    middle = _HEIGHT / 2
    places = [(_EDGE + i * across, _EDGE + (high - y) * down if down else middle) for i, y in points]
    path = "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in places) + ("h.1" if len(places) == 1 else "")
    style = {"stroke_dasharray": "3 2"} if is_before else {}
    colour = "var(--before)" if is_before else "var(--after)"
    return tag(
        "path", d=path, stroke=colour, stroke_width="1.6", stroke_linecap="round", stroke_linejoin="round", **style
    )
