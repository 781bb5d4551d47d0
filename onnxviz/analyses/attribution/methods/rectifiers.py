"""Gradients of which ReLUs let only the positive ones pass: guided backpropagation, deconvnet, guided Grad-CAM."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar, Literal

from onnxviz.analyses.attribution.method import Attribution, Method
from onnxviz.analyses.attribution.methods.cam import GradCamMethod
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.wording import listed

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.attribution.question import Question


def rectified_gradient(question: Question, *, masked: bool) -> tuple[torch.Tensor, str]:
    """Return gradients by the images under a rule for ReLUs, [N, channels, h, w], and what the rule was applied to.

    Args:
        question: what is asked.
        masked: whether gradients stop where a ReLU did too; `convert.rectified_gradients` has the rules.

    Raises:
        AnalysisError: if the network has no ReLU before the score.
    """

    def compute() -> tuple[torch.Tensor, str]:
        from onnxviz.convert.rectified_gradients import RectifiedGradients

        passes: list[RectifiedGradients] = []

        def rules() -> RectifiedGradients:
            passes.append(RectifiedGradients(masked=masked))
            return passes[-1]

        _, gradient = question.slopes(question.images, range(len(question.images)), rules)
        changed, left = passes[-1].changed, passes[-1].left
        if not changed:
            raise AnalysisError(
                "there is no ReLU before the score whose gradients could be rectified"
                + (f"; there are {_counted(left)}" if left else ""),
                where=shorten(question.model.view.file),
                remedy="use a method that needs none, such as gradient or integrated_gradients",
            )
        untouched = f"; other activations have their usual gradients: {_counted(left)}" if left else ""
        return gradient, f"Gradients were rectified at {_counted(changed)}{untouched}."

    return question.shared(("rectified gradient", masked), compute)


def _counted(names: Counter[str]) -> str:
    """Return names with how often they occur, the most frequent first."""
    return listed(f"{count} × {name}" for name, count in names.most_common())


class _Rectified(Method):
    """Base of the methods that show a rectified gradient."""

    shows: ClassVar[Literal["layers", "pixels"]] = "pixels"
    masked: ClassVar[bool]
    """Whether gradients stop where a ReLU did too."""

    def attribute(self, question: Question) -> Attribution:
        """Return the largest absolute value of each pixel's channels."""
        gradient, said = rectified_gradient(question, masked=self.masked)
        return Attribution((gradient.abs().amax(dim=1),), said=said)

    def cost(self, layers: int) -> float:  # noqa: ARG002 - one pass for all layers
        """One pass there and back."""
        return 3.0


class GuidedBackpropagation(_Rectified):
    """What the image has that raises units which raise the score: at each ReLU only positive gradients pass.

    Source: section 3.4 of Springenberg et al. 2014. The paper shows the values as colours; the map is the largest
    absolute value of a pixel's channels, as of the gradient (so does TorchRay, attribution/common.py). It recovers much
    of the image itself, whatever the target and the weights (Nie et al. 2018; Adebayo et al. 2018).
    """

    method: Literal["guided_backpropagation"] = "guided_backpropagation"
    heading: ClassVar[str] = "Guided backpropagation"
    masked: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = (
        "Springenberg, Dosovitskiy, Brox and Riedmiller 2014, Striving for simplicity, arXiv:1412.6806",
        "Nie, Zhang and Patel 2018, A theoretical explanation for perplexing behaviors of backpropagation-based "
        "visualizations, arXiv:1805.07039",
    )


class Deconvnet(_Rectified):
    """The score carried back to the image as by a deconvolutional network: at each ReLU positive values pass.

    Where the ReLU itself was silent does not matter; poolings lead back to where their maxima were (switches). Source:
    section 2.1 of Zeiler and Fergus 2013. The map is the largest absolute value of a pixel's channels, as of the
    gradient (so does TorchRay, attribution/common.py). It says more of the image than of the target (Nie et al. 2018).
    """

    method: Literal["deconvnet"] = "deconvnet"
    heading: ClassVar[str] = "Deconvnet"
    masked: ClassVar[bool] = False
    cites: ClassVar[tuple[str, ...]] = (
        "Zeiler and Fergus 2013, Visualizing and understanding convolutional networks, arXiv:1311.2901",
    )


class GuidedGradCam(Method):
    """Guided backpropagation where Grad-CAM of a layer finds evidence: their product, in pixels.

    Source: section 3.3 of Selvaraju et al. 2017: a layer's Grad-CAM is enlarged to the image bilinearly, and multiplied
    with each channel of the guided gradient; the map is the largest absolute value of a pixel's channels.
    """

    method: Literal["guided_grad_cam"] = "guided_grad_cam"
    heading: ClassVar[str] = "Guided Grad-CAM"
    shows: ClassVar[Literal["layers", "pixels"]] = "layers"
    cites: ClassVar[tuple[str, ...]] = ("Selvaraju et al. 2017, Grad-CAM, arXiv:1610.02391",)

    @property
    def fine(self) -> bool:
        """It has the detail of pixels at every layer."""
        return True

    def attribute(self, question: Question) -> Attribution:
        """Return a map of the image's size for each layer."""
        from onnxviz.analyses.attribution.fusion import upsample

        gradient, said = rectified_gradient(question, masked=True)
        guided = gradient.abs().amax(dim=1)
        height, width = guided.shape[1:]
        maps = GradCamMethod().attribute(question).maps
        return Attribution(tuple(guided * upsample(each, (height, width)) for each in maps), said=said)

    def cost(self, layers: int) -> float:  # noqa: ARG002 - one pass for all layers
        """One pass there and back, which it shares with guided backpropagation."""
        return 3.0
