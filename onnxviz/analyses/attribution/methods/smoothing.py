"""Gradients of an image with noise: what they have in common, and how far they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from onnxviz.analyses.attribution.method import Attribution, Method

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.attribution.question import Question


class _Noisy(Method):
    """Base of the methods that look at gradients of an image with noise; with the same settings they share passes."""

    samples: int = Field(50, ge=2, le=10_000, description="How many noisy copies of each image are looked at.")
    noise: float = Field(
        0.15,
        gt=0,
        le=1,
        description="Standard deviation of the noise, as a part of the range between each image's least and largest "
        "value over all channels.",
    )
    shows: ClassVar[Literal["layers", "pixels"]] = "pixels"

    def cost(self, layers: int) -> float:  # noqa: ARG002 - nothing of layers
        """A pass there and back for each copy."""
        return 3.0 * self.samples

    def moments(self, question: Question) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and variance (of the samples, not corrected) of gradients, float64 [N, channels, h, w] each."""
        key = ("gradients with noise", self.samples, self.noise)
        return question.shared(key, lambda: gradient_moments(question, self.samples, self.noise))

    def _said(self) -> str:
        return (
            f"{self.samples} copies of each image with normal noise, whose standard deviation is {100 * self.noise:g} "
            "% of the range of the image's values; noise is not cut off at black and white."
        )


def gradient_moments(question: Question, samples: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance of the gradients by noisy images.

    Args:
        question: what is asked; the noise is drawn from `Question.generator`.
        samples: noisy copies of each image.
        noise: standard deviation, as a part of each image's range.

    Returns:
        float64 [N, channels, h, w] each; the variance is E[g²] - E[g]².
    """
    import numpy as np
    import torch

    images = question.images
    deviations = noise * (images.flatten(1).amax(dim=1) - images.flatten(1).amin(dim=1))
    draws = [question.generator(place, "noise") for place in range(len(images))]
    shape = images.shape[1:]
    sums = torch.zeros(images.shape, dtype=torch.float64, device=images.device)
    squares = torch.zeros_like(sums)
    for owners, _ in question.in_passes(samples):
        normal = np.stack([draws[owner].standard_normal(shape, np.float32) for owner in owners])
        noisy = torch.from_numpy(normal).to(images.device) * deviations[owners, None, None, None] + images[owners]
        _, gradients = question.slopes(noisy, owners)
        for owner, gradient in zip(owners, gradients.double(), strict=True):
            sums[owner] += gradient  # in order: a GPU's `index_add_` is not the same bits each time
            squares[owner] += gradient.square_()
    mean = sums.div_(samples)
    return mean, (squares.div_(samples) - mean.square()).clamp_min_(0.0)


class SmoothGrad(_Noisy):
    """The gradient that noise leaves standing: the mean over noisy copies of the image.

    Source: section 3 of Smilkov et al. 2017, with their 50 samples and noise between 10 and 20 %. The mean is taken of
    gradients with their signs; the map is the largest absolute mean of a pixel's channels, as of the gradient.
    """

    method: Literal["smooth_grad"] = "smooth_grad"
    heading: ClassVar[str] = "SmoothGrad"
    cites: ClassVar[tuple[str, ...]] = ("Smilkov, Thorat, Kim, Viégas and Wattenberg 2017, arXiv:1706.03825",)

    def attribute(self, question: Question) -> Attribution:
        """Return the largest absolute mean gradient of each pixel's channels."""
        mean, _ = self.moments(question)
        return Attribution((mean.abs().amax(dim=1).float(),), said=self._said())


class VarGrad(_Noisy):
    """Where the gradient changes most when the image does a little: its variance over noisy copies of the image.

    Source: section 3 and appendix of Adebayo et al. 2018. The map is the largest variance of a pixel's channels.
    """

    method: Literal["var_grad"] = "var_grad"
    heading: ClassVar[str] = "VarGrad"
    cites: ClassVar[tuple[str, ...]] = ("Adebayo, Gilmer, Goodfellow and Kim 2018, arXiv:1810.03307",)

    def attribute(self, question: Question) -> Attribution:
        """Return the largest variance of each pixel's channels."""
        _, variance = self.moments(question)
        return Attribution((variance.amax(dim=1).float(),), said=self._said())
