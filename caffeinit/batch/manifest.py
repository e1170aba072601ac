"""What is done already: OUT/manifest.jsonl, a line per model, appended in one write when the model is finished.

The lines hold nothing that differs from run to run; times and machines are in OUT/times.jsonl beside it. At the end of
a run the manifest is put in order, so that it is the same whatever happened on the way. A line cut off by a kill is
forgotten: its model is done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from caffeinit.errors import FormatError
from caffeinit.storage.files import leads_out, sync_folder


@dataclass
class Entry:
    """What came of one model.

    Attributes:
        model: its name. net, weights: its files, from the zoo's root.
        result: "ok", "failed" or "left out".
        reason: why, where it is not ok.
        summary: what was done, in one line.
        outputs: path below the batch's output -> {"bytes": ..., "sha256": ...}. The result as data ends in .json.
        inputs: path or source -> fingerprint. options: setting -> values. versions: package -> version.
        key: digest of all of that; see `tasks`.
    """

    model: str
    job: str
    result: str
    reason: str = ""
    net: str | None = None
    weights: str | None = None
    summary: str = ""
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    options: dict[str, list[str]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    key: str = ""

    def line(self) -> bytes:
        """Return the entry as its line in the manifest."""
        return as_line(asdict(self))


def as_line(data: Mapping[str, Any]) -> bytes:
    """Return plain data as a line of JSON; bytes of file names that are no text stand as escapes of their surrogates."""
    return (json.dumps(dict(data), ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _entry_of(line: bytes) -> Entry:
    """Return the entry of a line; ValueError or TypeError where it is none, or names files outside the batch's folder."""
    entry = Entry(**json.loads(line))
    texts = [entry.model, entry.job, entry.reason, entry.summary, entry.net or "", entry.weights or "", entry.key]
    texts += [*entry.inputs.values(), *entry.versions.values(), *(v for vs in entry.options.values() for v in vs)]
    sizes = [told["bytes"] for told in entry.outputs.values() if told.keys() == {"bytes", "sha256"}]
    if not all(isinstance(t, str) for t in texts) or not all(isinstance(s, int) for s in sizes):
        raise TypeError("a text or a number is none")
    if any(map(leads_out, entry.outputs)) or len(sizes) < len(entry.outputs):
        raise ValueError("outputs that no batch writes")
    if entry.key.strip("0123456789abcdef") or entry.result not in ("ok", "failed", "left out"):
        raise ValueError("no key or no result")
    return entry


class Manifest:
    """The manifest of one output folder."""

    def __init__(self, path: Path) -> None:
        """Read it; one that is not there is empty.

        Raises:
            FormatError: it cannot be read, or a line that is not the last makes no sense.
        """
        self.path = path
        self.entries: dict[str, Entry] = {}
        try:
            raw = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise FormatError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None
        self._whole = raw.rfind(b"\n") + 1
        for number, line in enumerate(raw[: self._whole].splitlines(), 1):
            try:
                entry = _entry_of(line)
            except (ValueError, TypeError, AttributeError, RecursionError):
                raise FormatError(
                    f"{path}, line {number}: is no line of a batch's manifest. Remove the line to have its model done again"
                ) from None
            self.entries[entry.model] = entry

    def append(self, entry: Entry) -> None:
        """Add a line, whole and on disk before this returns."""
        self.entries[entry.model] = entry
        data = entry.line()
        with open(self.path, "r+b" if self.path.exists() else "w+b") as file:
            file.truncate(self._whole)
            file.seek(self._whole)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._whole += len(data)

    def put_in_order(self, names: Iterable[str], through: Path) -> None:
        """Write one line for each of these models, in this order, instead of what is there.

        Args:
            through: a file on the same disk to write first.
        """
        ordered = {name: self.entries[name] for name in names}
        data = b"".join(e.line() for e in ordered.values())
        self.entries, self._whole = ordered, len(data)
        if self.path.exists() and self.path.read_bytes() == data:
            return
        with open(through, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(through, self.path)
        sync_folder(self.path.parent)


def append_time(path: Path, times: Mapping[str, Any]) -> None:
    """Add a line to times.jsonl: model, result, seconds, peak memory, machine, when."""
    with open(path, "ab") as file:
        file.write(as_line(times))
