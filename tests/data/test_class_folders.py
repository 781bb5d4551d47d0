"""Folders called after what their images show, as concepts of the whole image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxviz.core.errors import DataError, RecipeError
from onnxviz.data.concepts import Concept, ConceptSet
from onnxviz.data.labelled.class_folders import ClassFolders
from onnxviz.data.labelled.settings import Choice, open_set
from onnxviz.execution.plan import make_plan
from onnxviz.recipe.recipe import parse_recipe

TEXTURES = Choice(category="texture")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "textures"
    for place, name in enumerate(("dotted/a.png", "dotted/deep/b.png", "braided/a.png", "void/c.png", "alone.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5 + place, 3), place, np.uint8)).save(root / name)
    return root


def test_every_pixel_carries_the_name_of_the_folder(folder: Path) -> None:
    data: ConceptSet = open_set("t", "textures", folder.parent, TEXTURES)
    assert data.concepts == (Concept(1, "braided", "texture"), Concept(2, "dotted", "texture"))
    assert data.categories == ("texture",)
    assert data.names == ("braided/a.png", "dotted/a.png", "dotted/deep/b.png", "void/c.png")
    found = [data.read_labels(place) for place in range(4)]
    assert [labels.shape for labels in found] == [(1, 4, 7), (1, 4, 5), (1, 4, 6), (1, 4, 8)]
    assert [np.unique(labels).tolist() for labels in found] == [[1], [2], [2], [0]]
    assert found[0].dtype == np.int32
    assert data.read(2)[0, 0].tolist() == [1, 1, 1]
    assert isinstance(data, ClassFolders)
    assert data.skipped == (("alone.png", "lies in no sub-folder"),)


def test_one_folder_alone_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "dotted").mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "dotted/a.png")
    data = open_set("t", tmp_path, tmp_path, TEXTURES)
    assert data.names == ("dotted/a.png",)
    assert data.read_labels(0).tolist() == [[[1] * 4] * 4]


def test_the_digest_follows_folders_and_category(folder: Path) -> None:
    digests = {open_set("t", folder, folder, choice).digest for choice in (TEXTURES, Choice(category="scene"))}
    assert open_set("u", folder, folder, TEXTURES).digest in digests
    (folder / "dotted/a.png").rename(folder / "braided/b.png")
    digests.add(open_set("t", folder, folder, TEXTURES).digest)
    assert len(digests) == 3


def test_what_cannot_be_used(folder: Path) -> None:
    with pytest.raises(DataError, match="has no splits"):
        open_set("t", folder, folder, Choice(split="train", category="texture"))
    (folder / "Dotted").mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "Dotted/a.png")
    with pytest.raises(DataError, match="the folders 'Dotted' and 'dotted' are called alike"):
        open_set("t", folder, folder, TEXTURES)
    with pytest.raises(DataError, match="no folder"):
        open_set("t", "none", folder, TEXTURES)
    with pytest.raises(DataError, match="no sub-folder has an image"):
        open_set("t", "dotted/deep", folder, TEXTURES)
    (folder / "rest").mkdir()
    (folder / "void").rename(folder / "rest/void")
    with pytest.raises(DataError, match="no sub-folder is called after a concept"):
        open_set("t", "rest", folder, TEXTURES)


def test_a_category_is_refused_where_the_format_has_its_own(folder: Path) -> None:
    (folder / "labels").mkdir()
    with pytest.raises(DataError, match="says itself what its concepts are"):
        open_set("t", folder, folder, TEXTURES)


def test_a_recipe_needs_the_category(folder: Path) -> None:
    text = (
        "version: 1\nmodel: {builtin: scenes}\ndata: {d: {concepts: textures%s}}\nanalyses: {a: {kind: dissection}}\n"
    )
    (card,) = make_plan(parse_recipe(text % ", category: texture", "r.yaml", folder.parent)).data
    assert card.used == 4
    with pytest.raises(RecipeError, match=r"no folder.*images'"):
        make_plan(parse_recipe(text % "", "r.yaml", folder.parent))


@pytest.mark.zoo
def test_dtd(shared_data: Path) -> None:
    data = open_set("dtd", "dtd10", shared_data, TEXTURES)
    assert len(data) == 240
    assert [concept.name for concept in data.concepts][:3] == ["banded", "blotchy", "braided"]
    assert [int(data.read_labels(place).max()) for place in (0, 23, 24, 239)] == [1, 1, 2, 10]
