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


def weighted_sum(weights: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
    """Add up channels [N, K, h, w] with weights [N, K]: [N, h, w]."""
    import torch

    # A third of the time that `einsum` takes for small maps, with the same bits.
    count, _, height, width = activations.shape
    return torch.bmm(weights[:, None], activations.flatten(2)).reshape(count, height, width)


class GradCamMethod(GradientCam):
    """Channels are weighted with the mean of their gradients.

    With A_k the activation of channel k and y the score (equations 1 and 2 of Selvaraju et al. 2017):

        map = ReLU(sum over k of A_k times the mean over positions of dy / dA_k)
    """

    method: Literal["grad_cam"] = "grad_cam"
    heading: ClassVar[str] = "Grad-CAM"
    cites: ClassVar[tuple[str, ...]] = ("Selvaraju et al. 2017, Grad-CAM, arXiv:1610.02391",)

    def weighted(self, activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """Weight the channels with their mean gradients."""
        return weighted_sum(gradients.mean(dim=(2, 3)), activations)


class GradCamPlusPlus(GradientCam):
    """Channels are weighted with their positive gradients, so that several objects of a class count alike.

    With g = dy / dA_k at each position (equations 7 and 19 of Chattopadhay et al. 2018, for the exponential of the
    score, whose own factor only scales the map):

        a = g^2 / (2 g^2 + g^3 times the sum of A_k over positions + 1e-6), and 0 where g is 0
        map = ReLU(sum over k of A_k times the sum over positions of a ReLU(g))

    The 1e-6 is pytorch-grad-cam's (1.5, `grad_cam_plusplus.py`).
    """

    method: Literal["grad_cam_plus_plus"] = "grad_cam_plus_plus"
    heading: ClassVar[str] = "Grad-CAM++"
    cites: ClassVar[tuple[str, ...]] = ("Chattopadhay et al. 2018, Grad-CAM++, arXiv:1710.11063",)

    def weighted(self, activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """Weight the channels with the weighted sums of their positive gradients."""
        squares = gradients.square()
        sums = activations.sum(dim=(2, 3), keepdim=True)
        alphas = squares / (2 * squares + sums * squares * gradients + 1e-6)
        return weighted_sum((alphas * gradients.relu()).sum(dim=(2, 3)), activations)


class XGradCam(GradientCam):
    """Channels are weighted with their gradients where they are active.

    With g = dy / dA_k (Fu et al. 2020; the 1e-7 is that of pytorch-grad-cam 1.5, `xgrad_cam.py`):

        map = ReLU(sum over k of A_k times the sum over positions of g A_k / (sum over positions of A_k + 1e-7))
    """

    method: Literal["xgrad_cam"] = "xgrad_cam"
    heading: ClassVar[str] = "XGrad-CAM"
    cites: ClassVar[tuple[str, ...]] = ("Fu et al. 2020, Axiom-based Grad-CAM, arXiv:2008.02312",)

    def weighted(self, activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """Weight the channels with the mean of their gradients over their activation."""
        sums = activations.sum(dim=(2, 3))
        return weighted_sum((gradients * activations).sum(dim=(2, 3)) / (sums + 1e-7), activations)


class HiResCam(GradientCam):
    """Gradient times activation at each position, added up over channels.

    With g = dy / dA_k (Draelos and Carin 2020): map = ReLU(sum over k of g A_k). Where only averages and one linear
    layer follow, the sum of the map before the ReLU is the score without its bias.

    A map whose channels cancel everywhere to one part in 10,000 is 0: so it is of tokens that only a layer
    normalization reads, which takes their scale out of the score, and all that is left is rounding.
    """

    method: Literal["hires_cam"] = "hires_cam"
    heading: ClassVar[str] = "HiResCAM"
    cites: ClassVar[tuple[str, ...]] = ("Draelos and Carin 2020, Use HiResCAM instead of Grad-CAM, arXiv:2011.08891",)

    def weighted(self, activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """Weight each position of each channel with its gradient."""
        import torch

        terms = gradients * activations
        sums = terms.sum(dim=1)
        left, most = (each.amax(dim=(1, 2), keepdim=True) for each in (sums.abs(), terms.abs_().sum(dim=1)))
        return torch.where(left > 1e-4 * most, sums, 0)


class LayerCam(GradientCam):
    """Positive gradient times activation at each position, added up over channels; made for early layers too.

    With g = dy / dA_k (Jiang et al. 2021): map = ReLU(sum over k of ReLU(g) A_k).
    """

    method: Literal["layer_cam"] = "layer_cam"
    heading: ClassVar[str] = "LayerCAM"
    cites: ClassVar[tuple[str, ...]] = (
        "Jiang et al. 2021, LayerCAM: Exploring Hierarchical Class Activation Maps for Localization, "
        "doi:10.1109/TIP.2021.3089943",
    )

    def weighted(self, activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """Weight each position of each channel with its positive gradient."""
        return (gradients.relu() * activations).sum(dim=1)


class ElementWiseGradCam(GradientCam):
    """Gradient times activation at each position of each channel where that is positive, added up over channels.

    With g = dy / dA_k (Pillai and Pirsiavash 2021, as pytorch-grad-cam 1.5 reads it, `grad_cam_elementwise.py`):

        map = sum over k of ReLU(g A_k)

    Negative evidence of one channel takes nothing from another's, other than in HiResCAM. Where no activation is
    negative, as behind a ReLU, it is LayerCAM.
    """

    method: Literal["grad_cam_element_wise"] = "grad_cam_element_wise"
    heading: ClassVar[str] = "Element-wise Grad-CAM"
    cites: ClassVar[tuple[str, ...]] = (
        "Pillai and Pirsiavash 2021, Explainable Models with Consistent Interpretations, AAAI 2021",
    )

    def weighted(self, activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """Add up what is positive."""
        return (gradients * activations).relu_().sum(dim=1)


class EigenCam(Method):
    """The first principal component of a layer's activations; it shows what is strong there, for whatever target.

    Positions are the samples, channels the variables (Muhammad and Yeasin 2020; centred, as in pytorch-grad-cam): the
    map is what each position's activations, less their mean, are along the direction in which positions differ most.
    A direction has no sign of its own: here the map goes up with the sum of the activations. What is below the mean
    position is cut off.
    """

    method: Literal["eigen_cam"] = "eigen_cam"
    heading: ClassVar[str] = "EigenCAM"
    shows: ClassVar[Literal["layers", "pixels"]] = "layers"
    needs_gradients: ClassVar[bool] = False
    cites: ClassVar[tuple[str, ...]] = ("Muhammad and Yeasin 2020, Eigen-CAM, arXiv:2008.00299",)

    def attribute(self, question: Question) -> Attribution:
        """Return a map for each layer."""
        import torch

        maps = (
            torch.stack([first_component(image) for image in activations]).relu()
            for activations in question.activations
        )
        return Attribution(
            tuple(maps), said="EigenCAM's maps are the same for all targets: no score has a part in them"
        )


def first_component(activations: torch.Tensor) -> torch.Tensor:
    """Return the first principal component [h, w] of channels [K, h, w], upwards with the sum of the channels.

    It comes from the smaller of the two products of the centred activations with themselves, in double precision.
    """
    import torch

    channels, height, width = activations.shape
    samples = activations.flatten(1).double()
    samples = samples - samples.mean(dim=1, keepdim=True)
    if channels <= height * width:
        _, vectors = torch.linalg.eigh(samples @ samples.T)
        component = vectors[:, -1] @ samples
    else:
        values, vectors = torch.linalg.eigh(samples.T @ samples)
        component = vectors[:, -1] * values[-1].clamp(min=0).sqrt()
    downwards = (component * samples.sum(dim=0)).sum() < 0
    return torch.where(downwards, -component, component).reshape(height, width).to(activations.dtype)
