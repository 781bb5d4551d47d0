"""The views of a batch: all transforms together, each image by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from onnxviz.optimize.resampling import Resampling
from onnxviz.optimize.transforms import (
    Admix,
    AnyTransform,
    Blur,
    ColorJitter,
    Crop,
    Fill,
    Jitter,
    Noise,
    Pad,
    Rotate,
    Scale,
    Views,
    fused,
)

LIVELY = (Pad(share=0.1), Jitter(share=0.1), Scale(minimum=0.8, maximum=1.2), Rotate(degrees=15), Crop(minimum=0.8))
EVERYTHING = (*LIVELY, Blur(minimum=0.3, maximum=1.5, final=0.5), Noise(deviation=0.05), ColorJitter(), Admix())
LUCID = (
    Jitter(pixels=4),
    Scale(values=tuple(1 + (i - 5) / 50 for i in range(11))),
    Rotate(values=(*range(-10, 11), *[0] * 5)),
    Jitter(pixels=2),
)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def views(
    transforms: tuple[AnyTransform, ...], size: tuple[int, int], steps: int, *seeds: int, fill: Fill = "reflect"
) -> Views:
    return Views(transforms, size, steps, generators(*seeds), "cpu", fill)


def canvases(count: int, size: tuple[int, int], margin: tuple[int, int] = (0, 0)) -> torch.Tensor:
    height, width = size[0] + 2 * margin[0], size[1] + 2 * margin[1]
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def at(step: int) -> torch.Tensor:
    return torch.tensor(step)


def test_without_transforms_a_view_is_the_picture() -> None:
    looked = views((), (12, 16), 3, 0)
    images = canvases(1, (12, 16))
    assert looked.margin == (0, 0)
    assert torch.equal(looked.look(images, at(2)), images)
    padded = views((Pad(share=0.25),), (12, 16), 2, 0)
    canvas = canvases(1, (12, 16), padded.margin)
    assert padded.margin == (3, 4)
    assert torch.equal(padded.look(canvas, at(1)), canvas[:, :, 3:15, 4:20])
    assert torch.equal(padded.cut(canvas), canvas[:, :, 3:15, 4:20])


def test_no_amount_is_the_identity() -> None:
    still = (
        Jitter(share=0), Scale(minimum=1, maximum=1), Rotate(degrees=0), Crop(minimum=1), Blur(maximum=0),
        Noise(deviation=0), ColorJitter(brightness=0, contrast=0, saturation=0), Admix(maximum=0),
    )  # fmt: skip
    images = canvases(2, (12, 16))
    looked = views(still, (12, 16), 3, 0, 1)
    for step in range(3):
        torch.testing.assert_close(looked.look(images, at(step)), images, atol=3e-6, rtol=0)


def test_jitter_shifts_by_whole_pixels_and_pad_lets_it_look_past_the_edge() -> None:
    looked = views((Pad(share=0.25), Jitter(share=0.25)), (12, 16), 20, 5)
    canvas = canvases(1, (12, 16), (3, 4))
    draws = torch.rand((20, 2), generator=generators(5)[0])
    seen = set()
    for step in range(20):
        dx, dy = math.floor(float(draws[step, 0]) * 9) - 4, math.floor(float(draws[step, 1]) * 7) - 3
        seen.add((dx, dy))
        expected = canvas[:, :, 3 + dy : 15 + dy, 4 + dx : 20 + dx]
        torch.testing.assert_close(looked.look(canvas, at(step)), expected, atol=1e-5, rtol=0)
    assert len(seen) > 10


def test_scale_enlarges_about_the_centre() -> None:
    images = torch.zeros(1, 3, 9, 9)
    images[..., 3:6, 3:6] = 1
    enlarged = views((Scale(minimum=2, maximum=2),), (9, 9), 1, 0).look(images, at(0))
    assert float(enlarged.sum() / images.sum()) == pytest.approx(4, rel=0.05)
    torch.testing.assert_close(enlarged, enlarged.flip(2, 3), atol=1e-6, rtol=0)


def test_rotation_turns_clockwise_by_a_right_angle() -> None:
    images = canvases(1, (8, 8))
    turned = views((Rotate(values=(90,)),), (8, 8), 1, 0).look(images, at(0))
    torch.testing.assert_close(turned, images.rot90(1, (2, 3)), atol=1e-5, rtol=0)


def test_several_moves_are_the_product_of_their_maps() -> None:
    """A place in the view is looked up through the last transform first."""
    size, moves = (24, 32), LIVELY[1:]
    numbers = [torch.rand((1, move.numbers), dtype=torch.float64) for move in moves]
    maps = fused(list(zip(moves, numbers, strict=True)), size, (3, 4))
    place = np.array([5.0, -3.0, 1.0])  # a pixel of the view, from its centre
    for move, drawn in reversed(list(zip(moves, numbers, strict=True))):
        place = move.matrices(drawn, size)[0].numpy() @ place
    found = maps[0].numpy() @ [5.0 / 16, -3.0 / 12, 1.0]
    np.testing.assert_allclose(found * [16 + 4, 12 + 3], place[:2], atol=1e-9)


def test_a_view_is_all_transforms_one_after_the_other() -> None:
    """Moves in one resampling, then blur, noise, colours and scenes in the order given."""
    size, count = (16, 20), 3
    looked = views(EVERYTHING, size, 4, 7, 8, 9, fill="edge")
    canvas = canvases(count, size, looked.margin)
    draws = torch.stack([torch.rand((4, 15), generator=one) for one in generators(7, 8, 9)], dim=1)
    splits = dict(zip(EVERYTHING, draws.split([each.numbers for each in EVERYTHING], dim=2), strict=True))
    for step in range(4):
        moves = [(move, splits[move][step].double()) for move in LIVELY[1:]]
        expected = Resampling(size, "edge", "cpu")(canvas, fused(moves, size, looked.margin).float())  # type: ignore[arg-type]
        for change in EVERYTHING[5:]:
            expected = change.apply(expected, change.rows(splits[change])[step])  # type: ignore[attr-defined]
        torch.testing.assert_close(looked.look(canvas, at(step)), expected, atol=1e-6, rtol=0)


def test_each_image_sees_what_it_sees_alone() -> None:
    together = views(EVERYTHING, (15, 18), 5, 1, 2, 3)
    canvas = canvases(3, (15, 18), together.margin)
    slopes = torch.randn(3, 3, 15, 18, generator=torch.Generator().manual_seed(1))

    def look(looked: Views, images: torch.Tensor, slopes: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        images = images.clone().requires_grad_(True)
        seen = looked.look(images, at(step))
        return seen.detach(), torch.autograd.grad(seen, images, slopes)[0]

    for index in range(3):
        part = slice(index, index + 1)
        alone = views(EVERYTHING, (15, 18), 5, index + 1)
        for step in range(5):
            seen, gradient = look(together, canvas, slopes, step)
            own, own_gradient = look(alone, canvas[part], slopes[part], step)
            torch.testing.assert_close(seen[part], own, atol=1e-6, rtol=0)
            torch.testing.assert_close(gradient[part], own_gradient, atol=2e-6, rtol=0)


def test_images_and_steps_differ_and_a_step_can_be_looked_at_again() -> None:
    for transform in EVERYTHING[1:]:
        looked = views((transform,), (64, 64), 6, 1, 2)
        canvas = canvases(1, (64, 64)).expand(2, -1, -1, -1)
        seen = [looked.look(canvas, at(step)) for step in range(6)]
        assert not torch.allclose(seen[0][0], seen[0][1])
        assert not any(torch.allclose(seen[0][0], other[0]) for other in seen[1:])
        assert torch.equal(looked.look(canvas, at(0)), seen[0])


def test_global_randomness_is_not_touched() -> None:
    before = torch.get_rng_state()
    looked = views(EVERYTHING, (16, 16), 2, 1)
    looked.look(canvases(1, (16, 16), looked.margin), at(1))
    assert torch.equal(torch.get_rng_state(), before)


class _Waits(TorchDispatchMode):
    """Collects operators that make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = str(func)
        if any(word in name for word in ("_local_scalar_dense", "nonzero", "_to_copy", "is_nonzero", "equal.default")):
            devices = {item.device.type for item in args if isinstance(item, torch.Tensor)}
            target = (kwargs or {}).get("device")
            if name.startswith("aten._to_copy") and (target is None or torch.device(target).type in devices):
                return func(*args, **(kwargs or {}))
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_looking_waits_for_nothing() -> None:
    """No number is read back and nothing is copied between devices, forward and backward."""
    looked = views(EVERYTHING, (16, 16), 2, 1, 2)
    canvas, step = canvases(2, (16, 16), looked.margin).requires_grad_(True), at(1)
    with _Waits() as waits:
        torch.autograd.grad(looked.look(canvas, step).sum(), canvas)
    assert waits.found == []
    with _Waits() as waits:
        float(step)
    assert waits.found == ["aten._local_scalar_dense.default"]


def test_at_extreme_settings_views_and_gradients_are_finite() -> None:
    wild = (
        Jitter(share=1), Scale(minimum=0.11, maximum=10), Rotate(degrees=180), Crop(minimum=0.06),
        Blur(maximum=100), Noise(deviation=1), ColorJitter(brightness=1, contrast=1, saturation=1), Admix(maximum=0.95),
    )  # fmt: skip
    for fill in ("reflect", "grey", "edge"):
        looked = views(wild, (9, 11), 20, 1, 2, fill=fill)  # type: ignore[arg-type]
        canvas = canvases(2, (9, 11)).requires_grad_(True)
        for step in range(20):
            seen = looked.look(canvas, at(step))
            assert seen.isfinite().all()
            assert torch.autograd.grad(seen.sum(), canvas)[0].isfinite().all()


def test_lucids_list_moves_places_as_lucid_does() -> None:
    """Against 4000 draws of lucid's list, each transform done to a place by itself (`optvis/transform.py`).

    Lucid crops where we shift: it takes d pixels off at a random place, which moves the middle by -d/2 to d/2.
    """
    size, steps = (128, 128), 4000
    looked = views(LUCID, size, steps, 3)
    assert looked._maps is not None
    random = np.random.default_rng(0)
    place = np.array([30.0, -50.0])
    ours = (looked._maps[:, 0].double().numpy() @ [place[0] / 64, place[1] / 64, 1.0]) * 64
    theirs = np.empty((steps, 2))
    for step in range(steps):
        inner = place + random.integers(0, 4 + 1, 2) - 2  # jitter 4, the last one
        angle = math.radians(random.choice([*range(-10, 11), *[0] * 5]))
        turned = np.array(
            [
                math.cos(angle) * inner[0] - math.sin(angle) * inner[1],
                math.sin(angle) * inner[0] + math.cos(angle) * inner[1],
            ]
        )
        theirs[step] = turned / random.choice([1 + (i - 5) / 50 for i in range(11)]) + random.integers(0, 8 + 1, 2) - 4
    for axis in range(2):
        np.testing.assert_allclose(ours[:, axis].mean(), theirs[:, axis].mean(), atol=0.5)
        quantiles = np.linspace(0.02, 0.98, 25)
        np.testing.assert_allclose(
            np.quantile(ours[:, axis], quantiles), np.quantile(theirs[:, axis], quantiles), atol=0.9
        )
