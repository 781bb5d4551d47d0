"""The pointing game: which pairs are difficult, what is averaged, the classifiers that are pointed at, and a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_benchmarks import _from_the_repository, rows

__all__ = ["_from_the_repository"]


@pytest.mark.parametrize(
    ("shares", "difficult"),
    [((0.2, 0.01), True), ((0.25, 0.01), False), ((0.2, 0.009), False), ((0.9, 0.1), False), ((0.2, 0.0), False)],
)
def test_which_pairs_are_difficult(shares: tuple[float, ...], difficult: bool) -> None:
    from benchmarks.attribution_pointing import is_difficult

    assert is_difficult(np.array(shares), 0, 0.01) is difficult


def test_pointing_is_averaged_in_classes_and_compared_by_ranks() -> None:
    """Three images of a common class and one of a rare one, whose mean is not that of the four."""
    from benchmarks.attribution_pointing import Pair, figures

    hits = {"a": (1, 0, 0, 1), "b": (0, 0, 0, 0), "c": (1, 1, 1, 1)}
    pairs = [
        Pair(
            place, "rare" if place == 3 else "common", False,
            {name: [each[place], 0.0] for name, each in hits.items()},
            {"a": place / 4, "b": place / 4 if place else np.nan, "c": np.nan if place == 3 else 1.0},
        )
        for place in range(4)
    ]  # fmt: skip
    found = figures(pairs, 0)
    assert dict(zip(found.maps, found.accuracy.tolist(), strict=True)) == pytest.approx({"a": 2 / 3, "b": 0, "c": 1})
    assert found.by_class["common"].tolist() == pytest.approx([1 / 3, 0, 1])
    assert found.energy.tolist() == pytest.approx([(0.25 + 0.75) / 2, (0.375 + 0.75) / 2, 1])
    assert found.interval("c") == (1, 1)
    assert found.interval("c", "b") == (1, 1)
    low, high = found.interval("a")
    assert low < 2 / 3 < high
    # Ranks 2, 1, 3 against 3, 1, 2: 1 - 6 * (1 + 0 + 1) / (3 * 8).
    assert found.correlation({"a": 9.0, "b": 1.0, "c": 2.0})[0] == pytest.approx(0.5)
    assert figures(pairs, 1).accuracy.tolist() == [0, 0, 0]


def _coloured_squares(seed: int) -> tuple[Any, ...]:
    """Grey images 64 x 64, each with one, two or none of a red, a green and a blue square."""
    from benchmarks.pointing_images import Example

    rng = np.random.default_rng(seed)
    examples = []
    for place in range(60):
        image, labels = np.full((3, 64, 64), 0.2, np.float32), np.full((64, 64), 255, np.uint8)
        corners = rng.permutation(4)
        for colour in np.flatnonzero(rng.random(3) < 0.5):
            top, left = (40 * int(side) for side in divmod(int(corners[colour]), 2))
            image[colour, top : top + 16, left : left + 16] = 0.9
            labels[top : top + 16, left : left + 16] = colour
        examples.append(Example(image, labels, place, place))
    return tuple(examples)


def test_a_classifier_of_colours_is_pointed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the file of a network without its head to maps that lie on what it learned from labels of whole images."""
    import onnx
    from onnx import helper, numpy_helper

    from benchmarks import linear_classifier
    from benchmarks.attribution_pointing import chosen_methods, figures, judge, tolerances, train
    from benchmarks.pointing_images import Split
    from onnxviz.core.values import Preprocessing

    kernel = np.eye(3, dtype=np.float32)[:, :, None, None] * np.full((8, 8), 1 / 64, np.float32)
    ends = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", ["N", 3, 64, 64]), ("y", None))]
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"], strides=[8, 8]),
        helper.make_node("Relu", ["c"], ["map"]),
        helper.make_node("ReduceMax", ["map"], ["y"]),  # what is behind the map is no part of the classifier
    ]
    graph = helper.make_graph(nodes, "colours", ends[:1], ends[1:], [numpy_helper.from_array(kernel, "kernel")])
    (tmp_path / "zoo" / "onnx").mkdir(parents=True)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(proto, tmp_path / "zoo" / "onnx" / "colours.onnx")
    backbone = linear_classifier.Backbone("colours.onnx", Preprocessing("RGB", (0.0,), (255.0,)), "map")
    monkeypatch.setattr(linear_classifier, "_SHUFFLES", 200)

    split = Split(
        ("red", "green", "blue", "never"), *(list(_coloured_squares(seed)) for seed in (0, 1)), list(range(12))
    )
    model, found = train(backbone, split, tmp_path, tmp_path / "classifier.onnx")
    assert [(each.name, each.counts) for each in found] == [(name, True) for name in split.classes[:3]]
    assert [each.average for each in found] == pytest.approx([1, 1, 1])
    images = np.stack([each.image for each in split.held_out])
    given = linear_classifier.features(backbone, tmp_path, tmp_path, images)
    assert given == pytest.approx(images.mean(axis=(2, 3)), abs=1e-6)

    numbers = {each.name: unit for unit, each in enumerate(found)}
    pairs = list(judge(model, model.view.select("last_map"), split, numbers, chosen_methods(["grad_cam", "rise"])))
    played = figures(pairs, 0)
    accuracy = dict(zip(played.maps, played.accuracy, strict=True))
    assert accuracy["Grad-CAM"] == accuracy["RISE"] == 1
    assert accuracy["centre"] == 0
    assert tolerances(np.ones((375, 500), np.bool_)) == (15, 15)
    assert {pair.difficult for pair in pairs if pair.group < 12} == {True, False}
    for pair in pairs:
        alone = sum(split.held_out[pair.group].shares(3) > 0) == 1
        assert pair.difficult is not alone


def test_weights_of_a_fit_are_those_of_features_as_they_are() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from benchmarks.linear_classifier import fit

    rng = np.random.default_rng(0)
    given = rng.normal(3, (1, 5, 0.2), (80, 3)).astype(np.float32)
    present = given[:, :2] + rng.normal(size=(80, 2)) > 3
    weights, biases = fit(given, present, 0.1)
    for place, each in enumerate(present.T):
        peer = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(given, each)
        assert given @ weights[place] + biases[place] == pytest.approx(peer.decision_function(given), abs=1e-4)


def test_a_class_found_by_chance_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import linear_classifier
    from benchmarks.linear_classifier import precision

    monkeypatch.setattr(linear_classifier, "_SHUFFLES", 200)
    rng = np.random.default_rng(0)
    present = np.arange(60) % 3 == 0
    good = precision("a", 20, present, present + rng.normal(size=60) * 0.1)
    assert (good.counts, good.present, good.count) == (True, 20, 60)
    assert good.average == pytest.approx(1)
    assert not precision("a", 20, present, rng.normal(size=60)).counts
    assert not precision("a", 20, np.arange(60) < 7, -np.arange(60.0)).counts  # found always, but too few to tell
    nowhere = precision("a", 20, np.zeros(60, np.bool_), rng.normal(size=60))
    assert np.isnan(nowhere.average)
    assert not nowhere.counts


@pytest.mark.zoo
def test_attribution_pointing(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import attribution_pointing

    def played(*more: str) -> str:
        options = ("--zoo", str(zoo.parent), "--folder", str(tmp_path), "--data", "segmenter", "--images", "2")
        monkeypatch.setattr(sys, "argv", ["attribution_pointing", *options, *more])
        threads = torch.get_num_threads()
        attribution_pointing.main()
        torch.set_num_threads(threads)
        return capsys.readouterr().out

    text = played("--methods", "grad_cam", "gradient")
    assert float(text.split("named right: ")[1].split("%")[0]) > 80
    names = ["by chance", "Grad-CAM", "Gradient", "random pixels", "random patches", "centre", "edge filter"]
    assert [row[0] for row in rows(text)] == [*names, *names]
    assert rows(played("--tables")) == rows(text)
