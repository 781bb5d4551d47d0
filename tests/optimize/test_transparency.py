"""Images with opacity: their penalty, the backgrounds they are put on, and starts from pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from onnxviz.optimize.parameterizations import (
    Pixel,
    Transparent,
)
from onnxviz.optimize.parameterizations.alpha import composite
from tests.optimize.test_parameterizations import (
    adam,
    canvas,
    edge_and_colour,
    generators,
    pictures,
    sigmoid,
    slow_planes,
)


def test_opacity_is_the_sigmoid_of_its_own_spectrum() -> None:
    size = (6, 8)
    form = Transparent(own=Pixel(), opacity=0.3, decay=0.5)
    painter = form.painter(canvas(size))
    parameters = painter.start(generators(0), None)
    parameters += torch.randn(parameters.shape, generator=torch.Generator().manual_seed(1))
    images = painter.paint(parameters)
    pairs = parameters[0, :60].double().numpy().reshape(6, 5, 2)
    logits = slow_planes(pairs[..., 0] + 1j * pairs[..., 1], *size, 0.5) + np.log(0.3 / 0.7)
    np.testing.assert_allclose(images[0, 3], sigmoid(logits), atol=1e-5)
    np.testing.assert_allclose(images[:, :3], Pixel().painter(canvas(size)).paint(parameters[:, 60:].view(1, 3, 6, 8)))
    transparency = np.mean(1 - sigmoid(logits))
    assert float(painter.penalty(parameters)) == pytest.approx(-np.log(transparency), rel=1e-4)
    twice = form.model_copy(update={"weight": 2.0}).painter(canvas(size)).penalty(parameters)
    assert float(twice) == pytest.approx(-2 * np.log(transparency), rel=1e-4)


def test_the_penalty_climbs_where_lucids_product_does() -> None:
    """∇(a · t) is t · ∇(a - a · penalty), with a in the second place held constant, for t the mean transparency."""
    painter = Transparent(own=Pixel()).painter(canvas())
    leaf = painter.start(generators(0), None).requires_grad_(True)
    background = pictures(1, (9, 12))

    def activation() -> Tensor:
        return edge_and_colour(composite(painter.paint(leaf), background)).sum() + 2.0

    transparency = (1 - painter.paint(leaf)[:, 3]).mean()
    (product,) = torch.autograd.grad(activation() * transparency, leaf)
    loop = activation() - activation().detach() * painter.penalty(leaf).sum()  # as `climb` has it
    (ours,) = torch.autograd.grad(loop, leaf)
    torch.testing.assert_close(product, transparency.detach() * ours, rtol=1e-4, atol=1e-7)


def test_an_opaque_image_can_become_transparent_again() -> None:
    painter = Transparent(opacity=0.999999).painter(canvas())
    leaf = (painter.start(generators(0), None) * 0).requires_grad_(True)
    penalty = painter.penalty(leaf)
    (gradient,) = torch.autograd.grad(penalty.sum(), leaf)
    assert 10 < float(penalty.detach()) < 20
    assert float(gradient.abs().max()) > 0.1


def test_what_is_not_needed_becomes_transparent() -> None:
    """Of an image whose left half should be brighter than its backgrounds, the left half stays."""
    painter = Transparent(backgrounds=4).painter(canvas((12, 16)))
    start = painter.start(generators(0), None)
    parameters, _ = adam(painter, start, lambda images: images[:, :, :, :8].mean(dim=(1, 2, 3)) - 0.45, 150, 0.1)
    opacity = painter.paint(parameters)[0, 3]
    assert float(opacity[:, 1:7].mean()) > 0.5
    assert float(opacity[:, 9:15].mean()) < 0.05


def test_pictures_bring_their_opacity() -> None:
    painter = Transparent().painter(canvas())
    given = torch.cat([pictures(2, (9, 12)), pictures(3, (9, 12))[2:, :2].transpose(0, 1)], dim=1)
    images = painter.paint(painter.start(generators(0, 1), given))
    torch.testing.assert_close(images, given.clamp(0.01, 0.99), rtol=0, atol=1e-5)
    opaque = painter.paint(painter.start(generators(0, 1), given[:, :3]))
    torch.testing.assert_close(opaque[:, 3], torch.full((2, 9, 12), 0.5), rtol=0, atol=1e-6)


def test_images_are_put_on_backgrounds() -> None:
    images = torch.tensor([0.8, 0.4, 0.2, 0.25]).view(1, 4, 1, 1)
    backgrounds = torch.tensor([0.0, 1.0, 0.6]).view(1, 3, 1, 1)
    expected = [0.25 * 0.8, 0.25 * 0.4 + 0.75, 0.25 * 0.2 + 0.75 * 0.6]
    assert composite(images, backgrounds).flatten().tolist() == pytest.approx(expected)


def test_backgrounds_take_turns_and_differ() -> None:
    painter = Transparent(backgrounds=3).painter(canvas((16, 24)))
    painter.start(generators(0, 1), None)
    seen = [painter.backgrounds(torch.tensor(step)) for step in range(4)]
    assert seen[0].shape == (2, 3, 16, 24)
    assert torch.equal(seen[0], seen[3])
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0][0], seen[0][1])
    assert all(0 < float(part.min()) < float(part.max()) < 1 for part in seen)


@pytest.mark.parametrize("size", [(32, 48), (33, 45), (64, 64)])
def test_backgrounds_have_the_contrast_that_was_asked_for(size: tuple[int, int]) -> None:
    from onnxviz.optimize.parameterizations.alpha import RandomFields

    planes = RandomFields(canvas(size), 1.5).draw(generators(*range(4)), 200)
    assert planes.shape == (4, 200, 3, size[0] // 4, size[1] // 4)
    assert float(planes.std()) == pytest.approx(1.5, rel=0.05)
