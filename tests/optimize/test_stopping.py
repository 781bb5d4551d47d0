"""Early stopping against a slow watcher in NumPy, one image at a time."""

from __future__ import annotations

import numpy as np
import torch

from onnxviz.optimize.stopping import EarlyStopping, Watch


def slow(curve: np.ndarray, patience: int, rise: float) -> int:
    """Return how many steps an image takes whose activation is `curve`."""
    for step in range(len(curve)):
        if step + 1 >= 2 * patience:
            recent = curve[step + 1 - patience : step + 1].mean()
            former = curve[step + 1 - 2 * patience : step + 1 - patience].mean()
            if not recent - former > rise * abs(recent):
                return step
    return len(curve)


def watched(curves: np.ndarray, rules: EarlyStopping) -> tuple[np.ndarray, list[bool]]:
    """Return the masks [N, steps] and whether all were done after each step."""
    watch = Watch(rules, len(curves), curves.shape[1], torch.device("cpu"))
    masks, done = [], []
    for step in range(curves.shape[1]):
        masks.append(watch.still(torch.from_numpy(curves[:, step]), torch.tensor(step)).clone().numpy())
        done.append(watch.all_done())
    found = np.stack(masks, axis=1)
    assert watch.taken.tolist() == found.sum(axis=1).tolist()
    return found, done


def curves(steps: int = 120) -> np.ndarray:
    """Rising for ever, saturating early and late, flat, falling, below zero, noisy."""
    time = np.arange(steps)
    noise = np.random.default_rng(0).standard_normal(steps)
    rows = [
        time * 1.0, 1 - np.exp(-time / 5), 1 - np.exp(-time / 40), np.zeros(steps), -time * 1.0, time * 0.1 - 50,
        10 - 9 * np.exp(-time / 10) + 0.1 * noise,
    ]  # fmt: skip
    return np.stack(rows).astype(np.float32)


def test_each_image_stops_where_the_slow_watcher_stops_it() -> None:
    rules = EarlyStopping(patience=10, rise=0.02)
    given = curves()
    masks, done = watched(given, rules)
    expected = [slow(curve.astype(np.float64), 10, 0.02) for curve in given]
    assert masks.sum(axis=1).tolist() == expected
    assert len(set(expected)) > 4
    assert min(expected) == 19
    assert max(expected) == 120
    assert done == [False] * 120


def test_an_image_that_was_stopped_stays_stopped() -> None:
    given = np.concatenate([np.zeros(40), np.arange(40) * 5.0]).astype(np.float32)[None]
    masks, done = watched(given, EarlyStopping(patience=8))
    assert masks[0].tolist() == [True] * 15 + [False] * 65
    assert done == [False] * 15 + [True] * 65


def test_images_do_not_influence_each_other() -> None:
    rules, given = EarlyStopping(patience=12, rise=0.01), curves()
    together, _ = watched(given, rules)
    for row in range(len(given)):
        alone, _ = watched(given[row : row + 1], rules)
        np.testing.assert_array_equal(together[row : row + 1], alone)


def test_a_rise_of_zero_goes_on_while_anything_rises_and_no_number_stops() -> None:
    given = np.stack([np.arange(50) * 1e-3, np.full(50, np.nan)]).astype(np.float32)
    masks, _ = watched(given, EarlyStopping(patience=8, rise=0.0))
    assert masks.sum(axis=1).tolist() == [50, 15]
