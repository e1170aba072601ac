"""Applying a plan: what it cannot do is said so that one understands it."""

import numpy as np
import pytest

from caffeinit.apply.plan import Plan, apply
from caffeinit.errors import WeightsError
from caffeinit.scales.classes import find_scales
from tests.nets import chain


@pytest.mark.parametrize(("exponent", "told"), [(0.6, "4"), (10.25, r"1\.8e\+10"), (400, r"1e\+400")])
def test_numbers_beyond_single_precision_are_told_with_the_factor(exponent, told):
    net = chain()
    net.params["conv1"][0][0] = 3e38
    system = find_scales(net.graph, net.learned)
    wanted = np.where(np.arange(system.num_unknowns) == 0, exponent * np.log(10.0), 0)  # of a channel of conv1
    with pytest.raises(WeightsError, match=rf'layer "conv1": factors of up to {told} would .* holds \(3\.4e\+38\)'):
        apply(net, Plan(system, system.expand(wanted)))
