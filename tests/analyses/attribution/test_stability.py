"""Maps under noise, beside a loop; what changes the prediction does not count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from planted_sum import SIZE, ask, save_sum

import onnxviz
from onnxviz.analyses.attribution.question import Question
from onnxviz.analyses.attribution.stability import stability


@pytest.fixture
def model(tmp_path: Path) -> onnxviz.Model:
    """Two classes, of which the second has the score of the first but for a little."""
    weights = np.random.default_rng(0).normal(size=(2, 3, SIZE, SIZE))
    weights[1] = weights[0] + 0.05 * np.random.default_rng(1).normal(size=weights[0].shape)
    return onnxviz.load(save_sum(tmp_path / "sum.onnx", weights, softmax=True), preprocess="unit", device="cpu")


def brightness(question: Question) -> Mapping[str, npt.NDArray[np.floating]]:
    """The image itself as a map, and one that never changes."""
    grey = question.images.double().mean(dim=1).numpy()
    return {"grey": grey, "same": np.arange(grey.size, dtype=float).reshape(grey.shape) + 1}


def test_changes_are_those_of_the_noise_that_was_drawn(model: onnxviz.Model) -> None:
    images = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    best = model.probabilities(images).argmax(axis=1)
    question = ask(model, images, [int(number) for number in best], [7, 8, 9])
    found = stability(question, brightness(question), brightness, noise=0.4, samples=12)
    assert any(0 < by_name["grey"].samples < 12 for by_name in found), "the noise should change some predictions"
    for place, by_name in enumerate(found):
        generator = question.generator(place, "stability")
        changes = []
        for _ in range(12):
            noise = generator.uniform(-0.4, 0.4, (3, SIZE, SIZE)).astype(np.float32)
            noisy = np.clip(images[place].numpy() + noise, 0, 1)
            if model.probabilities(torch.from_numpy(noisy)[None]).argmax() == best[place]:
                old, new = (each.astype(np.float64).mean(axis=0) for each in (images[place].numpy(), noisy))
                changes.append(np.linalg.norm(new - old) / np.linalg.norm(old))
        assert by_name["grey"].samples == len(changes)
        assert by_name["grey"].sensitivity == pytest.approx(max(changes), rel=1e-6)
        assert 0 < by_name["grey"].rank < 1
        assert (by_name["same"].sensitivity, by_name["same"].rank) == (0, pytest.approx(1))


def test_where_all_noise_changes_the_prediction_nothing_is_said(model: onnxviz.Model) -> None:
    images = torch.full((1, 3, SIZE, SIZE), 0.5)
    (number,) = model.probabilities(images).argmax(axis=1)
    question = ask(model, images, [int(number)])
    flips = iter([[0.0], [1.0], [1.0]])
    question.again = lambda **given: _Said(question, flips) if "targets" in given else question  # type: ignore[method-assign]
    (found,) = stability(question, brightness(question), brightness, noise=0.1, samples=2)
    assert found["grey"].samples == 0
    assert math.isnan(found["grey"].sensitivity)
    assert math.isnan(found["grey"].rank)


class _Said:
    """Stands for a question whose answers are written down."""

    def __init__(self, question: Question, said: object) -> None:
        self.said = said

    def measure(self, images: torch.Tensor, owners: list[int]) -> torch.Tensor:
        return torch.tensor(next(self.said))  # type: ignore[call-overload]
