"""Class activation maps of images: those of all layers for some classes, and the pictures of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxviz.analyses import explained_score
from onnxviz.analyses.attribution.evidence_places import Places
from onnxviz.analyses.attribution.pictures import cell, photograph, where
from onnxviz.analyses.attribution.scores import Chosen, ClassScores
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.analyses.explained_images import Wanted
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.findings import Array, Picture
from onnxviz.core.values import Layer

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.base import JobContext
    from onnxviz.graph.model_output import Head


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
    forward.require_finite([entry.name for entry in wanted])
    scores = ClassScores(head, positions, context.subject.labels)
    chosen = Chosen.of([forward.values[score_layer].detach()], scores, wanted)
    maps, reached = [], []
    for turn in range(max(map(len, chosen.numbers))):
        targets = [ClassTarget(head, classes[min(turn, len(classes) - 1)], positions) for classes in chosen.numbers]
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
        titles=[[head.title(number, context.subject.labels) for number in classes] for classes in chosen.numbers],
        columns=[layers[place][0] for place in kept],
        kept=kept,
        chosen=chosen,
        probabilities=explained_score.probabilities(model, batch, head, len(chosen.values[0])),
        maps=[[row[place] for place in kept] for row in maps],
        reached=[[row[place] for place in kept] for row in reached],
    )
    shown = [photograph(image, model.domain) for image in forward.images.detach()[: len(wanted)].cpu().numpy()]
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
    chosen: Chosen
    probabilities: Sequence[np.ndarray | None]
    maps: Sequence[Sequence[torch.Tensor]]
    reached: Sequence[Sequence[torch.Tensor]]

    def of_image(self, place: int, entry: Wanted, seen: np.ndarray) -> ImageEvidence:
        """Return one image's evidence with its pictures; nothing of the pass is kept."""
        classes = [self._of_class(place, turn, seen) for turn in range(len(self.chosen.numbers[place]))]
        arrays = {
            f"class{one.number}_layer{layer:03d}": found[place].float().cpu().numpy()
            for one, row in zip(classes, self.maps, strict=False)
            for layer, found in enumerate(row)
        }
        numbers, scores = [one.number for one in classes], [one.score for one in classes]
        about = {"layers": np.array(self.columns), "classes": np.array(numbers), "logits": np.array(scores)}
        best, sure = int(np.argmax(self.chosen.values[place])), self.probabilities[place]
        return ImageEvidence(
            entry.index,
            entry.own,
            best,
            None if sure is None else float(sure[best]),
            self.chosen.placed,
            self.kept,
            Picture(seen, alt=f"{shorten(entry.name)} as the network sees it", format="jpeg"),
            tuple(classes),
            Array(f"arrays.{entry.index}", f"{entry.name}: maps at the layers' own resolution", {**arrays, **about}),
        )

    def _of_class(self, place: int, turn: int, seen: np.ndarray) -> ClassEvidence:
        number, shares = self.chosen.numbers[place][turn], self.chosen.predicted[place]
        values, sure = [found[place] for found in self.maps[turn]], self.probabilities[place]
        title = f"{self.method} of {shorten(self.titles[place][turn], 40)}"
        alts = [f"{title} at {shorten(column, 40)}" for column in self.columns]
        return ClassEvidence(
            number,
            self.chosen.values[place][number],
            None if sure is None else float(sure[number]),
            None if shares is None else shares[number],
            tuple(cell(one, seen, alt, fine=False, signed=False) for one, alt in zip(values, alts, strict=True)),
            tuple(float(one.max()) <= 0 for one in values),
            tuple(bool(found[place]) for found in self.reached[turn]),
            where(values[-1], seen.shape[:2], fine=False),
        )
