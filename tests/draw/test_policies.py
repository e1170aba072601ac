import numpy as np
import pytest

from caffeinit.draw import POLICIES, DrawOptions, WeightSpec, draw, unit_rng
from caffeinit.draw.patches import PatchSet
from caffeinit.draw.whitening import fit_whitening


def pictures(num_samples=60, dimension=1200):
    """Return few samples of many rectified inputs of very different strength, with a few strong common causes."""
    rng = np.random.default_rng(0)
    causes = rng.standard_normal((num_samples, 5)) @ rng.standard_normal((5, dimension)) * 2
    inputs = np.maximum(causes + rng.standard_normal((num_samples, dimension)), 0)
    return (inputs * rng.lognormal(sigma=0.6, size=dimension)).astype(np.float32)


def filled(policy, samples, count):
    options = DrawOptions()
    patches = PatchSet(samples, fit_whitening(samples, 0.1), unit_rng(0, "unit"), options)
    rows = np.empty((count, samples.shape[1]), np.float32)
    POLICIES[policy](patches, rows)
    return rows, patches.notes


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("num_samples", [60, 2000])
def test_fill_is_different_each_row_and_says_so(policy, num_samples):
    rows, notes = filled(policy, pictures(num_samples, 200), 300)
    assert len(notes) == 1
    assert notes[0].startswith("300 filters are ")
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.abs(directions @ directions.T - np.eye(300)).max() < 0.9


@pytest.mark.parametrize("policy", ["balanced", "gaussian"])
def test_responses_have_unit_deviation(policy):
    samples = pictures()
    rows, _ = filled(policy, samples, 100)
    assert (samples.astype(np.float64) @ rows.T).std(axis=0) == pytest.approx(1, abs=1e-3)


def column_rates(rows, samples):
    """Return the relative rate of change of each column, for top diffs of one size: input rms over column norm."""
    rates = np.sqrt((samples.astype(np.float64) ** 2).mean(axis=0)) / np.linalg.norm(rows, axis=0)
    return rates / rates.mean()


def test_balanced_columns_train_at_one_rate():
    samples = pictures()
    assert column_rates(filled("gaussian", samples, 2000)[0], samples).std() > 0.6
    # A compromise with toned down directions; on a net's own inputs the spread is 2 %.
    assert column_rates(filled("balanced", samples, 2000)[0], samples).std() < 0.15


@pytest.mark.parametrize("method", ["patches", "pca", "kmeans"])
def test_a_wide_layer_with_few_samples_trains_its_columns_at_one_rate(method):
    samples = pictures()
    weight = draw(method, WeightSpec("fc6", (1500, 1200)), 0, samples[None]).weight
    weight = weight / (samples @ weight.T).std(axis=0)[:, None]  # as the normalisation does
    assert column_rates(weight, samples).std() < 0.3


def test_balanced_rows_agree_less_than_noise_does():
    samples = pictures()

    def agreement(rows):
        outputs = np.corrcoef((samples @ rows.T).T)
        return np.mean(np.abs(outputs[np.triu_indices(len(rows), 1)]))

    by_policy = {policy: agreement(filled(policy, samples, 300)[0]) for policy in ("gaussian", "balanced")}
    assert by_policy["balanced"] < 0.6 * by_policy["gaussian"]


def test_balanced_rows_see_outside_the_span_of_the_samples():
    samples = pictures()
    white = fit_whitening(samples, 0.1)
    rows, _ = filled("balanced", samples, 100)
    outside = rows - rows @ white.directions.T @ white.directions
    assert (np.linalg.norm(outside, axis=1) > 0.5 * np.linalg.norm(rows, axis=1)).all()


def test_dead_inputs_keep_small_weights():
    samples = pictures()
    samples[:, :10] = 0
    rows, _ = filled("balanced", samples, 500)
    norms = np.linalg.norm(rows, axis=0)
    assert 0.02 < norms[:10].max() / norms.mean() < 0.3


def test_rotations_stay_in_the_span_and_are_bases():
    rng = np.random.default_rng(0)
    samples = (rng.standard_normal((500, 6)) @ rng.standard_normal((6, 20))).astype(np.float32)
    rows, _ = filled("rotations", samples, 12)
    white = fit_whitening(samples, 0.1)
    assert rows == pytest.approx(rows @ white.directions.T @ white.directions, abs=1e-5)
    coordinates = rows @ white.directions.T / white.scales
    for block in (coordinates[:6], coordinates[6:]):
        assert block @ block.T == pytest.approx(np.eye(6), abs=1e-4)


def test_the_policy_can_be_chosen():
    samples = pictures()[None]
    spec = WeightSpec("fc", (200, 1200))
    drawn = {policy: draw("pca", spec, 0, samples, DrawOptions(fill=policy)) for policy in POLICIES}
    assert drawn["gaussian"].notes == ["141 filters are gaussian noise"]
    assert np.array_equal(drawn["auto"].weight, drawn["balanced"].weight)
    assert len({result.weight.tobytes() for result in drawn.values()}) == 3
