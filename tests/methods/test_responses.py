"""Filters are turned by how they respond: to responses without correlation, or with those that there were before."""

import numpy as np
import pytest

import caffeinit
from caffeinit.arithmetic.moments import Moments
from caffeinit.methods.responses import RIDGE, Correlations, Refiner, ResponseKeeper, Responses, turn_filters
from tests.nets import NetBuilder

LRN = """name: "lrn"
layer { name: "data" type: "Input" top: "data" input_param { shape: { dim: 4 dim: 3 dim: 20 dim: 18 } } }
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" convolution_param { num_output: 10 kernel_size: 3 } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "n1" type: "LRN" bottom: "c1" top: "n1" lrn_param { local_size: 5 alpha: 1 beta: 0.75 } }
layer { name: "c2" type: "Convolution" bottom: "n1" top: "c2" convolution_param { num_output: 12 kernel_size: 3 group: 2 } }
layer { name: "r2" type: "ReLU" bottom: "c2" top: "c2" }
layer { name: "n2" type: "LRN" bottom: "c2" top: "n2" lrn_param { local_size: 3 alpha: 1 beta: 0.75 } }
layer { name: "c3" type: "Convolution" bottom: "n2" top: "c3" convolution_param { num_output: 8 kernel_size: 3 } }
layer { name: "r3" type: "ReLU" bottom: "c3" top: "c3" }
layer { name: "ip" type: "InnerProduct" bottom: "c3" top: "ip" inner_product_param { num_output: 5 } }
"""


def photographs(num=48, seed=0, shape=(3, 20, 18)):
    """Batches of pictures whose neighbours and channels are correlated, some dark and some bright."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((num, shape[0], shape[1] + 2, shape[2] + 2))
    smooth = sum(noise[:, :, i : i + shape[1], j : j + shape[2]] for i in range(3) for j in range(3)) / 3
    mixed = np.einsum("ncij,cd->ndij", smooth, rng.standard_normal((shape[0], shape[0])) + 1)
    mixed *= 40 * np.exp(rng.standard_normal((num, 1, 1, 1)))
    return [{"data": np.ascontiguousarray(mixed[i : i + 8], np.float32)} for i in range(0, num, 8)]


def correlations(net, batches):
    """Return unit name -> the largest correlation between two of its channels in one group."""
    found = {}
    for unit in net.units:
        values = np.concatenate([net.forward(b, [unit.uses[0].output])[unit.uses[0].output] for b in batches])
        rows = np.moveaxis(values, 1, 0).reshape(unit.weight.shape[0], unit.weight.shape[1], -1).astype(np.float64)
        found[unit.name] = max(np.abs(np.corrcoef(group) - np.eye(len(group))).max() for group in rows)
    return found


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("how", [{"balanced": False}, {"normalized": False}, {}], ids=str)
def test_pca_responds_without_correlation_on_all_pictures(tmp_path, how, seed):
    # Balancing moves the scales before each LRN by several powers of e after the filters were drawn.
    (tmp_path / "net.prototxt").write_text(LRN)
    net, batches = caffeinit.load(tmp_path / "net.prototxt"), photographs(160)
    result = caffeinit.init(net, batches, method="pca", seed=seed, **how)
    if not how:
        assert result.rate_spread < 0.02
    for name, largest in correlations(net, batches).items():
        assert largest < (0.05 if not how else 1e-3), name


def test_more_is_refined_on_than_filters_are_fitted_to():
    # Heavy tails and repeats, as patches have them: the 4000 that the whitening is fitted to leave .2 and more.
    rng = np.random.default_rng(2)
    tails = rng.exponential(size=(20000, 75)) ** 2 * np.geomspace(30, 0.1, 75)
    samples = np.concatenate([tails @ np.linalg.qr(rng.standard_normal((75, 75)))[0], np.zeros((8000, 75))])
    samples = samples[rng.permutation(len(samples))].astype(np.float32)
    b = NetBuilder(shape=(7000, 75))
    b.product("data", "ip", 32)
    net = b.finish("ip")
    caffeinit.init(net, [{"data": samples[i : i + 7000]} for i in range(0, 28000, 7000)], method="pca", balanced=False)
    weight = net.units[0].weight.reshape(32, -1).astype(np.float64)
    responses = samples.astype(np.float64) @ weight.T
    assert np.abs(np.corrcoef(responses.T) - np.eye(32)).max() < 1e-3
    variances = (responses / np.linalg.norm(weight, axis=1)).var(axis=0)
    assert (np.diff(variances) < 0).all()


def unit_of(groups=2, outputs=4, bias=True):
    b = NetBuilder(shape=(4, 6, 9, 8))
    b.conv("data", "conv", groups * outputs, group=groups, bias=bias)
    return b.finish("conv")


def responses_of(net, values, most=None):
    unit = net.units[0]
    found = Responses(unit, most or unit.weight.shape[1], threads=2)
    output = unit.uses[0].output
    outputs = [net.forward({"data": v}, [output])[output] for v in values]
    for part in outputs:
        found.add(part, 1)
    return found, np.concatenate(outputs)


def inputs(mean=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((4, 6, 9, 8)) + mean).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_covariances_are_those_of_all_that_was_folded_in(mean):
    found, outputs = responses_of(unit_of(), inputs(mean))
    rows = np.moveaxis(outputs.astype(np.float64), 1, 0).reshape(2, 4, -1)
    expected = np.stack([np.cov(group, bias=True) for group in rows])
    np.testing.assert_allclose(found.covariance(), expected, rtol=2e-3 if mean else 1e-5, atol=1e-4 * expected.max())
    assert found.count == 4 * 9 * 8 * 3


def test_what_a_turned_unit_puts_out_is_what_it_put_out_turned():
    net, values = unit_of(), inputs()
    found, before = responses_of(net, values)
    matrix = np.random.default_rng(1).standard_normal((2, 4, 4))
    moments = Moments(8)
    moments.update(before)
    turn_filters(net.units[0], matrix)
    _, after = responses_of(net, values)
    rows = np.moveaxis(before.astype(np.float64), 1, 0).reshape(2, 4, -1)
    expected = np.moveaxis((matrix @ rows).reshape(8, 12, 9, 8), 0, 1)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-4)
    told, seen = found.turned(moments, matrix), Moments(8)
    seen.update(after)
    np.testing.assert_allclose(told.mean, seen.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(told.std, seen.std, rtol=1e-4)


def test_only_the_filters_that_data_determined_are_turned():
    net, values = unit_of(), inputs()
    weight = net.units[0].weight.copy()
    found, _ = responses_of(net, values, most=3)
    matrix = Refiner([3, 2]).turn(found)
    assert matrix is not None
    turn_filters(net.units[0], matrix)
    np.testing.assert_array_equal(net.units[0].weight[0, 3:], weight[0, 3:])
    np.testing.assert_array_equal(net.units[0].weight[1, 2:], weight[1, 2:])
    rows = net.units[0].weight[0, :3].reshape(3, -1)
    again, _ = responses_of(net, values)
    np.testing.assert_allclose(again.covariance()[0, :3, :3], np.eye(3), atol=1e-4)
    angles = rows @ rows.T / np.outer(*[np.linalg.norm(rows, axis=1)] * 2)
    np.testing.assert_allclose(angles, np.eye(3), atol=1e-4)


@pytest.mark.parametrize("counts", [[1, 0], [0, 0]])
def test_nothing_is_turned_where_there_is_nothing_to_turn(counts):
    found, _ = responses_of(unit_of(), inputs(), most=1)
    assert Refiner(counts).turn(found) is None


def test_too_few_values_say_nothing_of_correlations():
    net = unit_of()
    found = Responses(net.units[0], 4)
    found.add(np.random.default_rng(0).standard_normal((7, 8, 1, 1)).astype(np.float32), 1)
    assert Refiner([4, 4]).turn(found) is None
    keeper = ResponseKeeper([4, 4])
    keeper.see(found)
    assert keeper.turn(found) is None


def test_filters_that_respond_alike_are_left():
    net = unit_of()
    net.units[0].weight[0, 1] = net.units[0].weight[0, 0]
    net.units[0].weight[1] = 0
    found, _ = responses_of(net, inputs())
    assert Refiner([4, 4]).turn(found) is None


def test_correlations_are_given_back_with_the_least_change():
    rng = np.random.default_rng(0)
    mixing, other = np.eye(5) + 0.3 * rng.standard_normal((2, 5, 5))
    wanted, now = mixing @ mixing.T, np.diag([1, 2, 3, 4, 50.0]) @ other @ other.T @ np.diag([1, 2, 3, 4, 50.0])
    turn = Correlations.of(wanted).given_to(now)
    stds = np.sqrt(np.diag(now))
    alike = turn / stds[:, None] * stds  # the same between responses of deviation 1
    before, after = (c / np.sqrt(np.outer(np.diag(c), np.diag(c))) + RIDGE * np.eye(5) for c in (now, wanted))
    np.testing.assert_allclose(alike @ before @ alike.T, after, atol=1e-9)
    np.testing.assert_allclose(alike, alike.T, atol=1e-9)
    np.testing.assert_allclose(Correlations.of(now).given_to(now), np.eye(5), atol=1e-9)
    assert (np.linalg.eigvalsh(alike) > 0).all()


def test_what_never_varies_is_left_as_it_is():
    covariance = np.diag([1.0, 0.0, 2.0])
    turn = Correlations.of(np.array([[1, 0.5, 0.3], [0.5, 1, 0.2], [0.3, 0.2, 1]])).given_to(covariance)
    assert np.isfinite(turn).all()
