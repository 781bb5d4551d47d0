"""XAI-TRIS: what is drawn, what is measured, and that a map which is right by construction is found to be right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
T_PIXELS = {(1, 1), (2, 1), (2, 2), (3, 1)}
L_PIXELS = {(4, 5), (5, 5), (6, 5), (6, 6)}

ndimage = pytest.importorskip("scipy.ndimage")


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks are no part of the package: they are found beside it."""
    monkeypatch.syspath_prepend(str(ROOT))


def pixels(mask: np.ndarray) -> set[tuple[int, int]]:
    return {(int(row), int(column)) for row, column in np.argwhere(mask)}


# --- what is drawn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "deviation"), [(8, 3.0), (64, 10.0), (64, 1.5)])
def test_images_are_smoothed_as_by_scipy(side: int, deviation: float) -> None:
    from benchmarks.xai_tris_scenarios import blurred

    images = np.random.default_rng(0).normal(size=(2, side, side))
    expected = [ndimage.gaussian_filter(image, deviation) for image in images]
    np.testing.assert_allclose(blurred(images, deviation), expected, atol=1e-12)


def test_covariance_of_the_noise() -> None:
    """Of smoothed noise by what SciPy's filter makes of single pixels; of white noise a quarter and nothing else."""
    from benchmarks.xai_tris_scenarios import Setting, noise

    count = 20_000
    answers = np.stack([ndimage.gaussian_filter(one.reshape(8, 8), 3.0).ravel() for one in np.eye(64)])
    for background, expected in (("CORR", answers.T @ answers / 4), ("WHITE", np.eye(64) / 4)):
        drawn = noise(Setting("LIN", background), count, np.random.default_rng(1)).reshape(count, 64)
        found = drawn.T @ drawn / count
        variance = np.diag(expected)
        error = np.sqrt((expected**2 + variance[:, None] * variance) / count)  # of products of normal numbers
        assert (np.abs(found - expected) < 5 * error).all()


def test_places_of_t_and_l() -> None:
    from benchmarks.xai_tris_scenarios import Setting, tetrominoes, truth_of

    for scenario in ("LIN", "MULT"):
        signs, classes = tetrominoes(setting := Setting(scenario, "WHITE"), 6, np.random.default_rng(0))
        assert classes.tolist() == [0, 0, 0, 1, 1, 1]
        for sign, number, truth in zip(signs, classes, truth_of(setting, signs), strict=True):
            assert pixels(sign == 1) == (L_PIXELS if number else T_PIXELS)
            assert pixels(sign != 0) == pixels(sign == 1)
            assert pixels(truth) == T_PIXELS | L_PIXELS


def test_four_groups_of_xor() -> None:
    from benchmarks.xai_tris_scenarios import Setting, tetrominoes, truth_of

    signs, classes = tetrominoes(setting := Setting("XOR", "WHITE"), 8, np.random.default_rng(0))
    assert [(sign[1, 1], sign[4, 5], number) for sign, number in zip(signs, classes, strict=True)] == [
        *[(1, 1, 0)] * 2, *[(-1, -1, 0)] * 2, *[(1, -1, 1)] * 2, *[(-1, 1, 1)] * 2,
    ]  # fmt: skip
    for sign, truth in zip(signs, truth_of(setting, signs), strict=True):
        assert pixels(truth) == pixels(sign != 0) == T_PIXELS | L_PIXELS
        for places in (T_PIXELS, L_PIXELS):
            assert len({sign[place] for place in places}) == 1


def test_shapes_of_64_pixels() -> None:
    """Eight times as large and blurred, RIGID four times, by the paper's repository (eval/eval_utils.py)."""
    from benchmarks.xai_tris_scenarios import Setting, tetrominoes, truth_of

    small = np.zeros((8, 8))
    for place in T_PIXELS | L_PIXELS:
        small[place] = 1
    soft = ndimage.gaussian_filter(np.kron(small, np.ones((8, 8))), 1.5)
    for scenario in ("LIN", "XOR"):
        signs, _ = tetrominoes(setting := Setting(scenario, "CORR", 64), 4, np.random.default_rng(0))
        assert (truth_of(setting, signs) == (soft >= 0.05)).all()
    signs, _ = tetrominoes(Setting("RIGID", "CORR", 64), 20, np.random.default_rng(0))
    np.testing.assert_allclose(signs.sum(axis=(1, 2)), 4 * 16)  # blurred with mirrored borders nothing is lost
    assert (signs.max(axis=(1, 2)) > 0.75).all()


def test_rigid_tetrominoes_are_anywhere_and_turned() -> None:
    from benchmarks.xai_tris_scenarios import Setting, tetrominoes, truth_of

    signs, classes = tetrominoes(setting := Setting("RIGID", "WHITE"), 4000, np.random.default_rng(0))
    seen: tuple[set[bytes], set[bytes]] = (set(), set())
    corners = set()
    for sign, number, truth in zip(signs, classes, truth_of(setting, signs), strict=True):
        rows, columns = np.nonzero(sign)
        shape = sign[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert sign.sum() == 4
        assert (truth == (sign != 0)).all()
        corners.add((int(rows.min()), int(columns.min()), shape.shape))
        seen[number].add(shape.tobytes() + bytes(shape.shape))
    shapes = [np.array(one, float) for one in ([[1, 0], [1, 1], [1, 0]], [[1, 0], [1, 0], [1, 1]])]
    for number, shape in enumerate(shapes):
        turned = [np.ascontiguousarray(np.rot90(shape, turns)) for turns in range(4)]
        assert seen[number] == {one.tobytes() + bytes(one.shape) for one in turned}
    assert len(corners) == 2 * 6 * 7  # every place, standing and lying


def test_samples_are_mixed_by_alpha() -> None:
    """Over a background of ones, by hand: of N samples its norm is 8 √N, that of tetrominoes of four pixels 2 √N."""
    from benchmarks.xai_tris_scenarios import Setting, mixed, tetrominoes

    ones = np.ones((4, 8, 8))
    for scenario in ("LIN", "RIGID"):
        signs, _ = tetrominoes(setting := Setting(scenario, "WHITE"), 4, np.random.default_rng(0))
        samples, alpha = mixed(setting, signs, ones), setting.alpha
        ratio = 1 + 4 * alpha / (1 - alpha)
        np.testing.assert_allclose(samples, np.where(signs == 1, 1, 1 / ratio))
    signs, _ = tetrominoes(setting := Setting("MULT", "WHITE"), 4, np.random.default_rng(0))
    np.testing.assert_allclose(mixed(setting, signs, ones), np.where(signs == 1, 0.3, 1))


def test_samples_are_parted_by_class_and_photograph(tmp_path: Path) -> None:
    """Stripes of another contrast in each photograph tell which one a piece is of."""
    from benchmarks.xai_tris_scenarios import Setting, _photographs, draw, parts

    files = []
    for number in range(30):
        stripes = np.where(np.arange(128) // 16 % 2, 0, 8 * number + 8).astype(np.uint8)
        files.append(tmp_path / f"{number:02d}.png")
        Image.fromarray(np.repeat(np.tile(stripes, (128, 1))[..., None], 3, axis=2)).save(files[-1])
    part = parts(np.arange(400) * 2 // 400, np.random.default_rng(0))
    pieces = _photographs(part, files, np.random.default_rng(0), 64)
    assert np.abs(pieces.mean(axis=(1, 2))).max() < 1e-6
    seen = np.rint((np.quantile(pieces, 0.9, axis=(1, 2)) - np.quantile(pieces, 0.1, axis=(1, 2))) / 8)
    of_parts = [set(seen[part == number]) for number in range(3)]
    assert [len(each) for each in of_parts] == [24, 3, 3]
    assert len(set.union(*of_parts)) == 30
    drawn = draw(Setting("LIN", "PHOTO", 64), 40, 0, files)
    assert [np.bincount(one.classes).tolist() for one in drawn] == [[16, 16], [2, 2], [2, 2]]
    assert max(np.abs(one.images).max() for one in drawn) == 1
    with pytest.raises(SystemExit, match="too few"):
        draw(Setting("LIN", "PHOTO", 64), 40, 0, files[:3])


# --- what is measured -------------------------------------------------------------------------------------------------


def one(*places: tuple[int, int], value: float = 1) -> np.ndarray:
    made = np.zeros((8, 8))
    for place in places:
        made[place] = value
    return made


def test_measures_of_single_pixels() -> None:
    """The distance of two points is that of Pythagoras; a map of zeros is as good as chance."""
    from benchmarks.xai_tris_metrics import measured

    truth = one((3, 4)) > 0
    maps = np.stack([one((0, 0)), one((3, 4), value=-2), one((0, 0), (3, 4)), one()])
    away = np.hypot(*(np.mgrid[:8, :8] - np.array([3, 4])[:, None, None])).mean()
    expected = [(0, 0, 5), (1, 1, 0), (0.5, 0.5, 2.5), (1 / 64, 1 / 64, away)]
    found = measured(maps, np.stack([truth] * 4))
    np.testing.assert_allclose(found, [(a, b, 1 - c / (7 * np.sqrt(2))) for a, b, c in expected], atol=1e-9)


def test_precision_shares_ties() -> None:
    """Two right pixels; one stands out, and of three others with the next value one is right: 1 + 1/3 of 2."""
    from benchmarks.xai_tris_metrics import measured

    truth = one((0, 0), (1, 1)) > 0
    heat = one((0, 0), value=5) + one((1, 1), (2, 2), (3, 3), value=-2) + one((4, 4))
    found = measured(heat[None], truth[None])[0]
    assert found[0] == pytest.approx((1 + 1 / 3) / 2)
    assert found[1] == pytest.approx(7 / 12)


def test_distance_of_eight_pixels_from_eight() -> None:
    """Where all have the same weight, the best way moves whole pixels: an assignment."""
    from scipy.optimize import linear_sum_assignment

    from benchmarks.xai_tris_metrics import distances

    generator = np.random.default_rng(3)
    sizes, truth, expected = [], [], []
    for _ in range(12):  # more than are solved at once
        start, goal = (generator.permutation(64)[:8] for _ in range(2))
        sizes.append(np.isin(np.arange(64), start) / 8)
        truth.append(np.isin(np.arange(64), goal))
        ways = np.hypot(*(start[None, :, None] // [[[8]], [[1]]] % 8 - goal[None, None] // [[[8]], [[1]]] % 8))
        expected.append(ways[linear_sum_assignment(ways)].mean())
    np.testing.assert_allclose(distances(np.stack(sizes), np.stack(truth), 8), expected, atol=1e-9)


def test_large_maps_have_no_distance() -> None:
    from benchmarks.xai_tris_metrics import measured

    truth = np.zeros((1, 64, 64), np.bool_)
    truth[0, :8] = True
    assert np.isnan(measured(truth.astype(float), truth)[0]).tolist() == [False, False, True]


def test_a_verdict_takes_every_network_and_more_than_chance() -> None:
    from benchmarks.xai_tris_metrics import standings

    edges = np.random.default_rng(0).random((2, 40))
    better = np.array([[0.3], [0.1]])
    split = np.array([[0.3], [-0.1]])  # better on average, worse in one network
    lucky = np.zeros((2, 40))
    lucky[:, 0] = 0.5
    values = {"better": edges + better, "split": edges + split, "lucky": edges + lucky, "worse": edges - better}
    values |= {"edge filter": edges, "other": edges + better}
    found = standings(values, ("edge filter", "other"), "edge filter")
    assert {name: each.verdict for name, each in found.items()} == {
        "better": "beats", "split": "not shown", "lucky": "not shown", "worse": "worse",
        "edge filter": "not shown", "other": "beats",
    }  # fmt: skip
    assert found["better"].ahead.value == pytest.approx(0.2)
    assert found["better"].probability == pytest.approx(4 * found["other"].probability)  # of four methods


# --- together ---------------------------------------------------------------------------------------------------------


def test_sizes_of_the_networks() -> None:
    """The last layers of the paper's networks take 4 and 288 values (training/train_models.py of its repository)."""
    from benchmarks.xai_tris_networks import network

    assert network("CNN", 8)[-1].in_features == 4  # type: ignore[union-attr]
    assert network("CNN", 64)[-1].in_features == 288  # type: ignore[union-attr]
    assert [tuple(each.shape) for each in network("MLP", 8).parameters()][::2] == [(32, 64), (16, 32), (8, 16), (2, 8)]
    for kind, side in (("CNN", 8), ("CNN", 64), ("MLP", 64), ("LLR", 8)):
        assert network(kind, side)(torch.zeros(3, 1, side, side)).shape == (3, 2)


def test_a_linear_network_that_is_known(tmp_path: Path) -> None:
    """Weights of 1 on T and L and a hundredth elsewhere: the gradient is the weights, and each measure a number."""
    from benchmarks.xai_tris import EDGES, explain
    from benchmarks.xai_tris_networks import export, network, opened
    from benchmarks.xai_tris_scenarios import Setting, draw

    samples, others, _ = draw(Setting("LIN", "WHITE"), 40, 0)
    model = network("LLR", 8)
    weights = torch.full((64,), 0.01)
    weights[torch.from_numpy(samples.truth[0].ravel().copy())] = 1
    model[1].weight.data = torch.stack([weights, -weights])  # type: ignore[union-attr]
    export(model, tmp_path / "known.onnx", 8)
    found = explain(opened(tmp_path / "known.onnx"), samples.of(np.arange(3)), others)
    np.testing.assert_allclose(found.values["Gradient"][:, :2], [[1, 8 / 8.56]] * 3, rtol=1e-5)
    shares = np.abs(samples.images[:3].reshape(3, -1) * weights.numpy())
    right = (shares * samples.truth[:3].reshape(3, -1)).sum(axis=1) / shares.sum(axis=1)
    for name in ("Gradient × input", "Integrated Gradients", "Occlusion", "LRP epsilon"):
        np.testing.assert_allclose(found.values[name][:, 1], right, rtol=1e-3)
    assert set(found.refused) == {"Guided backpropagation", "Deconvnet"}
    assert found.blank["VarGrad"] == 3
    assert not found.blank[EDGES]


def test_every_method_is_asked_of_a_convolutional_network(tmp_path: Path) -> None:
    from benchmarks.xai_tris import ATTENTION, SIMPLE, Explained, explain
    from benchmarks.xai_tris_networks import export, network, opened
    from benchmarks.xai_tris_scenarios import Setting, draw
    from onnxviz.analyses.attribution.methods import methods

    torch.manual_seed(0)
    export(network("CNN", 8).eval(), tmp_path / "untrained.onnx", 8)
    samples, others, _ = draw(Setting("XOR", "CORR"), 40, 0)
    found = explain(opened(tmp_path / "untrained.onnx"), samples.of(places := np.arange(2)), others)
    names = {name.split(",")[0] for name in found.values if name not in SIMPLE}
    assert names == {cls.heading for name, cls in methods().items() if name not in ATTENTION}
    assert {name.split(", ")[1] for name in found.values if name.startswith("Grad-CAM")} == {
        "first block", "last block",
    }  # fmt: skip
    assert all(np.isfinite(each).all() for each in found.values.values())
    found.keep(tmp_path / "kept.json", places)
    again = Explained.kept(tmp_path / "kept.json", places)
    assert again is not None
    assert {name: each.tolist() for name, each in again.values.items()} == {
        name: each.tolist() for name, each in found.values.items()
    }
    assert again.blank == found.blank
    assert Explained.kept(tmp_path / "kept.json", places + 1) is None
