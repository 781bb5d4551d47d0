"""The transforms that a recipe names: known maps, distributions, refused settings."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from onnxviz.optimize.dead_leaves import SCENES, dead_leaves, scenes
from onnxviz.optimize.transforms import (
    Admix,
    Blur,
    ColorJitter,
    Crop,
    Jitter,
    Move,
    Noise,
    Pad,
    Rotate,
    Scale,
    Transform,
    margins,
)

SIZE = (20, 40)


def uniform(count: int, numbers: int, seed: int = 0) -> torch.Tensor:
    return torch.rand((count, numbers), generator=torch.Generator().manual_seed(seed))


def matrices(move: Move, count: int = 1000, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.asarray(move.matrices(uniform(count, move.numbers).double(), size))


def test_rotation_by_a_right_angle_and_in_other_sides() -> None:
    """Pixels are square, so lengths are kept in a picture that is not."""
    quarter = Rotate(degrees=90).matrices(torch.tensor([[1.0], [0.5]]), SIZE)
    np.testing.assert_allclose(quarter[0], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(quarter[1], np.eye(3), atol=1e-6)
    found = matrices(Rotate(degrees=40))
    angles = np.degrees(np.arctan2(found[:, 1, 0], found[:, 0, 0]))
    np.testing.assert_allclose(
        found[:, :2, :2] @ found[:, :2, :2].transpose(0, 2, 1), np.eye(2) + 0 * found[:, :2, :2], atol=1e-12
    )
    assert -40 <= angles.min() < -39
    assert 39 < angles.max() <= 40


def test_scale_draws_factors_evenly() -> None:
    found = matrices(Scale(minimum=0.5, maximum=2.0), 4000)
    factors = 1 / found[:, 0, 0]
    assert 0.5 <= factors.min() < 0.51
    assert 1.99 < factors.max() <= 2
    assert factors.mean() == pytest.approx(1.25, abs=0.02)
    assert (found[:, 0, 0] == found[:, 1, 1]).all()
    assert not found[:, [0, 0, 1, 1], [1, 2, 0, 2]].any()


@pytest.mark.parametrize(("jitter", "most"), [(Jitter(pixels=4), (4, 4)), (Jitter(share=0.1), (4, 2))])
def test_jitter_shifts_by_each_number_of_whole_pixels_equally_often(jitter: Jitter, most: tuple[int, int]) -> None:
    found = matrices(jitter, 18_000)
    np.testing.assert_array_equal(found[:, :2, :2], np.broadcast_to(np.eye(2), (len(found), 2, 2)))
    for axis, largest in enumerate(most):
        counts = Counter(found[:, axis, 2])
        assert set(counts) == set(range(-largest, largest + 1))
        expected = len(found) / (2 * largest + 1)
        assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())
    assert abs(np.corrcoef(found[:, 0, 2], found[:, 1, 2])[0, 1]) < 0.03


def test_jitter_never_shifts_further_than_asked() -> None:
    """Also for the largest and smallest number that `torch.rand` draws."""
    ends = torch.tensor([[1 - 2.0**-24, 0.0]])
    for most in range(200):
        assert Jitter(pixels=most).matrices(ends, SIZE)[0, :2, 2].tolist() == [most, -most]


def test_listed_values_are_drawn_equally_often_and_repeated_ones_more_often() -> None:
    """Lucid's `standard_transforms`: -10 to 10 degrees, and 0 five times more."""
    angles = (*range(-10, 11), *[0] * 5)
    found = matrices(Rotate(values=angles), 26_000)
    counts = Counter(np.degrees(np.arctan2(found[:, 1, 0], found[:, 0, 0])).round().astype(int).tolist())
    assert set(counts) == set(range(-10, 11))
    assert counts[0] == pytest.approx(6000, abs=400)
    assert all(count == pytest.approx(1000, abs=170) for angle, count in counts.items() if angle)
    factors = tuple(1 + (i - 5) / 50 for i in range(11))
    drawn = 1 / matrices(Scale(values=factors), 11_000)[:, 0, 0]
    found_factors, times = np.unique(drawn.round(6), return_counts=True)
    np.testing.assert_allclose(found_factors, factors, atol=1e-6)
    assert (abs(times - 1000) < 170).all()
    assert Scale(values=(2.0, 3.0)).matrices(torch.tensor([[1 - 2.0**-24]]), SIZE)[0, 0, 0] == pytest.approx(1 / 3)


def test_a_crop_lies_within_the_picture_and_anywhere_in_it() -> None:
    found = matrices(Crop(minimum=0.4, maximum=0.9), 5000)
    shares = found[:, 0, 0]
    assert (found[:, 1, 1] == shares).all()
    assert 0.4 <= shares.min() < 0.41
    assert 0.89 < shares.max() <= 0.9
    for axis, side in ((0, 40), (1, 20)):
        shifts = found[:, axis, 2]
        room = (1 - shares) * side / 2
        assert (abs(shifts) <= room + 1e-9).all()
        places = shifts / room  # of -1..1, evenly
        np.testing.assert_allclose(
            np.quantile(places, [0.01, 0.25, 0.5, 0.75, 0.99]), [-0.98, -0.5, 0, 0.5, 0.98], atol=0.06
        )


def test_a_whole_crop_is_the_picture() -> None:
    np.testing.assert_array_equal(matrices(Crop(minimum=1, maximum=1), 3), np.broadcast_to(np.eye(3), (3, 3, 3)))


def test_blur_fades_evenly_to_its_last_step() -> None:
    rows = Blur(minimum=2, maximum=2, final=0.25).rows(torch.rand(4, 3, 1))
    np.testing.assert_allclose(rows[:, 1], [2, 1.5, 1, 0.5], rtol=1e-6)
    assert Blur(minimum=1, maximum=3).rows(torch.tensor([[[0.5]]])).item() == 2


def test_color_jitter_is_brightness_then_contrast_then_saturation() -> None:
    """Against the three, one after the other, as torchvision defines them, but contrast about middle grey."""
    jitter = ColorJitter(brightness=0.5, contrast=0.4, saturation=0.8)
    draws = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(1))
    images = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(2))
    rows = jitter.rows(draws)
    for step in range(5):
        made = jitter.apply(images, rows[step])
        for index in range(2):
            bright, contrast, saturation = (
                1 + amount * (2 * float(u) - 1) for amount, u in zip((0.5, 0.4, 0.8), draws[step, index], strict=True)
            )
            expected = images[index].numpy() * bright
            expected = (expected - 0.5) * contrast + 0.5
            grey = (expected * np.array([0.299, 0.587, 0.114])[:, None, None]).sum(axis=0)
            expected = grey + saturation * (expected - grey)
            np.testing.assert_allclose(made[index], expected, atol=1e-6)
    still = ColorJitter(brightness=0, contrast=0, saturation=0)
    torch.testing.assert_close(still.apply(images, still.rows(draws)[0]), images, atol=1e-6, rtol=0)


def test_admix_lets_each_scene_shine_through_now_and_then() -> None:
    admix = Admix(minimum=0.1, maximum=0.4)
    rows = admix.rows(torch.rand(400, 3, 2, generator=torch.Generator().manual_seed(0)))
    assert rows[..., 0].unique().tolist() == list(range(SCENES))
    np.testing.assert_allclose(
        np.quantile(rows[..., 1], [0, 0.25, 0.5, 0.75, 1]), [0.1, 0.175, 0.25, 0.325, 0.4], atol=0.01
    )
    last = 1 - 2.0**-24
    ends = admix.rows(torch.tensor([[[0.0, 0.0], [0.0, last], [last, 0.0]]]))
    np.testing.assert_allclose(ends, [[[0, 0.1], [0, 0.4], [SCENES - 1, 0.1]]], rtol=1e-6)
    images = torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(1), requires_grad=True)
    mixed = admix.apply(images, rows[7])
    (slopes,) = torch.autograd.grad(mixed.sum(), images)
    for image, made, slope, (number, share) in zip(images, mixed, slopes, rows[7].tolist(), strict=True):
        expected = (1 - share) * image.detach().numpy() + share * dead_leaves(int(number), (16, 24))
        np.testing.assert_allclose(made.detach(), expected, atol=1e-6)
        np.testing.assert_allclose(slope, np.full((3, 16, 24), 1 - share), rtol=1e-6)


def test_scenes_of_large_pictures_are_made_smaller_and_enlarged() -> None:
    number = torch.tensor([5])
    small, large = scenes(number, (320, 160)), scenes(number, (640, 320))
    np.testing.assert_array_equal(small[0], dead_leaves(5, (320, 160)))
    assert large.shape == (1, 3, 640, 320)
    shrunk = torch.nn.functional.avg_pool2d(large, 2)
    assert float((shrunk - small).abs().mean()) < 0.02
    assert scenes(number, (1, 2000)).shape == (1, 3, 1, 2000)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "admix", "maximum": 1}, "less than or equal"),
        ({"kind": "admix", "minimum": 0.4}, "larger than maximum"),
        ({"kind": "scale", "minimum": 1.2, "maximum": 0.9}, "larger than maximum"),
        ({"kind": "crop", "minimum": 0.9, "maximum": 0.5}, "larger than maximum"),
        ({"kind": "blur", "minimum": 3}, "larger than maximum"),
        ({"kind": "jitter", "share": -0.1}, "greater than or equal"),
        ({"kind": "jitter", "share": 0.1, "pixels": 4}, "exclude each other"),
        ({"kind": "pad", "share": 0.2, "pixels": 4}, "exclude each other"),
        ({"kind": "scale", "maximum": 2, "values": [1]}, "exclude each other"),
        ({"kind": "rotate", "degrees": 5, "values": [1]}, "exclude each other"),
        ({"kind": "rotate", "values": []}, "at least 1"),
        ({"kind": "rotate", "angle": 3}, "Extra inputs"),
        ({"kind": "crop", "maximum": 1.5}, "less than or equal"),
        ({"kind": "noise", "deviation": float("nan")}, "than or equal"),
        ({"kind": "shear"}, "does not match any of the expected tags"),
    ],
)
def test_refused_settings(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Transform).validate_python(entry)


@pytest.mark.parametrize(
    "transform",
    [
        Pad(pixels=3),
        Jitter(pixels=2),
        Scale(values=(1.0, 2.0)),
        Rotate(values=(3,)),
        Crop(),
        Blur(),
        Noise(),
        ColorJitter(),
        Admix(),
    ],
)
def test_what_was_stored_can_be_read_again(transform: Transform) -> None:
    """Stored recipes have every default written out."""
    read: object = TypeAdapter(Transform).validate_json(json.dumps(transform.model_dump(mode="json")))
    assert read == transform


def test_choices_load_without_torch() -> None:
    code = "import sys, onnxviz.optimize.transforms; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("length", [28, 32, 64, 96, 128, 224, 320])
def test_a_margin_makes_a_canvas_that_transforms_fast(length: int) -> None:
    top, left = margins((Pad(share=0.1),), (length, length))
    assert top == left >= round(0.1 * length)
    assert top < 0.1 * length + 12
    rest = length + 2 * top
    for prime in (2, 3, 5, 7):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1
    assert margins((Pad(share=0.0),), (length, length)) == (0, 0)


def test_where_no_good_size_is_near_the_margin_is_what_was_asked_for() -> None:
    assert margins((Pad(share=0.1),), (227, 227)) == (23, 23)


def test_margins_add_up_and_may_be_in_pixels() -> None:
    assert margins((Pad(pixels=12),), (128, 104)) == (16, 12)  # 160 and 128: a canvas of 152 or 156 is slower
    assert margins((Pad(share=0.25), Jitter(share=0.25)), (12, 16)) == (3, 4)
    assert margins((Pad(pixels=1), Pad(pixels=2)), (12, 14)) == (3, 3)
    assert margins((Jitter(share=0.25), Blur()), (12, 16)) == (0, 0)
