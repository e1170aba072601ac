import numpy as np
import pytest

from caffeinit.draw import whitening
from caffeinit.draw.whitening import fit_whitening


def correlated(num_samples, dimension, seed=0, mean=5.0):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((dimension, dimension)) * np.geomspace(1, 0.05, dimension)
    return (rng.standard_normal((num_samples, dimension)) @ mixing.T + mean).astype(np.float32)


def covariance(samples):
    centred = samples.astype(np.float64) - samples.mean(axis=0, dtype=np.float64)
    return centred.T @ centred / len(samples)


def test_whitening_whitens():
    samples = correlated(3000, 20)
    white = fit_whitening(samples, regulariser=0.0)
    white.floor = 0.0
    # Variances reach down to 1/400 of the largest: float32 rounding of the covariance grows by that.
    assert covariance(white.whiten(samples)) == pytest.approx(np.eye(20), abs=1e-3)


def test_the_floor_adds_to_the_variances_and_nothing_else():
    samples = correlated(3000, 20)
    white = fit_whitening(samples, regulariser=0.3)
    assert white.floor == pytest.approx(0.3 * np.trace(covariance(samples)) / 20, rel=1e-4)
    shrunk = white.variances / (white.variances + white.floor)
    assert covariance(white.whiten(samples)) == pytest.approx(np.diag(shrunk), abs=1e-3)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 255.0])
@pytest.mark.parametrize("num_samples", [30, 500])
def test_the_unit_of_the_input_does_not_matter(factor, num_samples):
    samples = correlated(num_samples, 40)
    white, scaled = (fit_whitening(part, 0.1) for part in (samples, samples * np.float32(factor)))
    assert scaled.floor == pytest.approx(white.floor * factor**2, rel=1e-3)
    assert np.abs(scaled.whiten(samples * np.float32(factor))) == pytest.approx(
        np.abs(white.whiten(samples)), abs=5e-3
    )  # signs belong to whoever rounds first


def test_directions_are_the_covariances_eigenvectors_largest_first():
    samples = correlated(1000, 12)
    white = fit_whitening(samples, 0.1)
    assert (np.diff(white.variances) <= 0).all()
    assert white.directions @ white.directions.T == pytest.approx(np.eye(12), abs=1e-5)
    rebuilt = white.directions.T @ np.diag(white.variances) @ white.directions
    assert rebuilt == pytest.approx(covariance(samples), abs=1e-4)


def test_fewer_samples_than_dimensions_give_the_covariances_eigenvectors_too():
    samples = correlated(25, 60)
    white = fit_whitening(samples, 0.1)
    assert white.rank == 24
    assert white.directions @ white.directions.T == pytest.approx(np.eye(24), abs=1e-5)
    rebuilt = white.directions.T @ np.diag(white.variances) @ white.directions
    assert rebuilt == pytest.approx(covariance(samples), abs=1e-4)
    assert white.floor >= np.median(white.variances) * 0.999


def test_leading_directions_alone_are_those_of_the_whole():
    samples = correlated(2000, 80)
    whole, leading = fit_whitening(samples, 0.1), fit_whitening(samples, 0.1, leading=5)
    assert leading.rank == 5
    assert leading.variances == pytest.approx(whole.variances[:5], rel=1e-5)
    assert leading.directions == pytest.approx(whole.directions[:5], abs=1e-4)


@pytest.mark.parametrize("num_samples", [40, 400])
def test_rank_is_that_of_the_data(num_samples):
    rng = np.random.default_rng(0)
    samples = (rng.standard_normal((num_samples, 7)) @ rng.standard_normal((7, 100)) + 3).astype(np.float32)
    white = fit_whitening(samples, 0.1)
    assert white.rank == 7
    assert white.whiten(samples).shape == (num_samples, 7)


@pytest.mark.parametrize("value", [0.0, 1e-20, 3.7, 1e6])
@pytest.mark.parametrize("num_samples", [1, 5, 50])
def test_constant_samples_have_no_directions(value, num_samples):
    assert fit_whitening(np.full((num_samples, 10), value, np.float32), 0.1).rank == 0


def test_large_problems_are_fitted_to_some_of_the_samples(monkeypatch):
    monkeypatch.setattr(whitening, "LARGEST_ORDER", 50)
    samples = correlated(200, 120)
    white = fit_whitening(samples, 0.1)
    assert white.rank == 49
    chosen = samples[np.linspace(0, 199, 50).astype(int)]
    assert white.mean == pytest.approx(chosen.mean(axis=0), abs=1e-5)


def test_filters_respond_with_the_whitened_coordinate():
    samples = correlated(500, 15)
    white = fit_whitening(samples, 0.1)
    coordinates = np.random.default_rng(1).standard_normal((4, 15)).astype(np.float32)
    responses = samples @ white.filters(coordinates).T
    expected = white.whiten(samples) @ coordinates.T
    shift = (responses - expected).mean(axis=0)
    assert responses - shift == pytest.approx(expected, abs=1e-3)
