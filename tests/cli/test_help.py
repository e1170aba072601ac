"""Help, inspection and the demo."""

import json
import subprocess
import sys

import pytest

from caffeinit.cli import VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(cli, verb):
    outcome = cli(verb, "--help")
    assert outcome.code == 0
    assert f"caffeinit {verb}" in outcome.out


def test_help_imports_nothing_heavy():
    heavy = ["numpy", "onnx", "onnxruntime", "sklearn", "PIL", "google.protobuf", "rich"]
    code = (
        "import sys\nfrom caffeinit.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_inspect_shows_layers_and_cost(cli, place, weights):
    outcome = cli("inspect", place / "net.prototxt", weights)
    assert outcome.code == 0
    assert "6x3x3x3" in outcome.out
    assert "12,960" in outcome.out  # 6 * 27 * 10 * 8 multiply-adds


def test_inspect_shows_mismatches_and_exits_with_1(cli, place, weights):
    text = (place / "net.prototxt").read_text()
    (place / "net.prototxt").write_text(text.replace("num_output: 4", "num_output: 5"))
    outcome = cli("inspect", place / "net.prototxt", weights)
    assert outcome.code == 1
    assert 'does not fit: layer "ip"' in outcome.out


def test_inspect_as_json(cli, place, weights):
    report = json.loads(cli("inspect", place / "net.prototxt", weights, "--json", "-").out)
    assert [layer["name"] for layer in report["layers"]] == ["data", "conv1", "relu1", "ip", "prob"]
    assert report["num_params"] == 6 * 27 + 6 + 4 * 480 + 4


def test_inspect_draws_filters(cli, place, weights):
    target = place / "filters.png"
    assert cli("inspect", place / "net.prototxt", weights, "--filters", target).code == 0
    assert target.read_bytes().startswith(b"\x89PNG")


def test_inspect_draws_no_filters_that_the_weights_file_lacks(cli, place, weights):
    text = (place / "net.prototxt").read_text()
    (place / "net.prototxt").write_text(text.replace('"conv1"', '"new"'))
    outcome = cli("inspect", place / "net.prototxt", weights, "--filters", place / "filters.png")
    assert outcome.code == 1
    assert "all weights of new are 0, and no picture is drawn of them" in outcome.err
    assert "the weights file lacks: new" in outcome.out
    assert not (place / "filters.png").exists()


def test_a_name_is_refused_before_anything_is_shown(cli, place, weights):
    outcome = cli("inspect", place / "net.prototxt", weights, "--filters", place / "filters.txt")
    assert (outcome.code, outcome.out) == (2, "")
    assert "a name that ends in .png" in outcome.err


@pytest.mark.parametrize(
    ("argument", "shown"),
    [("elsewhere/bin/caffeinit", "elsewhere/bin/caffeinit"), ("x/caffeinit/__main__.py", "python -m caffeinit")],
)
def test_the_demo_runs_and_shows_its_commands(cli, tmp_path, monkeypatch, argument, shown):
    monkeypatch.setattr(sys, "argv", [argument])
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    outcome = cli("demo", tmp_path / "demo")
    assert outcome.code == 0
    commands = [line for line in outcome.out.splitlines() if line.startswith(f"{shown} ")]
    assert len(commands) == 4
    assert (tmp_path / "demo" / "normalized.caffemodel").exists()
    again = cli("demo", tmp_path / "demo")
    assert again.code == 1
    assert f"an earlier demo lies there already.\nTo do it again: caffeinit demo {tmp_path}/demo --force\n" in again.err
    assert cli("demo", tmp_path / "demo", "--force").code == 0


def test_the_demo_says_where_it_cannot_be_written(cli, place):
    outcome = cli("demo", place / "net.prototxt" / "demo")
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {place / 'net.prototxt'}")
    assert "cannot be written" in outcome.err
    assert "To do it elsewhere: caffeinit demo FOLDER" in outcome.err


def test_inspect_shows_scales(cli, place, weights):
    outcome = cli("inspect", place / "net.prototxt", "--scales")
    assert outcome.code == 0
    rows = {line.split()[0]: line.split() for line in outcome.out.splitlines() if line.startswith(("conv1", "ip"))}
    assert rows["conv1"][1:] == ["affine", "6", "6", "-", "-"]
    assert rows["ip"][1:8] == ["affine", "4", "-", "-", "4", "held", "by"]
    assert "6 scales can be chosen independently" in outcome.out
    report = json.loads(cli("inspect", place / "net.prototxt", weights, "--scales", "--json", "-").out)
    assert report["scales"]["units"][1]["reasons"] == {'layer "prob" (Softmax)': 4}


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "caffeinit", "--version"], capture_output=True, text=True, check=True)
    assert "caffeinit, version " in done.stdout
