"""What holds an image back while it is optimized: terms that grow with extreme, rough and strange images.

Weights are relative to the activation: the loop maximises a - |a| Σ weight · term, with |a| held constant. Activations
differ by orders of magnitude between layers, and so the same weight means the same everywhere. Terms of the image see
it scaled to v = 2 x - 1, from black at -1 to white at 1, and are means over it, so that its size does not matter.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from onnxviz.core.lazy_torch import torch
from onnxviz.optimize.gaussian import gaussian_blur

_FLAT = 1e-8
"""Added to squares of which a power below 1 is taken: it has no derivative at 0, which flat areas reach."""


class _Regularizer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _PictureRegularizer(_Regularizer):
    def term(self, images: torch.Tensor) -> torch.Tensor:
        """Return the term of each image: images [N, 3, h, w] in 0..1 to [N], not yet weighted."""
        raise NotImplementedError


class LpNorm(_PictureRegularizer):
    """Keeps values near middle grey: the mean of |v|^p; with p = 2 it is L2 decay as a term."""

    kind: Literal["lp_norm"] = "lp_norm"
    p: float = Field(6.0, ge=1, le=32, description="The exponent; a high one lets colours be strong but not extreme.")
    of: Literal["values", "colors"] = Field(
        "values", description="`values`: each colour value by itself; `colors`: how far a pixel's colour is from grey."
    )
    weight: float = Field(1.0, ge=0, description="Weight relative to the activation.")

    def term(self, images: torch.Tensor) -> torch.Tensor:
        """Return the mean of |v|^p over pixels and colours, or of (Σ v² over the colours)^(p / 2) over pixels.

        Of values it is 0 for grey and 1 for black and white; of colours it is √3^p for these.

        Source: `values`: Simonyan et al. 2013, equation 1 (p = 2), and Mahendran and Vedaldi 2015, section 2 (p = 6),
        for images around zero. `colors`: Mahendran and Vedaldi 2016, section 3 (p = 6); their code
        (aravindhm/nnpreimage, `layers/l2.m`, `core/get_defaults.m`) divides the length by 80 of 255, which is a weight
        of (127.5 / 80)^p here.
        """
        scaled = 2.0 * images - 1.0
        if self.of == "values":
            return scaled.abs().pow(self.p).mean(dim=(1, 2, 3))
        return _power(scaled.square().sum(dim=1), self.p).mean(dim=(1, 2))


class TotalVariation(_PictureRegularizer):
    """Keeps neighbouring pixels alike, by the differences Δx and Δy to the right and the lower neighbour."""

    kind: Literal["total_variation"] = "total_variation"
    exponent: float = Field(2.0, ge=1, le=8, description="2 smooths everything; 1 keeps edges and flattens areas.")
    form: Literal["isotropic", "anisotropic"] = Field(
        "isotropic",
        description="(Δx² + Δy²)^(exponent / 2), the same for edges in all directions, or |Δx|^exponent + "
        "|Δy|^exponent, which favours upright and level ones.",
    )
    weight: float = Field(1.0, ge=0, description="Weight relative to the activation.")

    def term(self, images: torch.Tensor) -> torch.Tensor:
        """Return the sum over neighbours, by the number of summed places.

        Isotropic: the mean over the (h - 1) · (w - 1) pixels that have both neighbours, and over colours. Anisotropic:
        the mean over all Δx plus the mean over all Δy. An image of one row or column has no such pixels: 0.

        Source: isotropic: Mahendran and Vedaldi 2015, section 2 (and 2016, whose code `core/get_defaults.m` multiplies
        Δ by 6.5 / 80 of 255). Anisotropic with exponent 1: `tf.image.total_variation`, which lucid
        (`optvis/objectives.py:228-235`) and Xplique use, as a sum.
        """
        scaled = 2.0 * images - 1.0
        across, down = scaled.diff(dim=3), scaled.diff(dim=2)
        if self.form == "anisotropic":
            return _mean(across.abs().pow(self.exponent)) + _mean(down.abs().pow(self.exponent))
        squares = across[:, :, :-1].square() + down[:, :, :, :-1].square()
        return _mean(_power(squares, self.exponent))


class HighFrequency(_PictureRegularizer):
    """Takes out fine detail: the mean square of what a Gaussian blur takes away."""

    kind: Literal["high_frequency"] = "high_frequency"
    sigma: float = Field(
        1.0, ge=0.3, le=20, description="Standard deviation of the blur in pixels: what counts as fine."
    )
    weight: float = Field(1.0, ge=0, description="Weight relative to the activation.")

    def term(self, images: torch.Tensor) -> torch.Tensor:
        """Return the mean of (v - blurred v)² over pixels and colours.

        A wave of angular frequency f (radians for each pixel) counts with (1 - exp(-σ² f² / 2))², but for the kernel's
        end at 4 σ and the border, which is mirrored.

        Source: Olah et al. 2017, section "Frequency Penalization". lucid's `blur_input_each_step`
        (`optvis/objectives.py:272-286`) holds the blurred image constant, takes the sum and a kernel of 3 × 3; here
        the gradient is that of the term.
        """
        scaled = 2.0 * images - 1.0
        return (scaled - gaussian_blur(scaled, self.sigma)).square().mean(dim=(1, 2, 3))


class FeatureStatistics(_Regularizer):
    """Keeps the features that tell a class near what pictures of scenes excite; see `feature_statistics`."""

    kind: Literal["feature_statistics"] = "feature_statistics"
    layer: str | None = Field(
        None,
        description="The layer whose features count: its name, `Conv[3]` or a role. If not given, the one that the "
        "last weights before the target read.",
    )
    weight: float = Field(0.3, ge=0, description="Weight relative to the activation.")


def _power(squares: torch.Tensor, exponent: float) -> torch.Tensor:
    """Return squares^(exponent / 2), with finite gradients at 0."""
    return (squares if exponent >= 2.0 else squares + _FLAT).pow(exponent / 2.0)


def _mean(values: torch.Tensor) -> torch.Tensor:
    """Return the mean of each image, 0 of nothing: [N, 3, h, w] to [N]."""
    return values.sum(dim=(1, 2, 3)) / max(1, values[0].numel())


Regularizer = Annotated[LpNorm | TotalVariation | HighFrequency | FeatureStatistics, Field(discriminator="kind")]
