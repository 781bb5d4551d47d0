"""Fixtures that tests of several analyses share."""

from __future__ import annotations

import importlib
import sys
import types

import pytest


@pytest.fixture(scope="session")
def peer() -> types.ModuleType:
    """pytorch-grad-cam, imported without torchvision.

    Grad-CAM itself needs nothing of torchvision, and a torchvision wheel built for another torch (as on a machine with
    the CPU build) cannot be imported. The stand-ins are gone when the import is done.
    """
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    hidden = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "torchvision"}
    for name in hidden:
        del sys.modules[name]
    stand_ins = {name: types.ModuleType(name) for name in names}
    for attribute in ("Compose", "Normalize", "ToTensor"):
        setattr(stand_ins[names[1]], attribute, None)
    stand_ins[names[2]].resize = None  # type: ignore[attr-defined]
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module("pytorch_grad_cam")
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)
