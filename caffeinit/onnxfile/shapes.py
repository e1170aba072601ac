"""Shapes of an ONNX model's inputs: what the file declares, what the user says, and what is left open.

Initializers may be among the inputs, too; these are held against what is declared of them. An input (3, H, W) takes one
picture, as detectors' often do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto

from caffeinit.errors import CaffeinitError, FormatError, OptionError
from caffeinit.graph import Shape, layouts
from caffeinit.graph.sizes import MOST_FED


def input_shapes(inputs: Sequence[onnx.ValueInfoProto], given: Mapping[str, Shape], where: str) -> dict[str, Shape]:
    """Return input -> shape; the batch is 1 where the file leaves it open.

    Args:
        given: input -> shape, with or without the batch; taken instead of what the file says.
    Raises:
        CaffeinitError: an axis other than the batch is open.
        OptionError: there is no such input, or it has other axes.
    """
    names = [v.name for v in inputs]
    for name in given:
        if name not in names:
            raise OptionError(f'{where}: there is no input "{name}" to give a shape to; inputs: {", ".join(names)}')
    known: dict[str, int] = {}  # named axes that several inputs share
    shapes: dict[str, list[int | str | None]] = {}
    for value in inputs:
        dims = _declared(value)
        if value.name in given:
            own = list(given[value.name])
            declared = dims if dims is not None else [None] * len(own)
            if len(own) == len(declared) - 1:
                first = declared[0]
                own = [first if isinstance(first, int) else 1, *own]
            if len(own) != len(declared):
                raise OptionError(f'{where}: input "{value.name}" has {len(declared)} axes, not those of {tuple(own)}')
            known |= {d: n for d, n in zip(declared, own, strict=True) if isinstance(d, str)}
            shapes[value.name] = [*own]
        elif dims is None:
            raise CaffeinitError(
                f'{where}: does not tell how many axes input "{value.name}" has. Give --input-shape {value.name}=N,C,H,W'
            )
        else:
            shapes[value.name] = dims
    return {name: _settled(name, dims, known, where) for name, dims in shapes.items()}


def declared_shape(value: onnx.ValueInfoProto) -> tuple[int | str | None, ...]:
    """Return an input's axes as the file tells them, a number, a name, or None each; nothing where it tells no rank."""
    return tuple(_declared(value) or ())


def _declared(value: onnx.ValueInfoProto) -> list[int | str | None] | None:
    """Return an input's axes: a number, a name, or None; None in place of all where the file does not tell the rank."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return []
    if not kind.HasField("shape"):
        return None
    return [d.dim_value if d.dim_value > 0 else d.dim_param or None for d in kind.shape.dim]


def _settled(name: str, dims: list[int | str | None], known: Mapping[str, int], where: str) -> Shape:
    first = [known.get(d, 1) if isinstance(d, str) else d or 1 for d in dims[:1]]
    rest = [known.get(d) if isinstance(d, str) else d for d in dims[1:]]
    if None in rest:
        shown = ", ".join(str(d) for d in [*first, *("?" if d is None else d for d in rest)])
        axes = ",".join("CHW"[i] if len(dims) == 4 else f"D{i + 1}" for i in range(len(dims) - 1))
        raise CaffeinitError(f'{where}: input "{name}" leaves axes open: ({shown}). Give --input-shape {name}={axes}')
    shape = tuple(d for d in (*first, *rest) if d is not None)
    if math.prod(shape) > MOST_FED:
        raise CaffeinitError(f'{where}: input "{name}" is {shape}, which no memory holds; the file may be damaged')
    return shape


def check_declared(inputs: Sequence[onnx.ValueInfoProto], stored: Mapping[str, tuple[int, Shape]], where: str) -> None:
    """Refuse an input that is declared otherwise than the initializer of its name is; axes left open fit any size.

    Args:
        stored: initializer -> its element type and shape, as in the file.
    Raises:
        FormatError: there is one.
    """
    for value in inputs:
        if value.name in stored and not _fits(value.type, *stored[value.name]):
            raise FormatError(
                f'{where}: initializer "{value.name}" is {_in_words(*stored[value.name])}, but the input of its name is '
                f"declared as {_stated(value.type)}; onnxruntime would not load this model.\n"
                "Take the name out of the inputs, or declare it as the initializer is."
            )


def _fits(declared: onnx.TypeProto, elem_type: int, shape: Shape) -> bool:
    tensor = declared.tensor_type
    if not declared.HasField("tensor_type"):
        return declared.WhichOneof("value") is None
    if tensor.elem_type not in (elem_type, TensorProto.UNDEFINED):
        return False
    dims = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
    sizes = zip(dims, shape, strict=False)
    return not tensor.HasField("shape") or (len(dims) == len(shape) and all(d < 0 or d == n for d, n in sizes))


def _stated(declared: onnx.TypeProto) -> str:
    """Return a declared type and shape in words."""
    tensor = declared.tensor_type
    if not declared.HasField("tensor_type"):
        return f"a {(declared.WhichOneof('value') or '').partition('_')[0]}"
    dims = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim]
    return _in_words(tensor.elem_type, dims if tensor.HasField("shape") else None)


def _in_words(elem_type: int, shape: Sequence[int | str] | None) -> str:
    is_known = elem_type in TensorProto.DataType.values() and elem_type != TensorProto.UNDEFINED
    kind = TensorProto.DataType.Name(elem_type).lower() if is_known else f"type {elem_type}"  # type: ignore[arg-type]
    if shape is None:
        return kind
    return f"{kind} ({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def is_one_picture(value: onnx.ValueInfoProto) -> bool:
    """Tell whether an input takes a single picture, (3, H, W)."""
    return layouts.is_one_picture(_declared(value) or [])


def is_channels_last(value: onnx.ValueInfoProto) -> bool:
    """Tell whether an input takes pictures as (N, H, W, C)."""
    return layouts.is_channels_last(_declared(value) or [])
