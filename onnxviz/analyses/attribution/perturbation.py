"""Attribution by changed images: what takes the place of what is removed, and the scores of what is left.

Nothing here needs gradients: it works with whatever ONNX Runtime computes, and measures the file's own rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from onnxviz.analyses.attribution.method import Method

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.attribution.question import Question

Fill = Literal["zero", "mean", "blur"]
Change = Callable[[int, int, int], "torch.Tensor"]
"""Of an image's place, the number of the first changed image and of the one after the last: [M, channels, h, w]."""

BLUR = 0.05
"""Standard deviation of the blur that fills, as a share of the image's longer side: 11 pixels of 224."""
KEPT_BYTES = 64 << 20
"""What the answers to a method's changed images may take that are kept for other targets: 16,000 with 1,000 classes."""


class Perturbation(Method):
    """Base of the methods that remove parts of the image and look at the score; negative is evidence against it."""

    shows: ClassVar[Literal["layers", "pixels"]] = "pixels"
    signed: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = False

    fill: Fill = Field(
        "zero",
        description="What takes the place of what is removed: the colour that preprocessing turns into `zero`, the "
        "image's `mean` colour, or the image under a strong `blur`.",
    )

    def filling(self, question: Question) -> torch.Tensor:
        """Return what takes the place of what is removed, [N, channels, h, w] on the CPU, in 0..1."""
        from onnxviz.optimize.gaussian import gaussian_blur

        images = question.images.cpu()
        if self.fill == "blur":
            return gaussian_blur(images, BLUR * max(images.shape[2:]))
        colour = images.mean(dim=(2, 3), keepdim=True) if self.fill == "mean" else question.zero.cpu().clamp(0, 1)
        return colour.expand_as(images)

    def filled_with(self, question: Question) -> str:
        """Say what takes the place of what is removed."""
        if self.fill == "mean":
            return "the image's mean colour"
        if self.fill == "blur":
            pixels = BLUR * max(question.images.shape[2:])
            return f"the image under a Gaussian blur with a standard deviation of {pixels:.3g} pixels"
        zero = question.zero.flatten().tolist()
        numbers = ", ".join(f"{255 * min(max(number, 0.0), 1.0):.0f}" for number in zero)
        outside = "what comes nearest to " if min(zero) < 0 or max(zero) > 1 else ""
        if not question.model.domain.photographic or outside:
            return f"{outside}what preprocessing turns into 0"
        return f"the colour that preprocessing turns into 0 (RGB {numbers})"


def measure_changes(question: Question, method: Method, counts: Sequence[int], change: Change) -> list[torch.Tensor]:
    """Return scores of changed images by ONNX Runtime; those of all images of the question share passes.

    What the network gives for them is kept for questions of other targets, so long as it is small: three classes of an
    image take as many passes as one.

    Args:
        question: the images, and a target of each.
        method: who asks; makes the same changes for other targets.
        counts: how many changed images there are of each image.
        change: makes some of them, a pass at a time, so that memory does not grow with their number.

    Returns:
        For each image float64 [count].
    """
    import torch

    owners = [place for place, count in enumerate(counts) for _ in range(count)]
    kept = question.kept.get(method)
    passes = (
        _passes(question, counts, change)
        if kept is None
        else zip(*(each.split(question.together) for each in kept), strict=True)
    )
    answers: list[
        torch.Tensor
    ] = []  # each in one piece: small ones would lie between large ones, and memory would grow
    scores = torch.empty(len(owners), dtype=torch.float64)
    start = 0
    for values in passes:
        stop = start + len(values[0])
        scores[start:stop] = question.scores_of(values, owners[start:stop])
        if kept is None and sum(each[0].nbytes for each in values) * len(owners) <= KEPT_BYTES:
            answers = answers or [each.new_empty((len(owners), *each.shape[1:])) for each in values]
            for whole, part in zip(answers, values, strict=True):
                whole[start:stop] = part
        start = stop
    if answers:
        question.kept[method] = answers
    return list(torch.split(scores, list(counts)))


def _passes(question: Question, counts: Sequence[int], change: Change) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield what the targets' layers give of the changed images, in their order, a pass at a time."""
    import torch

    waiting: list[torch.Tensor] = []
    room = question.together
    for place, count in enumerate(counts):
        start = 0
        while start < count:
            stop = min(start + room, count)
            waiting.append(change(place, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield question.measured_values(torch.cat(waiting) if len(waiting) > 1 else waiting[0])
                waiting, room = [], question.together
    if waiting:
        yield question.measured_values(torch.cat(waiting))
