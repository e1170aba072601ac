"""The message classes of proto/caffe.proto, in a descriptor pool of our own.

A private pool does not clash with another `caffe.proto` in the process, and a serialized descriptor set is not tied to
the protobuf runtime's version as generated modules are.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    compiled = resources.files("caffeinit.protos").joinpath("caffe.desc").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled).file:
        pool.Add(file)
    return pool


@functools.cache
def message(name: str) -> Any:
    """Return the class of a message, such as "NetParameter" or "PoolingParameter"."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"caffe.{name}"))


def parsed(name: str, raw: bytes) -> Any:
    """Return a message from its bytes.

    Raises:
        DecodeError: they are none, or a text in it is none, which protobuf lets pass.
    """
    found = message(name)()
    found.ParseFromString(raw)
    if not _is_text(found):
        raise DecodeError("a text in it is none")
    return found


def _is_text(found: Any) -> bool:
    """Tell whether all texts of a message are; others come as bytes."""
    for entry, value in found.ListFields():
        values = value if entry.is_repeated else [value]
        if entry.message_type is not None:
            if not all(map(_is_text, values)):
                return False
        elif entry.type == FieldDescriptor.TYPE_STRING and any(isinstance(v, bytes) for v in values):
            return False
    return True
