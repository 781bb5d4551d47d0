"""Layer-wise relevance propagation to the pixels: a score divided among them so that their parts add up to it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from onnxviz.analyses.attribution.method import Attribution, Method
from onnxviz.core.errors import AnalysisError, shorten

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.attribution.question import Question
    from onnxviz.analyses.attribution.relevance.propagation import Rules

_BACH = "Bach et al. 2015, On Pixel-Wise Explanations for Non-Linear Classifier Decisions by LRP, PLoS ONE 10(7)"
_LITTLE = 0.1
"""Part of the score at the pixels below which it is said that it is little."""
_OVERVIEW = "Montavon et al. 2019, Layer-Wise Relevance Propagation: An Overview, LNCS 11700"


class RelevancePropagation(Method):
    """Base of the kinds of relevance propagation, which differ by their rules for layers with weights."""

    shows: ClassVar[Literal["layers", "pixels"]] = "pixels"
    signed: ClassVar[bool] = True

    @abstractmethod
    def rules(self, question: Question) -> Rules:
        """Return the rules, for the images of a question."""

    @property
    @abstractmethod
    def rules_in_words(self) -> str:
        """The rules, as a part of a sentence."""

    def attribute(self, question: Question) -> Attribution:
        """Return the relevance of each pixel: the sum over its channels at the network's input.

        Raises:
            AnalysisError: if relevance grows without bound on its way.
        """
        import torch

        from onnxviz.analyses.attribution.question import gradients_of, score_of
        from onnxviz.analyses.attribution.relevance.propagation import Propagation

        forward, rules, unruled = (
            question.model.differentiable(question.targets[0].layers),
            self.rules(question),
            set[str](),
        )

        def work(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
            images = question.images[start:stop].detach().requires_grad_()
            with Propagation(rules) as mode:  # anew for each pass: it counts the layers that the image reaches first
                score = score_of(question.targets[start:stop], forward(images))
                (relevance,) = gradients_of(score, [images], keep_tape=False)
            unruled.update(mode.unruled)
            return score.detach(), relevance

        parts = question.in_parts(work, self.heading)
        scores, relevance = (torch.cat(each) for each in zip(*parts, strict=True))
        maps = relevance.sum(dim=1)
        self.require_finite(question, (maps,))
        reached = maps.sum(dim=(1, 2))
        said = self._in_words(unruled)
        if bool((reached.abs() < _LITTLE * scores.abs()).all()):
            said += " Here less than a tenth of the score reaches the pixels: the map says where that lies."
        return Attribution((maps,), {"completeness error": (reached - scores).abs() / scores.abs()}, said)

    def require_finite(self, question: Question, maps: Sequence[torch.Tensor]) -> None:
        """Raise AnalysisError if relevance grew without bound."""
        if not all(bool(each.isfinite().all()) for each in maps):
            raise AnalysisError(
                f"{self.heading} gives no finite relevance for this model",
                where=shorten(question.targets[0].title),
                remedy="leave this method out, or choose a larger `epsilon` or `gamma`",
            )

    def _in_words(self, unruled: set[str]) -> str:
        said = (
            f"Relevance is divided by {self.rules_in_words}. What it lacks to the score is the share that biases and "
            "other constants keep, and what stabilises the denominators."
        )
        if unruled:
            said += (
                f" Through {', '.join(sorted(map(shorten, unruled)))} it passed as gradient times value, for want of a "
                "rule: what that adds or loses is in the completeness error too."
            )
        return said


class LrpEpsilon(RelevancePropagation):
    """The score is divided among what adds up to it, layer by layer: in ReLU networks the gradient times the input.

    Every layer with weights has the epsilon rule. A larger epsilon leaves out what contributes little or cancels.
    """

    method: Literal["lrp_epsilon"] = "lrp_epsilon"
    heading: ClassVar[str] = "LRP epsilon"
    cites: ClassVar[tuple[str, ...]] = (_BACH,)
    epsilon: float = Field(1e-6, gt=0, description="What is added to each denominator, with its sign.")

    def rules(self, question: Question) -> Rules:  # noqa: ARG002 - the same for all
        """Return epsilon for all."""
        from onnxviz.analyses.attribution.relevance.propagation import Rules
        from onnxviz.analyses.attribution.relevance.rules import Epsilon

        return Rules(Epsilon(self.epsilon), Epsilon(self.epsilon))

    @property
    def rules_in_words(self) -> str:
        """The rule and its setting."""
        return f"the epsilon rule (epsilon {self.epsilon:g}) in every layer with weights"

    def cost(self, layers: int) -> float:  # noqa: ARG002 - of pixels
        """Estimate: a pass there and back, and each product once more."""
        return 6.0


class LrpGamma(RelevancePropagation):
    """The score is divided among what adds up to it, with more for what speaks for it than for what speaks against it.

    Every layer with weights has the gamma rule.
    """

    method: Literal["lrp_gamma"] = "lrp_gamma"
    heading: ClassVar[str] = "LRP gamma"
    cites: ClassVar[tuple[str, ...]] = (_BACH, _OVERVIEW)
    gamma: float = Field(0.25, ge=0, description="How much more positive contributions count; 0 treats all alike.")

    def rules(self, question: Question) -> Rules:  # noqa: ARG002 - the same for all
        """Return gamma for all."""
        from onnxviz.analyses.attribution.relevance.propagation import Rules
        from onnxviz.analyses.attribution.relevance.rules import Gamma

        return Rules(Gamma(self.gamma), Gamma(self.gamma))

    @property
    def rules_in_words(self) -> str:
        """The rule and its setting."""
        return f"the gamma rule (gamma {self.gamma:g}) in every layer with weights"

    def cost(self, layers: int) -> float:  # noqa: ARG002 - of pixels
        """Estimate: a pass, and products of positive and negative parts on the way back."""
        return 12.0


class Composite(RelevancePropagation):
    """Base of what has a rule for each kind of layer.

    Dense layers have the epsilon rule, convolutions one that favours what speaks for the score, and the layers that the
    image reaches first one that knows the pixels' range or divides equally. With `plus` and `flat` these are the rules
    that Kohlbrenner et al. 2020 found best (zennit's EpsilonPlusFlat), with `gamma` and `box` those of Montavon et al.
    2019 (zennit's EpsilonGammaBox).
    """

    cites: ClassVar[tuple[str, ...]] = (
        _BACH,
        _OVERVIEW,
        "Kohlbrenner et al. 2020, Towards Best Practice in Explaining Neural Network Decisions with LRP, "
        "arXiv:1910.09840",
    )
    convolutions: Literal["gamma", "plus", "epsilon"] = Field("gamma", description="The rule of convolutions.")
    first: Literal["box", "flat", "same"] = Field(
        "box",
        description="The rule of the layers that the image reaches first: between the darkest and the brightest image, "
        "the same share for each pixel that a result is made of, or that of the other layers.",
    )
    gamma: float = Field(0.25, ge=0, description="How much more positive contributions count by the gamma rule.")
    epsilon: float = Field(1e-6, gt=0, description="What is added to each denominator by the epsilon rule.")

    def rules(self, question: Question) -> Rules:
        """Return the rules by kind and place of a layer."""
        from onnxviz.analyses.attribution.relevance import rules
        from onnxviz.analyses.attribution.relevance.propagation import Rules

        dense = rules.Epsilon(self.epsilon)
        kinds: dict[str, rules.Rule] = {"gamma": rules.Gamma(self.gamma), "plus": rules.Plus(), "epsilon": dense}
        first: rules.FirstRule | None = rules.flat if self.first == "flat" else None
        if self.first == "box":
            first = rules.Box(_limits(question))
        return Rules(kinds[self.convolutions], dense, first)

    @property
    def rules_in_words(self) -> str:
        """The rules and their settings."""
        gamma = f" (gamma {self.gamma:g})" if self.convolutions == "gamma" else ""
        first = {
            "box": "the box rule (zB, between a black and a white image)",
            "flat": "the flat rule",
            "same": "the rule of its kind",
        }
        return (
            f"the {self.convolutions} rule{gamma} in convolutions, the epsilon rule (epsilon {self.epsilon:g}) in "
            f"dense layers, and {first[self.first]} in the layers that the image reaches first"
        )

    def cost(self, layers: int) -> float:  # noqa: ARG002 - of pixels
        """Estimate: a pass, products of positive parts on the way back, and two images for the pixels' range."""
        return 14.0


class LrpComposite(Composite):
    """The score is divided layer by layer, with the rule that suits the depth: the usual choice for networks of images.

    Dense layers have the epsilon rule, convolutions one that favours what speaks for the score, and the layers that the
    image reaches first one that knows the pixels' range or divides equally.
    """

    method: Literal["lrp"] = "lrp"
    heading: ClassVar[str] = "LRP composite"


class LayerRelevance(Composite):
    """The relevance of the positions of layers on its way to the pixels: the sum over the units at each."""

    method: Literal["lrp_layers"] = "lrp_layers"
    heading: ClassVar[str] = "LRP at layers"
    shows: ClassVar[Literal["layers", "pixels"]] = "layers"

    def attribute(self, question: Question) -> Attribution:
        """Return the relevance of each position of each layer.

        Raises:
            AnalysisError: if relevance grows without bound on its way.
        """
        import torch

        from onnxviz.analyses.attribution.question import gradients_of, score_of
        from onnxviz.analyses.attribution.relevance.propagation import Propagation
        from onnxviz.model.maps import to_map

        layers, targets = question.layers, question.targets[0].layers
        outputs = list(dict.fromkeys((*layers, *targets)))
        forward, rules, unruled = question.model.differentiable(outputs), self.rules(question), set[str]()

        def work(start: int, stop: int) -> list[torch.Tensor]:
            images = question.images[start:stop].detach().requires_grad_()
            with Propagation(rules) as mode:
                values = dict(zip(outputs, forward(images), strict=True))
                score = score_of(question.targets[start:stop], [values[layer] for layer in targets])
                given = [mode.behind(values[layer]) for layer in layers]
                carried = gradients_of(score, given)
            unruled.update(mode.unruled)
            pairs = zip(layers, given, carried, strict=True)
            return [to_map(layer, mode.relevance(value, each)).sum(dim=1) for layer, value, each in pairs]

        maps = tuple(torch.cat(parts) for parts in zip(*question.in_parts(work, self.heading), strict=True))
        self.require_finite(question, maps)
        return Attribution(maps, said=self._in_words(unruled))


class AttnLrp(RelevancePropagation):
    """The score of a transformer, divided among all that adds up to it or weighs it, attention included.

    Products of computed matrices divide relevance equally, the softmax by its Taylor expansion, layer normalisation
    divides by a constant.
    """

    method: Literal["attn_lrp"] = "attn_lrp"
    heading: ClassVar[str] = "AttnLRP"
    cites: ClassVar[tuple[str, ...]] = (
        "Achtibat et al. 2024, AttnLRP: Attention-Aware Layer-wise Relevance Propagation for Transformers, "
        "arXiv:2402.05602",
    )
    gamma_convolutions: float = Field(
        0.25, ge=0, description="Gamma of convolutions, such as the embedding of patches; 0 for the epsilon rule."
    )
    gamma_dense: float = Field(0.05, ge=0, description="Gamma of dense layers; 0 for the epsilon rule.")

    def rules(self, question: Question) -> Rules:  # noqa: ARG002 - the same for all
        """Return gamma where it is not zero, and else epsilon."""
        from onnxviz.analyses.attribution.relevance.propagation import Rules
        from onnxviz.analyses.attribution.relevance.rules import Epsilon, Gamma

        convolution, dense = (
            Gamma(gamma) if gamma else Epsilon() for gamma in (self.gamma_convolutions, self.gamma_dense)
        )
        return Rules(convolution, dense)

    @property
    def rules_in_words(self) -> str:
        """The rules and their settings."""
        convolution, dense = (
            f"the gamma rule (gamma {gamma:g})" if gamma else "the epsilon rule"
            for gamma in (self.gamma_convolutions, self.gamma_dense)
        )
        return (
            f"{convolution} in convolutions, {dense} in dense layers, equally between the factors of products of "
            "computed values, and by the derivative at the softmax of attention"
        )

    def cost(self, layers: int) -> float:  # noqa: ARG002 - of pixels
        """Estimate: a pass, and products of positive and negative parts on the way back."""
        return 12.0


def _limits(question: Question) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Return for each layer that the image reaches first what it is given of a black and of a white image."""
    import torch

    from onnxviz.analyses.attribution.relevance.propagation import Propagation, Rules
    from onnxviz.analyses.attribution.relevance.rules import Epsilon

    model = question.model
    forward = model.differentiable(question.targets[0].layers)
    given: list[list[torch.Tensor]] = []
    for colour in (0.0, 1.0):
        image = torch.full_like(question.images[:1], colour).expand(model.view.batch or 1, -1, -1, -1)
        with Propagation(Rules(Epsilon(), Epsilon())) as mode:
            forward(image.clone().requires_grad_())
        given.append([value[:1] for value in mode.first_values])
    return tuple(
        (torch.minimum(black, white), torch.maximum(black, white)) for black, white in zip(*given, strict=True)
    )
