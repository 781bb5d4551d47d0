"""Colour tables and heat over photographs."""

from __future__ import annotations

import numpy as np
import pytest

from onnxviz.core.colormap import INFERNO, SIGNED, colour, colour_signed, overlay


def lightness(table: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB colours, from the standard's formulas."""
    encoded = table / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > (6 / 29) ** 3, 116 * np.cbrt(luminance) - 16, luminance * (29 / 3) ** 3)


def test_inferno_is_close_to_its_source() -> None:
    source = np.array(pytest.importorskip("matplotlib").colormaps["inferno"].colors) * 255
    assert np.abs(INFERNO - source).max() < 2.5


def test_lightness_of_inferno_rises_evenly() -> None:
    steps = np.diff(lightness(INFERNO)[::15])
    assert steps.min() > 0
    assert steps.max() < 2.5 * steps.mean()


def test_signed_table_is_lightest_at_zero_and_falls_to_both_sides() -> None:
    light = lightness(SIGNED)
    assert light[128] > 94
    assert (np.diff(light[:129]) >= 0).all()
    assert (np.diff(light[128:]) <= 0).all()
    assert abs(light[0] - light[255]) < 4


def test_colours_of_the_ends_and_beyond() -> None:
    assert colour(np.array([-1.0, 0.0, 1.0, 2.0])).tolist() == [[0, 0, 4], [0, 0, 4], [252, 255, 164], [252, 255, 164]]
    ends = colour_signed(np.array([-3.0, 0.0, 3.0, 9.0]), 3.0)
    assert ends[1].tolist() == SIGNED[128].tolist()
    assert ends[0, 2] > ends[0, 0]
    assert ends[2, 0] > ends[2, 2]
    assert ends[2].tolist() == ends[3].tolist()


def test_zero_everywhere_is_the_middle() -> None:
    assert (colour_signed(np.zeros((2, 3)), 0.0) == SIGNED[128]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_has_no_colour(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        colour(np.array([0.5, value]))
    with pytest.raises(ValueError, match="not finite"):
        colour_signed(np.array([0.5]), value)


def test_overlay_pixel_by_pixel() -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    heat = generator.uniform(0, 1, (5, 7))
    laid = overlay(image, heat, 0.6)
    for row in range(5):
        for column in range(7):
            red, green, blue = (int(value) for value in image[row, column])
            grey = 0.299 * red + 0.587 * green + 0.114 * blue
            weight = 0.6 * heat[row, column] ** 0.5
            hot = INFERNO[round(255 * heat[row, column])].astype(float)
            assert np.abs(laid[row, column] - ((1 - weight) * grey + weight * hot)).max() <= 0.5 + 1e-3


def test_overlay_without_heat_is_the_photograph_in_grey() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    grey = np.round(image @ np.array([0.299, 0.587, 0.114]))
    assert (overlay(image, np.zeros((4, 4))) == grey[..., None]).all()
    assert (overlay(image, np.ones((4, 4)), alpha=0.0) == grey[..., None]).all()


def test_overlay_refuses_what_does_not_fit() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="lie on each other"):
        overlay(image, np.zeros((4, 5)))
    with pytest.raises(ValueError, match="alpha"):
        overlay(image, np.zeros((4, 4)), alpha=1.5)
    with pytest.raises(ValueError, match="not finite"):
        overlay(image, np.full((4, 4), np.nan))
