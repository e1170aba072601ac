"""Where nets run: on the plain CPU, or on a CUDA device that a session really gets.

`onnxruntime.get_available_providers()` tells what was compiled in, not what works, and a session that is asked for CUDA
ends on the CPU where it does not get it. So a tiny session is created, run, and asked what it runs on. Before that the
driver is asked for the number of GPUs, which takes no time where there is none.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from caffeinit.engine.failures import ORT_ERRORS
from caffeinit.errors import OptionError

CUDA = "CUDAExecutionProvider"
# It takes a Transpose out that a product reads, although it is an output, too; the session cannot be set up then.
_FAULTY = ["GemmTransposeFusion"]
_DEFAULT_SEVERITY = 2  # onnxruntime's own, warnings; it cannot be asked for the one in force


@dataclass(frozen=True)
class Device:
    """A device that sessions run on.

    Attributes:
        kind: onnxruntime's name of it, "cpu" or "cuda".
        number: which one of its kind.
        resident: values stay on it between runs, see `resident.py`. On the CPU that is another way to the same numbers.
        allow_tf32: products may round their factors to 10 bits, on GPUs that are faster then.
    """

    kind: str = "cpu"
    number: int = 0
    resident: bool = False
    allow_tf32: bool = False

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.number}"

    @property
    def is_cpu(self) -> bool:
        """Whether it is the machine's own processor and memory."""
        return self.kind == "cpu"

    def providers(self) -> list[Any]:
        """Return onnxruntime's execution providers, what the first cannot run is left to the next."""
        return ["CPUExecutionProvider"] if self.is_cpu else [(CUDA, self._options()), "CPUExecutionProvider"]

    def start(self, model: bytes | str, options: ort.SessionOptions) -> ort.InferenceSession:
        """Return onnxruntime's session for a serialised model, or for a file."""
        chosen = {"providers": self.providers(), "disabled_optimizers": _FAULTY}
        if self.is_cpu:  # else it prints that it tries once more, on the CPU as before
            return ort.InferenceSession(model, options, enable_fallback=0, **chosen)
        with _silence():  # since 1.30 it warns of each session on a GPU that no plugin gave it
            return ort.InferenceSession(model, options, **chosen)

    def _options(self) -> dict[str, str]:
        return {
            "device_id": str(self.number),
            "use_tf32": str(int(self.allow_tf32)),
            # EXHAUSTIVE times all algorithms for every new shape and takes the fastest, so that digits differ from run to
            # run, and a stage runs no shape often enough to make up for it. DEFAULT is the slow way that always works.
            "cudnn_conv_algo_search": "HEURISTIC",
            # Doubling takes up to twice what is needed, and every session has an arena of its own.
            "arena_extend_strategy": "kSameAsRequested",
        }


def find_device(asked: str = "auto", allow_tf32: bool = False) -> tuple[Device, str]:
    """Return the device that is asked for, and a sentence for users that says which it is, or why it is not the GPU.

    The sentence is empty on a CPU without anything to tell: the CPU was asked for, or there is no GPU.

    Args:
        asked: auto, cpu, cuda or cuda:N. auto is the first GPU if a session gets it, else the CPU.
    Raises:
        OptionError: there is no such device, or sessions do not get it.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", asked):
        raise OptionError(f'device "{asked}": has to be auto, cpu, cuda or cuda:N, as in cuda:1')
    if asked == "cpu" or (asked == "auto" and not (_compiled_in() and num_gpus())):
        return Device(), ""
    number = int(asked.partition(":")[2] or 0)
    found = Device("cuda", number, resident=True, allow_tf32=allow_tf32)
    why = obstacle(number)
    if not why:
        return found, f"runs on {found}" + (", with TF32" if allow_tf32 else "")
    if asked == "auto":
        return Device(), f"runs on the CPU: there is a GPU, but {why}"
    raise OptionError(f"device {asked}: {why}. With --device cpu it runs without")


@functools.cache
def obstacle(number: int = 0) -> str:
    """Return why sessions do not get a CUDA device; empty if they do."""
    if not _compiled_in():
        return "the installed onnxruntime was built without CUDA (it is not onnxruntime-gpu)"
    count = num_gpus()
    if number >= count:
        some = f"the machine has {count} GPU{'s' * (count > 1)}, numbered from 0"
        return some if count else "there is no GPU that NVIDIA's driver knows, or no driver"
    lacking = _load_libraries()
    try:
        got = _probe(replace(Device("cuda"), number=number))
    except ORT_ERRORS as error:
        return f"onnxruntime cannot use it: {' '.join(str(error).split())[:300]}"
    if CUDA in got:
        return ""
    hint = (
        "CUDA's libraries are not found; pip install 'caffeinit[cuda]' brings them" if lacking else "no reason is given"
    )
    return f"onnxruntime does not get it: {hint}"


@functools.cache
def num_gpus() -> int:
    """Return how many GPUs NVIDIA's driver shows to this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _compiled_in() -> bool:
    return CUDA in ort.get_available_providers()


def _load_libraries() -> str:
    """Load CUDA's libraries as pip installs them; return what could not be loaded, as onnxruntime prints it."""
    printed = io.StringIO()
    if hasattr(ort, "preload_dlls"):  # since 1.21; before that they have to lie where the system looks
        with contextlib.redirect_stdout(printed):
            ort.preload_dlls()
    return printed.getvalue()


def _probe(device: Device) -> list[str]:
    """Return the providers of a tiny session that is asked for a device."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Abs", ["x"], ["y"])
    graph = helper.make_graph([node], "probe", [value], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with _silence():
        session = ort.InferenceSession(model.SerializeToString(), providers=device.providers()[:1])
        session.run(None, {"x": np.zeros(1, np.float32)})  # a GPU may be too old for the kernels, which shows only now
    return list(session.get_providers())


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep onnxruntime from printing what it says of devices: whether one is there is what is asked."""
    ort.set_default_logger_severity(4)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_DEFAULT_SEVERITY)
