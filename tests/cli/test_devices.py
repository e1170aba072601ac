"""Verbs on a device: what is there, what is not, and what is said. The suite hides GPUs."""

import pytest

from caffeinit.batch.table import JOBS, options_of

DEVICES = ["init", "rescale", "measure", "verify"]


@pytest.mark.parametrize("verb", DEVICES)
def test_every_verb_that_runs_nets_takes_a_device(cli, verb):
    assert "--device auto|cpu|cuda[:N]" in cli(verb, "--help").out
    assert verb not in JOBS or {"device", "allow_tf32"} <= set(options_of(JOBS[verb]))


@pytest.mark.parametrize(("device", "words"), [("cuda", "device cuda: "), ("cuda:7", "cuda:7: "), ("tpu", "cuda:N")])
def test_a_device_that_is_not_there_is_refused_before_anything_runs(cli, place, weights, device, words):
    target = place / "x.caffemodel"
    more = ("--images", place / "pictures", "--device", device)
    for outcome in (
        cli("init", place / "net.prototxt", *more, "-o", target),
        cli("measure", place / "net.prototxt", weights, *more),
        cli("verify", place / "net.prototxt", weights, weights, *more),
    ):
        assert outcome.code == 2
        assert words in outcome.err
        assert outcome.out == ""
    assert not target.exists()


def test_auto_without_a_gpu_is_the_cpu_and_says_nothing(cli, place):
    outcomes = []
    for device in ("auto", "cpu"):
        target = place / f"{device}.caffemodel"
        more = ("--images", place / "pictures", "--device", device, "-o", target)
        outcomes.append(cli("init", place / "net.prototxt", *more))
        assert outcomes[-1].code == 0
        assert "runs on" not in outcomes[-1].out + outcomes[-1].err
    assert (place / "auto.caffemodel").read_bytes() == (place / "cpu.caffemodel").read_bytes()
