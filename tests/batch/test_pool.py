"""A model's process may crash, hang, eat memory or be killed: the others do not notice, and the reason is told."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from caffeinit.batch.pool import run_here
from caffeinit.batch.tasks import Limits, Task
from tests.batch.processes import below, log_of, parents, servers_of, wait_for

NET = """
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 1 dim: 3 dim: {size} dim: {size} }} }} }}
layer {{ name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param {{ num_output: 64 kernel_size: 5 }} }}
"""


@pytest.fixture
def task(place):
    """Return what makes an `init` task, long or short."""

    def make(name, size=12, **limits):
        net = place / f"{name}.prototxt"
        net.write_text(NET.format(size=size))
        arguments = ["init", str(net), f"--images={place / 'pictures'}", "--output", "{files}/x.caffemodel"]
        return Task(
            *(name, "init", net.name, None, f"key-{name}", [*arguments, "--json", "{files}/x.json", "--quiet"]),
            *({"x.caffemodel": "x.caffemodel"}, {}, {}, {}, True, 0, Limits(**limits), str(place)),
        )

    return make


def results(tasks, work, jobs=2):
    return {t.name: record for t, record in run_here(tasks, work, jobs, 1)}


def test_a_good_model_leaves_files_and_record(task, tmp_path):
    found = results([task("good")], tmp_path)
    assert found["good"]["result"] == "ok"
    assert found["good"]["outputs"].keys() == {"x.caffemodel", "x.json"}
    assert found["good"]["peak_memory"] > 1 << 20
    assert (tmp_path / "done" / "key-good" / "files" / "x.caffemodel").exists()


def test_a_task_that_is_done_is_not_done_again(task, tmp_path):
    first = results([task("good")], tmp_path)
    assert results([task("good")], tmp_path)["good"]["seconds"] == first["good"]["seconds"]


def test_limits_end_a_model_and_no_other(task, tmp_path):
    found = results(
        [task("slow", 2000, seconds=0.7), task("fat", 2000, memory=450 << 20), task("good"), task("better")], tmp_path
    )
    assert found["slow"]["reason"] == "took longer than the time limit of 0.7 s"
    assert found["fat"]["reason"] == "took more memory than the limit of 450 MB"
    assert found["good"]["result"] == found["better"]["result"] == "ok"
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGSEGV, "the process crashed (SIGSEGV)"),
        (signal.SIGKILL, "the process was killed from outside (SIGKILL)"),
    ],
)
def test_a_crash_is_told_and_the_rest_goes_on(task, tmp_path, number, words):
    tasks = [task("slow", 2000), task("good")]
    helper = threading.Thread(target=kill_child_of_server, args=(tmp_path / "work", "key-slow", number))
    helper.start()
    found = results(tasks, tmp_path)
    helper.join()
    assert found["slow"]["reason"].startswith(words)
    assert found["good"]["result"] == "ok"


def kill_child_of_server(work, key, number):
    """Send a signal to the process that works on a task."""
    mine = wait_for(lambda: [p for p in below(os.getpid()) if log_of(p).startswith(f"{work / key}")])
    time.sleep(0.2)
    os.kill(mine[0], number)


def test_a_killed_server_is_started_again(task, tmp_path):
    tasks = [task("slow", 700), *(task(f"good{n}") for n in range(4))]
    helper = threading.Thread(target=kill_server, args=(tmp_path / "work",))
    helper.start()
    found = results(tasks, tmp_path)
    helper.join()
    assert {record["result"] for record in found.values()} == {"ok"}


def kill_server(work):
    wait_for(lambda: list(work.glob("key-slow.*/log")))
    for pid in servers_of(os.getpid()):
        os.kill(pid, signal.SIGKILL)


def test_an_internal_error_keeps_its_traceback(task, tmp_path):
    broken = task("broken")
    broken.arguments[:] = ["init", "--no-such-option"]
    found = results([broken, task("good")], tmp_path)
    assert "No such option" in found["broken"]["reason"]
    assert found["good"]["result"] == "ok"


def test_leaving_early_ends_everything(task, tmp_path):
    running = run_here([task("good"), task("slow", 2000)], tmp_path, 2, 1)
    next(running)
    running.close()
    assert wait_for(lambda: not [p for p in parents() if str(tmp_path) in log_of(p)])


def test_a_server_whose_asker_is_gone_before_it_is_ready_ends_without_a_word():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "caffeinit.batch.server"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"")
