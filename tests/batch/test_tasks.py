"""What decides a result is in its key, and nothing else is."""

import shutil

import numpy as np
import pytest

from caffeinit.batch.fingerprints import pictures_digest
from caffeinit.batch.pairing import Model
from caffeinit.batch.settings import Said
from caffeinit.batch.table import JOBS
from caffeinit.batch.tasks import Limits, build_task, output_paths, parsed
from caffeinit.errors import CaffeinitError, FormatError, OptionError
from tests.batch.conftest import DEPLOY
from tests.batch.test_fingerprints import touch

RESCALE = JOBS["rescale"]
MODEL = Model("first/deploy.prototxt", "first/net.caffemodel")


def task(place, **options):
    given = {"sources": [str(place / "pictures")], "mode": ["normalize"], **options}
    pictures_digest.cache_clear()
    return build_task(place / "zoo", MODEL, RESCALE, "first/net.caffemodel", given, Limits())


CHANGES = {
    "net": lambda p: (p / "zoo/first/deploy.prototxt").write_text(DEPLOY + "\n"),
    "weights": lambda p: shutil.copy(p / "zoo/third/net.caffemodel", p / "zoo/first/net.caffemodel"),
    "picture": lambda p: touch(p / "pictures/2.png"),
    "picture gone": lambda p: (p / "pictures/2.png").unlink(),
    "picture renamed": lambda p: (p / "pictures/2.png").rename(p / "pictures/7.png"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_input_is_another_key(place, what):
    before = task(place).key
    assert task(place).key == before
    CHANGES[what](place)
    assert task(place).key != before


def test_options_count_and_speed_does_not(place):
    before = task(place)
    assert task(place, beta=["0.2"]).key != before.key
    assert task(place, threads=["2"]).key == before.key
    assert before.sees_threads
    assert not task(place, threads=["2"]).sees_threads


def test_files_that_the_net_names_count(place):
    text = DEPLOY.replace('type: "Input"', "type: 'Input' transform_param { mean_file: \"data/mean.npy\" }")
    (place / "zoo/first/deploy.prototxt").write_text(text)
    np.save(place / "zoo/first/mean.npy", np.zeros(3))
    before = task(place)
    assert "first/mean.npy" in before.inputs
    np.save(place / "zoo/first/mean.npy", np.ones(3))
    assert task(place).key != before.key


def test_arguments_are_what_one_would_type(place):
    made = task(place, strict=["true"], methods=["gaussian", "ip=xavier"], beta=["-1"])
    net, weights = (str(place / "zoo/first" / n) for n in ("deploy.prototxt", "net.caffemodel"))
    assert made.arguments[:3] == ["rescale", net, weights]
    assert {"--strict", "--method=gaussian", "--method=ip=xavier", "--beta=-1"} <= set(made.arguments)
    assert made.arguments[-5:] == [
        "--output",
        "{files}/net.caffemodel",
        "--json",
        "{files}/net.caffemodel.json",
        "--quiet",
    ]
    assert made.outputs["net.caffemodel.json"] == "first/net.caffemodel.json"


def test_a_value_that_the_verb_refuses_is_told_with_its_place():
    with pytest.raises(OptionError, match="not a valid float"):
        parsed(RESCALE, {"beta": ["much"]})
    said = Said(options={"beta": ["much"]}, origin={"beta": "a/caffeinit.toml"})
    with pytest.raises(FormatError, match=r"a/caffeinit.toml: .*not a valid float"):
        parsed(RESCALE, said.options, said)


def test_a_file_that_is_gone_is_told(place):
    (place / "zoo/first/net.caffemodel").unlink()
    with pytest.raises(CaffeinitError, match="cannot be read: no such file"):
        task(place)


@pytest.mark.parametrize(
    ("job", "models", "outputs"),
    [
        ("rescale", {"a/x.caffemodel": "n", "a/x.caffemodel.h5": "n"}, ["a/x.caffemodel", "a/x.caffemodel.h5"]),
        ("convert", {"a/x.caffemodel": "n"}, ["a/x.onnx"]),
        (
            "convert",
            {"a/x.caffemodel": "n", "a/x.caffemodel.h5": "n"},
            ["a/x.caffemodel.onnx", "a/x.caffemodel.h5.onnx"],
        ),
        ("init", {None: "d.prototxt"}, ["d.caffemodel"]),
        ("measure", {"x.caffemodel": "n"}, [None]),
    ],
)
def test_names_of_outputs_never_meet(job, models, outputs):
    made = [Model(net, weights) for weights, net in models.items()]
    assert list(output_paths(JOBS[job], made).values()) == outputs
