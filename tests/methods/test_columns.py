"""One rate for the columns of a unit, by a scale for each channel."""

import numpy as np
import pytest

import caffeinit
from caffeinit.engine.session import Settings
from caffeinit.errors import OptionError
from caffeinit.statistics.rate_options import first_pictures
from caffeinit.statistics.rates import RateProbe
from tests.nets import NETS, pictures


def cvars(net, batches):
    rates = RateProbe(net, first_pictures(net, batches)).measure()
    return {u.name: rates[u.initializers[0]].rate_cvar for u in net.units if u.kind == "affine"}


@pytest.mark.parametrize(("name", "free"), [("chain", "ip2"), ("inception", "three")])
def test_columns_whose_channels_are_free_get_one_rate_and_the_function_stays(name, free):
    net, batches = NETS[name](), pictures()
    before, had = [net.forward(b, blobs=net.graph.outputs) for b in batches], cvars(net, batches)
    result = caffeinit.rescale(net, batches, per_channel_rates=True)
    for old, batch in zip(before, batches, strict=True):
        for value, array in net.forward(batch, blobs=net.graph.outputs).items():
            np.testing.assert_allclose(array, old[value], rtol=0, atol=1e-5 * np.abs(old[value]).max())
    assert had[free] > 0.1
    assert cvars(net, batches)[free] < 1e-3
    assert result.rate_spread < result.rate_spread_before


def test_init_ends_with_one_rate_for_columns_and_units():
    net, batches = NETS["chain"](), pictures()
    result = caffeinit.init(net, batches, per_channel_rates=True)
    assert result.rate_spread <= 0.02
    assert cvars(net, batches)["ip2"] < 1e-3


@pytest.mark.parametrize("job", [caffeinit.init, caffeinit.rescale])
def test_columns_are_made_equal_on_as_many_pictures_as_are_asked_for(job):
    found = {}
    for count in (None, 6):  # 16 pictures, and all 24
        net, batches = NETS["chain"](), pictures(24)
        result = job(net, batches, per_channel_rates=True, rate_batches=count)
        probe = RateProbe(net, batches)
        found[count] = {u.name: probe.measure()[u.key].rate_cvar for u in net.units}["ip2"]
        said = "rates of columns were made equal on 16 of 24 pictures" in " ".join(result.notes)
        assert said == (count is None)
    assert found[6] < 1e-3 < 0.01 < found[None]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate_batches": 0}, "on one batch at least"),
        ({"rate_batches": 2, "balanced": False}, "left as they come, so that there is no use for --rate-batches"),
        ({"rate_batches": 2, "mode": "equalize"}, "mode equalize uses no rates, so that .* --rate-batches"),
    ],
    ids=str,
)
def test_batches_for_rates_that_are_not_measured_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        caffeinit.rescale(NETS["chain"](), pictures(), **options)


def test_fewer_batches_than_asked_for_are_told():
    notes = " ".join(caffeinit.init(NETS["chain"](), pictures(12), rate_batches=7).notes)
    assert "rates were measured on all 12 pictures: there are 3 batches" in notes
    assert "28" not in notes


@pytest.mark.parametrize("option", ["balanced", "normalized"])
def test_init_without_balancing_has_no_use_for_rates_per_channel(option):
    with pytest.raises(OptionError, match="no use for --per-channel-rates"):
        caffeinit.init(NETS["chain"](), pictures(), per_channel_rates=True, **{option: False})


def test_rates_per_channel_need_balancing():
    with pytest.raises(OptionError, match="with balancing"):
        caffeinit.rescale(NETS["chain"](), pictures(), mode="equalize", per_channel_rates=True)


@pytest.mark.parametrize("mode", ["preserve", "normalize"])
def test_weights_do_not_depend_on_the_number_of_threads(mode):
    written = []
    for threads in (1, 2, 3):
        net = NETS["inception"]()
        net.settings = Settings(threads)
        caffeinit.rescale(net, pictures(), mode=mode)
        written.append([a.copy() for arrays in net.params.values() for a in arrays])
    for other in written[1:]:
        for a, b in zip(written[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
