"""Several labelled sets as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broden_sets import write_random_set
from PIL import Image

from onnxviz.analyses.dissection.counting import Labels
from onnxviz.core.errors import DataError
from onnxviz.data.concepts import ConceptSet
from onnxviz.data.labelled.joined import JoinedSets
from onnxviz.data.labelled.settings import ConceptsSettings
from onnxviz.execution.execute import run
from onnxviz.execution.plan import make_plan
from onnxviz.recipe.recipe import parse_recipe


def masks(root: Path, classes: str, values: list[list[int]], count: int = 1) -> None:
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for place in range(count):
        Image.fromarray(np.full((*np.shape(values), 3), 40 * place, np.uint8)).save(root / f"images/{place}.png")
        Image.fromarray(np.array(values, np.uint8)).save(root / f"labels/{place}.png")
    (root / "concepts.csv").write_text("index,name,category\n" + classes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    masks(tmp_path / "street", "0,void,\n1,car,object\n2,Sky,object\n3,red,colour\n", [[0, 1, 2, 3]] * 2, 2)
    masks(tmp_path / "town", "0,sky,object\n1,tree,object\n2,red,object\n", [[0, 1, 2]] * 3)
    (tmp_path / "dtd/dotted").mkdir(parents=True)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "dtd/dotted/a.png")
    return tmp_path


def joined(folder: Path, *folders: str, **more: Any) -> ConceptSet:
    return ConceptsSettings.model_validate({"concepts": list(folders), **more}).open("all", folder)


def test_one_name_in_one_category_is_one_concept(folder: Path) -> None:
    data = joined(folder, "street", "town", "dtd", category="texture")
    assert [(concept.index, concept.name, concept.category) for concept in data.concepts] == [
        (1, "car", "object"), (2, "Sky", "object"), (3, "red", "colour"),
        (4, "tree", "object"), (5, "red", "object"), (6, "dotted", "texture"),
    ]  # fmt: skip
    assert data.categories == ("object", "colour", "texture")
    assert data.names == ("street/0.png", "street/1.png", "town/0.png", "dtd/dotted/a.png")
    assert data.read_labels(1).tolist() == [[[0, 1, 2, 3]] * 2]
    assert data.read_labels(2).tolist() == [[[2, 4, 5]] * 3]
    assert data.read_labels(3).tolist() == [[[6, 6]] * 2]
    assert data.read(1)[0, 0].tolist() == [40, 40, 40]
    assert isinstance(data, JoinedSets)
    assert [data.set_of(index) for index in range(4)] == ["street", "street", "town", "dtd"]
    assert data.sizes == ((2, 4), (2, 4), (3, 3), (2, 2))
    assert data.stored(2).shape == (3, 3, 3)


def test_an_image_counts_for_the_categories_of_its_set_alone(folder: Path) -> None:
    data = joined(folder, "street", "town", "dtd", category="texture")
    labels = Labels(data, (6, 6), 4)
    has = [labels.of(image).has.tolist() for image in range(4)]  # object, colour, texture
    assert has == [[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_what_is_joined_is_told(folder: Path) -> None:
    remarks = joined(folder, "street", "town", "dtd", category="texture").remarks  # type: ignore[attr-defined]
    assert remarks[0] == "3 sets are joined: street 2 images, town 1 image, dtd 1 image"
    assert remarks[1] == (
        "the sets name different concepts of the category 'object', street lacks 2, town lacks 1 of 4; what a set does "
        "not name counts as absent from its images"
    )
    assert len(remarks) == 2
    assert len(joined(folder, "street", "dtd", category={"dtd": "texture"}).remarks) == 1  # type: ignore[attr-defined]


def test_folders_of_one_name_are_told_apart(folder: Path) -> None:
    masks(folder / "more/street", "0,road,object\n", [[0]])
    data = joined(folder, "street", "more/street")
    assert data.names == ("street 1/0.png", "street 1/1.png", "street 2/0.png")


def test_what_is_left_out_keeps_the_name_of_its_set(folder: Path) -> None:
    (folder / "town/images/x.png").write_bytes(b"no image")
    data = joined(folder, "street", "town")
    ((name, _),) = data.skipped  # type: ignore[attr-defined]
    assert name == "town/x.png"


def test_the_digest_follows_each_set(folder: Path) -> None:
    digests = {joined(folder, "street", "town").digest, joined(folder, "town", "street").digest}
    assert joined(folder, "street", "town").digest in digests
    (folder / "town/concepts.csv").write_text("index,name,category\n0,sky,object\n1,bush,object\n2,red,object\n")
    digests.add(joined(folder, "street", "town").digest)
    assert len(digests) == 3


def test_splits_and_limits_of_each(folder: Path) -> None:
    write_random_set(folder / "broden", 8)
    data = joined(folder, "street", "broden", split="val", limit=1)
    assert data.names == ("street/0.png", "broden/part0/000.jpg")
    assert len(data.categories) == 5  # "colour" and "color" are not the same
    with pytest.raises(DataError, match="none of the folders has splits"):
        joined(folder, "street", "town", split="val")


@pytest.mark.parametrize(
    ("folders", "more", "said"),
    [
        (["street", "town"], {"category": "texture"}, "all folders say themselves"),
        (["street", "dtd"], {"category": {"dtt": "texture"}}, "did you mean 'dtd'"),
        (["street", "dtd"], {"category": {"street": "texture"}}, "says itself what its concepts are"),
        (["street", "dtd"], {}, "no folder"),
        ([], {}, "no folder is named"),
    ],
)
def test_what_cannot_be_joined(folder: Path, folders: list[str], more: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        joined(folder, *folders, **more)


def test_colours_of_all_images_and_images_without_other_labels(folder: Path) -> None:
    (folder / "plain").mkdir()
    Image.fromarray(np.full((2, 2, 3), 255, np.uint8)).save(folder / "plain/a.png")
    data = joined(folder, "town", "plain", colours=True)
    assert data.categories == ("object", "colour")
    names = np.array(["", *(concept.name for concept in data.concepts)])
    assert names[data.read_labels(1)].tolist() == [[["", ""]] * 2, [["white", "white"]] * 2]
    with pytest.raises(DataError, match="labels of the category 'colour' already"):
        joined(folder, "street", colours=True)


def test_a_recipe_joins_dissects_and_can_be_repeated(folder: Path) -> None:
    text = """\
version: 1
model: {builtin: scenes}
data: {all: {concepts: [street, dtd], category: {dtd: texture}}}
analyses: {a: {kind: dissection, layers: last_map, least_images: 1, shuffles: 1, best_units: 0}}
"""
    recipe = parse_recipe(text, "r.yaml", folder)
    done = run(recipe, folder / "out")
    assert done.result.verdict == "finished"
    (card,) = done.result.data
    assert card.used == 3
    lock = parse_recipe((folder / "out/recipe.lock.yaml").read_text("utf-8"), "lock.yaml", folder / "out")
    assert make_plan(lock).data[0].digest == card.digest
