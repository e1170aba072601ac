"""Jobs as Python calls them: what is asked is checked before anything is drawn."""

import math

import numpy as np
import pytest

import caffeinit
from caffeinit.errors import OptionError
from tests.nets import NETS, pictures


@pytest.mark.parametrize("beta", [math.nan, math.inf])
def test_a_mean_that_is_no_finite_number_is_refused_before_the_work(beta):
    net = NETS["chain"]()
    before = net.params["conv1"][0].copy()
    with pytest.raises(OptionError, match=f"beta {beta}: has to be a finite number"):
        caffeinit.init(net, pictures(), beta=beta)
    with pytest.raises(OptionError, match=f"beta {beta}: has to be a finite number"):
        caffeinit.rescale(net, pictures(), mode="normalize", beta=beta)
    np.testing.assert_array_equal(net.params["conv1"][0], before)
