"""The drawing methods by name, and the one function that draws.

spec = WeightSpec("conv1", (96, 3, 11, 11))
drawn = draw("kmeans", spec, seed=0, samples=sampler.samples())
drawn.weight, drawn.notes
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import OptionError
from . import baselines, clusters, patches
from .learned import FITTED_SAMPLES, Directions, draw_learned
from .rng import unit_rng
from .spec import Drawn, DrawOptions, WeightSpec

_SKLEARN_BYTES = 72 << 20
DataFree = Callable[[WeightSpec, np.random.Generator, DrawOptions], Drawn]


@dataclass(frozen=True)
class Method:
    """One way to draw weights.

    Attributes:
        name: as on the command line.
        summary: one line of help.
        data_free: draws without samples; None for the data-driven methods.
        directions: chooses directions in whitened space; None for the data-free methods.
        in_order: `directions` takes the leading principal directions and no others.
        own_scale: the method sets the weights' scale itself, which normalisation would overwrite.
        library: what it loads when it draws, and `library_bytes`: about how much memory that takes.
        in_place: the weight is made where it is wanted (`WeightSpec.target`).
    """

    name: str
    summary: str
    data_free: DataFree | None = None
    directions: Directions | None = None
    in_order: bool = False
    own_scale: bool = False
    in_place: bool = False
    library: str = ""
    library_bytes: int = 0

    @property
    def needs_samples(self) -> bool:
        """Whether the method looks at input patches."""
        return self.directions is not None


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("gaussian", "independent normal weights", baselines.gaussian, in_place=True),
        Method("orthonormal", "orthonormal filters", baselines.orthonormal),
        Method("patches", "random whitened input patches", directions=patches.random_patches),
        Method("pca", "leading principal directions of the input patches", directions=patches.pca, in_order=True),
        Method("zca", "rows of the symmetric whitening of the input patches", directions=patches.zca),
        Method(
            "kmeans",
            "spherical k-means centres of whitened input patches",
            directions=clusters.kmeans,
            library="sklearn.cluster",
            library_bytes=_SKLEARN_BYTES,
        ),
        Method("filler", "the prototxt's weight_filler", baselines.filler, own_scale=True),
        Method("xavier", "Caffe's xavier filler (Glorot & Bengio)", baselines.xavier, own_scale=True),
        Method("msra", "Caffe's msra filler (He et al.)", baselines.msra, own_scale=True),
        Method("orthogonal", "orthogonal matrices with a gain (Saxe et al.)", baselines.orthogonal, own_scale=True),
        Method(
            "random-walk",
            "normal weights, gain after Sussillo & Abbott",
            baselines.random_walk,
            own_scale=True,
            in_place=True,
        ),
    )
}


def find_method(name: str) -> Method:
    """Return the method called `name`.

    Raises:
        OptionError: there is none; the message lists them and suggests the nearest.
    """
    method = METHODS.get(name)
    if method is None:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        raise OptionError(f'--method "{name}": not one of {", ".join(METHODS)}.{hint}')
    return method


def draw(
    name: str, spec: WeightSpec, seed: int, samples: np.ndarray | None = None, options: DrawOptions | None = None
) -> Drawn:
    """Draw one unit's weight.

    The same seed and unit give the same bytes, whatever else is drawn, in which order and on how many threads.

    Args:
        name: of the method.
        spec: the unit's weight.
        seed: of the whole run.
        samples: (group, n, fan_in) float32 input patches, for methods that need them (see `sampler`).
        options: defaults if None.
    """
    method, options = find_method(name), options or DrawOptions()
    if method.directions is not None:
        assert samples is not None, f"{spec.name}: method {name} needs samples"
        return draw_learned(spec, seed, samples, options, method.directions, method.in_order)
    assert method.data_free is not None
    return method.data_free(spec, unit_rng(seed, spec.name), options)


def wanted_samples(name: str, spec: WeightSpec) -> int:
    """Return how many patches per group a data-driven method does well with, if the pictures have as many.

    Beyond 4000 filters hardly change, even where that is but twice the dimension: the whitening's floor rises instead.
    `pca` wants all of them: its responses are made uncorrelated afterwards, on all that the net sees.
    """
    if METHODS[name].in_order:
        return FITTED_SAMPLES
    clusters = 20 * spec.group_outputs if name == "kmeans" else 0
    return min(max(40 * spec.fan_in, clusters, 1000), FITTED_SAMPLES)
