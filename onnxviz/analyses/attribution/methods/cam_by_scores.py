"""Class activation maps whose weights are scores: of images that show one channel only, or with one left out."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from onnxviz.analyses.attribution.method import Attribution, Method
from onnxviz.analyses.attribution.methods.cam import weighted_sum
from onnxviz.core.errors import shorten
from onnxviz.core.wording import listed
from onnxviz.model.batches import choose_batch, pass_bytes, run_batches

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.attribution.question import Question
    from onnxviz.model.continuation import Continuation


class CamByScores(Method):
    """Base of the methods that weight a layer's channels by a pass for each of them."""

    shows: ClassVar[Literal["layers", "pixels"]] = "layers"

    channels: int = Field(
        512,
        ge=1,
        description="Most channels of a layer that are measured, those of the highest mean square activation in the "
        "image; each takes a pass for each layer and target. The others have no part in the map, which is said.",
    )

    @abstractmethod
    def weights(self, question: Question, place: int, chosen: torch.Tensor) -> torch.Tensor:
        """Return the weights of the channels of the layer at a place, [N, K]; 0 where `chosen`, [N, K], is false."""

    def attribute(self, question: Question) -> Attribution:
        """Return a map for each layer."""
        import torch

        maps, left_out = [], []
        for place, (layer, activations) in enumerate(zip(question.layers, question.activations, strict=True)):
            count = activations.shape[1]
            order = activations.double().square().mean(dim=(2, 3)).argsort(dim=1, descending=True, stable=True)
            chosen = torch.zeros(activations.shape[:2], dtype=torch.bool)
            chosen.scatter_(1, order[:, : self.channels].cpu(), value=True)
            maps.append(weighted_sum(self.weights(question, place, chosen).to(activations), activations).relu())
            if count > self.channels:
                left_out.append(f"{self.channels} of {count} channels of {shorten(layer.name)}")
        said = f"{self.heading} measured only {listed(left_out, 4)}, those of the highest mean square activation"
        return Attribution(tuple(maps), said=f"{said}; the others have no part in the map" if left_out else "")

    def cost(self, layers: int) -> float:
        """Estimate a pass for each channel of layers that have as many as are measured at most."""
        return float(self.channels * layers)


class ScoreCam(CamByScores):
    """Channels are weighted with the score of the image as it is where they are active, and blank elsewhere.

    With H_k the activation of channel k, scaled to 0..1 and enlarged to the image (Wang et al. 2020):

        map = ReLU(sum over k of A_k softmax over k (score of the image times H_k))

    The image times H_k is what the network sees as its input times H_k: where H_k is 0, the colour that it sees as
    zeros, or the nearest that there is. As in pytorch-grad-cam 1.5 (`score_cam.py`) masks are enlarged corners on
    corners, a channel that is the same everywhere blanks all, and scores are taken as they are: logits, of classes.
    """

    method: Literal["score_cam"] = "score_cam"
    heading: ClassVar[str] = "Score-CAM"
    needs_gradients: ClassVar[bool] = False
    cites: ClassVar[tuple[str, ...]] = ("Wang et al. 2020, Score-CAM, arXiv:1910.01279",)

    def weights(self, question: Question, place: int, chosen: torch.Tensor) -> torch.Tensor:
        """Return the softmax of the scores of the masked images."""
        import torch

        from onnxviz.analyses.attribution.question import TOGETHER

        activations = question.activations[place]
        flat = activations.flatten(2).cpu()
        constant = chosen & (flat.amax(dim=2) == flat.amin(dim=2))
        first = constant & (constant.cumsum(dim=1) == 1)  # all of them mask alike: one is measured
        owners, units = (chosen & ~constant | first).nonzero().T.tolist()
        scores = torch.full(chosen.shape, -torch.inf, dtype=torch.float64)
        fixed = question.model.view.batch or 1
        together = -(-TOGETHER // fixed) * fixed
        for start in range(0, len(owners), together):
            part = slice(start, start + together)
            masked = self._masked(question, activations[owners[part], units[part]], owners[part])
            scores[owners[part], units[part]] = question.measure(masked, owners[part])
        return torch.where(constant, scores.where(first, 0).sum(dim=1, keepdim=True), scores).softmax(dim=1)

    def _masked(self, question: Question, channels: torch.Tensor, owners: list[int]) -> torch.Tensor:
        """Return images [M, C, H, W] that are theirs where channels [M, h, w] are active."""
        from torch.nn import functional

        size = question.images.shape[2:]
        masks = functional.interpolate(channels[:, None], size=size, mode="bilinear", align_corners=True)
        masks = masks - masks.amin(dim=(2, 3), keepdim=True)
        masks = masks / (masks.amax(dim=(2, 3), keepdim=True) + 1e-8)
        blank = question.zero.clamp(0, 1)
        return blank + (question.images[owners] - blank) * masks


class AblationCam(CamByScores):
    """Channels are weighted with what the score loses when they are set to zero.

    With y the score and y_k the score where channel k is zero (Ramaswamy and Desai 2020):

        map = ReLU(sum over k of A_k (y - y_k))

    The paper divides the weights by y, which scales the map, and turns its sign round where y is negative: that is left
    out. Of tokens a channel is set to zero in all, also in those that are no patches.
    """

    method: Literal["ablation_cam"] = "ablation_cam"
    heading: ClassVar[str] = "Ablation-CAM"
    cites: ClassVar[tuple[str, ...]] = (
        "Ramaswamy and Desai 2020, Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free "
        "Localization, WACV 2020",
    )

    def weights(self, question: Question, place: int, chosen: torch.Tensor) -> torch.Tensor:
        """Return the drops of the score."""
        import torch

        from onnxviz.model.continuation import Continuation

        layer = question.layers[place]
        following = Continuation(question.model, question.images, layer, question.targets[0].layers)
        drops = torch.zeros(chosen.shape, dtype=torch.float64)
        if not following.reaches:
            return drops
        # A channel that is zero already changes nothing; first come the images as they are, by the same kernels.
        active = following.values.abs().flatten(2).amax(dim=2).cpu() > 0
        owners, units = (chosen & active).nonzero().T.tolist()
        count = len(chosen)
        scores = _scores_without(question, following, [*range(count), *owners], [None] * count + units)
        drops[owners, units] = scores[owners] - scores[count:]
        return drops


def _scores_without(
    question: Question, following: Continuation, owners: list[int], units: list[int | None]
) -> torch.Tensor:
    """Return the scores, float64 [M] on the CPU, of images with a unit of a layer set to zero, or none."""
    import torch

    from onnxviz.analyses.attribution.question import TOGETHER, score_of

    model, layers = question.model, question.targets[0].layers
    fixed, size, count, what = model.view.batch, model.input_size, len(owners), "Ablation-CAM"
    together = fixed or choose_batch(
        model, min(TOGETHER, count), lambda: pass_bytes(model.view, size, question.images.shape[2:], layers), what
    )
    missing = -count % fixed if fixed else 0
    owners, units = owners + owners[-1:] * missing, units + units[-1:] * missing

    def work(start: int, stop: int) -> torch.Tensor:
        part = owners[start:stop]
        values = following.values[part]
        for row, unit in enumerate(units[start:stop]):
            if unit is not None:
                values[row, unit] = 0
        return score_of([question.targets[owner] for owner in part], following(values, part)).double().cpu()

    parts = run_batches(model, len(owners), together, work, what, fixed=bool(fixed))
    return torch.cat([scores for *_, scores in parts])[:count]
