"""Fingerprints see every change, and nothing else."""

import os
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from caffeinit.batch.fingerprints import external_files, pictures_digest


def touch(path):
    os.utime(path, ns=(1, 1))


def test_pictures_in_lists_patterns_and_files_count(place):
    (place / "list.txt").write_text("pictures/1.png 0\npictures/2.png 1\n")
    np.save(place / "a.npy", np.zeros(3))
    for source, changed in (("list.txt", "pictures/2.png"), ("pictures/*.png", "pictures/4.png"), ("a.npy", "a.npy")):
        pictures_digest.cache_clear()
        before = pictures_digest(str(place / source))
        if changed == "a.npy":
            np.save(place / changed, np.ones(3))
        else:
            touch(place / changed)
        pictures_digest.cache_clear()
        assert pictures_digest(str(place / source)) != before


def test_data_files_of_an_onnx_model_are_found(tmp_path: Path):
    array = numpy_helper.from_array(np.zeros((64, 64), np.float32), "w")
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, (64, 64))
    model = helper.make_model(
        helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [value], [array])
    )
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="other.bin")
    assert external_files(tmp_path / "m.onnx") == ["other.bin"]
    (tmp_path / "m.onnx").write_bytes(b"\xff\xff")
    assert external_files(tmp_path / "m.onnx") == []


def test_pictures_behind_a_linked_folder_count(place, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "one.png").write_bytes((place / "pictures" / "1.png").read_bytes())
    (place / "pictures" / "linked").symlink_to(elsewhere)
    pictures_digest.cache_clear()
    before = pictures_digest(str(place / "pictures"))
    touch(elsewhere / "one.png")
    pictures_digest.cache_clear()
    assert pictures_digest(str(place / "pictures")) != before
