"""Pieces that run side by side give what one run gives, whatever the number of threads; so do moments that follow."""

import numpy as np
import pytest

from caffeinit.arithmetic.moments import Moments
from caffeinit.engine.session import Session, Settings
from caffeinit.engine.streaming import Streaming, can_stream
from caffeinit.model.following import channel_map, followed_units
from caffeinit.statistics.forward import looked_at, measure_moments, unit_outputs
from tests.nets import NETS, pictures


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("threads", [1, 3])
def test_pieces_are_seen_in_order_and_are_what_one_run_gives(name, threads):
    net, (batch,) = NETS[name](), pictures(num=7, batch=7)
    part = net.graph.part(unit_outputs(net))
    assert can_stream(part, Settings(threads))
    pieces = [{"data": batch["data"][a:b]} for a, b in ((0, 2), (2, 3), (3, 6), (6, 7))]  # memory is grown and shared
    found = list(Streaming(part, Settings(threads)).map(pieces, lambda made: {n: a.copy() for n, a in made.items()}))
    whole = Session(part, Settings(1)).run(batch)
    assert [count for count, _ in found] == [2, 1, 3, 1]
    for value, expected in whole.items():
        np.testing.assert_allclose(np.concatenate([made[value] for _, made in found]), expected, rtol=1e-5, atol=1e-6)


def test_what_goes_wrong_in_a_thread_is_raised():
    net, (batch,) = NETS["residual"](), pictures(num=4, batch=4)

    def fail(made):
        raise ArithmeticError("on purpose")

    streaming = Streaming(net.graph.part(unit_outputs(net)), Settings(2))
    with pytest.raises(ArithmeticError, match="on purpose"):
        list(streaming.map([batch, batch], fail))


@pytest.mark.parametrize("name", NETS)
def test_moments_that_follow_are_those_of_the_values(name):
    net, batches = NETS[name](), pictures(num=12, batch=4)
    rng = np.random.default_rng(3)
    for unit in net.units:  # factors of both signs, and statistics with a factor of their own
        for array in (unit.weight, unit.bias, unit.mean):
            if unit.kind != "affine" and array is not None:
                array[:] = rng.standard_normal(array.shape)
        if unit.factor is not None:
            unit.factor[:] = 3
            unit.variance[:] = rng.uniform(1, 2, unit.variance.shape)
    found = measure_moments(net, batches)
    session = Session(net.graph.part(unit_outputs(net)), Settings(1))
    for unit in net.units:
        seen = Moments(unit.num_channels)
        for batch in batches:
            made = session.run({n: batch[n] for n in session.inputs})
            for use in unit.uses:
                seen.update(made[use.output], use.axis)
        size = max(seen.max_abs, 1e-3)
        np.testing.assert_allclose(found[unit.key].mean, seen.mean, atol=2e-6 * size)
        np.testing.assert_allclose(found[unit.key].std, seen.std, rtol=1e-4, atol=2e-6 * size)
        np.testing.assert_allclose(found[unit.key].largest, seen.largest, rtol=1e-5, atol=2e-6 * size)


@pytest.mark.parametrize("name", [name for name, make in NETS.items() if any(u.kind == "norm" for u in make().units)])
def test_only_what_is_right_on_another_unit_follows(name):
    net = NETS[name]()
    follow = followed_units(net)
    kinds = {unit.key: unit for unit in net.units}
    assert follow
    assert all(kinds[key].kind != "affine" for key in follow)
    assert {use.output for unit in net.units if unit.key not in follow for use in unit.uses} == set(looked_at(net))
    for key, before in follow.items():
        assert kinds[key].uses[0].input == before.uses[0].output


def test_a_factor_of_zero_is_no_map():
    nets = [net for net in (make() for make in NETS.values()) if any(u.factor is not None for u in net.units)]
    assert nets
    for net in nets:
        norm = next(unit for unit in net.units if unit.factor is not None)
        norm.factor[:] = 0
        assert norm.key not in followed_units(net)
        norm.factor[:] = 2
        scale, shift = channel_map(norm)
        np.testing.assert_allclose(scale, 1 / np.sqrt(norm.variance / 2 + norm.epsilon), rtol=1e-6)
        np.testing.assert_allclose(shift, -norm.mean / 2 * scale, rtol=1e-6)
