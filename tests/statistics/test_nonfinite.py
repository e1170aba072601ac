"""Where numbers stop being finite is told by the value and by the layer that makes it, not by what lies above."""

import numpy as np
import pytest

import caffeinit
from caffeinit.errors import WeightsError
from caffeinit.statistics.nonfinite import find_first
from tests.nets import NetBuilder, chain, pictures

# A layer without weights, what it makes first, and what is told of its parameters.
MIDDLE = {
    "LRN": ("lrn_param { local_size: 3 alpha: 1e-4 k: 0 }", "NaN", "k: 0.0"),
    "Log": ("log_param { shift: 0 scale: 1 }", "infinity", "log_param { scale: 1.0 shift: 0.0 }"),
    "Power": ("power_param { power: 40 }", "infinity", "power: 40.0"),
    "Exp": ("", "infinity", ""),
}
NET = """
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 1 dim: 3 dim: 8 dim: 8 }} }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {{ num_output: 4 kernel_size: 3 }} }}
layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "conv" }}
layer {{ name: "between" type: "{}" bottom: "conv" top: "middle" {} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "middle" top: "ip" inner_product_param {{ num_output: 2 }} }}
"""


def load(folder, kind):
    net = folder / "net.prototxt"
    net.write_text(NET.format(kind, MIDDLE[kind][0]))
    network = caffeinit.load(net)
    rng = np.random.default_rng(0)
    for arrays in network.params.values():
        for array in arrays:
            array[...] = 100 * rng.standard_normal(array.shape)
    network.missing = []
    return network


@pytest.mark.parametrize("kind", MIDDLE)
def test_a_layer_without_weights_is_named_with_its_parameters(tmp_path, kind):
    _, held, shown = MIDDLE[kind]
    with pytest.raises(WeightsError) as refused:
        caffeinit.rescale(load(tmp_path, kind), pictures(shape=(3, 8, 8)))
    message = str(refused.value)
    assert message.startswith(
        'layer "ip": its output is not finite on the calibration pictures. The first number that '
    )
    assert f'is {held} in blob "middle", which layer "between" ({kind}) makes of finite ones' in message
    asked = "It has no weights: look at its parameters (" if shown else "It has neither weights nor parameters: look at"
    assert asked in message
    assert shown in message


def test_a_pass_that_normalises_tells_it_too(tmp_path):
    with pytest.raises(WeightsError, match=r'NaN in blob "middle", which layer "between" \(LRN\)'):
        caffeinit.rescale(load(tmp_path, "LRN"), pictures(shape=(3, 8, 8)), mode="normalize", balanced=False)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.nan, "is NaN in .*36 of its weights are not finite"),
        (3e38, r"is infinity in .*overflow in its weights, up to 3e\+38"),
    ],
)
def test_weights_are_blamed_where_they_make_it(value, told):
    network = chain()
    network.params["conv2"][0][2] = value
    with pytest.raises(WeightsError, match=rf'layer "conv2": .*{told}'):
        caffeinit.rescale(network, pictures())


def test_the_earliest_value_over_all_pictures_is_found():
    b = NetBuilder()
    early = b.graph.op("Sqrt", b.conv("data", "conv", 4, bias=False), name="early")
    late = b.graph.op("Log", b.graph.op("Abs", early), name="late")
    network = b.finish(b.product(late, "ip", 2))
    network.params["conv"][0][...] = np.abs(network.params["conv"][0])
    zero, negative = np.zeros((1, 3, 12, 10), np.float32), np.full((1, 3, 12, 10), -1, np.float32)
    assert find_first(network, [{"data": zero}], network.outputs).value == "late"
    assert find_first(network, [{"data": zero}, {"data": negative}], network.outputs).value == "early"
    assert find_first(network, [{"data": -negative}], network.outputs) is None
