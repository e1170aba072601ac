"""The archive of sources holds what builds the wheel and what its tests need."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_archive_of_sources_builds_and_tests_itself(tmp_path):
    pytest.importorskip("setuptools")
    if not (ROOT / "caffeinit").is_dir():
        pytest.skip("the package's own sources are not here: an installed one is tested")
    source = tmp_path / "source"
    left_out = shutil.ignore_patterns(
        ".*_cache", "__pycache__", ".git", ".venv", ".fuzz", "*.egg-info", "build", "dist"
    )
    shutil.copytree(ROOT, source, ignore=left_out)
    # setup.py by itself: the build's own requirements would have to be downloaded.
    code = "import setuptools, setuptools.dist as d; d.Distribution.fetch_build_eggs = lambda *a, **k: None; "
    code += "import sys; sys.argv = ['setup.py', '-q', 'sdist', '-d', 'out']; exec(open('setup.py').read())"
    program = [sys.executable, "-c", "__file__ = 'setup.py'; " + code]
    subprocess.run(program, cwd=source, check=True, capture_output=True)
    (archive,) = (source / "out").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    files = {p.relative_to(ROOT).as_posix() for f in ("proto", "tests", "tools") for p in (ROOT / f).rglob("*")}
    files = {f for f in files if "__pycache__" not in f}
    assert files - names == {f for f in files if (ROOT / f).is_dir()} - names
    assert {"setup.py", "setup.cfg", "README.md", "LICENSE", "caffeinit/py.typed", "proto/caffe.proto"} <= names
