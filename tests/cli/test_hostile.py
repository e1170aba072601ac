"""Verbs among hostile files: they read what was named, write what was named, and show names without obeying them."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from tests.cli.conftest import NET

# Reports each file that a verb opens in Python: its path and whether it may be changed by that.
WATCH = """
import json, os, sys
opened = []
def watch(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        mode, flags = args[1], args[2] or 0
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))
        opened.append((os.path.realpath(os.fsdecode(args[0])), writes))
    if event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"):
        opened.extend((os.path.realpath(os.fsdecode(a)), True) for a in args if isinstance(a, (str, bytes)))
from caffeinit.cli import main
import caffeinit, numpy, onnx, onnxruntime, h5py, sklearn, scipy, PIL
sys.addaudithook(watch)
try:
    main(sys.argv[2:])
except SystemExit as stopped:
    code = stopped.code
report, opened = list(opened), []
with open(sys.argv[1], "w") as file:
    json.dump([code, report], file)
"""
VERBS = {
    "init": ("init", "net.prototxt", "--images", "pictures", "-o", "out/x.caffemodel", "--json", "out/x.json"),
    "rescale": ("rescale", "net.prototxt", "net.caffemodel", "--images", "pictures", "-o", "out/x.caffemodel"),
    "measure": ("measure", "net.prototxt", "net.caffemodel", "--images", "pictures", "--json", "out/x.json"),
    "verify": ("verify", "net.prototxt", "net.caffemodel", "net.caffemodel", "--images", "pictures"),
    "inspect": ("inspect", "net.prototxt", "net.caffemodel", "--filters", "out/x.png"),
    "upgrade": ("upgrade", "net.prototxt", "out/x.prototxt"),
    "convert": ("convert", "net.prototxt", "net.caffemodel", "-o", "out/x.onnx"),
}


@pytest.fixture
def hostile(place, weights):
    """The small net, with names that lead out of the folder wherever a file can hold one."""
    data = NET.replace(
        'type: "Input" top: "data"',
        'type: "Input" top: "data" transform_param { mean_file: "../secret.binaryproto" } '
        'image_data_param { source: "/etc/passwd" root_folder: "/etc/" } data_param { source: "../secret" }',
    )
    place = place / "place"
    place.mkdir()
    for name in ("net.caffemodel", "pictures"):
        os.rename(place.parent / name, place / name)
    (place / "net.prototxt").write_text(data)
    (place.parent / "secret.binaryproto").write_bytes(b"secret")
    (place / "out").mkdir()
    os.mkfifo(place / "pictures" / "pipe.jpg")
    (place / "pictures" / "zero.jpg").symlink_to("/dev/zero")
    return place


@pytest.mark.parametrize("verb", VERBS)
def test_only_what_was_named_is_read_and_written(hostile, tmp_path, verb):
    report = tmp_path / "report.json"
    code = [sys.executable, "-c", WATCH, report, *VERBS[verb]]
    done = subprocess.run(code, cwd=hostile, capture_output=True, text=True, timeout=120)
    exit_code, opened = json.loads(report.read_text())
    if verb in ("init", "rescale", "measure", "verify"):
        # The pictures' mean is said to lie elsewhere: refused, and not looked at.
        assert exit_code == 1, done.stdout
        assert "lies elsewhere" in done.stderr
        done = subprocess.run([*code, "--mean", "100"], cwd=hostile, capture_output=True, text=True, timeout=120)
        exit_code, more = json.loads(report.read_text())
        opened += more
    assert exit_code in (0, None), done.stderr
    here, out = f"{os.path.realpath(hostile)}/", f"{os.path.realpath(hostile)}/out/"
    assert any(p == f"{here}net.prototxt" for p, _ in opened)
    assert any(writes for _, writes in opened) == any("out/" in word for word in VERBS[verb])
    assert [path for path, writes in opened if writes and not path.startswith(out)] == []
    system = (sys.prefix, sys.base_prefix, "/usr/lib/", "/proc/", "/sys/", os.path.realpath("caffeinit"))
    foreign = [p for p, writes in opened if not p.startswith((here, *system)) and not p.endswith((".py", ".pyc"))]
    assert foreign == []
    assert not any(p.startswith("/dev/") or p.endswith("pipe.jpg") for p, _ in opened)


def test_names_are_shown_and_not_obeyed(cli, place):
    name = r"\033]0;owned\007\033[31mred\x9b2J"
    text = NET.replace('"conv1"', f'"{name}"').replace('"ip"', '"\u202eip"')
    (place / "net.prototxt").write_text(text)
    bad = place / "pictures" / "\x1b[2Jbad.png"
    bad.write_bytes(b"no picture")
    net, pictures, out = place / "net.prototxt", place / "pictures", place / "x.caffemodel"
    outcomes = [
        cli("init", net, "--images", pictures, "-o", out),
        cli("inspect", net),
        cli("inspect", net, "--scales"),
        cli("measure", net, out, "--images", pictures),
        cli("verify", net, out, out, "--images", pictures, "--first"),
        cli("convert", net, out, "-o", place / "x.onnx"),
        cli("upgrade", net, place / "\x1b[31mx.prototxt"),
        cli("inspect", place / "\x1b[31mnone.prototxt"),
    ]
    for outcome in outcomes:
        shown = outcome.out + outcome.err
        assert [c for c in shown if not c.isprintable() and c not in "\n\t"] == []
    for outcome in (*outcomes[:4], *outcomes[6:]):
        assert r"\x1b" in outcome.out + outcome.err


@pytest.mark.timeout(60)
def test_a_bomb_among_pictures_is_left_out(cli, place):
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1 << 24), 9))
    (place / "pictures" / "bomb.png").write_bytes(bomb + chunk(b"IEND", b""))
    Image.new("RGB", (10, 10)).save(place / "pictures" / "fine.png")
    outcome = cli("init", place / "net.prototxt", "--images", place / "pictures", "-o", place / "x.caffemodel")
    assert outcome.code == 0
    assert "may be a decompression bomb" in outcome.out


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "pictures", "loop"])
@pytest.mark.timeout(60)
def test_what_is_no_file_is_refused_at_every_place(cli, place, weights, name):
    os.mkfifo(place / "pipe")
    (place / "loop").symlink_to("loop")
    odd, net, pictures, out = place / name, place / "net.prototxt", place / "pictures", place / "x.caffemodel"
    commands = [
        ("init", odd, "--images", pictures, "-o", out),
        ("rescale", net, odd, "--images", pictures, "-o", out),
        ("measure", net, weights, "--images", pictures, "--mean-file", odd),
        ("verify", net, weights, odd, "--images", pictures),
        ("inspect", odd),
        ("upgrade", odd, place / "x.prototxt"),
        ("convert", net, odd, "-o", place / "x.onnx"),
    ]
    if name != "pictures":
        commands.append(("init", net, "--images", odd, "-o", out))
    for command in commands:
        outcome = cli(*command)
        assert outcome.code == 1, command
        assert outcome.err.startswith("error: ")
    assert not out.exists()
