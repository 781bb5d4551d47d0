"""Lucent, the peer of feature visualization: how it is imported, and how a user of it calls it.

What both scripts know of it (torch-lucent 0.1.8, `lucent/optvis/render.py` and `transform.py`): `render_vis` writes an
image of 128x128 pixels as a Fourier spectrum with decorrelated colours, pads, shifts, scales and turns it, one draw a
step for the whole batch, enlarges what is smaller than 224 to 224, runs the whole network, and goes 512 steps with Adam
at 0.05. Weights that require gradients get them. `lucent.util.set_seed` leaves numpy's generator alone, from which its
transforms are drawn, so seeds are set here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks.architectures import libraries
from onnxviz.model.model import Model

SIDE = 128
"""What `render_vis` makes where it is not told otherwise."""


def optvis(name: str) -> ModuleType:
    """Import a module of `lucent.optvis`: render, objectives or param."""
    libraries()  # torchvision, which Lucent imports, also beside a PyTorch that it was not built for
    try:
        return importlib.import_module(f"lucent.optvis.{name}")
    except ModuleNotFoundError as fault:
        raise SystemExit(f"{fault}; Lucent comes with the extra `peers`: pip install onnxviz[peers]") from fault


class Logits(torch.nn.Module):
    """An ONNX model as a network whose layer `logits` Lucent can hook; takes RGB in 0..1, preprocesses it itself."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.logits = torch.nn.Identity()
        self._forward = model.differentiable(model.view.logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, classes]."""
        result: torch.Tensor = self.logits(self._forward(images)[0].flatten(1))
        return result


def class_image(model: Model, unit: int, side: int, steps: int, seed: int) -> np.ndarray:
    """Return Lucent's image of one class, RGB float32 [3, side, side] in 0..1.

    `preprocess=False` because the network has its own preprocessing instead of torchvision's; everything else is as
    `render_vis` does it by default.
    """
    render, objectives, param = (optvis(name) for name in ("render", "objectives", "param"))
    torch.manual_seed(seed)
    np.random.seed(seed)
    (images,) = render.render_vis(
        Logits(model).eval(),
        objectives.channel("logits", unit),
        lambda: param.image(side),
        thresholds=(steps,),
        preprocess=False,
        progress=False,
        show_image=False,
    )
    return np.asarray(images[0].transpose(2, 0, 1), np.float32)


def clocked(clock: Callable[[], None]) -> Callable[[Any], torch.optim.Adam]:
    """Return Lucent's default optimizer, which calls the clock after every step."""

    class Clocked(torch.optim.Adam):
        def step(self, closure: Any = None) -> Any:
            loss = super().step(closure)
            clock()
            return loss

    return lambda parameters: Clocked(parameters, lr=5e-2)


def render_channels(
    network: torch.nn.Module,
    layer: str,
    units: list[int],
    steps: int,
    clock: Callable[[], None],
    *,
    together: bool,
    side: int = SIDE,
) -> None:
    """Let `render_vis` make an image for each unit of a layer, with its defaults.

    Args:
        network: the network as its user has it, weights and all.
        layer: Lucent's name of the layer: module names joined by underscores.
        units: one image each.
        steps: steps of every image.
        clock: called after every step.
        together: all images in one batch with the sum of their objectives, as Lucent's tutorials do for several
            images; otherwise one call an image.
        side: of the images in pixels.
    """
    render, objectives, param = (optvis(name) for name in ("render", "objectives", "param"))
    options = {"thresholds": (steps,), "progress": False, "show_image": False, "optimizer": clocked(clock)}
    if together:
        parts = [objectives.channel(layer, unit, batch=place) for place, unit in enumerate(units)]
        total = objectives.Objective.sum(parts)
        render.render_vis(network, total, lambda: param.image(side, batch=len(units)), **options)
        return
    for unit in units:
        render.render_vis(network, objectives.channel(layer, unit), lambda: param.image(side), **options)
