"""Equality with Quantus, where it has the metric; needs the extra `peers`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from planted_sum import SIZE, ask, save_sum

import onnxviz
from onnxviz.analyses.attribution.faithfulness import area, curves
from onnxviz.analyses.attribution.localisation import localise
from onnxviz.analyses.attribution.map_similarity import rank_correlation, relative_change, structural_similarity

quantus = pytest.importorskip("quantus")
GREY = 256 * np.random.default_rng(0).random((4, 1, SIZE, SIZE)).astype(np.float32) / 256


class Sum(torch.nn.Module):
    """The planted network of grey images, in PyTorch."""

    def __init__(self, weights: npt.NDArray[np.floating]) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.from_numpy(weights.sum(axis=1).reshape(len(weights), -1)).float())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weights.T + 0.25


@pytest.mark.parametrize("features", [1, 4])
def test_deletion_is_pixel_flipping(tmp_path: Path, features: int) -> None:
    weights = np.random.default_rng(3).normal(0, 0.3, (3, 3, SIZE, SIZE))
    model = onnxviz.load(save_sum(tmp_path / "s.onnx", weights, softmax=True), preprocess="unit", device="cpu")
    maps = np.random.default_rng(4).normal(size=(4, SIZE, SIZE))
    classes = [0, 2, 1, 2]
    question = ask(model, torch.from_numpy(GREY).expand(-1, 3, -1, -1), classes)
    found = curves(question, {"map": maps}, steps=SIZE * SIZE // features, deleted="zero")
    flipping = quantus.PixelFlipping(
        features_in_step=features, perturb_baseline=0.0, abs=False, normalise=False, disable_warnings=True
    )
    wanted = flipping(Sum(weights).eval(), GREY, np.array(classes), maps[:, None].astype(np.float32), softmax=True)
    for by_name, peer in zip(found, wanted, strict=True):
        np.testing.assert_allclose(by_name["map"].deletion[1:], peer, atol=1e-5)
        # The peer's curve starts behind the first step.
        ours = area(by_name["map"].deletion[1:])
        assert ours == pytest.approx(float(np.trapezoid(peer)) / (len(peer) - 1), abs=1e-5)


def test_similarities_are_its_functions() -> None:
    first, second = np.random.default_rng(1).random((2, 15, 20))
    similar = quantus.functions.similarity_func
    assert rank_correlation(first, second) == pytest.approx(similar.correlation_spearman(first.ravel(), second.ravel()))
    one, other = first / first.max(), second / second.max()
    assert structural_similarity(first, second) == pytest.approx(float(similar.ssim(one, other)), abs=1e-9)


def test_a_change_is_max_sensitivitys_of_one_sample() -> None:
    images = np.random.default_rng(2).random((3, 1, SIZE, SIZE)).astype(np.float32)
    weights = np.random.default_rng(3).normal(0, 0.3, (2, 3, SIZE, SIZE))

    def explain(
        model: object, inputs: npt.NDArray[np.floating], targets: object, **_: object
    ) -> npt.NDArray[np.floating]:
        return np.asarray(inputs, np.float32) ** 2

    def shifted(arr: npt.NDArray[np.floating], indices: object, **_: object) -> npt.NDArray[np.floating]:
        return arr + np.linspace(-0.1, 0.1, arr.shape[1], dtype=np.float32)

    peer = quantus.MaxSensitivity(nr_samples=1, perturb_func=shifted, disable_warnings=True)
    wanted = peer(Sum(weights).eval(), images, np.zeros(3, int), images**2, explain_func=explain)
    moved = shifted(images.reshape(3, -1), None).reshape(images.shape)
    ours = [relative_change(old**2, new**2) for old, new in zip(images, moved, strict=True)]
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)


def test_places_are_its_pointing_game_and_mass_accuracy() -> None:
    random = np.random.default_rng(4)
    maps, masks = random.random((6, 1, 12, 12)), random.random((6, 1, 12, 12)) < 0.4
    given = {"model": Sum(np.zeros((2, 3, 12, 12))).eval(), "x_batch": maps, "y_batch": np.zeros(6, int)}
    kind = {"abs": False, "normalise": False, "disable_warnings": True}
    pointing = quantus.PointingGame(**kind)(**given, a_batch=maps, s_batch=masks)
    mass = quantus.RelevanceMassAccuracy(**kind)(**given, a_batch=maps, s_batch=masks)
    ours = [localise(heat[0], mask[0], tolerance=0) for heat, mask in zip(maps, masks, strict=True)]
    assert [bool(one.pointing) for one in ours] == [bool(one) for one in pointing]
    np.testing.assert_allclose([one.energy for one in ours], mass, rtol=1e-9)
