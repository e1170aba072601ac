"""What files are that are given as weights and are none: said in words, before anything else fails on them."""

from __future__ import annotations

import codecs
import re

from caffeinit.storage import wire

_HEADS = {
    b"version https://git-lfs": "a git-lfs pointer; the file itself was never downloaded (git lfs pull)",
    b"PK\x03\x04": "a zip archive (or a PyTorch checkpoint, or .npz)",
    b"\x93NUMPY": "a numpy array",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"BZh": "a bzip2 archive; unpack it first",
    b"\xfd7zXZ": "an xz archive; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"Rar!": "a rar archive; unpack it first",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    **{bytes((0x80, protocol)): "a Python pickle" for protocol in (2, 3, 4, 5)},
}
_SPEAKS_OF_LAYERS = re.compile(rb"\blayers?\b")


def foreign_kind(head: bytes) -> str:
    """Return what a file that begins like this is, if it is something well known; else nothing."""
    for start, kind in _HEADS.items():
        if head.startswith(start):
            return kind
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    if not _is_text(head):
        return ""
    if head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"<":
        return "a web page; the download went wrong"
    question = " (are net and weights in the right order?)" if _SPEAKS_OF_LAYERS.search(head) else ""
    return f"a text file{question}"


def _is_text(head: bytes) -> bool:
    if any(byte < 32 and byte not in b"\t\n\r\f" for byte in head):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return True


def other_message(kinds: set[tuple[int, int]]) -> str:
    """Return what a protobuf message with these (field number, wire type) is, where a net has a name first."""
    if (7, wire.BYTES) in kinds:
        return "is an ONNX model, not a caffemodel"
    if (2, wire.VARINT) in kinds:
        return "is a single blob, as mean files are (--mean-file), not a caffemodel"
    return "is a solverstate: it holds the solver's history, not weights. The caffemodel of the same iteration has them"
