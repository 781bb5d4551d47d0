"""Deletion and insertion curves: closed forms where the score is a sum of pixels, and a slow loop where it is not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from planted_sum import SIZE, ask, save_sum

import onnxviz
from onnxviz.analyses.attribution.faithfulness import area, blurred, curves, enlarged, pixel_order
from onnxviz.analyses.attribution.simple_maps import CENTRE, EDGES, PATCHES, RANDOM, centre, edges, simple_maps
from onnxviz.analyses.attribution.target_probability import choice_of, probability_of
from onnxviz.analyses.attribution.targets import ClassTarget, Difference
from onnxviz.data import builtin
from onnxviz.graph.targets import resolve_head

PIXELS = SIZE * SIZE


@pytest.fixture
def weights() -> npt.NDArray[np.float64]:
    """Of one class: positive and negative ones, by channel, row and column."""
    return np.random.default_rng(3).normal(0.4, 1, (2, 3, SIZE, SIZE))


@pytest.fixture
def linear(tmp_path: Path, weights: npt.NDArray[np.float64]) -> onnxviz.Model:
    """A sum of pixels, of which nothing makes probabilities."""
    return onnxviz.load(save_sum(tmp_path / "sum.onnx", weights), preprocess="unit", device="cpu")


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_the_best_map_of_a_sum_has_the_area_that_can_be_written_down(
    linear: onnxviz.Model, weights: npt.NDArray[np.float64]
) -> None:
    given = images()
    parts = (given.double().numpy() * weights[0]).sum(axis=1)  # what each pixel adds to the score
    assert (parts.sum(axis=(1, 2)) > 0).all()
    maps = {"best": parts, "worst": -parts, "other": np.random.default_rng(0).random(parts.shape)}
    found = curves(ask(linear, given, [0] * 3), maps, steps=16, deleted="zero", inserted="zero")
    for place, by_name in enumerate(found):
        steps = np.sort(parts[place].ravel())[::-1].cumsum()[3::4] / parts[place].sum()
        wanted = np.concatenate([[0.0], steps])
        np.testing.assert_allclose(by_name["best"].insertion, wanted, atol=1e-5)
        np.testing.assert_allclose(by_name["best"].deletion, 1 - wanted, atol=1e-5)
        best = float(np.trapezoid(wanted, dx=1 / 16))
        assert area(by_name["best"].insertion) == pytest.approx(best, abs=1e-5)
        assert by_name["best"].margin == pytest.approx(2 * best - 1, abs=1e-5)
        assert by_name["worst"].margin == pytest.approx(1 - 2 * best, abs=1e-5)
        assert by_name["worst"].margin < by_name["other"].margin < by_name["best"].margin
        assert by_name["best"].scale == "score"


def test_maps_that_are_the_same_but_for_scale_and_rounding_are_measured_once(linear: onnxviz.Model) -> None:
    first = np.random.default_rng(0).normal(size=(1, 4, 4))
    maps = {"first": first, "second": 3 * first * (1 + 1e-8), "negative": -first, "near": first + 1e-4 * first[:, ::-1]}
    question = ask(linear, images(1), [0])
    (found,) = curves(question, maps, steps=4)
    assert found["second"] is found["first"]
    assert found["near"] is not found["first"]
    assert found["negative"] != found["first"]
    assert curves(question, {"second": maps["second"]}, steps=4)[0]["second"] == found["second"]


def test_a_random_order_of_a_sum_is_expected_to_have_half_the_area(linear: onnxviz.Model) -> None:
    given = images(1).expand(60, -1, -1, -1)
    question = ask(linear, given, [0] * 60)
    found = curves(question, {RANDOM: simple_maps(question)[RANDOM]}, steps=16, deleted="zero", inserted="zero")
    areas = np.array([area(by_name[RANDOM].deletion) for by_name in found])
    assert abs(areas.mean() - 0.5) < 4 * areas.std() / math.sqrt(len(areas))
    assert areas.std() > 0.01


def test_a_baseline_that_scores_no_less_gives_no_curve(linear: onnxviz.Model, weights: npt.NDArray[np.float64]) -> None:
    parts = torch.from_numpy(weights[0].mean(axis=0))
    given = (parts < 0).float()[None, None].expand(1, 3, -1, -1)
    (found,) = curves(ask(linear, given, [0]), {"any": np.ones((1, 1, 1))}, steps=4, deleted="zero", inserted="zero")
    assert found["any"].deletion == found["any"].insertion == ()
    assert math.isnan(found["any"].margin)
    assert math.isnan(area(found["any"].deletion))


def test_an_image_that_scores_hardly_more_than_its_baseline_gives_no_curve(linear: onnxviz.Model) -> None:
    """Divided by next to nothing, its curve would outweigh those of all other images."""
    given = images(1)
    nearly = blurred(given[0])[None] + 1e-3 * (given - blurred(given[0])[None])
    maps = {"one": np.random.default_rng(0).random((1, SIZE, SIZE))}
    (usual,) = curves(ask(linear, given, [0]), maps, steps=4, deleted="zero", inserted="zero")
    (flat,) = curves(ask(linear, nearly, [0]), maps, steps=4, deleted="blur", inserted="blur")
    assert usual["one"].deletion
    assert flat["one"].deletion == flat["one"].insertion == ()


def test_curves_of_probabilities_are_those_of_a_loop(tmp_path: Path, weights: npt.NDArray[np.float64]) -> None:
    model = onnxviz.load(save_sum(tmp_path / "s.onnx", weights / 4, softmax=True), preprocess="caffe", device="cpu")
    given, heat = images(2), np.random.default_rng(5).random((2, 4, 4))
    question = ask(model, given, [1, 0])
    found = curves(question, {"some": heat}, steps=5, deleted="zero", inserted="blur")
    for place, number in enumerate((1, 0)):
        image, values = given[place], enlarged(heat[place], (SIZE, SIZE)).ravel()
        order = sorted(range(PIXELS), key=lambda pixel, values=values: -values[pixel])
        zero = torch.tensor([123.0, 117.0, 104.0])[:, None, None] / 255  # the network's are BGR
        deletion, insertion = [], []
        for step in range(6):
            taken = order[: round(step * PIXELS / 5)]
            mask = torch.zeros(PIXELS, dtype=torch.bool)
            mask[taken] = True
            mask = mask.reshape(SIZE, SIZE)
            changed = torch.stack([torch.where(mask, zero, image), torch.where(mask, image, blurred(image))])
            gone, come = model.probabilities(changed)[:, number]
            deletion.append(float(gone))
            insertion.append(float(come))
        np.testing.assert_allclose(found[place]["some"].deletion, deletion, atol=1e-6)
        np.testing.assert_allclose(found[place]["some"].insertion, insertion, atol=1e-6)
        assert found[place]["some"].scale == "probability"


def test_an_image_has_the_same_curves_in_any_batch() -> None:
    known = builtin.model("scenes")
    model = onnxviz.Model(onnxviz.open_model(known.path), known.preprocessing, known.labels, "cpu")
    given = torch.rand(3, 3, *model.input_size, generator=torch.Generator().manual_seed(0))
    given[1] = (given[1] * 4).round() / 4  # an edge filter with ties
    maps = np.random.default_rng(0).random((3, 2, 2)).round(1)
    together = ask(model, given, [0, 1, 0], [4, 5, 6])
    alone = ask(model, given[1:2], [1], [5])
    every = {"coarse": maps, **simple_maps(together)}
    one = {"coarse": maps[1:2], **simple_maps(alone)}
    assert curves(together, every, steps=18)[1] == curves(alone, one, steps=18)[0]


def test_ties_come_in_a_random_order_that_is_the_same_for_all_maps() -> None:
    orders = [pixel_order(np.zeros((2, 2)), (6, 6), np.random.default_rng(1)) for _ in range(2)]
    assert (orders[0] == orders[1]).all()
    assert sorted(orders[0]) == list(range(36))
    assert (orders[0] != np.arange(36)).any()
    heat = np.zeros((6, 6))
    heat[2, 3], heat[4, 1], heat[0, 0], heat[5, 5] = 2, 1, -1, np.nan
    order = pixel_order(heat, (6, 6), np.random.default_rng(1))
    assert (order[0], order[1], order[-2], order[-1]) == (15, 25, 0, 35)


def test_a_map_that_is_enlarged_is_what_opencv_makes_of_it() -> None:
    cv2 = pytest.importorskip("cv2")
    heat = np.random.default_rng(0).random((5, 7))
    wanted = cv2.resize(heat, (31, 23), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(enlarged(heat, (23, 31)), wanted, atol=1e-12)
    assert enlarged(np.random.default_rng(0).random((9, 9)), (3, 3)).shape == (3, 3)


def test_a_blur_keeps_even_colours_and_spreads_a_point_as_a_gaussian() -> None:
    torch.testing.assert_close(blurred(torch.full((3, 20, 40), 0.3)), torch.full((3, 20, 40), 0.3))
    point = torch.zeros(1, 41, 41)
    point[0, 20, 20] = 1
    spread = blurred(point)[0].double()
    assert float(spread.sum()) == pytest.approx(1, abs=1e-6)
    deviation = 41 / 20
    rows = torch.arange(41, dtype=torch.float64) - 20
    assert float((spread.sum(dim=1) * rows**2).sum()) == pytest.approx(deviation**2, rel=0.05)


def test_simple_maps_are_what_they_are_called(linear: onnxviz.Model) -> None:
    image = np.zeros((3, 5, 6))
    image[:, :, 3:] = 1
    assert edges(image)[2].tolist() == pytest.approx([0, 0, 4, 4, 0, 0])
    assert edges(image.transpose(0, 2, 1))[:, 2].tolist() == pytest.approx([0, 0, 4, 4, 0, 0])
    middle = centre(5, 7)
    assert np.unravel_index(middle.argmax(), middle.shape) == (2, 3)
    assert middle[0, 0] == middle[4, 6] == 0
    found = simple_maps(ask(linear, images(2), [0, 0]))
    assert {name: maps.shape for name, maps in found.items()} == {
        RANDOM: (2, 8, 8), PATCHES: (2, 7, 7), CENTRE: (2, 8, 8), EDGES: (2, 8, 8),
    }  # fmt: skip
    assert not (found[RANDOM][0] == found[RANDOM][1]).any()


def test_edges_are_scipys() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    grey = np.random.default_rng(0).random((9, 11))
    wanted = np.hypot(ndimage.sobel(grey, 0, mode="nearest"), ndimage.sobel(grey, 1, mode="nearest"))
    np.testing.assert_allclose(edges(grey[None]), wanted, atol=1e-12)


def test_probabilities_and_choices_are_the_models(tmp_path: Path, weights: npt.NDArray[np.float64]) -> None:
    model = onnxviz.load(save_sum(tmp_path / "s.onnx", weights / 4, softmax=True), preprocess="unit", device="cpu")
    given = images(4)
    head = resolve_head(model.view, None, None)
    target = ClassTarget(head, 1)
    probability, choice = probability_of(target), choice_of(target)
    assert probability is not None
    assert choice is not None
    values = torch.from_numpy(model.scores(given, head))
    wanted = model.probabilities(given)
    np.testing.assert_allclose(probability.score(values), wanted[:, 1], atol=1e-6)
    assert choice.score(values).tolist() == wanted.argmax(axis=1).tolist()
    assert probability_of(Difference(target, target)) is None
    assert choice_of(Difference(target, target)) is None
    one = onnxviz.load(save_sum(tmp_path / "o.onnx", weights[:1]), preprocess="unit", device="cpu", output="binary")
    head = resolve_head(one.view, None, None)
    values = torch.from_numpy(one.scores(given, head))
    for number in (0, 1):
        made = probability_of(ClassTarget(head, number))
        assert made is not None
        np.testing.assert_allclose(made.score(values), one.probabilities(given)[:, number], atol=1e-6)


def test_nothing_is_a_probability_where_nothing_says_so(linear: onnxviz.Model) -> None:
    target = ClassTarget(resolve_head(linear.view, None, None), 0)
    assert probability_of(target) is None
    assert choice_of(target) is None
