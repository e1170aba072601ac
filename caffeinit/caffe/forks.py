"""Which fields of a net are forks' and not BVLC Caffe's.

BVLC numbered each message's fields from 1 without gaps to speak of, and forks put theirs behind. Those that had clashed
with each other stand above 100000 in our schema.
Source: BVLC/caffe, src/caffe/proto/caffe.proto, as of version 1.0.
"""

from __future__ import annotations

from typing import Any

# Message -> its last field in BVLC Caffe, where a fork's have numbers below 100000.
_LAST = {
    "BatchNormParameter": 3,
    "BlobProto": 9,
    "FillerParameter": 8,
    "LayerParameter": 148,
    "LossParameter": 3,
    "TransformationParameter": 7,
}
_OURS = 100_000


def fork_fields(message: Any) -> list[str]:
    """Return the forks' fields that a message has set, as "Message.field", each once and sorted."""
    found: dict[str, None] = {}
    pending = [message]
    while pending:
        current = pending.pop()
        for field, value in current.ListFields():
            owner = current.DESCRIPTOR.name
            if field.number > _LAST.get(owner, _OURS):
                found[f"{owner}.{field.name}"] = None
            elif field.message_type is not None:
                pending += list(value) if field.is_repeated else [value]
    return sorted(found)
