import os
import subprocess
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from caffeinit.draw import METHODS, DrawOptions, Filler, WeightSpec, draw, find_method, wanted_samples
from caffeinit.errors import CaffeinitError

DATA_DRIVEN = [name for name, method in METHODS.items() if method.needs_samples]
DATA_FREE = [name for name in METHODS if name not in DATA_DRIVEN]


def planted(num_samples, dimension, rank, seed=0, noise=0.01):
    """Return samples (n, d) whose variance lies along `rank` known directions, and these, most variance first."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((dimension, rank)))[0].T
    strengths = np.geomspace(8.0, 1.0, rank)
    samples = rng.standard_normal((num_samples, rank)) * strengths @ basis
    samples += noise * rng.standard_normal(samples.shape) + 2.0
    return samples.astype(np.float32), basis


def unit(rows):
    rows = rows.reshape(len(rows), -1).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# --- laws of the methods --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [40, 3000])  # by the covariance; by the samples' inner products
def test_pca_finds_the_planted_directions_in_order(dimension):
    samples, basis = planted(2000, dimension, 6)
    rows = unit(draw("pca", WeightSpec("u", (6, dimension)), 0, samples[None]).weight)
    # 2000 samples leave neighbours of variance ratio 2.3 mixed by about 1 / sqrt(2000).
    assert np.abs(rows @ basis.T) == pytest.approx(np.eye(6), abs=0.08)


def test_pca_outputs_are_decorrelated():
    rng = np.random.default_rng(1)
    samples = (rng.exponential(size=(3000, 75)) @ rng.standard_normal((75, 75))).astype(np.float32)
    weight = draw("pca", WeightSpec("conv", (32, 3, 5, 5)), 0, samples[None]).weight
    correlations = np.corrcoef((samples @ weight.reshape(32, -1).T).T)
    assert np.abs(correlations - np.eye(32)).max() < 1e-3


def test_zca_is_symmetric_and_whitens():
    samples, _ = planted(4000, 24, 24)
    weight = draw("zca", WeightSpec("u", (24, 24)), 0, samples[None], DrawOptions(regulariser=0.0)).weight
    assert weight == pytest.approx(weight.T, abs=1e-4 * float(np.abs(weight).max()))
    correlations = np.corrcoef((samples @ weight.T).T)
    assert np.abs(correlations - np.eye(24)).max() < 0.05


def test_zca_rows_look_at_one_input_each():
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((2000, 30)).astype(np.float32)
    rows = draw("zca", WeightSpec("u", (12, 30)), 0, samples[None]).weight
    peaks = np.abs(rows).argmax(axis=1)
    assert len(set(peaks)) == 12
    assert (np.diff(peaks) > 0).all()


def test_kmeans_finds_planted_clusters():
    rng = np.random.default_rng(0)
    centres = np.linalg.qr(rng.standard_normal((40, 12)))[0].T
    # Both signs of twelve directions: the mean is 0 and the covariance the same all around.
    signed = np.concatenate([centres, -centres])
    samples = signed[rng.integers(0, 24, 3000)] + 0.02 * rng.standard_normal((3000, 40))
    rows = unit(draw("kmeans", WeightSpec("u", (24, 40)), 0, samples[None].astype(np.float32)).weight)
    assert (rows @ signed.T).max(axis=0).min() > 0.95
    assert (rows @ signed.T).max(axis=1).min() > 0.95


def test_patches_are_whitened_samples():
    samples, _ = planted(300, 20, 20)
    weight = draw("patches", WeightSpec("u", (50, 20)), 0, samples[None], DrawOptions(regulariser=0.0)).weight
    # Filter = C^-1 (x - m) up to scale, C with the floor: undo it and find the sample.
    centred = samples - samples.mean(axis=0)
    variances, vectors = np.linalg.eigh(centred.T @ centred / 300)
    with_floor = variances + 20 / 300 * np.median(variances)
    back = weight @ (vectors * with_floor) @ vectors.T
    cosines = unit(back) @ unit(centred).T
    assert cosines.max(axis=1).min() > 0.999
    assert len(set(cosines.argmax(axis=1))) == 50


def test_groups_are_independent():
    samples = np.stack([planted(500, 18, 18, seed)[0] for seed in range(3)])
    spec = WeightSpec("conv", (12, 2, 3, 3), group=3)
    for method in DATA_DRIVEN:
        whole = draw(method, spec, 0, samples).weight
        changed = samples.copy()
        changed[1] = changed[1][:, ::-1] * 3
        other = draw(method, spec, 0, changed).weight
        same = [np.array_equal(whole[4 * g : 4 * g + 4], other[4 * g : 4 * g + 4]) for g in range(3)]
        assert same == [True, False, True], method


# --- whatever the data ----------------------------------------------------------------------------------------------


def _samples(num_samples, dimension):
    return np.random.default_rng(0).standard_normal((num_samples, dimension)).astype(np.float32)


def _grey(num_samples, dimension):
    return np.tile(_samples(num_samples, dimension // 3), (1, 3))


def _with_nan(num_samples, dimension):
    samples = _samples(num_samples, dimension)
    samples[::3, 2] = np.nan
    samples[1, 0] = np.inf
    return samples


AWKWARD = {
    "constant": np.full((50, 27), 7.0, np.float32),
    "zero": np.zeros((50, 27), np.float32),
    "one": _samples(1, 27),
    "none": _samples(0, 27),
    "two": _samples(2, 27),
    "duplicates of one": np.tile(_samples(1, 27), (40, 1)),
    "duplicates of three": np.tile(_samples(3, 27), (40, 1)),
    "fewer than dimensions": _samples(10, 27),
    "as many as dimensions": _samples(27, 27),
    "one more": _samples(28, 27),
    "rank deficient": _grey(300, 27),
    "one direction": _samples(300, 1) * np.ones((1, 27), np.float32),
    "dead inputs": _samples(300, 27) * (np.arange(27) % 2).astype(np.float32),
    "one live input": _samples(300, 27) * (np.arange(27) == 5).astype(np.float32),
    "tiny": _samples(300, 27) * np.float32(1e-30),
    "huge": _samples(300, 27) * np.float32(1e35),
    "huge and wide": _samples(20, 27) * np.float32(1e35),
    "far from zero": _samples(300, 27) + 1000,
    "two values": np.sign(_samples(300, 27)),
    "NaN and infinity": _with_nan(300, 27),
    "all NaN": np.full((20, 27), np.nan, np.float32),
    "opposite pairs": np.concatenate([_samples(20, 27), -_samples(20, 27)]),
}


@pytest.mark.parametrize("outputs", [1, 10, 27, 64])
@pytest.mark.parametrize("method", DATA_DRIVEN)
@pytest.mark.parametrize("name", AWKWARD)
def test_filters_are_finite_nonzero_and_different(name, method, outputs):
    samples = AWKWARD[name]
    drawn = draw(method, WeightSpec("conv", (outputs, 3, 3, 3)), 0, samples[None])
    rows = drawn.weight.reshape(outputs, -1).astype(np.float64)
    assert np.isfinite(rows).all()
    assert np.linalg.norm(rows, axis=1).min() > 0
    # What differs by sign only is different: the rectifier after it sees the other half.
    cosines = unit(rows) @ unit(rows).T - 2 * np.eye(outputs)
    if name != "one live input":  # there is one filter, and its opposite
        assert cosines.max() < 1 - 1e-6


def test_reports_say_what_was_done():
    def notes(method, samples, shape=(64, 3, 3, 3), group=1):
        return draw(method, WeightSpec("c", shape, group), 0, samples).notes

    assert notes("pca", _samples(500, 27)[None], (20, 3, 3, 3)) == []
    assert notes("pca", _samples(500, 27)[None]) == [
        "37 filters are random rotations of the 27-dimensional whitened space"
    ]
    assert notes("kmeans", _samples(20, 27)[None]) == [
        "20 patches are too few to be clustered: each is its own centre",
        "44 filters are noise, shaped after the 20 patches that there are",
    ]
    assert notes("zca", _samples(1, 27)[None]) == ["1 input patch to draw from: drawn as gaussian"]
    assert notes("zca", np.ones((1, 5, 27), np.float32)) == ["input patches do not vary: drawn as gaussian"]
    assert notes("pca", _with_nan(300, 27)[None], (4, 27))[0] == "101 input patches with NaN or infinity left out"
    two = np.stack([_samples(300, 27), np.ones((300, 27), np.float32)])
    assert notes("pca", two, (8, 27), 2) == ["input patches do not vary: drawn as gaussian (1 of 2 groups)"]


def test_more_outputs_than_inputs_keep_unit_responses_and_uncorrelated_bases():
    samples, _ = planted(2000, 10, 10)
    weight = draw("pca", WeightSpec("u", (30, 10)), 0, samples[None], DrawOptions(regulariser=0.0)).weight
    outputs = samples.astype(np.float64) @ weight.T
    for start in (0, 10, 20):
        assert np.cov(outputs[:, start : start + 10].T) == pytest.approx(np.eye(10), abs=0.02)


# --- the same bytes -------------------------------------------------------------------------------------------------

SPEC = WeightSpec("conv", (24, 4, 3, 3), group=2, filler=Filler("msra"))


def _data(num_samples=700):
    rng = np.random.default_rng(4)
    return rng.standard_normal((2, num_samples, 36)).astype(np.float32) @ rng.standard_normal((36, 36), np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_draws_the_canonical_shape_and_depends_on_the_seed_and_the_name(method):
    weight = draw(method, SPEC, 0, _data()).weight
    assert weight.dtype == np.float32
    assert weight.shape == SPEC.shape
    assert np.array_equal(weight, draw(method, SPEC, 0, _data()).weight)
    renamed = WeightSpec("other", SPEC.shape, 2, SPEC.filler)
    if method not in ("pca",):  # which chooses nothing
        assert not np.array_equal(weight, draw(method, SPEC, 1, _data()).weight)
        assert not np.array_equal(weight, draw(method, renamed, 0, _data()).weight)


@pytest.mark.parametrize("method", METHODS)
def test_threads_do_not_change_a_byte(method):
    wide = WeightSpec("fc", (1100, 1200), filler=Filler("xavier"))
    cases = [(SPEC, _data()), (wide, np.random.default_rng(0).random((1, 90, 1200), np.float32))]
    for spec, samples in cases:
        with threadpool_limits(1):
            one = draw(method, spec, 0, samples, DrawOptions(threads=1)).weight
        several = draw(method, spec, 0, samples, DrawOptions(threads=3)).weight
        assert one.tobytes() == several.tobytes()


def test_another_process_with_other_library_threads_draws_the_same_bytes():
    code = (
        "import hashlib, numpy as np\n"
        "from caffeinit.draw import WeightSpec, draw\n"
        "x = np.random.default_rng(0).random((1, 1500, 300), np.float32)\n"
        "w = draw('kmeans', WeightSpec('u', (40, 300)), 5, x).weight\n"
        "print(hashlib.sha256(w.tobytes()).hexdigest())\n"
    )
    digests = set()
    for threads in ("1", "2"):
        environment = dict(os.environ, OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads)
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        digests.add(done.stdout)
    assert len(digests) == 1


# --- names ----------------------------------------------------------------------------------------------------------


def test_an_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(CaffeinitError, match=r'--method "kmean": not one of gaussian, .*Did you mean "kmeans"\?'):
        find_method("kmean")


@pytest.mark.parametrize("method", DATA_DRIVEN)
def test_a_bounded_number_of_patches_is_wanted(method):
    shapes = [(1, 1, 3, 3), (96, 3, 11, 11), (4096, 9216), (10, 15680)]
    counts = [wanted_samples(method, WeightSpec("u", shape)) for shape in shapes]
    assert counts == [4000 if method == "pca" else 1000, 4000, 4000, 4000]


def test_which_methods_look_at_data():
    assert set(DATA_DRIVEN) == {"patches", "pca", "zca", "kmeans"}
    assert {name for name in DATA_FREE if METHODS[name].own_scale} == {
        "filler",
        "xavier",
        "msra",
        "orthogonal",
        "random-walk",
    }
