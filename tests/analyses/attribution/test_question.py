"""What methods of attribution read: scores and gradients of a batch whose images have targets of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import onnxviz
from onnxviz.analyses.attribution.question import ForwardPass, Question
from onnxviz.analyses.attribution.targets import ClassTarget, Difference, Target
from onnxviz.data import builtin
from onnxviz.data.images import load_batch
from onnxviz.graph.targets import resolve_head

LAYERS = ("conv4:act", "conv6:act")


@pytest.fixture(scope="module")
def model() -> onnxviz.Model:
    """The built-in network."""
    known = builtin.model("scenes")
    return onnxviz.Model(onnxviz.open_model(known.path), known.preprocessing, known.labels, "cpu")


def targets_of(model: onnxviz.Model) -> list[Target]:
    """A class for each of three images: one class twice, in places apart, and a difference between."""
    head = resolve_head(model.view, None, model.labels)
    first, second, third = (ClassTarget(head, number) for number in range(3))
    return [first, Difference(second, third), first]


def ask(model: onnxviz.Model, *, to_input: bool = True) -> Question:
    """The question of three images at two layers."""
    images = load_batch(builtin.scenes(count=3), range(3), model.preprocessing, model.input_size)
    layers = [model.view.layer(name) for name in LAYERS]
    forward = ForwardPass(model, torch.from_numpy(images), layers, [model.view.logits], to_input=to_input)
    return forward.ask(targets_of(model), indices=(4, 5, 6), seed=1)


def one_by_one(model: onnxviz.Model, place: int, question: Question) -> tuple[float, list[torch.Tensor]]:
    """Score and gradients of one image alone, by hand."""
    image = question.images[place : place + 1].clone().requires_grad_()
    *values, logits = model.differentiable([*LAYERS, model.view.logits])(image)
    flat = logits.reshape(-1)
    score = flat[1] - flat[2] if place == 1 else flat[0]
    return score.item(), list(torch.autograd.grad(score, [*values, image]))


@pytest.mark.parametrize("to_input", [True, False])
def test_each_image_is_asked_for_its_own_target(model: onnxviz.Model, to_input: bool) -> None:
    question = ask(model, to_input=to_input)
    for place in range(3):
        score, gradients = one_by_one(model, place, question)
        assert float(question.scores[place]) == pytest.approx(score, rel=1e-5)
        for found, wanted in zip((*question.gradients, question.input_gradient), gradients, strict=True):
            assert float(wanted.abs().max()) > 0
            torch.testing.assert_close(
                found[place : place + 1], wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max())
            )


def test_changed_images_are_scored_by_their_owners_targets(model: onnxviz.Model) -> None:
    question = ask(model)
    owners = [2, 1, 1, 0] * 5  # more than share a pass
    images = question.images[owners] * 0.5
    scores, gradients = question.slopes(images, owners)
    measured = question.measure(images, owners)
    torch.testing.assert_close(scores.double(), measured, rtol=1e-4, atol=1e-4)
    for place in range(4):
        image = images[place : place + 1].clone().requires_grad_()
        (values,) = model.differentiable(model.view.logits)(image)
        score = question.targets[owners[place]].score(values)
        (wanted,) = torch.autograd.grad(score.sum(), image)
        assert float(measured[place]) == pytest.approx(float(score), rel=1e-4, abs=1e-4)
        for copy in range(place, len(owners), 4):
            torch.testing.assert_close(gradients[copy], wanted[0], rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_the_zero_image_is_seen_as_zeros(model: onnxviz.Model) -> None:
    for name in ("caffe", "imagenet", "gray_unit", "tf"):
        question = ask(onnxviz.Model(model.view, onnxviz.core.values.PRESETS[name], device="cpu"))
        zero = question.zero.expand(1, -1, *question.images.shape[2:])
        assert float(question.model._encode(zero).abs().max()) < 1e-5


def test_random_numbers_belong_to_the_image_not_to_its_place(model: onnxviz.Model) -> None:
    question = ask(model)
    again = question._forward.ask(question.targets, indices=(6, 5, 4), seed=1)
    first = question.generator(0).random(4)
    assert np.array_equal(first, again.generator(2).random(4))
    assert not np.array_equal(first, question.generator(1).random(4))
    assert not np.array_equal(first, question.generator(0, "noise").random(4))


def test_a_layer_that_the_score_does_not_depend_on_has_no_gradient(model: onnxviz.Model) -> None:
    images = torch.rand(2, 3, *model.input_size)
    early, late = model.view.layer(LAYERS[0]), model.view.layer(LAYERS[1])
    forward = ForwardPass(model, images, [late], [early], to_input=True)
    question = forward.ask([_Mean(early)] * 2)
    assert float(question.gradients[0].abs().max()) == 0
    assert float(question.input_gradient.abs().max()) > 0


class _Mean(Target):
    """The mean of a layer."""

    def __init__(self, layer: onnxviz.Layer) -> None:
        self._layer = layer

    title, layers = "mean", property(lambda self: (self._layer,))  # type: ignore[assignment]

    def score(self, values: torch.Tensor) -> torch.Tensor:
        return values.flatten(1).mean(dim=1)
