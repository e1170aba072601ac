"""Weights drawn without looking at data.

`gaussian` and `orthonormal` are starts for the within-layer normalisation, which sets their scale. The others come
with a scale of their own and serve as baselines to compare with, unnormalised.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg

from caffeinit.arithmetic.workers import each, row_slices, single_threaded

from ..errors import LayerError
from .fillers import fill
from .rng import fill_normal
from .spec import Drawn, DrawOptions, Filler, WeightSpec

# From so many rows on, orthonormalising is worth cutting into blocks.
CHOLESKY_ROWS = 512


def gaussian(spec: WeightSpec, rng: np.random.Generator, options: DrawOptions) -> Drawn:
    """Independent normal weights, variance 1 / fan_in."""
    return Drawn(_normal(spec, 1.0 / math.sqrt(spec.fan_in), rng, options))


def orthonormal(spec: WeightSpec, rng: np.random.Generator, options: DrawOptions) -> Drawn:
    """Orthonormal rows; beyond fan_in rows, further bases of the input space, each turned at random."""
    groups = [orthonormal_rows(spec.group_outputs, spec.fan_in, rng) for _ in range(spec.group)]
    bases = math.ceil(spec.group_outputs / spec.fan_in)
    notes = [f"{bases} random bases of {spec.fan_in} dimensions stacked"] if bases > 1 else []
    return Drawn(np.concatenate(groups).reshape(spec.shape), notes)


def orthogonal(spec: WeightSpec, rng: np.random.Generator, options: DrawOptions) -> Drawn:
    """Random (semi-)orthogonal matrix per group, times `options.gain`.

    With more outputs than inputs the columns are orthonormal instead of the rows.
    Source: Saxe, McClelland & Ganguli, ICLR 2014 (arXiv 1312.6120).
    """
    groups = [_semi_orthogonal(spec.group_outputs, spec.fan_in, rng) for _ in range(spec.group)]
    return Drawn((np.concatenate(groups) * np.float32(options.gain)).reshape(spec.shape))


def filler(spec: WeightSpec, rng: np.random.Generator, options: DrawOptions) -> Drawn:
    """What the prototxt's weight_filler says; Caffe's default, constant 0, is refused for a weight."""
    if spec.filler is None:
        raise LayerError(
            f'layer "{spec.name}": the net states no weight_filler for it, and Caffe would fill the weight with '
            f"zeros.\nAdd one to its prototxt, or choose another method: --method {spec.name}=gaussian"
        )
    values = fill(spec.filler, spec.stored_shape, rng, spec.name)
    return Drawn(np.ascontiguousarray(spec.from_stored(values)), [f"filler {spec.filler.type}"])


def xavier(spec: WeightSpec, rng: np.random.Generator, options: DrawOptions) -> Drawn:
    """Glorot & Bengio, AISTATS 2010, as Caffe's filler of that name does by default."""
    return _filled(spec, Filler("xavier"), rng)


def msra(spec: WeightSpec, rng: np.random.Generator, options: DrawOptions) -> Drawn:
    """He, Zhang, Ren & Sun, ICCV 2015, as Caffe's filler of that name does by default."""
    return _filled(spec, Filler("msra"), rng)


def random_walk(spec: WeightSpec, rng: np.random.Generator, options: DrawOptions) -> Drawn:
    """Normal weights whose gain keeps the log of the gradient's norm from drifting through ReLU layers.

    Variance g^2 / N with N the fan_in and g = sqrt(2) exp(1.2 / (max(N, 6) - 2.4)).
    Source: Sussillo & Abbott, arXiv 1412.6558.
    """
    gain = math.sqrt(2.0) * math.exp(1.2 / (max(spec.fan_in, 6) - 2.4))
    return Drawn(_normal(spec, gain / math.sqrt(spec.fan_in), rng, options))


def orthonormal_rows(num_rows: int, dimension: int, rng: np.random.Generator) -> np.ndarray:
    """Return (num_rows, dimension) float32: blocks of up to `dimension` orthonormal rows, each drawn uniformly."""
    starts = range(0, num_rows, dimension)
    return np.concatenate([_semi_orthogonal(min(dimension, num_rows - start), dimension, rng) for start in starts])


def _normal(spec: WeightSpec, std: float, rng: np.random.Generator, options: DrawOptions) -> np.ndarray:
    weight = np.empty(spec.shape, np.float32) if spec.target is None else spec.target
    fill_normal(weight.reshape(spec.num_output, spec.fan_in), rng, options.threads, std)
    return weight


def _filled(spec: WeightSpec, filler: Filler, rng: np.random.Generator) -> Drawn:
    values = fill(filler, spec.stored_shape, rng, spec.name)
    return Drawn(np.ascontiguousarray(spec.from_stored(values)))


def _semi_orthogonal(num_rows: int, num_columns: int, rng: np.random.Generator) -> np.ndarray:
    """Return a matrix with orthonormal rows or columns, whichever are fewer, uniformly distributed."""
    short, long = sorted((num_rows, num_columns))
    normal = fill_normal(np.empty((short, long), np.float32), rng)
    with single_threaded():
        wide = _cholesky_orthonormal(normal) if CHOLESKY_ROWS <= short <= long // 2 else _qr_orthonormal(normal)
    return wide if num_rows <= num_columns else wide.T


def _qr_orthonormal(rows: np.ndarray) -> np.ndarray:
    columns: np.ndarray
    columns, triangle = scipy.linalg.qr(rows.T, mode="economic", overwrite_a=True, check_finite=False)
    # Without the signs of R's diagonal the result is not uniform (Mezzadri, Notices of the AMS 54(5), 2007).
    columns *= np.where(np.diag(triangle) < 0, -1, 1).astype(np.float32)
    return columns.T


def _cholesky_orthonormal(rows: np.ndarray) -> np.ndarray:
    """Orthonormalise by the Cholesky factor of the rows' inner products: a third of QR's time, in blocks.

    It squares the condition number, which for normal values twice as wide as high is below 6.
    """
    products = np.zeros((len(rows), len(rows)), np.float32)

    def multiply(part: slice) -> None:
        products[part, : part.stop] = rows[part] @ rows[: part.stop].T

    each(multiply, row_slices(len(rows), 512))
    factor = scipy.linalg.cholesky(products, lower=True, overwrite_a=True, check_finite=False)

    def solve(part: slice) -> None:
        rows[:, part] = scipy.linalg.solve_triangular(factor, rows[:, part], lower=True, check_finite=False)

    each(solve, row_slices(rows.shape[1], 512))
    return rows
