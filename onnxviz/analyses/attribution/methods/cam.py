"""Class activation maps: a layer's channels, weighted by what the score makes of them, and added up."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from onnxviz.analyses.attribution.method import Attribution, Method

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.attribution.question import Question


class GradientCam(Method):
    """Base of the methods that make a map of a layer's activations and their gradients; negative sums are cut off."""

    shows: ClassVar[Literal["layers", "pixels"]] = "layers"

    @abstractmethod
    def weighted(self, activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """Return the maps [N, h, w], before what is negative is cut off, of activations and gradients [N, K, h, w]."""

    def attribute(self, question: Question) -> Attribution:
        """Return a map for each layer."""
        pairs = zip(question.activations, question.gradients, strict=True)
        return Attribution(tuple(self.weighted(*pair).relu() for pair in pairs))


class GradCam(GradientCam):
    """Channels are weighted with the mean of their gradients.

    With A_k the activation of channel k and y the score (equations 1 and 2 of Selvaraju et al. 2017):

        map = ReLU(sum over k of A_k times the mean over positions of dy / dA_k)
    """

    method: Literal["grad_cam"] = "grad_cam"
    heading: ClassVar[str] = "Grad-CAM"
    cites: ClassVar[tuple[str, ...]] = ("Selvaraju et al. 2017, Grad-CAM, arXiv:1610.02391",)

    def weighted(self, activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """Weight the channels with their mean gradients."""
        import torch

        return torch.einsum("nk,nkhw->nhw", gradients.mean(dim=(2, 3)), activations)
