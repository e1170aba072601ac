"""What stays on a device gives what the machine's own memory gives; all of it runs here with the device "cpu".

float32 sums over 30 to 120 numbers in another order differ by a few 1e-7 of them; units amplify that a little.
"""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import caffeinit
from caffeinit.arithmetic.moments import Moments
from caffeinit.draw import Rows, Window
from caffeinit.engine.affine import Affine, with_corrections
from caffeinit.engine.arrays import DeviceArray
from caffeinit.engine.device import Device
from caffeinit.engine.failures import MEMORY_ERRORS
from caffeinit.engine.resident import HOST, Piece, Portion, ResidentSession
from caffeinit.engine.resident_run import ResidentRun, start_run
from caffeinit.engine.session import Settings, compile_graph
from caffeinit.engine.stages import plan_stages
from caffeinit.errors import WeightsError
from caffeinit.methods.responses import Responses
from caffeinit.methods.within import normalize
from caffeinit.statistics.forward import measure_moments
from tests.modes import EXACT, options_of
from tests.nets import NETS, NetBuilder, pictures

RESIDENT = Settings(threads=1, device=Device(resident=True))
ROOT = Path(__file__).resolve().parents[2]


def shared():
    """Two uses of one weight, one of them behind a Neg."""
    b = NetBuilder()
    x = b.conv("data", "conv1", 6)
    y = b.graph.op(
        "Conv", b.relu(b.graph.op("Neg", "data")), "conv1/param0", "conv1/param1", kernel_shape=[3, 3], pads=[1] * 4
    )
    return b.finish(b.product(b.relu(b.graph.op("Concat", x, y, axis=1)), "ip", 4))


def transformer():
    """Products over the last axis of (N, T, K), after a convolution whose channels are on axis 1."""
    b = NetBuilder()
    x = b.graph.reshape(b.relu(b.conv("data", "conv1", 6)), [4, 6, 120])
    x = b.graph.op("Transpose", x, perm=[0, 2, 1])
    x = b.graph.op("MatMul", x, b.array("mm", 0, (6, 7)), name="mm_product")
    return b.finish(b.product(b.relu(b.graph.op("Add", x, b.array("mm", 1, (7,), "bias"), name="mm")), "ip", 3))


def filtered():
    """Rows that the pictures choose, so that shapes depend on the data and some pieces are empty."""
    b = NetBuilder()
    bright = b.graph.op("Greater", b.graph.op("ReduceMean", "data", axes=[1, 2, 3], keepdims=0), 0.0)
    x = b.relu(b.conv(b.graph.op("Compress", "data", bright, axis=0), "conv1", 6))
    return b.finish(b.conv(x, "conv2", 3))


MORE = {**NETS, "shared": shared, "transformer": transformer, "filtered": filtered}


def both(name, work, **options):
    """Return the same net after the same work, on the ordinary path and on the resident one."""
    nets = MORE[name](), MORE[name]()
    nets[1].settings = RESIDENT
    return nets, [work(net, pictures(**options)) for net in nets]


def assert_same_params(a, b, rtol=1e-5):
    for layer, arrays in a.params.items():
        for mine, theirs in zip(arrays, b.params[layer], strict=True):
            np.testing.assert_allclose(theirs, mine, rtol=rtol, atol=rtol * float(np.abs(mine).max()), err_msg=layer)


@pytest.mark.parametrize("batch", [12, 5, 1])
@pytest.mark.parametrize("name", MORE)
def test_normalising_gives_the_same_weights(name, batch):
    (ordinary, resident), ((reports, _), (others, _)) = both(name, normalize, batch=batch)
    assert_same_params(ordinary, resident)
    for a, b in zip(reports, others, strict=True):
        assert (a.name, a.done, a.reason, a.dead) == (b.name, b.done, b.reason, b.dead)
        np.testing.assert_allclose(b.before.channel_stds, a.before.channel_stds, rtol=1e-5)


def test_values_that_are_not_finite_are_refused_and_measured():
    net = NETS["chain"]()
    net.settings = RESIDENT
    net.params["conv2"][0][0, 0, 0, 0] = np.inf
    with pytest.raises(WeightsError, match="conv2"):
        normalize(net, pictures())
    units = {u.name: u.is_finite for u in caffeinit.measure(net, pictures(), rate_batches=0).units}
    assert units == {"conv1": True, "conv2": False, "ip1": False, "ip2": False}


@pytest.mark.parametrize("method", ["patches", "pca"])
@pytest.mark.parametrize("name", MORE)
def test_weights_drawn_from_patches_are_the_same(name, method):
    def draw(net, batches):
        return caffeinit.init(net, batches, method=method, balanced=False)

    (ordinary, resident), _ = both(name, draw)
    # Whitening divides by small eigenvalues, which blows rounding up.
    assert_same_params(ordinary, resident, rtol=1e-3)


@pytest.mark.parametrize("mode", ["preserve", EXACT, "normalize"])
def test_rescaling_gives_the_same_weights(mode):
    for name in ("chain", "residual"):
        (ordinary, resident), (a, b) = both(
            name, lambda net, batches: caffeinit.rescale(net, batches, **options_of(mode))
        )
        assert_same_params(ordinary, resident, rtol=1e-4)
        assert [n.split(" moved by ")[0] for n in a.notes] == [n.split(" moved by ")[0] for n in b.notes]


@pytest.mark.parametrize("name", MORE)
def test_a_pass_that_normalises_looks_for_no_largest_value(name):
    _, found = both(name, normalize)
    for reports, _ in found:
        assert any(r.before for r in reports)
        assert all(np.isnan(r.before.max_abs) for r in reports if r.before)


@pytest.mark.parametrize("name", MORE)
def test_moments_of_one_pass_are_the_same_and_outputs_can_be_seen(name):
    seen = []

    def measure(net, batches):
        seen.append([])
        return measure_moments(net, batches, net.graph.outputs, seen[-1].append)

    (net, _), (a, b) = both(name, measure)
    for key, moments in a.items():
        assert b[key].count == moments.count
        np.testing.assert_allclose(b[key].mean, moments.mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(b[key].std, moments.std, rtol=1e-5)
        np.testing.assert_allclose(b[key].largest, moments.largest, rtol=1e-5)
    before, after = (np.concatenate([np.asarray(v[net.graph.outputs[0]]) for v in pieces]) for pieces in seen)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "axis"), [((5, 3, 4, 6), 1), ((5, 3), 1), ((2, 7, 3), 2), ((3, 5), 0), ((2, 4, 3, 2, 2), 2)]
)
def test_moments_of_any_layout(shape, axis):
    b = NetBuilder(shape=shape)
    b.graph.batch_axis_free = axis > 0
    b.graph.outputs = [b.graph.op("Neg", "data", name="y")]
    session = ResidentSession(b.graph, ["y"], RESIDENT, Portion(RESIDENT.device), axes={"y": axis})
    values = np.random.default_rng(0).normal(100, 0.1, shape).astype(np.float32)
    piece = session.run({"data": DeviceArray.place(RESIDENT.device, values)})["y"]
    found, expected = Moments(shape[axis]), Moments(shape[axis])
    found.update(piece, axis)
    expected.update(-values, axis)
    assert found.count == expected.count
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6)
    np.testing.assert_allclose(found.std, expected.std, rtol=1e-4)
    np.testing.assert_array_equal(found.largest, expected.largest)


@pytest.mark.parametrize("level", [0, 300])  # means that squares would lose what varies beside
@pytest.mark.parametrize(
    ("shape", "axis", "most"),
    [((5, 6, 4, 7), 1, 3), ((5, 6, 4, 7), 1, 2), ((5, 6), 1, 3), ((2, 7, 6), 2, 3), ((2, 4, 6, 3), 2, 3)],
)
def test_how_channels_go_together_is_added_up_on_the_device(shape, axis, most, level, monkeypatch):
    b = NetBuilder(shape=shape)
    b.graph.outputs = [b.graph.op("Neg", "data", name="y")]
    session = ResidentSession(b.graph, ["y"], RESIDENT, Portion(RESIDENT.device), axes={"y": axis})
    rng = np.random.default_rng(0)
    unit = SimpleNamespace(weight=np.zeros((2, 3, 1)))
    found, expected = Responses(unit, most), Responses(unit, most)
    monkeypatch.setattr(DeviceArray, "fetch", None)
    for _ in range(2):
        values = rng.normal(level, 1, shape).astype(np.float32)
        found.add(session.run({"data": DeviceArray.place(RESIDENT.device, values)})["y"], axis)
        expected.add(-values, axis)
    assert found.count == expected.count
    np.testing.assert_allclose(found.covariance(), expected.covariance(), atol=1e-4)


def test_large_pictures_cost_no_digits():
    values = np.random.default_rng(0).normal(10, 1, (1, 2, 300, 400)).astype(np.float32)
    b = NetBuilder(shape=values.shape)
    b.graph.outputs = [b.graph.op("Identity", "data", name="y")]
    session = ResidentSession(b.graph, ["y"], RESIDENT, Portion(RESIDENT.device), axes={"y": 1})
    found = Moments(2)
    found.update(session.run({"data": DeviceArray.place(RESIDENT.device, values)})["y"], 1)
    np.testing.assert_allclose(found.std, values.astype(np.float64).std(axis=(0, 2, 3)), rtol=1e-6)


def test_kept_values_are_read_as_corrected_and_given_up():
    net, batches = NETS["chain"](), pictures()
    first = net.units[0].uses[0].output
    stages = plan_stages(net.graph, [u.uses[0].output for u in net.units], net.graph.outputs)
    run = start_run(net.graph, batches, stages, RESIDENT, {}, [])
    assert isinstance(run, ResidentRun)
    scale, shift = np.linspace(0.5, 2, 8, dtype=np.float32), np.linspace(-1, 1, 8, dtype=np.float32)
    for number, stage in enumerate(stages):
        run.run(number, lambda value, piece: None)
        if first in stage.checkpoints:
            for piece in run.values(first):
                piece.correct(Affine(scale, shift, 1))
            corrected = np.concatenate([np.asarray(piece) for piece in run.values(first)])
        run.release(number)
    original = NETS["chain"]()
    raw = [original.forward(b, [first])[first] for b in batches]
    np.testing.assert_allclose(
        corrected, np.concatenate(raw) * scale[:, None, None] + shift[:, None, None], rtol=1e-5, atol=1e-5
    )
    original.units[0].rescale(scale.astype(float), shift.astype(float))
    output = original.graph.outputs[0]
    session = compile_graph(original.graph, [output], RESIDENT)
    expected = np.concatenate([session.run(b)[output] for b in batches])
    found = np.concatenate([np.asarray(piece) for piece in run.values(output)])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    per_picture = [4 * int(np.prod(net.graph.shape(u.uses[0].output)[1:])) for u in net.units]
    assert 12 * max(per_picture) <= run.peak_bytes < 1.5 * 12 * max(per_picture)


def test_vectors_are_those_of_the_places_and_zeros_outside():
    values = np.random.default_rng(0).standard_normal((3, 5, 4, 2)).astype(np.float32)
    piece = Piece(DeviceArray.place(RESIDENT.device, values), RESIDENT)
    index = np.array([[0, 23, -1], [9, 9, 1]])
    rows = values.transpose(0, 2, 3, 1).reshape(-1, 5)
    expected = np.where((index < 0)[:, :, None], 0, rows[index])
    np.testing.assert_array_equal(piece.vectors(index, 1), expected)
    piece.correct(Affine(np.full(5, 2, np.float32), np.ones(5, np.float32), 1, rectify=True))
    expected = np.where((index < 0)[:, :, None], 0, np.maximum(rows * 2 + 1, 0)[index])
    np.testing.assert_array_equal(piece.vectors(index, 1), expected)
    last = np.maximum(values * 2 + 1, 0).reshape(-1, 2)
    np.testing.assert_array_equal(piece.vectors(index, -1), np.where((index < 0)[:, :, None], 0, last[index]))


WINDOWS = [
    ((3, 4, 7, 6), Window((3, 2), (2, 1), (1, 0), (2, 1), (1, 2), 2)),
    ((3, 4, 7, 6), Window((1, 1), (1, 1), (0, 0), (0, 0), (1, 1))),
    ((2, 6, 9), Window((4,), (3,), (3,), (3,), (2,), 3)),
    ((2, 2, 3, 4, 5), Window((2, 3, 2), (1, 1, 2), (1, 0, 1), (0, 1, 1), (1, 1, 1))),
    ((4, 10), Rows(10)),
    ((4, 3, 10), Rows(10)),
    ((4, 3, 10), Rows(3, axis=-2)),
    ((4, 2, 3, 5), Rows(3, axis=-2)),
]


def gathered(geometry, value, pictures_, positions):
    into = np.empty((geometry.group, len(pictures_), geometry.dimension(value.shape)), np.float32)
    geometry.gather(value, pictures_, positions, into)
    return into


@pytest.mark.parametrize(("shape", "geometry"), WINDOWS, ids=str)
def test_patches_from_a_device_are_those_of_the_array(shape, geometry):
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    piece = Piece(DeviceArray.place(RESIDENT.device, values), RESIDENT)
    each = geometry.positions(shape)
    pictures_, positions = np.repeat(np.arange(shape[0]), each), np.tile(np.arange(each), shape[0])
    np.testing.assert_array_equal(
        gathered(geometry, piece, pictures_, positions), gathered(geometry, values, pictures_, positions)
    )


@pytest.mark.parametrize("most", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("name", MORE)
def test_pieces_of_a_batch_give_the_whole_batch(name, most):
    """Rows of these nets are no multiples of what kernels align to, so that views are copied on the way."""
    net = MORE[name]()
    values = [use.output for unit in net.units for use in unit.uses]
    axes = {use.output: use.axis for unit in net.units for use in unit.uses}
    feeds = {"data": DeviceArray.place(RESIDENT.device, pictures(batch=12)[0]["data"])}
    portions = Portion(RESIDENT.device), Portion(RESIDENT.device, most=most)
    whole, parts = (ResidentSession(net.graph, values, RESIDENT, p, axes=axes).run(feeds) for p in portions)
    for value in values:
        np.testing.assert_allclose(np.asarray(parts[value]), np.asarray(whole[value]), rtol=1e-4, atol=1e-5)
        pooled = [Moments(net.graph.shape(value)[axes[value]]) for _ in range(2)]
        for moments, pieces in zip(pooled, (whole, parts), strict=True):
            moments.update(pieces[value], axes[value])
        assert pooled[0].count == pooled[1].count
        np.testing.assert_allclose(pooled[1].std, pooled[0].std, rtol=1e-5)


SMALL_ARENA = """
import json
import numpy as np, onnxruntime as ort
from caffeinit.engine import session
from caffeinit.engine.device import Device
from caffeinit.methods.within import normalize
from tests.nets import NETS, pictures

memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"max_mem": 300_000, "arena_extend_strategy": 1}))
session._share_arena = lambda: None
ordinary, small = NETS["residual"](), NETS["residual"]()
small.settings = session.Settings(threads=1, device=Device(resident=True))
normalize(small, pictures(num=64, batch=64))
session._options = (lambda options: lambda settings: without_arena(options(settings)))(session._options)
def without_arena(options):
    options.add_session_config_entry("session.use_env_allocators", "0")
    return options
normalize(ordinary, pictures(num=64, batch=64))
for layer, arrays in ordinary.params.items():
    for a, b in zip(arrays, small.params[layer], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
print(json.dumps(small.notes))
"""


def test_what_does_not_fit_on_the_device_is_kept_in_the_machines_memory(monkeypatch):
    """The error is the one that onnxruntime raises; which device raises it is arranged."""
    with pytest.raises(MEMORY_ERRORS) as failed:
        DeviceArray.allocate(HOST, (1 << 50,), np.dtype(np.float32))
    allocate = DeviceArray.allocate

    def narrow(device, shape, dtype):
        if device.resident and len(shape) == 4:
            raise failed.value
        return allocate(device, shape, dtype)

    monkeypatch.setattr(DeviceArray, "allocate", narrow)
    (ordinary, resident), _ = both("inception", normalize)
    assert_same_params(ordinary, resident)
    assert resident.notes == ["out of memory on cpu: part of what is kept between layers went to the machine's memory"]


def test_a_batch_goes_through_in_halves_where_memory_runs_out():
    """The memory is onnxruntime's own, with a limit that whole batches do not fit into."""
    done = subprocess.run(
        [sys.executable, "-c", SMALL_ARENA], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (note,) = json.loads(done.stdout)
    assert note.startswith("out of memory on cpu: pictures went through it ")
    assert 1 <= int(note.split()[-4]) <= 32


@pytest.mark.parametrize("name", MORE)
def test_batches_go_through_together_where_pictures_stay_apart(name, monkeypatch):
    counts = []
    run = ResidentSession.run

    def counted(self, feeds):
        counts.append(max(len(array) for array in feeds.values()))
        return run(self, feeds)

    monkeypatch.setattr(ResidentSession, "run", counted)
    net = MORE[name]()
    net.settings = RESIDENT
    normalize(net, pictures(num=12, batch=5))
    measure_moments(net, pictures(num=12, batch=5))
    assert max(counts) == (5 if name == "filtered" else 12)
    # As many as have room.
    monkeypatch.setattr("caffeinit.engine.resident_run.RUN_BYTES", 1)
    counts.clear()
    normalize(net, pictures(num=12, batch=5))
    assert max(counts) == 5


@pytest.mark.parametrize("size", [1e-26, 1e26])
def test_squares_that_single_precision_cannot_hold_are_taken_here(size):
    net = NETS["chain"]()
    net.params["conv1"][0][...] *= size
    net.params["conv1"][1][...] = 0
    other = NETS["chain"]()
    for mine, theirs in zip(net.params["conv1"], other.params["conv1"], strict=True):
        theirs[...] = mine
    other.settings = RESIDENT
    (a, _), (b, _) = (normalize(n, pictures()) for n in (net, other))
    np.testing.assert_allclose(b[0].before.channel_stds, a[0].before.channel_stds, rtol=1e-5)
    assert_same_params(net, other)


def test_types_that_do_not_follow_from_the_inputs_are_known_behind_a_correction():
    net = NETS["chain"]()
    first, last = net.units[0].uses[0].output, net.units[1].uses[0].output
    part = net.graph.part([last], [first])
    part.set_shape(last, (4, 9, 1, 1))  # as if its operator were one that nobody has
    change = Affine(np.ones(6, np.float32), np.ones(6, np.float32), 1)
    assert with_corrections(part, {first: change})[0].shape(last) == (4, 9, 1, 1)
