"""ONNX files as functions: any value, any batch, and plain words where a file does not run."""

import contextlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from caffeinit.engine.failures import plain
from caffeinit.engine.onnxrun import OnnxFunction
from caffeinit.errors import CaffeinitError, FormatError
from caffeinit.proof.comparison import compare

WEIGHT = np.arange(6).reshape(3, 2)
LARGE = np.random.default_rng(9).standard_normal((3, 400))  # small arrays always lie inside
ROWS = [{"x": np.random.default_rng(n).standard_normal((5, 3)).astype(np.float32)} for n in range(2)]


def write_product(path, weight, rows="N", names=("x", "y"), shape=(2,), beside=False):
    """An ONNX file: y = relu(x W), reshaped to (N, *shape)."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [names[0], "w"], ["product"]),
            helper.make_node("Relu", ["product"], ["rectified"]),
            helper.make_node("Reshape", ["rectified", "shape"], [names[1]]),
        ],
        "product",
        [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, [rows, 3])],
        [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, None)],
        [
            onnx.numpy_helper.from_array(np.asarray(weight, np.float32), "w"),
            onnx.numpy_helper.from_array(np.array([-1, *shape]), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=beside)
    return OnnxFunction(path, threads=1)


def test_inner_values_can_be_asked_for(tmp_path):
    file = write_product(tmp_path / "net.onnx", WEIGHT)
    assert file.inputs == {"x": [None, 3]}
    assert file.values(["x"]) == ["product", "rectified", "y"]
    assert file.values([]) == []
    found = file.compile(["product", "y"])(ROWS[0])
    np.testing.assert_allclose(found["product"], ROWS[0]["x"] @ WEIGHT, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found["y"], np.maximum(found["product"], 0))


@pytest.mark.parametrize("rows", [1, 2, 5, 7])
def test_a_batch_that_the_file_spells_out_is_run_in_pieces(tmp_path, rows):
    free, fixed = (write_product(tmp_path / f"{n}.onnx", WEIGHT, n) for n in ("N", rows))
    assert (free.rows, fixed.rows) == (1, rows)
    wanted, found = (file.compile(["y"])(ROWS[0])["y"] for file in (free, fixed))
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_weights_beside_the_model_are_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    inside = write_product(tmp_path / "inside.onnx", LARGE, shape=(400,))
    beside = write_product(tmp_path / "there" / "beside.onnx", LARGE, shape=(400,), beside=True)
    assert [p.name for p in (tmp_path / "there").iterdir() if p.suffix != ".onnx"]
    monkeypatch.chdir(tmp_path.parent)
    found = [file.compile(["y"])(ROWS[0])["y"] for file in (inside, beside)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("where", ["absolute", "above", "link"])
def test_weights_elsewhere_are_not_read(tmp_path, where):
    """A model from anywhere may name any file of this machine."""
    folder = tmp_path / "there"
    folder.mkdir()
    write_product(folder / "net.onnx", LARGE, shape=(400,), beside=True)
    (beside,) = (p for p in folder.iterdir() if p.suffix != ".onnx")
    secret = beside.rename(tmp_path / "secret")
    (folder / "link").symlink_to(secret)
    model = onnx.load(folder / "net.onnx", load_external_data=False)
    names = {"absolute": str(secret), "above": "../secret", "link": "link"}
    next(e for t in model.graph.initializer for e in t.external_data if e.key == "location").value = names[where]
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CaffeinitError, match=r"[Aa]bsolute path not allowed|escapes model directory"):
        OnnxFunction(folder / "net.onnx").compile(["y"])


def test_files_that_are_no_onnx_files_are_refused(tmp_path):
    for content in (b"", b"\xff" * 100):
        (tmp_path / "x.onnx").write_bytes(content)
        with pytest.raises(FormatError, match=r"x\.onnx: is no ONNX model") as refused:
            OnnxFunction(tmp_path / "x.onnx")
        assert "message" not in str(refused.value)
    with pytest.raises(FormatError, match="no such file"):
        OnnxFunction(tmp_path / "nothing.onnx")


def test_what_onnxruntime_refuses_is_told_with_the_files_name(tmp_path):
    file = write_product(tmp_path / "net.onnx", WEIGHT)
    with pytest.raises(CaffeinitError, match=r"net\.onnx cannot be run"):
        file.compile(["y"])({"x": np.ones((2, 4), np.float32)})
    write_product(tmp_path / "lost.onnx", LARGE, shape=(400,), beside=True)
    lost = [p for p in tmp_path.iterdir() if p.suffix != ".onnx"]
    assert lost
    for path in lost:
        path.unlink()
    with pytest.raises(CaffeinitError, match=r"lost\.onnx cannot be set up"):
        OnnxFunction(tmp_path / "lost.onnx").compile(["y"])


def test_a_damaged_file_is_refused_in_words_whatever_byte_is_wrong(tmp_path):
    path = tmp_path / "net.onnx"
    whole = write_product(path, WEIGHT) and path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        with contextlib.suppress(CaffeinitError):
            file = OnnxFunction(path, threads=1)
            if not file.obstacle() and [*file.inputs] == ["x"]:
                file.compile(file.outputs)(ROWS[0])


@pytest.mark.parametrize("rows", [1 << 31, 1 << 62])
def test_inputs_that_no_memory_holds_are_refused(rows, tmp_path):
    with pytest.raises(FormatError, match="which no memory holds"):
        write_product(tmp_path / "net.onnx", WEIGHT, rows)


@pytest.mark.parametrize("word", [b"Relu", b"product", b"shape", b"w", b"x"])
def test_names_that_are_no_text_are_refused(word, tmp_path):
    path = tmp_path / "net.onnx"
    write_product(path, WEIGHT)
    path.write_bytes(path.read_bytes().replace(word, word[:-1] + b"\xff"))
    with pytest.raises(FormatError, match=r"net\.onnx: a name in it is no text: it is damaged"):
        OnnxFunction(path, threads=1)


_RESHAPE = "The input tensor cannot be reshaped to the requested shape. Input shape:{2,3,4}, requested shape:{2,13}"
_AT = "/onnxruntime_src/onnxruntime/core/providers/cpu/tensor/reshape_helper.h:91"
SAID = {
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Reshape node. Name:'flat' Status Message: "
    f"{_AT} onnxruntime::ReshapeHelper::ReshapeHelper(const onnxruntime::TensorShape&, onnxruntime::TensorShapeVector&, "
    f"bool) input_shape_size == requested_shape_size was false. {_RESHAPE}\n": f'node "flat" (Reshape): {_RESHAPE}',
    "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: x for the following indices\n"
    " index: 2 Got: 5 Expected: 4\n Please fix either the inputs/outputs or the model.": (
        'input "x" has other extents; index: 2 Got: 5 Expected: 4'
    ),
    f"{_AT} void onnxruntime::IExecutionFrame::Init(gsl::span<const int>, const std::function<bool(int)>&) "
    "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Currently do not support dims higher than 2 dimensions: 4": (
        "Currently do not support dims higher than 2 dimensions: 4"
    ),
    "nothing of that kind": "nothing of that kind",
}


@pytest.mark.parametrize("text", SAID)
def test_what_onnxruntime_says_is_told_without_its_own_places(text):
    assert plain(RuntimeError(text)) == SAID[text]


def test_its_words_are_still_what_is_expected(tmp_path):
    file = write_product(tmp_path / "net.onnx", WEIGHT)
    with pytest.raises(CaffeinitError, match=r'input "x" has other extents; index: 1 Got: 4 Expected: 3$'):
        file.compile(["y"])({"x": np.ones((2, 4), np.float32)})


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint8, np.int64, np.bool_])
def test_inputs_get_what_they_declare(tmp_path, dtype):
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        "cast",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    given = np.arange(15, dtype=np.float32).reshape(5, 3) + np.float32(0.3)
    found = OnnxFunction(path, threads=1).compile(["y"])({"x": given})
    np.testing.assert_array_equal(found["y"], given.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BFLOAT16])
def test_what_onnxruntime_lacks_is_told(tmp_path, kind):
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "conv",
        [helper.make_tensor_value_info("x", kind, ["N", 1, 2, 2])],
        [helper.make_tensor_value_info("y", kind, None)],
        [helper.make_tensor("w", kind, [1, 1, 1, 1], [2.0])],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    assert (OnnxFunction(path, threads=1).obstacle() == "") == (kind == TensorProto.FLOAT)


@pytest.mark.parametrize("batch", ["N", None, -1, 2])
def test_a_batch_that_is_left_open_in_any_way_takes_any_number_of_pictures(tmp_path, batch):
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    function = OnnxFunction(tmp_path / "net.onnx", threads=1)
    given = np.arange(15, dtype=np.float32).reshape(5, 3)
    assert function.rows == (2 if batch == 2 else 1)
    np.testing.assert_array_equal(function.compile(["y"])({"x": given})["y"], -given)


def write_steps(path, factor=1.0):
    """An ONNX file: y = x W + the sum over a state of two rows, whatever number of rows x has."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("ReduceSum", ["state", "axis"], ["total"], keepdims=1),
            helper.make_node("Add", ["product", "total"], ["y"]),
        ],
        "steps",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, 2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            onnx.numpy_helper.from_array(np.float32(factor * WEIGHT), "w"),
            onnx.numpy_helper.from_array(np.asarray([0]), "axis"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return OnnxFunction(path, threads=1)


def test_inputs_of_other_numbers_of_rows_are_one_run(tmp_path):
    batch = ROWS[0] | {"state": np.float32([[1, 2], [3, 4]])}
    found = write_steps(tmp_path / "net.onnx").compile(["y"])(batch)["y"]
    np.testing.assert_allclose(found, batch["x"] @ WEIGHT + [4, 6], rtol=1e-5, atol=1e-5)


def test_they_are_compared_as_they_are(tmp_path):
    batches = [rows | {"state": np.float32([[1, 2], [3, 4]])} for rows in ROWS]
    one, other = write_steps(tmp_path / "one.onnx"), write_steps(tmp_path / "other.onnx", factor=1.5)
    assert compare(one, one, batches, first=True).same
    assert compare(one, other, batches, first=True).parting.name == "product"
