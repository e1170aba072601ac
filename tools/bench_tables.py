"""How tools/bench shows its rows: as a table, as Markdown, against an earlier run; and on what machine they were made."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "scipy", "scikit-learn", "onnx", "onnxruntime-gpu", "onnxruntime", "protobuf")
Row = Mapping[str, Any]


def machine() -> dict[str, Any]:
    """Return the processor, its cores, the memory and the versions of all that takes part."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": versions,
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    return next(
        (found[key].strip() for key in ("model name", "Model", "Hardware") if key in found), platform.processor()
    )


def told(about: Mapping[str, Any]) -> str:
    """Return a machine in one line."""
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    return (
        f"{about['processor']}, {about['cores']} cores, {about['memory_gb']} GB, {about['system']}; "
        f"Python {about['python']}, {packages}"
    )


def heading() -> str:
    """Return the line above the table."""
    return (
        f"{'net':10} {'job':34} {'plain s':>8} {'job s':>8} {'min':>7} {'ratio':>7} {'max':>7} {'cpu':>7} {'rounds':>6} "
        f"{'kept MB':>8} {'peak MB':>8} {'above':>8}"
    )


def line(row: Row) -> str:
    """Return a row as a line of the table on the terminal."""
    if "error" in row:
        return f"{row['net']:10} {row['job']:34} FAILED: {row['error']}"
    return (
        f"{row['net']:10} {row['job']:34} {row['plain_s']:8.3f} {row['job_s']:8.3f} {row['ratio_min']:7.3f} "
        f"{row['ratio']:7.3f} {row['ratio_max']:7.3f} {_number(row, 'cpu_ratio', 7, 2)} {row['rounds']:6} "
        f"{_number(row, 'kept_mb', 8, 0)} {_number(row, 'peak_mb', 8, 0)} {_number(row, 'above_mb', 8, 0)}"
    )


def _number(row: Row, key: str, width: int, digits: int) -> str:
    return f"{row[key]:{width}.{digits}f}" if key in row else f"{'-':>{width}}"


def markdown(about: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return the rows as tables for the README, with the machine named."""
    good = [row for row in rows if "error" not in row]
    nets = list(dict.fromkeys(row["net"] for row in good if "above_mb" in row))
    cells = {(row["net"], row["job"]): row for row in good}
    lines = [f"{told(about)}.", ""]
    if nets:
        images = sorted({row["images"] for row in good if "above_mb" in row})
        lines += [
            f"Plain forwards, median (least to most), and MB above the plain forward's peak; pictures: {images}",
            "",
        ]
        lines += ["| job | " + " | ".join(nets) + " |", "| --- |" + " --- |" * len(nets)]
        for job in dict.fromkeys(row["job"] for row in good if "above_mb" in row):
            lines.append(f"| {job} | " + " | ".join(_cell(cells.get((net, job))) for net in nets) + " |")
        lines.append("")
    others = [row for row in good if "above_mb" not in row]
    if others:
        lines += ["| other | ratio, median (least to most) | seconds |", "| --- | --- | --- |"]
        for row in others:
            lines.append(f"| {row['net']}: {row['job']} | {_ratio(row)} | {row['job_s']:.2f} / {row['plain_s']:.2f} |")
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    return f"{_ratio(row)} {row['above_mb']:+.0f} MB" if row else ""


def _ratio(row: Row) -> str:
    return f"{row['ratio']:.2f} ({row['ratio_min']:.2f}-{row['ratio_max']:.2f})"


def compared(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what moved: a ratio whose range, least to most, lies wholly beside the old one's, or a peak by over 5 %."""
    lines = []
    if told(old["machine"]) != told(new["machine"]):
        lines += ["the machines differ:", f"  old: {told(old['machine'])}", f"  new: {told(new['machine'])}"]
    before = {(row["net"], row["job"]): row for row in old["rows"] if "error" not in row}
    rows = {(row["net"], row["job"]): row for row in new["rows"] if "error" not in row}
    for key, row in rows.items():
        if key not in before:
            lines.append(f"{key[0]:10} {key[1]:34} {row['ratio']:.3f} (new)")
        else:
            lines.append(f"{key[0]:10} {key[1]:34} {_change(before[key], row)}")
    if others := len(before.keys() - rows.keys()):
        lines.append(f"{others} others were measured then and not now")
    return lines


def _change(was: Row, row: Row) -> str:
    text = f"{was['ratio']:.3f} -> {row['ratio']:.3f}"
    if min(was["rounds"], row["rounds"]) < 3:
        text += "  (fewer than three rounds: no ranges to go by)"
    elif row["ratio_min"] > was["ratio_max"]:
        text += "  SLOWER"
    elif row["ratio_max"] < was["ratio_min"]:
        text += "  faster"
    if was.get("images") != row.get("images"):
        text += f"  ({was.get('images')} and {row.get('images')} pictures: not comparable)"
    old, new = was.get("peak_mb"), row.get("peak_mb")
    if old and new and abs(new - old) > 0.05 * old:
        text += f"  peak {old:.0f} -> {new:.0f} MB"
    return text
