"""Reads protobuf's text format into messages, as Caffe's C++ parser does, with line numbers.

Two things differ from a plain parser. A field that no known fork declares is passed over and noted, because nets of
unknown forks are what this package is for. An enum value that is not known is noted with the message that holds it, so
that the layer can be refused instead of running with a default that its author did not mean.
"""

from __future__ import annotations

import codecs
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor

from caffeinit.errors import FormatError

MAX_DEPTH = 60
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\f\v]+|\#[^\n]*)|(?P<line>\n)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)[fF]?(?![A-Za-z0-9_]))
    |(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    |(?P<symbol>[{}<>\[\]:,;\-./])""",
    re.VERBOSE,
)
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}
_FLOATS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}
_TRUTHS = {"true": True, "True": True, "t": True, "1": True, "false": False, "False": False, "f": False, "0": False}


@dataclass(frozen=True)
class Unknown:
    """A word that is not known, somewhere inside element `index` of the field `name` of a net (or of the text)."""

    net: Any
    name: str
    index: int
    sentence: str


@dataclass
class Reading:
    """What a text said beyond the message.

    Attributes:
        notes: fields that were passed over, one sentence each, with line numbers.
        unknown_values: enum values that are not known.
        unknown_fields: dotted names, in the order found.
        misspelt: those of them that are nearly the name of another.
        raw: the text itself; empty for binary nets.
    """

    notes: list[str] = field(default_factory=list)
    unknown_values: list[Unknown] = field(default_factory=list)
    unknown_fields: list[str] = field(default_factory=list)
    misspelt: list[Unknown] = field(default_factory=list)
    raw: bytes = b""


def _whole_number(word: str) -> int:
    """Return an integer as C writes it: 0x is hexadecimal, a leading 0 octal."""
    digits = word.lstrip("+-")
    base = 16 if digits[:2] in ("0x", "0X") else 8 if digits[:1] == "0" else 10
    return int(word, base)


def read_text(text: str, message: Any, path: str) -> Reading:
    """Merge a text into a message.

    Args:
        path: names the file in errors.
    Raises:
        FormatError: the text is not in text format, or a value does not fit its field; with line and column.
    """
    parser = _Parser(text, path)
    parser.read_fields(message, end="", depth=0)
    return parser.reading


class Token(NamedTuple):
    """A word of a text: what it is, where it begins, and the line, from 1."""

    kind: str
    word: str
    line: int
    start: int

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.start + len(self.word)


def tokenize(text: str, path: str) -> Iterator[Token]:
    """Yield the words of a text, without spaces and comments; the last is the "end".

    Raises:
        FormatError: something is no part of a prototxt.
    """
    line = position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            column = position - text.rfind("\n", 0, position)
            sign = text[position]
            is_open = "a text that begins here is not closed by another quote in its line; is the file cut off?"
            what = is_open if sign in "\"'" else f"{sign!r} is not part of a prototxt"
            raise FormatError(f"{path}:{line + 1}:{column}: {what}")
        if match.lastgroup == "line":
            line += 1
        elif match.lastgroup != "space":
            yield Token(str(match.lastgroup), match.group(), line + 1, position)
        position = match.end()
    yield Token("end", "", line + 1, position)


class _Parser:
    def __init__(self, text: str, path: str) -> None:
        self.path = path
        self.reading = Reading()
        self.tokens = list(tokenize(text, path))
        self.at = 0
        self.inside: tuple[Any, str, int] = (None, "", 0)

    def fail(self, text: str) -> FormatError:
        return FormatError(f"{self.path}:{self.tokens[self.at][2]}: {text}")

    def peek(self) -> str:
        return self.tokens[self.at][1]

    def take(self, *symbols: str) -> bool:
        if self.tokens[self.at][0] == "symbol" and self.tokens[self.at][1] in symbols:
            self.at += 1
            return True
        return False

    def read_fields(self, message: Any, end: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self.fail(f"messages are nested more than {MAX_DEPTH} deep")
        while True:
            kind, word, *_ = self.tokens[self.at]
            if kind == "end":
                if end:
                    raise self.fail(f'the file ends where "{end}" is missing')
                return
            if end and self.take(end):
                return
            if kind != "name":
                raise self.fail(f"expected a field name, found {word!r}")
            self.read_field(message, word, depth)
            self.take(",", ";")

    def read_field(self, message: Any, name: str, depth: int) -> None:
        found = message.DESCRIPTOR.fields_by_name.get(name)
        if depth == 0 or message.DESCRIPTOR.name == "NetParameter":
            self.inside = (message, name, len(getattr(message, name)) if found and found.is_repeated else 0)
        if found is None:
            self.note_unknown(message, name)
            self.at += 1
            self.skip_value(depth)
            return
        if not found.is_repeated and message.HasField(name):
            raise self.fail(f'field "{name}" of {message.DESCRIPTOR.name} is given twice')
        self.at += 1
        if found.message_type is not None:
            self.take(":")
            self.read_each(found, lambda: self.read_message(message, found, depth))
            return
        if not self.take(":"):
            raise self.fail(f'expected ":" after "{name}", found {self.peek()!r}')
        self.read_each(found, lambda: self.read_scalar(message, found))

    def read_each(self, found: FieldDescriptor, read: Any) -> None:
        """Read one value, or a list of values in brackets."""
        if not (found.is_repeated and self.take("[")):
            read()
            return
        while not self.take("]"):
            read()
            self.take(",")

    def read_message(self, message: Any, found: FieldDescriptor, depth: int) -> None:
        opening = self.peek()
        if not self.take("{", "<"):
            raise self.fail(f'expected "{{" after "{found.name}", found {opening!r}')
        inner = getattr(message, found.name).add() if found.is_repeated else getattr(message, found.name)
        inner.SetInParent()
        self.read_fields(inner, "}" if opening == "{" else ">", depth + 1)

    def read_scalar(self, message: Any, found: FieldDescriptor) -> None:
        at = self.at
        value = self.scalar(message, found)
        if value is None:
            return
        try:
            if found.is_repeated:
                getattr(message, found.name).append(value)
            else:
                setattr(message, found.name, value)
        except (ValueError, TypeError) as error:
            self.at = at
            raise self.fail(f'field "{found.name}": {error}') from None

    def scalar(self, message: Any, found: FieldDescriptor) -> Any:
        """Return the value of the next tokens for a field; None for an enum value that is not known."""
        negative = self.take("-")
        kind, word, *_ = self.tokens[self.at]
        if kind == "end" or (kind == "symbol"):
            raise self.fail(f'field "{found.name}" has no value')
        if found.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return self.string(found)
        self.at += 1
        if found.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
            return self.enum(found, kind, word)
        if found.cpp_type == FieldDescriptor.CPPTYPE_BOOL and word in _TRUTHS:
            return _TRUTHS[word]
        try:
            if found.cpp_type in _INTEGERS and kind == "number":
                number: float = _whole_number(word)
                return -number if negative else number
            if found.cpp_type in _FLOATS and (kind == "number" or word.lower() in ("inf", "infinity", "nan")):
                number = float(word.rstrip("fF") if kind == "number" else word)
                return -number if negative else number
        except ValueError:
            pass
        self.at -= 1
        raise self.fail(f'field "{found.name}" of {message.DESCRIPTOR.name} cannot be {word!r}')

    def enum(self, found: FieldDescriptor, kind: str, word: str) -> int | None:
        assert found.enum_type is not None
        values = found.enum_type.values_by_name
        if word in values:
            return int(values[word].number)
        if kind == "number" and word.isdigit() and len(word) < 10 and int(word) in found.enum_type.values_by_number:
            return int(word)
        near = difflib.get_close_matches(word, list(values), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        line = self.tokens[self.at - 1][2]
        sentence = f'line {line}: "{found.name}" has the unknown value {word}{hint}'
        self.reading.unknown_values.append(Unknown(*self.inside, sentence))
        return None

    def string(self, found: FieldDescriptor) -> str | bytes:
        """Return the next strings, which stand for one when adjacent."""
        pieces = []
        while self.tokens[self.at][0] == "string":
            body = self.tokens[self.at][1][1:-1]
            try:
                pieces.append(codecs.escape_decode(body.encode("utf-8", "surrogateescape"))[0])
            except ValueError as error:
                raise self.fail(f'field "{found.name}": {error}') from None
            self.at += 1
        if not pieces:
            raise self.fail(f'field "{found.name}" needs a quoted string, found {self.peek()!r}')
        value: bytes = b"".join(pieces)
        return value if found.type == FieldDescriptor.TYPE_BYTES else value.decode("utf-8", "replace")

    def note_unknown(self, message: Any, name: str) -> None:
        line = self.tokens[self.at][2]
        owner = message.DESCRIPTOR.name
        near = difflib.get_close_matches(name, list(message.DESCRIPTOR.fields_by_name), n=1, cutoff=0.8)
        hint = f"; did you mean {near[0]}?" if near else ""
        self.reading.unknown_fields.append(f"{owner}.{name}")
        sentence = f'line {line}: field "{name}" of {owner} is not known and was passed over{hint}'
        self.reading.notes.append(sentence)
        if near:
            self.reading.misspelt.append(Unknown(*self.inside, sentence))

    def skip_value(self, depth: int) -> None:
        """Pass over the value of a field that is not known."""
        if depth > MAX_DEPTH:
            raise self.fail(f"messages are nested more than {MAX_DEPTH} deep")
        self.take(":")
        opening = self.peek()
        if self.take("{", "<"):
            while not self.take("}" if opening == "{" else ">"):
                if self.tokens[self.at][0] != "name":
                    raise self.fail(f"expected a field name, found {self.peek()!r}")
                self.at += 1
                self.skip_value(depth + 1)
                self.take(",", ";")
        elif self.take("["):
            while not self.take("]"):
                self.skip_value(depth + 1)
                self.take(",")
        elif self.tokens[self.at][0] == "string":
            while self.tokens[self.at][0] == "string":
                self.at += 1
        else:
            self.take("-")
            if self.tokens[self.at][0] not in ("name", "number"):
                raise self.fail(f"expected a value, found {self.peek()!r}")
            self.at += 1
