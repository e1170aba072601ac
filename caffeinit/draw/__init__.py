"""Drawing weights: arrays in, arrays out; nothing here knows a file format or runs a net."""

from .fillers import FILLER_TYPES, fill
from .methods import METHODS, Method, draw, find_method, wanted_samples
from .policies import POLICIES
from .rng import unit_rng
from .sampler import Geometry, PatchSampler, Remote, Rows, Window
from .spec import Drawn, DrawOptions, Filler, WeightSpec

__all__ = [
    "FILLER_TYPES",
    "METHODS",
    "POLICIES",
    "DrawOptions",
    "Drawn",
    "Filler",
    "Geometry",
    "Method",
    "PatchSampler",
    "Remote",
    "Rows",
    "WeightSpec",
    "Window",
    "draw",
    "fill",
    "find_method",
    "unit_rng",
    "wanted_samples",
]
