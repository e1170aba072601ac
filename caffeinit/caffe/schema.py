"""The message classes of proto/caffe.proto, in a descriptor pool of our own.

A private pool does not clash with another `caffe.proto` in the process, and a serialized descriptor set is not tied to
the protobuf runtime's version as generated modules are.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    compiled = resources.files("caffeinit.caffe").joinpath("caffe.desc").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled).file:
        pool.Add(file)
    return pool


@functools.cache
def message(name: str) -> Any:
    """Return the class of a message, such as "NetParameter" or "PoolingParameter"."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"caffe.{name}"))
