"""A device is what sessions really get, and what is said about it is one line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from caffeinit.engine import device as module
from caffeinit.engine.device import CUDA, Device, find_device, num_gpus, obstacle
from caffeinit.engine.failures import explained, is_out_of_memory
from caffeinit.engine.session import Settings, compile_graph
from caffeinit.errors import CaffeinitError, OptionError
from tests.nets import NETS

no_gpu = pytest.mark.skipif(num_gpus() > 0, reason="a GPU is there")
with_cuda = pytest.mark.skipif(CUDA not in ort.get_available_providers(), reason="onnxruntime is built without CUDA")


@pytest.fixture
def fresh():
    """Forget what was found out about devices, before and after."""
    obstacle.cache_clear()
    yield
    obstacle.cache_clear()


@pytest.mark.parametrize("asked", ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:0:1", "cpu:0", "auto "])
def test_other_words_are_refused(asked):
    with pytest.raises(OptionError, match="auto, cpu, cuda or cuda:N"):
        find_device(asked)


def test_the_cpu_is_there_and_not_worth_a_word():
    assert find_device("cpu") == (Device(), "")
    assert Device().providers() == ["CPUExecutionProvider"]


@no_gpu
def test_without_a_gpu_auto_is_the_cpu_and_cuda_an_error_and_nothing_is_printed(fresh, capfd):
    assert find_device("auto") == (Device(), "")
    for asked in ("cuda", "cuda:1"):
        with pytest.raises(OptionError, match=rf"device {asked}: .*(no GPU|without CUDA).*--device cpu"):
            find_device(asked)
    assert capfd.readouterr() == ("", "")


@no_gpu
@with_cuda
def test_a_gpu_that_sessions_do_not_get_is_told_in_one_line(fresh, monkeypatch, capfd):
    monkeypatch.setattr(module, "num_gpus", lambda: 1)
    device, note = find_device("auto")
    assert device == Device()
    assert note.startswith("runs on the CPU: there is a GPU, but onnxruntime ")
    assert "\n" not in note
    with pytest.raises(OptionError, match=r"device cuda: onnxruntime"):
        find_device("cuda")
    with pytest.raises(OptionError, match=r"cuda:2: the machine has 1 GPU, numbered from 0"):
        find_device("cuda:2")
    assert capfd.readouterr() == ("", "")  # the probe's own lines among them


def test_tf32_is_off_unless_it_is_allowed():
    for allowed in (False, True):
        (cuda, options), cpu = Device("cuda", 3, allow_tf32=allowed).providers()
        assert (cuda, cpu) == (CUDA, "CPUExecutionProvider")
        assert (options["use_tf32"], options["device_id"]) == (str(int(allowed)), "3")
        assert options["cudnn_conv_algo_search"] == "HEURISTIC"


def test_a_gpu_does_one_run_at_a_time():
    assert Settings(3).workers == 3
    assert Settings(3, device=Device("cuda")).workers == 1


def test_what_is_no_lack_of_memory_is_not_taken_for_it():
    net = NETS["chain"]()
    session = compile_graph(net.graph, net.graph.outputs, Settings(1))._session
    with pytest.raises(Exception, match="Got invalid dimensions") as failed:
        session.run(None, {i.name: np.zeros((4, 3, 5, 5), np.float32) for i in session.get_inputs()})
    assert not is_out_of_memory(failed.value)


@pytest.mark.parametrize(
    "text",
    [
        "Available memory of 167936 is smaller than requested bytes of 800000",
        "BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory for requested buffer of size 939524096",
        "CUDA failure 2: out of memory ; GPU=0",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "std::bad_alloc",
    ],
)
def test_lack_of_memory_is_known_by_what_onnxruntime_says(text):
    assert is_out_of_memory(RuntimeError(text))
    with pytest.raises(CaffeinitError, match=r"memory ran out: .*--batch-size"), explained("run"):
        raise RuntimeError(text)


@no_gpu
def test_gpu_check_says_that_there_is_nothing_to_check():
    tool = Path(__file__).resolve().parents[2] / "tools" / "gpu_check"
    done = subprocess.run([sys.executable, tool], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("nothing was checked: device cuda: ")
