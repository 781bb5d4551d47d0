"""Parameterizations against the formulas of lucid, written out slowly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxviz.optimize.color import CORRELATION, correlate, correlation_matrix, to_pixels
from onnxviz.optimize.parameterization import Fourier, Pixel, spectrum_scale, start


def slow_planes(spectrum: np.ndarray, height: int, width: int, decay: float) -> np.ndarray:
    """Sum the waves of one half spectrum one by one: irfft2(√(hw) / max(f, 1/max(h, w))^decay · z) / 4."""
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    plane = np.zeros((height, width))
    for row in range(height):
        fy = (row if row <= (height - 1) // 2 else row - height) / height
        for column in range(width // 2 + 1):
            fx = column / width
            scale = np.sqrt(height * width) / max(np.hypot(fy, fx), 1.0 / max(height, width)) ** decay
            wave = np.exp(2j * np.pi * (row * y / height + column * x / width))
            value = (spectrum[row, column] * scale * wave).real
            # The other half of the spectrum is the mirror image; the edge columns have none.
            plane += value if column == 0 or (width % 2 == 0 and column == width // 2) else 2.0 * value
    return plane / (height * width) / 4.0


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (6, 11), (9, 6), (1, 5)])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_the_spectrum_becomes_the_image_of_the_formula(size: tuple[int, int], decay: float) -> None:
    generator = np.random.default_rng(0)
    form = Fourier(decay=decay)
    parameters = generator.normal(size=(2, *form.shape(3, size)))
    ours = form.planes(torch.tensor(parameters, dtype=torch.float32), size).numpy()
    assert ours.shape == (2, 3, *size)
    for image in range(2):
        for plane in range(3):
            pairs = parameters[image, plane]
            expected = slow_planes(pairs[..., 0] + 1j * pairs[..., 1], *size, decay)
            np.testing.assert_allclose(ours[image, plane], expected, atol=1e-6 * max(1.0, np.abs(expected).max()))


def test_the_scale_at_known_frequencies() -> None:
    scale = spectrum_scale((4, 8))
    assert scale.shape == (4, 5)
    assert scale[0, 0] == pytest.approx(np.sqrt(32) * 8)  # f = 0 counts as 1 / max(h, w)
    assert scale[0, 4] == pytest.approx(np.sqrt(32) * 2)  # half a cycle per pixel
    assert scale[1, 2] == pytest.approx(np.sqrt(32) / np.hypot(0.25, 0.25))


def test_the_colour_matrix_is_the_published_one() -> None:
    assert max(np.linalg.norm(np.asarray(CORRELATION), axis=0)) == pytest.approx(0.461952, abs=1e-6)
    published = [[0.562829, 0.194825, 0.043295], [0.584476, 0.0, -0.108236], [0.584476, -0.194825, 0.064942]]
    np.testing.assert_allclose(correlation_matrix(), published, atol=1e-6)


def test_colours_are_the_matrix_times_the_planes() -> None:
    planes = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    rgb = correlate(planes)
    expected = correlation_matrix() @ planes[1, :, 2, 3].numpy()
    np.testing.assert_allclose(rgb[1, :, 2, 3], expected, rtol=1e-6)


@pytest.mark.parametrize("form", [Fourier(), Pixel(), Fourier(decorrelate=False), Pixel(decorrelate=False)])
def test_images_are_colours_between_0_and_1(form: Fourier | Pixel) -> None:
    parameters = torch.randn(2, *form.shape(3, (9, 7)), generator=torch.Generator().manual_seed(1))
    images = form.images(parameters, (9, 7))
    assert images.shape == (2, 3, 9, 7)
    assert 0 < float(images.min()) < float(images.max()) < 1
    planes = form.planes(parameters, (9, 7))
    expected = torch.sigmoid(correlate(planes) if form.decorrelate else planes)
    assert torch.equal(images, expected)


@pytest.mark.parametrize("form", [Fourier(), Pixel()])
def test_one_channel_is_grey(form: Fourier | Pixel) -> None:
    images = form.images(torch.randn(1, *form.shape(1, (8, 8))), (8, 8))
    assert images.shape == (1, 3, 8, 8)
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])


@pytest.mark.parametrize("form", [Fourier(), Pixel()])
def test_a_start_is_the_same_alone_or_in_a_batch(form: Fourier | Pixel) -> None:
    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    batch = start(form, 3, (8, 9), generators(5, 6, 7))
    alone = start(form, 3, (8, 9), generators(6))
    assert torch.equal(batch[1:2], alone)
    assert not torch.equal(batch[0], batch[1])
    assert float(batch.std()) == pytest.approx(form.deviation, rel=0.1)


def test_the_start_image_is_nearly_grey() -> None:
    # Lucid's start image at 128 pixels: 0.4998 with a deviation of 0.0028.
    images = Fourier().images(start(Fourier(), 3, (128, 128), [torch.Generator().manual_seed(0)]), (128, 128))
    assert float(images.mean()) == pytest.approx(0.5, abs=0.003)
    assert 0.001 < float(images.std()) < 0.006


def test_bytes_are_rounded_and_clipped() -> None:
    images = np.zeros((1, 3, 1, 4), dtype=np.float32)
    images[0, 0, 0] = [0.0, 0.5, 1.2, -0.1]
    pixels = to_pixels(images)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (1, 1, 4, 3)
    assert pixels[0, 0, :, 0].tolist() == [0, 128, 255, 0]
