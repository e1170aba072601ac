"""Which inputs of a net take pictures."""

import numpy as np
import onnx
import pytest

import caffeinit
from caffeinit.calibration import needed_inputs
from caffeinit.cli import main
from caffeinit.errors import OptionError

INPUTS = {"data": (1, 3, 9, 8), "label": (1,), "aux": (1, 2)}
NET = "".join(
    f'layer {{ name: "{n}" type: "Input" top: "{n}" input_param {{ shape {{ {" ".join(f"dim: {d}" for d in s)} }} }} }}\n'
    for n, s in INPUTS.items()
)
NET += """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.mark.parametrize(
    ("name", "why"), [("label", "no layer with weights depends on it"), ("aux", "nothing in the net reads it")]
)
def test_pictures_without_use_are_refused_with_the_reason(tmp_path, name, why):
    (tmp_path / "net.prototxt").write_text(NET)
    net = caffeinit.load(tmp_path / "net.prototxt")
    arrays = {n: np.ones((4, *s[1:]), np.float32) for n, s in INPUTS.items()}
    with pytest.raises(OptionError, match=f'no use for pictures for input "{name}": {why}'):
        caffeinit.read_images(net, {"data": arrays["data"], name: arrays[name]})


def test_what_to_give_for_labels_that_outputs_depend_on_is_told(tmp_path):
    """In a converted net that has lost what `convert` tells of losses: they are outputs as others are."""
    (tmp_path / "net.prototxt").write_text(NET)
    net = caffeinit.load(tmp_path / "net.prototxt")
    caffeinit.init(net, np.random.default_rng(0).standard_normal((4, 3, 9, 8)).astype(np.float32))
    net.save(tmp_path / "net.caffemodel")
    names = [str(tmp_path / name) for name in ("net.prototxt", "net.caffemodel", "net.onnx")]
    with pytest.raises(SystemExit) as ended:
        main(["convert", *names[:2], "-o", names[2]])
    assert not ended.value.code
    assert list(needed_inputs(caffeinit.load(names[2]))) == ["data"]
    model = onnx.load(names[2])
    del model.metadata_props[:]
    onnx.save(model, names[2])
    converted = caffeinit.load(names[2])
    with pytest.raises(OptionError, match=r"label.* numbers, not pictures: an \.npy file with a row for each picture"):
        caffeinit.read_images(converted, "pictures/")
    arrays = {"data": np.ones((2, 3, 9, 8), np.float32), "label": np.zeros(2, np.float32), "aux": np.ones((2, 2))}
    given = {name: arrays[name].astype(np.float32) for name in needed_inputs(converted)}
    assert caffeinit.read_images(converted, given).num_images == 2
