"""How large pictures are, told without decoding them, where all have one size."""

import gzip

import numpy as np
import pytest
from PIL import Image

from caffeinit.errors import ImagesError
from caffeinit.images.extents import LOOKED_AT, Extent, common_extent, extents
from caffeinit.images.sources import open_sources
from caffeinit.protos import schema
from tests.images.pictures import flat, write
from tests.images.test_sources import idx

RGB = np.zeros((4, 6, 8, 3), np.uint8)
TAKEN = "taken from the pictures, which all have that size"


def extent(source, channels=0):
    return common_extent(open_sources(source, "data"), channels)


@pytest.mark.parametrize(
    ("array", "channels", "shape"),
    [
        (RGB, 0, (3, 6, 8)),
        (RGB.transpose(0, 3, 1, 2), 0, (3, 6, 8)),
        (RGB[..., 0], 0, (1, 6, 8)),
        (RGB[..., :1], 0, (1, 6, 8)),
        (np.zeros((2, 4, 6, 8), np.uint8), 0, (4, 6, 8)),
        (np.zeros((2, 4, 6, 3), np.uint8), 4, (4, 6, 3)),  # the net has four channels
        (np.zeros((2, 4, 6, 3), np.uint8), 0, (3, 4, 6)),
        (RGB.astype(np.float32), 0, (6, 8, 3)),  # floats are in the net's own order
    ],
)
def test_arrays_have_the_shape_that_their_rows_are_read_in(array, channels, shape):
    assert extent(array, channels) == Extent(shape, TAKEN)
    assert open_sources(array, "data").read(0, shape, None).values.size == np.prod(shape)


def test_files_of_all_kinds(tmp_path):
    (tmp_path / "grey.idx").write_bytes(gzip.compress(idx(RGB[..., 0])))
    assert extent(tmp_path / "grey.idx").shape == (1, 6, 8)
    np.save(tmp_path / "a.npy", RGB)
    assert extent([tmp_path / "a.npy", write(tmp_path / "b.png", 9)]).shape == (3, 6, 8)


def test_a_picture_is_told_as_it_is_decoded(tmp_path):
    turned = Image.fromarray(flat(9))
    exif = turned.getexif()
    exif[0x0112] = 6  # lies on its side
    turned.save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(flat(9)[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(flat(9)[..., 0].astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(flat(9)).convert("P").save(tmp_path / "palette.png")
    for name, shape in {
        "turned.jpg": (3, 8, 6),
        "grey.png": (1, 6, 8),
        "deep.png": (1, 6, 8),
        "palette.png": (3, 6, 8),
    }.items():
        assert extent(tmp_path / name).shape == shape, name


def test_grey_pictures_among_coloured_ones_are_coloured(tmp_path):
    Image.fromarray(flat(9)[..., 0]).save(tmp_path / "1.png")
    assert extent(tmp_path).shape == (1, 6, 8)
    assert extent(tmp_path, channels=3).shape == (3, 6, 8)
    write(tmp_path / "2.png", 9)
    assert extent(tmp_path).shape == (3, 6, 8)
    assert extent(tmp_path, channels=1).shape == (1, 6, 8)


def test_different_sizes_tell_nothing_and_damaged_pictures_do_not_count(tmp_path):
    write(tmp_path / "1.png", 9)
    (tmp_path / "2.png").write_bytes(b"no picture")
    assert extent(tmp_path).shape == (3, 6, 8)
    Image.fromarray(flat(9, 5, 8)).save(tmp_path / "3.png")
    found = extent(tmp_path)
    assert found.shape is None
    assert found.words.startswith("the pictures have different sizes: 6 x 8 (")
    assert extent(tmp_path / "2.png") == Extent(None, "none of the pictures can be read")
    four, three = np.zeros((2, 4, 6, 8), np.uint8), RGB
    assert extent([four, three]) == Extent(None, "the pictures have different numbers of channels: 3, 4")


def test_of_many_rows_some_are_looked_at():
    found = extent(np.zeros((LOOKED_AT + 1, 6, 8), np.uint8))
    assert found.words == f"taken from the pictures, of which the {LOOKED_AT} looked at have that size"


def test_databases(tmp_path):
    lmdb, h5py = pytest.importorskip("lmdb"), pytest.importorskip("h5py")
    datum = schema.message("Datum")(channels=3, height=6, width=8, data=bytes(144))
    png = schema.message("Datum")(encoded=True, data=write(tmp_path / "a.png", 9).read_bytes())
    with lmdb.open(str(tmp_path / "db")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"0", datum.SerializeToString())
        transaction.put(b"1", png.SerializeToString())
    assert extent(tmp_path / "db").shape == (3, 6, 8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = np.zeros((4, 2, 6, 8), np.float32)
    assert extent(tmp_path / "a.h5").shape == (2, 6, 8)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["data"] = np.zeros((4, 2), np.float32)
    assert extent(tmp_path / "b.h5").shape is None


def test_pictures_without_a_name_are_for_the_input_that_is_left_over(tmp_path):
    wanted = {"data": 0}
    for inputs, sources, told in [
        (["data"], {None: [RGB]}, ["data"]),
        (["data", "other"], {None: [RGB]}, []),
        (["data", "other"], {None: [RGB], "other": [RGB]}, ["data"]),
        (["data", "other"], {"data": [RGB]}, ["data"]),
        (["data", "other"], {"other": [RGB]}, []),
    ]:
        assert list(extents(wanted, inputs, sources)) == told
    with pytest.raises(ImagesError, match="not found"):
        extents(wanted, ["data"], {None: [tmp_path / "nowhere"]})
