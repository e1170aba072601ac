"""Jobs as Python calls them: what is asked is checked before anything is drawn."""

import math

import numpy as np
import pytest

import caffeinit
from caffeinit.errors import ImagesError, OptionError
from tests.nets import NETS, pictures


def test_a_mean_beside_which_deviations_drown_is_refused():
    net = NETS["chain"]()
    with pytest.raises(OptionError, match=r"beta 1e\+30: has to be between -30 and 30"):
        caffeinit.init(net, pictures(), beta=1e30)
    caffeinit.init(net, pictures(), beta=30.0, balanced=False)
    means = [unit.stats.mean for unit in caffeinit.measure(net, pictures()).units]
    np.testing.assert_allclose(means, 30, rtol=1e-3)


@pytest.mark.parametrize("beta", [math.nan, math.inf])
def test_a_mean_that_is_no_finite_number_is_refused_before_the_work(beta):
    net = NETS["chain"]()
    before = net.params["conv1"][0].copy()
    with pytest.raises(OptionError, match=f"beta {beta}: has to be a finite number"):
        caffeinit.init(net, pictures(), beta=beta)
    with pytest.raises(OptionError, match=f"beta {beta}: has to be a finite number"):
        caffeinit.rescale(net, pictures(), mode="normalize", beta=beta)
    np.testing.assert_array_equal(net.params["conv1"][0], before)


def test_a_single_text_is_one_pattern():
    net = NETS["chain"]()
    result = caffeinit.rescale(net, pictures(), mode="normalize", layers="conv*", reinit="conv1")
    assert [r.reason for r in result.units] == ["", "", "not among the chosen layers", "not among the chosen layers"]
    assert ["drawn" in r.done for r in result.units] == [True, False, False, False]
    with pytest.raises(OptionError, match='no layer with weights matches "fc"'):
        caffeinit.init(net, pictures(), layers="fc")


def test_batches_that_the_net_does_not_take_are_refused_before_the_work():
    net, fitting, other = NETS["chain"](), pictures(batch=4), pictures(batch=6)
    net.graph.batch_axis_free = False
    jobs = (caffeinit.measure, caffeinit.rescale, caffeinit.init, lambda n, given: caffeinit.compare(n, n, given))
    for job in jobs:
        with pytest.raises(ImagesError, match="6 rows, but the net spells out a batch of 4 and takes no other"):
            job(net, other)
    assert caffeinit.measure(net, fitting).num_images == 12
