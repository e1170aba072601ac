"""LMDB files read page by page give what the library wrote; damaged ones are refused."""

import random

import pytest

from caffeinit.errors import ImagesError
from caffeinit.images.lmdbfile import LmdbFile

lmdb = pytest.importorskip("lmdb")
PAGE = 4096


def contents(path) -> list[tuple[bytes, bytes]]:
    file = LmdbFile(str(path))
    return [(record.key, file.value(record)) for record in file.records()]


@pytest.mark.parametrize(("count", "longest"), [(0, 1), (1, 5000), (3000, 60), (400, 9000)])
def test_what_the_library_wrote_is_read_in_its_order(tmp_path, count: int, longest: int) -> None:
    rng = random.Random(count)
    held = {rng.randbytes(rng.randint(1, 40)): rng.randbytes(rng.randint(0, longest)) for _ in range(count)}
    with lmdb.open(str(tmp_path), map_size=1 << 26) as database:
        for step in range(3):  # several transactions, so that either of the first two pages is the younger
            with database.begin(write=True) as transaction:
                for key, value in held.items():
                    transaction.put(key, value + bytes([step]))
                for key in list(held)[: count // 9]:
                    transaction.delete(key)
                    del held[key]
            assert contents(tmp_path / "data.mdb") == sorted((k, v + bytes([step])) for k, v in held.items())


def pages(tmp_path) -> bytearray:
    """Return a database whose tree is a page with two or more leaves below it, and a long value."""
    with lmdb.open(str(tmp_path), map_size=1 << 24) as database, database.begin(write=True) as transaction:
        for number in range(200):
            transaction.put(b"%04d" % number, bytes(9000 if number == 7 else 40))
    return bytearray((tmp_path / "data.mdb").read_bytes())


def of_kind(raw: bytearray, kind: int) -> int:
    """Return where the first page of a kind begins."""
    return next(at for at in range(2 * PAGE, len(raw), PAGE) if raw[at + 10] == kind)


def a_circle(raw: bytearray) -> None:
    at = of_kind(raw, 1)
    node = at + int.from_bytes(raw[at + 18 : at + 20], "little")
    raw[node : node + 6] = (at // PAGE).to_bytes(6, "little")


def far_away(raw: bytearray) -> None:
    at = of_kind(raw, 1)
    node = at + int.from_bytes(raw[at + 16 : at + 18], "little")
    raw[node : node + 6] = b"\xff" * 6


def other_kind(raw: bytearray) -> None:
    raw[of_kind(raw, 2) + 10] = 4


def too_many_nodes(raw: bytearray) -> None:
    raw[of_kind(raw, 2) + 12 : of_kind(raw, 2) + 14] = b"\x00\x10"


def endless_key(raw: bytearray) -> None:
    at = of_kind(raw, 2)
    node = at + int.from_bytes(raw[at + 16 : at + 18], "little")
    raw[node + 6 : node + 8] = b"\xff\xff"


def nothing(raw: bytearray) -> None:
    raw[: 2 * PAGE] = bytes(2 * PAGE)


@pytest.mark.parametrize("damage", [a_circle, far_away, other_kind, too_many_nodes, endless_key, nothing])
def test_damaged_pages_are_refused(tmp_path, damage) -> None:
    raw = pages(tmp_path)
    damage(raw)
    (tmp_path / "damaged.mdb").write_bytes(raw)
    with pytest.raises(ImagesError, match=r"damaged|cut off|not an LMDB database"):
        contents(tmp_path / "damaged.mdb")


def test_a_database_cut_off_anywhere_is_refused_or_whole(tmp_path) -> None:
    raw = pages(tmp_path)
    whole, num_refused = contents(tmp_path / "data.mdb"), 0
    for end in range(0, len(raw), 1500):
        (tmp_path / "cut.mdb").write_bytes(raw[:end])
        try:
            assert contents(tmp_path / "cut.mdb") == whole  # behind the last page in use
        except ImagesError:
            num_refused += 1
    assert num_refused > 10


def test_several_databases_in_one_file_are_refused(tmp_path) -> None:
    with lmdb.open(str(tmp_path), map_size=1 << 20, max_dbs=1) as database:
        named = database.open_db(b"pictures")
        with database.begin(write=True, db=named) as transaction:
            transaction.put(b"a", b"b")
    with pytest.raises(ImagesError, match="several databases"):
        contents(tmp_path / "data.mdb")
