#!/usr/bin/env python3
"""Whether pictures are decoded while the net computes: JPEGs of 12 megapixels through CaffeNet.

    tools/bench_pictures.py                  # 32 pictures, a thread for decoding and one for the net
    tools/bench_pictures.py --draft --pictures 64

Decoding alone, the net alone on decoded pictures, and both; a pass over pictures that overlaps them takes about the larger
of the two where there is a core for each, and their sum where it does not. On a machine without idle cores the processor
time is the limit, and that is their sum in any case: look at it beside the wall time.

`statistics` streams the pictures through the whole net. `within` cannot: its first layer's statistics over all pictures
come before the second layer runs, so that decoding overlaps with the first layer alone, and the others follow.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_nets import NETS
from PIL import Image

import caffeinit
from caffeinit import jobs
from caffeinit.engine.session import Settings
from caffeinit.images import Calibration
from caffeinit.methods.within import normalize
from caffeinit.model.network import Network
from caffeinit.statistics.forward import measure_moments

HEIGHT, WIDTH = 3000, 4000
BATCH = 4  # several batches, or there is nothing to overlap
JOBS: dict[str, Callable[[Network, Any], Any]] = {"statistics": measure_moments, "within": normalize}


def write_pictures(folder: Path, count: int) -> None:
    """Write JPEGs of 12 megapixels with detail at all sizes, as photographs have; two contents, the rest are links."""
    rng = np.random.default_rng(0)
    for number in range(min(count, 2)):
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for size in (5, 50, 500):
            coarse = rng.standard_normal((HEIGHT // size + 1, WIDTH // size + 1, 3)).astype(np.float32)
            pixels += 12 * size**0.2 * coarse.repeat(size, 0).repeat(size, 1)[:HEIGHT, :WIDTH]
        Image.fromarray((pixels + 128).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
    for number in range(2, count):
        os.link(folder / f"{number % 2}.jpg", folder / f"{number}.jpg")


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Return wall and processor seconds."""
    wall, spent = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - spent


def bench_pictures(
    folder: Path, count: int = 32, rounds: int = 3, draft: bool = False, wanted: Sequence[str] = tuple(JOBS)
) -> list[dict[str, Any]]:
    """Return a row for each job: medians of seconds, and wall time against the larger part and against the sum."""
    write_pictures(folder, count)
    path = folder / "net.prototxt"
    path.write_text(str(NETS["caffenet"]()))
    net = caffeinit.load(path)
    net.settings = Settings(1)

    def pictures() -> Calibration:
        found: Calibration = caffeinit.read_images(net, folder, threads=1, batch_size=BATCH, draft=draft or None)
        return found

    decoded = list(pictures())
    jobs.init(net, decoded[:1], balanced=False)
    rows = []
    for job in wanted:
        run = JOBS[job]
        seconds: dict[str, list[tuple[float, float]]] = {"decoding": [], "net": [], "both": []}
        for _ in range(rounds):
            seconds["decoding"].append(timed(lambda: list(pictures())))
            seconds["net"].append(timed(lambda run=run: run(net, decoded)))  # type: ignore[misc]
            seconds["both"].append(timed(lambda run=run: run(net, pictures())))  # type: ignore[misc]
        row: dict[str, Any] = {"net": "pictures 12 MP", "job": f"{job}{', draft' if draft else ''}", "images": count}
        for part, found in seconds.items():
            row[f"{part}_s"] = statistics.median(wall for wall, _ in found)
            row[f"{part}_cpu_s"] = statistics.median(spent for _, spent in found)
        row["of_larger"] = row["both_s"] / max(row["decoding_s"], row["net_s"])
        row["of_sum"] = row["both_s"] / (row["decoding_s"] + row["net_s"])
        rows.append(row)
        print(
            f"{row['job']:20} decoding {row['decoding_s']:.2f} s (processor {row['decoding_cpu_s']:.2f}), net "
            f"{row['net_s']:.2f} ({row['net_cpu_s']:.2f}), both {row['both_s']:.2f} ({row['both_cpu_s']:.2f}): "
            f"{row['of_larger']:.2f} of the larger, {row['of_sum']:.2f} of the sum",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draft", action="store_true", help="decode at 1/8 of the size")
    parser.add_argument("--jobs", default=",".join(JOBS), help=f"comma-separated: {', '.join(JOBS)}")
    given = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        bench_pictures(Path(folder), given.pictures, given.rounds, given.draft, given.jobs.split(","))


if __name__ == "__main__":
    sys.exit(main())
