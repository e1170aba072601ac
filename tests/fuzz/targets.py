"""What files from anywhere are fed to, and small good files to start from.

A target takes the bytes of a file. It returns where they are usable and raises CaffeinitError where they are not;
anything else is a mistake of ours. `tests/fuzz/test_fuzz.py` runs each for seconds, `tools/fuzz` for minutes.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

import caffeinit
from caffeinit.batch.index import index_page
from caffeinit.batch.manifest import Entry, Manifest
from caffeinit.batch.planning import Order, plan
from caffeinit.batch.settings import Settings
from caffeinit.caffe.lower import infer_net
from caffeinit.caffe.net import read_net
from caffeinit.caffe.rewrite import upgrade_file
from caffeinit.caffe.source import CaffeSource
from caffeinit.caffe.weights import open_weights
from caffeinit.engine.onnxrun import OnnxFunction
from caffeinit.errors import CaffeinitError, ImagesError
from caffeinit.graph.heads import find_heads
from caffeinit.images.databases import datum_sample, parse_datum
from caffeinit.images.decode import check_header, decode
from caffeinit.images.means import read_mean
from caffeinit.images.preprocess import Preprocessing
from caffeinit.images.sources import open_sources, source_names
from caffeinit.inspection import inspect_files
from caffeinit.methods.between import scale_system
from caffeinit.onnxfile.source import OnnxSource
from tests.fuzz.models import DATA, DATA_BYTES
from tests.fuzz.seeds import SMALL_NET, weights_of_the_small_net

ENDINGS = (".npy", ".npz", ".h5", ".mdb", ".txt", ".gz", ".jpg", "")
ZOO_NAMES = ("a.prototxt", "a.caffemodel", "a.onnx", "caffeinit.toml", "a.binaryproto", "a")


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


def net(raw: bytes) -> None:
    """All that is done to a net before pictures go through it, and what inspect tells of it."""
    with file_of(raw, "net.prototxt") as path:
        inspect_files(path, scales=True).to_json()
        found = caffeinit.load(path)
        assert isinstance(found.source, CaffeSource)
        found.source.preprocessing()
        found.source.lower({name: (2 * shape[0], *shape[1:]) for name, shape in found.inputs.items() if shape})
        scale_system(found, lambda unit: "", find_heads(found.graph, found.learned), relaxed=False)


def weights(raw: bytes) -> None:
    """Weights of a small net, in whatever form: loaded, changed, written and read again."""
    with file_of(raw, "net.weights") as path:
        (path.parent / "net.prototxt").write_text(SMALL_NET)
        inspect_files(path.parent / "net.prototxt", path).to_json()
        found = caffeinit.load(path.parent / "net.prototxt", path)
        for array in (a for arrays in found.params.values() for a in arrays):
            array *= 0.5
        found.round_as_stored()
        found.save(path.parent / "out")
        again = caffeinit.load(path.parent / "net.prototxt", path.parent / "out")
        for name, arrays in found.params.items():
            for one, other in zip(arrays, again.params[name], strict=True):
                np.testing.assert_array_equal(one, other)


def upgrade(raw: bytes) -> None:
    """Whatever is upgraded is in today's form, and stays as it is when it is upgraded again."""
    with file_of(raw, "old") as path:
        out, again = path.parent / "new", path.parent / "again"
        upgrade_file(path, out, drop_unknown=True)
        assert upgrade_file(out, again).copied


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


def named(raw: bytes) -> None:
    """Whatever --images takes, judged by the name's ending, which the first byte chooses; rows are read, too."""
    with file_of(raw[1:], f"rows{ENDINGS[raw[0] % len(ENDINGS)] if raw else ''}") as path:
        Image.new("RGB", (4, 4)).save(path.parent / "one.png")
        source_names(path)
        source = open_sources(str(path), "data")
        for index in range(min(len(source), 3)):
            source.name(index)
            with contextlib.suppress(ImagesError):
                source.check(index)
                source.shape(index, 3)
                source.read(index, (3, 4, 4), Preprocessing())


def datum(raw: bytes) -> None:
    """A record of a database."""
    datum_sample(parse_datum(raw), (3, 4, 4), Preprocessing())


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
        assert isinstance(net.source, OnnxSource)
        for name in net.params.keys() - net.source.computed.keys():
            for array in net.params[name]:
                array *= 0.5
        (path.parent / "out").mkdir()
        net.save(path.parent / "out" / "net.onnx")
        allowed = {path.name, DATA, "out", f"out/{path.name}", f"out/{DATA}"}
        assert {str(p.relative_to(path.parent)) for p in path.parent.rglob("*")} <= allowed


def zoo(raw: bytes) -> None:
    """What a batch does with a file of its folder before any work; the first byte chooses the file's name."""
    with file_of(raw[1:], ZOO_NAMES[raw[0] % len(ZOO_NAMES)] if raw else "a.prototxt") as path:
        (path.parent / "good.prototxt").write_text(SMALL_NET)
        (path.parent / "good.caffemodel").write_bytes(weights_of_the_small_net()[0])
        out = path.parent / "out"
        plan(Order(path.parent, out, "measure", {"sources": [str(path)]}), Manifest(out / "manifest.jsonl"))
        assert not out.exists()


def manifest(raw: bytes) -> None:
    """The state of a batch: the manifest, a zero byte, and what it has found of a model."""
    lines, _, result = raw.partition(b"\0")
    with file_of(lines, "manifest.jsonl") as path:
        (path.parent / "a.json").write_bytes(result)
        found = Manifest(path)
        found.append(Entry("another", "measure", "ok"))
        assert Manifest(path).entries == found.entries
        index_page(path.parent / "index.html", path.parent, "measure", list(found.entries.values())).encode()


def settings(raw: bytes) -> None:
    with file_of(raw, "caffeinit.toml") as path:
        Settings(path.parent, [path.name]).of("net.prototxt", "rescale")


_NETS = (prototxt, net, caffemodel, hdf5, weights, upgrade)
_IMAGES = (mean_file, mean_npy, picture, arrays, named, datum)


TARGETS: dict[str, Callable[[bytes], None]] = {
    f.__name__: f for f in (*_NETS, *_IMAGES, onnx_file, onnx_model, zoo, manifest, settings)
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
