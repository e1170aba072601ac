"""What files from anywhere are fed to, and small good files to start from.

A target takes the bytes of a file. It returns where they are usable and raises CaffeinitError where they are not;
anything else is a mistake of ours. `tests/fuzz/test_fuzz.py` runs each for seconds, `tools/fuzz` for minutes.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import onnx
from PIL import Image

import caffeinit
from caffeinit import wire
from caffeinit.batch.settings import Settings
from caffeinit.between import scale_system
from caffeinit.caffe.lower import infer_net
from caffeinit.caffe.net import read_net
from caffeinit.caffe.weights import open_weights
from caffeinit.engine.onnxrun import OnnxFunction
from caffeinit.errors import CaffeinitError
from caffeinit.heads import find_heads
from caffeinit.images.decode import check_header, decode
from caffeinit.images.means import read_mean
from caffeinit.images.sources import open_sources
from tests.fuzz.models import DATA, DATA_BYTES, MODELS

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "layers"
NETS = ("lstm", "pool_max_pad", "conv_group2", "net_inception", "net_siamese", "slice_points")


@contextmanager
def file_of(raw: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(raw)
        yield path


def prototxt(raw: bytes) -> None:
    with file_of(raw, "net.prototxt") as path:
        infer_net(read_net(path))


def caffemodel(raw: bytes) -> None:
    with file_of(raw, "net.caffemodel") as path:
        read_blobs(path)


def hdf5(raw: bytes) -> None:
    with file_of(raw, "net.caffemodel.h5") as path:
        read_blobs(path)


def read_blobs(path: Path) -> None:
    for blobs in open_weights(path).layers.values():
        for blob in blobs:
            if blob is not None:
                blob.array()


def mean_file(raw: bytes) -> None:
    with file_of(raw, "mean.binaryproto") as path:
        read_mean(path)


def mean_npy(raw: bytes) -> None:
    with file_of(raw, "mean.npy") as path:
        read_mean(path)


def picture(raw: bytes) -> None:
    stream = io.BytesIO(raw)
    check_header(stream)
    stream.seek(0)
    decode(stream, target=lambda size: (32, 32))


def arrays(raw: bytes) -> None:
    """Whatever --images takes, judged by its first bytes: .npy, .npz, idx, gzip, HDF5, lists."""
    with file_of(raw, "rows") as path:
        source = open_sources(str(path), "data")
        for index in range(min(len(source), 3)):
            source.name(index)
            source.check(index)


def onnx_file(raw: bytes) -> None:
    with file_of(raw, "net.onnx") as path:
        function = OnnxFunction(path)
        function.values(list(function.inputs))


def onnx_model(raw: bytes) -> None:
    """All that is done to a model before pictures go through it, and writing it."""
    with file_of(raw, "net.onnx") as path:
        (path.parent / DATA).write_bytes(DATA_BYTES)
        net = caffeinit.load(path)
        scale_system(net, lambda unit: "", find_heads(net.graph, net.learned), relaxed=False)
        for array in (a for arrays in net.params.values() for a in arrays):
            array *= 0.5
        (path.parent / "out").mkdir()
        net.save(path.parent / "out" / "net.onnx")
        allowed = {path.name, DATA, "out", f"out/{path.name}", f"out/{DATA}"}
        assert {str(p.relative_to(path.parent)) for p in path.parent.rglob("*")} <= allowed


def settings(raw: bytes) -> None:
    with file_of(raw, "caffeinit.toml") as path:
        Settings(path.parent, [path.name]).of("net.prototxt", "rescale")


TARGETS: dict[str, Callable[[bytes], None]] = {
    f.__name__: f
    for f in (prototxt, caffemodel, hdf5, mean_file, mean_npy, picture, arrays, onnx_file, onnx_model, settings)
}


def seeds(name: str) -> list[bytes]:
    """Return good files for a target."""
    return _SEEDS[name]()


def _nets() -> list[bytes]:
    return [path.read_bytes() for path in sorted(GOLDEN.glob("*.prototxt")) if path.stem in NETS]


def _blob() -> bytes:
    shape = wire.encode_bytes(7, wire.encode_bytes(1, b"".join(wire.encode_varint(d) for d in (2, 3))))
    return shape + wire.encode_bytes(5, np.arange(6, dtype="<f4").tobytes())


def _caffemodels() -> list[bytes]:
    today = wire.encode_bytes(1, b"conv") + wire.encode_bytes(2, b"Convolution") + wire.encode_bytes(7, _blob())
    old = wire.encode_bytes(4, b"conv") + wire.encode_number(5, 4) + wire.encode_bytes(6, _blob())
    return [wire.encode_bytes(100, today) * 2, wire.encode_bytes(2, old)]


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
    "caffemodel": _caffemodels,
    "hdf5": _hdf5,
    "mean_file": _means,
    "mean_npy": _mean_arrays,
    "picture": _pictures,
    "arrays": _arrays,
    "onnx_file": _onnx,
    "onnx_model": lambda: [model().SerializeToString() for model in MODELS],
    "settings": _settings,
}


def refused(name: str, raw: bytes) -> bool:
    """Run a target; return whether it refused the bytes in our own words."""
    try:
        TARGETS[name](raw)
    except CaffeinitError as error:
        return bool(str(error)) or _no_reason(name)
    return False


def _no_reason(name: str) -> bool:
    raise AssertionError(f"{name}: refused without a reason")
