"""One compiled graph: an onnxruntime session with its inputs and outputs bound to numpy arrays.

Weights of wide matrix products enter as inputs, not as initializers: onnxruntime would copy and repack them for every
session, which costs more than one pass over the calibration set, and the product is as fast without. Of a matrix that is
not packed, the order in which products are summed up hangs on how many columns a thread has, where these are fewer than
128: narrow matrices are built in, and there are no more threads than leave each so many. Convolution weights stay
initializers, or they lose the blocked layout; huge ones enter as inputs, too. On a GPU nothing is repacked, and inputs
would be sent there anew for every run: weights are initializers here, unless they are too many for one message. What
sends them once, and keeps them there, feeds them (`resident.py`, `gradients/resident.py`).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from caffeinit.engine.device import Device
from caffeinit.engine.failures import explained
from caffeinit.engine.shelf import Room
from caffeinit.graph import Graph, Shape
from caffeinit.graph.products import PRODUCTS, Product

FED_ELEMENTS = 1 << 14  # matrices above this size are fed, if they have
WIDE_COLUMNS = 2048  # output channels, or are huge
_STEADY_BLOCKS = 8  # of columns, for each thread
_BLOCK_COLUMNS = 16  # onnxruntime gives threads whole blocks
HUGE_ELEMENTS = 1 << 24  # what is above this size is fed: building them in takes six copies, and longer than a pass
_KERNELS = ("Conv", "ConvTranspose")
MESSAGE_BYTES = 3 << 29  # of the 2 GB that a protobuf message can hold
# Nodes above which values do not take over the memory of others: which do is found in a time that grows with the square.
MOST_PLANNED_NODES = 3000
MOST_AT_ONCE = 1 << 30  # bytes of weights above which a graph is run in segments


@dataclass(frozen=True)
class Settings:
    """How sessions run.

    Attributes:
        threads: onnxruntime's threads; 0 for one per core.
        device: what they run on.
        room: what a bound on the process' memory leaves for kept values; None without a bound.
    """

    threads: int = 0
    device: Device = field(default_factory=Device)
    room: Room | None = None

    @property
    def cores(self) -> int:
        """How many small runs may go on side by side, each with one thread: a GPU does one at a time."""
        return (self.threads or os.cpu_count() or 1) if self.device.is_cpu else 1

    @property
    def workers(self) -> int:
        """How many of them where each takes much memory."""
        return min(self.room.workers, self.cores) if self.room else self.cores


class Session:
    """A graph ready to run.

    Attributes:
        inputs: the values a run must be given.
        outputs: the values a run computes, in order.
        embedded: the initializers that were built in; changing them later changes nothing here.
    """

    def __init__(
        self,
        graph: Graph,
        settings: Settings,
        fed: Collection[str] = (),
        steady: bool = False,
        sparing: bool = False,
    ) -> None:
        """Compile a graph.

        Args:
            fed: further initializers that are read anew in each run, because they change in between.
            steady: all runs are of one size, and take the memory that the last one took.
            sparing: where memory is bounded, no more of it is taken than values need, each by itself.
        """
        self.inputs = list(graph.inputs)
        self.outputs = list(graph.outputs)
        fed = {*fed, *(fed_weights(graph) if settings.device.is_cpu or _is_too_large(graph) else ())}
        settings = replace(settings, threads=_steady_threads(graph, fed, settings))
        self._weights = {n: a for n, a in graph.initializers.items() if n in fed}
        self.embedded = {n: a for n, a in graph.initializers.items() if n not in self._weights}
        model = declare(graph, self._weights)
        sparing = sparing and settings.room is not None
        self._session = start(model, settings, sparing)
        self._run_options = None if steady or sparing else _run_options(settings)
        self._types = {o.name: o.type for o in self._session.get_outputs()}
        self._read = {i.name for i in self._session.get_inputs()}

    def run(
        self, feeds: Mapping[str, Any], into: Mapping[str, np.ndarray] | None = None, handed_on: Collection[str] = ()
    ) -> dict[str, Any]:
        """Compute the outputs from the inputs.

        Args:
            feeds: input -> array of the input's type, or onnxruntime's own value; contiguous arrays are not copied.
            into: output -> contiguous array of the right shape and type, to be written in place.
            handed_on: outputs that come as onnxruntime's own values, to be fed to another session.
        Returns:
            output -> array (the very arrays of `into` where given).
        """
        into = into or {}
        binding = self._session.io_binding()
        fed = {n: a for n, a in (*self._weights.items(), *feeds.items()) if n in self._read}
        held = {n: a if isinstance(a, ort.OrtValue) else np.asarray(a, order="C") for n, a in fed.items()}
        for name, value in held.items():
            if isinstance(value, ort.OrtValue):
                binding.bind_ortvalue_input(name, value)
            else:
                _bind(binding.bind_input, name, value)
        for name in self.outputs:
            if name in into:
                _bind(binding.bind_output, name, into[name])
            else:
                binding.bind_output(name, "cpu")
        with explained("run"):
            self._session.run_with_iobinding(binding, self._run_options)
        values = binding.get_outputs()
        pairs = zip(self.outputs, values, strict=True)
        # A sequence has no array; it stays onnxruntime's own.
        as_made = {n: v for n, v in pairs if n not in into}
        arrays = {n: v if n in handed_on or not v.is_tensor() else v.numpy() for n, v in as_made.items()}
        return {n: into[n] if n in into else arrays[n] for n in self.outputs}


def start(model: onnx.ModelProto, settings: Settings, sparing: bool = False) -> ort.InferenceSession:
    """Return onnxruntime's session for a model; `sparing`: without an arena."""
    options = _options(settings)
    options.enable_cpu_mem_arena = not sparing
    options.enable_mem_reuse = len(model.graph.node) <= MOST_PLANNED_NODES
    with explained("set up"):
        return settings.device.start(model.SerializeToString(), options)


def _bind(bind: Any, name: str, array: np.ndarray) -> None:
    bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


def fed_weights(graph: Graph, matrices: int | None = None) -> list[str]:
    """Return the initializers that are best fed as inputs: wide or huge matrices, huge kernels.

    Args:
        matrices: elements from which on any matrix, and any kernel, is fed; by default as the head of the module says.
    """
    found: dict[str, None] = {}
    for node in graph.nodes:
        is_product = node.op_type in PRODUCTS
        if not is_product and node.op_type not in _KERNELS:
            continue
        for side, name in enumerate(node.input[:2]):
            array = graph.initializers.get(name)
            if array is None:
                continue
            is_wide = is_product and (side == 0 or _columns(node, array) >= WIDE_COLUMNS)
            most = matrices or (FED_ELEMENTS if is_wide else HUGE_ELEMENTS)
            if array.size >= most:
                found[name] = None
    return list(found)


def _columns(node: onnx.NodeProto, array: np.ndarray) -> int:
    """Return how many output channels the right-hand operand of a product has."""
    return int(array.shape[Product.of(node, 1).weight_axes[0]]) if array.ndim > 1 else 1


def _steady_threads(graph: Graph, fed: Collection[str], settings: Settings) -> int:
    """Return how many threads leave each so many columns of all fed matrices that the order of sums is that of one."""
    if not settings.device.is_cpu:
        return settings.threads
    most = [
        max(1, -(-_columns(node, graph.initializers[node.input[1]]) // _BLOCK_COLUMNS) // _STEADY_BLOCKS)
        for node in graph.nodes
        if node.op_type in PRODUCTS and node.input[1] in fed and node.input[1] in graph.initializers
    ]
    return min(*most, settings.cores) if most and min(most) < settings.cores else settings.threads


def _is_too_large(graph: Graph) -> bool:
    return sum(a.nbytes for a in graph.initializers.values()) > MESSAGE_BYTES


def declare(graph: Graph, fed: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return the model with the arrays of `fed` declared as inputs, and nodes that errors can name."""
    model = graph.to_model(embed={n: a for n, a in graph.initializers.items() if n not in fed})
    taken = {node.name for node in model.graph.node}
    for node in model.graph.node:
        made = next(filter(None, node.output), "")
        node.name = node.name or (made if made not in taken else "")
    for name, array in fed.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
    return model


def _options(settings: Settings) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.log_severity_level = 4  # what it says of an error is told by the error, too
    # Threads that spin between runs take the core that decodes the next pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if settings.room is None:
        # One arena for all sessions: each with its own would fault its scratch memory in again. It never shrinks, so
        # where memory is bounded each has its own, which goes with it.
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    else:
        # Its plan of a run's memory is a block beside those that the first run took one by one.
        options.enable_mem_pattern = False
    return options


def _run_options(settings: Settings) -> ort.RunOptions | None:
    if settings.room is None:
        return None
    options = ort.RunOptions()
    # The next run would leave holes between what this one took, and take more beside them.
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


@functools.cache
def _share_arena() -> None:
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, None)


def output_shape(shape: Shape, made_for: int, batch: int) -> Shape:
    """Return a value's shape when the graph, made for `made_for` images, runs with `batch` of them."""
    return (shape[0] * batch // made_for, *shape[1:])


def is_segmented(graph: Graph, settings: Settings) -> bool:
    """Tell whether a graph has more weights than are to be in memory at once."""
    size = sum(a.nbytes for a in graph.initializers.values())
    return size > (MOST_AT_ONCE if settings.device.is_cpu else MESSAGE_BYTES)


def compile_graph(
    graph: Graph, outputs: Sequence[str], settings: Settings, inputs: Sequence[str] = (), fed: Collection[str] = ()
) -> Session:
    """Compile the part of `graph` that computes `outputs` from `inputs` (and graph inputs).

    Args:
        fed: initializers that are read anew in each run, as for `Session`; in segments, all are.
    """
    part = graph.part(outputs, inputs)
    if is_segmented(part, settings):
        from caffeinit.engine.segments import Segments

        return Segments(part, settings)
    return Session(part, settings, fed)
