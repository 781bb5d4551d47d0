"""Parameterizations against the formulas of lucid, written out slowly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scipy.ndimage import gaussian_filter
from torch import Tensor

from onnxviz.core.errors import AnalysisError
from onnxviz.optimize.color import CORRELATION, correlate, correlation_matrix, decorrelated, to_pixels
from onnxviz.optimize.optimizers import step_sizes
from onnxviz.optimize.parameterizations import (
    Canvas,
    Cppn,
    Fourier,
    LaplacianPyramid,
    Parameterization,
    ParameterizationChoice,
    Pixel,
    Shared,
    SharedTensor,
    Transparent,
)
from onnxviz.optimize.parameterizations.alpha import composite
from onnxviz.optimize.parameterizations.fourier import spectrum_scale
from onnxviz.optimize.parameterizations.pixel import PIXEL_GAIN, PixelPainter
from onnxviz.optimize.parameterizations.planes import Enlarged, grey
from onnxviz.optimize.parameterizations.shared import mixing_weights
from onnxviz.optimize.settings import usual

PLANE_FORMS: tuple[Fourier | Pixel | LaplacianPyramid, ...] = (
    Fourier(),
    Fourier(mean_color=8),
    Fourier(decay=0.5, decorrelate=False),
    Pixel(),
    Pixel(decorrelate=False),
    LaplacianPyramid(levels=3),
    LaplacianPyramid(levels=2, decorrelate=False),
)
SHARED = Shared(tensors=(SharedTensor(divisor=2), SharedTensor(divisor=4, images=2, offset=0.5)))
PICTURED: tuple[Parameterization, ...] = (
    *PLANE_FORMS,
    Pixel(squash="none"),
    SHARED,
    SHARED.model_copy(update={"own": LaplacianPyramid(levels=2)}),
    Shared(own=Pixel(squash="none")),
    Transparent(backgrounds=2),
    Transparent(own=LaplacianPyramid(levels=3), backgrounds=2),
    Transparent(own=Pixel(), backgrounds=2),
)
"""Those that can start from a picture."""
ALL: tuple[Parameterization, ...] = (
    *PICTURED,
    Cppn(layers=3, width=6),
    Cppn(layers=2, width=5, activation="relu", radius=True),
    Cppn(layers=3, width=6, activation="unbiased", decorrelate=True),
)


def name(form: Any) -> str | None:
    if not isinstance(form, Parameterization):
        return None
    changed = form.model_dump(exclude_defaults=True, exclude={"kind"})
    return "-".join([form.kind, *(str(value) for value in changed.values() if not isinstance(value, tuple | dict))])  # type: ignore[attr-defined]


each = pytest.mark.parametrize("form", ALL, ids=name)


def canvas(size: tuple[int, int] = (9, 12), channels: int = 3, group: int = 1, **more: Any) -> Canvas:
    return Canvas(channels, size, group, torch.device("cpu"), **more)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def pictures(count: int, size: tuple[int, int]) -> Tensor:
    """Pictures of all brightnesses, black and white too."""
    return (torch.rand((count, 3, *size), generator=torch.Generator().manual_seed(3)) * 1.2 - 0.1).clamp(0, 1)


def slow_planes(spectrum: np.ndarray, height: int, width: int, decay: float, blur: float = 0.0) -> np.ndarray:
    """Sum the waves of one half spectrum one by one: irfft2(√(hw) / max(f, 1/max(h, w))^decay · z) / 4, blurred."""
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    plane = np.zeros((height, width))
    for row in range(height):
        fy = (row if row <= (height - 1) // 2 else row - height) / height
        for column in range(width // 2 + 1):
            fx = column / width
            scale = np.sqrt(height * width) / max(np.hypot(fy, fx), 1.0 / max(height, width)) ** decay
            scale *= max(np.exp(-2.0 * np.pi**2 * blur**2 * (fx**2 + fy**2)), 1e-4)
            wave = np.exp(2j * np.pi * (row * y / height + column * x / width))
            value = (spectrum[row, column] * scale * wave).real
            # The other half of the spectrum is the mirror image; the edge columns have none.
            plane += value if column == 0 or (width % 2 == 0 and column == width // 2) else 2.0 * value
    return plane / (height * width) / 4.0


def slow_enlarged(plane: np.ndarray, size: tuple[int, int], offset: tuple[float, float] = (0, 0)) -> np.ndarray:
    """Look up every pixel between its four neighbours; what lies before the first is mirrored, beyond the last flat."""
    result = np.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            place, near, share = [row, column], [0, 0], [0.0, 0.0]
            for axis in range(2):
                centre = place[axis] + 0.5 - offset[axis]
                at = min(max(abs(centre) / size[axis] * plane.shape[axis] - 0.5, 0.0), plane.shape[axis] - 1.0)
                near[axis], share[axis] = int(at), at - int(at)
            for down in range(2):
                for right in range(2):
                    weight = abs(1 - down - share[0]) * abs(1 - right - share[1])
                    if weight > 0:
                        result[row, column] += weight * plane[near[0] + down, near[1] + right]
    return result


def sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-values)))


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (6, 11), (9, 6), (1, 5)])
@pytest.mark.parametrize(("decay", "blur"), [(1.0, None), (0.5, None), (1.0, 0.8), (0.5, 3.0)])
def test_the_spectrum_becomes_the_image_of_the_formula(size: tuple[int, int], decay: float, blur: float | None) -> None:
    generator = np.random.default_rng(0)
    painter = Fourier(decay=decay, blur=blur).painter(canvas(size))
    parameters = generator.normal(size=(2, *painter.shape))
    ours = painter.planes(torch.tensor(parameters, dtype=torch.float32)).numpy()
    assert ours.shape == (2, 3, *size)
    for image in range(2):
        for plane in range(3):
            pairs = parameters[image, plane]
            expected = slow_planes(pairs[..., 0] + 1j * pairs[..., 1], *size, decay, blur or 0.0)
            np.testing.assert_allclose(ours[image, plane], expected, atol=1e-6 * max(1.0, np.abs(expected).max()))


def test_the_scale_at_known_frequencies() -> None:
    scale = spectrum_scale((4, 8))
    assert scale.shape == (4, 5)
    assert scale[0, 0] == pytest.approx(np.sqrt(32) * 8)  # f = 0 counts as 1 / max(h, w)
    assert scale[0, 4] == pytest.approx(np.sqrt(32) * 2)  # half a cycle per pixel
    assert scale[1, 2] == pytest.approx(np.sqrt(32) / np.hypot(0.25, 0.25))


def test_a_blurred_spectrum_is_the_same_picture_behind_a_lens() -> None:
    size = (48, 41)
    sharp, soft = (Fourier(blur=width, decorrelate=False).painter(canvas(size)) for width in (None, 1.5))
    parameters = torch.tensor(np.random.default_rng(0).normal(size=(2, *sharp.shape)), dtype=torch.float32)
    expected = gaussian_filter(sharp.planes(parameters).numpy(), 1.5, axes=(2, 3), mode="wrap", truncate=8.0)
    np.testing.assert_allclose(soft.planes(parameters).numpy(), expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("decorrelate", [True, False])
def test_the_mean_colour_moves_as_far_as_asked_and_nothing_else_does(channels: int, decorrelate: bool) -> None:
    place = canvas((12, 9), channels)
    usual, free = (Fourier(decorrelate=decorrelate, mean_color=g).painter(place) for g in (0, 5))
    parameters = torch.randn(2, *usual.shape, generator=torch.Generator().manual_seed(1))
    before, after = usual.planes(parameters), free.planes(parameters)
    lengths = np.linalg.norm(correlation_matrix(), axis=0) if decorrelate and channels == 3 else np.ones(channels)
    factors = torch.from_numpy(5 / lengths).float()
    torch.testing.assert_close(after.mean((2, 3)), before.mean((2, 3)) * factors, rtol=1e-4, atol=1e-5)
    own = [planes - planes.mean((2, 3), keepdim=True) for planes in (before, after)]
    torch.testing.assert_close(own[1], own[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("corner", [(r, g, b) for r in (-1, 1) for g in (-1, 1) for b in (-1, 1)])
@pytest.mark.parametrize("steps", [64, 256])
def test_usual_steps_lead_to_every_plain_colour(corner: tuple[int, int, int], steps: int) -> None:
    """The longest way that Adam goes is the sum of its step sizes, along each parameter."""
    suits = usual((32, 32), steps, classes=False)
    way = sum(step_sizes(steps, suits.optimizer.learning_rate, "linear", 0))
    wanted = (torch.tensor(corner, dtype=torch.float32)[None, :, None, None].expand(1, 3, 32, 32) + 1) / 2

    def missing(form: Fourier) -> float:
        painter = form.painter(canvas((32, 32)))
        parameters = painter.solve(painter.planes_of(wanted)).clamp(-way, way)
        return float((painter.paint(parameters) - wanted).abs().max())

    written = suits.written(Fourier())
    assert isinstance(written, Fourier)
    assert missing(written) < 0.02
    assert missing(Fourier()) > 0.2


def test_photographs_without_colour_leave_the_mean_colour_finite() -> None:
    grey = torch.tensor([[1.0, 0.0, 0.0]] * 3)
    painter = Fourier(mean_color=8).painter(canvas((6, 5), colors=grey))
    images = painter.paint(torch.randn(1, *painter.shape, generator=torch.Generator().manual_seed(0)))
    assert bool(images.isfinite().all())


def test_a_picture_to_start_from_is_not_blurred() -> None:
    painter = Fourier(blur=3.0).painter(canvas((32, 32)))
    picture = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    again = painter.paint(painter.start([torch.Generator()], picture))
    torch.testing.assert_close(again, picture, atol=2e-3, rtol=0)


def test_the_colour_matrix_is_the_published_one() -> None:
    assert max(np.linalg.norm(np.asarray(CORRELATION), axis=0)) == pytest.approx(0.461952, abs=1e-6)
    published = [[0.562829, 0.194825, 0.043295], [0.584476, 0.0, -0.108236], [0.584476, -0.194825, 0.064942]]
    np.testing.assert_allclose(correlation_matrix(), published, atol=1e-6)


def test_colours_are_the_matrix_times_the_planes() -> None:
    planes = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    rgb = correlate(planes)
    expected = correlation_matrix() @ planes[1, :, 2, 3].numpy()
    np.testing.assert_allclose(rgb[1, :, 2, 3], expected, rtol=1e-6)


@pytest.mark.parametrize("matrix", [None, torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.2], [0.1, 0.0, -1.0]])])
def test_planes_of_colours_give_the_colours(matrix: Tensor | None) -> None:
    planes = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(decorrelated(correlate(planes, matrix), matrix), planes, rtol=0, atol=2e-5)


@pytest.mark.parametrize("form", PLANE_FORMS, ids=name)
def test_images_are_colours_between_0_and_1(form: Fourier | Pixel | LaplacianPyramid) -> None:
    painter = form.painter(canvas((9, 7)))
    parameters = torch.randn(2, *painter.shape, generator=torch.Generator().manual_seed(1))
    images = painter.paint(parameters)
    assert images.shape == (2, 3, 9, 7)
    assert 0 < float(images.min()) < float(images.max()) < 1
    planes = painter.planes(parameters)
    expected = torch.sigmoid(correlate(planes) if form.decorrelate else planes)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)


def test_pixels_are_the_planes_times_the_gain_or_the_colours_around_grey() -> None:
    parameters = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    squashed = PixelPainter(Pixel(decorrelate=False), canvas((4, 5))).paint(parameters)
    np.testing.assert_allclose(squashed, sigmoid(PIXEL_GAIN * parameters.numpy()), atol=1e-6)
    assert torch.equal(PixelPainter(Pixel(squash="none"), canvas((4, 5))).paint(parameters), parameters + 0.5)


@pytest.mark.parametrize("form", [Fourier(), Pixel(), LaplacianPyramid(levels=2), Transparent()], ids=name)
def test_measured_colours_take_the_place_of_the_published_ones(form: Parameterization) -> None:
    matrix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.2], [0.1, 0.0, -1.0]])
    painter = form.painter(canvas((6, 5), colors=matrix))
    photographs = pictures(1, (6, 5))
    parameters = painter.start(generators(0), photographs)
    torch.testing.assert_close(painter.paint(parameters)[:, :3], photographs.clamp(0.01, 0.99), rtol=0, atol=1e-5)
    usual = form.painter(canvas((6, 5))).paint(parameters)[:, :3]
    assert float((usual - photographs.clamp(0.01, 0.99)).abs().max()) > 0.01


@each
def test_one_channel_is_grey(form: Parameterization) -> None:
    painter = form.painter(canvas((8, 8), 1, 2))
    parameters = painter.start(generators(0, 1), None)
    images = painter.paint(parameters + 0.1)
    assert images.shape == (2, 4 if isinstance(form, Transparent) else 3, 8, 8)
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])


@each
def test_a_start_is_the_same_alone_or_in_a_batch(form: Parameterization) -> None:
    batch = form.painter(canvas()).start(generators(5, 6, 7), None)
    alone = form.painter(canvas()).start(generators(6), None)
    assert batch.dtype == torch.float32
    assert torch.equal(batch[1:2], alone)
    assert not torch.equal(batch[0], batch[1])
    if isinstance(form, Fourier | Pixel | LaplacianPyramid):
        assert float(batch.std()) == pytest.approx(form.deviation, rel=0.1)


@each
def test_groups_are_the_same_alone_or_in_a_batch(form: Parameterization) -> None:
    """The same bits: start, images, penalty, backgrounds and gradient."""

    def made(*seeds: int) -> list[Tensor]:
        painter = form.painter(canvas(group=3))
        parameters = painter.start(generators(*seeds), None)
        shift = 0.2 * torch.sin(torch.arange(parameters[0].numel(), dtype=torch.float32)).view(parameters[0].shape)
        leaf = (parameters + shift).requires_grad_(True)
        images = painter.paint(leaf)
        penalty = painter.penalty(leaf)
        loss = (images * torch.linspace(-1, 1, 12)).sum() + (0.0 if penalty is None else penalty.sum())
        (gradient,) = torch.autograd.grad(loss, leaf)
        backgrounds = painter.backgrounds(torch.tensor(1)) if isinstance(form, Transparent) else images  # type: ignore[attr-defined]
        found = [parameters, images, gradient, backgrounds, *([] if penalty is None else [penalty])]
        return [tensor.detach() for tensor in found]

    both = made(1, 2, 3, 4, 5, 6)
    for part, first, second in zip(both, made(1, 2, 3), made(4, 5, 6), strict=True):
        assert bool(part.isfinite().all())
        assert torch.equal(part, torch.cat([first, second]))
    for part, again in zip(both, made(1, 2, 3, 4, 5, 6), strict=True):
        assert torch.equal(part, again)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("size", [(9, 12), (7, 5), (8, 16)])
@pytest.mark.parametrize("form", PICTURED, ids=name)
def test_a_start_from_a_picture_gives_the_picture(form: Parameterization, size: tuple[int, int], channels: int) -> None:
    given = pictures(4, size)
    painter = form.painter(canvas(size, channels, group=2))
    images = painter.paint(painter.start(generators(0, 1, 2, 3), given))[:, :3]
    expected = given if channels == 3 else grey(given).expand(-1, 3, -1, -1)
    squash = getattr(getattr(form, "own", form), "squash", "sigmoid")
    torch.testing.assert_close(images, expected if squash == "none" else expected.clamp(0.01, 0.99), rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("form", PICTURED, ids=name)
def test_a_start_from_grey_is_grey(form: Parameterization, channels: int) -> None:
    painter = form.painter(canvas(channels=channels))
    images = painter.paint(painter.start(generators(0), torch.full((1, 3, 9, 12), 0.5)))
    torch.testing.assert_close(images[:, :3], torch.full((1, 3, 9, 12), 0.5), rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", [Fourier(deviation=0), Pixel(deviation=0), LaplacianPyramid(levels=3, deviation=0)])
def test_without_deviation_all_is_grey(form: Fourier | Pixel | LaplacianPyramid) -> None:
    for whole in (form, Shared(own=form, deviation=0), Transparent(own=form)):
        painter = whole.painter(canvas())
        images = painter.paint(painter.start(generators(0), None))
        assert torch.equal(images[:, :3], torch.full((1, 3, 9, 12), 0.5))


def test_the_start_image_is_nearly_grey() -> None:
    # Lucid's start image at 128 pixels: 0.4998 with a deviation of 0.0028.
    painter = Fourier().painter(canvas((128, 128)))
    images = painter.paint(painter.start(generators(0), None))
    assert float(images.mean()) == pytest.approx(0.5, abs=0.003)
    assert 0.001 < float(images.std()) < 0.006


def test_bytes_are_rounded_and_clipped() -> None:
    images = np.zeros((1, 3, 1, 4), dtype=np.float32)
    images[0, 0, 0] = [0.0, 0.5, 1.2, -0.1]
    pixels = to_pixels(images)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (1, 1, 4, 3)
    assert pixels[0, 0, :, 0].tolist() == [0, 128, 255, 0]


@pytest.mark.parametrize(
    ("low", "size", "offset"),
    [
        ((3, 4), (9, 12), (0, 0)),
        ((2, 5), (7, 11), (0, 0)),
        ((4, 3), (8, 9), (1.0, 1.5)),
        ((1, 1), (3, 4), (0, 0)),
    ],
)
def test_enlarging_is_bilinear(low: tuple[int, int], size: tuple[int, int], offset: tuple[float, float]) -> None:
    planes = torch.randn(2, 3, *low, generator=torch.Generator().manual_seed(0))
    ours = Enlarged(low, size, torch.device("cpu"), offset)(planes)
    assert ours.shape == (2, 3, *size)
    np.testing.assert_allclose(ours[1, 2], slow_enlarged(planes[1, 2].numpy(), size, offset), atol=1e-6)
    if not any(offset):
        usual = torch.nn.functional.interpolate(planes, size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(ours, usual, rtol=0, atol=1e-6)


def test_an_offset_moves_and_mirrors() -> None:
    # Lucid pads in front with the mirror image and cuts the end off.
    planes = torch.tensor([[10.0, 20, 30, 40, 50]] * 2)
    moved = Enlarged((2, 5), (2, 5), torch.device("cpu"), (0, 2))(planes)
    assert moved[1].tolist() == [20, 10, 10, 20, 30]


@pytest.mark.parametrize("size", [(8, 12), (9, 7)])
def test_the_pyramid_is_the_sum_of_its_enlarged_levels(size: tuple[int, int]) -> None:
    painter = LaplacianPyramid(levels=3, decorrelate=False).painter(canvas(size))
    sizes = [size, (size[0] // 2, size[1] // 2), (size[0] // 4, size[1] // 4)]
    parameters = np.random.default_rng(0).normal(size=(2, sum(3 * h * w for h, w in sizes))).astype(np.float32)
    planes = np.zeros((3, *size))
    at = 0
    for height, width in sizes:
        level = parameters[1, at : at + 3 * height * width].reshape(3, height, width)
        planes += np.stack([slow_enlarged(plane, size) for plane in level])
        at += 3 * height * width
    images = painter.paint(torch.from_numpy(parameters))
    np.testing.assert_allclose(images[1], sigmoid(planes), atol=1e-6)


def test_each_level_of_a_picture_holds_what_coarser_ones_leave() -> None:
    painter = LaplacianPyramid(levels=3, decorrelate=False).painter(canvas((16, 16)))
    smooth = torch.full((1, 3, 16, 16), 0.7)
    parameters = painter.start(generators(0), smooth)[0]
    assert float(parameters[: 3 * (256 + 64)].abs().max()) < 1e-6
    expected = torch.full((3 * 16,), 0.7).logit()
    torch.testing.assert_close(parameters[3 * (256 + 64) :], expected, rtol=0, atol=1e-5)


def test_a_pyramid_cannot_be_higher_than_the_image_allows() -> None:
    assert LaplacianPyramid(levels=4).painter(canvas((9, 12))).shape == (3 * (9 * 12 + 4 * 6 + 2 * 3 + 1 * 1),)
    with pytest.raises(AnalysisError, match="9 × 12 pixels cannot be halved 4 times") as caught:
        LaplacianPyramid(levels=5).painter(canvas((9, 12)))
    assert "`levels` to 4" in caught.value.remedy


def test_shared_images_are_their_own_part_and_the_groups() -> None:
    """Two groups of three: every number written out."""
    size = (8, 12)
    own = Pixel(decorrelate=False)
    tensors = (SharedTensor(divisor=4), SharedTensor(divisor=2, images=2), SharedTensor(divisor=4, offset=0.5))
    painter = Shared(own=own, tensors=tensors).painter(canvas(size, group=3))
    numbers = 3 * 3 * 96 + 3 * 2 * 3 + 2 * 3 * 4 * 6 + 3 * 2 * 3
    parameters = np.random.default_rng(0).normal(size=(2, numbers)).astype(np.float32) * 0.5
    images = painter.paint(torch.from_numpy(parameters)).numpy()
    assert images.shape == (6, 3, *size)
    for group in range(2):
        pixels, coarse, pair, moved = np.split(parameters[group], np.cumsum([3 * 3 * 96, 18, 144]))
        for image in range(3):
            for channel in range(3):
                first, last = pair.reshape(2, 3, 4, 6)[:, channel]
                plane = PIXEL_GAIN * pixels.reshape(3, 3, *size)[image, channel]
                shared = slow_enlarged(coarse.reshape(3, 2, 3)[channel], size)
                shared += slow_enlarged(first * (2 - image) / 2 + last * image / 2, size)
                shared += slow_enlarged(moved.reshape(3, 2, 3)[channel], size, (2.0, 2.0))
                plane = plane + shared
                np.testing.assert_allclose(images[3 * group + image, channel], sigmoid(plane), atol=1e-6)


@pytest.mark.parametrize("group", [1, 2, 5])
def test_what_is_shared_comes_from_the_group_alone(group: int) -> None:
    form = Shared(own=Fourier(deviation=0), tensors=(SharedTensor(divisor=4),), deviation=0.5)
    painter = form.painter(canvas(group=group))
    parameters = painter.start(generators(*range(2 * group)), None)
    assert len(parameters) == 2
    images = painter.paint(parameters)
    assert torch.equal(images[:group], images[:1].expand(group, -1, -1, -1))
    assert float((images[0] - images[group]).abs().max()) > 0.01


def test_tensors_along_a_group_are_mixed_from_its_first_to_its_last_image() -> None:
    np.testing.assert_allclose(mixing_weights(2, 5), [[1, 0], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0, 1]])
    np.testing.assert_allclose(mixing_weights(3, 5)[1], [0.5, 0.5, 0])
    np.testing.assert_array_equal(mixing_weights(1, 3), np.ones((3, 1)))
    np.testing.assert_array_equal(mixing_weights(4, 1), [[1]])
    np.testing.assert_array_equal(mixing_weights(4, 2), np.eye(2))


def slow_cppn(form: Cppn, numbers: np.ndarray, size: tuple[int, int], channels: int) -> np.ndarray:
    """Ask the network for one pixel after the other."""
    image = np.zeros((channels, *size))
    wide = form.width * (1 if form.activation == "relu" else 2)
    for row in range(size[0]):
        for column in range(size[1]):
            # From edge to edge of the longer side: -√3 to √3.
            x = ((column + 0.5) - size[1] / 2) / max(size) * 2 * np.sqrt(3)
            y = ((row + 0.5) - size[0] / 2) / max(size) * 2 * np.sqrt(3)
            values = np.array([x, y, np.hypot(x, y)][: 3 if form.radius else 2])
            at = 0
            for layer in range(form.layers + 1):
                outputs = channels if layer == form.layers else form.width
                weights = numbers[at : at + outputs * len(values)].reshape(outputs, len(values))
                at += weights.size
                values = weights @ values + numbers[at : at + outputs]
                at += outputs
                if layer == form.layers:
                    break
                if form.activation == "relu":
                    values = (np.maximum(values, 0) - 0.40) / 0.58
                    continue
                bent = np.arctan(values)
                square = bent**2 / 0.6 if form.activation == "composite" else (bent**2 - 0.45) / 0.396
                values = np.concatenate([bent / 0.67, square])
                assert len(values) == wide
            image[:, row, column] = values
    return sigmoid(correlation_matrix() @ image.reshape(3, -1) if form.decorrelate else image).reshape(image.shape)


@pytest.mark.parametrize(
    "form",
    [
        Cppn(layers=2, width=4),
        Cppn(layers=3, width=3, activation="unbiased", decorrelate=True),
        Cppn(layers=1, width=5, activation="relu", radius=True),
    ],
    ids=name,
)
def test_the_network_is_asked_for_every_pixel(form: Cppn) -> None:
    size = (5, 8)
    painter = form.painter(canvas(size))
    parameters = painter.start(generators(0, 1), None)
    parameters += 0.3 * torch.randn(parameters.shape, generator=torch.Generator().manual_seed(1))
    images = painter.paint(parameters)
    for image in range(2):
        expected = slow_cppn(form, parameters[image].double().numpy(), size, 3)
        np.testing.assert_allclose(images[image], expected, atol=1e-5)


def test_a_networks_weights_start_as_lucids() -> None:
    painter = Cppn().painter(canvas())
    numbers = painter.start(generators(0, 1), None).numpy()
    sizes = [(24, 2), *[(24, 48)] * 7, (3, 48)]
    assert numbers.shape == (2, sum(outputs * (inputs + 1) for outputs, inputs in sizes))
    second = numbers[0, 72 : 72 + 24 * 48]
    assert float(second.std()) == pytest.approx(1 / np.sqrt(48), rel=0.05)
    assert float(numbers[:, 48:72].std()) == pytest.approx(0.1, rel=0.3)
    assert not numbers[:, -3 * 49 :].any()
    # Every layer keeps the size of its values, so patterns stay about as rich however many there are.
    assert torch.equal(painter.paint(torch.from_numpy(numbers)), torch.full((2, 3, 9, 12), 0.5))


def test_a_network_paints_the_same_image_at_any_size() -> None:
    form = Cppn(layers=3, width=6, radius=True)
    painter = form.painter(canvas((5, 7)))
    parameters = painter.start(generators(0), None)
    parameters += 0.3 * torch.randn(parameters.shape, generator=torch.Generator().manual_seed(1))
    large = form.painter(canvas((15, 21))).paint(parameters)
    # The centre of each pixel is the centre of the middle one of the nine that take its place.
    torch.testing.assert_close(large[:, :, 1::3, 1::3], painter.paint(parameters), rtol=0, atol=1e-5)


def test_a_network_cannot_start_from_a_picture() -> None:
    with pytest.raises(AnalysisError, match="no network is known") as caught:
        Cppn().painter(canvas()).start(generators(0), pictures(1, (9, 12)))
    assert "octaves" in caught.value.remedy


def adam(painter: Any, parameters: Tensor, value: Any, steps: int, rate: float = 0.03) -> tuple[Tensor, list[float]]:
    """Maximise the sum of a value of the images, as the loop does; return the parameters and all values."""
    first, second, found = torch.zeros_like(parameters), torch.zeros_like(parameters), []
    for step in range(1, steps + 1):
        leaf = parameters.detach().requires_grad_(True)
        images = painter.paint(leaf)
        if images.shape[1] == 4:
            images = composite(images, painter.backgrounds(torch.tensor(step - 1)))
        activation = value(images)
        loss = -activation
        penalty = painter.penalty(leaf)
        if penalty is not None:
            loss = loss + activation.detach().abs() * penalty
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        assert gradient.dtype == torch.float32
        assert bool(gradient.isfinite().all())
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
        change = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        parameters = painter.keep(parameters - rate * painter.rate * change)
        found.append(float(activation.detach().sum()))
    return parameters, found


def edge_and_colour(images: Tensor) -> Tensor:
    """Excited by a bright left half beside a dark right one, and by orange on the left."""
    half = images.shape[3] // 2
    weights = images.new_tensor([1.0, 0.6, 0.2]).view(1, 3, 1, 1)
    left, right = images[..., :half] * weights, images[..., half:] * weights
    return left.mean(dim=(1, 2, 3)) - right.mean(dim=(1, 2, 3))


@pytest.mark.parametrize("channels", [3, 1])
@each
def test_ascent_raises_what_an_edge_detector_sees(form: Parameterization, channels: int) -> None:
    def optimized(*seeds: int) -> tuple[Tensor, list[float]]:
        painter = form.painter(canvas((12, 16), channels, group=2))
        return adam(painter, painter.start(generators(*seeds), None), edge_and_colour, 40, 0.05)

    parameters, values = optimized(0, 1)
    images = form.painter(canvas((12, 16), channels, group=2)).paint(parameters)
    assert abs(values[0]) < 0.1
    assert values[-1] > 0.15
    assert float(images[:, :, :, :8].mean()) > float(images[:, :, :, 8:].mean())
    assert torch.equal(optimized(0, 1)[0], parameters)
    batch, _ = optimized(0, 1, 2, 3)
    assert torch.equal(batch[: len(parameters)], parameters)


def test_a_network_learns_exclusive_or() -> None:
    """Lucid's test of its network: four corners, 200 steps of 0.01."""

    def corners(images: Tensor) -> Tensor:
        one = images[:, 0]
        right = (1 - one[:, 0, 0]).square() + (1 - one[:, -1, -1]).square()
        return -(right + one[:, -1, 0].square() + one[:, 0, -1].square())

    painter = Cppn().painter(canvas((8, 8), 1))
    parameters, _ = adam(painter, painter.start(generators(0), None), corners, 200, 0.01 / painter.rate)
    found = painter.paint(parameters)[0, 0]
    assert [float(found[at]) for at in ((0, 0), (-1, -1), (-1, 0), (0, -1))] == pytest.approx([1, 1, 0, 0], abs=0.02)


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "laplacian_pyramid", "levels": 0},
        {"kind": "shared", "tensors": []},
        {"kind": "shared", "own": {"kind": "cppn"}},
        {"kind": "shared", "decorrelate": False},
        {"kind": "alpha", "own": {"kind": "fourier", "levels": 2}},
        {"kind": "alpha", "opacity": 1.0},
        {"kind": "cppn", "deviation": 0.1},
        {"kind": "unknown"},
    ],
)
def test_recipes_with_mistakes_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ParameterizationChoice).validate_python(given)


def test_recipes_name_parameterizations() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(ParameterizationChoice)
    for form in ALL:
        assert adapter.validate_python(form.model_dump(mode="json")) == form
