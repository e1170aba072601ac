"""The choice of pictures, the cut, threads, what is left out, and arrays that users bring."""

import os

import numpy as np
import pytest

from caffeinit.errors import ImagesError
from caffeinit.images import as_calibration, batches, read_images
from caffeinit.images.batches import spread
from tests.images.pictures import SHAPES, values_of, write


@pytest.fixture
def folder(tmp_path):
    """Return a folder of ten pictures in two class folders, worth 10, 20, ... 100 in order."""
    for i in range(10):
        write(tmp_path / "set" / f"class{i // 5}" / f"{i}.png", 10 * (i + 1))
    return tmp_path / "set"


@pytest.mark.parametrize(("found", "wanted"), [(10, 3), (1000, 160), (161, 160), (7, 7), (3, 9), (50000, 1)])
def test_the_choice_is_evenly_spread(found: int, wanted: int) -> None:
    chosen = spread(found, wanted)
    assert len(chosen) == min(found, wanted)
    assert chosen == sorted(set(chosen))
    if wanted < found:
        gaps = np.diff([-chosen[0] - 1, *chosen, 2 * found - 1 - chosen[-1]])
        assert gaps.max() - gaps.min() <= 2
    assert spread(found, None) == list(range(found))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_batches_hold_all_pictures_in_order(folder, batch_size: int, threads: int) -> None:
    calibration = read_images(SHAPES, folder, batch_size=batch_size, threads=threads)
    for _ in range(2):
        sizes = [len(b["data"]) for b in calibration]
        assert sizes == [min(batch_size, 10 - i) for i in range(0, 10, batch_size)]
        assert values_of(calibration) == list(range(10, 101, 10))
    assert len(calibration) == calibration.num_images == 10
    first = next(iter(calibration))["data"]
    assert first.dtype == np.float32
    assert first.flags.c_contiguous


def test_num_images_takes_some_of_each_class(folder) -> None:
    calibration = read_images(SHAPES, folder, num_images=4)
    assert len(calibration) == 4
    assert values_of(calibration) == [20, 40, 70, 90]
    assert "4 of 10 pictures" in calibration.describe()


def test_batches_do_not_share_memory_with_later_passes(folder) -> None:
    calibration = read_images(SHAPES, folder)
    for batch in calibration:
        batch["data"][:] = -1
    assert values_of(calibration) == list(range(10, 101, 10))


def test_passes_within_passes_and_broken_off(folder) -> None:
    calibration = read_images(SHAPES, folder, batch_size=4)
    for i, batch in enumerate(calibration):
        assert values_of(calibration) == list(range(10, 101, 10))
        assert batch["data"][0, 0, -1, -1] == 10 + 40 * i
        if i == 1:
            break
    assert len(values_of(calibration)) == 10


def test_what_a_pass_has_decoded_before_it_was_broken_off_is_not_decoded_again(folder, monkeypatch) -> None:
    read: list[int] = []
    one = batches.Calibration._read
    monkeypatch.setattr(batches.Calibration, "_read", lambda self, index: (read.append(index), one(self, index))[1])
    monkeypatch.setattr(batches, "BATCHES_AHEAD", 1)
    (folder / "class0/1.png").write_bytes((folder / "class0/1.png").read_bytes()[:60])
    calibration = read_images(SHAPES, folder, batch_size=2, threads=1)
    for _ in range(2):
        assert next(iter(calibration))["data"][:, 0, -1, -1].tolist() == [10, 30]
    assert values_of(calibration) == [10, *range(30, 101, 10)]
    assert read.count(0) == read.count(1) == read.count(2) == 1
    assert sorted(set(read)) == list(range(10))


def test_without_room_for_the_cache_pictures_are_read_again(folder, monkeypatch) -> None:
    monkeypatch.setattr(batches, "CACHE_BYTES", 500)
    calibration = read_images(SHAPES, folder)
    assert values_of(calibration) == values_of(calibration) == list(range(10, 101, 10))
    os.remove(folder / "class0/2.png")
    with pytest.raises(ImagesError, match=r"2\.png: could be read before, but not any more"):
        values_of(calibration)


@pytest.mark.timeout(30)
def test_unreadable_pictures_are_left_out_counted_and_named(folder, caplog) -> None:
    (folder / "class0/0.png").write_bytes(b"")
    (folder / "class0/3.png").write_bytes((folder / "class0/3.png").read_bytes()[:60])
    os.mkfifo(folder / "class1/pipe.png")
    calibration = read_images(SHAPES, folder, batch_size=4)
    assert calibration.num_images in (8, 9)  # what is damaged inside is only seen when it is decoded
    assert [len(b["data"]) for b in calibration] == [4, 4]
    assert values_of(calibration) == [20, 30, 50, 60, 70, 80, 90, 100]
    assert len(calibration) == 8
    assert {os.path.basename(name) for name, _ in calibration.skipped} == {"0.png", "3.png", "pipe.png"}
    assert "3 skipped" in calibration.describe()
    assert "0.png: an empty file" in calibration.describe()
    assert "0.png: skipped: an empty file" in caplog.text


@pytest.mark.parametrize("damage", ["empty", "cut"])
def test_strict_refuses_unreadable_pictures(folder, damage: str) -> None:
    path = folder / "class0/3.png"
    path.write_bytes(path.read_bytes()[:60] if damage == "cut" else b"")
    with pytest.raises(ImagesError, match=r"3\.png: .*Without --strict"):
        values_of(read_images(SHAPES, folder, strict=True))


def test_strict_refuses_special_files(folder) -> None:
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(ImagesError, match=r"pipe\.png: a pipe"):
        read_images(SHAPES, folder, strict=True)


def test_no_picture_left_is_refused(folder) -> None:
    for path in folder.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImagesError, match=r"no picture can be used\.\n.*0\.png"):
        values_of(read_images(SHAPES, folder))


def test_whole_batches_leave_the_rest_out(folder) -> None:
    calibration = read_images(SHAPES, folder, batch_size=4, whole_batches=True)
    assert len(calibration) == 8
    assert [len(b["data"]) for b in calibration] == [4, 4]
    with pytest.raises(ImagesError, match="10 pictures can be used, but the net spells out a batch of 16"):
        read_images(SHAPES, folder, batch_size=16, whole_batches=True)


# Each of another colour, and none of them grey.
FLAT = np.arange(9, dtype=np.uint8).reshape(3, 3, 1, 1).repeat(6, 2).repeat(8, 3)
ALMOST = np.where(np.arange(432).reshape(3, 3, 6, 8) == 100, 99, FLAT)


@pytest.mark.parametrize(
    ("array", "is_flat"),
    [
        (FLAT, True),
        (np.moveaxis(FLAT, 1, -1), True),
        (ALMOST, False),
        (np.moveaxis(ALMOST, 1, -1), False),
        (FLAT[:, :, :1, :1], False),
        (FLAT[:, :, 0, 0], False),
    ],
    ids=["flat", "flat, channels last", "one pixel", "one pixel, channels last", "features (C, 1, 1)", "features"],
)
def test_arrays_of_flat_pictures_are_noted(array, is_flat) -> None:
    notes = as_calibration(array.astype(np.float32), {"data": (1, *array.shape[1:])}).notes
    assert notes == (["all pictures are constant: each is one flat colour"] if is_flat else [])
    read = read_images({"data": (1, *array.shape[1:])}, array)
    list(read)
    assert any("flat colour" in note for note in read.notes) == (is_flat and array.shape[1] == 3)


def test_odd_pictures_are_noted(folder, tmp_path) -> None:
    calibration = read_images(SHAPES, folder)
    values_of(calibration)
    assert calibration.notes == []
    cases = [
        (np.full((3, 3, 6, 8), 7, np.uint8), "all pictures are constant"),
        (FLAT, "all pictures are constant"),
        (np.arange(144, dtype=np.uint8).reshape(1, 3, 6, 8).repeat(3, 0), "all pictures are identical"),
        (np.arange(144, dtype=np.uint8).reshape(1, 3, 6, 8), "only one picture"),
    ]
    for array, note in cases:
        calibration = read_images(SHAPES, array)
        values_of(calibration)
        assert [n for n in calibration.notes if note in n]


def test_rows_with_nan_are_left_out(folder) -> None:
    values = np.ones((3, 3, 6, 8), np.float32)
    values[0, 1, 2, 3] = np.nan
    calibration = read_images(SHAPES, values)
    assert sum(len(b["data"]) for b in calibration) == 2
    assert calibration.skipped == [("the array[0]", "holds NaN or infinite values")]
    with pytest.raises(ImagesError, match="no picture can be used"):
        list(read_images(SHAPES, np.full((2, 3, 6, 8), np.inf, np.float32)))


ROWS = np.random.default_rng(0).normal(size=(5, 3, 6, 8)).astype(np.float32)
GIVEN = [
    ("whole array", ROWS, [2, 2, 1]),
    ("dict", {"data": ROWS.astype(np.float64)}, [2, 2, 1]),
    ("list of batches", [ROWS[:3], ROWS[3:]], [3, 2]),
    ("generator of dicts", ({"data": r[None]} for r in ROWS), [1] * 5),
    ("with an empty batch", [ROWS[:0], ROWS], [5]),
]


@pytest.mark.parametrize(("name", "given", "sizes"), GIVEN, ids=[g[0] for g in GIVEN])
def test_arrays_that_users_bring_can_be_gone_through_again(name, given, sizes) -> None:
    calibration = as_calibration(given, SHAPES, batch_size=2)
    for _ in range(2):
        assert [len(b["data"]) for b in calibration] == sizes
        np.testing.assert_array_equal(np.concatenate([b["data"] for b in calibration]), ROWS)
    assert all(b["data"].dtype == np.float32 for b in calibration)
    assert calibration.num_images == 5
    assert as_calibration(calibration, SHAPES) is calibration


TWO = SHAPES | {"info": (1, 2)}
REFUSED = [
    (ROWS[0], SHAPES, r"\(3, 6, 8\), but the net takes \(N, 3, 6, 8\)\. A single picture needs a first axis"),
    (ROWS[:, :2], SHAPES, r"the array is \(5, 2, 6, 8\)"),
    ([ROWS, ROWS[..., :4]], SHAPES, "batch 1, input"),
    (np.where(ROWS > 2, np.nan, ROWS), SHAPES, "NaN or infinite"),
    (ROWS[:0], SHAPES, "at least one picture"),
    ([], SHAPES, "at least one picture"),
    (["a.png"], SHAPES, "batch 0.*float32 is needed"),
    (3, SHAPES, "images are int"),
    ("pictures/", SHAPES, "images are str.*read_images"),
    (ROWS, TWO, "the net has the inputs data, info: give a dict"),
    ({"data": ROWS}, TWO, "nothing for input info"),
    ({"data": ROWS, "x": ROWS}, SHAPES, "the net has no input x; its inputs: data"),
    ({"data": ROWS, "info": np.ones((4, 2))}, TWO, "different numbers of rows: data 5, info 4.*as many for each"),
    ({"data": ROWS, "size": 2.0}, {**SHAPES, "size": ()}, 'input "size": the net takes one number for all pictures'),
    ({"data": ROWS, "size": 2.0}, {"size": (), **SHAPES}, 'input "size": the net takes one number for all pictures'),
]


@pytest.mark.parametrize(("given", "inputs", "reason"), REFUSED, ids=[r[2][:30] for r in REFUSED])
def test_arrays_that_do_not_fit_are_refused(given, inputs, reason) -> None:
    with pytest.raises(ImagesError, match=reason):
        as_calibration(given, inputs)


def test_arrays_for_a_net_that_spells_its_batch_out_have_to_be_of_that_size() -> None:
    def sizes(given):
        return [len(b["data"]) for b in as_calibration(given, {"data": (2, 3, 6, 8)}, whole_batches=True)]

    assert sizes(ROWS[:4]) == [2, 2]
    assert sizes([ROWS[:2], ROWS[2:4]]) == [2, 2]
    with pytest.raises(ImagesError, match=r'batch 2, input "data": 1 rows, but the net spells out a batch of 2 and'):
        sizes(ROWS)
    with pytest.raises(ImagesError, match=r"batch 0, .*5 rows.*give batches of that size, or a multiple of it as one"):
        sizes([ROWS])


def test_pictures_read_for_another_net_are_refused(folder) -> None:
    with pytest.raises(
        ImagesError, match=r"takes \(N, 3, 7, 8\), but the images were read for \"data\" \(N, 3, 6, 8\)"
    ):
        as_calibration(read_images(SHAPES, folder), {"data": (1, 3, 7, 8)})


def test_batches_may_all_come_in_one_array():
    rng = np.random.default_rng(0)
    batches = [rng.random((2, 3, 4, 4), np.float32) for _ in range(3)]

    def refilled():
        buffer = np.empty_like(batches[0])
        for batch in batches:
            buffer[...] = batch
            yield {"data": buffer}

    found = [b["data"] for b in as_calibration(refilled(), {"data": (1, 3, 4, 4)})]
    np.testing.assert_array_equal(np.stack(found), np.stack(batches))


@pytest.mark.parametrize("num", [4, 40, 4000])
def test_pictures_that_are_decoded_ahead_count_once(num: int, tmp_path) -> None:
    np.save(tmp_path / "pictures.npy", np.zeros((num, 3, 8, 8), np.uint8))
    images = read_images({"data": (1, 3, 8, 8)}, [str(tmp_path / "pictures.npy")], num_images=None, batch_size=16)
    assert images.memory == 3 * 8 * 8 * (num + 2 * 4 * min(num, 16))  # two batches of floats beside them
