"""Which pixels the score is higher with: random masks over the image, weighted by the score of what they leave."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from onnxviz.analyses.attribution.method import Attribution
from onnxviz.analyses.attribution.perturbation import Perturbation, measure_changes

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.attribution.question import Question

_TOGETHER = 64
"""Masks that are added up at a time: 13 MB of 224 x 224 pixels."""


class Rise(Perturbation):
    """How much higher the score is when a pixel is left than on average, over random masks.

    With M a mask in 0..1, p the share that it keeps, and f(M) the score of what it leaves of the image:

        map = mean over masks of f(M) M / p, less the mean of f(M)

    The first term is equation 6 of Petsiuk et al. 2018. It tends to the mean score with the pixel left, so that it is
    high everywhere; what the mean score takes off tells evidence for the target from evidence against it. It is taken
    off each score before masks are weighted, which also removes most of the noise. Masks are small random grids,
    enlarged bilinearly to one cell more than the image and cut out at a random place (section 3.2).
    """

    method: Literal["rise"] = "rise"
    heading: ClassVar[str] = "RISE"
    cites: ClassVar[tuple[str, ...]] = ("Petsiuk, Das and Saenko 2018, RISE, arXiv:1806.07421",)

    masks: int = Field(4000, ge=2, le=100_000, description="How many masks; the error falls with their square root.")
    cells: int = Field(7, ge=1, le=64, description="Cells on each side of a mask before it is enlarged.")
    kept: float = Field(0.5, gt=0, lt=1, description="Probability with which a mask keeps a cell.")

    def attribute(self, question: Question) -> Attribution:
        """Return how much higher the score is with each pixel left, and the standard error of that."""
        import torch

        images, filling = question.images.cpu(), self.filling(question)
        drawn = [_Masks(self, question, place) for place in range(len(images))]

        def change(place: int, start: int, stop: int) -> torch.Tensor:
            return torch.lerp(filling[place], images[place], drawn[place].enlarged(start, stop)[:, None])

        scores = measure_changes(question, self, [self.masks] * len(images), change)
        pairs = [self._weigh(masks, each) for masks, each in zip(drawn, scores, strict=True)]
        maps, errors = torch.stack([one for one, _ in pairs]), torch.stack([other for _, other in pairs])
        said = (
            f"{self.masks:,} masks of {self.cells} × {self.cells} cells, each kept with probability {self.kept:g}; the"
        )
        facts = {"standard error": errors, "largest value": maps.abs().amax(dim=(1, 2)).double()}
        return Attribution((maps.float(),), facts, f"{said} others hold {self.filled_with(question)}")

    def _weigh(self, masks: _Masks, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a map, and the root of the mean square of its pixels' standard errors."""
        import torch

        above = ((scores - scores.mean()) / self.kept).float()
        total = torch.zeros(masks.size)
        squares = torch.zeros(masks.size)
        for start in range(0, self.masks, _TOGETHER):
            stop = min(start + _TOGETHER, self.masks)
            # Without the share that is kept the sum is the same, as the scores' differences add up to 0.
            parts = (masks.enlarged(start, stop) - self.kept).flatten(1)
            total += (above[start:stop] @ parts).reshape(masks.size)
            squares += (above[start:stop].square() @ parts.square()).reshape(masks.size)
        mean = total / self.masks
        variance = (squares / self.masks - mean.square()).clamp(min=0) / (self.masks - 1)
        return mean, variance.double().mean().sqrt()

    def cost(self, layers: int) -> float:  # noqa: ARG002 - it has no layers
        """Count a forward pass for each mask."""
        return float(self.masks)


class _Masks:
    """The masks of one image: their grids and places, drawn at once, and enlarged some at a time."""

    def __init__(self, method: Rise, question: Question, place: int) -> None:
        import torch

        self.size = height, width = tuple(int(side) for side in question.images.shape[2:])
        numbers = question.generator(place, "rise")
        cells = numbers.random((method.masks, method.cells, method.cells)) < method.kept
        self._cells = torch.from_numpy(cells).float()
        self._sides = [_enlarging(method.cells, side) for side in (height, width)]
        most = [math.ceil(side / method.cells) for side in (height, width)]
        self._shifts = torch.from_numpy(numbers.integers(0, most, (method.masks, 2)))

    def enlarged(self, start: int, stop: int) -> torch.Tensor:
        """Return some masks as the image's size, [M, h, w] in 0..1."""
        import torch

        (height, width), shifts = self.size, self._shifts[start:stop]
        rows, columns = (
            matrix[shifts[:, axis, None] + torch.arange(side)]
            for axis, (matrix, side) in enumerate(zip(self._sides, (height, width), strict=True))
        )
        return rows @ self._cells[start:stop] @ columns.transpose(1, 2)


def _enlarging(cells: int, side: int) -> torch.Tensor:
    """Return the matrix that enlarges cells bilinearly to one more than cover a side, [(cells + 1) * step, cells]."""
    import torch

    length = (cells + 1) * math.ceil(side / cells)
    return torch.nn.functional.interpolate(torch.eye(cells)[None], size=length, mode="linear")[0].T.contiguous()
