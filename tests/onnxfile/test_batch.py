"""A batch of 1 that a file spells out is freed only where every operator keeps pictures apart."""

import numpy as np
import pytest
from onnx import helper

import caffeinit
from caffeinit.engine.onnxrun import OnnxFile
from tests.onnxfile.test_files import load
from tests.onnxfile.test_kinds import Maker, batch, tensor

SHAPE = (1, 5, 8, 6)


def scaled(b):
    return [b.array("g", 5), b.array("h", 5)]


def numbers(b, values, dtype=np.int64):
    name = f"numbers{len(b.initializers)}"
    b.initializers.append(tensor(name, np.asarray(values, dtype)))
    return name


def plain(kind, *values, **attributes):
    """Return what appends one operator on (1, 5, 8, 6) and lists of whole numbers."""
    return lambda b, x: b.op(kind, x, *(numbers(b, v) for v in values), out="z", **attributes)


def reshaped(shape, kind, *values, **attributes):
    """Return what does the same in another shape, and then brings (1, 5, 8, 6) back."""

    def append(b, x):
        x = b.op("Reshape", x, numbers(b, shape), out="other")
        return b.op("Reshape", plain(kind, *values, **attributes)(b, x), numbers(b, SHAPE), out="back")

    return append


def allowing_zero(shape):
    """Return what gives x a shape in the words of newer exporters, where a 0 does not copy, and then brings it back."""

    def append(b, x):
        x = b.op("Reshape", x, numbers(b, shape), out="other", allowzero=1)
        return b.op("Reshape", b.op("Neg", x, out="z"), numbers(b, SHAPE), out="back", allowzero=1)

    return append


def scattered(kind, indices, updates, **attributes):
    def append(b, x):
        given = numbers(b, np.ones(updates), np.float32) if isinstance(updates, tuple) else updates
        return b.op(kind, x, numbers(b, indices), given, out="z", **attributes)

    return append


def written_in_place(b, x):
    """Return x[:, 1:3] *= 2, as exporters write it for one picture."""
    two = b.op("Mul", b.op("Slice", x, *(numbers(b, [v]) for v in (1, 3, 1)), out="part"), "two", out="twice")
    b.initializers.append(tensor("two", np.float32(2)))
    indices = np.stack(np.meshgrid([0], [1, 2], range(8), range(6), indexing="ij"), -1)
    return scattered("ScatterND", indices, two)(b, x)


def halved(b, x):
    """Return half of what is (2, 5, 8, 6)."""
    x = b.op("Reshape", x, numbers(b, [1, 10, 8, 6]), out="pairs")
    return b.op("Slice", x, *(numbers(b, [v]) for v in (0, 10, 1, 2)), out="half")


def joined(b, x):
    return halved(b, b.op("Concat", x, b.op("Neg", x, out="minus"), out="z", axis=0))


def unit_rows(b, x):
    rows = b.op("Reshape", b.op("GlobalAveragePool", x, out="mean"), numbers(b, [1, 5]), out="rows")
    ones = b.op("EyeLike", rows, out="ones", dtype=1)
    return b.op("Mul", x, b.op("Unsqueeze", ones, numbers(b, [2, 3]), out="wide"), out="z")


def recurrent(b, x):
    x = b.op("Reshape", x, numbers(b, [-1, 5, 48]), out="steps")
    x = b.op("LSTM", x, b.array("w", 1, 20, 48), b.array("r", 1, 20, 5), out="hidden", hidden_size=5)
    return b.op("Reshape", x, numbers(b, [1, 5, 5, 1]), out="z")


def by_tuples(order, *tuples):
    """Return what brings some axes to the front, takes places along them by constant tuples, and brings them back."""

    def append(b, x):
        x = b.op("Transpose", x, out="turned", perm=order)
        x = b.op("GatherND", x, numbers(b, tuples), out="taken")
        return b.op("Transpose", x, out="z", perm=[int(a) for a in np.argsort(order)])

    return append


def strided(places):
    """Return what takes places of all numbers in one row, as a view by strides is written, and brings x's shape back."""

    def append(b, x):
        row = b.op("Reshape", x, numbers(b, [-1]), out="row")
        return b.op("Reshape", b.op("Gather", row, numbers(b, places), out="view"), numbers(b, SHAPE), out="z")

    return append


def padded_as_needed(b, x):
    """Return x with the zeros that convolutions of stride 2 need, worked out as exporters of TensorFlow's nets do."""
    half = tensor("half", np.float32(0.5))
    b.initializers += [half, tensor("one", np.float32(1)), tensor("none", np.float32(0))]
    sizes = b.op(
        "Cast",
        b.op("Slice", b.op("Shape", x, out="shape"), numbers(b, [2]), numbers(b, [4]), out="hw"),
        to=1,
        out="real",
    )
    wanted = b.op("Add", b.op("Ceil", b.op("Mul", sizes, "half", out="halves"), out="up"), "one", out="wanted")
    missing = b.op("Clip", b.op("Sub", wanted, sizes, out="difference"), "none", out="missing")
    after = b.op("Cast", b.op("Sub", missing, "none", out="after"), to=7, out="whole")
    pads = b.op("Concat", numbers(b, [0] * 6), after, out="pads", axis=0)
    return b.op("Pad", x, pads, out="z")


def by_lower_rank(*kinds):
    """Return what joins (1, 3, 80) with its mean (1, 80), of which the pictures lie along the channels of the other."""

    def append(b, x):
        x = b.op("Reshape", x, numbers(b, [1, 3, -1]), out="three")
        read = [x, b.op("ReduceMean", x, out="mean", axes=[1], keepdims=0)]
        for number, kind in enumerate(kinds):
            read = [b.op(kind, *read, out=f"joined{number}"), *read[:2]]
        x = b.op("Cast", read[0], out="z", to=1)
        return b.op("Reshape", x, numbers(b, SHAPE), out="back")

    return append


def at_first_row(kind, *shape, **attributes):
    """Return what works at the first row, which each picture names for itself; so numbered are those of one batch."""

    def append(b, x):
        mean = b.op("ReduceMean", x, out="mean", axes=[1, 2, 3], keepdims=0)
        row = b.op("Mul", b.op("Cast", mean, out="whole", to=7), numbers(b, 0), out="row")
        if shape:
            row = b.op("Reshape", row, numbers(b, shape), out="rows")
        if len(shape) == 4:
            row = b.op("Expand", row, b.op("Shape", x, out="size"), out="wide")
        more = [b.op("Neg", x, out="minus")] if kind.startswith("Scatter") else []
        return b.op(kind, x, row, *more, out="z", **attributes)

    return append


def regions(b, x):
    mean = b.op("ReduceMean", x, out="mean", axes=[1, 2, 3], keepdims=0)
    picture = b.op("Mul", b.op("Cast", mean, out="whole", to=7), numbers(b, 0), out="picture")
    box = b.op("Sigmoid", b.op("Gemm", b.op("Flatten", x, out="flat"), b.array("w", 240, 4), out="corners"), out="box")
    return b.op("RoiAlign", x, box, picture, out="z", output_height=8, output_width=6)


def larger_rows(mode):
    """Return what makes (40, 6) twice as high, where a linear map goes beyond a picture's own rows."""

    def append(b, x):
        rows = b.op("Reshape", x, numbers(b, [40, 6]), out="rows")
        large = b.op("Resize", rows, "", numbers(b, [2, 1], np.float32), out="large", mode=mode)
        return b.op("Reshape", large, numbers(b, [1, 5, 16, 6]), out="back")

    return append


def pooled_places(b, x):
    """Return places of largest values, which are counted over all pictures."""
    b.nodes.append(helper.make_node("MaxPool", [x], ["large", "places"], kernel_shape=[2, 2]))
    return b.op("Cast", "places", out="z", to=1)


def unpooled(b, x):
    b.nodes.append(helper.make_node("MaxPool", [x], ["large", "places"], kernel_shape=[2, 2], strides=[2, 2]))
    return b.op("MaxUnpool", "large", "places", out="z", kernel_shape=[2, 2], strides=[2, 2])


JOINING = {
    "mask": by_lower_rank("Mul"),
    "slopes": by_lower_rank("PRelu"),
    "comparison": by_lower_rank("Greater"),
    "choice": by_lower_rank("Greater", "Where"),
    "computed rows": at_first_row("Gather"),
    "computed places": at_first_row("GatherElements", -1, 1, 1, 1),
    "computed tuples": at_first_row("GatherND", -1, 1),
    "written rows": at_first_row("ScatterND", -1, 1),
    "written places": at_first_row("ScatterElements", -1, 1, 1, 1),
    "regions": regions,
    "shift": plain("Pad", [1, 0, 0, 0, -1, 0, 0, 0]),
    "lengths": plain("ReverseSequence", [3], batch_axis=0, time_axis=1),
    "unknown": plain("Acos"),
    "view in another order": strided(np.arange(240)[::-1].reshape(1, 5, 48)),
    "softmax": plain("Softmax", axis=0),
    "hardmax": plain("Hardmax", axis=0),
    "cumsum": plain("CumSum", 0),
    "reverse": reshaped((1, 5, 48), "ReverseSequence", [1] * 5),
    "mvn": plain("MeanVarianceNormalization"),
    "layer norm": lambda b, x: b.op("LayerNormalization", x, b.array("all", *SHAPE), out="z", axis=0),
    "scatter": scattered("ScatterElements", np.full((1, 1, 8, 6), 2), (1, 1, 8, 6), axis=1),
    "scatter_nd": scattered("ScatterND", [[0, 1], [0, 3]], (2, 8, 6)),
    "in place": written_in_place,
    "triangle": reshaped((1, 240), "Trilu"),
    "cumsum, rows": reshaped((40, -1), "CumSum", 0),
    "einsum": lambda b, x: b.op("Einsum", x, x, out="z", equation="nchw,mchw->nchw"),
    "concat": joined,
    "tile": lambda b, x: halved(b, plain("Tile", [2, 1, 1, 1])(b, x)),
    "flip": plain("Slice", [-1], [-9], [0], [-1]),
    "eye": unit_rows,
    "lstm": recurrent,
    "resized rows": larger_rows("linear"),
    "places of pooling": pooled_places,
}

APART = {
    "softmax": plain("Softmax", axis=1),
    "hardmax": plain("Hardmax", axis=1),
    "cumsum": plain("CumSum", 1),
    "mvn": plain("MeanVarianceNormalization", axes=[2, 3]),
    "instance norm": lambda b, x: b.op("InstanceNormalization", x, *scaled(b), out="z"),
    "einsum": lambda b, x: b.op("Einsum", x, x, out="z", equation="nchw,nchw->nchw"),
    "flip": plain("Slice", [-1], [-9], [3], [-1]),
    "triangle": plain("Trilu"),
    "rows": reshaped((-1, 6), "CumSum", 1),
    "rows, rest": reshaped((40, -1), "CumSum", 1),
    "heads, rest": reshaped((8, 0, -1), "CumSum", 2),
    "channels by tuples": by_tuples([1, 0, 2, 3], [3], [1], [-1], [0], [2]),
    "places by tuples": by_tuples([2, 3, 0, 1], *[[[h, w] for w in (5, 0, -1)] for h in (2, 7)]),
    "view by strides": strided(np.arange(240).reshape(1, 48, 5)),
    "view by strides, rows": strided(np.arange(240).reshape(40, 6)),
    "zeros allowed": allowing_zero((1, 5, 48)),
    "zeros allowed, rows": allowing_zero((40, 6)),
    "zeros allowed, rest": allowing_zero((1, 5, -1)),
    "zeros allowed, heads": allowing_zero((5, 16, -1)),
    "computed padding": padded_as_needed,
    "unpooling": unpooled,
}


def write(append, path):
    b = Maker(shape=(1, 3, 8, 6))
    x = append(b, b.conv("x", "conv1", 3, 5))
    b.conv(x, "conv2", 5, 4, out="y")
    return b.save(path)


@pytest.mark.parametrize("name", JOINING)
def test_operators_that_join_pictures_keep_the_batch(name, tmp_path):
    net = load(write(JOINING[name], tmp_path / "net.onnx"))
    assert not net.graph.batch_axis_free
    assert any("takes no other batch" in note for note in net.notes)


@pytest.mark.parametrize("name", APART)
def test_those_that_keep_them_apart_take_any(name, tmp_path):
    path = write(APART[name], tmp_path / "net.onnx")
    net = load(path)
    assert net.graph.batch_axis_free
    x = batch(3)
    alone = [OnnxFile(path, threads=1).run({"x": row[None]}, ["y"])["y"] for row in x]
    np.testing.assert_allclose(net.forward({"x": x}, ["y"])["y"], np.concatenate(alone), rtol=1e-5, atol=1e-5)


def test_a_file_that_takes_several_pictures_joins_them_as_it_says(tmp_path):
    """Rows that are spelt out in a file with an open batch get longer with each picture."""
    b = Maker(shape=("N", 3, 8, 6))
    rows = b.op("Reshape", b.conv("x", "conv1", 3, 5), numbers(b, [40, -1]), out="rows")
    x = b.op("Reshape", b.op("Neg", rows, out="z"), numbers(b, [-1, *SHAPE[1:]]), out="back")
    b.conv(x, "conv2", 5, 4, out="y")
    assert not load(b.save(tmp_path / "net.onnx")).graph.batch_axis_free


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize(
    ("mode", "rule"), [("nearest", "asymmetric"), ("linear", "half_pixel"), ("cubic", "align_corners")]
)
def test_sizes_that_are_computed_from_the_batch_are_freed_of_it(mode, rule, opset, tmp_path):
    """7 of 3 by a factor in single precision are 6; opset 18 on has sizes of some axes."""
    for size, is_free in ((6, True), (7, opset >= 18)):
        b = Maker(shape=("N", 3, 3, 6))
        b.domains[""] = opset
        x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="r")
        ends = [numbers(b, [v]) for v in (0, 2, 0)]
        whole = b.op(
            "Concat",
            b.op("Slice", b.op("Shape", x, out="s"), *ends, out="nc"),
            numbers(b, [size, 12]),
            out="to",
            axis=0,
        )
        x = b.op("Resize", x, "", "", whole, out="large", mode=mode, coordinate_transformation_mode=rule)
        b.conv(x, "conv2", 5, 4, out="y")
        path = b.save(tmp_path / "net.onnx")
        net = load(path)
        assert net.graph.batch_axis_free == is_free
        pictures = batch(3 if is_free else 1, (3, 3, 6))
        wanted = OnnxFile(path, threads=1).run({"x": pictures}, ["y"])["y"]
        np.testing.assert_allclose(net.forward({"x": pictures}, ["y"])["y"], wanted, rtol=1e-5, atol=1e-5)
        assert caffeinit.measure(net, batch(4, (3, 3, 6))).units[0].rate > 0


@pytest.mark.parametrize("is_ordered", [True, False])
def test_views_by_strides_that_are_worked_out_from_the_batch_are_freed_of_it(is_ordered, tmp_path):
    """As torch.export writes as_strided of an open batch; pictures that are not one behind the other are joined."""
    b = Maker(shape=("N", 3, 8, 6))
    x = b.op("ReduceMean", b.op("Relu", b.conv("x", "conv1", 3, 70), out="r"), out="mean", axes=[2, 3])
    row = b.op("Reshape", x, numbers(b, [-1]), out="row")
    count = b.op("Squeeze", b.op("Shape", "x", out="size", start=0, end=1), out="count")
    first = b.op("Range", numbers(b, 0), count, numbers(b, 1), out="pictures")
    steps = (70, 1) if is_ordered else (0, 1)
    first = b.op("Mul", first, numbers(b, steps[0]), out="starts")
    first = b.op("Unsqueeze", first, numbers(b, [1, 2, 3]), out="column")
    places = b.op("Add", first, numbers(b, np.arange(70).reshape(1, 70, 1, 1)), out="places")
    b.conv(b.op("Gather", row, places, out="view"), "conv2", 70, 4, out="y")
    path = b.save(tmp_path / "net.onnx")
    net = load(path)
    assert net.graph.batch_axis_free == is_ordered
    pictures = batch(3 if is_ordered else 1)
    wanted = OnnxFile(path, threads=1).run({"x": pictures}, ["y"])["y"]
    np.testing.assert_allclose(net.forward({"x": pictures}, ["y"])["y"], wanted, rtol=1e-5, atol=1e-5)


def size_of(b, x, axis):
    """Return an extent of a value as a list of one number, in the graph."""
    name = f"size{len(b.nodes)}"
    return b.op("Gather", b.op("Shape", x, out=f"{name}.all"), numbers(b, [axis]), out=name)


def patches(b, x):
    """Rows of four patches a picture, with one axis left open beside the rows, as MobileViT has them."""
    rows = b.op("Mul", size_of(b, x, 0), numbers(b, [4]), out="rows")
    target = b.op("Concat", rows, numbers(b, [12, -1]), out="target", axis=0)
    x = b.op("Softmax", b.op("Reshape", x, target, out="patches"), out="share")
    back = b.op("Concat", size_of(b, "conv1", 0), numbers(b, SHAPE[1:]), out="target2", axis=0)
    return b.op("Reshape", x, back, out="back")


def positions(b, x):
    """Positions as large as the picture, repeated for each, as XCiT has them."""
    sides = b.op("Concat", *(size_of(b, x, axis) for axis in (1, 2, 3)), out="sides", axis=0)
    large = b.op("Expand", numbers(b, [0.5], np.float32), sides, out="places")
    single = b.op("Unsqueeze", large, numbers(b, [0]), out="single")
    times = b.op("Concat", size_of(b, x, 0), numbers(b, [1, 1, 1]), out="times", axis=0)
    return b.op("Add", x, b.op("Tile", single, times, out="repeated"), out="placed")


@pytest.mark.parametrize("append", [patches, positions], ids=lambda f: f.__name__)
@pytest.mark.parametrize("pictures", ["N", 1])
def test_what_exporters_work_out_from_an_open_batch_is_freed(append, pictures, tmp_path):
    b = Maker(shape=(pictures, 3, 8, 6))
    b.conv(append(b, b.conv("x", "conv1", 3, 5)), "conv2", 5, 4, out="y")
    path = b.save(tmp_path / "net.onnx")
    net = load(path)
    assert net.graph.batch_axis_free
    x = batch(3)
    alone = [OnnxFile(path, threads=1).run({"x": row[None]}, ["y"])["y"] for row in x]
    np.testing.assert_allclose(net.forward({"x": x}, ["y"])["y"], np.concatenate(alone), rtol=1e-5, atol=1e-5)
