"""Class activation maps whose weights are scores: of images that show one channel only, or with one left out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator, Sequence
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


_KEPT_BYTES = 256 << 20
"""What passes gave that other targets can use is kept up to this size, for one pass of images."""
_NONE = -1
"""Stands for no unit."""


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

    @abstractmethod
    def outputs(
        self, question: Question, place: int, owners: Sequence[int], units: Sequence[int]
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield what the targets' layers give, some at a time, for a change by each unit of an image, in order."""

    def scores(self, question: Question, place: int, owners: Sequence[int], units: Sequence[int]) -> torch.Tensor:
        """Return the scores, float64 [M] on the CPU; what passes gave is kept for other targets, where it is small."""
        import torch

        from onnxviz.analyses.attribution.question import score_of

        kept: dict[Hashable, Sequence[tuple[torch.Tensor, ...]]] = question.kept.setdefault(CamByScores, {})
        targets, key = [question.targets[owner] for owner in owners], (self, question.layers[place])
        room = _KEPT_BYTES - sum(each.nbytes for parts in kept.values() for values in parts for each in values)
        parts: list[tuple[torch.Tensor, ...]] = []
        found: list[torch.Tensor] = []
        done = 0
        for values in kept.get(key) or self.outputs(question, place, owners, units):
            stop = done + len(values[0])
            found.append(score_of(targets[done:stop], values).double().cpu())
            done, room = stop, room - sum(each.nbytes for each in values)
            parts = [*parts, values] if room >= 0 else []
        if room >= 0 and key not in kept:
            kept[key] = parts
        return torch.cat(found)

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

        activations = question.activations[place]
        flat = activations.flatten(2).cpu()
        constant = chosen & (flat.amax(dim=2) == flat.amin(dim=2))
        first = constant & (constant.cumsum(dim=1) == 1)  # all of them mask alike: one is measured
        owners, units = (chosen & ~constant | first).nonzero().T.tolist()
        scores = torch.full(chosen.shape, -torch.inf, dtype=torch.float64)
        scores[owners, units] = self.scores(question, place, owners, units)
        return torch.where(constant, scores.where(first, 0).sum(dim=1, keepdim=True), scores).softmax(dim=1)

    def outputs(
        self, question: Question, place: int, owners: Sequence[int], units: Sequence[int]
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield what the images give that are theirs where a channel is active."""
        import torch
        from torch.nn import functional

        from onnxviz.analyses.attribution.question import TOGETHER
        from onnxviz.analyses.stream import measured

        size, blank = question.images.shape[2:], question.zero.clamp(0, 1)
        names = [layer.name for layer in question.targets[0].layers]
        together = question.model.view.batch or TOGETHER
        for start in range(0, len(owners), together):
            part = slice(start, start + together)
            channels = question.activations[place][owners[part], units[part]]
            masks = functional.interpolate(channels[:, None], size=size, mode="bilinear", align_corners=True)
            masks = masks - masks.amin(dim=(2, 3), keepdim=True)
            masks = masks / (masks.amax(dim=(2, 3), keepdim=True) + 1e-8)
            masked = blank + (question.images[owners[part]] - blank) * masks
            given = measured(question.model, masked.cpu().numpy(), names)
            yield tuple(torch.from_numpy(given[name]) for name in names)


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

        drops = torch.zeros(chosen.shape, dtype=torch.float64)
        if not self._following(question, place).reaches:
            return drops
        # A channel that is zero adds nothing to the map; first come the images as they are, by the same kernels.
        active = question.activations[place].abs().flatten(2).amax(dim=2).cpu() > 0
        owners, units = (chosen & active).nonzero().T.tolist()
        count = len(chosen)
        scores = self.scores(question, place, [*range(count), *owners], [_NONE] * count + units)
        drops[owners, units] = scores[owners] - scores[count:]
        return drops

    def outputs(
        self, question: Question, place: int, owners: Sequence[int], units: Sequence[int]
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield what follows from the layer with a unit set to zero."""
        from onnxviz.analyses.attribution.question import TOGETHER

        model, layers, following = question.model, question.targets[0].layers, self._following(question, place)
        fixed, size, count, what = model.view.batch, model.input_size, len(owners), "Ablation-CAM"
        together = fixed or choose_batch(
            model, min(TOGETHER, count), lambda: pass_bytes(model.view, size, question.images.shape[2:], layers), what
        )
        missing = -count % fixed if fixed else 0
        owners, units = [*owners, *[owners[-1]] * missing], [*units, *[units[-1]] * missing]

        def work(start: int, stop: int) -> tuple[torch.Tensor, ...]:
            values = following.values[owners[start:stop]]
            for row, unit in enumerate(units[start:stop]):
                if unit != _NONE:
                    values[row, unit] = 0
            return following(values, owners[start:stop])

        for start, _, values in run_batches(model, len(owners), together, work, what, fixed=bool(fixed)):
            yield tuple(each[: count - start] for each in values)

    def _following(self, question: Question, place: int) -> Continuation:
        """Return the network from the layer on."""
        from onnxviz.model.continuation import Continuation

        return Continuation(question.model, question.images, question.layers[place], question.targets[0].layers)
