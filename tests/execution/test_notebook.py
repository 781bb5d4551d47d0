"""What people in a notebook call on a model: the numbers of a run, shown as pictures, with the errors of the tree."""

from __future__ import annotations

import hashlib
import html.parser
import io
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import onnxviz
from onnxviz.analysis import Array, CustomFinding, Finding, Metric, Note, Picture, Tile, TileGrid, Unit, UnknownFinding
from onnxviz.core.findings import replace_leaves, to_data
from onnxviz.data import builtin
from onnxviz.data.given_images import source_of
from onnxviz.execution.findings_view import Findings, contact_sheet
from onnxviz.execution.finished_run import Run
from onnxviz.execution.store import encode_arrays, encode_picture

SCENES = builtin.model("scenes")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    source = builtin.scenes(count=3)
    for index in range(3):
        Image.fromarray(source.read(index)).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def model() -> onnxviz.Model:
    return onnxviz.load(SCENES.path, SCENES.preprocessing, SCENES.labels, device="cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Run:
    recipe = {
        "version": 1,
        "title": "<b>&",
        "model": {"builtin": "scenes"},
        "data": {"images": {"images": str(photos)}, "concepts": {"builtin": "scenes", "count": 20}},
        "analyses": {
            "kernels": {"kind": "weights", "layers": "first_conv"},
            "units": {
                "kind": "activation_maximization",
                "targets": [{"layer": "conv4", "units": 3}, {"layer": "logits", "units": [SCENES.labels[1]]}],
                "data": "images",
                "steps": 4,
            },
            "evidence": {"kind": "grad_cam", "data": "images", "layers": ["conv2", "conv6"], "classes": "top:2"},
            "concepts": {"kind": "dissection", "data": "concepts", "layers": "last_conv"},
        },
    }
    return onnxviz.run(recipe, tmp_path_factory.mktemp("out") / "run", device="cpu")


CALLS: dict[str, Callable[[onnxviz.Model, Path], Findings]] = {
    "kernels": lambda model, photos: model.kernels("first_conv"),
    "units": lambda model, photos: model.visualize(["conv4:3", SCENES.labels[1]], images=photos, steps=4),
    "evidence": lambda model, photos: model.grad_cam(photos, "top:2", ["conv2", "conv6"]),
    "concepts": lambda model, photos: model.dissect(builtin.scenes(count=20), "last_conv"),
}


def as_digests(findings: Any, folder: Path | None = None) -> Any:
    """Findings as data, each picture and array by the digest of its file."""

    def digest(leaf: Picture | Array) -> Picture | Array:
        if folder is not None:
            content = (folder / leaf.path).read_bytes()
        else:
            content = encode_picture(leaf) if isinstance(leaf, Picture) else encode_arrays(leaf.arrays)
        name = hashlib.sha256(content).hexdigest()
        if isinstance(leaf, Array):
            return replace(leaf, arrays={}, path=name)
        return replace(leaf, pixels=None, path=name, width=leaf.width, height=leaf.height)

    return [to_data(replace_leaves(finding, digest)) for finding in findings]


@pytest.mark.parametrize("name", CALLS)
def test_all_numbers_and_pictures_are_those_of_a_run(name: str, model: onnxviz.Model, run: Run, photos: Path) -> None:
    found = CALLS[name](model, photos)
    assert as_digests(found.findings) == as_digests(run.findings(name)["model"], run.folder)
    assert found.metrics == run.metrics(name)["model"]
    assert found.title == next(item.title for item in run.result.analyses if item.id == name)
    assert len(found.pictures) == len(run.pictures(name)) > 0
    for identity, arrays in found.values.items():
        assert identity in repr(run.findings(name)["model"])
        assert all(isinstance(array, np.ndarray) for array in arrays.values())


def test_images_may_be_files_pil_images_or_arrays(model: onnxviz.Model, photos: Path) -> None:
    files = sorted(photos.glob("*.png"))
    forms = [files, [Image.open(file) for file in files], [np.asarray(Image.open(file)) for file in files], str(photos)]
    first, *others = (model.grad_cam(form, 0, "conv6").values for form in forms)
    for other in others:
        assert first.keys() == other.keys()
        for identity, arrays in first.items():
            assert all(np.array_equal(value, other[identity][name]) for name, value in arrays.items())
    assert source_of([Image.open(file) for file in files]).names == ("0.png", "1.png", "2.png")
    again = source_of([files[0], files[0], np.zeros((4, 4, 3), np.uint8)])
    assert again.names == ("0.png", "0.png (1)", "image 2")
    assert again.digest != source_of([files[0], files[1], np.zeros((4, 4, 3), np.uint8)]).digest


def test_targets_are_written_as_people_write_them(model: onnxviz.Model) -> None:
    def units(*targets: Any) -> list[Unit | None]:
        grids = [item for item in model.visualize(list(targets), steps=1).findings if isinstance(item, TileGrid)]
        return [tile.unit for grid in grids for tile in grid.tiles]

    assert units("conv4:3", Unit("conv4", 5)) == [Unit("conv4", 3), Unit("conv4", 5)]
    assert units("conv4:0-2") == [Unit("conv4", index) for index in range(3)]
    assert units(SCENES.labels[2]) == [Unit("logits", 2)]
    assert units({"layer": "conv4", "units": [1]}) == [Unit("conv4", 1)]
    assert units(model.view.layer("conv4")) == units("conv4")


def test_what_the_caller_had_set_is_left_as_it_was(model: onnxviz.Model) -> None:
    random.seed(1)
    torch.manual_seed(1)
    np.random.seed(1)
    expected = random.random(), float(torch.rand(())), float(np.random.rand())
    random.seed(1)
    torch.manual_seed(1)
    np.random.seed(1)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads + 1)
    torch.use_deterministic_algorithms(False)
    try:
        model.kernels()
        assert torch.get_num_threads() == threads + 1
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
    assert (random.random(), float(torch.rand(())), float(np.random.rand())) == expected
    assert (model.reduced, model.distrusted) == ([], frozenset())


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (
            lambda model, image: model.grad_cam(image, "zebra"),
            onnxviz.SelectionError,
            "none of the 15 classes is called",
        ),
        (
            lambda model, image: model.grad_cam(image, layer="x"),
            onnxviz.RecipeError,
            "grad_cam: unknown key 'layer'; did",
        ),
        (lambda model, image: model.grad_cam(image, limit=0), onnxviz.RecipeError, "grad_cam: "),
        (lambda model, image: model.grad_cam(image, limit={1}), onnxviz.RecipeError, r"grad_cam: \{1\} is set"),
        (
            lambda model, image: model.analyze("gradcam"),
            onnxviz.RecipeError,
            "no analysis is of kind 'gradcam'; did you",
        ),
        (lambda model, image: model.visualize("conv99:3"), onnxviz.SelectionError, "no layer is called 'conv99'"),
        (lambda model, image: model.visualize(), onnxviz.RecipeError, "give `targets`, `objectives` or both"),
        (lambda model, image: model.grad_cam("none.png"), onnxviz.DataError, "no image matches 'none.png'"),
        (lambda model, image: model.grad_cam([]), onnxviz.DataError, "there are no images"),
        (lambda model, image: model.grad_cam(model.prepare(image)), onnxviz.DataError, "floating images are prepared"),
        (lambda model, image: model.dissect("nowhere"), onnxviz.DataError, "no folder"),
        (lambda model, image: model.dissect({"concepts": "nowhere"}), onnxviz.DataError, "no folder"),
        (lambda model, image: model.dissect({"concept": "a"}), onnxviz.RecipeError, "concept"),
        (lambda model, image: model.dissect({"concepts": {1}}), onnxviz.RecipeError, r"\{1\} is set"),
        (lambda model, image: model.kernels("relu1"), onnxviz.OnnxvizError, "relu1"),
    ],
)
def test_errors_are_those_of_the_tree(
    call: Callable[[onnxviz.Model, np.ndarray], Any], error: type[Exception], said: str, model: onnxviz.Model
) -> None:
    with pytest.raises(error, match=said):
        call(model, np.zeros((64, 64, 3), np.uint8))


def test_a_layer_that_does_not_agree_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxviz.execution import interactive

    def differing(model: Any, subject: Any, check: Any) -> Any:
        return tuple(onnxviz.Agreement(layer, 0.5, 0.5, 1e-3) for layer in check.layers), {}

    monkeypatch.setattr(interactive, "measure_agreement", differing)
    model = onnxviz.load(SCENES.path, SCENES.preprocessing, SCENES.labels, device="cpu")
    for _ in range(2):
        with pytest.raises(onnxviz.AgreementError, match=r"layer 'relu6': the converted network differs .* by 0\.5"):
            model.grad_cam(np.zeros((64, 64, 3), np.uint8), 0, "conv6")


# --- what is shown --------------------------------------------------------------------------------------------------

HOSTILE = '"><script>alert(1)</script>&<img src=x onerror=alert(1)>'


class Tags(html.parser.HTMLParser):
    """Every tag of a page with its attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def require_harmless(page: str) -> Tags:
    tags = Tags(page)
    assert {tag for tag, _ in tags.found} <= {
        "a", "b", "br", "code", "div", "figcaption", "figure", "h3", "h4", "img", "p", "small", "span", "table", "td",
        "th", "tr",
    }  # fmt: skip
    for tag, attributes in tags.found:
        assert set(attributes) <= {"alt", "style", "src", "href"}
        assert tag != "img" or str(attributes["src"]).startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
    return tags


class Odd(CustomFinding):
    """A finding of another package."""


def test_a_page_of_findings_holds_everything_and_escapes_all_of_it() -> None:
    picture = Picture(np.zeros((8, 8, 3), np.uint8), alt=HOSTILE)
    tiles = tuple(Tile(HOSTILE, Unit(HOSTILE, 1), (picture,), ((HOSTILE, HOSTILE),)) for _ in range(30))
    found: tuple[Finding, ...] = (
        Metric(HOSTILE, float("nan"), HOSTILE, interval=(0.1, 0.2)),
        Note(HOSTILE),
        TileGrid("g", HOSTILE, tiles),
        Array(HOSTILE, HOSTILE, {HOSTILE: np.zeros(1)}),
        UnknownFinding(HOSTILE, (("title", HOSTILE), (HOSTILE, (HOSTILE, picture, Note(HOSTILE))), ("none", None))),
    )
    shown = Findings(HOSTILE, found, {}, (HOSTILE,))
    tags = require_harmless(shown._repr_html_())
    assert tags.text.count("alert(1)</script>") >= 10
    assert "and 6 more" in tags.text
    assert len([1 for tag, _ in tags.found if tag == "img"]) == 25
    assert len(shown.pictures) == 31
    png = shown._repr_png_()
    assert png
    assert Image.open(io.BytesIO(png)).size == (6 * 136, 4 * 136)
    assert Findings("t", (Note("x"),), {})._repr_png_() is None
    assert contact_sheet([]) is None


def test_every_analysis_shows_itself(model: onnxviz.Model, photos: Path) -> None:
    for name, call in CALLS.items():
        found = call(model, photos)
        page = found._repr_html_()
        tags = require_harmless(page)
        assert found.title in tags.text
        assert len([1 for tag, _ in tags.found if tag == "img"]) > 0, name
        for finding in found.findings:
            if title := getattr(finding, "title", ""):
                assert title[:40] in tags.text or isinstance(finding, Array), (name, title)


def test_a_run_shows_cards_with_pictures_and_a_link(run: Run) -> None:
    tags = require_harmless(run._repr_html_())
    assert "<b>&" in tags.text
    assert [attributes["href"] for tag, attributes in tags.found if tag == "a"] == [run.report.resolve().as_uri()]
    assert [item.title in tags.text for item in run.result.analyses] == [True] * 4
    assert len([1 for tag, _ in tags.found if tag == "img"]) == 6 + 2 + 6 + 6
    hostile = replace(run.result, analyses=tuple(replace(item, title=HOSTILE) for item in run.result.analyses))
    require_harmless(Run(hostile, run.folder, run.report)._repr_html_())


def test_a_picture_that_is_gone_is_said_to_be(run: Run, tmp_path: Path) -> None:
    page = Run(run.result, tmp_path, run.report)._repr_html_()
    assert page.count("picture missing") == 20


def test_labelled_images_as_a_recipe_says_them(model: onnxviz.Model, tmp_path: Path) -> None:
    (tmp_path / "bright").mkdir()
    for place in range(3):
        Image.fromarray(np.full((16, 16, 3), 80 * place, np.uint8)).save(tmp_path / f"bright/{place}.png")
    said = {"concepts": tmp_path, "category": "scene", "colours": True}
    found = model.dissect(said, "last_conv", least_images=1, shuffles=1)
    assert found.metrics["detectors"] >= 0
    with pytest.raises(onnxviz.DataError, match="no folder"):
        model.dissect(tmp_path, "last_conv")
