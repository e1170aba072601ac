"""A real scheduler and two workers on this machine: one is killed in the middle, nothing is lost and nothing done twice."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from tests.batch.conftest import DEPLOY, content, write_net, write_weights
from tests.batch.processes import below, parents, wait_for
from tests.batch.test_run import batch, command, run_here, slow, times

pytest.importorskip("distributed")


@contextlib.contextmanager
def started(module, *arguments, until):
    """Run `python -m module` until the block ends; yields the process once a line has `until` in it."""
    typed = [sys.executable, "-m", module, *map(str, arguments)]
    with subprocess.Popen(typed, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if until in line:
                    break
            yield process, line
        finally:
            process.kill()


@pytest.fixture
def scheduler():
    """The address of a scheduler."""
    arguments = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    with started("distributed.cli.dask_scheduler", *arguments, until="Scheduler at:") as (_, line):
        yield line.split()[-1]


def worker(address, *more):
    arguments = [address, "--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", *more]
    return started("distributed.cli.dask_worker", *arguments, until="Registered to")


def test_a_killed_worker_costs_nothing_but_its_model(place, scheduler):
    """With pages: workers write them, and the caller their index."""
    slow(place, copies=8)
    assert batch(place, "--report", place / "whole" / "index.html", out="whole").returncode == 0
    with worker(scheduler), worker(scheduler) as (victim, _):
        with subprocess.Popen(
            command(place, "--dask", scheduler, "--report", place / "out" / "index.html"),
            stdout=subprocess.PIPE,
            text=True,
        ) as run:
            wait_for(lambda: (place / "out" / "times.jsonl").exists() and len(times(place / "out")) >= 2)
            wait_for(lambda: len(below(victim.pid)) > 1)  # it has a model in work
            started_by_it = below(victim.pid)
            victim.send_signal(signal.SIGKILL)
            out, _ = run.communicate(timeout=120)
            assert run.returncode == 0, out
        wait_for(lambda: not set(started_by_it) & set(parents()))
    assert "8 ok, 0 failed" in out
    assert sorted(times(place / "out")) == sorted(f"{n}/net.caffemodel" for n in range(8))  # each once
    assert content(place / "out") == content(place / "whole")
    pages = {name for name in content(place / "out") if name.endswith(".html")}
    assert pages == {"index.html", *(f"{n}/net.caffemodel.html" for n in range(8))}


def test_what_a_dead_worker_had_finished_is_taken_as_it_is(place, scheduler):
    """The worker dies between the end of a model and saying so: another finds the model done."""
    assert batch(place).returncode == 0
    out = place / "out"
    lines = (out / "manifest.jsonl").read_text().splitlines()
    entry = json.loads(lines[0])
    done = out / ".batch" / "done" / entry["key"]
    (done / "files").mkdir(parents=True)
    for path in entry["outputs"]:
        (out / path).rename(done / "files" / os.path.basename(path))
    told = {os.path.basename(p): v for p, v in entry["outputs"].items()}
    record = {"result": "ok", "reason": "", "summary": entry["summary"], "outputs": told, "seconds": 12345.0}
    (done / "record.json").write_text(json.dumps(record))
    (out / "manifest.jsonl").write_text("\n".join(lines[1:]) + "\n")
    with worker(scheduler):
        assert batch(place, "--dask", scheduler).returncode == 0
    assert json.loads((out / "times.jsonl").read_text().splitlines()[-1])["seconds"] == 12345.0
    assert (out / "manifest.jsonl").read_text().splitlines() == lines


def test_a_model_that_crashes_takes_no_worker_with_it(place, scheduler):
    text = DEPLOY.replace("dim: 12 dim: 10", "dim: 3000 dim: 3000").replace("num_output: 6", "num_output: 64")
    write_weights(write_net(place / "zoo" / "fat", text.split('layer { name: "relu1"')[0]))
    with worker(scheduler) as (process, _):
        done = batch(place, "--dask", scheduler, "--model-memory", "700M")
        assert process.poll() is None
    assert done.returncode == 1
    assert "3 ok, 1 failed" in done.stdout
    assert "failed: fat/net.caffemodel: took more memory than the limit of 700 MB" in done.stdout


def test_no_scheduler_and_no_worker_are_told(place, scheduler):
    arguments = ["batch", place / "zoo", "-o", place / "out", "--job", "convert", "--dask"]
    assert "the cluster has no workers" in run_here([*arguments, scheduler]).stderr
    assert "no scheduler answers there" in run_here([*arguments, "tcp://127.0.0.1:1"]).stderr
