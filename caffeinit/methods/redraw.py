"""Which arrays of a network are drawn, by which method, and what keeps its values.

Affine units get weights from the methods of `caffeinit.draw`; data-free ones at once, data-driven ones when the pass
over the net reaches their inputs. Biases start at 0, Scale at 1, BatchNorm at mean 0 and variance 1, everything else at
what the prototxt's filler says. Up-sampling by bilinear filters, layers whose training is switched off (lr_mult 0) and
layers that cannot run follow their filler whatever the method, and are not normalised. A layer whose training is switched
off and that has no filler waits for weights of its own; until these are there it is drawn and normalised like any other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from caffeinit.arguments import check_type
from caffeinit.arithmetic.factors import put
from caffeinit.draw import (
    Drawn,
    DrawOptions,
    Filler,
    Geometry,
    PatchSampler,
    Remote,
    Rows,
    WeightSpec,
    Window,
    draw,
    fill,
    find_method,
    unit_rng,
    wanted_samples,
)
from caffeinit.errors import OptionError
from caffeinit.graph import Graph, attribute
from caffeinit.graph.products import PRODUCTS, Product
from caffeinit.graph.units import Learned, Unit, Use
from caffeinit.methods.obstacles import reads_itself
from caffeinit.model.network import Network
from caffeinit.patterns import matches

DEFAULT_SLOPE = 0.25  # Caffe's for PReLU
METHOD = "gaussian"
ALL = "*"  # the pattern of the layers that no other pattern matches
METHODS_GIVEN = "the name of one, or pattern -> name"


@dataclass
class Drawing:
    """What is drawn in one run.

    Attributes:
        methods: unit name -> method.
        samplers: unit name -> what draws it from its inputs, during the pass.
        notes: unit name -> what a reader of the report should know.
        begun: names of the units without weights to draw, whose arrays were set to what they start from.
        kept: unit name -> why it follows its filler and is not normalised.
        unreached: layers that cannot run, drawn as their fillers say.
    """

    methods: dict[str, str] = field(default_factory=dict)
    samplers: dict[str, UnitSampler] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    kept: dict[str, str] = field(default_factory=dict)
    unreached: list[str] = field(default_factory=list)

    def told(self, name: str) -> str:
        """Return how a unit was drawn, in words; empty where it was not."""
        method, sampler = self.methods.get(name, ""), self.samplers.get(name)
        is_blind = sampler is not None and bool(sampler.determined) and not any(sampler.determined)
        return f"gaussian, for want of data for {method}" if is_blind else method

    @property
    def uncorrelated(self) -> dict[str, list[int]]:
        """Unit name -> how many filters of each group promise to respond without correlation, its first; once drawn."""
        return {name: s.determined for name, s in self.samplers.items() if find_method(s.method).in_order}


@dataclass
class UnitSampler:
    """Collects a unit's input patches and then draws its weights from them.

    Attributes:
        determined: how many filters of each group, its first, the patches determined; filled in when it is drawn.
    """

    unit: Unit
    method: str
    spec: WeightSpec
    sampler: PatchSampler
    seed: int
    options: DrawOptions
    notes: list[str]
    determined: list[int] = field(default_factory=list)

    def observe(self, values: np.ndarray | Remote, use: int, pictures: int | None) -> None:
        """Take in one piece of the unit's input at its use number `use`, of so many pictures; None if nobody knows."""
        self.sampler.add(values, use, pictures)

    def draw(self) -> None:
        """Write the unit's weights."""
        drawn = draw(self.method, self.spec, self.seed, self.sampler.samples(), self.options)
        self.sampler.release()
        self.determined[:] = drawn.determined
        _write(self.unit, drawn, self.notes, self.options.threads)


def method_for(network: Network, layer: str, methods: str | Mapping[str, str]) -> str:
    """Return the method of a layer: one for all, or that of a pattern that matches it or one that shares its arrays.

    Of several such patterns the last counts; "*" is for the layers that no other pattern matches, wherever it stands.
    """
    check_type("method", methods, (str, Mapping), METHODS_GIVEN)
    if isinstance(methods, str):
        return methods
    names = [layer, *(name for name, lender in network.lenders.items() if lender == layer)]
    own = [p for p in methods if p != ALL and any(matches(name, p) for name in names)]
    return methods[own[-1]] if own else methods.get(ALL, METHOD)


def draw_network(
    network: Network,
    layers: Callable[[str], bool],
    methods: str | Mapping[str, str],
    seed: int,
    num_images: int,
    options: DrawOptions | None = None,
) -> Drawing:
    """Draw the arrays of the named layers; data-driven units are left to the samplers of the result.

    Args:
        layers: tells whether a layer is drawn.
        methods: one for all layers, or pattern -> method, see `method_for`.
        num_images: how many pictures the pass will bring.
    Raises:
        OptionError: there is no such method, the net cannot have what it needs, or the seed is negative.
    """
    drawing = Drawing()
    options = options or DrawOptions(threads=network.settings.threads or None)
    if seed < 0:
        raise OptionError(f"seed {seed}: has to be 0 or more")
    check_type("method", methods, (str, Mapping), METHODS_GIVEN)
    for name in [methods] if isinstance(methods, str) else methods.values():
        find_method(name)
    owned: set[str] = set()
    for unit in network.units:
        if any(network.learned[i].held for i in unit.initializers):
            owned.update(unit.initializers)
            drawing.kept.update(keeping_reason(unit, network.learned))
        elif layers(unit.layer):
            is_drawn = unit.initializers[0] in owned  # for an earlier unit that it belongs to, too
            owned.update(unit.initializers)
            _begin_unit(unit)
            if keeping_reason(unit, network.learned, is_drawn=True):
                _follow_fillers(network, unit, seed)
            if unit.kind != "affine" or is_drawn:
                drawing.begun.add(unit.name)
            else:
                method = method_for(network, unit.layer, methods)
                _draw_unit(drawing, network, unit, method, seed, num_images, options)
    for name, learned in network.learned.items():
        if name not in owned and layers(learned.layer):
            _follow_filler(network.graph.initializers[name], learned, seed)
    for learned in network.unreached:
        if layers(learned.layer):
            _follow_filler(network.params[learned.layer][learned.index], learned, seed)
            drawing.unreached.append(learned.layer)
    return drawing


def drawing_memory(
    network: Network, layers: Callable[[str], bool], methods: str | Mapping[str, str], num_images: int
) -> tuple[dict[str, int], int, int]:
    """Return about how many bytes drawing takes: patches by the value that they come from, one unit at most, libraries."""
    patches: dict[str, int] = {}
    filled: set[str] = set()
    most = libraries = 0
    for unit in network.units:
        if unit.kind != "affine" or unit.weight is None or not layers(unit.layer):
            continue
        filled.add(unit.initializers[0])
        method = find_method(_drawn_by(network, unit, method_for(network, unit.layer, methods))[0])
        if not (method.in_place and _is_filled_in_place(unit)):
            most = max(most, unit.weight.nbytes)
        if not method.needs_samples:
            continue
        libraries = max(libraries, 0 if method.library in sys.modules else method.library_bytes)
        spec = _spec(unit, network.learned[unit.initializers[0]])
        geometry = _geometry(network.graph, unit.uses[0])
        shape = network.graph.shape(unit.uses[0].input)
        found = min(wanted_samples(method.name, spec), len(unit.uses) * num_images * geometry.positions(shape))
        samples = 4 * spec.group * found * spec.fan_in
        value = unit.uses[0].input
        patches[value] = patches.get(value, 0) + samples
        order = min(found, spec.fan_in)
        # Centred samples in double precision and one more copy, a decomposition, the weight in three forms.
        most = max(most, 3 * samples + 4 * 8 * order**2 + 3 * unit.weight.nbytes)
    others = [learned for name, learned in network.learned.items() if name not in filled] + network.unreached
    sizes = [network.params[of.layer][of.index].nbytes for of in others if layers(of.layer)]
    return patches, max(most, 2 * max(sizes, default=0)), libraries


def _begin_unit(unit: Unit) -> None:
    """Set what is not drawn of a unit to what it starts from."""
    if unit.bias is not None:
        unit.bias[...] = 0
    if unit.kind == "norm":
        assert unit.mean is not None
        assert unit.variance is not None
        unit.mean[...], unit.variance[...] = 0, 1
        if unit.factor is not None:
            unit.factor[...] = 1
    if unit.kind != "affine" and unit.weight is not None:
        unit.weight[...] = 1


def _follow_fillers(network: Network, unit: Unit, seed: int) -> None:
    """Set those arrays of a unit that have a filler to what it says."""
    for name in unit.initializers:
        if network.learned[name].filler is not None:
            _follow_filler(network.graph.initializers[name], network.learned[name], seed)


def _draw_unit(
    drawing: Drawing, network: Network, unit: Unit, method: str, seed: int, num_images: int, options: DrawOptions
) -> None:
    learned = network.learned[unit.initializers[0]]
    drawing.kept.update(keeping_reason(unit, network.learned, is_drawn=True))
    spec = _spec(unit, learned)
    method, told = _drawn_by(network, unit, method)
    drawing.methods[unit.name] = method
    notes = drawing.notes.setdefault(unit.name, [])
    notes += told
    if find_method(method).needs_samples:
        geometries = [_geometry(network.graph, use) for use in unit.uses]
        sampler = PatchSampler(unit.name, geometries, wanted_samples(method, spec), num_images, seed, options.threads)
        drawing.samplers[unit.name] = UnitSampler(unit, method, spec, sampler, seed, options, notes)
    else:
        _write(unit, draw(method, spec, seed, None, options), notes, options.threads)


def _drawn_by(network: Network, unit: Unit, method: str) -> tuple[str, list[str]]:
    """Return the method that draws a unit where `method` is asked for, and what is to be said of that."""
    if (
        keeping_reason(unit, network.learned, is_drawn=True)
        and network.learned[unit.initializers[0]].filler is not None
    ):
        return "filler", []
    if method == "filler" and not network.makers:
        raise OptionError(
            f'--method filler: an ONNX model states no fillers, and so none for "{unit.name}". Choose another method, such '
            "as gaussian"
        )
    if find_method(method).needs_samples and (why := _without_patches(network, unit)):
        return METHOD, [f"gaussian: {method} is not defined for {why}"]
    return method, []


def keeping_reason(unit: Unit, learned: Mapping[str, Learned], is_drawn: bool = False) -> dict[str, str]:
    """Return {unit name: reason} where a unit is to be left as its author set it; empty otherwise.

    Args:
        is_drawn: its arrays are drawn, or were in this run.
    """
    held = next((f"its {of.role} {of.held}" for i in unit.initializers if (of := learned[i]).held), "")
    if held:
        return {unit.name: held}
    filler = learned[unit.initializers[0]].filler
    if filler is not None and getattr(filler, "type", "") == "bilinear":
        return {unit.name: "bilinear up-sampling"}
    is_set = unit.kind == "channel" or (unit.kind == "affine" and not (is_drawn and filler is None))
    return {unit.name: "its training is switched off (lr_mult 0)"} if unit.frozen and is_set else {}


def holding_reason(unit: Unit, learned: Mapping[str, Learned]) -> str:
    """Return why a unit's arrays must stay if the net's function is to stay; empty where they need not."""
    sharer = next((s for i in unit.initializers if (s := learned[i].sharer)), "")
    if sharer:
        return f'layer "{sharer}", which cannot run, shares its weights'
    return keeping_reason(unit, learned).get(unit.name, "")


def _spec(unit: Unit, learned: Learned) -> WeightSpec:
    assert unit.weight is not None
    node = unit.uses[0].node
    group, outputs = unit.weight.shape[:2]
    transposed = node.op_type == "ConvTranspose" or (
        node.op_type == "Gemm" and Product.of(node, unit.uses[0].side).is_turned
    )
    shape = (group * outputs, *unit.weight.shape[2:])
    target = unit.weight.reshape(shape) if _is_filled_in_place(unit) else None
    return WeightSpec(unit.name, shape, group, plain_filler(learned.filler), transposed, target)


def _is_filled_in_place(unit: Unit) -> bool:
    """Tell whether a unit's weight can be made where it lies."""
    weight = unit.weight
    return weight is not None and weight.flags.c_contiguous and weight.dtype == np.float32


def plain_filler(message: Any) -> Filler | None:
    """Return a FillerParameter as plain values."""
    if message is None:
        return None
    norm = message.DESCRIPTOR.fields_by_name["variance_norm"].enum_type.values_by_number[message.variance_norm].name
    names = ("type", "value", "min", "max", "mean", "std", "sparse")
    return Filler(**{n: getattr(message, n) for n in names}, variance_norm=norm)


def _geometry(graph: Graph, use: Use) -> Geometry:
    node = use.node
    shape = graph.shape(use.input)
    if node.op_type != "Conv":
        axis = Product.of(node, use.side, len(shape)).input_axis
        return Rows(shape[axis], axis=axis)
    axes = len(shape) - 2
    kernel = attribute(node, "kernel_shape", list(graph.shape(node.input[1])[2:]))
    pads = attribute(node, "pads", [0] * (2 * axes))
    ones = [1] * axes
    return Window(
        tuple(kernel),
        tuple(attribute(node, "strides", ones)),
        tuple(pads[:axes]),
        tuple(pads[axes:]),
        tuple(attribute(node, "dilations", ones)),
        attribute(node, "group", 1),
    )


def _without_patches(network: Network, unit: Unit) -> str:
    """Return what about a unit keeps patches from being cut from its input; empty if nothing does."""
    if reads_itself(network, unit):
        return "weights that their own input is made of"
    for use in unit.uses:
        rank = len(network.graph.shape(use.input))
        if use.node.op_type == "ConvTranspose":
            return "a deconvolution"
        if use.node.op_type in PRODUCTS and Product.of(use.node, use.side, rank).input_axis == -rank:
            return "channels on the first axis, where pictures are looked for"
    return ""


def _write(unit: Unit, drawn: Drawn, notes: list[str], threads: int | None) -> None:
    """Set a unit's weight so that it does what was drawn: the factor that a Gemm has besides is divided out."""
    assert unit.weight is not None
    if not np.may_share_memory(drawn.weight, unit.weight):  # or it was made there
        put(unit.weight, drawn.weight.reshape(unit.weight.shape), threads or 0)
    if unit.alpha != 1:
        unit.weight /= np.float32(unit.alpha)
    notes += drawn.notes


def _follow_filler(array: np.ndarray, learned: Learned, seed: int) -> None:
    """Set an array that belongs to no unit to what its filler says, or to where such arrays start."""
    filler = plain_filler(learned.filler)
    if filler is not None:
        array[...] = fill(filler, array.shape, unit_rng(seed, learned.layer, learned.index))
    elif learned.role == "slope":
        array[...] = DEFAULT_SLOPE
    elif learned.role in ("scale", "variance", "factor"):
        array[...] = 1
    elif learned.role in ("weight", "recurrent", "table"):
        fan_in = max(1, int(np.prod(array.shape[1:])))
        rng = unit_rng(seed, learned.layer, learned.index)
        array[...] = rng.standard_normal(array.shape, np.float32) / np.sqrt(np.float32(fan_in))
    else:
        array[...] = 0


def select(network: Network, patterns: Sequence[str] | None) -> set[str]:
    """Return the layers that match any of the shell patterns, and those whose arrays they share; all without patterns."""
    if patterns is None:
        return set(network.params)
    found = {n for n in network.params if any(matches(n, p) for p in patterns)}
    return found | {lender for name, lender in network.lenders.items() if name in found}
