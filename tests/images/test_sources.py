"""What `--images` can name, each kind read back."""

import gzip
import io
import math
import os
import struct
import zipfile
from collections.abc import Callable

import numpy as np
import pytest

from caffeinit.errors import ImagesError, OptionError
from caffeinit.images import Preprocessing, read_images
from caffeinit.images.sources import open_sources
from caffeinit.protos import schema
from tests.conftest import shared
from tests.images.pictures import SHAPES, flat, values_of, write


def test_folder_file_files_glob_and_list_give_the_same(tmp_path) -> None:
    paths = [write(tmp_path / "in" / f"{i}.png", 10 * i) for i in (1, 2, 11)]
    (tmp_path / "in/list.txt").write_text("".join(f"{p.name} {i}\n" for i, p in enumerate(paths)))
    for source in (tmp_path / "in", paths, [str(p) for p in paths], f"{tmp_path}/in/*.png", tmp_path / "in/list.txt"):
        assert values_of(read_images(SHAPES, source)) == [10, 20, 110]
    assert values_of(read_images(SHAPES, paths[1])) == [20]


def test_a_picture_without_suffix_is_known_by_its_bytes(tmp_path) -> None:
    os.rename(write(tmp_path / "a.png", 50), tmp_path / "photo")
    assert values_of(read_images(SHAPES, tmp_path / "photo")) == [50]


def test_arrays_of_pictures_in_both_layouts(tmp_path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), np.uint8)
    bgr_planes = np.ascontiguousarray(rgb[..., ::-1].transpose(0, 3, 1, 2))
    np.save(tmp_path / "nhwc.npy", rgb)
    np.save(tmp_path / "nchw.npy", bgr_planes)
    np.savez(tmp_path / "one.npz", anything=rgb)
    np.savez_compressed(tmp_path / "named.npz", data=bgr_planes, other=np.zeros(3))
    for source in (rgb, bgr_planes, *(tmp_path / n for n in ("nhwc.npy", "nchw.npy", "one.npz", "named.npz"))):
        (batch,) = read_images(SHAPES, source)
        np.testing.assert_array_equal(batch["data"], bgr_planes)


def test_grey_stacks_feed_one_channel(tmp_path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (4, 6, 8), np.uint8)
    (batch,) = read_images({"data": (1, 1, 6, 8)}, grey)
    np.testing.assert_array_equal(batch["data"][:, 0], grey)
    with pytest.raises(ImagesError, match=r"\(N, H, W\), grey, but the net's input has 3 channels"):
        read_images(SHAPES, grey)


def test_floats_are_taken_as_they_are_unless_told() -> None:
    values = np.random.default_rng(0).normal(size=(4, 3, 6, 8))
    from_net = Preprocessing(mean=[1, 2, 3], scale=2, floats=False)
    (batch,) = read_images(SHAPES, values, preprocessing=from_net)
    np.testing.assert_array_equal(batch["data"], values.astype(np.float32))
    (batch,) = read_images(SHAPES, values, preprocessing=from_net.override(mean=[1, 1, 1]))
    np.testing.assert_allclose(batch["data"], (values - 1) * 2, rtol=1e-5, atol=1e-6)  # float32 rounding
    with pytest.raises(ImagesError, match=r"values of shape \(3, 5, 8\).*takes \(3, 6, 8\)"):
        read_images(SHAPES, values[:, :, :5])
    with pytest.raises(ImagesError, match=r"takes \(3, 6, 8\); an array of all pictures is \(N, 3, 6, 8\)"):
        read_images(SHAPES, values[0])


def test_rows_that_are_no_pictures() -> None:
    (batch,) = read_images({"info": (1, 3)}, np.arange(6, dtype=np.uint8).reshape(2, 3))
    np.testing.assert_array_equal(batch["info"], [[0, 1, 2], [3, 4, 5]])


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files(tmp_path, packed: bool) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (4, 6, 8), np.uint8)
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(gzip.compress(idx(grey)) if packed else idx(grey))
    (batch,) = read_images({"data": (1, 1, 6, 8)}, path)
    np.testing.assert_array_equal(batch["data"][:, 0], grey)
    (batch,) = read_images(SHAPES, path)
    np.testing.assert_array_equal(batch["data"], np.repeat(grey[:, None], 3, 1))


def test_mnist_itself() -> None:
    calibration = read_images({"data": (64, 1, 28, 28)}, shared("images", "mnist", "t10k-images-idx3-ubyte.gz"))
    assert calibration.num_images == 160
    assert 25 < np.concatenate([b["data"] for b in calibration]).mean() < 42  # the test set's mean is 33.8


def npz_packed(method: int, damage: Callable[[bytearray], None]) -> bytes:
    """Return a .npz file with something changed in it."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as packed:
        packed.writestr("data.npy", bytes(range(256)))
    raw = bytearray(archive.getvalue())
    damage(raw)
    return bytes(raw)


def encrypted(raw: bytearray) -> None:
    raw[6] |= 1
    raw[raw.index(b"PK\1\2") + 8] |= 1


def overwritten(raw: bytearray) -> None:
    raw[50:60] = b"\xff" * 10


def npz_of(name: str, shape: tuple[int, ...], held: int) -> bytes:
    """Return a .npz file whose array claims a shape, uint8, and holds so many zeros."""
    array, archive = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(f"{name}.npy", array.getvalue() + bytes(held))
    return archive.getvalue()


BAD_FILES = [
    ("labels-idx1", idx(np.arange(9, dtype=np.uint8)), "labels probably"),
    ("cut-idx3", idx(np.zeros((4, 6, 8), np.uint8))[:-1], "cut off: 191 of 192"),
    ("header-idx3", b"\0\0\x08\x03\0\0", "cut off in its header"),
    ("huge-idx3", b"\0\0\x08\x03" + b"\xff" * 12, "claims to hold"),
    ("huge.gz", gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12), "claims to hold"),
    ("cut.gz", gzip.compress(idx(np.zeros((4, 6, 8), np.uint8)))[:-12], "end-of-stream|incomplete"),
    ("other.gz", gzip.compress(b"hello"), "not an idx file"),
    ("foreign.npy", b"hello", "is no .npy file that can be read"),
    ("pickle.npy", b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (2,), }".ljust(128), "objects"),
    ("foreign.npz", b"hello", "no usable .npz"),
    ("bomb.npz", npz_of("data", (1 << 20, 3, 60, 80), 1 << 20), "too large packed"),
    ("cut.npz", npz_of("data", (1 << 10, 3, 60, 80), 1 << 20), "data: "),
    ("locked.npz", npz_packed(zipfile.ZIP_STORED, encrypted), "is encrypted"),
    ("damaged.npz", npz_packed(zipfile.ZIP_LZMA, overwritten), "data: "),
    ("archive.npy", npz_of("data", (2, 3), 6), "is no .npy file that can be read"),
    ("foreign.h5", b"hello", "no usable HDF5"),
    ("foreign.mdb", b"hello", "not an LMDB database"),
    ("empty.txt", b"\n", "an empty list"),
    ("nothing.txt", b"not there.jpg 0\nneither.jpg 1\n", "none of its 2 names is a file.*not there.jpg"),
    ("empty.jpg", b"", "no picture can be used.*empty file"),
]


@pytest.mark.parametrize(("name", "data", "reason"), BAD_FILES, ids=[b[0] for b in BAD_FILES])
def test_bad_files_are_refused_by_name(tmp_path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImagesError, match=f"(?s){name}.*({reason})"):
        read_images(SHAPES, tmp_path / name)


def test_what_is_not_there_is_refused(tmp_path) -> None:
    for source in (tmp_path / "nowhere", f"{tmp_path}/*.png"):
        with pytest.raises(ImagesError, match=r"not found|no file matches"):
            read_images(SHAPES, source)
    with pytest.raises(ImagesError, match="no pictures in or below this folder"):
        read_images(SHAPES, tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 6, 8), np.uint8))
    with pytest.raises(ImagesError, match=r"Did you mean .*x\.npy"):
        read_images(SHAPES, tmp_path)
    with pytest.raises(ImagesError, match="no pictures are given"):
        read_images(SHAPES, [])


@pytest.mark.timeout(20)
def test_a_pipe_is_refused_and_not_opened(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImagesError, match="a pipe"):
        read_images(SHAPES, tmp_path / "pipe.jpg")


def datum(**fields: object) -> bytes:
    return schema.message("Datum")(**fields).SerializeToString()


def write_lmdb(path: object, records: list[bytes]) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for i, record in enumerate(records):
            transaction.put(b"%08d" % i, record)


def test_lmdb_of_planes_encoded_pictures_and_floats(tmp_path) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (3, 6, 8), np.uint8)
    png = write(tmp_path / "a.png", 90).read_bytes()
    size = {"channels": 3, "height": 6, "width": 8}
    records = [
        datum(**size, data=planes.tobytes()),
        datum(data=png, encoded=True),
        datum(**size, float_data=np.arange(144.0)),
        datum(**size, data=b"short"),
        b"\xff\xff\xff",
    ]
    write_lmdb(tmp_path / "db", records)
    before = sorted(os.listdir(tmp_path / "db"))
    calibration = read_images(SHAPES, tmp_path / "db", preprocessing=Preprocessing(mean=10, floats=False))
    (batch,) = calibration
    np.testing.assert_array_equal(batch["data"][0], planes.astype(np.float32) - 10)
    np.testing.assert_array_equal(batch["data"][1, :, 3, 3], [80, 80, 80])
    np.testing.assert_array_equal(batch["data"][2].ravel(), np.arange(144) - 10)
    assert [name[-10:] for name, _ in calibration.skipped] == ["[00000003]", "[00000004]"]
    assert sorted(os.listdir(tmp_path / "db")) == before
    assert len(read_images(SHAPES, tmp_path / "db/data.mdb", num_images=2)) == 2


def test_lmdb_records_with_a_crop_are_cropped_as_they_are(tmp_path) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (3, 10, 12), np.uint8)
    write_lmdb(tmp_path / "db", [datum(channels=3, height=10, width=12, data=planes.tobytes())])
    asked = Preprocessing(crop=6, resize="auto", floats=False)
    (batch,) = read_images({"data": (1, 3, 6, 6)}, tmp_path / "db", preprocessing=asked)
    np.testing.assert_array_equal(batch["data"][0], planes[:, 2:8, 3:9])


def test_hdf5_files_and_their_list_feed_inputs_of_the_same_names(tmp_path) -> None:
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    data, label = rng.normal(size=(6, 3, 6, 8)).astype(np.float32), rng.normal(size=(6, 2)).astype(np.float32)
    for i, name in enumerate(("a.h5", "b.h5")):
        with h5py.File(tmp_path / name, "w") as file:
            file["data"], file["label"] = data[3 * i : 3 * i + 3], label[3 * i : 3 * i + 3]
    (tmp_path / "list.txt").write_text("a.h5\nb.h5\n")
    shapes = SHAPES | {"label": (1, 2)}
    (batch,) = read_images(shapes, tmp_path / "list.txt", preprocessing=Preprocessing(mean=5, floats=False))
    np.testing.assert_array_equal(batch["data"], data)
    np.testing.assert_array_equal(batch["label"], label)
    (batch,) = read_images(SHAPES, [tmp_path / "b.h5"])
    np.testing.assert_array_equal(batch["data"], data[3:])


def test_hdf5_links_to_other_files_are_not_followed(tmp_path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.zeros((1, 3, 6, 8), np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = h5py.ExternalLink("other.h5", "/data")
    with pytest.raises(ImagesError, match="no array is named like"):
        read_images(SHAPES, tmp_path / "a.h5")


@pytest.mark.parametrize(("shape", "chunks"), [((2, 1 << 20, 1 << 10), None), ((2, 3, 6, 8), (2, 1 << 20, 100, 100))])
def test_hdf5_rows_that_no_memory_holds_are_refused(tmp_path, shape, chunks) -> None:
    """What was never written takes no room in the file."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        largest = None if chunks is None else (None,) * len(shape)
        file.create_dataset("data", shape, np.float32, chunks=chunks or (1, 1, 8), maxshape=largest)
    with pytest.raises(ImagesError, match="more than any picture holds"):
        read_images(SHAPES, tmp_path / "a.h5")


def test_several_inputs(tmp_path) -> None:
    write(tmp_path / "a" / "1.png", 10)
    write(tmp_path / "a" / "2.png", 20)
    info = np.array([[1.0, 2.0], [3.0, 4.0]])
    shapes = {"data": (1, 3, 6, 8), "info": (1, 2)}
    for sources in ({"data": tmp_path / "a", "info": info}, {None: tmp_path / "a", "info": info}):
        (batch,) = read_images(shapes, sources)
        assert batch["data"][:, 0, 3, 3].tolist() == [10, 20]
        np.testing.assert_array_equal(batch["info"], info)
    refused = [
        (tmp_path / "a", OptionError, "say which pictures are for which.*--images info="),
        ({"data": tmp_path / "a"}, OptionError, "no pictures for input info"),
        ({"dat": tmp_path / "a"}, OptionError, "has no input dat; its inputs: data"),
        (
            {"data": tmp_path / "a", "info": info[:1]},
            ImagesError,
            "different numbers of rows.*data 2, info 1. Give each of them 1",
        ),
        ({"data": tmp_path / "a", "info": info, None: info}, OptionError, "to which"),
    ]
    for sources, kind, reason in refused:
        with pytest.raises(kind, match=reason):
            read_images(shapes, sources)


def test_rows_may_be_single_numbers(tmp_path) -> None:
    """Indices, selectors and labels are inputs of one axis."""
    h5py = pytest.importorskip("h5py")
    data, which = np.arange(6, dtype=np.float32).reshape(3, 2), np.float32([2, 0, 1])
    np.save(tmp_path / "which.npy", which)
    np.savez(tmp_path / "both.npz", data=data, which=which)
    with h5py.File(tmp_path / "both.h5", "w") as file:
        file["data"], file["which"] = data, which
    for sources in ({"data": data, "which": tmp_path / "which.npy"}, tmp_path / "both.npz", tmp_path / "both.h5"):
        batches = list(read_images({"data": (1, 2), "which": (1,)}, sources, batch_size=2))
        assert [b["which"].tolist() for b in batches] == [[2, 0], [1]]


STEPS = {"x": (3, 4, 5), "state": (1, 4, 3)}  # steps of a sequence beside its first state


def test_runs_take_as_many_rows_of_each_input_as_the_net_spells_out(tmp_path) -> None:
    arrays = {n: np.arange(2 * math.prod(s), dtype=np.float32).reshape(-1, *s[1:]) for n, s in STEPS.items()}
    np.savez(tmp_path / "both.npz", **arrays)
    found = read_images(STEPS, tmp_path / "both.npz", batch_size=3, whole_batches=True)
    assert (found.num_images, found.batch_size) == (2, 1)
    for number, batch in enumerate(found):
        assert {n: a.shape for n, a in batch.items()} == STEPS
        np.testing.assert_array_equal(batch["x"], arrays["x"][3 * number : 3 * number + 3])
        np.testing.assert_array_equal(batch["state"], arrays["state"][number : number + 1])
    (last,) = read_images(STEPS, arrays, num_images=1, whole_batches=True)
    np.testing.assert_array_equal(last["state"], arrays["state"][1:])
    assert not found.notes


@pytest.mark.parametrize("counts", [(6, 1), (5, 2), (4, 2)])
def test_rows_for_other_numbers_of_runs_are_refused(counts) -> None:
    arrays = {name: np.ones((n, *STEPS[name][1:])) for name, n in zip(STEPS, counts, strict=True)}
    with pytest.raises(ImagesError, match=rf"runs: x {counts[0]}, state {counts[1]}\. .* a run takes: x 3, state 1\."):
        read_images(STEPS, arrays, whole_batches=True)


def test_a_single_number_beside_rows_is_no_matter_of_files() -> None:
    with pytest.raises(ImagesError, match=r"a single number for rate, .* From Python it takes batches"):
        read_images({"x": (3, 4), "rate": ()}, {"x": np.ones((3, 4)), "rate": np.ones(1)}, whole_batches=True)


def test_pictures_for_what_takes_none_are_refused(tmp_path) -> None:
    write(tmp_path / "1.png", 10)
    with pytest.raises(ImagesError, match=r"pictures need \(N, C, H, W\)"):
        read_images({"info": (1, 2)}, tmp_path)


def test_rows_are_found_through_a_chain(tmp_path) -> None:
    chain = open_sources([np.zeros((2, 3), np.float32), np.ones((3, 3), np.float32)], "x")
    assert len(chain) == 5
    assert [chain.read(i, (3,), Preprocessing()).values[0] for i in range(5)] == [0, 0, 1, 1, 1]


def test_pillow_reads_what_the_helper_writes(tmp_path) -> None:
    (batch,) = read_images(SHAPES, write(tmp_path / "a.png", 9))
    np.testing.assert_array_equal(batch["data"][0], flat(9).transpose(2, 0, 1))
