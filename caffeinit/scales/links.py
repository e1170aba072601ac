"""How learned arrays are scaled, in labels: uses of units, and what each array is multiplied by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from caffeinit.ops.labels import Labels


@dataclass(frozen=True)
class Link:
    """One use of a unit: its input and output can be scaled independently.

    Attributes:
        node: the operator.
        kind: "affine", "channel" (factors), "shift" (a learned Add) or "norm" (BatchNormalization).
        initializers: role ("weight", "bias", "mean", "variance") -> learned initializer.
        inputs, outputs: labels per input and output channel, (I,) and (O,); those of "channel" and "shift" broadcast
            to the output's shape.
        group: of an affine unit; output channel i reads the input channels of its group only.
        floor: norm only, (C,): log(input scale) - log(output scale), or log(input scale) alone with a learned weight,
            must not be below, or the stored variance would be negative.
        lifts: norm only: the learned weight makes up for what is below that; the variance is 0 then.
    """

    node: onnx.NodeProto
    kind: str
    initializers: dict[str, str]
    inputs: Labels
    outputs: Labels
    group: int = 1
    floor: np.ndarray | None = None
    lifts: bool = False

    def gained(self, scales: np.ndarray) -> np.ndarray:
        """Return by how much the roots of a norm's stored variances grow, log, (C,), given all labels' log scales."""
        return np.asarray(scales[self.inputs] - (0 if "weight" in self.initializers else scales[self.outputs]))


@dataclass(frozen=True)
class Use:
    """How one use scales a learned array: by exp(plus - minus), label arrays that broadcast to the array's shape."""

    plus: Labels
    minus: Labels


def lowest_gain(known: np.ndarray, epsilon: float) -> np.ndarray:
    """Return the log of the least factor that roots of variances can be given without one below 0, (C,).

    Args:
        known: variances with epsilon.
    """
    tiny = float(np.finfo(float).tiny)
    with np.errstate(divide="ignore"):  # an infinite variance, which `apply` refuses
        return np.asarray(0.5 * np.log(max(epsilon, tiny) / np.maximum(known, tiny)))
