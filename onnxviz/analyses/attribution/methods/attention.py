"""Where a transformer attends: maps of the patches, made of its maps of attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from onnxviz.analyses.attribution.method import Attribution, Method

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.attribution.attention_maps import AttentionMaps
    from onnxviz.analyses.attribution.question import Question
    from onnxviz.core.values import Layer, Tokens


_WHAT = "Attribution by maps of attention"


class AttentionRollout(Method):
    """How much of each patch attention brings to where the score is read, through all blocks: the same for each class.

    With A_l the attention of block l, its mean over the heads, and I for the residual connection (Abnar and Zuidema
    2020, section 3):

        rollout = (A_L / 2 + I / 2) ... (A_1 / 2 + I / 2)

    of which the rows are taken that the score is read from: the class token's, or all where tokens are pooled.
    """

    method: Literal["attention_rollout"] = "attention_rollout"
    heading: ClassVar[str] = "Attention rollout"
    shows: ClassVar[Literal["layers", "pixels"]] = "pixels"
    cites: ClassVar[tuple[str, ...]] = (
        "Abnar and Zuidema 2020, Quantifying Attention Flow in Transformers, arXiv:2005.00928",
    )

    def attribute(self, question: Question) -> Attribution:
        """Return the attention to each patch, [N, rows, columns] of the grid of patches.

        Raises:
            AnalysisError: if there are no maps of attention over the tokens of one grid.
        """
        import torch

        from onnxviz.analyses.attribution.attention_maps import attention_maps
        from onnxviz.analyses.attribution.question import gradients_of, score_of

        target = question.only_layer(self.heading)
        maps = attention_maps(question.model.view, target)
        forward = question.model.differentiable([*maps.layers, maps.read, target])

        def work(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
            *attention, read, scores = forward(question.images[start:stop])
            (gradient,) = gradients_of(score_of(question.targets[start:stop], [scores]), [read])
            axis = _token_axis(maps.read)
            others = [each for each in range(1, gradient.dim()) if each != axis]
            return rollout([each.detach() for each in attention]), gradient.abs().sum(others) > 0

        rolled, rows = (torch.cat(parts) for parts in zip(*question.in_parts(work, _WHAT), strict=True))
        weights = rows / rows.sum(dim=1, keepdim=True).clamp(min=1)
        patches = torch.einsum("nq,nqk->nk", weights, rolled)
        return Attribution((_on_grid(patches, maps.tokens),), said=self._in_words(maps, rows))

    def _in_words(self, maps: AttentionMaps, rows: torch.Tensor) -> str:
        tokens, length = maps.tokens, rows.shape[1]
        counts = rows.sum(dim=1)
        if tokens.before and bool((rows[:, 0] & (counts == 1)).all()):
            read = "the class token, which alone the score is read from"
        elif bool((counts == length).all()):
            read = f"all {length} tokens, which the score is read from"
        else:
            read = "those tokens that the score is read from"
        return (
            f"Attention of {len(maps.layers)} blocks, the mean over their heads, to {read}. It knows no classes: it is "
            "the same whichever is asked for. What goes to tokens that are no patches is left out."
        )

    def cost(self, layers: int) -> float:  # noqa: ARG002 - of the patches
        """Estimate: a pass, and the way back to the last tokens."""
        return 1.5


class LeGrad(Method):
    """Which patches it takes more attention to for a higher score: positive gradients at the maps of attention.

    With s_l the score that the network's own end gives the tokens behind block l, and A_l that block's attention of
    heads h from queries i to keys j (section 3 of Bousselham et al. 2024):

        map_j = mean over l, h and i of ReLU(ds_l / dA_lhij)
    """

    method: Literal["legrad"] = "legrad"
    heading: ClassVar[str] = "LeGrad"
    shows: ClassVar[Literal["layers", "pixels"]] = "pixels"
    cites: ClassVar[tuple[str, ...]] = (
        "Bousselham et al. 2024, LeGrad: An Explainability Method for Vision Transformers via Feature Formation "
        "Sensitivity, arXiv:2404.03214",
    )

    def attribute(self, question: Question) -> Attribution:
        """Return the sensitivity to attention to each patch, [N, rows, columns] of the grid of patches.

        Raises:
            AnalysisError: if there are no maps of attention over the tokens of one grid, or the network has no blocks.
        """
        import torch

        from onnxviz.analyses.attribution.attention_maps import attention_maps, block_results
        from onnxviz.analyses.attribution.question import score_of

        model, target = question.model, question.only_layer(self.heading)
        maps = attention_maps(model.view, target)
        results = block_results(model.view, maps, target)
        forward = model.differentiable([*maps.layers, *results])
        axes = {target.value: target.channel_axis} if target.channel_axis is not None else {}
        end = model.network.cut([target.value], unit_axes=axes, given=[results[-1].value])
        count = len(maps.layers)

        def work(start: int, stop: int) -> torch.Tensor:
            images = question.images[start:stop]
            made = forward(images)
            inputs = [model.encode(images) if name == model.view.input_name else None for name in model.inputs]
            total: torch.Tensor | None = None
            for attention, tokens in zip(made[:count], made[count:], strict=True):
                (scores,) = end(*inputs, tokens.movedim(1, results[-1].channel_axis or 1))
                score = score_of(question.targets[start:stop], [scores])
                (gradient,) = torch.autograd.grad(score.sum(), attention, retain_graph=True)
                part = gradient.clamp(min=0).mean(dim=(1, 2)) / count
                total = part if total is None else total + part
            assert total is not None
            return total

        patches = torch.cat(question.in_parts(work, _WHAT))
        said = (
            f"Positive gradients at the attention of {count} blocks, each with the score that the network's end "
            "gives the tokens behind that block. What goes to tokens that are no patches is left out."
        )
        return Attribution((_on_grid(patches, maps.tokens),), said=said)

    def cost(self, layers: int) -> float:  # noqa: ARG002 - of the patches
        """Estimate: a pass, and for each block the way back through it."""
        return 3.0


def rollout(attention: list[torch.Tensor]) -> torch.Tensor:
    """Return how much of each input token attention brings to each token through all blocks, [N, tokens, tokens].

    Args:
        attention: of each block [N, heads, queries, keys]; each row sums to 1.
    """
    import torch

    rolled: torch.Tensor | None = None
    for each in attention:
        mean = each.mean(dim=1)
        mixed = (mean + torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)) / 2
        rolled = mixed if rolled is None else mixed @ rolled
    assert rolled is not None, "there is attention"
    return rolled


def _on_grid(values: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """Return values of all tokens, [N, tokens], as those of the patches, [N, rows, columns]."""
    patches = values[:, tokens.before : values.shape[1] - tokens.behind]
    return patches.reshape(-1, tokens.height, tokens.width)


def _token_axis(layer: Layer) -> int:
    """Return which axis has the tokens of a layer's values, units first."""
    spatial = [axis for axis in range(len(layer.shape)) if axis not in (0, layer.channel_axis)]
    return 2 + spatial.index(layer.tokens[0].axis)
