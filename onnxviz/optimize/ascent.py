"""The loop: images climb the activations of their targets, many at once and none influencing another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxviz.batches import choose_batch, gradient_bytes, run_batches
from onnxviz.errors import AnalysisError, shorten
from onnxviz.optimize import transforms as views
from onnxviz.optimize.objectives import objective, signs
from onnxviz.optimize.optimizers import Adam, GradientAscent, RmsProp
from onnxviz.optimize.parameterization import Fourier, Pixel, start
from onnxviz.optimize.regularizers import LpNorm, TotalVariation
from onnxviz.values import Target

if TYPE_CHECKING:
    from torch import Tensor

    from onnxviz.model import Model

Told = Callable[[int, int], None]
"""Called with the steps done and the steps in all, over all images."""

DEFAULT_TRANSFORMS = (
    views.Pad(share=0.1),
    views.Jitter(share=0.08),
    views.Scale(minimum=0.8, maximum=1.2),
    views.Rotate(degrees=15.0),
)
"""Wider than lucid's: pictures made so are recognised by other networks too, which the narrow ones often are not."""


@dataclass(frozen=True)
class Settings:
    """The choices of the loop, each independent of the others.

    Attributes:
        steps: number of steps.
        size: height and width of the images in pixels.
        channels: 3 for colour, 1 for grey.
        parameterization: how an image is written.
        transforms: the random views, applied first to last.
        fill: what lies beyond the image's border.
        regularizers: what holds the image back.
        optimizer: how the parameters follow the gradient.
    """

    steps: int
    size: tuple[int, int]
    channels: int = 3
    parameterization: Fourier | Pixel = field(default_factory=Fourier)
    transforms: tuple[views.Pad | views.Jitter | views.Scale | views.Rotate, ...] = DEFAULT_TRANSFORMS
    fill: views.Fill = "reflect"
    regularizers: tuple[LpNorm | TotalVariation, ...] = ()
    optimizer: Adam | RmsProp | GradientAscent = field(default_factory=Adam)


@dataclass(frozen=True, eq=False)
class Maximized:
    """What the loop made, for each image; activations are without the target's sign.

    Attributes:
        images: float32 [N, 3, h, w], RGB in 0..1.
        curves: float32 [N, steps], the activation in each step's view, before that step.
        before: float32 [N], the activation of the start image, seen as it is.
        after: float32 [N], the activation of the final image, seen as it is.
        louder: float32 [N], what a start that left its unit silent was multiplied by; 1 where it was not needed or
            did not help. `before` is the activation of the start that was not yet multiplied.
    """

    images: np.ndarray
    curves: np.ndarray
    before: np.ndarray
    after: np.ndarray
    louder: np.ndarray


def maximize(
    model: Model,
    targets: Sequence[Target],
    seeds: Sequence[int],
    settings: Settings,
    *,
    batch: int | None = None,
    told: Told | None = None,
) -> Maximized:
    """Make an image for each target: maximise sign · a - |a| Σ weight · term over random views of the image.

    The same target, seed, settings and device give the same picture, whatever else is made with it (exactly with the
    same `batch`; between batch sizes as exactly as the network's own arithmetic).

    Args:
        model: the network; its preprocessing is part of the way from the image to the activation.
        targets: what to maximise, all in one layer.
        seeds: one for each target.
        settings: the choices.
        batch: how many images share a pass, fewer if memory does not allow it; chosen for the device if None.
        told: told how many of all steps are done.

    Raises:
        AnalysisError: if the network gives no finite activation.
        DataError: if the network cannot be run at this size.
        MemoryLimitError: if memory does not suffice, even for one image at a time.
        SelectionError: if a unit or position does not exist.
    """
    if len({target.layer for target in targets}) != 1 or len(targets) != len(seeds):
        raise ValueError("one layer and one seed for each target")
    fixed = model.view.batch
    what = f"The ascent at {shorten(targets[0].layer, 60)}"
    layer = targets[0].layer

    def image_bytes() -> int:
        return gradient_bytes(model.view, model.input_size, settings.size, model.view.layer(layer))

    usual = min(batch or micro_batch(model.device.type), len(targets))
    together = fixed or choose_batch(model, usual, image_bytes, what)
    most = 0

    def climb(first: int, stop: int) -> list[np.ndarray]:
        # A network that takes exactly so many images gets the last one again and again; the copies are dropped.
        chosen = [min(first + index, len(targets) - 1) for index in range(fixed or stop - first)]

        def tell(step: int) -> None:
            nonlocal most
            done = first * settings.steps + (stop - first) * step
            if told is not None and done > most:  # steps that are repeated with fewer images are not told twice
                most = done
                told(done, len(targets) * settings.steps)

        made = _climb(model, [targets[i] for i in chosen], [seeds[i] for i in chosen], settings, tell)
        return [array[: stop - first] for array in made]

    batches = run_batches(model, len(targets), together, climb, what, fixed=bool(fixed))
    parts = [arrays for _, _, arrays in batches]
    return Maximized(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def micro_batch(device: str) -> int:
    """Return how many images share a pass.

    On a CPU a batch saves little (0.68 to 1.2 times the speed of one by one, by network and machine), and one by one
    every picture is bit for bit the same whatever else is made.
    """
    return 1 if device == "cpu" else 32


def _climb(
    model: Model, targets: Sequence[Target], seeds: Sequence[int], settings: Settings, tell: Callable[[int], None]
) -> tuple[np.ndarray, ...]:
    """Optimize one batch; nothing in the loop waits for the device."""
    import torch

    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    margin = views.margins(settings.transforms, settings.size)
    canvas = (settings.size[0] + 2 * margin[0], settings.size[1] + 2 * margin[1])
    parameters = start(settings.parameterization, settings.channels, canvas, generators).to(model.device)
    maps = views.draw(settings.transforms, settings.size, settings.steps, generators)
    maps = None if maps is None else maps.to(model.device)
    sign = torch.tensor(signs(targets), device=model.device)
    network = model.differentiable((targets[0].layer,))

    def paint(parameters: Tensor) -> Tensor:
        return settings.parameterization.images(parameters, canvas)

    def measure(images: Tensor) -> Tensor:
        return objective(network(images)[0], targets)

    with torch.no_grad():
        before = measure(views.cut(paint(parameters), margin))
        asleep = (before == 0) & (sign > 0)
        louder = _wake(parameters, asleep, lambda start: measure(views.cut(paint(start), margin)))
        parameters = parameters * _as_factors(louder, parameters)
    rule = settings.optimizer.rule(settings.steps)
    curve = []
    for step in range(settings.steps):
        parameters = parameters.detach().requires_grad_(True)
        images = paint(parameters)
        picture = views.cut(images, margin)
        seen = picture if maps is None else views.resample(images, maps[step], settings.size, settings.fill)
        activation = measure(seen)
        loss = -(sign * activation)
        if settings.regularizers:
            terms = [regularizer.weight * regularizer.term(picture) for regularizer in settings.regularizers]
            loss = loss + activation.detach().abs() * torch.stack(terms).sum(dim=0)
        (gradient,) = torch.autograd.grad(loss.sum(), parameters)
        parameters = parameters.detach() - rule(gradient)
        curve.append(activation.detach())
        tell(step + 1)
    with torch.no_grad():
        final = views.cut(paint(parameters), margin)
        after = measure(final)
    tensors = (final, torch.stack(curve, dim=1), before, after, louder)
    result = tuple(tensor.float().cpu().numpy() for tensor in tensors)
    _require_finite(result, targets)
    return result


def _wake(parameters: Tensor, asleep: Tensor, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """Return [N], by how much to multiply each start: four times 4 at most while it leaves its unit silent.

    Behind a ReLU a unit that is exactly 0 has no gradient to follow. A start that stays silent is left as it was.
    """
    import torch

    factors = torch.ones(len(parameters), device=parameters.device)
    silent = asleep
    for _ in range(4):
        if not bool(silent.any()):
            break
        factors = torch.where(silent, 4.0 * factors, factors)
        silent = silent & (measure(parameters * _as_factors(factors, parameters)) == 0)
    return torch.where(silent, torch.ones_like(factors), factors)


def _as_factors(values: Tensor, parameters: Tensor) -> Tensor:
    """Give one number for each image the shape that multiplies all its parameters."""
    return values.view(-1, *[1] * (parameters.dim() - 1))


def _require_finite(result: tuple[np.ndarray, ...], targets: Sequence[Target]) -> None:
    images, _, before, after, _ = result
    for index, target in enumerate(targets):
        if not (np.isfinite(before[index]) and np.isfinite(after[index]) and np.isfinite(images[index]).all()):
            what = "the layer" if target.unit is None else f"unit {target.unit}"
            raise AnalysisError(
                f"the activation of {what} is not a number, so it cannot be maximised",
                where=shorten(target.layer),
                remedy="look at the preprocessing, or lower the learning rate",
            )
