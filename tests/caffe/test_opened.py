"""Who is asked for the size of an input that a net leaves open, and when the answer is taken."""

import pytest

import caffeinit
from caffeinit.images.extents import Extent

NET = """
layer {{ name: "data" type: "Data" top: "data" top: "label" {data} data_param {{ source: "db" batch_size: 2 }} }}
layer {{ name: "side" type: "HDF5Data" top: "side" top: "more" hdf5_data_param {{ source: "x" batch_size: 2 }} }}
{more}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param {{ num_output: 4 }} }}
"""
CANNOT_RUN = 'layer { name: "own" type: "Python" bottom: "data" top: "own" }'
REFUSES = 'layer { name: "pool" type: "Slice" bottom: "data" top: "a" top: "b" }'


class Answer:
    """Gives an answer and keeps what was asked."""

    def __init__(self, shape=(3, 5, 4), words="taken from somewhere"):
        self.asked = []
        self.extent = Extent(shape, words)

    def __call__(self, *asked):
        self.asked.append(asked)
        return dict.fromkeys(asked[0], self.extent)


def load(folder, answer, data="", more="", **options):
    (folder / "net.prototxt").write_text(NET.format(data=data, more=more))
    return caffeinit.load(folder / "net.prototxt", tell=answer, **options)


def test_it_is_told_what_is_open_what_may_take_pictures_and_what_inputs_there_are(tmp_path):
    answer = Answer()
    net = load(tmp_path, answer)
    assert answer.asked == [({"data": 0}, ["data", "side"], ["data", "label", "side", "more"])]
    assert net.inputs == {"data": (2, 3, 5, 4), "label": (2,)}
    assert net.taken == {"data": "3 x 5 x 4 taken from somewhere"}
    assert 'input "data": 3 x 5 x 4 taken from somewhere' in net.notes


@pytest.mark.parametrize(
    ("data", "options"),
    [("transform_param { crop_size: 7 }", {}), ("", {"input_shapes": {"data": (3, 7, 7)}})],
)
def test_it_is_not_asked_where_the_size_is_stated(tmp_path, data, options):
    answer = Answer()
    assert load(tmp_path, answer, data, **options).inputs["data"] == (2, 3, 7, 7)
    assert not answer.asked


def test_a_layer_that_can_never_run_is_no_objection_and_one_that_refuses_the_size_is(tmp_path):
    assert load(tmp_path, Answer(), more=CANNOT_RUN).taken
    net = load(tmp_path, Answer(), more=REFUSES)
    assert not net.taken
    (reason,) = {s.reason for s in net.skipped if s.name == "ip"}
    assert reason.startswith(
        'the shape of input "data" is not known: give --input-shape data=C,H,W '
        '(3 x 5 x 4 could be taken from somewhere, but layer "pool" (Slice): '
    )


def test_why_there_is_no_answer_is_told_with_the_option_to_give(tmp_path):
    net = load(tmp_path, Answer(None, "they differ"))
    assert (
        'the shape of input "data" is not known: give --input-shape data=C,H,W (they differ)' in net.skipped[0].reason
    )
