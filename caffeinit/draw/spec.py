"""What a weight to be drawn looks like, and what comes back.

Everything here speaks the canonical form (O, I/group, *kernel): one row of inputs per output channel. Caffe stores two
kinds of layer the other way round, as (I, O/group, *kernel): Deconvolution, and InnerProduct with `transpose: true`.
A `WeightSpec` with `transposed` set converts between the two, and fillers use the stored form, since their fans do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Filler:
    """Caffe's FillerParameter with its defaults, as plain values.

    Attributes:
        type: "constant", "gaussian", "uniform", "positive_unitball", "xavier", "msra" or "bilinear".
        sparse: mean number of weights per output that stay, gaussian only; -1 keeps all.
        variance_norm: "FAN_IN", "FAN_OUT" or "AVERAGE", xavier and msra only.
    """

    type: str = "constant"
    value: float = 0.0
    min: float = 0.0
    max: float = 1.0
    mean: float = 0.0
    std: float = 1.0
    sparse: int = -1
    variance_norm: str = "FAN_IN"


@dataclass(frozen=True)
class WeightSpec:
    """One affine unit's weight.

    Attributes:
        name: the unit's name; part of the random seed and of messages.
        shape: (O, I/group, *kernel), whatever the stored form.
        group: output channels of a group are consecutive, and see only their group's inputs.
        filler: what the prototxt asks for, if anything.
        transposed: the stored array is (I, O/group, *kernel).
        target: where the weight is wanted, contiguous and of this shape; a method that fills an array in place makes it
            there, and returns it.
    """

    name: str
    shape: tuple[int, ...]
    group: int = 1
    filler: Filler | None = None
    transposed: bool = False
    target: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        assert len(self.shape) >= 2, f"{self.name}: a weight has outputs and inputs, got {self.shape}"
        assert self.shape[0] % self.group == 0, f"{self.name}: {self.shape[0]} outputs, group {self.group}"

    @property
    def num_output(self) -> int:
        """Output channels of all groups together."""
        return self.shape[0]

    @property
    def group_outputs(self) -> int:
        """Output channels of one group."""
        return self.shape[0] // self.group

    @property
    def fan_in(self) -> int:
        """Inputs that one output sees: I/group * kH * kW. This is the dimension of a patch."""
        return math.prod(self.shape[1:])

    @property
    def fan_out(self) -> int:
        """Outputs that one input reaches, counted as Caffe does: O * kH * kW, groups not divided out."""
        return self.shape[0] * math.prod(self.shape[2:])

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of the learned array as Caffe keeps it."""
        if not self.transposed:
            return self.shape
        return (self.shape[1] * self.group, self.group_outputs, *self.shape[2:])

    def from_stored(self, array: np.ndarray) -> np.ndarray:
        """Return a stored array in canonical form; a view where possible."""
        if not self.transposed:
            return array.reshape(self.shape)
        grouped = array.reshape(self.group, self.shape[1], self.group_outputs, *self.shape[2:])
        return np.swapaxes(grouped, 1, 2).reshape(self.shape)


@dataclass(frozen=True)
class DrawOptions:
    """What can be chosen about drawing, for all methods.

    Attributes:
        regulariser: least floor under the whitening's variances, as a fraction of their mean (see `whitening`).
        fill: policy for rows beyond what the data determines; a name in `policies.POLICIES`.
        gain: factor of `orthogonal`; sqrt(2) keeps the second moment through ReLU.
        clustering_rounds: at most so many k-means rounds.
        threads: workers; the bytes drawn do not depend on it. None means one per core.
    """

    regulariser: float = 0.1
    fill: str = "auto"
    gain: float = math.sqrt(2.0)
    clustering_rounds: int = 8
    threads: int | None = None


@dataclass
class Drawn:
    """A drawn weight in canonical form, float32, and what a reader of the report should know about it.

    Attributes:
        determined: how many rows of each group, its first, are directions that the method found in the data.
    """

    weight: np.ndarray
    notes: list[str] = field(default_factory=list)
    determined: list[int] = field(default_factory=list)
