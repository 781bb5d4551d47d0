"""What holds an image back while it is optimized: terms that grow with extreme and with rough images.

Weights are relative to the activation: the loop maximises a - |a| Σ weight · term, with |a| held constant. Activations
differ by orders of magnitude between layers, and so the same weight means the same everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor


class _Regularizer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def term(self, images: Tensor) -> Tensor:
        """Return the term of each image: images [N, 3, h, w] in 0..1 to [N], not yet weighted."""
        raise NotImplementedError


class LpNorm(_Regularizer):
    """Keeps values near middle grey: the mean of |2 x - 1|^p over all pixels and colours."""

    kind: Literal["lp_norm"] = "lp_norm"
    p: float = Field(6.0, ge=1, le=32, description="The exponent; a high one lets colours be strong but not extreme.")
    weight: float = Field(1.0, ge=0, description="Weight relative to the activation.")

    def term(self, images: Tensor) -> Tensor:
        """Return mean |2 x - 1|^p, which is 0 for grey and 1 for black and white.

        Source: Simonyan et al. 2013, equation 1 (p = 2); Mahendran and Vedaldi 2015, section 2 (p = 6), for images
        around zero.
        """
        return (2.0 * images - 1.0).abs().pow(self.p).mean(dim=(1, 2, 3))


class TotalVariation(_Regularizer):
    """Keeps neighbouring pixels alike: the mean of (Δx² + Δy²)^(exponent / 2) over all pixels and colours."""

    kind: Literal["total_variation"] = "total_variation"
    exponent: float = Field(2.0, ge=1, le=4, description="2 smooths everything; 1 keeps edges and flattens areas.")
    weight: float = Field(1.0, ge=0, description="Weight relative to the activation.")

    def term(self, images: Tensor) -> Tensor:
        """Return the mean over the (h - 1) · (w - 1) pixels that have a right and a lower neighbour.

        Source: Mahendran and Vedaldi 2015, section 2, for images scaled to -1..1 (so that Δ is at most 2).
        """
        scaled = 2.0 * images - 1.0
        corner = scaled[:, :, :-1, :-1]
        squares = (scaled[:, :, :-1, 1:] - corner).square() + (scaled[:, :, 1:, :-1] - corner).square()
        # The root has no derivative at 0, which flat areas reach.
        return (squares if self.exponent == 2.0 else (squares + 1e-8).pow(self.exponent / 2.0)).mean(dim=(1, 2, 3))


Regularizer = Annotated[LpNorm | TotalVariation, Field(discriminator="kind")]
