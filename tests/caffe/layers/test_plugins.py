"""Layer types of other packages: found through their entry points, and told by name when they are broken."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[3] / "README.md"
NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 } } }
layer { name: "twice" type: "Twice" bottom: "data" top: "twice" }
"""
RUN = """
import sys, caffeinit
try:
    print(caffeinit.load(sys.argv[1]).forward({"data": [[1, 2]]})["twice"].tolist())
except caffeinit.CaffeinitError as error:
    print("error:", error)
"""


def readme_module():
    """Return the README's example of a layer type."""
    text = README.read_text()
    return re.search(r"<!-- layer -->\n```python\n(.*?)```", text, re.DOTALL).group(1)


def install(folder, source, offers):
    """Make a folder that holds an installed distribution, as pip leaves it."""
    (folder / "my_layers.py").write_text(source)
    info = folder / "my_layers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-layers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[caffeinit.layers]\n{offers}\n")


def run(folder):
    (folder / "net.prototxt").write_text(NET)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder / "net.prototxt")],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("offers", ["mine = my_layers", "Twice = my_layers:Twice"], ids=["module", "class"])
def test_the_readme_layer_runs(tmp_path, offers):
    install(tmp_path, readme_module(), offers)
    assert run(tmp_path) == "[[2.0, 4.0]]"


def test_a_class_that_registers_nothing_is_known_by_its_entry(tmp_path):
    install(tmp_path, readme_module().replace('@layer_type("Twice")\n', ""), "Twice = my_layers:Twice")
    assert run(tmp_path) == "[[2.0, 4.0]]"


@pytest.mark.parametrize(
    ("source", "offers", "word"),
    [
        ("import not_there_at_all", "mine = my_layers", "not_there_at_all"),
        ("1 / 0", "mine = my_layers", "ZeroDivisionError"),
        ("Twice = 3", "Twice = my_layers:Gone", "Gone"),
        ("class Twice: pass", "Twice = my_layers:Twice", "no LayerType"),
        (None, "mine = my_layers", "described twice"),
    ],
    ids=["import", "crash", "attribute", "other class", "a type of ours"],
)
def test_a_broken_package_is_named(tmp_path, source, offers, word):
    install(tmp_path, source or readme_module().replace('"Twice"', '"Pooling"'), offers)
    found = run(tmp_path)
    assert found.startswith("error: ")
    assert "my-layers" in found
    assert word in found


def test_no_package_is_loaded_while_our_types_do(tmp_path):
    install(tmp_path, "1 / 0", "mine = my_layers")
    (tmp_path / "run.py").write_text("from caffeinit.caffe.layers import find_type; print(find_type('ReLU').type)")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "run.py")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "ReLU"
