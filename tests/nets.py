"""Small nets for tests, built directly as graphs with learned arrays."""

from __future__ import annotations

import numpy as np

from caffeinit.engine.session import Settings
from caffeinit.graph import Graph
from caffeinit.graph.units import Learned
from caffeinit.model.network import Network


class NoFiles:
    """Stands for the files of a net that has none."""

    def round_as_stored(self, params):
        return False


class NetBuilder:
    """Builds a Network layer by layer; every array is random and learned."""

    def __init__(self, shape=(4, 3, 12, 10), seed=0):
        self.graph = Graph()
        self.graph.batch_axis_free = True
        self.rng = np.random.default_rng(seed)
        self.learned = {}
        self.graph.add_input("data", shape)

    def array(self, layer, index, shape, role="weight", values=None):
        name = f"{layer}/param{index}"
        if values is None:
            fan_in = int(np.prod(shape[1:])) or 1
            values = (
                self.rng.standard_normal(shape)
                / np.sqrt(fan_in)
                * self.rng.uniform(0.3, 3, (shape[0],) + (1,) * (len(shape) - 1))
            )
        self.graph.add_initializer(name, np.ascontiguousarray(values, np.float32))
        self.learned[name] = Learned(layer, index, role)
        return name

    def conv(self, x, name, outputs, kernel=3, group=1, bias=True, pad=1, stride=1):
        channels = self.graph.shape(x)[1]
        inputs = [x, self.array(name, 0, (outputs, channels // group, kernel, kernel))]
        if bias:
            inputs.append(self.array(name, 1, (outputs,), "bias"))
        return self.graph.op(
            "Conv", *inputs, name=name, kernel_shape=[kernel] * 2, pads=[pad] * 4, strides=[stride] * 2, group=group
        )

    def product(self, x, name, outputs):
        shape = self.graph.shape(x)
        x = self.graph.reshape(x, [shape[0], int(np.prod(shape[1:]))])
        weight = self.array(name, 0, (outputs, int(np.prod(shape[1:]))))
        return self.graph.op("Gemm", x, weight, self.array(name, 1, (outputs,), "bias"), transB=1, name=name)

    def scale(self, x, name):
        channels = self.graph.shape(x)[1]
        gamma, beta = self.array(name, 0, (channels,), "scale"), self.array(name, 1, (channels,), "bias")
        y = self.graph.op("Mul", x, self.graph.op("Reshape", gamma, [1, channels, 1, 1]))
        return self.graph.op("Add", y, self.graph.op("Reshape", beta, [1, channels, 1, 1]), name=name)

    def norm(self, x, name):
        channels = self.graph.shape(x)[1]
        mean = self.array(name, 0, (channels,), "mean")
        variance = self.array(name, 1, (channels,), "variance", self.rng.uniform(0.5, 2, channels))
        factor = self.array(name, 2, (1,), "factor", np.array([1.0]))
        inverse = self.graph.op("Reciprocal", factor)
        return self.graph.op(
            "BatchNormalization",
            x,
            np.ones(channels, np.float32),
            np.zeros(channels, np.float32),
            self.graph.op("Mul", mean, inverse),
            self.graph.op("Mul", variance, inverse),
            epsilon=1e-5,
            name=name,
        )

    def relu(self, x):
        return self.graph.op("Relu", x)

    def finish(self, *outputs):
        self.graph.outputs = list(outputs)
        params = {}
        for name, source in self.learned.items():
            params.setdefault(source.layer, []).append(self.graph.initializers[name])
        return Network(
            self.graph, {k: tuple(v) for k, v in params.items()}, self.learned, NoFiles(), settings=Settings(threads=1)
        )


def chain(seed=0):
    b = NetBuilder(seed=seed)
    x = b.relu(b.conv("data", "conv1", 8))
    x = b.graph.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = b.relu(b.conv(x, "conv2", 6, group=2))
    return b.finish(b.product(b.relu(b.product(x, "ip1", 20)), "ip2", 5))


def inception(seed=0):
    b = NetBuilder(seed=seed)
    x = b.relu(b.conv("data", "stem", 8))
    one = b.relu(b.conv(x, "one", 4, kernel=1, pad=0))
    three = b.relu(b.conv(b.relu(b.conv(x, "reduce", 4, kernel=1, pad=0)), "three", 6))
    x = b.graph.op("Concat", one, three, axis=1)
    return b.finish(b.product(b.conv(x, "last", 4), "ip", 3))


def residual(seed=0):
    b = NetBuilder(seed=seed)
    x = b.relu(b.scale(b.norm(b.conv("data", "conv1", 8, bias=False), "bn1"), "scale1"))
    y = b.relu(b.scale(b.norm(b.conv(x, "conv2", 8, bias=False), "bn2"), "scale2"))
    y = b.scale(b.norm(b.conv(y, "conv3", 8, bias=False), "bn3"), "scale3")
    x = b.relu(b.graph.op("Add", x, y))
    return b.finish(b.product(x, "ip", 3))


def batch_statistics(seed=0):
    """A net whose values hang on all pictures of a batch; it is of the function of its batches."""
    b = NetBuilder(seed=seed)

    def normal(x):
        axes = [a for a in range(len(b.graph.shape(x))) if a != 1]
        x = b.graph.op("Sub", x, b.graph.op("ReduceMean", x, axes=axes, keepdims=1))
        return b.graph.op("Div", x, b.graph.op("ReduceMean", b.graph.op("Abs", x), axes=axes, keepdims=1))

    x = b.relu(normal(b.conv("data", "conv1", 6)))
    return b.finish(b.product(b.relu(normal(b.product(x, "ip1", 5))), "ip2", 4))


NETS = {"chain": chain, "inception": inception, "residual": residual}


def pictures(num=12, shape=(3, 12, 10), batch=4, seed=1):
    values = np.random.default_rng(seed).standard_normal((num, *shape)).astype(np.float32)
    return [{"data": values[i : i + batch]} for i in range(0, num, batch)]
