"""Which net belongs to which weights."""

import shutil

import pytest

from caffeinit.batch.fingerprints import external_files
from caffeinit.batch.pairing import Matchmaker, Model, pair
from caffeinit.batch.settings import Settings
from caffeinit.batch.zoo import search_zoo
from tests.batch.conftest import DEPLOY, OTHER, TRAIN, write_net, write_weights
from tests.conftest import shared


def found(root, needs="weights", takes_onnx=True):
    zoo = search_zoo(root, root / "no such")
    settings = Settings(root, zoo.settings)
    said = {p: settings.of(p, "rescale") for p in (*zoo.nets, *zoo.weights, *zoo.onnx)}
    return pair(Matchmaker(zoo, said, {path: {} for path in zoo.nets}), needs, takes_onnx, said)


def test_shapes_decide_not_names(tmp_path):
    weights = write_weights(write_net(tmp_path, OTHER, "b.prototxt"), "a.caffemodel")
    write_net(tmp_path, DEPLOY, "a.prototxt")
    done = found(tmp_path)
    assert done.models == [Model("b.prototxt", weights.name)]
    assert done.left_out == {
        "a.prototxt": 'does not fit a.caffemodel: layer "conv1": the file has 5x3x3x3 and 5, the net asks for 6x3x3x3 and 6'
    }


def test_a_deploy_net_goes_before_one_with_data_layers(tmp_path):
    write_weights(write_net(tmp_path, DEPLOY, "z_deploy.prototxt"))
    write_net(tmp_path, TRAIN.replace("crop_size: 12", ""), "a_train.prototxt")
    for needs, weights in (("weights", "net.caffemodel"), ("net", None)):
        done = found(tmp_path, needs)
        assert done.models == [Model("z_deploy.prototxt", weights)]
        assert done.left_out["a_train.prototxt"].startswith("same model as z_deploy.prototxt: both fit net.caffemodel")


def test_the_nearest_folder_wins_and_what_lacks_nothing_goes_first(tmp_path):
    write_weights(write_net(tmp_path / "a" / "x"))
    (tmp_path / "a" / "x" / "deploy.prototxt").rename(tmp_path / "a" / "deploy.prototxt")
    write_net(tmp_path / "b")
    write_net(tmp_path / "a" / "x", DEPLOY.replace('"ip"', '"ip_new"'), "tuned.prototxt")
    done = found(tmp_path)
    assert done.models == [Model("a/deploy.prototxt", "a/x/net.caffemodel")]


def test_a_net_with_a_new_classifier_serves_where_nothing_better_is(tmp_path):
    net = write_net(tmp_path)
    write_weights(net)
    net.write_text(DEPLOY.replace('"ip"', '"ip_new"'))
    assert found(tmp_path).models == [Model("deploy.prototxt", "net.caffemodel")]


def test_two_weights_of_one_net_are_two_models(tmp_path):
    net = write_net(tmp_path)
    write_weights(net, "iter_1.caffemodel")
    write_weights(net, "iter_2.caffemodel.h5")
    assert [m.name for m in found(tmp_path).models] == ["iter_1.caffemodel", "iter_2.caffemodel.h5"]
    assert found(tmp_path, "net").models == [Model("deploy.prototxt")]


def test_what_fits_nothing_has_a_reason(tmp_path):
    net = write_net(tmp_path)
    write_weights(net)
    net.write_text(OTHER)
    (tmp_path / "page.caffemodel").write_text("<html></html>")
    write_net(tmp_path, "layer { name: 3 }", "broken.prototxt")
    write_net(tmp_path, "a layer { of python }", "readme.rst")
    done = found(tmp_path)
    assert not done.models
    assert "nearest is deploy.prototxt: layer" in done.failures["net.caffemodel"] or (
        "broken.prototxt" in done.failures["net.caffemodel"]
    )
    assert "web page" in done.failures["page.caffemodel"]
    assert done.left_out["broken.prototxt"].startswith("line 1: ")
    assert "readme.rst" not in {**done.left_out, **done.failures}
    assert "broken.prototxt" in found(tmp_path, "net").failures


def test_settings_skip_and_pair(tmp_path):
    write_weights(write_net(tmp_path / "a"))
    write_net(tmp_path / "b")
    (tmp_path / "caffeinit.toml").write_text('[nets."b/deploy.prototxt"]\nweights = "a/net.caffemodel"')
    assert found(tmp_path).models == [Model("b/deploy.prototxt", "a/net.caffemodel")]
    (tmp_path / "caffeinit.toml").write_text('[nets."*.caffemodel"]\nskip = "another time"')
    done = found(tmp_path)
    assert (done.models, done.failures) == ([], {})
    assert done.left_out["a/net.caffemodel"] == "another time"


def test_onnx_models_stand_for_themselves(tmp_path):
    write_net(tmp_path)
    (tmp_path / "m.onnx").write_bytes(b"\x08\x07")
    assert found(tmp_path).models == [Model("m.onnx")]
    assert found(tmp_path, takes_onnx=False).left_out["m.onnx"] == "is an ONNX model, which this job does not take"


def test_every_file_is_a_model_where_files_are_asked_for(tmp_path):
    write_weights(write_net(tmp_path))
    write_net(tmp_path, TRAIN, "train.prototxt")
    assert {m.name for m in found(tmp_path, "file").models} == {"deploy.prototxt", "train.prototxt", "net.caffemodel"}


def test_five_hundred_copies_are_paired_in_a_moment(tmp_path):
    one = shared("models", "lenet_v2_ethereon")
    for number in range(100):
        folder = tmp_path / f"copy{number}"
        shutil.copytree(one, folder)
    done = found(tmp_path)
    assert done.models == [
        Model(f"copy{n}/deploy.prototxt", f"copy{n}/lenet_iter_10000.caffemodel") for n in range(100)
    ]


def test_all_real_models_find_their_nets():
    done = found(shared("models"))
    assert len(done.models) == 23
    assert not done.failures
    chosen = {m.weights.split("/")[0]: m.net.split("/")[1] for m in done.models}
    assert chosen["lenet_small_jwcom79"] == "deploy_derived.prototxt"  # deploy_upstream really does not fit
    assert all("deploy" in net for net in chosen.values())


def test_a_text_larger_than_any_net_is_not_read(tmp_path):
    write_weights(write_net(tmp_path))
    with open(tmp_path / "endless.prototxt", "wb") as file:
        file.write(b"layer {\n" + b" " * 5000)
        file.truncate(1 << 40)  # a hole: it takes no room on the disk
    done = found(tmp_path)
    assert done.models == [Model("deploy.prototxt", "net.caffemodel")]
    assert "is larger than any net definition" in done.left_out["endless.prototxt"]


def test_a_model_of_endless_size_is_not_read_to_find_its_data_files(tmp_path):
    with open(tmp_path / "endless.onnx", "wb") as file:
        file.truncate(1 << 40)
    assert external_files(tmp_path / "endless.onnx") == []


def test_a_net_that_settings_give_weights_to_takes_no_others(tmp_path):
    net = write_net(tmp_path)
    for seed, name in enumerate(("a.caffemodel", "b.caffemodel")):
        write_weights(net, name, seed)
    assert [m.weights for m in found(tmp_path).models] == ["a.caffemodel", "b.caffemodel"]
    (tmp_path / "caffeinit.toml").write_text('[nets."deploy.prototxt"]\nweights = "b.caffemodel"\n')
    done = found(tmp_path)
    assert done.models == [Model("deploy.prototxt", "b.caffemodel")]
    why = "fits deploy.prototxt, to which a caffeinit.toml gives b.caffemodel"
    assert (done.left_out, done.failures) == ({"a.caffemodel": why}, {})
    write_net(tmp_path, name="other.prototxt")
    assert found(tmp_path).models == [
        Model("other.prototxt", "a.caffemodel"),
        Model("deploy.prototxt", "b.caffemodel"),
    ]


@pytest.mark.parametrize(("name", "why"), [("c.caffemodel", "there is no such file"), ("x.txt", "it holds no weights")])
def test_weights_of_settings_that_are_not_there_are_a_failure(tmp_path, name, why):
    write_weights(write_net(tmp_path))
    (tmp_path / "x.txt").write_text("nothing")
    (tmp_path / "caffeinit.toml").write_text(f'weights = "{name}"\n')
    assert found(tmp_path).failures == {name: f"a caffeinit.toml gives it to deploy.prototxt, and {why}"}
    (tmp_path / "caffeinit.toml").write_text(f'weights = "{name}"\nskip = true\n')
    assert not found(tmp_path).failures
