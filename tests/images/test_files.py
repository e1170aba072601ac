"""Which files a folder, glob or list names; what is never opened."""

import os
import random
import socket

import pytest

from caffeinit.errors import ImagesError
from caffeinit.images.files import expand_glob, list_lines, natural_key, open_regular, resolve_listed, search_folder
from caffeinit.printing import printable


def names(paths: list[str], folder: object) -> list[str]:
    return [os.path.relpath(p, folder) for p in paths]


def test_natural_order_counts_and_does_not_depend_on_the_start() -> None:
    ordered = ["1.png", "2.png", "10.png", "a/1.png", "a/02.png", "a/2.png", "a/10.png", "a10/1.png", "b.png"]
    shuffled = random.Random(0).sample(ordered, len(ordered))
    assert sorted(shuffled, key=natural_key) == sorted(ordered, key=natural_key)
    found = sorted(shuffled, key=natural_key)
    assert [n for n in found if "/" not in n] == ["1.png", "2.png", "10.png", "b.png"]
    assert [n for n in found if n.startswith("a/")] == ["a/1.png", "a/02.png", "a/2.png", "a/10.png"]


def test_endless_digits_are_no_number() -> None:
    assert sorted(["x" + "9" * 5000, "x1"], key=natural_key)[0] == "x1"


def test_a_folder_is_searched_with_those_below_it(tmp_path) -> None:
    for name in ["b/10.JPEG", "b/9.jpg", "a/c/x.PNG", "notes.txt", ".hidden.jpg", ".git/x.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = search_folder(tmp_path)
    assert names(found.paths, tmp_path) == ["a/c/x.PNG", "b/9.jpg", "b/10.JPEG"]
    assert names(found.ignored, tmp_path) == ["notes.txt"]
    assert found.skipped == []


def test_links_that_form_a_loop_end(tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.png").touch()
    (tmp_path / "real/up").symlink_to(tmp_path)
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    (tmp_path / "self.png").symlink_to("self.png")
    found = search_folder(tmp_path)
    assert names(found.paths, tmp_path) == ["real/a.png"]
    assert sorted(names([n for n, _ in found.skipped], tmp_path)) == ["alias", "real/up", "self.png"]


def test_a_linked_folder_outside_is_followed(tmp_path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/a.png").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set/link").symlink_to(tmp_path / "store")
    assert names(search_folder(tmp_path / "set").paths, tmp_path) == ["set/link/a.png"]


@pytest.mark.timeout(20)
def test_pipes_sockets_and_dangling_links_are_named_and_not_opened(tmp_path, monkeypatch) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("socket.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "null.png").symlink_to("/dev/null")
    found = search_folder(tmp_path)
    reasons = {os.path.basename(name): reason for name, reason in found.skipped}
    assert not found.paths
    assert reasons.keys() == {"pipe.jpg", "socket.png", "gone.png", "null.png"}
    assert "pipe" in reasons["pipe.jpg"]
    assert "socket" in reasons["socket.png"]
    assert "not there" in reasons["gone.png"]
    assert "device" in reasons["null.png"]
    for name in reasons:
        with pytest.raises(OSError):
            open_regular(name)


def test_a_missing_folder_is_refused(tmp_path) -> None:
    with pytest.raises(ImagesError, match="No such file"):
        search_folder(tmp_path / "nowhere")


def test_a_glob_gives_files_in_order(tmp_path) -> None:
    for name in ["x/10.png", "x/2.png", "y/1.png", "x/3.jpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(expand_glob(f"{tmp_path}/x/*.png").paths, tmp_path) == ["x/2.png", "x/10.png"]
    assert len(expand_glob(f"{tmp_path}/**").paths) == 4


LINES = [
    ("a.jpg 3", "a.jpg"),
    ("a.jpg", "a.jpg"),
    ("with space.jpg 0", "with space.jpg"),
    ("two labels.jpg 1 0.5", "two labels.jpg"),
    ("tab.jpg\t7", "tab.jpg"),
    ("negative.jpg -1", "negative.jpg"),
    ("12", "12"),
]


@pytest.mark.parametrize(("line", "name"), LINES)
def test_labels_are_taken_off_listed_names(tmp_path, line: str, name: str) -> None:
    (tmp_path / "list").write_text(f"\n{line}\r\n")
    assert list_lines(tmp_path / "list") == [name]


def test_what_is_no_list(tmp_path) -> None:
    (tmp_path / "binary").write_bytes(b"\x00\x01\x02")
    (tmp_path / "latin").write_bytes(b"\xff\xfe\x80")
    (tmp_path / "long").write_text("x" * 10000)
    assert list_lines(tmp_path / "binary") is None
    assert list_lines(tmp_path / "latin") is None
    with pytest.raises(ImagesError, match="10000 characters"):
        list_lines(tmp_path / "long")


def test_listed_names_start_beside_the_list_then_here_or_at_the_root(tmp_path, monkeypatch) -> None:
    for name in ["lists/a.jpg", "here/b.jpg", "root/n01/c.jpg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path / "here")
    where = tmp_path / "lists/train.txt"
    assert resolve_listed("a.jpg", where, None) == str(tmp_path / "lists/a.jpg")
    assert os.path.samefile(resolve_listed("b.jpg", where, None), tmp_path / "here/b.jpg")
    assert resolve_listed("/n01/c.jpg", where, tmp_path / "root") == str(tmp_path / "root/n01/c.jpg")
    assert not os.path.exists(resolve_listed("a.jpg", where, tmp_path / "root"))


def test_control_characters_are_spelt_out() -> None:
    assert printable("a\x1b[31m\nb\udcff") == "a\\x1b[31m\\nb\\udcff"
    assert printable("Grüße.png") == "Grüße.png"


def test_lines_of_many_numbers_are_read_in_time(tmp_path) -> None:
    """One pattern for all numbers behind a name would take minutes: it begins anew at each."""
    line = "a" + " 1" * 4000 + " x"
    (tmp_path / "list.txt").write_text(f"{line}\n" * 100 + "a b.jpg  1 -2.5e3\n7\n7 8\n")
    assert list_lines(tmp_path / "list.txt") == [line] * 100 + ["a b.jpg", "7", "7"]
