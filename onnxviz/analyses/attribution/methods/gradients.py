"""What the score makes of each pixel, by its gradient at the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from onnxviz.analyses.attribution.method import Attribution, Method

if TYPE_CHECKING:
    from onnxviz.analyses.attribution.question import Question


class Gradient(Method):
    """How much the score changes with each pixel: the largest absolute gradient of its channels.

    Source: section 3.1 of Simonyan et al. 2013. It says what changes the score most, not what makes it.
    """

    method: Literal["gradient"] = "gradient"
    heading: ClassVar[str] = "Gradient"
    shows: ClassVar[Literal["layers", "pixels"]] = "pixels"
    to_input: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = ("Simonyan, Vedaldi and Zisserman 2013, arXiv:1312.6034",)

    def attribute(self, question: Question) -> Attribution:
        """Return the largest absolute gradient of each pixel's channels."""
        return Attribution((question.input_gradient.abs().amax(dim=1),))


class GradientTimesInput(Method):
    """Each pixel's share of the score if the network were linear: its input times its gradient, over all channels.

    With x what the network is given of a pixel and y the score, the map is the sum over channels of x · dy/dx (section
    2.2 of Shrikumar et al. 2016): negative where the pixel speaks against the target. What the network sees as zeros,
    mostly the mean colour of photographs, has no share, whatever it shows.
    """

    method: Literal["gradient_times_input"] = "gradient_times_input"
    heading: ClassVar[str] = "Gradient × input"
    shows: ClassVar[Literal["layers", "pixels"]] = "pixels"
    signed: ClassVar[bool] = True
    to_input: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = ("Shrikumar, Greenside, Shcherbina and Kundaje 2016, arXiv:1605.01713",)

    def attribute(self, question: Question) -> Attribution:
        """Return the sums over channels."""
        return Attribution((((question.images - question.zero) * question.input_gradient).sum(dim=1),))
