"""onnxruntime's own errors: what they mean to a user, and which of them mean that memory ran out."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import onnxruntime as ort

from caffeinit.errors import CaffeinitError

_state = ort.capi.onnxruntime_pybind11_state
NotImplementedThere = _state.NotImplemented
ORT_ERRORS = (
    RuntimeError,
    UnicodeDecodeError,  # what it says of a damaged file has bytes of it that are no text
    _state.Fail,
    _state.InvalidArgument,
    _state.InvalidGraph,
    _state.InvalidProtobuf,
    _state.NoSuchFile,
    NotImplementedThere,
    _state.RuntimeException,
)
# What lack of memory may come as: std::bad_alloc is Python's own error.
MEMORY_ERRORS = (*ORT_ERRORS, MemoryError)
# There is no error class for it (microsoft/onnxruntime, issue 16307), and libraries below name it in their own ways.
_OUT_OF_MEMORY = (
    "failed to allocate memory",
    "is smaller than requested bytes",  # an arena with a limit
    "out of memory",
    "out_of_memory",
    "alloc_failed",  # cuBLAS, cuDNN
    "bad_alloc",
    "bad allocation",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of onnxruntime says that memory ran out, on a device or in an arena."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY)


_NOISE = (
    r"^Error in execution: ",
    r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ",
    # Where in its source it failed: /path/file.cc:45 signature(...)
    r"(?:^|(?<= ))/\S+:\d+ .*?\) (?:\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : )?",
    r"\S+ [=!<>]+ \S+ was false\. ",
    r" Please fix either the inputs/outputs or the model\.",
)
# onnx is often released before what can run its newest operators.
_TOO_NEW = re.compile(r"Opset (\d+) is under development.* domain ai\.onnx is till opset (\d+)")


def plain(error: BaseException) -> str:
    """Return what onnxruntime says, in one line, without its own files, functions and numbers."""
    text = " ".join(str(error).split())
    text = re.sub(
        r"Non-zero status code returned while running (\w+) node\. Name:'(.*?)' Status Message: ",
        lambda m: f'node "{m[2]}" ({m[1]}): ' if m[2] else f"a node ({m[1]}): ",
        text,
    )
    text = re.sub(
        r"Got invalid dimensions for input: (.+?) for the following indices", r'input "\1" has other extents;', text
    )
    for noise in _NOISE:
        text = re.sub(noise, "", text)
    return text[:400].strip()


@contextlib.contextmanager
def explained(what: str, which: str = "the net") -> Iterator[None]:
    """Turn onnxruntime's own errors into ours: memory, or shapes or indices of this net that do not go together."""
    try:
        yield
    except ORT_ERRORS as error:
        reason = plain(error)
        if is_out_of_memory(error):
            raise CaffeinitError(
                f"{which} cannot be {what}, for memory ran out: {reason}. Take fewer pictures at a time (--batch-size), "
                "or leave the GPU (--device cpu)"
            ) from None
        if versions := _TOO_NEW.search(reason):
            convert = f"onnx.version_converter.convert_version(model, {versions[2]})"
            raise CaffeinitError(
                f"{which} cannot be {what}: it is of opset {versions[1]}, and the newest that onnxruntime "
                f"{ort.__version__} runs is {versions[2]}. Convert it first: {convert}"
            ) from None
        raise CaffeinitError(f"{which} cannot be {what} with these inputs: {reason}") from None
