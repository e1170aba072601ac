"""--memory-limit on the command line: sizes, the same bytes, refusals before anything is written."""

import pytest


@pytest.mark.parametrize(
    ("size", "said"),
    [("20M", "--memory-limit 20M is too little"), ("1000", "is too little"), ("much", '"much" is no size of memory')],
)
def test_limits_that_cannot_be_held_are_refused(cli, place, size, said):
    target = place / "new.caffemodel"
    words = ["init", place / "net.prototxt", "--images", place / "pictures", "-o", target, "--memory-limit", size]
    outcome = cli(*words)
    assert outcome.code == 2
    assert said in outcome.err
    assert not target.exists()


def test_a_limit_changes_no_byte_and_leaves_no_file(cli, place, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    words = ["init", place / "net.prototxt", "--images", place / "pictures"]
    assert cli(*words, "-o", place / "free.caffemodel").code == 0
    bound = cli(*words, "-o", place / "bound.caffemodel", "--memory-limit", "64G", "--temp-dir", scratch)
    assert bound.code == 0, bound.err
    assert (place / "free.caffemodel").read_bytes() == (place / "bound.caffemodel").read_bytes()
    assert not list(scratch.iterdir())
