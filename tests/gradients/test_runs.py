"""Gradients run in segments give the rates that they give as a whole, with the weights of few nodes at a time."""

import mmap
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from caffeinit.engine import segments, session
from caffeinit.engine.arrays import DeviceArray
from caffeinit.engine.device import Device
from caffeinit.errors import CaffeinitError, OutputError
from caffeinit.gradients import squares
from caffeinit.gradients.runs import SegmentedRun, WholeRun
from caffeinit.methods.between import plan_balance, scale_system
from caffeinit.methods.columns import plan_column_rates
from caffeinit.methods.equalize import plan_unit_deviations
from caffeinit.statistics.forward import measure_moments
from caffeinit.statistics.rates import RateProbe
from caffeinit.storage import mapped
from tests.nets import NETS, NetBuilder, pictures


def mixed(seed=0):
    """What NETS lack: a product of many rows, weights used twice, a depthwise kernel."""
    b = NetBuilder(seed=seed)
    x = b.relu(b.conv(b.conv("data", "deep", 6), "wise", 6, group=6))
    weight, bias = b.array("twice", 0, (6, 6, 1, 1)), b.array("twice", 1, (6,), "bias")
    for name in ("first", "second"):
        x = b.relu(b.graph.op("Conv", x, weight, bias, name=name, kernel_shape=[1, 1]))
    rows = b.graph.op("Transpose", b.graph.reshape(x, [4, 6, 120]), perm=[0, 2, 1])
    x = b.relu(b.graph.op("MatMul", rows, b.array("rows", 0, (6, 5)), name="rows"))
    return b.finish(b.product(x, "ip", 3))


ALL = {**NETS, "mixed": mixed}
SIZES = [1, 2000]  # bytes of weights in a segment: one node each, or a few


@pytest.fixture
def segmented(monkeypatch):
    """Return what has all nets run in segments of so many bytes from then on."""

    def use(most):
        monkeypatch.setattr(session, "MOST_AT_ONCE", 0)
        monkeypatch.setattr(segments, "SEGMENT_BYTES", most)
        monkeypatch.setattr(squares, "_FILED_BYTES", 0)

    return use


@pytest.mark.parametrize("most", SIZES)
@pytest.mark.parametrize("name", ALL)
def test_rates_are_those_of_one_run(name, most, segmented):
    net, batches = ALL[name](), pictures()
    net.settings = replace(net.settings, threads=2)
    whole = RateProbe(net, batches)
    wanted = whole.measure()
    segmented(most)
    probe = RateProbe(net, batches)
    assert isinstance(whole.run, WholeRun)
    assert isinstance(probe.run, SegmentedRun)
    assert len(list(probe.run.steps(4))) > 3 - (most > 1)
    for _ in range(2):  # nothing is left of one measurement in the next
        found = probe.measure()
        assert found.keys() == wanted.keys()
        for key, rates in wanted.items():
            np.testing.assert_allclose(found[key].rate, rates.rate, rtol=1e-5)
            np.testing.assert_allclose(found[key].column_rates, rates.column_rates, rtol=1e-4)


def test_a_net_of_one_layer_has_rates_without_a_segment(segmented):
    b = NetBuilder()
    net = b.finish(b.conv("data", "only", 4))
    (wanted,) = RateProbe(net, pictures()).measure().values()
    segmented(1)
    (found,) = RateProbe(net, pictures()).measure().values()
    assert wanted.rate > 0
    np.testing.assert_allclose(found.rate, wanted.rate, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_rates_follow_scales_and_weights_as_those_of_one_run_do(name, segmented):
    net, batches = ALL[name](), pictures()
    wanted = RateProbe(net, batches).measure()
    segmented(1)
    probe = RateProbe(net, batches)
    found = probe.measure()
    system = scale_system(net, lambda unit: "", probe.heads, relaxed=False)
    start = plan_unit_deviations(net, measure_moments(net, batches), system)
    for plan in (
        lambda rates: plan_balance(net, rates, lambda unit: True, start),
        lambda rates: plan_column_rates(net, rates, lambda unit: True, system),
    ):
        np.testing.assert_allclose(plan(found).scales, plan(wanted).scales, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("most", SIZES)
def test_no_step_has_more_weights_than_asked_for(most, segmented):
    net = ALL["chain"]()
    largest = max(a.nbytes for of in net.params.values() for a in of)
    segmented(most)
    for part, _ in RateProbe(net, pictures()).run.steps(4):
        size = sum(a.nbytes for name, a in part.initializers.items() if name in net.learned)
        assert size <= max(most, largest + 100)  # a bias goes with its weight


def test_rates_do_not_depend_on_the_number_of_threads(segmented):
    segmented(2000)
    found = []
    for threads in (1, 3):
        net = ALL["inception"]()
        net.settings = replace(net.settings, threads=threads)
        found.append(RateProbe(net, pictures()).measure())
    assert {k: r.rate for k, r in found[0].items()} == {k: r.rate for k, r in found[1].items()}


def test_arrays_in_files_keep_their_numbers_when_memory_is_given_back(monkeypatch):
    monkeypatch.setattr(mapped, "_FILE", 1 << 13)
    place, rng = mapped.ScratchArrays(), np.random.default_rng(0)
    wanted = [rng.standard_normal(n).astype(np.float32) for n in (3, 2000, 1, 0, 70, 5000)]
    arrays = [place.copy(values) for values in wanted]
    for array, values in zip(arrays, wanted, strict=True):
        array[:1] += 1
        mapped.release(array)
        np.testing.assert_array_equal(array, np.concatenate([values[:1] + 1, values[1:]]))


def test_pages_are_written_again_after_they_were_given_back():
    array = mapped.empty_pages((3, 5000), np.dtype(np.float64))
    for number in (1.5, 2.5):
        array[...] = number
        np.testing.assert_array_equal(array, number)
        mapped.release(array)
        assert not array.any() or not hasattr(mmap, "MADV_DONTNEED")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_told_in_words(monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: Path("/dev/full").open("wb", buffering=0))  # noqa: SIM115
    with pytest.raises(OutputError, match=r"TMPDIR.*no space left on device: \d+ MB"):
        mapped.ScratchArrays().zeros((3, 4, 5))


def test_memory_that_runs_out_between_runs_on_a_device_is_told_in_words(monkeypatch):
    net = NETS["chain"]()
    net.settings = session.Settings(1, Device(resident=True))
    probe, place = RateProbe(net, pictures()), DeviceArray.place

    def full(device, array):
        if array.shape == (1,):  # what gradients are multiplied by
            raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")
        return place(device, array)

    monkeypatch.setattr(DeviceArray, "place", full)
    with pytest.raises(CaffeinitError, match="memory ran out"):
        probe.measure()
