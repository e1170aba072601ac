"""What all tests share: where the optional test data lies, and which tests want a GPU."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN = Path(__file__).resolve().parent / "golden"


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs unless only tests for them run: what the others compare is computed on the CPU, to its last digits."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what wants a GPU where sessions do not get one."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        from caffeinit.engine.device import obstacle

        if why := obstacle():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=f"needs a GPU and pytest -m gpu: {why}"))


def shared(*parts: str) -> Path:
    """Return a path of the optional test data, or skip the test where it is not there."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts) or 'the optional test data'}")
    return path
