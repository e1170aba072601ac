"""Nets of one layer: built from a row of a table, run, and compared with a definition in plain numpy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from caffeinit.caffe.layers import find_type
from caffeinit.caffe.lower import infer_net, lower_net
from caffeinit.caffe.net import read_net
from caffeinit.engine.session import Settings, compile_graph
from caffeinit.graph import Shape
from caffeinit.protos import schema

_NUMBER = itertools.count()


@dataclass
class Case:
    """One layer.

    Attributes:
        kind: layer type.
        settings: the rest of the layer's text.
        bottoms: shapes.
        tops: shapes that Caffe gives.
        define: (arrays of bottoms, parameters) -> tops, the definition; None where a case only asks for shapes.
        make: (rng, shape, index) -> a bottom's values; normal numbers by default.
        params: parameter shapes, where there are any.
        is_bound: the batch is not axis 0 of all bottoms and tops, so that no second batch size is tried.
        tolerance: of the largest value, in single precision.
    """

    kind: str
    settings: str
    bottoms: Sequence[Shape]
    tops: Sequence[Shape]
    define: Callable[..., list[np.ndarray]] | None = None
    make: Callable[[np.random.Generator, Shape, int], np.ndarray] | None = None
    params: Sequence[Shape] = ()
    is_bound: bool = False
    tolerance: float = 2e-6
    name: str = field(default="")

    def __str__(self) -> str:
        return self.name or f"{self.kind}-{self.settings[:50]}-{self.bottoms[0] if self.bottoms else ''}"

    def text(self) -> str:
        """Return a net of the layer and its inputs."""
        inputs = "".join(
            f'layer {{ name: "in{i}" type: "Input" top: "in{i}" input_param {{ shape {{ '
            + " ".join(f"dim: {d}" for d in shape)
            + " } } }\n"
            for i, shape in enumerate(self.bottoms)
        )
        ends = "".join(f' bottom: "in{i}"' for i in range(len(self.bottoms)))
        ends += "".join(f' top: "out{i}"' for i in range(len(self.tops)))
        return f'{inputs}layer {{ name: "it" type: "{self.kind}"{ends} {self.settings} }}\n'

    def infer(self, tmp_path, bottoms: Sequence[Shape] | None = None):
        """Return what is known of the net before it is lowered."""
        path = tmp_path / f"{next(_NUMBER)}.prototxt"
        path.write_text(self.text())
        given = {f"in{i}": shape for i, shape in enumerate(bottoms or self.bottoms)}
        return infer_net(read_net(path), given)

    def values(self, bottoms: Sequence[Shape] | None = None, seed: int = 1) -> list[np.ndarray]:
        """Return bottoms' values."""
        rng = np.random.default_rng(seed)
        make = self.make or (lambda r, shape, i: r.standard_normal(shape))
        return [np.asarray(make(rng, s, i), np.float32) for i, s in enumerate(bottoms or self.bottoms)]

    def arrays(self, found) -> list[np.ndarray]:
        """Return parameters; variances are positive."""
        rng = np.random.default_rng(2)
        return [
            rng.uniform(0.5, 2, p.shape).astype(np.float32)
            if p.role == "variance"
            else rng.standard_normal(p.shape).astype(np.float32) * np.float32(0.5)
            for p in found.params.get("it", [])
        ]


def lower(found, arrays):
    """Return the graph, or fail with the reason."""
    lowered = lower_net(found, {"it": arrays})
    assert not found.blocked, found.blocked
    return lowered.graph


def run(graph, feeds):
    """Return all outputs of a graph."""
    session = compile_graph(graph, list(graph.outputs), Settings())
    return session.run({n: a for n, a in feeds.items() if n in graph.inputs})


def check_case(case: Case, tmp_path) -> None:
    """Ask a row everything: shapes, parameters, the checker, the values, and another batch size through one graph."""
    found = case.infer(tmp_path)
    assert not found.blocked, found.blocked
    outputs = [f"out{i}" for i in range(len(case.tops))]
    assert [found.shapes[o] for o in outputs] == list(case.tops)
    assert [p.shape for p in found.params["it"]] == list(case.params)
    arrays = case.arrays(found)
    graph = lower(found, arrays)
    graph.outputs = outputs
    onnx.checker.check_model(graph.to_model(), full_check=True)
    _compare(case, graph, arrays, case.values(), exact_shapes=True)
    if not case.is_bound:
        assert graph.batch_axis_free
        more = [(shape[0] + 1, *shape[1:]) for shape in case.bottoms]
        _compare(case, graph, arrays, case.values(more, seed=3), exact_shapes=False)


def _compare(case, graph, arrays, values, exact_shapes):
    feeds = {f"in{i}": v for i, v in enumerate(values)}
    outputs = run(graph, feeds)
    expected = case.define(*values, *arrays) if case.define else []
    for i, shape in enumerate(case.tops):
        got = outputs[f"out{i}"]
        assert got.dtype == np.float32
        if exact_shapes:
            assert got.shape == tuple(shape)
        if case.define:
            assert got.shape == expected[i].shape
            # Sums in another order: a few roundings of 6e-8 of the largest value.
            tolerance = case.tolerance * max(1e-30, float(np.abs(expected[i]).max()))
            np.testing.assert_allclose(got, expected[i], rtol=0, atol=tolerance)


def check_refusal(case: Case, words: str, tmp_path) -> None:
    """A layer that is refused says why, in these words."""
    found = case.infer(tmp_path)
    if "it" not in found.blocked:
        lower_net(found, {"it": case.arrays(found)})
    assert words in found.blocked.get("it", "nothing was refused")


def check_every_type_has_a_row(module, cases) -> None:
    """Every layer type that a module registers has a row in its table."""
    mine = {
        kind.type
        for name in dir(module)
        if isinstance(getattr(module, name), type)
        for kind in [find_type_of(getattr(module, name), module)]
        if kind is not None
    }
    assert mine, "the module registers nothing"
    assert mine <= {find_type(case.kind).type for case in cases}


def find_type_of(cls, module):
    """Return the description that a class of the module is registered as."""
    from caffeinit.caffe.layers.base import known_types

    if cls.__module__ != module.__name__:
        return None
    return next((find_type(n) for n in known_types() if type(find_type(n)) is cls), None)


def layer(text: str):
    """Return a layer message from text."""
    from google.protobuf import text_format

    return text_format.Parse(text, schema.message("LayerParameter")())
