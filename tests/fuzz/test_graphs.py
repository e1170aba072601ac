"""Random models run, their other spellings compute the same, and the laws that they are judged by notice what is wrong."""

from random import Random

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.fuzz import laws
from tests.fuzz.graphs import draw
from tests.fuzz.variants import VARIANTS

SEEDS = range(40)


def computed(model, drawn):
    feed = {name: array[: drawn.batch or None] for name, array in drawn.pictures.items()}
    return laws.run(laws.session(model.SerializeToString()), feed)


def test_most_random_models_run_and_are_the_same_again():
    ran = 0
    for seed in SEEDS:
        drawn = draw(seed)
        assert drawn.model == draw(seed).model
        try:
            ran += bool(computed(drawn.model, drawn))
        except laws.NotRunError:
            continue
    assert ran > 0.9 * len(SEEDS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_another_spelling_computes_the_same(variant):
    for seed in SEEDS:
        drawn = draw(seed)
        model = onnx.ModelProto()
        model.CopyFrom(drawn.model)
        try:
            before = computed(model, drawn)
        except laws.NotRunError:
            continue
        variant(model, Random(seed))
        for name, array in computed(model, drawn).items():
            np.testing.assert_allclose(array, before[name], rtol=1e-4, atol=1e-5 * np.abs(before[name]).max(initial=0))


def test_a_weight_that_is_off_by_a_thousandth_is_noticed(tmp_path):
    noticed = 0
    for seed in SEEDS:
        drawn = draw(seed)
        onnx.save(drawn.model, tmp_path / "net.onnx")
        feeds = list(laws.new_feeds(drawn.pictures, drawn.batch, drawn.open_sizes))
        try:
            assert laws.keeps_outputs(tmp_path / "net.onnx", tmp_path / "net.onnx", feeds, exact=True) is None
        except laws.NotRunError:
            continue
        for array in drawn.model.graph.initializer:
            if array.data_type == onnx.TensorProto.FLOAT and array.name.startswith("weight") and array.dims:
                numbers = numpy_helper.to_array(array) * np.float32(1.001)
                array.CopyFrom(numpy_helper.from_array(numbers, array.name))
        onnx.save(drawn.model, tmp_path / "off.onnx")
        assert laws.only_numbers_change(tmp_path / "net.onnx", tmp_path / "off.onnx") is None
        noticed += laws.keeps_outputs(tmp_path / "net.onnx", tmp_path / "off.onnx", feeds) is not None
    assert noticed > 0.4 * len(SEEDS)


def test_scales_that_are_off_by_a_hundredth_are_noticed():
    arrays = {"weight": np.ones((3, 2), np.float32), "bias": np.arange(3, dtype=np.float32)}
    assert laws.same_arrays(arrays, {name: array.copy() for name, array in arrays.items()}) is None
    for name in arrays:
        off = {**arrays, name: arrays[name] * np.float32(1.01)}
        assert name in (laws.same_arrays(arrays, off) or "")
    assert laws.same_arrays(arrays, {"other": arrays["weight"]}) is not None
