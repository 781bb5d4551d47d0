"""Gradients gathered on the way from another image to this one: they add up to the difference of the two scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from onnxviz.analyses.attribution.method import Attribution, Method
from onnxviz.core.errors import AnalysisError
from onnxviz.core.wording import listed

if TYPE_CHECKING:
    import numpy as np
    import torch

    from onnxviz.analyses.attribution.question import Question

Baseline = Literal["zero", "black", "white", "blur"]
Rule = Literal["gauss_legendre", "midpoint", "left", "right"]


def quadrature(rule: Rule, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where in 0..1 to look and with what weight, which sum up to 1; float64 [steps] each.

    "gauss_legendre" is exact for polynomials of degree 2 · steps - 1, the others are Riemann sums.
    """
    import numpy as np

    if rule == "gauss_legendre":
        places, weights = np.polynomial.legendre.leggauss(steps)
        return 0.5 * (1.0 + places), 0.5 * weights
    offset = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
    return (np.arange(steps) + offset) / steps, np.full(steps, 1.0 / steps)


def path_integral(
    question: Question,
    samples: int,
    start: Callable[[int, int], torch.Tensor],
    place_and_weight: Callable[[int, int], tuple[float, float]],
) -> torch.Tensor:
    """Return the sums over samples of weight · (image - start) · gradient at start + place · (image - start).

    Args:
        question: what is asked.
        samples: gradients for each image.
        start: of an image's place and a sample's number, where the way to the image starts, [channels, h, w].
        place_and_weight: of the same, how far on the way the gradient is taken, 0..1, and its weight.

    Returns:
        [N, channels, h, w].
    """
    import torch

    images = question.images
    total = torch.zeros_like(images)
    for owners, numbers in question.in_passes(samples):
        pairs = list(zip(owners, numbers, strict=True))
        starts = torch.stack([start(*pair) for pair in pairs])
        away = images[owners] - starts
        places, weights = (
            torch.tensor(each, dtype=torch.float32, device=images.device)[:, None, None, None]
            for each in zip(*(place_and_weight(*pair) for pair in pairs), strict=True)
        )
        _, gradients = question.slopes(torch.addcmul(starts, places, away), owners)
        for owner, share in zip(owners, gradients.mul_(away).mul_(weights), strict=True):
            total[owner] += share  # in order: a GPU's `index_add_` is not the same bits each time
    return total


def scores_only(question: Question, images: torch.Tensor, owners: list[int]) -> torch.Tensor:
    """Return the scores of changed images by the network that gradients are taken of, float64 [M]."""
    import torch

    with torch.no_grad():
        return question.slopes(images, owners)[0].double()


def completed(question: Question, shares: torch.Tensor, start_scores: torch.Tensor, said: str) -> Attribution:
    """Return pixels' shares as maps, with how far they are from adding up to the difference of scores.

    Args:
        question: what is asked.
        shares: [N, channels, h, w].
        start_scores: scores where the ways started, their mean where there are several: float64 [N].
        said: how they were made.

    Returns:
        With facts float64 [N]; the error is not a number where both scores are the same.
    """
    difference = question.scores.double() - start_scores
    error = (shares.double().flatten(1).sum(dim=1) - difference).abs() / difference.abs()
    error[difference == 0] = float("nan")
    facts = {"completeness error": error, "score at the baseline": start_scores}
    return Attribution((shares.sum(dim=1),), facts, said)


# --- from chosen images -----------------------------------------------------------------------------------------------


def _once(names: tuple[Baseline, ...]) -> tuple[Baseline, ...]:
    if len(set(names)) < len(names):
        raise ValueError("each baseline may be named once")
    return names


class IntegratedGradients(Method):
    """Each pixel's share of the score: gradients on the way from a baseline, where there is nothing, to the image.

    With b the baseline, x the image and y the score, a pixel's share is the sum over its channels of (x - b) · ∫ dy/dx
    at b + α (x - b) over α from 0 to 1 (equation 1 of Sundararajan et al. 2017). All shares together are what the image
    has more than the baseline: the completeness error says how far the sum is off, relative to this difference. A pixel
    of the baseline's colour has no share, whatever it shows: with several baselines, whose shares are averaged, there
    are fewer of these (Sturmfels et al. 2020).
    """

    method: Literal["integrated_gradients"] = "integrated_gradients"
    steps: int = Field(50, ge=1, le=10_000, description="Gradients on the way from each baseline to the image.")
    rule: Rule = Field(
        "gauss_legendre", description="Where on the way gradients are taken: by Gauss and Legendre, or evenly."
    )
    baselines: Annotated[tuple[Baseline, ...], AfterValidator(_once)] = Field(
        ("zero",),
        min_length=1,
        description="Where ways start: at the image that the network sees as zeros (mostly the mean colour of "
        "photographs), black (the lowest number there is), white (the highest), the image blurred.",
    )
    blur: float = Field(
        0.05, gt=0, le=0.5, description="Standard deviation of the blur, as a part of the image's shorter side."
    )
    heading: ClassVar[str] = "Integrated Gradients"
    shows: ClassVar[Literal["layers", "pixels"]] = "pixels"
    signed: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = (
        "Sundararajan, Taly and Yan 2017, Axiomatic attribution for deep networks, arXiv:1703.01365",
        "Sturmfels, Lundberg and Lee 2020, Visualizing the impact of feature attribution baselines, "
        "doi:10.23915/distill.00022",
    )

    def attribute(self, question: Question) -> Attribution:
        """Return the sums over channels, averaged over the baselines."""
        import torch

        images, count = question.images, len(self.baselines)
        starts = [self._baseline(name, question).expand_as(images) for name in self.baselines]
        places, weights = quadrature(self.rule, self.steps)
        shares = path_integral(
            question,
            count * self.steps,
            lambda owner, number: starts[number // self.steps][owner],
            lambda _, number: (places[number % self.steps], weights[number % self.steps] / count),
        )
        everyone = list(range(len(images)))
        scores = torch.stack([scores_only(question, start, everyone) for start in starts])
        return completed(question, shares, scores.mean(dim=0), self._said(question))

    def cost(self, layers: int) -> float:  # noqa: ARG002 - nothing of layers
        """A pass there and back for each step, and one there for each baseline."""
        return len(self.baselines) * (3.0 * self.steps + 1.0)

    def _baseline(self, name: Baseline, question: Question) -> torch.Tensor:
        import torch

        if name == "zero":
            return question.zero
        if name == "blur":
            from onnxviz.optimize.gaussian import gaussian_blur

            return gaussian_blur(question.images, self.blur * min(question.images.shape[2:]))
        return torch.full_like(question.images[:1], 0.0 if name == "black" else 1.0)

    def _said(self, question: Question) -> str:
        domain = question.model.domain
        low, high = domain.preprocessing.range
        words = {
            "zero": "the image that the network sees as zeros ("
            + "/".join(f"{low + (high - low) * float(number):.4g}" for number in question.zero.flatten())
            + ")",
            "black": "a black image" if domain.photographic else f"an image of {low:g} in all channels",
            "white": "a white image" if domain.photographic else f"an image of {high:g} in all channels",
            "blur": f"the image blurred by {self.blur * min(question.images.shape[2:]):.3g} pixels",
        }
        rule = "Gauss-Legendre quadrature" if self.rule == "gauss_legendre" else f"a {self.rule} Riemann sum"
        several = " each, averaged" if len(self.baselines) > 1 else ""
        plain = len(self.baselines) == 1 and self.baselines != ("blur",)
        blind = " Where the image is like that it has no share, whatever it shows." if plain else ""
        return (
            f"From {listed(words[name] for name in self.baselines)} in {self.steps} steps{several}, by {rule}.{blind}"
        )


# --- from other images ------------------------------------------------------------------------------------------------


class ExpectedGradients(Method):
    """Each pixel's share of what sets the image apart from others of the data: gradients on the ways from these.

    The mean of (x - x') · dy/dx at x' + α (x - x') over images x' of the data and α uniform in 0..1 (equation 3 of
    Erion et al. 2019), estimated: ways start at each reference but the image itself, equally often give or take one,
    and one α is drawn from each of as many equal parts of 0..1 as there are samples. This leaves the mean as it is and
    lowers the variance. The completeness error is that of these samples.
    """

    method: Literal["expected_gradients"] = "expected_gradients"
    samples: int = Field(100, ge=1, le=10_000, description="Gradients for each image.")
    count: int = Field(50, ge=1, le=1000, description="How many images of the data ways start at.")
    heading: ClassVar[str] = "Expected Gradients"
    shows: ClassVar[Literal["layers", "pixels"]] = "pixels"
    signed: ClassVar[bool] = True
    cites: ClassVar[tuple[str, ...]] = (
        "Erion, Janizek, Sturmfels, Lundberg and Lee 2019, Improving performance of deep learning models with "
        "axiomatic attribution priors and expected gradients, arXiv:1906.10670",
    )

    def references(self) -> int:
        """Return how many images of the data set it reads."""
        return self.count

    def attribute(self, question: Question) -> Attribution:
        """Return the sums over channels."""
        import torch

        given = question.references
        if given is None or len(given) == 0:
            raise AnalysisError(
                "Expected Gradients compares with other images of the data, and there are none",
                remedy="give a data set of several images, or use integrated_gradients",
            )
        references = given[: self.count]
        ways = [self._ways(question, owner, references) for owner in range(len(question.images))]
        shares = path_integral(
            question,
            self.samples,
            lambda owner, number: references[ways[owner][0][number]],
            lambda owner, number: (ways[owner][1][number], 1.0 / self.samples),
        )
        count, first = len(references), {target: question.targets.index(target) for target in question.targets}
        known = {target: scores_only(question, references, [owner] * count) for target, owner in first.items()}
        scores = [known[question.targets[owner]][used].mean() for owner, (used, _) in enumerate(ways)]
        said = f"{self.samples} gradients for each image, on ways from {count} images of the data."
        return completed(question, shares, torch.stack(scores), said)

    def cost(self, layers: int) -> float:  # noqa: ARG002 - nothing of layers
        """A pass there and back for each sample, and one there for each reference."""
        return 3.0 * self.samples + self.count

    def _ways(self, question: Question, owner: int, references: torch.Tensor) -> tuple[list[int], list[float]]:
        """Return for each sample of an image which reference its way starts at, and how far on it the gradient is."""
        import numpy as np
        import torch

        draw = question.generator(owner, "ways")
        others = [place for place, each in enumerate(references) if not torch.equal(each, question.images[owner])]
        others = others or [0]  # nothing but the image itself
        rounds = -(-self.samples // len(others))
        used = np.concatenate([draw.permutation(others) for _ in range(rounds)])[: self.samples]
        places = (draw.permutation(self.samples) + draw.random(self.samples)) / self.samples
        return used.tolist(), places.tolist()
