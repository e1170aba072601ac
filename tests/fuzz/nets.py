"""Nets with something wrong that damaged bytes hardly ever give: other numbers, types, blobs and fields in every layer."""

from __future__ import annotations

import re
from random import Random

from tests.fuzz.seeds import GOLDEN

_NUMBERS = (
    "0",
    "1",
    "2",
    "3",
    "5",
    "7",
    "16",
    "-1",
    "-3",
    "0.5",
    "1e-30",
    "1e30",
    "nan",
    "inf",
    "2147483647",
    "4294967295",
)
_TOKEN = re.compile(r'"[^"]*"|-?\b[0-9][0-9.e+-]*\b|\b[a-z_]+(?=\s*:)|\b[A-Z_]{2,}\b|\w+_param(?=\s*\{)')


def _texts() -> list[str]:
    return [path.read_text() for path in sorted(GOLDEN.glob("*.prototxt"))]


def hurt_net(seed: int) -> bytes:
    """Return a net of one or more layers with some things wrong."""
    rng = Random(seed)
    texts = _texts()
    text = rng.choice(texts)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_TOKEN.finditer(text))
        place = rng.choice(places)
        word = place.group()
        if word[0] in "-0123456789":
            new = rng.choice(_NUMBERS)
        elif rng.random() < 0.1:
            new = ""
        else:  # a word of the same kind, of this net or of another
            other = text if rng.random() < 0.5 else rng.choice(texts)
            words = [w for w in _TOKEN.findall(other) if w[0] not in "-0123456789"]
            alike = [w for w in words if (w[0] == '"') == (word[0] == '"')]
            new = rng.choice(alike or [word])
        text = text[: place.start()] + new + text[place.end() :]
    return text.encode()
