"""The random views of a batch: drawn before the first step, looked at in each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from onnxviz.optimize.transforms import AnyTransform, Change, Fill, Move, margins

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Views:
    """The random views of a batch.

    Moves are one affine map for each view, so the image is resampled once; what changes pixels follows, in the order
    given. Each image has its own draws, made before the first step: nothing waits for the host inside the loop, a
    picture is the same alone or in a batch, and a step's view is the same however often it is looked at.

    Args:
        transforms: applied first to last.
        size: height and width of the view in pixels, the margin not counted.
        steps: number of views for each image.
        generators: one for each image, on the CPU.
        device: where the images are.
        fill: what lies beyond the canvas' border.

    Attributes:
        margin: pixels of the canvas above and below the picture, and left and right of it.
        repeatable: whether a step is the same kernels every time, so that it can be captured.
    """

    repeatable = True

    def __init__(
        self,
        transforms: Sequence[AnyTransform],
        size: tuple[int, int],
        steps: int,
        generators: Sequence[torch.Generator],
        device: torch.device | str,
        fill: Fill = "reflect",
    ) -> None:
        import torch

        from onnxviz.optimize.resampling import Resampling  # loads torch

        self.margin = margins(transforms, size)
        draws = _draw(transforms, steps, generators)
        moves = [(transform, drawn) for transform, drawn in draws if isinstance(transform, Move)]
        self._maps = fused(moves, size, self.margin).to(device, torch.float32) if moves else None
        self._resampling = Resampling(size, fill, device)
        self._changes = [
            (transform, transform.rows(drawn).to(device)) for transform, drawn in draws if isinstance(transform, Change)
        ]

    def look(self, canvas: Tensor, step: Tensor) -> Tensor:
        """Look at images as they are seen in a step.

        Args:
            canvas: RGB [N, 3, h + 2 top, w + 2 left] in 0..1.
            step: int64 [], counted from 0, on the images' device.

        Returns:
            [N, 3, h, w].
        """
        place = step.view(1)
        if self._maps is None:
            seen = self.cut(canvas)
        else:
            seen = self._resampling(canvas, self._maps.index_select(0, place)[0])
        for transform, rows in self._changes:
            seen = transform.apply(seen, rows.index_select(0, place)[0])
        return seen

    def cut(self, canvas: Tensor) -> Tensor:
        """Cut the margin off: [N, C, h + 2 top, w + 2 left] to [N, C, h, w]."""
        top, left = self.margin
        return canvas[:, :, top : canvas.shape[2] - top, left : canvas.shape[3] - left]


def _draw(
    transforms: Sequence[AnyTransform], steps: int, generators: Sequence[torch.Generator]
) -> list[tuple[AnyTransform, Tensor]]:
    """Return transforms with uniform numbers [steps, N, numbers], each image's from its own generator."""
    import torch

    ends = list(accumulate((transform.numbers for transform in transforms), initial=0))
    drawn = torch.stack([torch.rand((steps, ends[-1]), generator=generator) for generator in generators], dim=1)
    return [(each, drawn[..., first:end]) for each, first, end in zip(transforms, ends, ends[1:], strict=False)]


def fused(moves: Sequence[tuple[Move, Tensor]], size: tuple[int, int], margin: tuple[int, int]) -> Tensor:
    """Fuse moves to one affine map for each view.

    Args:
        moves: applied first to last, each with its numbers [..., numbers].
        size: height and width of the view in pixels.
        margin: pixels of the canvas above and left of the picture.

    Returns:
        [..., 2, 3], from the view to the canvas in the normalised coordinates of `torch.nn.functional.affine_grid`
        (align_corners=False).
    """
    import torch

    total = torch.eye(3, dtype=torch.float64)
    for move, draws in moves:
        total = total @ move.matrices(draws.double(), size)
    (height, width), (top, left) = size, margin
    view = torch.tensor([width / 2.0, height / 2.0, 1.0], dtype=torch.float64)
    canvas = torch.tensor([width / 2.0 + left, height / 2.0 + top, 1.0], dtype=torch.float64)
    return (total * view / canvas[:, None])[..., :2, :]
