"""Small nets as exporters write them, built with onnx's own helpers at any opset from 7 to 21; weights are random."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from caffeinit.engine.session import Settings
from caffeinit.graph import Graph
from caffeinit.graph.opsets import raised
from caffeinit.graph.units import Learned
from caffeinit.model.network import Network
from tests.nets import NoFiles

SHAPE = (3, 16, 12)


class ModelBuilder:
    """Collects nodes and initializers; settings are attributes or inputs, as the opset wants them."""

    def __init__(self, opset, seed=0):
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.nodes, self.initializers = [], []

    def op(self, kind, *inputs, outputs=1, **attributes):
        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        inputs = [i if isinstance(i, str) else self.array(i) for i in inputs]
        self.nodes.append(helper.make_node(kind, inputs, names, f"{kind}_{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def array(self, values, name=None):
        name = name or f"array_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def draw(self, name, *shape):
        """Return a learned array whose rows have lengths between 0.3 and 3."""
        rows = self.rng.uniform(0.3, 3, (shape[0],) + (1,) * (len(shape) - 1))
        values = self.rng.standard_normal(shape) * rows / np.sqrt(np.prod(shape[1:]) or 1)
        return self.array(values.astype(np.float32), name)

    def with_axes(self, kind, x, axes, since, **attributes):
        if self.opset < since:
            return self.op(kind, x, axes=axes, **attributes)
        return self.op(kind, x, np.asarray(axes, np.int64), **attributes)

    def mean(self, x, axes):
        return self.with_axes("ReduceMean", x, axes, 18)

    def clip(self, x, low, high):
        if self.opset < 11:
            return self.op("Clip", x, min=low, max=high)
        return self.op("Clip", x, np.float32(low), np.float32(high))

    def conv(self, x, name, inputs, outputs, kernel=3, group=1, stride=1, bias=True):
        weight = self.draw(f"{name}.weight", outputs, inputs // group, kernel, kernel)
        more = [self.draw(f"{name}.bias", outputs)] if bias else []
        return self.op("Conv", x, weight, *more, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4,
                       strides=[stride] * 2, group=group)  # fmt: skip

    def norm(self, x, name, channels):
        arrays = [self.draw(f"{name}.{part}", channels) for part in ("weight", "bias", "running_mean")]
        variance = self.rng.uniform(0.5, 2, channels).astype(np.float32)
        return self.op("BatchNormalization", x, *arrays, self.array(variance, f"{name}.running_var"), epsilon=1e-5)

    def linear(self, x, name, inputs, outputs):
        """Return MatMul + Add, as torch writes a linear layer on more than two axes."""
        y = self.op("MatMul", x, self.array(self.draw_square(inputs, outputs), f"{name}.weight"))
        return self.op("Add", y, self.draw(f"{name}.bias", outputs))

    def draw_square(self, inputs, outputs):
        columns = self.rng.uniform(0.3, 3, outputs)
        return (self.rng.standard_normal((inputs, outputs)) * columns / np.sqrt(inputs)).astype(np.float32)

    def head(self, x, channels, classes=4):
        x = self.op("Flatten", self.op("GlobalAveragePool", x), axis=1)
        return self.op("Gemm", x, self.draw("fc.weight", classes, channels), self.draw("fc.bias", classes), transB=1)

    def finish(self, output, rank=2):
        graph = helper.make_graph(
            [*self.nodes, helper.make_node("Identity", [output], ["output"])], "net",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *SHAPE])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, [None] * rank)], self.initializers,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        onnx.checker.check_model(model)
        return model


def mobilenet_v2(opset):
    b = ModelBuilder(opset)

    def block(x, name, inputs, outputs, stride):
        y = b.clip(b.norm(b.conv(x, f"{name}.expand", inputs, 12, 1, bias=False), f"{name}.bn1", 12), 0.0, 6.0)
        y = b.conv(y, f"{name}.depthwise", 12, 12, group=12, stride=stride, bias=False)
        y = b.clip(b.norm(y, f"{name}.bn2", 12), 0.0, 6.0)
        y = b.norm(b.conv(y, f"{name}.project", 12, outputs, 1, bias=False), f"{name}.bn3", outputs)
        return b.op("Add", x, y) if stride == 1 and inputs == outputs else y

    x = b.clip(b.norm(b.conv("input", "stem", 3, 8, stride=2, bias=False), "bn", 8), 0.0, 6.0)
    x = block(block(block(x, "b1", 8, 6, 1), "b2", 6, 6, 1), "b3", 6, 10, 2)
    return b.finish(b.head(b.clip(b.conv(x, "last", 10, 16, 1), 0.0, 6.0), 16))


def resnet(opset):
    b = ModelBuilder(opset)

    def block(x, name, inputs, outputs, stride):
        y = b.op("Relu", b.norm(b.conv(x, f"{name}.conv1", inputs, outputs, 3, 1, stride), f"{name}.bn1", outputs))
        y = b.norm(b.conv(y, f"{name}.conv2", outputs, outputs, bias=False), f"{name}.bn2", outputs)
        if inputs != outputs:
            x = b.norm(b.conv(x, f"{name}.down", inputs, outputs, 1, 1, stride, bias=False), f"{name}.bn3", outputs)
        return b.op("Relu", b.op("Add", y, x))

    x = b.op("Relu", b.norm(b.conv("input", "conv1", 3, 6, bias=False), "bn1", 6))
    x = b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    return b.finish(b.head(block(block(x, "layer1", 6, 6, 1), "layer2", 6, 10, 2), 10))


def densenet(opset):
    b = ModelBuilder(opset)

    def layer(x, name, inputs):
        y = b.op("Relu", b.norm(x, f"{name}.norm1", inputs))
        y = b.op("Relu", b.norm(b.conv(y, f"{name}.conv1", inputs, 8, 1, bias=False), f"{name}.norm2", 8))
        return b.op("Concat", x, b.conv(y, f"{name}.conv2", 8, 4, bias=False), axis=1)

    x = layer(layer(b.conv("input", "conv0", 3, 6, stride=2), "d1", 6), "d2", 10)
    x = b.conv(b.op("Relu", b.norm(x, "transition.norm", 14)), "transition.conv", 14, 7, 1, bias=False)
    x = layer(b.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), "d3", 7)
    return b.finish(b.head(b.op("Dropout", b.op("Relu", b.norm(x, "norm5", 11))), 11))


def squeeze_excite(opset):
    """Return a net with gates, as in MobileNetV3: HardSwish and HardSigmoid, spelt out where the opset lacks them."""
    b = ModelBuilder(opset)

    def swish(x):
        if opset >= 14:
            return b.op("HardSwish", x)
        gate = b.clip(b.op("Add", x, np.float32(3)), 0.0, 6.0)
        return b.op("Div", b.op("Mul", x, gate), np.float32(6))

    x = swish(b.norm(b.conv("input", "stem", 3, 8, stride=2, bias=False), "bn", 8))
    x = b.op("Relu", b.conv(x, "features", 8, 8))
    gate = b.op("Relu", b.conv(b.mean(x, [2, 3]), "se.fc1", 8, 4, 1))
    gate = b.op("HardSigmoid", b.conv(gate, "se.fc2", 4, 8, 1), alpha=1 / 6)
    x = b.op("PRelu", b.conv(b.op("Mul", x, gate), "project", 8, 6, 1), b.draw("slope", 6, 1, 1))
    return b.finish(b.head(x, 6))


def unet(opset):
    b = ModelBuilder(opset)

    def up(x):
        factors = np.float32([1, 1, 2, 2])
        if opset < 9:
            return b.op("Upsample", x, scales=factors.tolist(), mode="nearest")
        if opset < 10:
            return b.op("Upsample", x, factors, mode="nearest")
        if opset < 11:
            return b.op("Resize", x, factors, mode="linear")
        return b.op("Resize", x, "", factors, mode="linear", coordinate_transformation_mode="half_pixel")

    def padded(x):
        pads = [0, 0, 1, 1, 0, 0, 1, 1]
        if opset < 11:
            return b.op("Pad", x, pads=pads, mode="reflect")
        return b.op("Pad", x, np.asarray(pads, np.int64), mode="reflect")

    first = b.op("LeakyRelu", b.conv(padded("input"), "down1", 3, 6), alpha=0.1)
    second = b.op("LeakyRelu", b.conv(b.op("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2]), "down2", 6, 8))
    y = b.op("ConvTranspose", second, b.draw("up.weight", 8, 5, 2, 2), b.draw("up.bias", 5), strides=[2, 2])
    joined = b.op("Concat", first, b.op("Relu", y), up(second), axis=1)
    return b.finish(b.op("Sigmoid", b.conv(b.op("Relu", b.conv(joined, "join", 19, 7)), "out", 7, 2, 1)), rank=4)


def layer_norm(b, x, name, width):
    scale, bias = b.draw(f"{name}.weight", width), b.draw(f"{name}.bias", width)
    if b.opset >= 17:
        return b.op("LayerNormalization", x, scale, bias, axis=-1)
    centred = b.op("Sub", x, b.mean(x, [-1]))
    variance = b.mean(b.op("Pow", centred, np.float32(2)), [-1])
    y = b.op("Div", centred, b.op("Sqrt", b.op("Add", variance, np.float32(1e-5))))
    return b.op("Add", b.op("Mul", y, scale), bias)


def gelu(b, x):
    if b.opset >= 20:
        return b.op("Gelu", x)
    below = b.op("Add", b.op("Erf", b.op("Div", x, np.float32(np.sqrt(2)))), np.float32(1))
    return b.op("Mul", b.op("Mul", x, below), np.float32(0.5))


def attention(b, x, width, heads=2):
    """Return self-attention on (N, T, width); the shape of the heads is spelt out as arithmetic."""
    qkv = b.linear(x, "qkv", width, 3 * width)
    sizes = [width] * 3
    parts = (
        b.op("Split", qkv, axis=2, outputs=3, split=sizes)
        if b.opset < 13
        else b.op("Split", qkv, np.asarray(sizes, np.int64), axis=2, outputs=3)
    )
    picture = b.op("Slice", b.op("Shape", x), *(np.asarray([n], np.int64) for n in (0, 2)))  # (N, T)
    target = b.op("Concat", picture, np.asarray([heads, width // heads], np.int64), axis=0)
    q, k, v = (b.op("Transpose", b.op("Reshape", p, target), perm=[0, 2, 1, 3]) for p in parts)
    scores = b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2]))
    share = b.op("Softmax", b.op("Div", scores, np.float32(np.sqrt(width // heads))), axis=3)
    y = b.op("Transpose", b.op("MatMul", share, v), perm=[0, 2, 1, 3])
    return b.linear(b.op("Reshape", y, np.asarray([0, 0, width], np.int64)), "proj", width, width)


def vit(opset):
    b, width = ModelBuilder(opset), 8
    x = b.op("Conv", "input", b.draw("patch.weight", width, 3, 4, 4), b.draw("patch.bias", width), strides=[4, 4])
    x = b.op("Transpose", b.op("Reshape", x, np.asarray([0, width, -1], np.int64)), perm=[0, 2, 1])
    x = b.op("Add", x, b.draw("positions", 1, 12, width))
    x = b.op("Add", x, attention(b, layer_norm(b, x, "ln1", width), width))
    y = gelu(b, b.linear(layer_norm(b, x, "ln2", width), "mlp1", width, 16))
    x = b.op("Add", x, b.linear(y, "mlp2", 16, width))
    pooled = b.op("Gather", layer_norm(b, x, "ln3", width), np.asarray(0), axis=1)
    return b.finish(b.op("Gemm", pooled, b.draw("fc.weight", 4, width), b.draw("fc.bias", 4), transB=1))


MODELS = {
    "mobilenet_v2": (mobilenet_v2, (7, 11, 17, 21)),
    "resnet": (resnet, (7, 13, 20)),
    "densenet": (densenet, (8, 12, 18)),
    "squeeze_excite": (squeeze_excite, (9, 11, 18)),
    "unet": (unet, (7, 9, 10, 13, 19)),
    "vit": (vit, (11, 13, 17, 20)),
}


def network_of(model, batch=4):
    """Return the model as a network: every floating-point initializer with more than one number is learned."""
    (opset,) = (entry.version for entry in model.opset_import if entry.domain == "")
    graph = Graph(opset)
    graph.batch_axis_free = True
    arrays = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in arrays:
            dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
            graph.add_input(value.name, (batch, *dims[1:]))
    for name, array in arrays.items():
        graph.add_initializer(name, array)
    for node in model.graph.node:
        graph.append(node)
    graph.outputs = [value.name for value in model.graph.output]
    roles = {n: r for node in model.graph.node for n, r in _roles(node) if n in arrays}
    learned = {n: Learned(n, 0, r) for n, r in roles.items() if arrays[n].dtype == np.float32 and arrays[n].size > 1}
    params = {n: (arrays[n],) for n in learned}
    return Network(raised(graph), params, learned, NoFiles(), settings=Settings(threads=1))


def _roles(node):
    if node.op_type == "BatchNormalization":
        return zip(node.input[1:], ("scale", "bias", "mean", "variance"), strict=True)
    if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
        return zip(node.input[1:], ("weight", "bias"), strict=False)
    if node.op_type in ("MatMul", "Add", "Mul", "PRelu", "LayerNormalization"):
        return [
            (n, {"MatMul": "weight", "Add": "bias", "PRelu": "slope"}.get(node.op_type, "scale")) for n in node.input
        ]
    return []
