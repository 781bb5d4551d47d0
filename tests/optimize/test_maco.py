"""MaCo: images of fixed magnitudes and free phases."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch

from onnxviz.optimize.color import correlation_matrix
from onnxviz.optimize.parameterizations.base import Canvas
from onnxviz.optimize.parameterizations.maco import (
    CONTRAST,
    Maco,
    MacoPainter,
    deviation,
    mirrored,
    opacity_from_gradients,
    resized,
)

SIZES = [(6, 8), (7, 8), (6, 9), (5, 7)]


def canvas(size: tuple[int, int], channels: int = 3, magnitude: torch.Tensor | None = None) -> Canvas:
    return Canvas(channels, size, 1, torch.device("cpu"), magnitude=magnitude)


def painter(
    size: tuple[int, int], channels: int = 3, magnitude: torch.Tensor | None = None, **form: object
) -> MacoPainter:
    made = Maco.model_validate(form).painter(canvas(size, channels, magnitude))
    assert isinstance(made, MacoPainter)
    return made


def draws(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def some_magnitude(size: tuple[int, int], channels: int = 3) -> torch.Tensor:
    return 0.2 + torch.rand((channels, size[0], size[1] // 2 + 1), generator=torch.Generator().manual_seed(9)) * 50


def is_own_mirror(row: int, column: int, size: tuple[int, int]) -> bool:
    return (2 * row) % size[0] == 0 and (2 * column) % size[1] == 0


def slow_plane(magnitude: np.ndarray, phases: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Add up every wave of a whole spectrum, the paper's F⁻¹(r · e^(iφ)), term by term."""
    height, width = size
    whole = {}
    for row in range(height):
        for column in range(width // 2 + 1):
            other = (-row) % height, (-column) % width
            if (row, column) in whole:
                continue  # the other half of this column came first
            value = magnitude[row, column] * cmath.exp(1j * phases[row, column])
            if other == (row, column):
                value = complex(value.real)
            whole[row, column] = value
            whole[other] = value.conjugate()
    plane = np.zeros(size)
    for y in range(height):
        for x in range(width):
            waves = (
                value * cmath.exp(2j * math.pi * (row * y / height + column * x / width))
                for (row, column), value in whole.items()
            )
            total = sum(waves)
            assert abs(total.imag) < 1e-6
            plane[y, x] = total.real / (height * width)
    return plane


@pytest.mark.parametrize("size", SIZES)
def test_planes_are_the_sum_of_all_waves(size: tuple[int, int]) -> None:
    # Equal magnitudes on both sides of the columns that hold f and -f, as real images have them.
    magnitude = torch.fft.rfft2(torch.randn((1, *size), generator=draws(3)[0])).abs()
    made = painter(size, 1, magnitude.expand(3, -1, -1))
    parameters = made.start(draws(5), None)
    expected = slow_plane(magnitude[0].numpy(), parameters[0, 0].numpy(), size)
    np.testing.assert_allclose(made.planes(parameters)[0, 0].numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
def test_magnitudes_stay_whatever_the_phases(size: tuple[int, int]) -> None:
    magnitude = torch.fft.rfft2(torch.randn((3, *size), generator=draws(3)[0])).abs()
    made = painter(size, 3, magnitude)
    for seed in range(3):
        spectrum = torch.fft.rfft2(made.planes(made.start(draws(seed), None) * (1 + 3 * seed)))[0]
        for row in range(size[0]):
            for column in range(size[1] // 2 + 1):
                found, given = spectrum[:, row, column].abs(), magnitude[:, row, column]
                if is_own_mirror(row, column, size):
                    assert (found <= given + 1e-4).all()
                else:
                    torch.testing.assert_close(found, given, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_deviation_is_that_of_the_planes(size: tuple[int, int]) -> None:
    planes = (
        torch.randn((3, *size), generator=draws(1)[0], dtype=torch.float64)
        * torch.tensor([1.0, 5.0, 0.1])[:, None, None]
    )
    found = deviation(torch.fft.rfft2(planes + 7.0).abs(), size[1])
    torch.testing.assert_close(found, planes.std(dim=(1, 2), correction=0))


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_of_these_magnitudes_comes_back(size: tuple[int, int]) -> None:
    picture = 0.1 + 0.8 * torch.rand((1, 3, *size), generator=draws(2)[0])
    plain = painter(size)
    magnitude = torch.fft.rfft2(plain.planes_of(picture))[0].abs()
    made = painter(size, 3, magnitude)
    torch.testing.assert_close(made.paint(made.start(draws(0), picture)), picture, atol=2e-5, rtol=0)


def test_only_the_phases_of_a_picture_count() -> None:
    picture = 0.1 + 0.8 * torch.rand((1, 3, 16, 16), generator=draws(2)[0])
    made = painter((16, 16))
    planes = made.planes(made.start(draws(0), picture))
    phases = torch.fft.rfft2(made.planes_of(picture)).angle()
    turned = torch.polar(torch.ones_like(phases), phases - torch.fft.rfft2(planes).angle())
    torch.testing.assert_close(turned.real, torch.ones_like(phases), atol=1e-3, rtol=0)


def test_without_photographs_the_contrast_is_theirs_and_magnitudes_fall() -> None:
    made = painter((64, 48), decay=1.4)
    planes = made.planes(made.start(draws(0, 1), None))
    # The few frequencies that are their own mirror image vary with their phase.
    torch.testing.assert_close(planes.std(dim=(2, 3)), torch.tensor([CONTRAST, CONTRAST]), rtol=0.01, atol=0)
    spectrum = torch.fft.rfft2(planes)[0, 0].abs()
    assert float(spectrum[0, 2] / spectrum[0, 16]) == pytest.approx(8**1.4, rel=1e-3)


def test_contrast_is_obeyed() -> None:
    for magnitude in (None, some_magnitude((32, 32))):
        made = painter((32, 32), 3, magnitude, contrast=0.7)
        deviations = made.planes(made.start(draws(0), None)).std(dim=(2, 3))
        torch.testing.assert_close(deviations, torch.full((1, 3), 0.7), rtol=0.02, atol=0)


def test_colors_without_decorrelation_have_the_same_strength() -> None:
    wide = (64, 64)
    joint, apart = painter(wide), painter(wide, decorrelate=False)
    matrix = torch.from_numpy(correlation_matrix())
    mixed = torch.einsum("cp,nphw->nchw", matrix, joint.planes(joint.start(draws(*range(20)), None)))
    own = apart.planes(apart.start(draws(0), None)).std(dim=(2, 3))[0]
    torch.testing.assert_close(mixed.var(dim=(2, 3)).mean(dim=0).sqrt(), own, rtol=0.05, atol=0)


def test_one_channel_is_brightness() -> None:
    magnitude = some_magnitude((8, 8))
    made = painter((8, 8), 1, magnitude)
    images = made.paint(made.start(draws(0, 1), None))
    assert images.shape == (2, 3, 8, 8)
    assert torch.equal(images[:, 0], images[:, 2])
    torch.testing.assert_close(
        made.planes(made.start(draws(0), None)), painter((8, 8), 3, magnitude).planes(
            made.start(draws(0), None).expand(-1, 3, -1, -1)
        )[:, :1]
    )  # fmt: skip


def test_an_image_is_the_same_alone_and_in_a_batch() -> None:
    made = painter((12, 10))
    batch, alone = made.start(draws(4, 5), None), made.start(draws(5), None)
    assert torch.equal(batch[1:], alone)
    assert torch.equal(made.paint(batch)[1:], made.paint(alone))
    assert float(batch.abs().max()) <= math.pi
    assert float(batch.std()) == pytest.approx(math.pi / math.sqrt(3), rel=0.05)


def test_mirrored_phases_are_odd() -> None:
    for height, width in SIZES:
        phases = torch.randn((height, width // 2 + 1), generator=draws(0)[0])
        found = mirrored(phases, (height, width))
        for column in [0, width // 2] if width % 2 == 0 else [0]:
            for row in range(1, height):
                if 2 * row != height:
                    assert float(found[row, column]) == -float(found[height - row, column])
        assert torch.equal(found[:, 1 : (width + 1) // 2], phases[:, 1 : (width + 1) // 2])


def test_resized_magnitudes_keep_law_contrast_and_mean() -> None:
    def law(size: tuple[int, int]) -> torch.Tensor:
        frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None, :])
        frequency[0, 0] = 1.0 / 64
        return (
            torch.from_numpy((frequency**-1.5).astype(np.float32)).expand(3, -1, -1)
            * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
        )

    given = law((64, 64))
    for size in [(96, 80), (40, 64), (64, 65), (33, 48)]:
        found = resized(given.clone(), size)
        assert found.shape == (3, size[0], size[1] // 2 + 1)
        torch.testing.assert_close(deviation(found, size[1]), deviation(given, 64), rtol=0.02, atol=0)
        ratio = (found / law(size))[0]
        middle = ratio[3 : size[0] // 2 - 2, 3:-2]  # interpolation bends the steep part next to the mean
        assert float(middle.max() / middle.min()) < 1.06
        mean = found[:, 0, 0] / (size[0] * size[1])
        torch.testing.assert_close(mean, given[:, 0, 0] / 64**2, rtol=0.02, atol=0)
    assert torch.equal(resized(given, (64, 64)), given)


def test_resized_follows_each_direction() -> None:
    """Rows that hold more than columns still do, at positive and negative frequencies."""
    magnitude = torch.ones((3, 32, 17))
    magnitude[:, 4, :3] = 50.0  # 1/8 cycle per pixel downwards
    found = resized(magnitude, (64, 64))
    ratio = found[0] / found[0].median()
    assert int(ratio[:33, 0].argmax()) == 8
    assert float(ratio[64 - 8, 0]) == pytest.approx(1.0, rel=1e-3)
    assert float(ratio[0, 8]) == pytest.approx(1.0, rel=1e-3)


def test_opacity_is_the_share_of_a_percentile() -> None:
    accumulated = np.random.default_rng(0).exponential(size=(2, 9, 11))
    found = opacity_from_gradients(accumulated, 80.0)
    for image, shown in zip(accumulated, found, strict=True):
        highest = np.percentile(image, 80.0)
        for (y, x), value in np.ndenumerate(image):
            assert shown[y, x] == pytest.approx(min(value, highest) / highest, rel=1e-6)
    assert found.dtype == np.float32
    assert 0.19 < (found == 1).mean() < 0.23


def test_opacity_without_gradients_hides_nothing() -> None:
    nothing = np.zeros((1, 4, 4), np.float32)
    assert (opacity_from_gradients(nothing) == 1).all()
    one = nothing.copy()
    one[0, 2, 2] = 3.0  # the percentile is 0, so the largest counts
    assert opacity_from_gradients(one)[0, 2, 2] == 1.0
    assert opacity_from_gradients(one).sum() == 1.0


def test_phases_climb() -> None:
    """A picture that lies elsewhere is found by turning phases: its magnitudes are given, its place is not."""
    size = (16, 16)
    picture = torch.full((1, 3, *size), 0.3)
    picture[:, :, 4:8, 9:13] = 0.8
    plain = painter(size)
    made = painter(size, 3, torch.fft.rfft2(plain.planes_of(picture))[0].abs())
    phases = made.start(draws(1), None)
    for _ in range(150):
        leaf = phases.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad((made.paint(leaf) - picture).square().sum(), leaf)
        phases = phases - 0.05 * made.rate * slope.sign() * 0.3
    left = float((made.paint(phases) - picture).square().mean())
    assert left < 0.2 * float((made.paint(made.start(draws(1), None)) - picture).square().mean())
