"""An image written as a sum of images from coarse to fine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from onnxviz.core.errors import AnalysisError
from onnxviz.core.lazy_torch import torch
from onnxviz.optimize.parameterizations.base import Canvas, PlaneParameterization
from onnxviz.optimize.parameterizations.planes import Enlarged, PlanePainter, pack, unpack


class LaplacianPyramid(PlaneParameterization):
    """The image is a sum of pixel images, each half as large as the one before and enlarged to the image's size."""

    kind: Literal["laplacian_pyramid"] = "laplacian_pyramid"
    levels: int = Field(5, ge=1, le=12, description="How many images are added up; 1 is the same as pixels.")
    deviation: float = Field(0.02, ge=0, description="Standard deviation of the start parameters.")

    def painter(self, canvas: Canvas) -> LaplacianPainter:
        """Return what makes images of pyramids.

        Raises:
            AnalysisError: if the image cannot be halved so often.
        """
        return LaplacianPainter(self, canvas)


class LaplacianPainter(PlanePainter):
    """Images of pyramids: the sum of levels of size h / 2^k, w / 2^k, enlarged bilinearly.

    Source: lucid `param/spatial.py` (`laplacian_pyramid_image`); Burt and Adelson 1983, "The Laplacian Pyramid as a
    Compact Image Code". Parameters are [N, P]: the levels from fine to coarse, one after the other. Amplitudes that
    fall as 1/frequency, as those of photographs do, have the same variance in every octave, so no level is scaled.
    """

    def __init__(self, form: LaplacianPyramid, canvas: Canvas) -> None:
        most = min(canvas.size).bit_length()
        if form.levels > most:
            height, width = canvas.size
            raise AnalysisError(
                f"an image of {height} × {width} pixels cannot be halved {form.levels - 1} times",
                where="laplacian_pyramid",
                remedy=f"set `levels` to {most} or less, or make larger images",
            )
        sizes = [(canvas.size[0] >> level, canvas.size[1] >> level) for level in range(form.levels)]
        self._shapes = [(canvas.channels, *size) for size in sizes]
        self._enlarge = [Enlarged(size, canvas.size, canvas.device) for size in sizes]
        numbers = sum(canvas.channels * height * width for height, width in sizes)
        super().__init__(canvas, form.decorrelate, form.deviation, (numbers,))

    def planes(self, parameters: torch.Tensor) -> torch.Tensor:
        levels = unpack(parameters, self._shapes)
        finest, *others = [enlarge(level) for enlarge, level in zip(self._enlarge, levels, strict=True)]
        return sum(others, finest)

    def solve(self, planes: torch.Tensor) -> torch.Tensor:
        """Return the pyramid of planes: each level holds what the coarser ones leave, so the sum is exact."""
        left, levels = planes, []
        for enlarge in reversed(self._enlarge):
            level = left
            if enlarge.low != enlarge.size:
                level = torch.nn.functional.interpolate(left, enlarge.low, mode="bilinear", antialias=True)
            levels.append(level)
            left = left - enlarge(level)
        return pack(levels[::-1])
