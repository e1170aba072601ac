"""The jobs of tools/bench on nets: each is timed in turns with a plain onnxruntime forward of the same pictures."""

from __future__ import annotations

import importlib.util
import re
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_nets import NETS
from PIL import Image

import caffeinit
from caffeinit import jobs, measuring
from caffeinit.caffe.layers import find_type
from caffeinit.engine.session import Settings, compile_graph
from caffeinit.methods.redraw import draw_network
from caffeinit.methods.within import normalize
from caffeinit.model.network import Network
from caffeinit.statistics.forward import measure_moments
from caffeinit.statistics.rates import RateProbe

BATCH = 16
METHODS = ("gaussian", "orthonormal", "patches", "pca", "zca", "kmeans")
BASELINES = ("filler", "xavier", "msra", "orthogonal", "random-walk")
Batches = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Given:
    """How a job is to be measured.

    Attributes:
        rounds: at most so many pairs of plain forward and job.
        seconds: after so many no further round begins; one is always made.
        images: pictures, in batches of 16.
        threads: onnxruntime's; 0 for one per core.
        pictures: what `--images` of the command line takes; empty for pieces of scikit-learn's two photographs.
    """

    rounds: int = 5
    seconds: float = 60
    images: int = 160
    threads: int = 0
    pictures: str = ""


@dataclass(frozen=True)
class Job:
    """`run` returns the bytes of the activations that it kept; `first`: it works on the first batch alone, and so does
    the plain forward that it is held against."""

    run: Callable[[Network, Batches], int]
    first: bool = False


def _within(net: Network, batches: Batches) -> int:
    return normalize(net, batches)[1]


def _statistics(net: Network, batches: Batches) -> int:
    measure_moments(net, batches)
    return 0


def _rates(net: Network, batches: Batches) -> int:
    RateProbe(net, batches[:1]).measure()
    return 0


def _gradients(net: Network, batches: Batches) -> int:
    count = len(batches[0]["data"])
    net.backward(batches[0], {o: np.ones((count, *net.graph.shape(o)[1:]), np.float32) for o in net.outputs}, blobs=[])
    return 0


def _measure(net: Network, batches: Batches) -> int:
    measuring.measure(net, batches)
    return 0


def _init(method: str) -> Callable[[Network, Batches], int]:
    return lambda net, batches: jobs.init(net, batches, method=method).peak_bytes


JOBS = {
    "within": Job(_within),
    "statistics": Job(_statistics),
    "measure": Job(_measure),
    "gradients": Job(_gradients, first=True),
    "rates": Job(_rates, first=True),
    "preserve": Job(lambda net, batches: jobs.rescale(net, batches).peak_bytes),
    "init unbalanced": Job(lambda net, batches: jobs.init(net, batches, balanced=False).peak_bytes),
    **{f"init {m}": Job(_init(m)) for m in (*METHODS, *BASELINES)},
}


def bench_job(name: str, job: str, given: Given, folder: Path) -> dict[str, Any]:
    """Return the row of one job on one net; to be called in a process of its own, whose memory is part of the result.

    The first run of the job, before any plain forward, tells its peak memory and is not timed.
    """
    path = write_net(name, folder)
    net, batches = prepared(path, given)
    JOBS[job].run(net, batches)
    peak = peak_bytes()
    plain = plain_forward(path, batches[: 1 if JOBS[job].first else None], given.threads)
    plain()
    found = in_turns(plain, lambda: JOBS[job].run(net, batches), given)
    kept = found.pop("result") / 2**20
    return {"net": name, "job": job, "images": given.images, **found, "kept_mb": kept, "peak_mb": peak / 2**20}


def plain_peak(name: str, given: Given, folder: Path) -> dict[str, Any]:
    """Return the peak memory of a plain forward, for a process of its own."""
    path = write_net(name, folder)
    plain_forward(path, prepared(path, given)[1], given.threads)()
    return {"peak_mb": peak_bytes() / 2**20}


def write_net(name: str, folder: Path) -> Path:
    """Write a net's prototxt and return where it is."""
    path = folder / f"{name}.prototxt"
    path.write_text(str(NETS[name]()))
    return path


def prepared(path: Path, given: Given) -> tuple[Network, Batches]:
    """Return a net with drawn weights, and its pictures."""
    net = caffeinit.load(path)
    net.settings = Settings(given.threads)
    if given.pictures:
        read = caffeinit.read_images(
            net, given.pictures, num_images=given.images, batch_size=BATCH, mean=[104, 117, 123]
        )
        batches = [dict(batch) for batch in read]
    else:
        values = photographs(given.images, net.inputs["data"][1:])
        batches = [{"data": values[i : i + BATCH]} for i in range(0, given.images, BATCH)]
    draw_network(net, lambda layer: True, "gaussian", 0, 0)
    net.missing = []
    return net, batches


def photographs(count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return pictures (count, 3, h, w), float32: pieces of scikit-learn's two photographs, at random places and sizes.

    The package itself is not imported: its memory belongs to the jobs that need it.
    """
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    rng = np.random.default_rng(0)
    files = sorted(Path(package.origin).parent.glob("datasets/images/*.jpg"))
    photos = [Image.open(file).convert("RGB") for file in files]
    found = np.empty((count, *shape), np.float32)
    for index in range(count):
        photo = photos[index % len(photos)]
        side = rng.integers(96, min(photo.size) + 1)
        x, y = (rng.integers(0, extent - side + 1) for extent in photo.size)
        piece = photo.crop((x, y, x + side, y + side)).resize(shape[:0:-1], Image.Resampling.BILINEAR)
        found[index] = np.asarray(piece, np.float32).transpose(2, 0, 1)[::-1] - 115
    return found


def plain_forward(path: Path, batches: Batches, threads: int) -> Callable[[], None]:
    """Return a plain forward of the net as any user of onnxruntime would run it, with its own LRN."""
    lrn = find_type("LRN")
    assert lrn is not None
    ours = type(lrn).apply  # type: ignore[attr-defined]

    def theirs(self: Any, layer: Any, graph: Any, x: str) -> str:
        p = layer.lrn_param
        value: str = graph.op("LRN", x, alpha=p.alpha, beta=p.beta, bias=p.k, size=p.local_size)
        return value

    type(lrn).apply = theirs  # type: ignore[attr-defined]
    try:
        net = caffeinit.load(path)
    finally:
        type(lrn).apply = ours  # type: ignore[attr-defined]
    draw_network(net, lambda layer: True, "gaussian", 0, 0)
    session = compile_graph(net.graph, net.graph.outputs, Settings(threads))
    return lambda: [session.run(b) for b in batches] and None


def in_turns(base: Callable[[], Any], run: Callable[[], Any], given: Given) -> dict[str, Any]:
    """Time two things in turns; returns seconds, the ratio's least, median and most, and what the last run returned."""
    pairs, began = [], time.perf_counter()
    while len(pairs) < given.rounds and (not pairs or time.perf_counter() - began < given.seconds):
        pairs.append((timed(base), timed(run)))
    ratios = [job.wall / plain.wall for plain, job in pairs]
    return {
        "rounds": len(pairs),
        "plain_s": statistics.median(plain.wall for plain, _ in pairs),
        "job_s": statistics.median(job.wall for _, job in pairs),
        "cpu_s": statistics.median(job.cpu for _, job in pairs),
        "cpu_ratio": statistics.median(job.cpu / plain.cpu for plain, job in pairs),
        "ratio_min": min(ratios),
        "ratio": statistics.median(ratios),
        "ratio_max": max(ratios),
        "result": pairs[-1][1].result,
    }


@dataclass(frozen=True)
class Timed:
    """Wall and processor seconds of a run, children included, and what it returned."""

    wall: float
    cpu: float
    result: Any


def timed(run: Callable[[], Any]) -> Timed:
    """Run and time something."""
    wall, spent = time.perf_counter(), _processor_seconds()
    result = run()
    return Timed(time.perf_counter() - wall, max(_processor_seconds() - spent, 1e-3), result)


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def peak_bytes() -> int:
    """Return the most memory that this process ever held; 0 where the system does not tell.

    Not getrusage's ru_maxrss: that counts the parent's memory at the fork as well.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return 0
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]
