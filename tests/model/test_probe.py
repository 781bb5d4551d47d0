"""The preprocessing probe finds what a model was trained with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import onnxviz
from onnxviz import cli
from onnxviz.core.errors import SelectionError
from onnxviz.core.values import PRESETS, Preprocessing
from onnxviz.data import builtin
from onnxviz.data.image_choice import own_class
from onnxviz.data.images import ImageFolder
from onnxviz.graph import open_model
from onnxviz.graph.labels import read_labels
from onnxviz.model.preprocessing_candidates import RANGES, candidates, pictures_for
from onnxviz.model.preprocessing_search import probe
from onnxviz.model.preprocessing_trials import CHANCE, Probe, Trial
from tests.coloured_places import coloured_places, pixel_colour
from tests.tiny_models import save_model


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    source = builtin.scenes(24, seed=5)
    for index in range(len(source)):
        Image.fromarray(source.read(index)).save(folder / f"{index:02}.png")
    return folder


SIZED = replace(PRESETS["raw"], size=(64, 64), crop_fraction=1.0)
"""The built-in models' geometry with pixel values that are wrong for them."""


NEARLY_THE_SAME = ("tf", "imagenet")
"""-1..1, with which the built-in models were trained, and ImageNet's, which is as wide."""


def folder_of(path: Path, limit: int | None = None) -> ImageFolder:
    return ImageFolder.find("images", [str(path)], Path(), limit=limit)


def test_the_builtin_models_own_preprocessing_is_found(pictures: Path) -> None:
    model = builtin.model("scenes")
    found = probe(open_model(model.path), folder_of(pictures), declared=SIZED)
    assert found.trials[0].preprocessing.name in NEARLY_THE_SAME
    assert not found.by_accuracy
    assert found.images == 24
    assert found.trials == tuple(sorted(found.trials, key=lambda trial: -trial.score))


def test_with_labels_accuracy_ranks(pictures: Path) -> None:
    model = builtin.model("scenes")
    source = builtin.scenes(24, seed=5)
    lines = ["file,class_index"]
    from onnxviz.data.image_choice import own_class

    lines += [f"{index:02}.png,{own_class(source, index, model.labels)}" for index in range(24)]
    (pictures / "labels.csv").write_text("\n".join(lines))
    try:
        found = probe(open_model(model.path), folder_of(pictures), declared=SIZED)
    finally:
        (pictures / "labels.csv").unlink()
    assert found.by_accuracy
    assert found.labelled == 24
    assert found.trials[0].top1 is not None
    assert found.trials[0].top1 > 0.9
    assert found.trials[0].preprocessing.name in NEARLY_THE_SAME


def test_a_wrong_declaration_is_contradicted(pictures: Path) -> None:
    view = open_model(builtin.model("scenes").path)
    found = probe(view, folder_of(pictures), declared=SIZED)
    own = next(trial for trial in found.trials if trial.preprocessing.name == "raw")
    assert own.chance < CHANCE
    assert found.contradicted
    assert not replace(found, declared=found.trials[0].preprocessing).contradicted


def test_an_open_size_is_said(pictures: Path) -> None:
    found = probe(open_model(builtin.model("scenes").path), folder_of(pictures, 2))
    assert "tried at 224 × 224 pixels" in found.note


def test_what_is_declared_is_tried_even_if_odd() -> None:
    view = open_model(builtin.model("scenes").path)
    odd = Preprocessing("RGB", (1.0, 2.0, 3.0), (77.0,), name="odd")
    tried = list(candidates(view, odd))
    assert len(tried) == 2 * len(RANGES) + 1
    assert tried[-1][1] is odd
    assert {item.name for _, item in tried} >= {"caffe", "imagenet", "tf", "unit", "raw"}


@pytest.mark.parametrize(
    ("second", "chance", "alike", "clear"),
    [
        ("tf", 0.01, 0.5, True),  # behind by more than chance
        ("tf", 0.2, 0.5, False),
        ("tf", 0.2, 0.97, True),  # the same in effect
        ("unit", 0.9, 0.5, True),  # the same pixel values, another crop
    ],
)
def test_no_clear_winner_is_said(second: str, chance: float, alike: float, clear: bool) -> None:
    first = Trial(PRESETS["unit"], "0..1", 0.9, 0.8, 1.0)
    found = Probe((first, Trial(PRESETS[second], "x", 0.9, 0.7, 1.0, None, None, chance, alike)), 9, 9, 0, None)
    assert found.clear is clear
    assert ("clearly ahead" in found.verdict) is clear
    assert clear or "the same class for 50% of the pictures" in found.verdict


def test_grey_pictures_cannot_tell_red_from_blue(tmp_path: Path) -> None:
    source = builtin.scenes(24, seed=5)
    for index in range(24):
        Image.fromarray(source.read(index)).convert("L").save(tmp_path / f"{index:02}.png")
    found = probe(open_model(builtin.model("scenes").path), folder_of(tmp_path), declared=SIZED)
    first = found.trials[0].preprocessing
    swapped = next(
        trial
        for trial in found.trials
        if trial.range == found.trials[0].range and trial.preprocessing.channel_order != first.channel_order
    )
    assert swapped.alike >= 0.9
    assert swapped in found.undecided
    assert not found.clear


def test_the_usual_crop_is_kept_where_another_is_not_better(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    pictures = coloured_places(tmp_path / "p", (40, 40), (slice(18, 25), slice(18, 25)))
    pixel_colour(tmp_path / "m.onnx", 8, 8)
    found = probe(open_model(tmp_path / "m.onnx"), pictures)
    assert found.by_accuracy
    assert found.trials[0].top1 == 1.0
    assert found.trials[0].geometry == "crop 0.875 of large ones"
    usual = "crop 0.875 of large ones"
    resized = {f"{usual}, bicubic", f"{usual}, bilinear without antialiasing"}
    assert {trial.geometry for trial in found.trials} == {usual, "crop 1", *resized}
    kept = f"pictures are brought to size as usual, {usual}; no other way is better for certain:"
    assert f"{kept} crop 1 (right on as many)" in found.note
    assert f"{kept} bicubic (right on as many), bilinear without antialiasing (right on as many)" in found.note


def test_another_way_to_size_is_taken_if_it_is_clearly_better(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    pictures = coloured_places(tmp_path / "p", (40, 160), (slice(0, 40), slice(0, 30)))
    pixel_colour(tmp_path / "m.onnx", 8, 1)
    found = probe(open_model(tmp_path / "m.onnx"), pictures)
    assert found.by_accuracy
    assert (found.trials[0].geometry, found.trials[0].top1) == ("stretched", 1.0)
    own = Preprocessing(fit="crop", crop_fraction=1.0)
    kept = probe(open_model(tmp_path / "m.onnx"), pictures, geometry=own, keep=True)
    assert {trial.geometry for trial in kept.trials} == {"crop 1"}


def test_another_interpolation_is_taken_if_it_is_clearly_better(tmp_path: Path) -> None:
    """Of the cropped 54 pixels every third becomes one; around it another class's colour in a third of the images."""
    for index in range(90):
        pixels = np.full((54, 54, 3), 120, np.uint8)
        pixels[27:30, 27:30] = (np.arange(3) == (index + (index % 9 < 3)) % 3) * 255
        pixels[28, 28] = (np.arange(3) == index % 3) * 255
        (tmp_path / f"p/{index % 3}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"p/{index % 3}/{index}.png")
    pixel_colour(tmp_path / "m.onnx", 8, 8)
    found = probe(open_model(tmp_path / "m.onnx"), folder_of(tmp_path / "p"))
    first = found.trials[0]
    assert (first.geometry, first.top1) == ("crop 0.875 of large ones, bilinear without antialiasing", 1.0)
    usual = next(trial for trial in found.trials[1:] if trial.range == first.range)
    assert usual.top1 == pytest.approx(2 / 3)


def test_what_cannot_be_told_apart_is_not_tried_without_classes(tmp_path: Path) -> None:
    source = builtin.scenes(6, seed=5)
    for index in range(6):
        Image.fromarray(source.read(index)).save(tmp_path / f"{index}.png")
    found = probe(
        open_model(builtin.model("scenes").path), folder_of(tmp_path), geometry=replace(SIZED, crop_fraction=None)
    )
    assert {trial.geometry for trial in found.trials} == {"crop 0.875 of large ones"}
    assert "without known classes crops cannot be told apart" in found.note


def test_saturated_confidence_does_not_win(tmp_path: Path) -> None:
    """A network without biases is as certain as its input is large: only steadiness and variety can tell."""
    save_model(tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for index in range(6):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"photos/{index}.png")
    found = probe(open_model(tmp_path / "m.onnx"), folder_of(tmp_path / "photos"))
    most_certain = max(found.trials, key=lambda trial: trial.confidence)
    assert most_certain.preprocessing.scale == (1.0, 1.0, 1.0)
    assert all(0 <= trial.confidence <= 1 and 0 <= trial.steady <= 1 for trial in found.trials)


def test_a_model_without_classes_is_refused(tmp_path: Path, pictures: Path) -> None:
    from onnx import TensorProto, helper, save

    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 8, 8])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(SelectionError, match="gives one class"):
        probe(open_model(tmp_path / "m.onnx"), folder_of(pictures, 2))


def test_the_command_says_what_to_use(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = builtin.model("scenes").path
    monkeypatch.setattr("sys.argv", ["onnxviz", "inspect", str(path), "--images", str(pictures), "--count", "8"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "8 pictures, spread evenly over the 24 found" in said
    assert "preprocess: " in said


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("file", "images", "order", "mean", "scale"),
    [
        ("coral_mobilenet_v1_0.25_128_float.onnx", "imagenet_sample", "RGB", 127.5, 127.5),
        ("cifar10_resnet20_ts17.onnx", "cifar10_test", "RGB", 123.675, 58.395),
        ("mlperf_tiny_resnet8_cifar10.onnx", "cifar10_test", "RGB", 0.0, 1.0),
        ("fer2013_mini_XCEPTION.102-0.66.onnx", "fer2013_filtered_copy", "GRAY", 127.5, 127.5),
    ],
)
def test_real_models_without_labels(
    zoo: Path, shared_data: Path, file: str, images: str, order: str, mean: float, scale: float
) -> None:
    view = open_model(zoo / "onnx" / file)
    found = probe(view, folder_of(shared_data / images, pictures_for(view)))  # as many as a run takes
    best = found.trials[0].preprocessing
    assert (best.channel_order, best.mean[0], best.scale[0]) == (order, mean, scale)


@pytest.mark.zoo
def test_squeezenet_with_labels(zoo: Path, shared_data: Path) -> None:
    found = probe(
        open_model(zoo / "onnx" / "squeezenet_fp16.onnx"),
        folder_of(shared_data / "imagenet_sample", 24),
        labels=read_labels(zoo / "labels" / "imagenet_1000.txt"),
    )
    assert found.by_accuracy
    assert found.trials[0].preprocessing.channel_order == "BGR"
    imagenet = next(trial for trial in found.trials if trial.preprocessing.name == "imagenet")
    assert imagenet.top1 == 0.0


CIFAR = (125.307, 122.961, 113.8575)


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("file", "known"),
    [
        ("cifar10_resnet20_ts17.onnx", PRESETS["imagenet"]),
        ("mlperf_tiny_resnet8_cifar10.onnx", PRESETS["raw"]),
        ("vnn_cifar10_resnet_4b.onnx", Preprocessing("RGB", CIFAR, (63.0105, 62.0925, 66.708))),
    ],
)
def test_what_is_chosen_is_as_good_as_what_the_authors_say(
    zoo: Path, shared_data: Path, file: str, known: Preprocessing
) -> None:
    labels = read_labels(zoo / "labels" / "cifar10.txt")
    pictures = folder_of(shared_data / "cifar10_test")
    truth = np.array([own_class(pictures, index, labels) for index in range(len(pictures))])
    chosen = onnxviz.load(zoo / "onnx" / file, "auto", labels, "cpu", images=pictures)
    right = [
        float((model.probabilities(model.prepare(pictures.paths)).argmax(1) == truth).mean())
        for model in (chosen, onnxviz.load(zoo / "onnx" / file, known, labels, "cpu"))
    ]
    assert right[0] >= right[1] - 0.01


def test_all_in_one_class_have_no_variety_and_more_pictures_are_asked_for_where_there_are_some() -> None:
    from onnxviz.cli.show_model import _more_pictures
    from onnxviz.model.preprocessing_search import _entropy

    assert f"{_entropy(np.array([1.0])):.2f}" == "0.00"
    first = Trial(PRESETS["unit"], "x", 0.9, 0.9, 1.0)
    assert "--count" in _more_pictures(Probe((first,), images=9, found=30, labelled=0, declared=None))
    all_used = Probe((first,), images=9, found=10, labelled=0, declared=None, skipped=(("a.png", "broken"),))
    assert _more_pictures(all_used) == "give more pictures: all 9 were used"
