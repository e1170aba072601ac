"""Which inputs of a net take pictures."""

import numpy as np
import pytest

import caffeinit
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
