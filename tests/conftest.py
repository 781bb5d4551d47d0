"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("ONNXVIZ_ZOO", ROOT.parent / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs the real models where they are not, with the reason."""
    if (SHARED / "zoo").is_dir():
        return
    skip = pytest.mark.skip(reason=f"no real models in {SHARED}; set ONNXVIZ_ZOO")
    for item in items:
        if "zoo" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def zoo() -> Path:
    """Folder of the real models."""
    return SHARED / "zoo"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real images."""
    return SHARED / "data"


@pytest.fixture(scope="session", autouse=True)
def one_thread_each() -> None:
    """Tests run in parallel processes: more threads than cores only make them slower."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
