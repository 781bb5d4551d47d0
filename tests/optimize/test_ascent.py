"""The loop on small torch networks whose gradients can be written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from onnxviz.core.errors import AnalysisError, SelectionError
from onnxviz.core.values import Layer, Target
from onnxviz.optimize.ascent import DEFAULT_TRANSFORMS, AscentSettings, Maximized, maximize
from onnxviz.optimize.objectives import ObjectiveContext, Seen, bind, centre, objective_of
from onnxviz.optimize.optimizers import Adam, GradientAscent, RmsProp
from onnxviz.optimize.parameterizations import Canvas, Fourier, Pixel
from onnxviz.optimize.regularizers import LpNorm, TotalVariation
from onnxviz.optimize.transforms import Pad, Rotate

LAYER = Layer("layer", "layer", "Conv", 0, (None, 4, 5, 5), 1)


class SmallModel:
    """What the loop needs of a Model: a device, and frozen layers as functions of the image."""

    device = torch.device("cpu")
    input_size = (12, 12)
    view = SimpleNamespace(batch=None, layers=(LAYER,), layer=lambda name: LAYER)
    halvings = 0

    def __init__(self, network: nn.Module | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.network = network or nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 4, 3, stride=2))
        for parameter in self.network.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.requires_grad_(False)
        self.batches: list[int] = []
        self.reduced: list[str] = []
        self.fitting: dict[str, tuple[int, str]] = {}

    def differentiable(self, layers: Sequence[Any]) -> Callable[[Tensor], tuple[Tensor, ...]]:
        def run(images: Tensor) -> tuple[Tensor, ...]:
            self.batches.append(len(images))
            return (self.network(images),)

        return run


def optimize_batch(
    model: SmallModel, targets: list[Target], seeds: list[int], batch: int | None = None, **kw: Any
) -> Maximized:
    settings = AscentSettings(**{"steps": 5, "size": (12, 12), **kw})
    return maximize(model, targets, seeds, settings, batch=batch)  # type: ignore[arg-type]


def channels(*units: int) -> list[Target]:
    return [Target("layer", unit) for unit in units]


def slow_adam(
    value: np.ndarray,
    gradient: Callable[[np.ndarray], np.ndarray],
    steps: int,
    rate: float,
    anneal: bool = False,
    damping: float = 0.0,
) -> np.ndarray:
    """Kingma and Ba 2015, algorithm 1, ε grown by a share of the root of the mean v, steps falling to 0."""
    first, second = np.zeros_like(value), np.zeros_like(value)
    for step in range(1, steps + 1):
        slope = gradient(value)
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        corrected = second / (1 - 0.999**step)
        epsilon = 1e-8 + damping * np.sqrt(corrected.mean())
        now = rate * (steps - step + 1) / steps if anneal else rate
        value = value - now * (first / (1 - 0.9**step)) / (np.sqrt(corrected) + epsilon)
    return value


def falling_adam(
    value: np.ndarray, gradient: Callable[[np.ndarray], np.ndarray], steps: int, rate: float
) -> np.ndarray:
    """Adam with steps that fall and one scale for the weak parameters."""
    return slow_adam(value, gradient, steps, rate, anneal=True, damping=0.7)


def slow_rmsprop(
    value: np.ndarray, gradient: Callable[[np.ndarray], np.ndarray], steps: int, rate: float
) -> np.ndarray:
    """Tieleman and Hinton 2012, lecture 6.5."""
    second = np.zeros_like(value)
    for _ in range(steps):
        slope = gradient(value)
        second = 0.9 * second + 0.1 * slope**2
        value = value - rate * slope / (np.sqrt(second) + 1e-8)
    return value


def slow_ascent(value: np.ndarray, gradient: Callable[[np.ndarray], np.ndarray], steps: int, rate: float) -> np.ndarray:
    """Steps along the gradient divided by its root mean square."""
    for _ in range(steps):
        slope = gradient(value)
        value = value - rate * slope / np.sqrt((slope**2).mean())
    return value


class Brightness(nn.Module):
    """A unit whose activation and gradient are known: Σ w x over the image, as logits [N, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, 3 * 4 * 4))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


@pytest.mark.parametrize(
    ("optimizer", "slow"),
    [
        (Adam(learning_rate=0.1), slow_adam),
        (Adam(learning_rate=0.1, schedule="linear", damping=0.7), falling_adam),
        (RmsProp(learning_rate=0.1), slow_rmsprop),
        (GradientAscent(learning_rate=0.1), slow_ascent),
    ],
)
def test_steps_follow_the_published_rules(optimizer: Any, slow: Any) -> None:
    """Seven steps against a loop in NumPy with the gradient worked out by hand: -3 w x (1 - x), plus the Lp term's."""
    model = SmallModel(Brightness())
    weight = model.network.weight.numpy().astype(np.float64).reshape(3, 4, 4)
    made = optimize_batch(
        model, channels(0), [3], steps=7, size=(4, 4), transforms=(), optimizer=optimizer,
        parameterization=Pixel(decorrelate=False), regularizers=(LpNorm(p=2, weight=0.5),),
    )  # fmt: skip
    begin = torch.randn((3, 4, 4), generator=torch.Generator().manual_seed(3)).numpy().astype(np.float64) * 0.02

    def gradient(value: np.ndarray) -> np.ndarray:
        x = 1 / (1 + np.exp(-3 * value))
        activation = float((weight * x).sum())
        pull = abs(activation) * 0.5 * (2 * (2 * x - 1) * 2) / x.size
        return (-weight + pull) * x * (1 - x) * 3

    expected = 1 / (1 + np.exp(-3 * slow(begin, gradient, 7, 0.1)))
    np.testing.assert_allclose(made.images[0], expected, atol=2e-5)
    assert made.before[0] == pytest.approx(float((weight / (1 + np.exp(-3 * begin))).sum()), abs=1e-4)
    assert made.after[0] == pytest.approx(float((weight * expected).sum()), abs=1e-3)


def test_plain_ascent_with_momentum_and_raw_gradients() -> None:
    model = SmallModel(Brightness())
    weight = model.network.weight.numpy().reshape(3, 4, 4)
    made = optimize_batch(
        model, channels(0), [3], steps=3, size=(4, 4), transforms=(),
        optimizer=GradientAscent(learning_rate=0.1, momentum=0.5, normalize=False),
        parameterization=Pixel(decorrelate=False), regularizers=(),
    )  # fmt: skip
    value = torch.randn((3, 4, 4), generator=torch.Generator().manual_seed(3)).numpy() * 0.02
    moving = np.zeros_like(value)
    for _ in range(3):
        x = 1 / (1 + np.exp(-3 * value))
        moving = 0.5 * moving + weight * x * (1 - x) * 3
        value = value + 0.1 * moving
    np.testing.assert_allclose(made.images[0], 1 / (1 + np.exp(-3 * value)), atol=1e-5)


def test_objectives_and_their_gradients_on_a_given_image() -> None:
    activations = torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = [
        Target("a", 1), Target("a", 2, (4, 0)), Target("a", 0, ()), Target("a"),
    ]  # fmt: skip
    place = ObjectiveContext(torch.device("cpu"), 1, {"a": (3, 5, 7)})
    values = bind([objective_of(target) for target in targets], place)(Seen(activations[:, :3], {"a": activations}))
    a = activations.detach().numpy()
    expected = [a[0, 1].mean(), a[1, 2, 4, 0], a[2, 0, 2, 3], (a[3] ** 2).mean()]
    np.testing.assert_allclose(values.detach(), expected, rtol=1e-6)
    (gradient,) = torch.autograd.grad(values.sum(), activations)
    slope = np.zeros_like(a)
    slope[0, 1] = 1 / 35
    slope[1, 2, 4, 0] = 1
    slope[2, 0, 2, 3] = 1
    slope[3] = 2 * a[3] / a[3].size
    np.testing.assert_allclose(gradient, slope, atol=1e-7)
    logits = torch.tensor([[1.0, 5.0], [2.0, 3.0]])
    measure = bind(
        [objective_of(target) for target in channels(1, 0)], ObjectiveContext(torch.device("cpu"), 1, {"layer": (2,)})
    )
    assert measure(Seen(logits, {"layer": logits})).tolist() == [5.0, 2.0]
    assert centre((4, 5)) == (2, 2)
    assert centre(()) == ()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Target("lay", 9), "has 4 units, 0 to 3; there is no unit 9"),
        (Target("lay", 0, (5, 0)), "no position"),
        (Target("lay", 0, (1,)), "no position"),
    ],
)
def test_targets_that_do_not_exist_are_refused_by_name(target: Target, words: str) -> None:
    with pytest.raises(SelectionError, match=words):
        optimize_batch(SmallModel(), [target], [0])


@pytest.mark.parametrize("form", [Fourier(), Pixel()])
@pytest.mark.parametrize("optimizer", [Adam(), RmsProp(), GradientAscent()])
def test_the_activation_rises_and_falls_as_asked(form: Any, optimizer: Any) -> None:
    up, down = Target("layer", 1), Target("layer", 1, sign=-1)
    # Without views: those of so small a picture smooth what a random network answers to, and it is seen as it is then.
    choices = {"parameterization": form, "optimizer": optimizer, "transforms": ()}
    made = optimize_batch(SmallModel(), [up, down], [0, 0], steps=12, **choices)
    assert made.before[0] == made.before[1]
    assert made.after[0] > made.before[0]
    assert made.after[1] < made.before[1]
    assert made.curves.shape == (2, 12)


def test_a_unit_gets_the_same_picture_alone_or_in_a_batch() -> None:
    """Bit for bit with the same micro-batch; to 1e-5 where the batch changes the order of sums inside the network."""
    kw: dict[str, Any] = {"steps": 6, "regularizers": (TotalVariation(weight=0.3),)}
    targets = [Target("layer", 0), Target("layer", 2, sign=-1), Target("layer", 3, (1, 2)), Target("layer")]
    one_by_one = optimize_batch(SmallModel(), targets, [4, 5, 6, 7], **kw)
    for index, target in enumerate(targets):
        alone = optimize_batch(SmallModel(), [target], [4 + index], **kw)
        for name in ("images", "curves", "before", "after"):
            assert np.array_equal(getattr(alone, name)[0], getattr(one_by_one, name)[index])
    together = optimize_batch(SmallModel(), targets, [4, 5, 6, 7], batch=4, **kw)
    np.testing.assert_allclose(together.images, one_by_one.images, atol=1e-5)
    np.testing.assert_allclose(together.after, one_by_one.after, rtol=1e-4, atol=1e-6)


def test_plain_ascent_normalises_image_by_image() -> None:
    kw: dict[str, Any] = {"steps": 4, "optimizer": GradientAscent()}
    together = optimize_batch(SmallModel(), channels(0, 3), [1, 2], batch=2, **kw)
    alone = optimize_batch(SmallModel(), channels(3), [2], **kw)
    np.testing.assert_allclose(together.images[1], alone.images[0], atol=1e-5)


def test_batches_have_the_size_asked_for() -> None:
    model = SmallModel()
    optimize_batch(model, channels(0, 1, 2), [0, 1, 2], batch=2, steps=1)
    assert model.batches == [2, 2, 2, 1, 1, 1]
    default = SmallModel()
    optimize_batch(default, channels(0, 1), [0, 1], steps=1)
    assert set(default.batches) <= {1, 2, 4, 8}


def test_a_network_with_a_fixed_batch_is_filled_up() -> None:
    model = SmallModel()
    model.view = SimpleNamespace(batch=2, layer=lambda name: LAYER)
    made = optimize_batch(model, channels(0, 1, 2), [0, 1, 2], steps=1)
    assert set(model.batches) == {2}
    np.testing.assert_allclose(
        made.images, optimize_batch(SmallModel(), channels(0, 1, 2), [0, 1, 2], steps=1).images, atol=1e-5
    )


def test_the_same_seed_gives_the_same_picture_and_another_seed_another() -> None:
    first, again, other = (optimize_batch(SmallModel(), channels(1), [seed]) for seed in (8, 8, 9))
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.curves, again.curves)
    assert not np.allclose(first.images, other.images, atol=1e-3)


def test_the_global_random_state_is_left_alone() -> None:
    model = SmallModel()
    before = torch.get_rng_state()
    optimize_batch(model, channels(1), [0])
    assert torch.equal(before, torch.get_rng_state())


def test_regularizers_do_what_they_are_for() -> None:
    def made(*regularizers: Any) -> Tensor:
        kw: dict[str, Any] = {"steps": 40, "optimizer": Adam(learning_rate=0.2), "parameterization": Pixel()}
        return torch.from_numpy(
            optimize_batch(SmallModel(), channels(1), [0], transforms=(), regularizers=regularizers, **kw).images
        )

    free, smooth, pale = made(), made(TotalVariation(weight=3.0)), made(LpNorm(weight=3.0))
    assert float(TotalVariation().term(smooth)) < 0.7 * float(TotalVariation().term(free))
    assert float(LpNorm().term(pale)) < 0.7 * float(LpNorm().term(free))


def test_before_and_after_are_measured_without_transforms() -> None:
    model = SmallModel()
    made = optimize_batch(model, channels(2), [0], steps=3, transforms=(Pad(share=0.1), Rotate(degrees=90)))
    again = model.network(torch.from_numpy(made.images))[0, 2].mean()
    assert made.after[0] == pytest.approx(float(again), rel=1e-5)
    painter = Fourier().painter(Canvas(3, (14, 14), 1, torch.device("cpu")))
    begin = painter.start([torch.Generator().manual_seed(0)], None)
    start = painter.paint(begin)[:, :, 1:-1, 1:-1]  # a margin of one pixel on each side
    assert made.before[0] == pytest.approx(float(model.network(start)[0, 2].mean()), rel=1e-5)


class Sleeper(nn.Module):
    """Unit 0 is silent unless the image has contrast; unit 1 is silent whatever the image."""

    def forward(self, images: Tensor) -> Tensor:
        contrast = (images - 0.5).square().mean(dim=(1, 2, 3))
        return torch.stack([contrast - 0.0005, -1 - contrast], dim=1).relu()


def test_a_silent_unit_is_woken_by_a_louder_start() -> None:
    made = optimize_batch(SmallModel(Sleeper()), channels(0, 1), [0, 0], steps=10, redirect=0)
    assert made.before.tolist() == [0.0, 0.0]
    assert made.after[0] > 0.001
    assert made.after[1] == 0.0
    assert made.start_gain[0] in (4.0, 16.0, 64.0, 256.0)
    assert made.start_gain[1] == 1.0
    # What cannot be woken stays the start image, which is nearly grey.
    assert float(np.abs(made.images[1] - 0.5).max()) < 0.05


class Distant(nn.Module):
    """Unit 0 is brightness and blueness beyond any start; unit 1 is the latter alone, and silent at first."""

    def forward(self, images: Tensor) -> Tensor:
        colors = images.mean(dim=(2, 3))
        blueness = (colors[:, 2:] - 0.8).relu()
        return torch.cat([colors.mean(dim=1, keepdim=True) + blueness, blueness], dim=1)


def test_gradients_are_redirected_until_a_unit_wakes() -> None:
    """Also when it takes longer than the first steps; not for an image beside it, part of whose network is silent."""
    choices: dict[str, Any] = {"steps": 60, "redirect": 4, "transforms": (), "parameterization": Pixel()}
    together = optimize_batch(SmallModel(Distant()), channels(0, 1), [0, 0], **choices)
    assert together.curves[1, :8].tolist() == [0.0] * 8
    assert together.after[1] > 0.05
    alone = optimize_batch(SmallModel(Distant()), channels(0), [0], **choices)
    np.testing.assert_array_equal(alone.images[0], together.images[0])


def test_a_silent_unit_is_not_woken_to_be_driven_down() -> None:
    made = optimize_batch(SmallModel(Sleeper()), [Target("layer", 0, sign=-1)], [0], steps=2)
    assert made.start_gain.tolist() == [1.0]
    assert made.after.tolist() == [0.0]


class OneWave(nn.Module):
    """A unit that likes one wave, and all else ten thousand times less."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1))

    def forward(self, images: Tensor) -> Tensor:
        size = images.shape[-1]
        wave = torch.cos(torch.arange(size) * 4 * torch.pi / size)
        weak = torch.randn((size, size), generator=torch.Generator().manual_seed(1)) * 1e-4
        return (images * (wave + weak)).mean(dim=(1, 2, 3))[:, None]


def test_what_hardly_matters_to_a_unit_hardly_moves() -> None:
    """Plain Adam moves every frequency alike, and a unit that likes one wave gets speckle."""

    def speckle(damping: float) -> float:
        adam = Adam(damping=damping)
        made = optimize_batch(
            SmallModel(OneWave()), channels(0), [0], steps=30, size=(32, 32), transforms=(), optimizer=adam
        )
        return float(np.abs(np.diff(made.images[0], axis=1)).mean())

    assert speckle(0.0) > 5 * speckle(1.0)


def test_grey_images_are_grey() -> None:
    made = optimize_batch(SmallModel(), channels(0), [0], channels=1)
    assert np.array_equal(made.images[:, 0], made.images[:, 2])


def test_progress_counts_every_step_of_every_image() -> None:
    told: list[tuple[int, int]] = []
    settings = AscentSettings(steps=3, size=(12, 12))
    model: Any = SmallModel()
    maximize(model, channels(0, 1, 2), [0, 0, 0], settings, batch=2, told=lambda *at: told.append(at))
    assert told == [(2, 9), (4, 9), (6, 9), (7, 9), (8, 9), (9, 9)]


class Broken(nn.Module):
    """A network that gives no number."""

    def forward(self, images: Tensor) -> Tensor:
        return (images - 2.0).sqrt()


def test_a_network_without_numbers_is_named() -> None:
    with pytest.raises(AnalysisError, match="unit 1 is not a number"):
        optimize_batch(SmallModel(Broken()), channels(1), [0])


def test_one_layer_and_one_seed_for_each_target() -> None:
    with pytest.raises(ValueError, match="the same layers"):
        optimize_batch(SmallModel(), [Target("a", 0), Target("b", 0)], [0, 1])
    with pytest.raises(ValueError, match="one seed"):
        optimize_batch(SmallModel(), channels(0, 1), [0])
    assert DEFAULT_TRANSFORMS


@pytest.mark.parametrize("regularizers", [(), (TotalVariation(weight=3.0),)])
def test_importance_is_what_the_slopes_add_up_to(regularizers: tuple[Any, ...]) -> None:
    """A linear unit has the same slope in every step; what holds the picture back is no part of it."""
    network = nn.Conv2d(3, 4, 12)
    model = SmallModel(network)
    made = optimize_batch(model, channels(1, 2), [0, 0], regularizers=regularizers, transforms=(), importance=True)
    expected = 5 * network.weight.abs().mean(dim=1)[[1, 2]].numpy()
    np.testing.assert_allclose(made.importance, expected, rtol=1e-5)
    plain = optimize_batch(model, channels(1, 2), [0, 0], regularizers=regularizers, transforms=())
    assert plain.importance.shape == (2, 0, 0)
    np.testing.assert_array_equal(plain.images, made.images)


def test_importance_is_of_the_picture_without_its_margin() -> None:
    made = optimize_batch(
        SmallModel(), channels(1), [0], transforms=(Pad(pixels=3), Rotate(degrees=20.0)), importance=True
    )
    assert made.importance.shape == (1, 12, 12)
    assert (made.importance > 0).all()
