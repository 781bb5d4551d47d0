"""What a method of attribution is asked about some images, and the passes that answer it.

One forward pass serves all methods, layers and targets of a batch, and one backward pass all layers and methods of a
target. What needs passes of its own (changed images, changed rules of the gradient) asks for them here too, and they
are made as large as memory allows.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from onnxviz.analyses.attribution.targets import Target
from onnxviz.analyses.stream import measured
from onnxviz.core.values import Layer
from onnxviz.model.batches import choose_batch, gradient_bytes, run_batches
from onnxviz.model.maps import to_map
from onnxviz.model.model import Model

TOGETHER = 16
"""Changed images that share a pass, where there are as many and memory suffices."""
CHANGED_BYTES = 4 << 20
"""What changed images that are measured at once may take: what a call costs beside its passes counts for small ones."""


class ForwardPass:
    """One pass of some images through the network, on a tape that several targets are asked of.

    Args:
        model: the network.
        images: RGB in 0..1, float32 [N, channels, h, w]; as many as the model takes, where that is fixed.
        layers: whose activations are wanted; each has a map of positions.
        scores: the layers that targets are computed from.
        to_input: whether gradients are wanted as far as the image.

    Attributes:
        images: on the model's device, on the tape.
        shared: what one question computes and those of other targets can use.
    """

    def __init__(
        self, model: Model, images: torch.Tensor, layers: Sequence[Layer], scores: Sequence[Layer], *, to_input: bool
    ) -> None:
        self.model, self.layers, self.to_input = model, tuple(layers), to_input
        self.shared: dict[Hashable, Any] = {}
        self.images = images.to(model.device).detach().requires_grad_()
        self._outputs = list(dict.fromkeys((*layers, *scores)))

    @cached_property
    def values(self) -> dict[Layer, torch.Tensor]:
        """By layer what it gives, [N, units, *spatial], on the tape; what needs none of it works on any network."""
        return dict(zip(self._outputs, self.model.differentiable(self._outputs)(self.images), strict=True))

    @cached_property
    def activations(self) -> tuple[torch.Tensor, ...]:
        """What the layers give as maps, [N, units, h, w] each, off the tape."""
        return tuple(to_map(layer, self.values[layer].detach()) for layer in self.layers)

    def ask(self, targets: Sequence[Target], *, indices: Sequence[int] = (), seed: int = 0) -> Question:
        """Return the question of where the evidence lies for a target of each image.

        Args:
            targets: one for each image, all of the same layer.
            indices: the images' numbers in their data set, from which random numbers are drawn; 0, 1, ... if empty.
            seed: the run's.
        """
        return Question(self, targets, indices or range(len(targets)), seed)


class Question:
    """Where the evidence lies in some images for a target of each: what a method reads, computed when it is read.

    Attributes:
        model: the network.
        images: RGB in 0..1, float32 [N, channels, h, w], off the tape, on the model's device.
        layers: the layers that are asked about.
        targets: one for each image.
        activations: of each layer, [N, units, h, w].
        shared: what one question computes and those of other targets can use: of the same images, random numbers and
            layer of the targets.
    """

    def __init__(self, forward: ForwardPass, targets: Sequence[Target], indices: Sequence[int], seed: int) -> None:
        self._forward, self._indices, self._seed = forward, tuple(indices), seed
        key = (targets[0].layer.value, self._indices, seed)
        self.shared: dict[Hashable, Any] = forward.shared.setdefault(key, {})
        self.model, self.layers, self.targets = forward.model, forward.layers, tuple(targets)
        self.images = forward.images.detach()

    @property
    def activations(self) -> tuple[torch.Tensor, ...]:
        """Of each layer, [N, units, h, w]."""
        return self._forward.activations

    @cached_property
    def _score(self) -> torch.Tensor:
        return score_of(self.targets, self._forward.values[self.targets[0].layer])

    @property
    def scores(self) -> torch.Tensor:
        """The images' scores, [N]."""
        return self._score.detach()

    @cached_property
    def _gradients(self) -> tuple[torch.Tensor, ...]:
        """Gradients of the scores: of each layer's values, and last of the images where they were asked for."""
        values = [self._forward.values[layer] for layer in self.layers]
        wanted = [*values, *([self._forward.images] if self._forward.to_input else [])]
        return gradients_of(self._score, wanted)

    @cached_property
    def gradients(self) -> tuple[torch.Tensor, ...]:
        """Of each layer d score / d activation, [N, units, h, w]; zero where the score does not depend on it."""
        return tuple(to_map(layer, each) for layer, each in zip(self.layers, self._gradients, strict=False))

    @cached_property
    def input_gradient(self) -> torch.Tensor:
        """Gradient d score / d image, [N, channels, h, w]."""
        if self._forward.to_input:
            return self._gradients[-1]
        return gradients_of(self._score, [self._forward.images])[0]

    @cached_property
    def zero(self) -> torch.Tensor:
        """The image that the network sees as zeros, [1, channels, 1, 1]; of photographs the mean colour, mostly.

        Encoding is affine, so that differences from this image times gradients are the network's input times its
        gradient.
        """
        chosen = self.model.domain.preprocessing
        low, high = chosen.range
        mean = torch.tensor(chosen.mean, dtype=torch.float32, device=self.images.device)
        colour = (mean.expand(chosen.channels) - low) / (high - low)
        colour = colour.flip(0) if chosen.channel_order == "BGR" else colour
        return colour.reshape(1, -1, 1, 1).expand(1, self.model.domain.channels, 1, 1)

    def generator(self, place: int, purpose: str = "") -> np.random.Generator:
        """Return random numbers for one of the images: the same in whichever batch it stands.

        Args:
            place: which of the images.
            purpose: so that two uses draw different numbers.
        """
        return np.random.default_rng([self._seed, self._indices[place], *purpose.encode()])

    # --- passes of other images -------------------------------------------------------------------------------------

    def measure(self, images: torch.Tensor, owners: Sequence[int]) -> torch.Tensor:
        """Return scores of changed images by ONNX Runtime, without gradients.

        Args:
            images: RGB in 0..1, [M, channels, h, w].
            owners: whose target each is scored by: for each the place of an image.

        Returns:
            float64 [M], on the CPU.
        """
        found: list[torch.Tensor] = []
        usual = self.together
        for start in range(0, len(images), usual):
            values = self.measured_values(images[start : start + usual])
            found.append(self.scores_of(values, owners[start : start + usual]))
        return torch.cat(found)

    @property
    def together(self) -> int:
        """How many changed images are measured at once: whole passes, and several where images are small."""
        step = self.model.view.batch or TOGETHER
        return max(CHANGED_BYTES // self.images[0].nbytes, TOGETHER, step) // step * step

    def measured_values(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the targets' layer gives of changed images [M, channels, h, w], by ONNX Runtime, on the CPU."""
        layer = self.targets[0].layer
        return torch.from_numpy(measured(self.model, images.detach().cpu().numpy(), [layer.name])[layer.name])

    def scores_of(self, values: torch.Tensor, owners: Sequence[int]) -> torch.Tensor:
        """Return the score of each of some values of the targets' layer by its owner's target, float64 [M]."""
        return score_of([self.targets[owner] for owner in owners], values).double()

    def slopes(self, images: torch.Tensor, owners: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scores and their gradients of changed images, as many at a time as memory allows.

        Gradients follow whatever rules are in force while this is called (`torch.overrides.TorchFunctionMode`).

        Args:
            images: RGB in 0..1, [M, channels, h, w], on the model's device.
            owners: whose target each is scored by: for each the place of an image.

        Returns:
            Scores [M] and gradients d score / d image, [M, channels, h, w].
        """
        model, layer = self.model, self.targets[0].layer
        forward, fixed = model.differentiable(layer), model.view.batch
        size, count = model.input_size, len(images)
        what = "Attribution by changed images"
        together = fixed or choose_batch(
            model, min(TOGETHER, count), lambda: gradient_bytes(model.view, size, images.shape[2:], layer), what
        )
        missing = -count % fixed if fixed else 0
        images = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing else images
        owners = [*owners, *[owners[-1]] * missing]

        def work(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
            part = images[start:stop].detach().requires_grad_()
            score = score_of([self.targets[owner] for owner in owners[start:stop]], forward(part)[0])
            return score.detach(), gradients_of(score, [part])[0]

        parts = [part for *_, part in run_batches(model, len(images), together, work, what, fixed=bool(fixed))]
        scores, gradients = (torch.cat(each)[:count] for each in zip(*parts, strict=True))
        return scores, gradients


def score_of(targets: Sequence[Target], values: torch.Tensor) -> torch.Tensor:
    """Return the score of each image by its own target, [N], of a layer's values [N, ...]."""
    if all(target == targets[0] for target in targets):
        return targets[0].score(values)
    places: dict[Target, list[int]] = {}
    for place, target in enumerate(targets):
        places.setdefault(target, []).append(place)
    order = [place for group in places.values() for place in group]
    found = torch.cat([target.score(values[group]) for target, group in places.items()])
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return found[back.to(found.device)]


def gradients_of(score: torch.Tensor, values: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return the gradients of scores [N] by some values [N, ...]; zero where a score does not depend on them.

    The tape is kept for further questions; it goes with the last reference to it.
    """
    taped = [value for value in values if value.requires_grad]
    found = iter(
        torch.autograd.grad(score.sum(), taped, retain_graph=True, allow_unused=True)
        if taped and score.requires_grad
        else [None] * len(taped)
    )
    gradients = (next(found) if value.requires_grad else None for value in values)
    return tuple(
        torch.zeros_like(value) if gradient is None else gradient
        for value, gradient in zip(values, gradients, strict=True)
    )
