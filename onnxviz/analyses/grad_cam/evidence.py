"""Class activation maps of images: those of all layers for some classes, and the pictures of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxviz.analyses import explained_score
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.analyses.grad_cam.evidence_places import Places, find_places
from onnxviz.core import colormap
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.findings import Array, Picture
from onnxviz.core.values import Layer

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.base import JobContext
    from onnxviz.data.domains import Domain
    from onnxviz.graph.model_output import Head

SMALLEST_PICTURE, LARGEST_PICTURE = 128, 256


@dataclass(frozen=True, eq=False)
class ClassEvidence:
    """The evidence for one class or unit in one image.

    Attributes:
        number: the class' or unit's index.
        score: of a class the logit.
        probability: None if nothing makes any.
        predicted: of a map of classes the share of the positions where this one is the highest; else None.
        cells: for each layer the map in colours, and over the image.
        blank: for each layer whether the map is zero everywhere.
        reached: for each layer whether the score has a gradient there.
        places: where the last layer's map lies; None if it is blank.
    """

    number: int
    score: float
    probability: float | None
    predicted: float | None
    cells: tuple[tuple[Picture, Picture], ...]
    blank: tuple[bool, ...]
    reached: tuple[bool, ...]
    places: Places | None


@dataclass(frozen=True, eq=False)
class ImageEvidence:
    """What was found in one image.

    Attributes:
        index: the image's in its data set.
        own: the class that it is known to show, or None.
        best: index of the highest score.
        sure: the probability of that one; None if nothing makes any.
        placed: positions that each score is of; 1 for a classifier.
        kept: which of the layers asked for have a map of several positions at this size of the image.
        photograph: the image as the network sees it.
        classes: what is explained, that which the model believes in most first.
        maps: the maps at the layers' own resolution.
    """

    index: int
    own: int | None
    best: int
    sure: float | None
    placed: int
    kept: tuple[int, ...]
    photograph: Picture
    classes: tuple[ClassEvidence, ...]
    maps: Array


@dataclass(frozen=True)
class Wanted:
    """An image to explain: classes by number, or how many of the highest scores; `own` is what it is known to show."""

    index: int
    name: str
    classes: Sequence[int] | int
    own: int | None


def explain(
    context: JobContext,
    batch: np.ndarray,
    wanted: Sequence[Wanted],
    layers: Sequence[tuple[str, Layer]],
    head: Head,
    positions: explained_score.Positions,
    method: tuple[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]],
) -> list[ImageEvidence]:
    """Run one forward pass for some images, and one backward pass for each of an image's classes.

    `batch` is RGB in 0..1, float32 [N, 3, h, w]; images behind the last of `wanted` only fill the pass. `layers` have
    their headings; `method` is a name and what makes maps [N, h, w] of activations and gradients [N, units, h, w].

    Raises:
        AnalysisError: if activations are not finite, or no layer has a map of positions.
    """
    import torch

    from onnxviz.analyses.attribution.question import ForwardPass

    model, score_layer = context.model, explained_score.layer_of(head)
    forward = ForwardPass(model, torch.from_numpy(batch), [layer for _, layer in layers], [score_layer], to_input=False)
    _require_finite(forward.values, wanted)
    placed = explained_score.score_at_positions(forward.values[score_layer].detach(), head)
    scores = placed.mean(dim=2) if positions == "mean" else placed.amax(dim=2)
    predicted = [explained_score.predicted_shares(one, head, positions) for one in placed]
    chosen = []
    for place, values in enumerate(scores.tolist()):
        # The class that the network believes in most comes first, also of those that are named.
        order, asked = explained_score.in_order(values, predicted[place]), wanted[min(place, len(wanted) - 1)].classes
        chosen.append(order[:asked] if isinstance(asked, int) else [number for number in order if number in asked])
    maps, reached = [], []
    for turn in range(max(map(len, chosen))):
        targets = [ClassTarget(head, classes[min(turn, len(classes) - 1)], positions) for classes in chosen]
        question = forward.ask(targets)
        maps.append([method[1](*pair).relu() for pair in zip(question.activations, question.gradients, strict=True)])
        reached.append([slopes.abs().amax(dim=(1, 2, 3)) > 0 for slopes in question.gradients])
    kept = tuple(place for place, one in enumerate(maps[0]) if max(one.shape[1:]) > 1)
    if not kept:
        raise AnalysisError(
            "no selected layer has a map of positions at this image size",
            remedy="select layers before the global pooling, for example `layers: block_outputs`",
        )
    done = _Pass(
        method=method[0],
        titles=[[head.title(number, context.subject.labels) for number in classes] for classes in chosen],
        columns=[layers[place][0] for place in kept],
        kept=kept,
        positions=int(placed.shape[2]),
        chosen=chosen,
        scores=scores,
        probabilities=explained_score.probabilities(model, batch, head, scores.shape[1]),
        predicted=predicted,
        maps=[[row[place] for place in kept] for row in maps],
        reached=[[row[place] for place in kept] for row in reached],
    )
    shown = [_photograph(image, model.domain) for image in forward.images.detach()[: len(wanted)]]
    return [done.of_image(place, entry, shown[place]) for place, entry in enumerate(wanted)]


@dataclass(frozen=True, eq=False)
class _Pass:
    """What a pass gave for some images, whose classes are `chosen`.

    By the place of a class, and layer, `maps`, [N, h, w], and whether the score has a gradient there, [N].
    """

    method: str
    titles: Sequence[Sequence[str]]
    columns: Sequence[str]
    kept: tuple[int, ...]
    positions: int
    chosen: Sequence[Sequence[int]]
    scores: torch.Tensor
    probabilities: Sequence[np.ndarray | None]
    predicted: Sequence[Sequence[float] | None]
    maps: Sequence[Sequence[torch.Tensor]]
    reached: Sequence[Sequence[torch.Tensor]]

    def of_image(self, place: int, entry: Wanted, photograph: np.ndarray) -> ImageEvidence:
        """Return one image's evidence with its pictures; nothing of the pass is kept."""
        classes = [self._of_class(place, turn, photograph) for turn in range(len(self.chosen[place]))]
        arrays = {
            f"class{one.number}_layer{layer:03d}": found[place].float().cpu().numpy()
            for one, row in zip(classes, self.maps, strict=False)
            for layer, found in enumerate(row)
        }
        numbers, scores = [one.number for one in classes], [one.score for one in classes]
        about = {"layers": np.array(self.columns), "classes": np.array(numbers), "logits": np.array(scores)}
        best, sure = int(self.scores[place].argmax()), self.probabilities[place]
        return ImageEvidence(
            entry.index,
            entry.own,
            best,
            None if sure is None else float(sure[best]),
            self.positions,
            self.kept,
            Picture(photograph, alt=f"{shorten(entry.name)} as the network sees it", format="jpeg"),
            tuple(classes),
            Array(f"arrays.{entry.index}", f"{entry.name}: maps at the layers' own resolution", {**arrays, **about}),
        )

    def _of_class(self, place: int, turn: int, photograph: np.ndarray) -> ClassEvidence:
        number, sure, shares = self.chosen[place][turn], self.probabilities[place], self.predicted[place]
        values = [found[place : place + 1] for found in self.maps[turn]]
        title = f"{self.method} of {shorten(self.titles[place][turn], 40)}"
        alts = [f"{title} at {shorten(column, 40)}" for column in self.columns]
        return ClassEvidence(
            number,
            float(self.scores[place][number]),
            None if sure is None else float(sure[number]),
            None if shares is None else shares[number],
            tuple(_cell(one, photograph, alt) for one, alt in zip(values, alts, strict=True)),
            tuple(float(one.max()) <= 0 for one in values),
            tuple(bool(found[place]) for found in self.reached[turn]),
            _where(values[-1], photograph.shape[:2]),
        )


def _require_finite(found: Mapping[Layer, torch.Tensor], wanted: Sequence[Wanted]) -> None:
    import torch

    finite = [values.detach().reshape(len(values), -1).isfinite().all(dim=1) for values in found.values()]
    # All layers are read from the device at once: each reading waits for it.
    for layer, each in zip(found, torch.stack(finite).tolist(), strict=True):
        for entry, fine in zip(wanted, each, strict=False):
            if not fine:
                raise AnalysisError(
                    f"the activations are not finite for the image {shorten(entry.name)!r}", where=shorten(layer.name)
                )


def _where(values: torch.Tensor, size: tuple[int, ...]) -> Places | None:
    """Return where on an image of a size a map [1, h, w] reaches half of its maximum; None if it is blank."""
    from onnxviz.analyses.attribution.fusion import upsample

    finest = (max(size[0], values.shape[1]), max(size[1], values.shape[2]))
    return find_places(upsample(values, finest)[0].double().cpu().numpy())


def _photograph(image: torch.Tensor, domain: Domain) -> np.ndarray:
    """Return what the network sees as uint8 [h, w, 3], enlarged or reduced to a size that suits a report."""
    import torch
    from torch.nn import functional

    image = torch.from_numpy(domain.show(image[None].cpu().numpy())[0])
    longest = max(image.shape[1:])
    if longest < SMALLEST_PICTURE:
        times = -(-SMALLEST_PICTURE // longest)
        image = image.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)
    elif longest > LARGEST_PICTURE:
        size = [max(1, round(length * LARGEST_PICTURE / longest)) for length in image.shape[1:]]
        image = functional.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
    pixels: np.ndarray = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(pixels)


def _cell(values: torch.Tensor, photograph: np.ndarray, alt: str) -> tuple[Picture, Picture]:
    """Return heat map and overlay of a map [1, h, w]; the scale is the low-resolution map's own maximum."""
    from onnxviz.analyses.attribution.fusion import to_own_maximum, upsample

    height, width = photograph.shape[:2]
    heat = upsample(to_own_maximum(values), (height, width))[0].cpu().numpy()
    over = Picture(colormap.overlay(photograph, heat), alt=f"{alt}, over the image", format="jpeg")
    return Picture(colormap.colour(heat), alt=alt, format="jpeg"), over
