"""What the score loses when a part of the image is covered: a window that slides over it, or each segment."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from onnxviz.analyses.attribution.method import Attribution
from onnxviz.analyses.attribution.perturbation import Perturbation, measure_changes
from onnxviz.analyses.attribution.segments import SegmentPerturbation

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.attribution.question import Question

_CITES = ("Zeiler and Fergus 2014, Visualizing and Understanding Convolutional Networks, section 4.2",)


class Occlusion(Perturbation):
    """A window slides over the image and covers it: each pixel has the mean loss of score of the windows over it.

    Windows at the lower and right border end with the image, as in Captum's `Occlusion`.
    """

    method: Literal["occlusion"] = "occlusion"
    heading: ClassVar[str] = "Occlusion"
    cites: ClassVar[tuple[str, ...]] = _CITES

    window: float = Field(0.15, gt=0, le=1, description="Height and width of the window, as a share of the image's.")
    stride: float = Field(0.05, gt=0, le=1, description="How far it moves, as a share of the image's height and width.")

    @model_validator(mode="after")
    def _covers(self) -> Occlusion:
        if self.stride > self.window:
            raise ValueError("`stride` must not be larger than `window`, or some pixels are never covered")
        return self

    def attribute(self, question: Question) -> Attribution:
        """Return the mean loss of score by the windows over each pixel."""
        import torch

        images, filling = question.images.cpu(), self.filling(question)
        (down, stepped_down), (right, stepped_right) = (self._spans(side) for side in images.shape[2:])
        boxes = list(product(down, right))

        def change(place: int, start: int, stop: int) -> torch.Tensor:
            changed = images[place].repeat(stop - start, 1, 1, 1)
            for each, number in zip(changed, range(start, stop), strict=True):
                if number < len(boxes):  # the last one is the image as it is
                    rows, columns = boxes[number]
                    each[:, rows, columns] = filling[place, :, rows, columns]
            return changed

        scores = torch.stack(measure_changes(question, self, [len(boxes) + 1] * len(images), change))
        lost = (scores[:, -1:] - scores[:, :-1]).reshape(-1, len(down), len(right))
        rows, columns = (_covered(*each) for each in ((down, images.shape[2]), (right, images.shape[3])))
        total = torch.einsum("ih,nij,jw->nhw", rows, lost, columns)
        maps = total / (rows.sum(dim=0)[:, None] * columns.sum(dim=0))
        size = f"{down[0].stop} × {right[0].stop}"
        said = f"windows of {size} pixels, moved by {stepped_down} down and {stepped_right} to the right, hold"
        return Attribution((maps.float(),), said=f"{said} {self.filled_with(question)}")

    def _spans(self, side: int) -> tuple[list[slice], int]:
        """Return the windows along a side of so many pixels, and by how many they are moved."""
        window, stride = (max(round(share * side), 1) for share in (self.window, self.stride))
        count = 1 + math.ceil((side - window) / stride)
        return [slice(stride * number, min(stride * number + window, side)) for number in range(count)], stride

    def cost(self, layers: int) -> float:  # noqa: ARG002 - it has no layers
        """Count a forward pass for each window and one for the image."""
        return float((1 + math.ceil((1 - self.window) / self.stride)) ** 2 + 1)


class SegmentOcclusion(SegmentPerturbation):
    """Each segment is covered alone: its pixels have the loss of score."""

    method: Literal["segment_occlusion"] = "segment_occlusion"
    heading: ClassVar[str] = "Occlusion of segments"
    cites: ClassVar[tuple[str, ...]] = (*_CITES, "Achanta et al. 2012, SLIC Superpixels, IEEE TPAMI 34(11)")

    def attribute(self, question: Question) -> Attribution:
        """Return the loss of score by each segment."""
        import torch

        images, filling, labels = question.images.cpu(), self.filling(question), self.labels(question)
        counts = [int(each.max()) + 1 for each in labels]

        def change(place: int, start: int, stop: int) -> torch.Tensor:
            removed = labels[place] == torch.arange(start, stop)[:, None, None]  # of the number after the last: none
            return torch.where(removed[:, None], filling[place], images[place])

        scores = measure_changes(question, self, [count + 1 for count in counts], change)
        maps = [(each[-1] - each[:-1])[labels[place]] for place, each in enumerate(scores)]
        said = f"each of {_some(counts)} ({self.cut}) holds {self.filled_with(question)}"
        return Attribution((torch.stack(maps).float(),), said=said)

    def cost(self, layers: int) -> float:  # noqa: ARG002 - it has no layers
        """Count a forward pass for each segment and one for the image."""
        return float(self.segments + 1)


def _covered(spans: list[slice], side: int) -> torch.Tensor:
    """Return which of so many pixels each window covers, 0 or 1, float64 [windows, side]."""
    import torch

    covered = torch.zeros(len(spans), side, dtype=torch.float64)
    for row, span in zip(covered, spans, strict=True):
        row[span] = 1
    return covered


def _some(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low} segments" if low == high else f"{low} to {high} segments"
