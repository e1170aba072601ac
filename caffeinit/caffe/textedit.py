"""Single values of a net's text changed or added, with everything else left as it stands: order, spacing, comments.

The text is seen as nested fields with the places where they lie; which fields there can be does not matter. Texts are
handled byte by byte (as Latin-1), so that comments in whatever encoding stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from caffeinit.caffe.textformat import tokenize
from caffeinit.errors import FormatError

Edit = tuple[int, int, str]  # start, end, what stands there then


@dataclass
class Span:
    """One value of a field.

    Attributes:
        start: where the field's name begins, or, for further values of a list, the value.
        value: where the value begins; a message's does at its opening brace.
        end: behind the value; a message's is behind its closing brace.
        fields: of a message.
    """

    name: str
    start: int
    value: int
    end: int = 0
    fields: list[Span] = field(default_factory=list)

    def find(self, name: str) -> Span | None:
        """Return the field of a message with this name, or None."""
        return next((f for f in self.fields if f.name == name), None)


class _Reader:
    def __init__(self, text: str, path: str) -> None:
        self.tokens = list(tokenize(text, path))
        self.at = 0

    def take(self, *symbols: str) -> bool:
        token = self.tokens[self.at]
        if token.kind == "symbol" and token.word in symbols:
            self.at += 1
            return True
        return False

    def fields(self) -> Iterator[Span]:
        """Yield the fields up to the end of a message or of the text, and pass over its closing brace."""
        while self.tokens[self.at].kind != "end" and not self.take("}", ">"):
            if not self.take(",", ";"):
                yield from self.values()

    def values(self) -> Iterator[Span]:
        """Yield the values of the next field, several if it is a list."""
        token = self.tokens[self.at]
        self.at += 1
        self.take(":")
        if not self.take("["):
            yield self.value(token.word, token.start)
            return
        while self.tokens[self.at].kind != "end" and not self.take("]"):
            if not self.take(","):
                yield self.value(token.word, self.tokens[self.at].start)

    def value(self, name: str, start: int) -> Span:
        found = Span(name, start, self.tokens[self.at].start)
        if self.take("{", "<"):
            found.fields = list(self.fields())
        else:
            self.take("-")
            kind = self.tokens[self.at].kind
            self.at += 1
            while kind == "string" and self.tokens[self.at].kind == "string":
                self.at += 1
        found.end = self.tokens[self.at - 1].end
        return found


def read_spans(text: str, path: str) -> list[Span]:
    """Return the fields of a text that has been read without error."""
    return list(_Reader(text, path).fields())


def put(text: str, message: Span, names: Sequence[str], value: str) -> Edit:
    """Return the edit that gives a field inside a message a value; it is added where it is not there.

    Args:
        names: of the messages that lead to the field, and its own.
    """
    inner = message.find(names[0])
    if inner is None:
        added = f"{names[-1]}: {value}"
        for name in reversed(names[:-1]):
            added = f"{name} {{ {added} }}"
        return _add(text, message, added)
    if len(names) == 1:
        return inner.value, inner.end, value
    return put(text, inner, names[1:], value)


def _add(text: str, message: Span, added: str) -> Edit:
    """Return the edit that adds a field at the end of a message, on a line of its own if the closing brace has one."""
    brace = message.end - 1
    line = text.rfind("\n", 0, brace) + 1
    if text[line:brace].strip():
        space = "" if text[brace - 1].isspace() else " "
        return brace, brace, f"{space}{added} "
    ending = "\r\n" if text[:line].endswith("\r\n") else "\n"
    indents = (_indent(text, f.start) for f in reversed(message.fields))
    indent = next((i for i in indents if i is not None), text[line:brace] + "  ")
    return line, line, f"{indent}{added}{ending}"


def _indent(text: str, at: int) -> str | None:
    """Return the white space in front of a place, if nothing else of its line is."""
    before = text[text.rfind("\n", 0, at) + 1 : at]
    return before if not before.strip() else None


def edited(text: str, edits: Iterable[Edit]) -> str:
    """Return a text with its edits made; they do not overlap."""
    pieces, at = [], 0
    for start, end, new in sorted(edits):
        pieces += [text[at:start], new]
        at = end
    return "".join([*pieces, text[at:]])


def with_numbers(raw: bytes, path: str, numbers: Mapping[tuple[int, str], str]) -> bytes:
    """Return a net's text with other numbers in it.

    Args:
        raw: a text that has been read without error.
        numbers: (place of the layer's entry in the text, dotted field in the entry) -> number as it is to be written.
    Raises:
        FormatError: there are no layers in the text.
    """
    text = raw.decode("latin-1")
    mark = re.match("\xef\xbb\xbf", text)  # a byte order mark is no part of the text
    skipped = mark.end() if mark else 0
    text = text[skipped:]
    entries = [s for s in read_spans(text, path) if s.name in ("layer", "layers")]
    if not entries:
        raise FormatError(f"{path}: is not the text of the net itself, which is what has to be rewritten")
    edits = [put(text, entries[at], field.split("."), value) for (at, field), value in numbers.items()]
    return raw[:skipped] + edited(text, edits).encode("latin-1")
