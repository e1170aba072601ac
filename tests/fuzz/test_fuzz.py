"""Damaged files are read or refused in our own words; nothing else ever comes out."""

import pytest

from tests.fuzz.models import hurt
from tests.fuzz.nets import hurt_net
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS, refused

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")


@st.composite
def damaged(draw, name):
    """A good file with some stretches replaced, doubled or cut out, or bytes of no origin."""
    raw = draw(st.sampled_from(seeds(name)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        end = min(len(raw), at + draw(st.integers(0, 12)))
        piece = draw(st.one_of(st.binary(max_size=8), st.just(raw[at:end] * 2)))
        raw = raw[:at] + piece + raw[end:]
    return draw(st.one_of(st.just(raw), st.binary(max_size=64), st.integers(0, len(raw)).map(lambda n: raw[:n])))


@pytest.mark.parametrize("name", TARGETS)
def test_good_files_are_read(name):
    assert [raw for raw in seeds(name) if refused(name, raw)] == []


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(name):
    @hypothesis.settings(
        max_examples=15 if name in ("net", "zoo") else 60, deadline=5000, derandomize=True, database=None
    )
    @hypothesis.given(damaged(name))
    def check(raw):
        refused(name, raw)

    check()


@pytest.mark.parametrize("name", ["arrays", "mean_npy"])
def test_a_numpy_header_that_python_cannot_cut_into_tokens_is_refused(name):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape':" + bytes(68) + b"\n"
    assert refused(name, b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(384))


def test_an_empty_idx_file_with_endless_axes_is_refused():
    header = b"\0\0\x08\x03" + b"".join(d.to_bytes(4, "big") for d in (0, 0xE2E2E2E2, 0xE2E2E2E2))
    assert refused("arrays", header)


def test_models_with_something_wrong_are_read_or_refused():
    for seed in range(200):
        refused("onnx_model", hurt(seed))


def test_nets_with_something_wrong_are_read_or_refused():
    for seed in range(40):
        refused("net", hurt_net(seed))


@pytest.mark.parametrize("seed", [369, 1398, 1678, 2194, 2940, 3003, 3084, 3782, 3807, 4853, 10125])
def test_models_that_once_ended_in_a_traceback_do_not(seed):
    refused("onnx_model", hurt(seed))
