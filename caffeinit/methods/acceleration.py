"""Going on from the last few steps of a fixed-point iteration in place of one step after another."""

from __future__ import annotations

import numpy as np

# Log scales over which no curve is taken to be straight.
LONG = 0.5
# A step that asks for so much of itself back was too long.
_TURNED = 0.25
# How many times its length an accelerated step may go.
_FURTHER = 3.0


class Accelerated:
    """Anderson acceleration of x -> x + step: the next point from the last few, as if the steps were linear in x.

    Method: Walker & Ni, Anderson acceleration for fixed-point iterations, SIAM J. Numer. Anal. 49(4), 2011.
    """

    def __init__(self, depth: int = 5) -> None:
        self._depth = depth
        self._points: list[np.ndarray] = []
        self._steps: list[np.ndarray] = []
        self._last: tuple[np.ndarray, float] | None = None  # a long step, and how much of it was gone

    def next(self, point: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Return the next point; after long steps nothing is taken to be linear, nor where that would lead far away."""
        length = np.abs(step).max(initial=0)
        if length > LONG:
            self._points, self._steps = [], []
            return np.asarray(point + self._part(step) * step)
        self._last = None
        self._points = [*self._points, point][-self._depth - 1 :]
        self._steps = [*self._steps, step][-self._depth - 1 :]
        if len(self._points) == 1:
            return np.asarray(point + step)
        steps, points = np.diff(self._steps, axis=0).T, np.diff(self._points, axis=0).T
        weights = np.linalg.lstsq(steps, step, rcond=1e-6)[0]
        further = step - (points + steps) @ weights
        if np.abs(further).max() > _FURTHER * length:
            # Near the end steps are as small as their noise, and a line through them may lead anywhere.
            self._points, self._steps = [point], [step]
            further = step
        return np.asarray(point + further)

    def restart(self, point: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Return where the step leads as it is, and forget how those before it went."""
        self._points, self._steps = [point], [step]
        return np.asarray(point + step)

    def _part(self, step: np.ndarray) -> float:
        """Return how much of a long step to go: after one that had led too far, as much as would have been right then."""
        part = 1.0
        if self._last is not None:
            last, part = self._last
            back = -float(last @ step) / float(last @ last)
            part = part / (1 + back) if back > _TURNED else min(1.0, 2 * part)
        self._last = step, part
        return part
