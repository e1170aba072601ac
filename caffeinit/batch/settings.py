"""caffeinit.toml: what a user says about the nets in a folder and below it.

    images = "pictures"                 # any option of the single command, with _ for -
    input_shape = { data = [3, 224, 224] }

    [nets."old_*.prototxt"]             # only for nets, or weights, whose name or path from here matches
    skip = "replaced by new.prototxt"

The nearest word wins: a [nets] table, then the file beside the net, then files further up, then the command line. Paths
start from the file's own folder.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import click

from caffeinit.batch.table import JOBS, options_of, setting_name
from caffeinit.cli import VERBS
from caffeinit.cli.common import parse_memory
from caffeinit.errors import CaffeinitError, FormatError
from caffeinit.storage.files import read_bytes_limited

_MOST_BYTES, _LONGEST_LINE = 1 << 18, 4096
# Settings that are the batch's own.
OWN = {"skip": (bool, str), "weights": (str,), "time_limit": (int, float), "model_memory": (str,)}


@dataclass
class Said:
    """What holds for one net.

    Attributes:
        options: parameter of the single command -> its values, as texts of the command line.
        skip: why the model is left out; empty if it is not.
        weights: path of the weights file from the zoo's root, where the user pairs them.
        time_limit: seconds. model_memory: as on the command line.
        origin: parameter -> where it was said.
    """

    options: dict[str, list[str]] = field(default_factory=dict)
    skip: str = ""
    weights: str = ""
    time_limit: float | None = None
    model_memory: str | None = None
    origin: dict[str, str] = field(default_factory=dict)


class Settings:
    """All settings files of a zoo."""

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        """Read the files.

        Raises:
            FormatError: a file is no TOML, or says something that no job knows.
        """
        self.root = root
        self._jobs = {name: options_of(job) for name, job in JOBS.items() if job.verb in VERBS}
        self._matched: set[str] = set()  # tables of nets that some file was found for
        self._tables = {str(PurePosixPath(f).parent): self._read(f) for f in files}

    def of(self, path: str, job: str, more: Sequence[str] = ()) -> Said:
        """Return what is said about a file, from the root down.

        Args:
            path: from the zoo's root.
            more: files of the same model whose own tables count too: its weights.
        """
        said = Said()
        for folder in [*reversed([str(p) for p in PurePosixPath(path).parents])]:
            table = self._tables.get(folder)
            if table is None:
                continue
            where = _join(folder, "caffeinit.toml")
            self._take(said, table, job, folder, where)
            for pattern, inner in table.get("nets", {}).items():
                if any(_matches(name, pattern, folder) for name in (path, *more)):
                    place = f'{where}, nets."{pattern}"'
                    self._matched.add(place)
                    self._take(said, inner, job, folder, place)
        return said

    def unmatched(self) -> list[str]:
        """Return a sentence on each table of nets that none of the files matches that were asked for."""
        places = [
            f'{_join(folder, "caffeinit.toml")}, nets."{pattern}"'
            for folder, table in self._tables.items()
            for pattern in table.get("nets", {})
        ]
        return [
            f"{place}: matches no net and no weights in or below its folder"
            for place in places
            if place not in self._matched
        ]

    def _read(self, file: str) -> dict[str, Any]:
        table = _parsed(self.root / file)
        nets = table.get("nets", {})
        if not isinstance(nets, dict) or not all(isinstance(t, dict) for t in nets.values()):
            raise FormatError(f'{self.root / file}: nets: tables are needed, such as [nets."deploy*.prototxt"]')
        self._check({k: v for k, v in table.items() if k != "nets"}, f"{self.root / file}")
        for pattern, inner in nets.items():
            self._check(inner, f'{self.root / file}, nets."{pattern}"')
        return table

    def _check(self, table: Mapping[str, Any], where: str) -> None:
        known = {setting_name(o) for options in self._jobs.values() for o in options.values()}
        for key, value in table.items():
            if key in OWN:
                _check_own(key, value, where)
            elif key not in known:
                near = difflib.get_close_matches(key, [*known, *OWN], 1)
                hint = f'; did you mean "{near[0]}"?' if near else f"; known: {', '.join(sorted([*known, *OWN]))}"
                raise FormatError(f'{where}: there is no setting "{key}"{hint}')

    def _take(self, said: Said, table: Mapping[str, Any], job: str, folder: str, where: str) -> None:
        names = {setting_name(option): option for option in self._jobs[job].values()}
        for key, value in table.items():
            if key == "skip":
                said.skip = value if isinstance(value, str) else f"skip = true in {where}" if value else ""
            elif key == "weights":
                said.weights = _join(folder, value)
            elif key == "time_limit":
                said.time_limit = float(value)
            elif key == "model_memory":
                said.model_memory = value
            elif key in names:
                option = names[key]
                assert option.name is not None
                base = self.root / folder
                said.options[option.name] = [absolute(option, t, base) for t in _texts(option, key, value, where)]
                said.origin[option.name] = where


def _parsed(path: Path) -> dict[str, Any]:
    """Return what a settings file says.

    Raises:
        FormatError: it is no TOML, or larger than one: keys of a thousand parts keep the parser busy for hours.
    """
    raw = read_bytes_limited(path, _MOST_BYTES, "file of settings")
    if max(map(len, raw.split(b"\n"))) > _LONGEST_LINE:
        raise FormatError(f"{path}: a line of it is longer than {_LONGEST_LINE} characters; spread it over several")
    try:
        table = tomllib.loads(raw.decode())
        _check_range(table)
    except RecursionError:
        raise FormatError(f"{path}: its lists and tables are nested too deep") from None
    except ValueError as error:
        raise FormatError(f"{path}: is no TOML: {error}") from None
    return table


def _check_range(value: Any) -> None:
    """Refuse whole numbers of more than 64 bits, as TOML has it: with ValueError."""
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_range(inner)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError("a whole number of more than 64 bits")


def _check_own(key: str, value: Any, where: str) -> None:
    if not isinstance(value, OWN[key]) or (isinstance(value, bool) and key != "skip"):
        wanted = " or ".join(kind.__name__ for kind in OWN[key])
        raise FormatError(f"{where}: {key} is {value!r}; {wanted} is needed")
    if key == "time_limit" and not float(value) > 0:  # NaN is none either
        raise FormatError(f"{where}: time_limit is {value!r}; seconds above 0 are needed")
    if key == "model_memory":
        try:
            parse_memory(str(value))
        except CaffeinitError as error:
            raise FormatError(f"{where}: model_memory: {error}") from None


def _join(folder: str, name: str) -> str:
    return os.path.normpath(os.path.join(folder, name)).replace(os.sep, "/")


def _matches(path: str, pattern: str, folder: str) -> bool:
    inside = os.path.relpath(path, folder).replace(os.sep, "/")
    return fnmatch.fnmatchcase(inside, pattern) or fnmatch.fnmatchcase(PurePosixPath(path).name, pattern)


def _texts(option: click.Option, key: str, value: Any, where: str) -> list[str]:
    """Return a setting's value as it would be typed: a list repeats the option, or is one value with commas."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise FormatError(f"{where}: {key} is {value!r}; true or false is needed")
        return ["true"] if value else []
    if isinstance(value, dict) and option.multiple:
        return [f"{name}={_text(inner, key, where)}" for name, inner in value.items()]
    if isinstance(value, list) and option.multiple:
        return [_text(inner, key, where) for inner in value]
    return [_text(value, key, where)]


def _text(value: Any, key: str, where: str) -> str:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in values):
        raise FormatError(f"{where}: {key} is {value!r}; a number, a text or a list of them is needed")
    return ",".join(str(v) for v in values)


def hint(job: str, reasons: Iterable[str]) -> str:
    """Return where the options that these reasons ask for can be given to one net alone; empty where they ask for none."""
    settable = {setting_name(option) for option in options_of(JOBS[job]).values()}
    words = (word for reason in reasons for word in re.findall(r"(?:^|\s)--([a-z][a-z-]*)", reason))
    asked = [name for name in dict.fromkeys(w.replace("-", "_") for w in words) if name in settable]
    if not asked:
        return ""
    shown = ", ".join(_EXAMPLES.get(name, f"{name} = ...") for name in asked)
    return (
        f"An option that a reason asks for can be given to one net alone, in a file caffeinit.toml beside it: {shown}"
    )


_EXAMPLES = {"input_shape": "input_shape = { data = [3, 224, 224] }", "phase": 'phase = "TRAIN"'}


def absolute(option: click.Option, text: str, base: Path) -> str:
    """Return an option's value with a path in it made absolute; other values as they are."""
    if isinstance(option.type, click.Path):
        return os.path.abspath(base / text)
    if option.name != "sources":
        return text
    name, separator, rest = text.partition("=")
    if separator and name.isidentifier() and not os.path.exists(base / text):
        return f"{name}={os.path.abspath(base / rest)}"
    return os.path.abspath(base / text)
