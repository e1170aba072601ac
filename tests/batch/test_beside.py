"""What a net leaves open is taken from its zoo, where that tells it without a doubt, and never over what was typed."""

import json
import shutil

import numpy as np

from caffeinit.batch.beside import completed
from caffeinit.batch.pairing import Matchmaker
from caffeinit.batch.settings import Said, Settings
from caffeinit.batch.table import JOBS
from caffeinit.batch.zoo import search_zoo
from tests.batch.conftest import DEPLOY, OTHER, TRAIN, write_net
from tests.batch.test_run import entries, run_here

OPEN = TRAIN.replace("crop_size: 12", "")
WITH_MEAN = TRAIN.replace("crop_size: 12", 'mean_file: "../../data/somewhere/mean.npy"')


def options(root, net, job="init", **given):
    zoo = search_zoo(root, root / "out")
    settings = Settings(root, zoo.settings)
    said = {p: settings.of(p, job) for p in (*zoo.nets, *zoo.weights, *zoo.onnx)}
    return completed(Matchmaker(zoo, said, {p: {} for p in zoo.nets}), net, JOBS[job], given)


def write_mean(folder, value=1.0, shape=(3, 12, 10)):
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "mean.npy", np.full(shape, value, np.float32))


def test_a_mean_is_found_by_its_name_the_nearest_first(tmp_path):
    write_net(tmp_path / "a" / "b", WITH_MEAN, "train.prototxt")
    write_mean(tmp_path / "a" / "data")
    write_mean(tmp_path / "far" / "off" / "away", value=2)
    found = options(tmp_path, "a/b/train.prototxt")
    assert found == {"mean_file": [str(tmp_path / "a" / "data" / "mean.npy")], "input_shapes": ["data=3,12,10"]}
    typed = {"mean": ["1,2,3"], "input_shapes": ["data=3,9,9"]}
    assert options(tmp_path, "a/b/train.prototxt", **typed) == typed
    assert options(tmp_path, "a/b/train.prototxt", "convert") == {"input_shapes": ["data=3,12,10"]}
    assert options(tmp_path, "a/b/train.prototxt", "upgrade") == {}


def test_two_means_as_near_serve_only_if_they_are_the_same(tmp_path):
    write_net(tmp_path / "a", WITH_MEAN, "train.prototxt")
    write_mean(tmp_path / "b")
    write_mean(tmp_path / "c")
    assert options(tmp_path, "a/train.prototxt")["mean_file"] == [str(tmp_path / "b" / "mean.npy")]
    write_mean(tmp_path / "c", value=2)
    assert options(tmp_path, "a/train.prototxt") == {}


def test_a_mean_beside_the_net_is_left_to_the_job(tmp_path):
    write_net(tmp_path / "a", WITH_MEAN.replace("../../data/somewhere/", ""), "train.prototxt")
    write_net(tmp_path / "a")
    write_mean(tmp_path / "a")
    write_mean(tmp_path / "b", shape=(3, 20, 20))
    assert options(tmp_path, "a/train.prototxt") == {}


def test_a_deploy_net_of_the_same_model_tells_the_size(tmp_path):
    write_net(tmp_path / "a", OPEN, "train.prototxt")
    write_net(tmp_path / "a", OTHER.replace("dim: 12", "dim: 40"), "other.prototxt")
    write_net(tmp_path / "b")
    assert options(tmp_path, "a/train.prototxt") == {}
    write_net(tmp_path / "a")
    assert options(tmp_path, "a/train.prototxt") == {"input_shapes": ["data=3,12,10"]}


def test_deploy_nets_that_disagree_tell_nothing(tmp_path):
    convolutions = (
        text.split('layer { name: "ip"')[0] for text in (OPEN, DEPLOY, DEPLOY.replace("dim: 12", "dim: 40"))
    )
    for name, text in zip(("train.prototxt", "a.prototxt", "b.prototxt"), convolutions, strict=True):
        write_net(tmp_path, text, name)
    assert options(tmp_path, "train.prototxt") == {}


def test_a_net_that_only_has_data_for_training_is_taken_in_that_phase(tmp_path):
    only = TRAIN.replace('type: "ImageData"', 'type: "ImageData" include { phase: TRAIN }')
    write_net(tmp_path, only, "train.prototxt")
    write_net(tmp_path, TRAIN, "both.prototxt")
    write_net(tmp_path, only.replace("num_output: 6", "num_output: six"), "broken.prototxt")
    assert [options(tmp_path, f"{name}.prototxt") for name in ("train", "both", "broken")] == [
        {"phase": ["TRAIN"]},
        {},
        {},
    ]
    zoo = search_zoo(tmp_path, tmp_path / "out")
    maker = Matchmaker(zoo, {p: Said() for p in zoo.nets}, {p: {"phase": "TEST"} for p in zoo.nets})
    assert 'bottom "data": no layer makes it' in maker.net_at["train.prototxt"].error


def test_a_mean_that_cannot_be_read_ends_its_model_alone(place):
    write_net(place / "zoo" / "a", WITH_MEAN.replace("mean.npy", "m.binaryproto"), "train.prototxt")
    for folder in ("first", "third"):
        (place / "zoo" / folder / "m.binaryproto").write_bytes(b"no mean")
    done = run_here(["batch", place / "zoo", "-o", place / "out", "--job", "init", "--images", place / "pictures"])
    assert done.returncode == 1
    assert {e["model"]: e["result"] for e in entries(place / "out")}["first/deploy.prototxt"] == "ok"
    assert "first/m.binaryproto: is no mean file, or one that is damaged or cut off" in done.stdout


def test_what_is_found_is_used_and_told(place):
    zoo = place / "zoo"
    shutil.rmtree(zoo)
    write_net(zoo / "a", WITH_MEAN, "train.prototxt")
    write_mean(zoo / "data")
    arguments = ["batch", zoo, "-o", place / "out", "--job", "init", "--images", place / "pictures"]
    assert run_here(arguments).returncode == 0
    (entry,) = entries(place / "out")
    assert entry["options"]["mean_file"] == [str(zoo / "data" / "mean.npy")]
    assert entry["options"]["input_shape"] == ["data=3,12,10"]
    assert str(zoo / "data" / "mean.npy") in entry["inputs"]
    result = json.loads((place / "out" / "a" / "train.caffemodel.json").read_text())
    assert all(u["done"] for u in result["units"])


def test_a_size_that_only_the_pictures_have_is_told_in_the_manifest(place):
    for name in ("deploy.prototxt", "net.caffemodel"):
        (place / "zoo" / "first" / name).unlink()
    write_net(place / "zoo" / "first", OPEN, "train.prototxt")
    done = run_here(["batch", place / "zoo", "-o", place / "out", "--job", "init", "--images", place / "pictures"])
    assert done.returncode == 0, done.stdout
    told = {e["model"]: e["summary"] for e in entries(place / "out")}
    taken = "; input data 3 x 14 x 12 taken from the pictures, which all have that size"
    assert {model for model, summary in told.items() if summary.endswith(taken)} == {"first/train.prototxt"}


def test_weights_decide_whether_the_pictures_have_the_size_of_a_net(place):
    for folder in ("deep/er/second", "third"):
        shutil.rmtree(place / "zoo" / folder)
    (place / "zoo" / "first" / "deploy.prototxt").rename(place / "deploy.prototxt")
    write_net(place / "zoo" / "first", OPEN, "train.prototxt")
    done = run_here(["batch", place / "zoo", "-o", place / "out", "--images", place / "pictures"])
    assert done.returncode == 1
    (entry,) = entries(place / "out")
    assert '3 x 14 x 12 could be taken from the pictures, which all have that size, but layer "ip"' in entry["reason"]


def test_a_net_that_asks_for_a_phase_and_then_for_a_stage_is_told_both(tmp_path):
    only = TRAIN.replace('type: "ImageData"', 'type: "ImageData" include { phase: TRAIN }')
    staged = 'layer { name: "deep" type: "TanH" bottom: "conv1" top: "deep" include { stage: "deep" } }\n'
    head, tail = only.split('layer { name: "ip"')
    write_net(
        tmp_path, head + staged + 'layer { name: "ip"' + tail.replace('bottom: "conv1"', 'bottom: "deep"'), "a.prototxt"
    )
    zoo = search_zoo(tmp_path, tmp_path / "out")
    asked = [{}, {"phase": "TRAIN"}, {"phase": "TRAIN", "stages": ["deep"]}]
    errors = [Matchmaker(zoo, {"a.prototxt": Said()}, {"a.prototxt": s}).net_at["a.prototxt"].error for s in asked]
    assert errors[0].endswith(f"Give --phase TRAIN. And then: {errors[1]}")
    assert errors[1].endswith("Give --stage deep")
    assert not errors[2]
