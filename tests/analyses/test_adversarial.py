"""Adversarial pictures: on linear networks whose nearest ones are known, and everything reported measured again."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pydantic import ValidationError

import onnxviz.optimize.adversarial as search
from onnxviz.analyses.adversarial.analysis import Adversarial, _wanted
from onnxviz.analyses.adversarial.counts import Search, summary
from onnxviz.analyses.base import JobContext, Subject
from onnxviz.core import findings as f
from onnxviz.core.errors import AnalysisError, SelectionError
from onnxviz.core.shares import wilson
from onnxviz.core.values import PRESETS, Preprocessing
from onnxviz.data.images import ImageFolder
from onnxviz.execution.store import Store
from onnxviz.graph.model_output import Head
from onnxviz.model.model import Model, load
from onnxviz.optimize.adversarial import Attack, Attacked, _Ball, _Wanted, attack, distance

Found = TypeVar("Found")
SIDE = 8


def save_linear(
    path: Path,
    weights: np.ndarray,
    bias: Sequence[float],
    *,
    layout: str = "NCHW",
    batch: int | str = "n",
    sign: bool = False,
    side: int = SIDE,
) -> Path:
    """Write logits = W x + b for pictures x [channels, side, side] in 0..1; W is [classes, channels, side, side]."""
    classes, channels = weights.shape[:2]
    nhwc = layout == "NHWC"
    shape = [batch, side, side, channels] if nhwc else [batch, channels, side, side]
    flat = (weights.transpose(0, 2, 3, 1) if nhwc else weights).reshape(classes, -1)
    nodes = [
        helper.make_node("Sign" if sign else "Identity", ["image"], ["seen"]),
        helper.make_node("Flatten", ["seen"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["scores"], "dense", transB=1),
    ]
    if nhwc:  # a convolution says which axis are the channels
        nodes[0] = helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2])
        nodes[1:2] = [
            helper.make_node("Conv", ["turned", "one"], ["seen"]),
            helper.make_node("Transpose", ["seen"], ["back"], perm=[0, 2, 3, 1]),
            helper.make_node("Flatten", ["back"], ["flat"]),
        ]
    graph = helper.make_graph(
        nodes, "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, classes])],
        [
            numpy_helper.from_array(flat.astype(np.float32), "w"),
            numpy_helper.from_array(np.asarray(bias, np.float32), "b"),
            numpy_helper.from_array(np.eye(channels, dtype=np.float32)[:, :, None, None], "one"),
        ],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def two_classes(rng: np.random.Generator, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return weights of two classes, which see contrast only, and their difference."""
    weights = rng.standard_normal((2, channels, SIDE, SIDE)).astype(np.float32)
    weights -= weights.mean(axis=(1, 2, 3), keepdims=True)
    return weights, weights[1] - weights[0]


def middle_grey(rng: np.random.Generator, count: int, channels: int = 3) -> np.ndarray:
    """Return pictures so far from black and white that the ball is nowhere cut."""
    return rng.integers(110, 146, (count, channels, SIDE, SIDE)).astype(np.uint8)


def model_of(path: Path, preset: str | Preprocessing = "unit", output: Any = "classes") -> Model:
    return load(path, preset, device="cpu", output=output)


def leads(model: Model, pictures: np.ndarray) -> np.ndarray:
    """Return the lead of class 0 over class 1, by ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(model.view.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    scores = session.run(None, {session.get_inputs()[0].name: pictures.astype(np.float32) / 255})[0]
    return np.asarray(scores[:, 0] - scores[:, 1], np.float64)


# --- the search -----------------------------------------------------------------------------------------------------


def test_a_linear_network_gives_way_at_the_radius_that_its_weights_say(tmp_path: Path) -> None:
    """In the largest value, margin / |Δw|₁; no search can do with less, and this one must not need more."""
    rng = np.random.default_rng(0)
    weights, gap = two_classes(rng)
    pictures = middle_grey(rng, 6)
    model = model_of(save_linear(tmp_path / "m.onnx", weights, [3.0, 0.0]))
    margin = leads(model, pictures)
    left = [0 if lead > 0 else 1 for lead in margin]
    exact = [int(np.floor(abs(lead) * 255 / np.abs(gap).sum())) + 1 for lead in margin]
    assert len(set(exact)) > 2
    rules = Attack("linf", tuple(float(radius) for radius in range(1, max(exact) + 2)), steps=8, restarts=0)
    for wanted in ([1 - number for number in left], [None] * 6):
        found = attack(model, pictures, left, wanted, [0] * 6, rules)
        assert [one.radius for one in found] == exact
    halved = attack(model, pictures, left, [None] * 6, [0] * 6, Attack("linf", (16.0,), 5, 30))
    assert [distance(one.picture.astype(int) - given, "linf") for one, given in zip(halved, pictures, strict=True)] == (
        exact
    )


def test_a_linear_network_gives_way_near_the_length_that_its_weights_say(tmp_path: Path) -> None:
    """In length, margin / |Δw|₂ for real numbers; in whole levels the best of round(s Δw) over all s, or near it."""
    rng = np.random.default_rng(1)
    weights, gap = two_classes(rng)
    pictures = middle_grey(rng, 5)
    model = model_of(save_linear(tmp_path / "m.onnx", weights, [0.5, 0.0]))
    margin = leads(model, pictures)
    found = attack(
        model, pictures, [0 if lead > 0 else 1 for lead in margin], [None] * 5, [0] * 5, Attack("l2", (40.0,), 8, 12)
    )
    for one, given, lead in zip(found, pictures, margin, strict=True):
        exact = abs(lead) * 255 / np.linalg.norm(gap)
        length = distance(one.picture.astype(int) - given, "l2")
        assert one.radius is not None
        assert exact <= length <= one.radius
        whole = [np.round(s * gap) for s in np.linspace(0, 3, 3001)]
        best = min(np.linalg.norm(n) for n in whole if (n * gap).sum() > abs(lead) * 255)
        assert length < 1.1 * best
    assert (np.sign(leads(model, np.stack([one.picture for one in found]))) == -np.sign(margin)).all()


def test_rounding_to_a_length_is_the_best_there_is() -> None:
    """Against all changes in whole levels of three numbers that are no longer than the one chosen."""
    change = torch.tensor([[0.9, -2.6, 0.3], [4.2, 1.1, -0.7], [0.2, 0.3, -0.4], [0.9, 0.9, 0.9]])[:, None, None]
    ball = _Ball("l2", torch.full((4, 1, 1, 3), 128.0), torch.full((4,), 9.0))
    rounded = ball.rounded(change).flatten(1).numpy()
    box = np.array(list(itertools.product(range(-5, 6), repeat=3)))
    for row, given in zip(rounded, change.flatten(1).numpy(), strict=True):
        assert np.linalg.norm(row) <= np.linalg.norm(given) + 1e-6
        rivals = box[np.linalg.norm(box, axis=1) <= np.linalg.norm(row) + 1e-6]
        assert row @ given >= (rivals @ given).max() - 1e-5
    assert rounded[2].tolist() == [0, 0, 0]  # shorter than one level
    edge = _Ball("l2", torch.full((1, 1, 1, 40), 254.0), torch.full((1,), 9.0))
    steep = torch.tensor([1.0] + [0.28] * 39).view(1, 1, 1, 40)
    assert edge.rounded(edge.project(steep)).max() == 1  # made longer, a change may not leave 0 to 255
    assert np.abs(rounded[0]).sum() > 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_balls_hold_what_is_projected_drawn_and_rounded(norm: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (4, 3, 5, 5), generator=generator).float()
    radius = torch.tensor([1.0, 2.7, 10.0, 300.0])
    ball = _Ball(norm, pictures, radius)
    starts = [torch.Generator().manual_seed(seed) for seed in range(4)]
    for change in (torch.randn(pictures.shape, generator=generator) * 60, ball.draw(starts)):
        inside = ball.project(change)
        whole = ball.rounded(inside)
        assert torch.equal(whole, whole.round())
        for values in (inside, whole):
            assert ((pictures + values >= 0) & (pictures + values <= 255)).all()
            sizes = torch.tensor([distance(row.numpy(), norm) for row in values])
            assert (sizes <= radius + 1e-6).all()
        assert torch.equal(ball.project(inside), inside) or norm == "l2"
    assert whole[2].any()


def test_a_picture_is_found_alike_alone_and_with_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weights, _ = two_classes(rng)
    pictures = middle_grey(rng, 5)
    model = model_of(save_linear(tmp_path / "m.onnx", weights, [0.5, 0.0]))
    left = [0 if lead > 0 else 1 for lead in leads(model, pictures)]
    # Too small a ball: all starts are tried, the random ones too.
    for rules in (Attack("linf", (1.0, 4.0), steps=7, restarts=2), Attack("l2", (5.0, 30.0), 2, steps=6)):
        together = attack(model, pictures, left, [None] * 5, range(5), rules)
        for place in range(5):
            (alone,) = attack(model, pictures[place : place + 1], left[place : place + 1], [None], [place], rules)
            assert alone.radius == together[place].radius
            np.testing.assert_array_equal(alone.picture, together[place].picture)
            np.testing.assert_allclose(alone.margins, together[place].margins, rtol=1e-4, atol=1e-4)


def test_random_starts_come_from_the_seed(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    pictures = middle_grey(rng, 1)
    ball = _Ball("linf", torch.from_numpy(pictures).float(), torch.tensor([8.0]))
    draws = [ball.draw([search._generator(seed, start)]) for seed, start in ((1, 1), (1, 1), (2, 1), (1, 2))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])
    assert draws[0].abs().max() <= 8
    assert draws[0].std() == pytest.approx(16 / 12**0.5, rel=0.1)


def test_what_onnx_runtime_does_not_confirm_is_searched_for_again_with_a_larger_lead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(4)
    weights, _ = two_classes(rng)
    model = model_of(save_linear(tmp_path / "m.onnx", weights, [0.5, 0.0]))
    pictures = middle_grey(rng, 1)
    (lead,) = leads(model, pictures)
    left = 0 if lead > 0 else 1
    true, asked = search.measured_logits, []

    def stubborn(model: Model, levels: np.ndarray, head: Head) -> np.ndarray:
        """Another network than the differentiable one: it favours the class before."""
        asked.append(len(levels))
        values = true(model, levels, head).copy()
        values[:, left] += 4.0
        return values

    rules = Attack("linf", (16.0,), steps=20)
    (easy,) = attack(model, pictures, [left], [None], [0], rules)
    monkeypatch.setattr(search, "measured_logits", stubborn)
    (hard,) = attack(model, pictures, [left], [None], [0], rules)
    assert len(asked) > 1
    assert hard.radius == 16
    assert float(easy.margins[-1]) > -4 > float(hard.margins[-1])
    monkeypatch.setattr(search, "measured_logits", lambda model, levels, head: np.eye(2)[[left] * len(levels)])
    (never,) = attack(model, pictures, [left], [None], [0], rules)
    assert never.radius is None


def test_steps_are_told_and_add_up(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    weights, _ = two_classes(rng)
    model = model_of(save_linear(tmp_path / "m.onnx", weights, [0.5, 0.0]))
    told: list[tuple[int, int]] = []
    rules = Attack("linf", (1.0, 8.0), halvings=2, steps=5)
    pictures = middle_grey(rng, 3)
    attack(model, pictures, [0, 0, 0], [1, 1, 1], [0] * 3, rules, lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert {total for _, total in told} == {3 * rules.most_steps}
    assert told[-1][0] == 3 * rules.most_steps
    assert rules.most_steps == 5 * (2 * 2 + 2)


# --- the analysis ---------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> ImageFolder:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(7)
    for index in range(5):
        Image.fromarray(rng.integers(90, 166, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    (folder / "labels.csv").write_text("file,class_index,name\n" + "".join(f"{i}.png,{i % 3},\n" for i in range(4)))
    return ImageFolder.find("photos", [str(folder)], tmp_path)


def three_classes(channels: int = 3) -> tuple[np.ndarray, list[float]]:
    """Return weights that see contrast only, so that all classes occur."""
    weights = np.random.default_rng(8).standard_normal((3, channels, SIDE, SIDE)).astype(np.float32)
    return weights - weights.mean(axis=(1, 2, 3), keepdims=True), [0.0, 0.0, 0.0]


def subject_of(model: Model, photos: ImageFolder, labels: tuple[str, ...] | None = None) -> Subject:
    return Subject("m", model.view, model.preprocessing, labels, {"photos": photos}, 0)


def analyse(model: Model, photos: ImageFolder, labels: tuple[str, ...] | None = None, **kw: Any) -> list[f.Finding]:
    made, subject = Adversarial(data="photos", **kw), subject_of(model, photos, labels)
    parts = [made.run(job, JobContext(subject, model, lambda *_: None)) for job in made.jobs(subject)]
    return made.combine(parts, subject)


def of_kind(found: Sequence[f.Finding], kind: type[Found]) -> list[Found]:
    return [finding for finding in found if isinstance(finding, kind)]


def records(found: Sequence[f.Finding]) -> Iterator[tuple[dict[str, Any], f.Tile]]:
    """Yield the table's lines by their columns' names, with their tiles."""
    (table,), (grid,) = of_kind(found, f.Table), of_kind(found, f.TileGrid)
    names = [column.name for column in table.columns]
    for row, tile in zip(table.rows, grid.tiles, strict=True):
        yield dict(zip(names, row, strict=True)), tile


def numbers(found: Sequence[f.Finding]) -> dict[str, float]:
    return {metric.name: metric.value for metric in of_kind(found, f.Metric)}


VARIANTS = {
    "as PyTorch exports it": ({}, "unit", 3),
    "channels last": ({"layout": "NHWC"}, "unit", 3),
    "two at a time": ({"batch": 2}, "unit", 3),
    "grey": ({}, "gray_unit", 1),
    "grey, channels last, three at a time": ({"layout": "NHWC", "batch": 3}, "gray_unit", 1),
}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_everything_reported_is_true_of_the_stored_picture(
    variant: str, norm: Any, photos: ImageFolder, tmp_path: Path
) -> None:
    """Store the pictures, read the files, and measure classes, probabilities and distances by ONNX Runtime alone."""
    kw, preset, channels = VARIANTS[variant]
    weights, bias = three_classes(channels)
    path = save_linear(tmp_path / "m.onnx", weights, bias, **kw)
    model = model_of(path, dataclasses.replace(PRESETS[preset], fit="none"))
    found = analyse(model, photos, norm=norm, target=["second", "least_likely", "untargeted"], bisect=2, steps=8)
    store = Store(tmp_path / "store")
    store.save("0" * 32, found, {})
    stored = store.load("0" * 32, arrays=True)
    assert stored is not None
    plain = save_linear(tmp_path / "plain.onnx", weights, bias)
    session = onnxruntime.InferenceSession(str(plain), providers=["CPUExecutionProvider"])
    count = 0
    for row, tile in records(stored):
        before, after, shown = (_file(store, picture) for picture in tile.pictures)
        assert before.shape == after.shape == (SIDE, SIDE, 3)
        original = np.asarray(Image.open(photos.paths[photos.names.index(str(row["photograph"]))]))
        if channels == 1:
            assert (before == before[..., :1]).all()
            assert (after == after[..., :1]).all()
            original = np.rint(original @ np.array((0.299, 0.587, 0.114)))[..., None].repeat(3, axis=2)
        np.testing.assert_allclose(before, original, atol=1 if channels == 1 else 0)
        change = after[..., :channels].astype(int) - before[..., :channels].astype(int)
        assert row["L2"] == pytest.approx(np.linalg.norm(change))
        assert row["Linf"] == np.abs(change).max()
        most = 8 if norm == "linf" else 2 * (SIDE * SIDE * channels) ** 0.5
        assert row["L2" if norm == "l2" else "Linf"] <= (row["radius"] or most) + 1e-9 <= most + 2e-9
        inputs = np.stack([before, after])[..., :channels].transpose(0, 3, 1, 2).astype(np.float32) / 255
        scores = session.run(None, {"image": inputs})[0]
        raised = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares = raised / raised.sum(axis=1, keepdims=True)
        assert [row["class before"], row["class after"]] == [f"class {k}" for k in scores.argmax(axis=1)]
        assert row["probability before"] == pytest.approx(shares[0].max(), abs=1e-4)
        assert row["probability after"] == pytest.approx(shares[1].max(), abs=1e-4)
        order = scores[0].argsort()[::-1]
        wanted = row["wanted"]
        taken = scores[1].argmax()
        assert (row["success"] == "yes") == (
            taken != order[0] if wanted == "any other class" else f"class {taken}" == wanted
        )
        factor = max(1, 127 // max(1, np.abs(change).max()))
        expected = np.clip(128 + factor * change, 0, 255)
        np.testing.assert_array_equal(shown[..., :channels], expected)
        assert tile.captions[2] == (f"change x {factor}" if change.any() else "no change")
        count += 1
    assert count == 15
    assert sum(row["success"] == "yes" for row, _ in records(found)) > 0.6 * count


def _file(store: Store, picture: f.Picture) -> np.ndarray:
    (path,) = store.jobs.rglob(Path(picture.path).name)
    return np.asarray(Image.open(path).convert("RGB"))


def test_metrics_are_counted_from_the_table(photos: ImageFolder, tmp_path: Path) -> None:
    weights, bias = three_classes()
    model = model_of(save_linear(tmp_path / "m.onnx", weights, bias), dataclasses.replace(PRESETS["unit"], fit="none"))
    found = analyse(model, photos, radius=[1, 2, 4], target="untargeted", restarts=0)
    rows = [row for row, _ in records(found)]
    won = [row for row in rows if row["success"] == "yes"]
    assert won
    known = [row for row in rows if row["true class"] is not None]
    assert len(known) == 4
    right = [row for row in known if row["true class"] == row["class before"]]
    still = [row for row in right if row["class after"] == row["true class"]]
    counted = [row for row in won if row in right]
    assert len(counted) < len(won)  # what was wrong or unknown from the start does not count
    expected = {
        "success_rate": len(counted) / len(right), "accuracy": len(right) / 4, "accuracy_under_attack": len(still) / 4,
        "median_linf": float(np.median([row["Linf"] for row in counted])),
    }  # fmt: skip
    assert numbers(found) == pytest.approx(expected)
    (curve,) = of_kind(found, f.Curve)
    assert curve.series[0].ys[-1] == pytest.approx(len(counted) / len(right))
    made = {metric.name: metric for metric in of_kind(found, f.Metric)}
    assert (made["success_rate"].total, made["accuracy"].total) == (len(right), 4)
    assert made["accuracy_under_attack"].interval == wilson(len(still), 4)
    assert list(curve.series[0].ys) == sorted(curve.series[0].ys)
    (images, searches) = of_kind(found, f.Coverage)
    assert (images.done, images.total, searches.done, searches.total) == (5, 5, 5, 5)
    wrong = [caveat for caveat in of_kind(found, f.Caveat) if caveat.id == "wrong_before"]
    assert bool(wrong) == (len(right) < 4)


def test_the_first_sentence_says_how_large_changes_are_and_within_what_none_was_found() -> None:
    def search(linf: int, empty: float) -> Search:
        return Search(0, "a.png", "other", 1, 1, 0.9, None, 2, 0.8, 5.0, linf, None, empty, 1, False, (), 1, ())

    start = (
        "searches from photographs that are classified right found a picture that is taken for what was wanted; it took"
    )
    assert summary([search(2, 1.0)], "linf") == (
        f"1 of 1 {start} at most 2 levels of 255 in any pixel and colour; for 1 nothing was found within 1 level."
    )
    assert summary([search(1, 0.0), search(1, 0.0), search(3, 2.0), search(4, 3.0)], "linf") == (
        f"4 of 4 {start} at most 2 levels of 255 in any pixel and colour, in the median; 2 of them changed no value by "
        "more than 1 level, the least that there is; for 2 nothing was found within 2.5 levels, in the median."
    )
    assert summary([search(9, 3.0)], "l2") == (
        f"1 of 1 {start} a change of length 5 levels; for 1 nothing was found within 3 levels."
    )


def test_a_picture_of_the_class_wanted_is_left_out_and_said(photos: ImageFolder, tmp_path: Path) -> None:
    weights, _ = three_classes()
    model = model_of(save_linear(tmp_path / "m.onnx", weights, [500.0, 0.0, 0.0]))
    found = analyse(model, photos, target=0)
    (note,) = of_kind(found, f.Note)
    assert "as it is" in note.text
    (images, searches) = of_kind(found, f.Coverage)
    assert (images.done, searches.done, searches.total) == (0, 0, 5)
    assert "as it is" in searches.reason
    stuck = analyse(model, photos, target=[0, 1], radius=1, restarts=0)
    assert numbers(stuck) | {"success_rate": 0.0} == numbers(stuck)
    assert [caveat.id for caveat in of_kind(stuck, f.Caveat)].count("no_proof") == 1
    assert len(list(records(stuck))) == 5


def test_gradients_that_vanish_are_no_robustness(photos: ImageFolder, tmp_path: Path) -> None:
    weights, bias = three_classes()
    model = model_of(save_linear(tmp_path / "m.onnx", weights, bias, sign=True))
    found = analyse(model, photos, steps=4)
    assert numbers(found)["success_rate"] == 0
    (caveat,) = [caveat for caveat in of_kind(found, f.Caveat) if caveat.id == "vanished_gradients"]
    assert "Sign" in caveat.text
    assert all(row["gradient"] == "vanished" for row, _ in records(found))


def test_which_class_is_wanted() -> None:
    logits = np.array([1.0, 5.0, 4.0, -2.0, 3.0])
    assert _wanted("second", logits, None) == 2
    assert _wanted("second", logits, 2) == 4  # not the true one, which the model missed
    assert _wanted("least_likely", logits, None) == 3
    assert _wanted("least_likely", logits, 3) == 0
    assert _wanted("untargeted", logits, None) is None
    assert _wanted(4, logits, 4) == 4
    assert _wanted("second", np.array([2.0, 1.0]), 1) == 1  # there is no other


def test_a_class_called_like_a_word_of_ours_is_a_class(photos: ImageFolder, tmp_path: Path) -> None:
    weights, bias = three_classes()
    model = model_of(save_linear(tmp_path / "m.onnx", weights, bias))
    subject = subject_of(model, photos, ("first", "second", "third"))
    (job,) = Adversarial(data="photos", target=["second", "least_likely", "third"]).jobs(subject)
    assert job.parameters["targets"] == [1, "least_likely", 2]
    with pytest.raises(SelectionError, match="fourth"):
        list(Adversarial(data="photos", target="fourth").jobs(subject))


def test_classes_of_the_same_name_are_told_apart(photos: ImageFolder, tmp_path: Path) -> None:
    weights, bias = three_classes()
    model = model_of(save_linear(tmp_path / "m.onnx", weights, bias))
    rows = [row for row, _ in records(analyse(model, photos, ("crane", "crane", "ox"), target="untargeted"))]
    assert {row["class before"] for row in rows} <= {"crane (0)", "crane (1)", "ox"}


def test_what_has_no_other_class_is_refused(photos: ImageFolder, tmp_path: Path) -> None:
    weights, _ = three_classes()
    single = model_of(save_linear(tmp_path / "one.onnx", weights[:1], [0.0]), output=None)
    with pytest.raises(AnalysisError, match="output: binary"):
        list(Adversarial(data="photos").jobs(subject_of(single, photos)))
    map_of_classes = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["scores"])], "map",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 4, SIDE, SIDE])],
        [numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")],
    )  # fmt: skip
    onnx.save(helper.make_model(map_of_classes, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
              tmp_path / "map.onnx")  # fmt: skip
    mapped = model_of(tmp_path / "map.onnx", output="map_of_classes")
    with pytest.raises(AnalysisError, match="whole image"):
        list(Adversarial(data="photos").jobs(subject_of(mapped, photos)))


@pytest.mark.parametrize(
    "kw",
    [{"radius": 0.5}, {"radius": []}, {"radius": [0.9, 4]}, {"steps": 0}, {"norm": "l1"}, {"radius": float("inf")}],
)
def test_settings_that_mean_nothing_are_refused(kw: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Adversarial(data="photos", **kw)


def test_logits_that_are_no_numbers_are_an_error(photos: ImageFolder, tmp_path: Path) -> None:
    weights, bias = three_classes()
    weights[1, 0, 0, 0] = np.nan
    model = model_of(save_linear(tmp_path / "m.onnx", weights, bias))
    with pytest.raises(AnalysisError, match="not finite"):
        analyse(model, photos)


def test_what_came_closest_is_kept_where_nothing_is_found() -> None:
    def made(radius: float | None, least: float) -> Attacked:
        margins = np.array([3.0, least], np.float32)
        return Attacked(np.zeros((1, 1, 1), np.uint8), radius, 1, margins, False, 1.0)

    wanted = _Wanted(np.zeros((1, 1, 1), np.uint8), 0, None, 0, 0.0)
    for now, kept in ((made(None, 2.0), 2.0), (made(None, 1.0), 1.0), (made(None, 1.5), 1.0), (made(4.0, -0.1), -0.1),
                      (made(None, -3.0), -0.1), (made(2.0, -0.05), -0.05)):  # fmt: skip
        wanted.keep(now)
        assert wanted.found is not None
        assert wanted.found.margins.min() == pytest.approx(kept)


# --- real models ----------------------------------------------------------------------------------------------------


def real(zoo: Path, shared_data: Path, name: str, preset: Any, **kw: Any) -> list[f.Finding]:
    model = load(zoo / "onnx" / f"{name}.onnx", preset, zoo / "labels" / "cifar10.txt", device="cpu")
    photos = ImageFolder.find("photos", [str(shared_data / "cifar10_test")], Path("/"), 16)
    return analyse(model, photos, model.labels, target="untargeted", limit=16, **kw)


@pytest.mark.zoo
def test_a_network_trained_against_attacks_holds_out_longer(zoo: Path, shared_data: Path) -> None:
    """An ordinary ResNet gives way to one level in every picture; the robust transformer mostly does not."""
    robust = {"mean": [125.307, 122.961, 113.8575], "scale": [51.5865, 50.847, 51.255]}
    plain = numbers(real(zoo, shared_data, "mlperf_tiny_resnet8_cifar10", "raw", radius=2))
    hard = numbers(real(zoo, shared_data, "vnn_vit_cifar10_pgd_2_3_16", robust, radius=2))
    assert plain["success_rate"] == 1
    assert hard["success_rate"] < 0.6
    assert plain["accuracy_under_attack"] == 0
    assert hard["accuracy_under_attack"] > 0.25


@pytest.mark.zoo
def test_an_int8_network_gives_way_and_it_is_said_that_it_rounds(zoo: Path, shared_data: Path) -> None:
    found = real(zoo, shared_data, "mlperf_tiny_resnet8_cifar10_int8_qdq", None, norm="l2", radius=64)
    assert numbers(found)["success_rate"] > 0.9
    assert "quantised" in {caveat.id for caveat in of_kind(found, f.Caveat)}


def test_the_metrics_say_with_which_norm_there_is_one() -> None:
    assert "Only with norm l2." in Adversarial.metric_names["median_l2"]
    assert "Only with norm linf." in Adversarial.metric_names["median_linf"]
