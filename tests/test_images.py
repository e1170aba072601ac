"""Pictures as Caffe's ImageData layer prepares them, from every kind of source."""

import gzip
import os
import struct

import numpy as np
import pytest
from PIL import Image

from caffeinit.errors import ImagesError
from caffeinit.images import Preprocessing, as_calibration, read_images
from tests.conftest import shared

SHAPES = {"data": (1, 3, 8, 6)}


def picture(path, pixels):
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(7):
        picture(tmp_path / f"{index}.png", rng.integers(0, 256, (8, 6, 3), np.uint8))
    return tmp_path


def rows(calibration, name="data"):
    return np.concatenate([batch[name] for batch in calibration])


GOLDEN_OPTIONS = {
    "warp227": Preprocessing(),
    "crop": Preprocessing(crop=227, resize_to=(256, 256)),
    "mean": Preprocessing(mean=[104, 117, 123], scale=0.5),
}


@pytest.mark.parametrize("kind", GOLDEN_OPTIONS)
def test_pictures_are_what_caffe_makes_of_them(kind):
    # Four pictures, and what BVLC Caffe's ImageData layer made of them; of "mean" only the mean of each channel.
    golden = np.load(shared("golden", "images", "imagedata.npz"))
    names = [key.split("/", 1)[1] for key in golden.files if key.startswith(f"{kind}/")]
    assert names
    for name in names:
        path = str(shared("images", "imagenet160", name))
        found = rows(read_images({"data": (1, 3, 227, 227)}, path, preprocessing=GOLDEN_OPTIONS[kind]))[0]
        expected = golden[f"{kind}/{name}"].astype(np.float32)
        # Half a grey level on average: JPEG decoders differ by that much. The scale halves it.
        if kind == "mean":
            assert np.abs(found.mean(axis=(1, 2)) - expected).max() < 0.25
        else:
            assert np.abs(found - expected).mean() < 0.5


def test_channels_are_bgr_and_a_fitting_picture_is_not_touched(folder):
    found = rows(read_images(SHAPES, str(folder)))
    pixels = np.asarray(Image.open(folder / "0.png"))
    np.testing.assert_array_equal(found[0], pixels[:, :, ::-1].transpose(2, 0, 1).astype(np.float32))


@pytest.mark.parametrize(
    ("options", "law"),
    [
        ({"channels": "rgb"}, lambda x: x[:, ::-1]),
        ({"mean": [1.0, 2.0, 3.0]}, lambda x: x - np.array([1, 2, 3]).reshape(1, 3, 1, 1)),
        ({"mean": 7.0}, lambda x: x - 7),
        ({"scale": 0.25}, lambda x: x * 0.25),
        ({"mean": 7.0, "scale": 0.25}, lambda x: (x - 7) * 0.25),
        ({"channels": "gray"}, lambda x: np.repeat(x.mean(axis=1, keepdims=True), 3, 1)),
    ],
    ids=["rgb", "mean per channel", "mean", "scale", "mean then scale", "gray"],
)
def test_options_do_what_they_say(folder, options, law):
    plain = rows(read_images(SHAPES, str(folder)))
    found = rows(read_images(SHAPES, str(folder), preprocessing=Preprocessing(**options)))
    # Grey weighs the colours, so only roughly their mean; all else is exact.
    atol = 80 if options == {"channels": "gray"} else 1e-4
    np.testing.assert_allclose(found, law(plain), atol=atol)


def test_a_crop_is_the_middle(tmp_path):
    pixels = np.zeros((12, 10, 3), np.uint8)
    pixels[2:10, 2:8] = 200
    picture(tmp_path / "x.png", pixels)
    options = Preprocessing(crop=8, resize="none")
    found = rows(read_images({"data": (1, 3, 8, 8)}, str(tmp_path), preprocessing=options))
    assert (found[0, :, :, 1:7] == 200).all()
    assert (found[0, :, :, [0, 7]] == 0).all()


def test_more_pictures_than_asked_for_are_spread_evenly(folder):
    whole = rows(read_images(SHAPES, str(folder)))
    three = read_images(SHAPES, str(folder), num_images=3)
    assert three.num_images == 3
    np.testing.assert_array_equal(rows(three), whole[[1, 3, 5]])


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_the_cut_into_batches_does_not_change_the_pictures(folder, batch):
    calibration = read_images(SHAPES, str(folder), batch_size=batch)
    np.testing.assert_array_equal(rows(calibration), rows(read_images(SHAPES, str(folder))))
    assert max(len(b["data"]) for b in calibration) == min(batch, 7)


def test_a_second_pass_sees_the_same(folder):
    calibration = read_images(SHAPES, str(folder))
    np.testing.assert_array_equal(rows(calibration), rows(calibration))


def test_sources_of_all_kinds_hold_the_same_pictures(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("sources")
    expected = rows(read_images(SHAPES, str(folder)))
    planes = expected.astype(np.uint8)
    np.save(elsewhere / "x.npy", planes)
    np.savez(elsewhere / "x.npz", data=planes)
    names = sorted(p.name for p in folder.iterdir())
    (folder / "list.txt").write_text("".join(f"{n} {i}\n" for i, n in enumerate(names)))
    for source in (
        str(folder / "*.png"),
        [str(folder / n) for n in names],
        str(folder / "list.txt"),
        str(elsewhere / "x.npy"),
        str(elsewhere / "x.npz"),
    ):
        np.testing.assert_array_equal(rows(read_images(SHAPES, source)), expected, err_msg=str(source))


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_of_mnist(tmp_path, packed):
    digits = np.random.default_rng(0).integers(0, 256, (5, 8, 6), np.uint8)
    raw = struct.pack(">HBB3I", 0, 8, 3, *digits.shape) + digits.tobytes()
    path = tmp_path / ("t10k.gz" if packed else "t10k-idx3-ubyte")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    np.testing.assert_array_equal(rows(read_images({"data": (1, 1, 8, 6)}, str(path)))[:, 0], digits)


def test_an_lmdb_of_datum_records(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    from caffeinit.protos import schema

    planes = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 6), np.uint8)
    environment = lmdb.open(str(tmp_path / "db"), map_size=1 << 22)
    with environment.begin(write=True) as change:
        for index, values in enumerate(planes):
            datum = schema.message("Datum")(channels=3, height=8, width=6, data=values.tobytes(), label=1)
            change.put(f"{index:08}".encode(), datum.SerializeToString())
    environment.close()
    np.testing.assert_array_equal(rows(read_images(SHAPES, str(tmp_path / "db"))), planes)


def test_hdf5_files_and_their_list(tmp_path):
    h5py = pytest.importorskip("h5py")
    values = np.random.default_rng(0).standard_normal((4, 3, 8, 6)).astype(np.float32)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = values
    (tmp_path / "list.txt").write_text("x.h5\n")
    for source in ("x.h5", "list.txt"):
        np.testing.assert_array_equal(rows(read_images(SHAPES, str(tmp_path / source))), values)


def test_several_inputs_belong_together_by_position(folder):
    shapes = {"data": (1, 3, 8, 6), "other": (1, 5)}
    other = np.arange(35, dtype=np.float32).reshape(7, 5)
    np.save(folder / "other.npy", other)
    (folder / "other.npy").rename(folder.parent / "other.npy")
    found = read_images(shapes, {"data": str(folder), "other": str(folder.parent / "other.npy")})
    np.testing.assert_array_equal(rows(found, "other"), other)


def test_bad_pictures_are_skipped_counted_and_named(folder):
    (folder / "3.png").write_bytes(b"no picture")
    (folder / "4.png").write_bytes(b"")
    found = read_images(SHAPES, str(folder))
    assert len(rows(found)) == found.num_images == 5
    assert sorted(os.path.basename(name) for name, _ in found.skipped) == ["3.png", "4.png"]
    with pytest.raises(ImagesError, match=r"3\.png"):
        rows(read_images(SHAPES, str(folder), strict=True))


def test_a_pipe_in_the_folder_is_not_opened(folder):
    os.mkfifo(folder / "5a.png")
    assert read_images(SHAPES, str(folder)).num_images == 7


def test_a_decompression_bomb_is_skipped(folder):
    size = struct.pack(">II", 60000, 60000)
    raw = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(raw[:16] + size + raw[24:])
    assert read_images(SHAPES, str(folder)).num_images == 6


@pytest.mark.parametrize("source", ["nothing/here", "nothing*"])
def test_a_source_that_is_not_there_is_refused(source):
    with pytest.raises(ImagesError):
        read_images(SHAPES, source)


@pytest.mark.parametrize(
    "batches",
    [
        np.zeros((4, 3, 8, 7), np.float32),
        [np.full((4, 3, 8, 6), np.nan, np.float32)],
        [],
        {"date": np.zeros((4, 3, 8, 6))},
    ],
    ids=["shape", "nan", "none", "name"],
)
def test_arrays_that_do_not_fit_are_refused(batches):
    with pytest.raises(ImagesError):
        as_calibration(batches, SHAPES)


def test_what_may_be_given_counts_where_all_batches_have_it():
    data, label, more = np.zeros((2, 3, 8, 6)), np.ones((2, 4)), {"optional": {"label": (1, 4)}, "unused": ["label"]}
    both, alone = {"data": data, "label": label}, {"data": data}
    for batches, names in (([both, both], ["data", "label"]), ([both, alone], ["data"]), ([alone, both], ["data"])):
        assert [sorted(batch) for batch in as_calibration(batches, SHAPES, **more)] == [names] * 2
        assert [sorted(batch) for batch in as_calibration(iter(batches), SHAPES, **more)] == [names] * 2
    assert [sorted(batch) for batch in as_calibration(both, SHAPES, **more)] == [["data", "label"]]
    with pytest.raises(ImagesError, match="takes"):
        as_calibration([both, {"data": data, "label": data}], SHAPES, **more)
