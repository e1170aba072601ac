"""The README's table of layer types is the registry's."""

import subprocess
import sys
from pathlib import Path

from caffeinit.caffe.layers import known_types

ROOT = Path(__file__).resolve().parents[3]


def test_the_readme_has_every_layer_type_as_it_describes_itself():
    done = subprocess.run([sys.executable, ROOT / "tools" / "layers"], capture_output=True, text=True, check=True)
    assert all(f"`{name}`" in done.stdout for name in known_types())
    assert done.stdout in (ROOT / "README.md").read_text(), "out of date: tools/layers --write"
