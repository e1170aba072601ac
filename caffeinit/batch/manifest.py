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

    def line(self) -> str:
        """Return the entry as its line in the manifest."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


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
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError):
                raise FormatError(
                    f"{path}, line {number}: is no line of a batch's manifest. Remove the line to have its model done again"
                ) from None
            self.entries[entry.model] = entry

    def append(self, entry: Entry) -> None:
        """Add a line, whole and on disk before this returns."""
        self.entries[entry.model] = entry
        data = entry.line().encode()
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
        data = "".join(e.line() for e in ordered.values()).encode()
        self.entries, self._whole = ordered, len(data)
        if self.path.exists() and self.path.read_bytes() == data:
            return
        with open(through, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(through, self.path)


def append_time(path: Path, times: Mapping[str, Any]) -> None:
    """Add a line to times.jsonl: model, result, seconds, peak memory, machine, when."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(dict(times), ensure_ascii=False) + "\n")
