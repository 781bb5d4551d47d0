"""Occlusion, RISE and Shapley values against Captum, hand-written loops, and networks whose evidence is known."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import planted_network
import pytest
import torch
from captum.attr import FeatureAblation, ShapleyValues
from captum.attr import Occlusion as CaptumOcclusion
from onnx import helper
from pydantic import ValidationError
from torch import nn

import onnxviz
from onnxviz.analyses.attribution import perturbation
from onnxviz.analyses.attribution import question as asking
from onnxviz.analyses.attribution.methods.occlusion import Occlusion, SegmentOcclusion
from onnxviz.analyses.attribution.methods.rise import Rise
from onnxviz.analyses.attribution.methods.shapley import KernelShap, draw_coalitions, shapley_values
from onnxviz.analyses.attribution.perturbation import Perturbation
from onnxviz.analyses.attribution.question import ForwardPass, Question
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.core.values import PRESETS
from onnxviz.data.images import ImageFolder, load_batch
from onnxviz.graph.targets import resolve_head

HEIGHT, WIDTH = 20, 26
IMAGENET, UNIT = (dataclasses.replace(PRESETS[name], fit="none") for name in ("imagenet", "unit"))


class Net(nn.Module):
    """A small network with a residual block, for RGB images in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 12, 3, stride=2)
        self.dense = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        x = (x + self.middle(x)).relu()
        return self.dense(self.last(x).relu().mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def module() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def model(module: Net, tmp_path_factory: pytest.TempPathFactory) -> onnxviz.Model:
    """The module's ONNX export."""
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    example = torch.zeros(1, 3, HEIGHT, WIDTH)
    torch.onnx.export(module, (example,), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}})
    return onnxviz.Model(onnxviz.open_model(path), IMAGENET, device="cpu")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


CLASSES = (2, 0, 2)


def ask(model: onnxviz.Model, images: torch.Tensor, classes: Any = CLASSES, **more: Any) -> Question:
    forward = ForwardPass(model, images, [], [model.view.logits], to_input=False)
    return forward.ask(targets_of(model, classes), **more)


def targets_of(model: onnxviz.Model, classes: Any) -> list[ClassTarget]:
    head = resolve_head(model.view, model.view.logits.name, None)
    return [ClassTarget(head, number) for number in classes]


def assert_close(found: torch.Tensor, wanted: torch.Tensor, relative: float = 1e-5) -> None:
    assert float(wanted.abs().max()) > 0
    assert float((found.double() - wanted.double()).abs().max()) <= relative * float(wanted.abs().max())


def encoded(images: torch.Tensor) -> torch.Tensor:
    mean, scale = (torch.tensor(numbers).reshape(1, 3, 1, 1) / 255 for numbers in (IMAGENET.mean, IMAGENET.scale))
    return (images - mean) / scale


# --- Captum ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "stride", "pixels", "steps"),
    [
        (0.3, 0.15, (6, 8), (3, 4)),
        (0.25, 0.25, (5, 6), (5, 6)),
        (0.6, 0.4, (12, 16), (8, 10)),
        (1, 1, (20, 26), (20, 26)),
    ],
)
@pytest.mark.parametrize("fill", ["zero", "mean", "blur"])
def test_occlusion_is_captums(
    module: Net, model: onnxviz.Model, images: torch.Tensor, window: float, stride: float, pixels: tuple[int, int],
    steps: tuple[int, int], fill: Any,
) -> None:  # fmt: skip
    method = Occlusion(window=window, stride=stride, fill=fill)
    question = ask(model, images)
    found = method.attribute(question)
    baseline = 0 if fill == "zero" else encoded(method.filling(question))
    with torch.no_grad():
        wanted = CaptumOcclusion(module).attribute(
            encoded(images), (3, *pixels), (3, *steps), baseline, target=torch.tensor(CLASSES)
        )
    assert_close(found.maps[0], wanted[:, 0])
    assert f"{pixels[0]} × {pixels[1]} pixels, moved by {steps[0]} down and {steps[1]} to the right" in found.said


@pytest.mark.parametrize("cut", ["superpixels", "grid"])
def test_occlusion_of_segments_and_shapley_values_are_captums(
    module: Net, model: onnxviz.Model, images: torch.Tensor, cut: Any
) -> None:
    question = ask(model, images)
    method = SegmentOcclusion(segments=5, cut=cut)
    ablated, shares = method.attribute(question).maps[0], KernelShap(segments=5, cut=cut).attribute(question)
    for place, labels in enumerate(method.labels(question)):
        given = (encoded(images[place : place + 1]), 0, CLASSES[place], None, labels[None, None])
        with torch.no_grad():
            assert_close(ablated[place], FeatureAblation(module).attribute(*given)[0, 0])
            assert_close(shares.maps[0][place], _all_orders(module, *given)[0, 0])
    assert float(shares.facts["completeness error"].max()) < 1e-6
    assert not shares.facts["standard error"].any()


def _all_orders(module: Net, image: torch.Tensor, zero: int, target: int, more: None, labels: torch.Tensor) -> Any:
    return ShapleyValues(module).attribute(image, zero, target, more, labels, perturbations_per_eval=8)


# --- hand-written loops -----------------------------------------------------------------------------------------------


def masks_by_hand(method: Rise, seed: list[Any]) -> torch.Tensor:
    """Section 3.2 of the paper, with the random numbers of an image: float64 [masks, h, w]."""
    numbers = np.random.default_rng(seed)
    count, side = method.masks, method.cells
    cells = torch.from_numpy(numbers.random((count, side, side)) < method.kept).double()
    down, right = math.ceil(HEIGHT / side), math.ceil(WIDTH / side)
    moved = numbers.integers(0, (down, right), (count, 2))
    size = ((side + 1) * down, (side + 1) * right)
    large = nn.functional.interpolate(cells[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return torch.stack([mask[y : y + HEIGHT, x : x + WIDTH] for mask, (y, x) in zip(large, moved, strict=True)])


@pytest.mark.parametrize("settings", [{"cells": 4, "kept": 0.5}, {"cells": 7, "kept": 0.2, "fill": "mean"}])
def test_rise_is_the_papers_sum(
    module: Net, model: onnxviz.Model, images: torch.Tensor, settings: dict[str, Any]
) -> None:
    method = Rise(masks=60, **settings)
    question = ask(model, images, indices=(8, 3, 5), seed=4)
    found = method.attribute(question)
    exact = Net().double().eval()
    exact.load_state_dict(module.state_dict())
    filling = method.filling(question).double()
    for place, index in enumerate((8, 3, 5)):
        masks = masks_by_hand(method, [4, index, *b"rise"])
        scores = torch.zeros(60, dtype=torch.float64)
        for number, mask in enumerate(masks):
            left = filling[place] + mask * (images[place].double() - filling[place])
            with torch.no_grad():
                scores[number] = exact(encoded(left[None]))[0, CLASSES[place]]
        published = torch.einsum("n,nhw->hw", scores, masks) / (method.kept * len(masks))
        share = masks.mean(dim=0) / method.kept
        assert_close(found.maps[0][place], published - scores.mean() * share)
        each = (scores - scores.mean())[:, None, None] * (masks - method.kept) / method.kept
        error = float((each.var(dim=0) / len(masks)).mean().sqrt())
        assert float(found.facts["standard error"][place]) == pytest.approx(error, rel=1e-4)


def test_the_standard_errors_are_how_far_results_scatter(model: onnxviz.Model, images: torch.Tensor) -> None:
    for method in (Rise(masks=100, cells=4), KernelShap(segments=16, coalitions=150)):
        runs = [method.attribute(ask(model, images[:1], (0,), seed=seed)) for seed in range(25)]
        maps = torch.cat([run.maps[0] for run in runs]).double()
        scatter = maps.var(dim=0)
        if isinstance(method, KernelShap):  # its error is a mean over segments, not over pixels
            (labels,) = method.labels(ask(model, images[:1], (0,)))
            scatter = torch.stack([scatter[labels == number].mean() for number in range(int(labels.max()) + 1)])
        said = float(torch.cat([run.facts["standard error"] for run in runs]).mean())
        assert said == pytest.approx(float(scatter.mean().sqrt()), rel=0.25)


def test_shapley_values_are_the_mean_over_all_orders() -> None:
    segments = 6
    values = dict(enumerate(np.random.default_rng(0).standard_normal(2**segments)))

    def score(members: Any) -> float:
        return float(values[sum(1 << int(member) for member in members)])

    wanted = np.zeros(segments)
    for order in itertools.permutations(range(segments)):
        for place, segment in enumerate(order):
            wanted[segment] += score(order[: place + 1]) - score(order[:place])
    coalitions = draw_coalitions(segments, 62, np.random.default_rng(0))
    scores = np.array([score(np.flatnonzero(each)) for each in coalitions.with_none_and_all()])
    found, error = shapley_values(coalitions, scores)
    np.testing.assert_allclose(found, wanted / math.factorial(segments), atol=1e-12)
    assert error == 0


def test_drawn_coalitions_are_pairs_of_the_kernels_sizes() -> None:
    drawn = draw_coalitions(12, 1000, np.random.default_rng(3))
    assert len(drawn.members) == 1000
    assert drawn.certain == 2 * (12 + 66)
    sizes = drawn.members.sum(axis=1)
    assert set(sizes[: drawn.certain]) == {1, 2, 10, 11}
    assert len({each.tobytes() for each in drawn.members[: drawn.certain]}) == drawn.certain
    pairs = drawn.members[drawn.certain :].reshape(-1, 2, 12)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    # By sizes, what is drawn weighs together what the kernel gives it, and so does what is certain.
    kernel = {size: 11 / (size * (12 - size)) for size in range(1, 12)}
    for size in (1, 2, 10, 11):
        assert drawn.weights[sizes == size].sum() == pytest.approx(kernel[size])
    rest = drawn.weights[drawn.certain :].sum()
    assert rest == pytest.approx(sum(kernel[size] for size in range(3, 10)))
    for size in range(3, 10):
        assert (sizes[drawn.certain :] == size).mean() == pytest.approx(kernel[size] / rest, abs=0.05)


# --- networks whose evidence is known --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> onnxviz.Model:
    path = planted_network.save(tmp_path_factory.mktemp("planted") / "planted.onnx")
    return onnxviz.Model(onnxviz.open_model(path), UNIT, planted_network.CLASSES, "cpu")


@pytest.fixture(scope="module")
def scene() -> torch.Tensor:
    image, _ = planted_network.scene(np.random.default_rng(2), ("red", "corner", "disc"))
    return torch.from_numpy(image)[None]


def red_evidence(image: torch.Tensor) -> torch.Tensor:
    """What each pixel adds to the class "red" of the planted network: nothing depends on two pixels."""
    red = (image[0, 0] - (image[0, 1] + image[0, 2]) / 2).double().relu()
    return 60 * red / red.numel()


def test_occlusion_finds_planted_evidence(planted: onnxviz.Model, scene: torch.Tensor) -> None:
    evidence = red_evidence(scene)
    found = Occlusion(window=0.25, stride=0.125).attribute(ask(planted, scene, (0,))).maps[0][0]
    wanted, counts = torch.zeros(32, 32, dtype=torch.float64), torch.zeros(32, 32)
    for top, left in itertools.product(range(0, 25, 4), repeat=2):
        box = np.s_[top : top + 8, left : left + 8]
        wanted[box] += evidence[box].sum()
        counts[box] += 1
    assert_close(found, wanted / counts)
    corner = Occlusion(window=0.25, stride=0.25).attribute(ask(planted, scene, (3,))).maps[0][0]
    assert float(corner[:8, 24:].min()) > 1
    assert float(corner.abs().sum()) == pytest.approx(64 * float(corner[0, 31]), rel=1e-6)


@pytest.mark.parametrize("settings", [{"segments": 9}, {"segments": 30, "coalitions": 200}])
def test_segments_have_the_planted_evidence_that_they_hold(
    planted: onnxviz.Model, scene: torch.Tensor, settings: dict[str, int]
) -> None:
    question, evidence = ask(planted, scene, (0,)), red_evidence(scene)
    method = KernelShap(**settings)
    (labels,) = method.labels(question)
    wanted = torch.stack([evidence[labels == number].sum() for number in range(int(labels.max()) + 1)])[labels]
    # Of scores that are sums over segments, any coalitions give the exact values.
    found = method.attribute(question)
    assert_close(found.maps[0][0], wanted)
    assert_close(SegmentOcclusion(segments=settings["segments"]).attribute(question).maps[0][0], wanted)
    assert float(found.facts["standard error"]) < 1e-5


def test_rise_finds_planted_evidence(planted: onnxviz.Model, scene: torch.Tensor) -> None:
    evidence = red_evidence(scene)
    method = Rise(masks=1500, cells=4)
    found = method.attribute(ask(planted, scene, (0,)))
    # The score is the sum of evidence times mask, so that the map is the covariance of two pixels' masks, over 1/2.
    enlarge = nn.functional.interpolate(torch.eye(4).double()[None], size=40, mode="linear")[0].T
    shifted = torch.stack([enlarge[shift : shift + 32] for shift in range(8)])
    along = torch.einsum("sac,sbc->ab", shifted, shifted) / 8
    wanted = 0.5 * torch.einsum("ha,wb,ab->hw", along, along, evidence)
    difference = found.maps[0][0].double() - wanted
    error = float(found.facts["standard error"])
    assert 0.5 * error < float(difference.square().mean().sqrt()) < 2 * error < 0.2 * float(wanted.max())
    assert float(found.facts["largest value"]) == pytest.approx(float(found.maps[0].abs().max()))


# --- passes ----------------------------------------------------------------------------------------------------------

METHODS = (
    Occlusion(window=0.3, stride=0.2),
    SegmentOcclusion(segments=7),
    Rise(masks=21, cells=3),
    KernelShap(segments=9, coalitions=50),
)


class _Counted(Question):
    """A question that notes how many images each of its passes takes."""

    passes: list[int]

    def measured_values(self, images: torch.Tensor) -> torch.Tensor:
        self.passes.append(len(images))
        return super().measured_values(images)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.method)
def test_changed_images_share_passes_and_other_targets_their_values(
    model: onnxviz.Model, images: torch.Tensor, method: Perturbation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "CHANGED_BYTES", 0)
    forward = ForwardPass(model, images, [], [model.view.logits], to_input=False)

    def counted(classes: Any) -> _Counted:
        asked = _Counted(forward, targets_of(model, classes), (0, 1, 2), 0)
        asked.passes = []
        return asked

    first, second = counted(CLASSES), counted((4, 3, 1))
    found = method.attribute(first)
    assert len(first.passes) > 1
    assert set(first.passes[:-1]) == {16}
    again = method.attribute(second)
    assert second.passes == []
    fresh = method.attribute(ask(model, images, (4, 3, 1)))
    assert torch.equal(again.maps[0], fresh.maps[0])
    assert not torch.equal(found.maps[0], fresh.maps[0])
    other_seed = _Counted(forward, first.targets, (0, 1, 2), 1)
    other_seed.passes = []
    method.attribute(other_seed)
    assert other_seed.passes == first.passes
    monkeypatch.setattr(perturbation, "KEPT_BYTES", 100)  # too much is not kept
    large = ForwardPass(model, images, [], [model.view.logits], to_input=False)
    for _ in range(2):
        asked = _Counted(large, first.targets, (0, 1, 2), 0)
        asked.passes = []
        assert torch.equal(method.attribute(asked).maps[0], found.maps[0])
        assert asked.passes == first.passes


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.method)
def test_an_image_has_its_map_in_any_batch(model: onnxviz.Model, images: torch.Tensor, method: Perturbation) -> None:
    together = method.attribute(ask(model, images, indices=(7, 8, 9)))
    for place in range(3):
        alone = method.attribute(
            ask(model, images[place : place + 1], CLASSES[place : place + 1], indices=(7 + place,))
        )
        assert_close(alone.maps[0][0], together.maps[0][place])
        for name, numbers in together.facts.items():
            if name != "completeness error":
                assert float(alone.facts[name][0]) == pytest.approx(float(numbers[place]), rel=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.method)
def test_what_does_not_convert_is_attributed_all_the_same(
    planted: onnxviz.Model, scene: torch.Tensor, method: Perturbation, tmp_path: Path
) -> None:
    path = planted_network.save(tmp_path / "planted.onnx")
    made = onnx.load(path)
    made.graph.node[3].input[0] = "read"
    made.graph.node.insert(3, helper.make_node("Cast", ["written"], ["read"], "read", to=onnx.TensorProto.FLOAT))
    made.graph.node.insert(3, helper.make_node("Cast", ["active"], ["written"], "write", to=onnx.TensorProto.STRING))
    onnx.save(made, path)
    odd = onnxviz.Model(onnxviz.open_model(path), UNIT, planted_network.CLASSES, "cpu")
    assert not odd.converts(odd.view.logits)
    found, wanted = (method.attribute(ask(each, scene, (0,))).maps[0] for each in (odd, planted))
    assert_close(found, wanted)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.method)
def test_a_model_that_takes_so_many_images_at_a_time(
    planted: onnxviz.Model, scene: torch.Tensor, method: Perturbation, tmp_path: Path
) -> None:
    path = planted_network.save(tmp_path / "planted.onnx")
    made = onnx.load(path)
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for output in made.graph.output:
        output.type.tensor_type.shape.dim[0].dim_value = 1
    made.graph.node[3].input[0] = "summed"
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0), "axis"))
    made.graph.node.insert(3, helper.make_node("CumSum", ["active", "axis"], ["summed"], "over images"))
    onnx.save(made, path)
    fixed = onnxviz.Model(onnxviz.open_model(path), UNIT, planted_network.CLASSES, "cpu")
    assert fixed.view.batch == 1
    found, wanted = (method.attribute(ask(each, scene, (0,))).maps[0] for each in (fixed, planted))
    assert_close(found, wanted)


@pytest.mark.zoo
def test_a_model_of_bytes(zoo: Path, shared_data: Path) -> None:
    path = zoo / "onnx" / "coral_mobilenet_v1_0.25_128_qdq.onnx"
    model = onnxviz.load(path, "raw", device="cpu")
    photographs = ImageFolder.find("photographs", ["imagenet_sample/*_ostrich.JPEG"], shared_data)
    images = torch.from_numpy(load_batch(photographs, [0], model.preprocessing, model.input_size))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    file = onnx.load(path)
    logits = [node for node in file.graph.node if node.op_type == "Conv"][-1].output[0]  # before they are rounded
    file.graph.output.append(helper.make_empty_tensor_value_info(logits))
    session = onnxruntime.InferenceSession(file.SerializeToString(), options)

    def score(image: torch.Tensor) -> float:
        given = np.rint(255 * image.numpy()).astype(np.uint8).transpose(1, 2, 0)[None]
        return float(session.run(None, {session.get_inputs()[0].name: given})[1].reshape(-1)[10])

    found = Occlusion(window=0.5, stride=0.5).attribute(ask(model, images, (10,)))
    for top, left in itertools.product((0, 64), repeat=2):
        covered = images[0].clone()
        covered[:, top : top + 64, left : left + 64] = 0
        lost = float(found.maps[0][0, top, left])
        assert lost == pytest.approx(score(images[0]) - score(covered), abs=1e-4)
    assert float(found.maps[0].abs().max()) > 1
    assert found.said.endswith("the colour that preprocessing turns into 0 (RGB 0, 0, 0)")


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (Occlusion, {"window": 0.1, "stride": 0.2}, "never covered"),
        (KernelShap, {"segments": 40, "coalitions": 100}, "four times"),
        (Rise, {"kept": 1.0}, "less than 1"),
        (SegmentOcclusion, {"cut": "circles"}, "superpixels"),
    ],
)
def test_settings_that_make_no_sense(method: type[Perturbation], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        method(**settings)


def test_costs_are_the_passes_that_are_made(model: onnxviz.Model, images: torch.Tensor) -> None:
    for method in (*METHODS, KernelShap(segments=4)):
        forward = ForwardPass(model, images[:1], [], [model.view.logits], to_input=False)
        question = _Counted(forward, targets_of(model, (0,)), (0,), 0)
        question.passes = []
        method.attribute(question)
        assert sum(question.passes) == pytest.approx(method.cost(0), rel=0.4)


def test_what_is_filled_in_is_said(model: onnxviz.Model, planted: onnxviz.Model, images: torch.Tensor) -> None:
    question = ask(model, images)
    assert Occlusion().filled_with(question) == "the colour that preprocessing turns into 0 (RGB 124, 116, 104)"
    assert Occlusion(fill="blur").filled_with(question).endswith("deviation of 1.3 pixels")
    mean = Occlusion(fill="mean").filling(question)
    torch.testing.assert_close(mean[1, :, 3, 4], images[1].flatten(1).mean(dim=1))
    far = onnxviz.Model(planted.view, dataclasses.replace(UNIT, mean=(300.0,)), device="cpu")
    other = ask(far, torch.rand(1, 3, 32, 32), (0,))
    assert Occlusion().filled_with(other) == "what comes nearest to what preprocessing turns into 0"
    assert float(Occlusion().filling(other).min()) == 1
