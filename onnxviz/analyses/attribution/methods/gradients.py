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
