"""What tests of init and rescale type, and what they find where it is refused."""

import os


def rescale(cli, place, weights, *more):
    return cli("rescale", place / "net.prototxt", weights, "--images", place / "pictures", "--mode", "normalize", *more)


def refused(outcome, place, *words, code=1):
    """A refusal: one message in plain words, nothing new beside the inputs."""
    assert outcome.code == code
    assert outcome.err.startswith("error: ")
    for word in words:
        assert word in outcome.err
    assert not (place / "net.rescaled.caffemodel").exists()
    assert not [name for name in os.listdir(place) if name.endswith(".tmp")]
