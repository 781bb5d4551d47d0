"""The mean of the last parameters against the pictures of shorter climbs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from onnxviz.optimize.edits import Decay
from onnxviz.optimize.optimizers import Adam, Averaging, GradientAscent, RmsProp, shares_in_mean
from onnxviz.optimize.parameterizations import Pixel
from onnxviz.optimize.stopping import EarlyStopping
from tests.optimize.test_ascent import SmallModel, channels, optimize_batch

PIXELS = {"parameterization": Pixel(squash="none"), "transforms": (), "begin": "grey", "redirect": 0}


def pictures(optimizer: Any, steps: int, units: tuple[int, ...] = (0, 2), **more: Any) -> np.ndarray:
    """Return the images of a climb; the parameters are the pixels, so that their mean is that of the images."""
    seeds = list(range(len(units)))
    return optimize_batch(
        SmallModel(), channels(*units), seeds, optimizer=optimizer, steps=steps, **{**PIXELS, **more}
    ).images


@pytest.mark.parametrize(
    ("share", "steps", "counted"), [(0.5, 6, 3), (0.25, 8, 2), (1.0, 5, 5), (0.01, 7, 1), (0.0, 3, 1), (0.5, 1, 1)]
)
def test_so_many_of_the_last_numbers_are_averaged(share: float, steps: int, counted: int) -> None:
    numbers = np.random.default_rng(0).standard_normal(steps)
    mean = 100.0
    for number, part in zip(numbers, shares_in_mean(share, steps), strict=True):
        mean += (number - mean) * part
    assert mean == pytest.approx(numbers[-counted:].mean())


@pytest.mark.parametrize(
    "optimizer",
    [Adam(learning_rate=0.01), RmsProp(learning_rate=0.005), GradientAscent(learning_rate=0.005)],
    ids=lambda made: made.kind,
)
@pytest.mark.parametrize("edits", [(), (Decay(share=0.1),)], ids=["plain", "edited"])
def test_the_picture_is_the_mean_of_those_after_each_of_the_last_steps(optimizer: Any, edits: tuple[Any, ...]) -> None:
    """A climb of k steps ends where a longer one is after k: nothing here depends on how many there will be."""
    after = [pictures(optimizer, steps, edits=edits) for steps in (4, 5, 6)]
    found = pictures(optimizer.model_copy(update={"average": 0.5}), 6, edits=edits)
    np.testing.assert_allclose(found, np.mean(after, axis=0), atol=1e-6)
    assert np.abs(found - after[-1]).max() > 1e-4


def test_what_is_measured_is_the_picture_that_is_given() -> None:
    model = SmallModel()
    made = optimize_batch(model, channels(1), [0], optimizer=Adam(average=0.5), steps=8, **PIXELS)  # type: ignore[arg-type]
    shown = model.network(torch.from_numpy(made.images))[:, 1].mean().item()
    assert made.after[0] == pytest.approx(shown, rel=1e-4)


def test_a_stopped_picture_is_the_same_alone_and_beside_one_that_goes_on() -> None:
    """Alone the loop ends when the picture stops; beside another its steps go on, and its mean must not."""
    optimizer, stopping = Adam(learning_rate=0.02, average=0.9), EarlyStopping(patience=8, rise=0.2)
    model = SmallModel()
    settings = {"optimizer": optimizer, "stopping": stopping, "steps": 64, **PIXELS}
    both = optimize_batch(model, channels(2, 3), [2, 3], **settings)
    assert both.taken[0] != both.taken[1]
    for row, unit in enumerate((2, 3)):
        alone = optimize_batch(SmallModel(), channels(unit), [unit], **settings)
        np.testing.assert_array_equal(both.images[row], alone.images[0])


def test_rows_that_do_not_move_keep_their_mean() -> None:
    averaging = Averaging(1.0, 3, torch.zeros(2, 2))
    for step, (value, moving) in enumerate([(1.0, [True, True]), (3.0, [True, False]), (8.0, [True, False])]):
        averaging.follow(torch.full((2, 2), value), torch.tensor(step), torch.tensor(moving))
    torch.testing.assert_close(averaging.mean, torch.tensor([[4.0, 4.0], [1.0, 1.0]]))


def test_words_say_so() -> None:
    assert Adam(average=0.5).words() == "Adam at rate 0.03, averaged over the last 50% of the steps"
