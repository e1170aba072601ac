"""Applying a plan: what it cannot do is said so that one understands it."""

import numpy as np
import pytest

from caffeinit.apply.plan import Plan, apply
from caffeinit.errors import WeightsError
from caffeinit.scales.classes import find_scales
from tests.nets import chain


def test_numbers_beyond_single_precision_are_told_with_the_factor():
    net = chain()
    net.params["conv1"][0][0] = 1e35
    system = find_scales(net.graph, net.learned)
    wanted = np.where(np.arange(system.num_unknowns) == 0, 10 * np.log(10.0), 0)  # of a channel of conv1
    with pytest.raises(WeightsError, match=r'layer "conv1": a factor of up to 1e10 would .* holds \(3\.4e38\)'):
        apply(net, Plan(system, system.expand(wanted)))
