"""An image written as a small network that turns a place into a colour.

Source: Stanley 2007, "Compositional Pattern Producing Networks"; Mordvintsev, Pezzotti, Schubert and Olah 2018,
"Differentiable Image Parameterizations", section "Compositional Pattern Producing Networks".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from onnxviz.core.errors import AnalysisError
from onnxviz.core.lazy_torch import torch
from onnxviz.optimize.parameterizations.base import Canvas, Painter, PlaneParameterization
from onnxviz.optimize.parameterizations.planes import normal, pack, row_by_row, to_colors, unpack

_BIAS = 0.1
"""Standard deviation of the biases at the start."""
_SIDE = 2.0 * math.sqrt(3.0)
"""Length of the longer side in the network's coordinates: then they have a standard deviation of 1."""


class Cppn(PlaneParameterization):
    """The weights of a network are the parameters; it is asked for the colour at every pixel.

    The network is smooth by itself and is best left without random views, as in lucid's notebook: SqueezeNet's ostrich
    at 112 pixels reached 473 without them in 256 steps, and 44 with the wide ones that suit spectra.
    """

    kind: Literal["cppn"] = "cppn"
    decorrelate: bool = Field(False, description="Give the colours the correlations of photographs; no effect on grey.")
    layers: int = Field(8, ge=1, le=32, description="Hidden layers; more make finer patterns.")
    width: int = Field(24, ge=2, le=256, description="Units of each hidden layer.")
    activation: Literal["composite", "unbiased", "relu"] = Field(
        "composite",
        description="`composite`: arc tangent and its square; `unbiased`: the same with mean 0; `relu`: hard edges.",
    )
    radius: bool = Field(False, description="Also tell the network the distance from the centre: rounder patterns.")

    def painter(self, canvas: Canvas) -> CppnPainter:
        return CppnPainter(self, canvas)


class CppnPainter(Painter):
    """Images of networks: x, y -> 1×1 layers -> sigmoid (lucid `param/cppn.py`).

    Parameters are [N, P]: weight [out, in] and bias [out] of each layer, first to last. The last starts with zeros, so
    every image starts grey.
    """

    rate = 0.1
    """Every weight moves the whole image: lucid's notebook takes 0.004 and 0.005 where it takes 0.05 for spectra. With
    0.25 and random views SqueezeNet's ostrich did not grow."""

    def __init__(self, form: Cppn, canvas: Canvas) -> None:
        self.form, self.canvas = form, canvas
        wide = form.width if form.activation == "relu" else 2 * form.width
        inputs = [3 if form.radius else 2, *[wide] * form.layers]
        outputs = [*[form.width] * form.layers, canvas.channels]
        self._shapes = [shape for size in zip(outputs, inputs, strict=True) for shape in (size, (size[0], 1))]
        self._places = self._coordinates()

    def start(self, draws: Sequence[torch.Generator], pictures: torch.Tensor | None) -> torch.Tensor:
        """Draw the weights: variance 1 / inputs, as lucid has it; the last layer starts with zeros."""
        if pictures is not None:
            raise AnalysisError(
                "no network is known whose image is a given picture",
                where="cppn",
                remedy="leave out the start picture, `begin: grey` and `octaves` (a cppn starts grey by itself), or "
                "choose another parameterization, such as fourier",
            )
        parts = [normal(shape, draws, self.canvas.device) for shape in self._shapes]
        for index in range(0, len(parts) - 2, 2):
            parts[index] /= math.sqrt(parts[index].shape[2])
            parts[index + 1] *= _BIAS
        return pack([*parts[:-2], *(torch.zeros_like(part) for part in parts[-2:])])

    def paint(self, parameters: torch.Tensor) -> torch.Tensor:
        return row_by_row(self._paint, parameters)

    def _paint(self, parameters: torch.Tensor) -> torch.Tensor:
        planes = self._planes(parameters).view(len(parameters), -1, *self.canvas.size)
        return to_colors(planes, self.canvas, self.form.decorrelate)

    def _planes(self, parameters: torch.Tensor) -> torch.Tensor:
        """Ask the networks [N, P] for the planes [N, channels, h · w]."""
        parts = unpack(parameters, self._shapes)
        values = torch.baddbmm(parts[1], parts[0], self._places.expand(len(parameters), -1, -1))
        for weight, bias in zip(parts[2::2], parts[3::2], strict=True):
            bent = self._bend(values)
            # Shifts and factors of the activation go into the weights, which are few.
            weights = [
                part / deviation for part, (_, _, deviation) in zip(weight.chunk(len(bent), 2), bent, strict=True)
            ]
            values = bias - sum(
                part.sum(2, keepdim=True) * mean for part, (_, mean, _) in zip(weights, bent, strict=True)
            )
            for part, (inputs, _, _) in zip(weights, bent, strict=True):
                values = torch.baddbmm(values, part, inputs)
        return values

    def _bend(self, values: torch.Tensor) -> list[tuple[torch.Tensor, float, float]]:
        """Return the activation's parts, not yet normalised, each with what is subtracted and what it is divided by.

        Lucid's constants: for normally distributed values each part then has a mean square, or a variance, of 1.
        """
        if self.form.activation == "relu":
            return [(values.relu(), 0.40, 0.58)]
        bent = values.atan()
        return [
            (bent, 0.0, 0.67),
            (bent.square(), *((0.0, 0.6) if self.form.activation == "composite" else (0.45, 0.396))),
        ]

    def _coordinates(self) -> torch.Tensor:
        """Return [1, 2 or 3, h · w]: x, y and the distance from the centre, at the pixels' centres.

        The longer side goes from -√3 to √3 from edge to edge, so an image looks the same at every size.
        (Lucid has the first and last pixel's centres there, and squares only.)
        """
        height, width = self.canvas.size
        unit = _SIDE / max(height, width)
        y = (torch.arange(height) - (height - 1) / 2.0) * unit
        x = (torch.arange(width) - (width - 1) / 2.0) * unit
        grid = [x.expand(height, width), y.view(-1, 1).expand(height, width)]
        if self.form.radius:
            grid.append(torch.hypot(*grid))
        return torch.stack(grid).flatten(1)[None].to(self.canvas.device)
