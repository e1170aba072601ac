"""CUDA gives what the CPU gives, to 1e-3 with TF32 off. Skipped where there is no GPU; tools/gpu_check runs these."""

import numpy as np
import pytest

import caffeinit
from caffeinit.arithmetic.moments import Moments
from caffeinit.engine.arrays import DeviceArray
from caffeinit.engine.device import CUDA, Device, find_device
from caffeinit.engine.resident import Piece, Portion, ResidentSession
from caffeinit.engine.session import Settings, compile_graph
from caffeinit.methods.within import normalize
from caffeinit.statistics.forward import measure_moments
from tests.engine.test_resident import MORE, WINDOWS, assert_same_params, gathered
from tests.nets import pictures

pytestmark = pytest.mark.gpu
GPU = Settings(threads=1, device=Device("cuda", resident=True))


class Narrow(Device):
    """A GPU whose sessions may take less memory than 4096 pictures of one value of the net take, 16 MB."""

    def _options(self):
        return {**super()._options(), "gpu_mem_limit": str(12 << 20)}


def both(name, work, settings=GPU, **options):
    nets = MORE[name](), MORE[name]()
    nets[1].settings = settings
    return nets, [work(net, pictures(**options)) for net in nets]


def test_a_session_gets_it():
    device, note = find_device("cuda")
    assert (device, note) == (GPU.device, "runs on cuda:0")
    assert find_device("auto")[0] == device
    net = MORE["chain"]()
    assert CUDA in compile_graph(net.graph, net.graph.outputs, GPU)._session.get_providers()


@pytest.mark.parametrize("batch", [12, 5])
@pytest.mark.parametrize("name", MORE)
def test_normalising_gives_the_weights_of_the_cpu(name, batch):
    (cpu, gpu), ((reports, _), (others, _)) = both(name, normalize, batch=batch)
    assert_same_params(cpu, gpu, rtol=1e-3)
    for a, b in zip(reports, others, strict=True):
        np.testing.assert_allclose(1 / b.before.channel_stds, 1 / a.before.channel_stds, rtol=1e-3)


@pytest.mark.parametrize("name", MORE)
def test_values_moments_and_gradients_are_those_of_the_cpu(name):
    (cpu, gpu), (a, b) = both(name, measure_moments)
    for key, moments in a.items():
        np.testing.assert_allclose(b[key].std, moments.std, rtol=1e-3)
    inputs, top = pictures()[0], cpu.graph.outputs[0]
    values = [net.forward(inputs, [top])[top] for net in (cpu, gpu)]
    np.testing.assert_allclose(values[1], values[0], rtol=1e-3, atol=1e-3 * np.abs(values[0]).max())
    found = [net.backward(inputs, {top: np.ones_like(values[0])}).inputs["data"] for net in (cpu, gpu)]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3, atol=1e-3 * np.abs(found[0]).max())


@pytest.mark.parametrize(("shape", "geometry"), WINDOWS, ids=str)
def test_patches_from_the_gpu_are_those_of_the_array(shape, geometry):
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    session = compile_graph(MORE["chain"]().graph, ["conv1"], GPU)  # loads CUDA
    piece = Piece(DeviceArray.place(GPU.device, values), GPU)
    each = geometry.positions(shape)
    chosen = np.repeat(np.arange(shape[0]), each), np.tile(np.arange(each), shape[0])
    np.testing.assert_array_equal(gathered(geometry, piece, *chosen), gathered(geometry, values, *chosen))
    del session


@pytest.mark.parametrize("mode", ["preserve", "normalize"])
def test_jobs_run_and_prove_themselves(mode):
    (cpu, gpu), (a, b) = both("chain", lambda net, batches: caffeinit.rescale(net, batches, mode=mode))
    for one, other in zip(a.units, b.units, strict=True):
        np.testing.assert_allclose(1 / other.before.channel_stds, 1 / one.before.channel_stds, rtol=1e-3)
    # Scales follow from rates, which are sums of squares of gradients: where one is off by 1e-3, as above, its square is by
    # 2e-3, and what two rates differ by, and a unit's own scale times the inverse of the next one's, by twice that each.
    assert_same_params(cpu, gpu, rtol=1e-2)
    assert abs(a.rate_spread - b.rate_spread) < 1e-2
    spreads = [caffeinit.measure(net, pictures()).rate_spread for net in (cpu, gpu)]
    assert abs(spreads[0] - spreads[1]) < 1e-2


@pytest.mark.parametrize("most", [1, 3, 5])
def test_pieces_of_a_batch_give_the_whole_batch(most):
    net = MORE["residual"]()
    values = [use.output for unit in net.units for use in unit.uses]
    axes = {use.output: use.axis for unit in net.units for use in unit.uses}
    portions = Portion(GPU.device), Portion(GPU.device, most=most)
    sessions = [ResidentSession(net.graph, values, GPU, p, axes=axes) for p in portions]
    feeds = {"data": DeviceArray.place(GPU.device, pictures(batch=12)[0]["data"])}
    whole, parts = (session.run(feeds) for session in sessions)
    for value in values:
        np.testing.assert_allclose(np.asarray(parts[value]), np.asarray(whole[value]), rtol=1e-3, atol=1e-4)
        pooled = [Moments(net.graph.shape(value)[axes[value]]) for _ in range(2)]
        for moments, pieces in zip(pooled, (whole, parts), strict=True):
            moments.update(pieces[value], axes[value])
        np.testing.assert_allclose(pooled[1].std, pooled[0].std, rtol=1e-4)


def test_a_batch_goes_through_in_halves_where_memory_runs_out():
    narrow = Settings(threads=1, device=Narrow("cuda", resident=True))
    (cpu, gpu), _ = both("residual", normalize, settings=narrow, num=4096, batch=4096)
    assert_same_params(cpu, gpu, rtol=1e-3)
    assert [n for n in gpu.notes if n.startswith("out of memory on cuda:0")]
