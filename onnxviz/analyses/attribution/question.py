"""What a method of attribution is asked about some images, and the passes that answer it.

One forward pass serves all methods, layers and targets of a batch, and one backward pass all layers and methods of a
target. What needs passes of its own (changed images, changed rules of the gradient) asks for them here too, and they
are made as large as memory allows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch

from onnxviz.analyses.attribution.targets import Target
from onnxviz.analyses.stream import measured
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.values import Layer
from onnxviz.model.batches import choose_batch, gradient_bytes, run_batches
from onnxviz.model.maps import to_map
from onnxviz.model.model import Model

TOGETHER = 16
"""Changed images that share a pass, where there are as many and memory suffices."""
TOGETHER_WITH_GRADIENTS = 32
"""The same with gradients on a CPU: beside 13 in a pass, 50 images of 32 × 32 pixels take 0.93 of the time."""
FAST_BYTES = 256 << 20
"""What the values of such a pass take at most on a CPU: the system hands out larger pieces anew each time."""
CHANGED_BYTES = 4 << 20
"""What changed images that are measured at once may take: what a call costs beside its passes counts for small ones."""

_Part = TypeVar("_Part")
_Shared = TypeVar("_Shared")


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
        kept: what a question computes and those of other targets can use; who keeps bounds its size.
    """

    def __init__(
        self, model: Model, images: torch.Tensor, layers: Sequence[Layer], scores: Sequence[Layer], *, to_input: bool
    ) -> None:
        self.model, self.layers, self.to_input = model, tuple(layers), to_input
        self.kept: dict[Hashable, Any] = {}
        self.images = images.to(model.device).detach().requires_grad_()
        self._outputs = list(dict.fromkeys((*layers, *scores)))

    @cached_property
    def values(self) -> dict[Layer, torch.Tensor]:
        """By layer what it gives, [N, units, *spatial], on the tape; what needs none of it works on any network."""
        return dict(zip(self._outputs, self.model.differentiable(self._outputs)(self.images), strict=True))

    def require_finite(self, images: Sequence[str]) -> None:
        """Refuse layers whose values are not finite; `images` are the names of the first of the images.

        Raises:
            AnalysisError: naming the layer and the image.
        """
        finite = [each.detach().reshape(len(each), -1).isfinite().all(dim=1) for each in self.values.values()]
        # All layers are read from the device at once: each reading waits for it.
        for layer, each in zip(self.values, torch.stack(finite).tolist(), strict=True):
            for image, fine in zip(images, each, strict=False):
                if not fine:
                    raise AnalysisError(
                        f"the activations are not finite for the image {shorten(image)!r}", where=shorten(layer.name)
                    )

    @cached_property
    def activations(self) -> tuple[torch.Tensor, ...]:
        """What the layers give as maps, [N, units, h, w] each, off the tape; where nothing converts by ONNX Runtime."""
        if all(map(self.model.converts, self._outputs)):
            return tuple(to_map(layer, self.values[layer].detach()) for layer in self.layers)
        found = self.model.measure(self.images.detach(), self.layers)
        return tuple(to_map(layer, torch.from_numpy(found[layer.name]).to(self.images.device)) for layer in self.layers)

    def ask(
        self,
        targets: Sequence[Target],
        *,
        indices: Sequence[int] = (),
        seed: int = 0,
        references: torch.Tensor | None = None,
    ) -> Question:
        """Return the question of where the evidence lies for a target of each image.

        Args:
            targets: one for each image, all of the same layers.
            indices: the images' numbers in their data set, from which random numbers are drawn; 0, 1, ... if empty.
            seed: the run's.
            references: `Question.references`.
        """
        return Question(self, targets, indices or range(len(targets)), seed, references)


class Question:
    """Where the evidence lies in some images for a target of each: what a method reads, computed when it is read.

    Attributes:
        model: the network.
        images: RGB in 0..1, float32 [N, channels, h, w], off the tape, on the model's device.
        layers: the layers that are asked about.
        targets: one for each image.
        activations: of each layer, [N, units, h, w].
        references: images of the data set that others are compared with, [R, channels, h, w], the same for every batch
            of a run, as an image's evidence must not depend on its batch; None where no method wants any
            (`Method.references`).
        kept: what one question computes and those of other targets can use: of the same images, random numbers and
            layers of the targets.
    """

    def __init__(
        self,
        forward: ForwardPass,
        targets: Sequence[Target],
        indices: Sequence[int],
        seed: int,
        references: torch.Tensor | None = None,
    ) -> None:
        self._forward, self._indices, self._seed = forward, tuple(indices), seed
        key = (tuple(layer.value for layer in targets[0].layers), self._indices, seed)
        self.kept: dict[Hashable, Any] = forward.kept.setdefault(key, {})
        self.model, self.layers, self.targets = forward.model, forward.layers, tuple(targets)
        self.images = forward.images.detach()
        self.references = None if references is None else references.detach().to(self.images.device)
        self._shared: dict[Hashable, object] = {}

    def only_layer(self, method: str) -> Layer:
        """Return the layer of the targets, for a method that explains no others.

        Raises:
            AnalysisError: if the targets are computed from several layers.
        """
        first, *others = self.targets[0].layers
        if others:
            raise AnalysisError(
                f"{method} explains scores of one layer only", remedy="choose other methods, or another `target`"
            )
        return first

    @property
    def seed(self) -> int:
        """The run's."""
        return self._seed

    @property
    def activations(self) -> tuple[torch.Tensor, ...]:
        """Of each layer, [N, units, h, w]."""
        return self._forward.activations

    @cached_property
    def _score(self) -> torch.Tensor:
        return score_of(self.targets, [self._forward.values[layer] for layer in self.targets[0].layers])

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

    def shared(self, key: Hashable, make: Callable[[], _Shared]) -> _Shared:
        """Return what several methods need, made when the first one asks."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]  # type: ignore[return-value]

    def again(
        self, *, images: torch.Tensor | None = None, model: Model | None = None, targets: Sequence[Target] = ()
    ) -> Question:
        """Return the same question with something changed, of the same data set's images in the same places.

        Args:
            images: as many as before.
            model: a network with the same layers.
            targets: one for each image.
        """
        targets, forward = tuple(targets) or self.targets, self._forward
        if images is not None or model is not None:
            forward = ForwardPass(
                model or self.model,
                self.images if images is None else images,
                self.layers,
                targets[0].layers,
                to_input=forward.to_input,
            )
        return Question(forward, targets, self._indices, self._seed, self.references)

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

    def measured_values(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the targets' layers give of changed images [M, channels, h, w], by ONNX Runtime, on the CPU."""
        names = [layer.name for layer in self.targets[0].layers]
        given = measured(self.model, images.detach().cpu().numpy(), names)
        return tuple(torch.from_numpy(given[name]) for name in names)

    def scores_of(self, values: Sequence[torch.Tensor], owners: Sequence[int]) -> torch.Tensor:
        """Return the score of each of some values of the targets' layers by its owner's target, float64 [M]."""
        return score_of([self.targets[owner] for owner in owners], values).double()

    @cached_property
    def together_with_gradients(self) -> int:
        """How many changed images share a pass with gradients: as many as the model takes, or are fast."""
        if self.model.view.batch or self.model.device.type != "cpu":
            return self.model.view.batch or TOGETHER
        return max(1, min(TOGETHER_WITH_GRADIENTS, FAST_BYTES // self._slope_bytes))

    @cached_property
    def _slope_bytes(self) -> int:
        """What one image takes in such a pass."""
        deepest = max(self.targets[0].layers, key=lambda layer: layer.position)
        return gradient_bytes(self.model.view, self.model.input_size, self.images.shape[2:], deepest)

    def in_passes(self, samples: int) -> Iterator[tuple[list[int], list[int]]]:
        """Yield of `samples` changed images for each image those that share a pass: their owners and their numbers.

        An image's come in the order of their numbers. So a method holds no more changed images than a pass takes.
        """
        count = len(self.targets) * samples
        size = -(-count // -(-count // self.together_with_gradients))  # passes are about equally large
        for start in range(0, count, size):
            numbers = range(start, min(start + size, count))
            yield [number // samples for number in numbers], [number % samples for number in numbers]

    def in_parts(self, work: Callable[[int, int], _Part], what: str) -> list[_Part]:
        """Return what `work` makes of the images from a number to before another, as many at a time as memory allows.

        Args:
            work: computes with gradients up to the targets' layers.
            what: the subject of a sentence on fewer images than usual.
        """
        model, count, fixed = self.model, len(self.images), self.model.view.batch
        together = fixed or choose_batch(model, count, lambda: self._slope_bytes, what)
        return [part for *_, part in run_batches(model, count, together, work, what, fixed=bool(fixed))]

    def slopes(
        self,
        images: torch.Tensor,
        owners: Sequence[int],
        rules: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scores and their gradients of changed images, as many at a time as memory allows.

        Gradients follow whatever rules are in force while this is called (`torch.overrides.TorchFunctionMode`). Under
        `torch.no_grad` there are scores only, and gradients are zero.

        Args:
            images: RGB in 0..1, [M, channels, h, w], on the model's device.
            owners: whose target each is scored by: for each the place of an image.
            rules: makes what is entered for the network's forward pass, anew for each of them.

        Returns:
            Scores [M] and gradients d score / d image, [M, channels, h, w].
        """
        model, layers = self.model, self.targets[0].layers
        forward, fixed = model.differentiable(layers), model.view.batch
        count, what = len(images), "Attribution by changed images"
        together = fixed or choose_batch(
            model, min(self.together_with_gradients, count), lambda: self._slope_bytes, what
        )
        missing = -count % fixed if fixed else 0
        images = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]) if missing else images
        owners = [*owners, *[owners[-1]] * missing]

        def work(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
            part = images[start:stop].detach().requires_grad_()
            with rules():
                values = forward(part)
            score = score_of([self.targets[owner] for owner in owners[start:stop]], values)
            return score.detach(), gradients_of(score, [part], keep_tape=False)[0]

        parts = [part for *_, part in run_batches(model, len(images), together, work, what, fixed=bool(fixed))]
        scores, gradients = (torch.cat(each)[:count] for each in zip(*parts, strict=True))
        return scores, gradients


def score_of(targets: Sequence[Target], values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the score of each image by its own target, [N], of the values of the targets' layers, [N, ...] each."""
    if all(target == targets[0] for target in targets):
        return targets[0].score(*values)
    places: dict[Target, list[int]] = {}
    for place, target in enumerate(targets):
        places.setdefault(target, []).append(place)
    order = [place for group in places.values() for place in group]
    found = torch.cat([target.score(*(each[group] for each in values)) for target, group in places.items()])
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return found[back.to(found.device)]


def gradients_of(
    score: torch.Tensor, values: Sequence[torch.Tensor], *, keep_tape: bool = True
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of scores [N] by some values [N, ...]; zero where a score does not depend on them.

    The tape is kept for further questions, unless it is said that there are none; it goes with the last reference.
    """
    taped = [value for value in values if value.requires_grad]
    found = iter(
        torch.autograd.grad(score.sum(), taped, retain_graph=keep_tape, allow_unused=True)
        if taped and score.requires_grad
        else [None] * len(taped)
    )
    gradients = (next(found) if value.requires_grad else None for value in values)
    return tuple(
        torch.zeros_like(value) if gradient is None else gradient
        for value, gradient in zip(values, gradients, strict=True)
    )
