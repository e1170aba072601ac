import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import caffeinit

ROOT = Path(caffeinit.__file__).parent
# Each may import those above it. The command line and batches, whose tasks are commands, are one.
ORDER = (
    "errors arguments printing arithmetic patterns storage graph protos ops engine gradients images model draw demo "
    "caffe scales onnxfile calibration result export apply proof statistics methods inspection footprint measuring jobs "
    "report __init__ cli __main__"
).split()


def imported(node: ast.AST) -> Iterator[str]:
    """Yield the modules of caffeinit that are imported somewhere below a node, but for types alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom) and child.module == "caffeinit":
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and (child.module or "").startswith("caffeinit."):
            yield child.module.removeprefix("caffeinit.")
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from imported(child)


def package(module: str) -> str:
    name = module.split(".")[0]
    return "cli" if name == "batch" else name


@pytest.mark.parametrize("own", ORDER)
def test_no_package_imports_what_builds_on_it(own):
    files = [p for p in ROOT.rglob("*.py") if package(p.relative_to(ROOT).parts[0].removesuffix(".py")) == own]
    assert files
    for path in files:
        names = imported(ast.parse(path.read_text()))
        assert not [name for name in names if ORDER.index(package(name)) > ORDER.index(own)], path
