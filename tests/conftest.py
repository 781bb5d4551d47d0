"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
# The same examples every time, so that a failure belongs to a change; ONNXVIZ_FUZZ=1 looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=150)
settings.register_profile("fuzz", deadline=None, max_examples=2000)
settings.load_profile("fuzz" if os.environ.get("ONNXVIZ_FUZZ") else "repeatable")

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


@pytest.fixture(scope="session", autouse=True)
def interruptible_children() -> None:
    """What tests start can be interrupted, even where the tests run in the background of a script.

    Such a shell starts them with SIGINT ignored, their children inherit that, and Python then installs no handler.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def in_process() -> None:
    """Runs do their jobs in the test's process unless a test asks for others, which take seconds to start."""
    os.environ.setdefault("ONNXVIZ_WORKERS", "0")
