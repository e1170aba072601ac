"""Small good files for every target, to start from."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
from PIL import Image

from caffeinit.batch.manifest import Entry
from caffeinit.caffe.weights import write_new
from caffeinit.storage import wire
from tests.fuzz.models import MODELS, MORE_MODELS

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "layers"
SMALL_NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 1 dim: 1 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 2 kernel_size: 1 bias_term: false } }
layer { name: "full" type: "InnerProduct" bottom: "conv" top: "full" inner_product_param { num_output: 3 } }
"""
NETS = ("lstm", "pool_max_pad", "conv_group2", "net_inception", "net_siamese", "slice_points")


def seeds(name: str) -> list[bytes]:
    """Return good files for a target."""
    return _SEEDS[name]()


def _nets() -> list[bytes]:
    nets = [path.read_bytes() for path in sorted(GOLDEN.glob("*.prototxt")) if path.stem in NETS]
    return [*nets, b"net_param { %s }\nbase_lr: 0.1\ntest_state { stage: 'a' }\n" % SMALL_NET.encode()]


def _blob() -> bytes:
    shape = wire.encode_bytes(7, wire.encode_bytes(1, b"".join(wire.encode_varint(d) for d in (2, 3))))
    return shape + wire.encode_bytes(5, np.arange(6, dtype="<f4").tobytes())


def _caffemodels() -> list[bytes]:
    today = wire.encode_bytes(1, b"conv") + wire.encode_bytes(2, b"Convolution") + wire.encode_bytes(7, _blob())
    old = wire.encode_bytes(4, b"conv") + wire.encode_number(5, 4) + wire.encode_bytes(6, _blob())
    return [wire.encode_bytes(100, today) * 2, wire.encode_bytes(2, old)]


def weights_of_the_small_net() -> list[bytes]:
    """Return weights of the small net: in today's form, HDF5, that of 2014, and in half precision."""
    conv, full = np.ones((2, 3, 1, 1), np.float32), np.ones((3, 2), np.float32)
    layers = {"conv": ("Convolution", [conv]), "full": ("InnerProduct", [full, full[:, 0]])}
    found = []
    for ending in (".caffemodel", ".h5"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"net{ending}")
            write_new(path, layers, "small")
            found.append(path.read_bytes())
    dims = b"".join(wire.encode_number(i + 1, d) for i, d in enumerate(conv.shape))
    old = wire.encode_bytes(4, b"conv") + wire.encode_number(5, 4)
    old += wire.encode_bytes(6, dims + wire.encode_bytes(5, conv.tobytes()))
    shape = wire.encode_bytes(7, wire.encode_bytes(1, b"\2\3\1\1"))
    half = wire.encode_bytes(1, b"conv") + wire.encode_bytes(
        7, shape + wire.encode_number(10, 2) + wire.encode_bytes(12, np.ones(6, "<f2").tobytes())
    )
    return [*found, wire.encode_bytes(2, old), wire.encode_bytes(100, half)]


def _named() -> list[bytes]:
    """Return good files for all endings, each behind the byte that chooses the ending."""
    npy, npz, idx, rows = _arrays()
    jpeg = _pictures()[0]
    files = (npy, npz, rows, _database(), b"one.png 1\nnowhere.png 2 3\n", gzip.compress(idx), jpeg, idx)
    return [bytes([number]) + raw for number, raw in enumerate(files)]


def _database() -> bytes:
    lmdb = pytest.importorskip("lmdb")
    with tempfile.TemporaryDirectory() as folder:
        with lmdb.open(folder, map_size=1 << 20) as database, database.begin(write=True) as transaction:
            for number, record in enumerate(_datums()):
                transaction.put(b"%d" % number, record)
        return Path(folder, "data.mdb").read_bytes()


def _datums() -> list[bytes]:
    sizes = b"".join(wire.encode_number(i + 1, d) for i, d in enumerate((3, 4, 4)))
    floats = wire.encode_bytes(6, np.ones(48, "<f4").tobytes())
    packed = wire.encode_bytes(4, _pictures()[1]) + wire.encode_number(7, 1)
    return [sizes + wire.encode_bytes(4, bytes(48)), sizes + floats, packed]


def _zoo() -> list[bytes]:
    onnx_model = MODELS[1]().SerializeToString()
    mean = 'layer { name: "d" type: "Data" top: "data" transform_param { mean_file: "m/a.binaryproto" } }\n'
    return [
        b"\0" + SMALL_NET.encode(),
        b"\0" + mean.encode() + SMALL_NET.partition("layer")[2].partition("layer")[2].join(["layer", ""]).encode(),
        *(b"\1" + raw for raw in weights_of_the_small_net()),
        b"\2" + onnx_model,
        *(b"\3" + raw for raw in _settings()),
        b"\4" + _means()[0],
    ]


def _manifests() -> list[bytes]:
    told = {"bytes": 3, "sha256": "0"}
    entry = Entry(
        "a", "measure", "ok", "", "a", "b", "2 units", {"a.json": told}, {"a": "0"}, {"beta": ["1"]}, {"v": "1"}
    )
    unit = {"rate": 0.5, "out_std": 2.0, "before": {"rate": 1.0}, "after": {"rate": 2.0}}
    result = {"units": [unit, unit], "rate_spread": 2.0, "rate_spread_before": 3.0, "outputs_moved": {"y": 0.1}}
    return [entry.line() + Entry("b", "measure", "failed", "why").line() + b"\0" + json.dumps(result).encode()]


def _hdf5() -> list[bytes]:
    raw = io.BytesIO()
    with h5py.File(raw, "w") as file:
        file["data/conv/0"] = np.ones((2, 3), np.float32)
        file["data/conv/1"] = np.ones(2, np.float32)
        file["data/again"] = h5py.SoftLink("/data/conv")
    return [raw.getvalue()]


def _means() -> list[bytes]:
    legacy = b"".join(wire.encode_number(i + 1, d) for i, d in enumerate((1, 3, 2, 2)))
    return [legacy + wire.encode_bytes(5, np.ones(12, "<f4").tobytes())]


def _mean_arrays() -> list[bytes]:
    stream = io.BytesIO()
    np.save(stream, np.zeros((3, 4, 4), np.float32))
    return [stream.getvalue()]


def _pictures() -> list[bytes]:
    pixels = np.arange(16 * 12 * 3, dtype=np.uint8).reshape(16, 12, 3)
    found = []
    for kind in ("JPEG", "PNG", "BMP", "PPM", "TIFF", "GIF", "WEBP"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        found.append(stream.getvalue())
    return found


def _arrays() -> list[bytes]:
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, np.zeros((2, 3, 4, 4), np.float32))
    np.savez_compressed(npz, data=np.zeros((2, 3, 4, 4), np.uint8))
    idx = b"\0\0\x08\x03" + b"".join(int(d).to_bytes(4, "big") for d in (2, 3, 3)) + bytes(18)
    rows = io.BytesIO()
    with h5py.File(rows, "w") as file:
        file["data"] = np.zeros((2, 3, 4, 4), np.float32)
    return [npy.getvalue(), npz.getvalue(), idx, rows.getvalue()]


def _onnx() -> list[bytes]:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    ends = [[value(n, onnx.TensorProto.FLOAT, [1, 2])] for n in "xy"]
    return [onnx.helper.make_model(onnx.helper.make_graph([node], "net", *ends)).SerializeToString()]


def _settings() -> list[bytes]:
    return [b'mode = "equalize"\nbeta = 0.5\ntime_limit = 3\n[nets."a*"]\nskip = "no"\nmodel_memory = "2G"\n']


_SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "prototxt": _nets,
    "net": _nets,
    "weights": weights_of_the_small_net,
    "upgrade": lambda: [*_nets()[:-1], *_caffemodels()],
    "named": _named,
    "datum": _datums,
    "zoo": _zoo,
    "manifest": _manifests,
    "caffemodel": _caffemodels,
    "hdf5": _hdf5,
    "mean_file": _means,
    "mean_npy": _mean_arrays,
    "picture": _pictures,
    "arrays": _arrays,
    "onnx_file": _onnx,
    "onnx_model": lambda: [model().SerializeToString() for model in (*MODELS, *MORE_MODELS)],
    "settings": _settings,
}
