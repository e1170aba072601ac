"""What has to hold of a rescaled ONNX model, judged by onnxruntime on inputs of its own and by nothing of caffeinit.

A law returns what is wrong, in words that do not depend on the draw up to the colon; None if nothing is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from tests.fuzz.variants import arrays_of

Feed = Mapping[str, np.ndarray]
TOLERANCE = 1e-5  # of an output's largest value; more where weights moved by one unit in the last place move it by more
ROUNDINGS = 8
STATISTICS = 1e-3
SCALES = 2e-3
ZEROS = 3  # which of the new inputs are all zero
_TYPES = {"float": np.float32, "double": np.float64, "float16": np.float16, "int64": np.int64}
_NUMBERS = ("raw_data", "float_data", "double_data", "int32_data")


class NotRunError(Exception):
    """onnxruntime cannot run the model that was drawn."""


def session(model: Path | bytes) -> ort.InferenceSession:
    """Return a session without any optimisation, of one thread."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return ort.InferenceSession(model if isinstance(model, bytes) else str(model), options)
    except Exception as error:  # of a class of onnxruntime's own for each code
        raise NotRunError(str(error)) from None


def run(one: ort.InferenceSession, feed: Feed) -> dict[str, np.ndarray]:
    """Return name -> output."""
    types = {info.name: _TYPES[info.type[7:-1]] for info in one.get_inputs()}
    try:
        made = one.run(None, {name: array.astype(types[name]) for name, array in feed.items() if name in types})
    except Exception as error:
        raise NotRunError(str(error)) from None
    return {info.name: array for info, array in zip(one.get_outputs(), made, strict=True)}


def new_feeds(pictures: Feed, batch: int, open_sizes: Mapping[str, Sequence[int]]) -> Iterator[dict[str, np.ndarray]]:
    """Yield inputs that the tool has not seen: of other sizes, all zero, of one sign, and of another number."""
    rng = np.random.default_rng(len(pictures) + 1)
    rows = batch or 3
    for factor in (1.0, 0.01, 30.0, 0.0):
        feed = {}
        for name, array in pictures.items():
            shape = [rows, *array.shape[1:]]
            if name in open_sizes and factor == 0.01:
                shape[2:] = [size + 4 for size in shape[2:]]
            numbers = factor * rng.standard_normal(shape)
            feed[name] = np.abs(numbers) // 1 % 7 if name == "ids" else numbers
        yield feed
    yield {name: (array[:rows] if name == "ids" else -np.abs(array[:rows])) for name, array in pictures.items()}


def _moved(model: onnx.ModelProto, seed: int) -> bytes:
    """Return the model with each number of its arrays rounded another way."""
    rng = np.random.default_rng(seed)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = [
        n.attribute[0].t for n in copy.graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"
    ]
    for array in [*copy.graph.initializer, *constants]:
        numbers = numpy_helper.to_array(array)
        if numbers.dtype.kind == "f":
            towards = rng.choice([-np.inf, np.inf], numbers.shape).astype(numbers.dtype)
            rounded = np.where(numbers == np.rint(numbers), numbers, np.nextafter(numbers, towards))  # 2 is a setting
            array.CopyFrom(numpy_helper.from_array(rounded, array.name))
    return copy.SerializeToString()


def _apart(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    if not np.isfinite(y).all():
        return np.inf
    return float(np.abs(x - y).max(initial=0) / max(np.abs(x).max(initial=0), 1e-30))


def keeps_outputs(path: Path, written: Path, feeds: Sequence[Feed], exact: bool = False) -> str | None:
    """Compare all outputs; not those that are infinite before."""
    a, b = session(path), session(written)
    model = onnx.load(path)
    moved = [session(_moved(model, seed)) for seed in (1, 2)]
    ran = False
    for number, feed in enumerate(feeds):
        try:
            before = run(a, feed)
        except NotRunError:  # of a size that it does not take
            continue
        ran = True
        after = run(b, feed)
        around = [run(one, feed) for one in moved]
        for name, x in before.items():
            if x.dtype.kind != "f" or not all(np.isfinite(y[name]).all() for y in (before, *around)):
                continue
            if x.shape != after[name].shape:
                return f"an output has another shape: {name}"
            found = _apart(x, after[name])
            rounding = max(_apart(x, y[name]) for y in around)
            if exact and not np.array_equal(x, after[name]):
                return f"a bit of an output moves: {name} by {found:.2g} of its largest value, inputs {number}"
            if found > max(TOLERANCE, ROUNDINGS * rounding):
                return f"an output moves: {name} by {found:.2g}, by rounding {rounding:.2g}, inputs {number}"
    if not ran:
        raise NotRunError("no inputs fit")
    return None


def only_numbers_change(path: Path, written: Path) -> str | None:
    """Compare all of the two files but the numbers of arrays that differ."""
    a, b = (onnx.load(p, load_external_data=False) for p in (path, written))
    for model in (a, b):
        holders = [n.attribute[0] for n in model.graph.node if n.op_type == "Constant" and n.attribute]
        for array in [*model.graph.initializer, *(h.t for h in holders if h.name == "value")]:
            if array.data_location == onnx.TensorProto.EXTERNAL:
                for entry in array.external_data:
                    entry.value = "" if entry.key == "location" else entry.value
            for name in _NUMBERS:
                length = len(getattr(array, name))
                array.ClearField(name)
                array.doc_string += f"{name} {length}"
    if a.SerializeToString(deterministic=True) != b.SerializeToString(deterministic=True):
        return "more than numbers has changed"
    return None


def _outputs_of(model: onnx.ModelProto, weight: str) -> tuple[list[str], int] | None:
    """Return the values that may be the output of a weight's unit, and the channels' axis; None if that is not plain."""
    nodes = list(model.graph.node)
    if weight not in arrays_of(model):
        return None
    readers = [n for n in nodes if weight in n.input]
    if len(readers) != 1 or weight in {info.name for info in model.graph.output}:
        return None
    node = readers[0]
    if node.op_type in ("Conv", "ConvTranspose", "Gemm", "BatchNormalization") and list(node.input).index(weight) == 1:
        axis = 1
    elif node.op_type == "MatMul" and node.input[1] == weight:
        axis = -1
    else:
        return None
    found = [node.output[0]]
    # What else reads it may lead nowhere, and then does not count.
    found += [n.output[0] for n in nodes if found[0] in n.input and n.op_type in ("Add", "Sub")]
    return found, axis


def _statistics(values: np.ndarray, axis: int) -> dict[str, float]:
    values = np.moveaxis(values.astype(np.float64), axis, 0).reshape(values.shape[axis], -1)
    stds = values.std(1)
    return {
        "out_mean": float(values.mean(1).mean()),
        "out_std": float(stds.mean()),
        "out_cvar": float(stds.std() / stds.mean()) if stds.mean() else 0.0,
        "max_abs": float(np.abs(values).max()),
    }


def tells_statistics(
    path: Path, units: Sequence[Mapping[str, object]], pictures: Feed, batch: int, loose: float
) -> str | None:
    """Hold what is told of units against the values that onnxruntime computes from the pictures; `loose`: by how much."""
    model = onnx.load(path)
    plain = {str(unit["name"]): found for unit in units if (found := _outputs_of(model, str(unit["name"])))}
    put_out = {info.name for info in model.graph.output}
    wanted = {name for found, _ in plain.values() for name in found} - put_out
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted))
    rows = len(next(iter(pictures.values())))
    step = batch or rows
    values, moved = (
        [run(one, {n: a[i : i + step] for n, a in pictures.items()}) for i in range(0, rows, step)]
        for one in (session(model.SerializeToString()), session(_moved(model, 1)))
    )
    for unit in units:
        found = plain.get(str(unit["name"]))
        if not found or unit["out_std"] is None:
            continue
        apart = []
        for name in found[0]:
            made, rounded = (np.concatenate([part[name] for part in parts]) for parts in (values, moved))
            apart.append(_statistics_apart(made, rounded, found[1], unit, loose))
        if all(apart):
            return f"statistics differ: {apart[-1]}"
    return None


def _statistics_apart(
    values: np.ndarray, moved: np.ndarray, axis: int, unit: Mapping[str, object], loose: float
) -> str | None:
    if not np.isfinite(values).all() or not np.isfinite(moved).all() or np.abs(values).max() > 1e15:
        return None
    computed, rounded = _statistics(values, axis), _statistics(moved, axis)
    size = max(computed["max_abs"], 1e-30)
    if computed["out_std"] < 3e-5 * size:
        return None  # the rounding of an InstanceNormalization over one place is 1.1e-5
    for name, value in computed.items():
        told = unit[name]
        if told is None and (name == "max_abs" or not computed["out_std"]):
            continue  # not asked for, or no number
        bound = STATISTICS * (size if name in ("out_mean", "max_abs") else max(abs(value), 5e-3 * size))
        if name == "out_cvar":
            bound = STATISTICS * max(value, 1) * max(1.0, 1e-3 * size / max(computed["out_std"], 1e-30))
        bound = loose * bound + ROUNDINGS * abs(value - rounded[name])
        if told is None or not abs(float(told) - value) <= bound:  # type: ignore[arg-type]
            return f"{unit['name']} {name} {told} told, {value} computed"
    return None


def same_arrays(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> str | None:
    """Tell whether two spellings of one model were scaled alike."""
    shared = [n for n in sorted(a.keys() & b.keys()) if a[n].dtype.kind == "f" and a[n].shape == b[n].shape]
    if a and not shared:
        return "no array is there as it was"
    for name in shared:
        x, y = a[name].astype(np.float64), b[name].astype(np.float64)
        apart = np.abs(x - y) > SCALES * np.maximum(np.abs(x), np.abs(y)) + 1e-6 * np.abs(x).max(initial=0)
        if apart.any():
            at = tuple(int(i) for i in np.argwhere(apart)[0])
            return f"scales differ: {name}{list(at)} {x[at]:.6g} and {y[at]:.6g}"
    return None
