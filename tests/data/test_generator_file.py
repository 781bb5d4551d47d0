"""A generator among a recipe's data: found, digested, refused where it is none, and pictures made with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper

from onnxviz.core import findings as f
from onnxviz.core.errors import DataError, RecipeError
from onnxviz.data.generator_file import GeneratorSettings
from onnxviz.execution.execute import run
from onnxviz.execution.plan import digests_of, make_plan
from onnxviz.execution.workers.processes import paths_of
from onnxviz.recipe.recipe import parse_recipe
from tests.tiny_models import fill

SETTINGS = "{kind: activation_maximization, targets: [{layer: scores, units: [1]}], steps: 30, transforms: [], "
RECIPE = f"""\
version: 1
model: {{path: m.onnx, preprocess: unit}}
data: {{prior: {{generator: made/g.onnx}}, photos: {{images: photos}}}}
analyses:
  a: {SETTINGS}parameterization: {{kind: generator, model: prior}}}}
"""


def save_generator(path: Path, seed: int = 0) -> None:
    """Write a network that makes flat colours: sigmoid(W · code) over 8 × 8 pixels."""
    weight = np.random.default_rng(seed).standard_normal((5, 3)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["code", "weight"], ["color"]),
        helper.make_node("Sigmoid", ["color"], ["bright"]),
        helper.make_node("Reshape", ["bright", "shape"], ["small"]),
        helper.make_node("Expand", ["small", "size"], ["image"]),
    ]
    graph = helper.make_graph(
        nodes,
        "generator",
        [helper.make_tensor_value_info("code", TensorProto.FLOAT, ["n", 5])],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.array([-1, 3, 1, 1]), "shape"),
            numpy_helper.from_array(np.array([1, 1, 8, 8]), "size"),
        ],
    )
    path.parent.mkdir(exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path)
    save_generator(tmp_path / "made" / "g.onnx")
    return tmp_path


def test_pictures_are_made_with_a_generator(folder: Path) -> None:
    result = run(parse_recipe(RECIPE, "r.yaml", folder), folder / "out", device="cpu", workers=0).result
    (part,) = result.analyses[0].parts
    (metric,) = (entry for entry in part.findings if isinstance(entry, f.Metric) and entry.name == "rise_fraction")
    assert metric.value == 1.0
    (array,) = (entry for entry in part.findings if isinstance(entry, f.Array))
    (image,) = np.load(folder / "out" / array.path)["images"]
    assert np.ptp(image, axis=(1, 2)).max() < 1e-5  # a flat colour, which is all that this generator makes
    assert result.provenance.jobs >= 1
    (card,) = (card for card in result.data if card.name == "prior")
    assert (card.kind, card.description) == ("generator", "made/g.onnx")


def test_the_generator_is_part_of_the_keys_and_of_nothing_else(folder: Path) -> None:
    plan = make_plan(parse_recipe(RECIPE, "r.yaml", folder))
    (job,) = (planned for planned in plan.jobs if not planned.job.intermediate)
    assert job.job.data == ("prior",)
    assert plan.parity_checks["model"].data == "photos"  # agreement is proved on images
    assert digests_of(plan.subjects.values())["data 'prior'"] == plan.subjects["model"].data["prior"].digest
    assert {card.kind for card in plan.data} == {"generator", "images"}
    save_generator(folder / "made" / "g.onnx", seed=1)
    (other,) = (
        planned for planned in make_plan(parse_recipe(RECIPE, "r.yaml", folder)).jobs if not planned.job.intermediate
    )
    assert other.key != job.key


def test_a_locked_recipe_finds_the_generator_from_elsewhere(folder: Path) -> None:
    recipe = parse_recipe(RECIPE, "r.yaml", folder)
    (folder / "out").mkdir()
    locked = recipe.lock(folder / "out")
    assert yaml.safe_load(locked)["data"]["prior"] == {"generator": "../made/g.onnx"}
    again = make_plan(parse_recipe(locked, "lock.yaml", folder / "out"))
    assert [job.key for job in again.jobs] == [job.key for job in make_plan(recipe).jobs]


def test_a_confined_process_may_read_the_generator(folder: Path) -> None:
    assert folder / "made" in paths_of(parse_recipe(RECIPE, "r.yaml", folder))


def test_only_a_worker_opens_the_generator(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process must not open it cannot open; the worker has modules of its own."""

    def refused(path: object) -> None:
        raise AssertionError(f"{path} was opened in the process of the caller")

    for module in ("onnxviz.data.generator_file", "onnxviz.execution.plan", "onnxviz.model.opening"):
        monkeypatch.setattr(f"{module}.open_model", refused)
    result = run(parse_recipe(RECIPE, "r.yaml", folder), folder / "out", device="cpu", workers=1).result
    (part,) = result.analyses[0].parts
    assert not part.failed
    assert any(isinstance(entry, f.Array) for entry in part.findings)


def test_a_generator_that_was_changed_is_not_used(folder: Path) -> None:
    from onnxviz.analyses.activation_maximization.making import opened_generator

    data, device = make_plan(parse_recipe(RECIPE, "r.yaml", folder)).subjects["model"].data, torch.device("cpu")
    assert opened_generator("prior", data, device).size == (8, 8)
    save_generator(folder / "made" / "g.onnx", seed=1)
    with pytest.raises(DataError, match="was changed"):
        opened_generator("prior", data, device)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("model: prior", "model: photos"), "'photos' is no generator"),
        (("model: prior", "model: priro"), "did you mean 'prior'"),
        (("made/g.onnx", "made/h.onnx"), "h.onnx"),
        (("made/g.onnx", "labels.txt"), "labels.txt"),
        (("steps: 30,", "steps: 30, data: prior,"), "holds no images"),
        (("steps: 30,", "steps: 30, begin: {data: prior},"), "holds no images"),
        (("{generator: made/g.onnx}", "{generator: 3}"), "expected text"),
        (("{generator: made/g.onnx}", "{generator: made/g.onnx, limit: 3}"), "unknown key 'limit'"),
        (("{generator: made/g.onnx}", "{generator: made/g.onnx, images: photos}"), "one of"),
    ],
)
def test_what_is_no_generator_is_refused_at_its_place(folder: Path, change: tuple[str, str], words: str) -> None:
    text = RECIPE.replace(*change)
    assert text != RECIPE
    with pytest.raises(RecipeError) as raised:
        make_plan(parse_recipe(text, "r.yaml", folder))
    assert words in str(raised.value)


def test_a_generator_holds_no_images(folder: Path) -> None:
    source = GeneratorSettings(generator="made/g.onnx").open("prior", folder)
    assert len(source) == 0
    with pytest.raises(DataError, match="holds no image"):
        source.read(0)
