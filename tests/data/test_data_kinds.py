"""Data sources are found by kind, those of other packages by entry point."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_models import save_model
from typer.testing import CliRunner

from onnxviz.cli.commands import app
from onnxviz.core.errors import AnalysisError, RecipeError
from onnxviz.data.base import DataSource
from onnxviz.data.kinds import ENTRY_POINTS, data_kinds
from onnxviz.execution.execute import run
from onnxviz.execution.plan import make_plan
from onnxviz.execution.workers.processes import paths_of
from onnxviz.recipe.recipe import parse_recipe
from onnxviz.recipe.schema import json_schema

STRIPES = '''
"""Stripes of several widths: a data source of another package."""

from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from onnxviz.data.base import DataSource


class StripesSettings(DataSource):
    """Black and white stripes, drawn."""

    kind: ClassVar[str] = "stripes"
    stripes: list[int] = Field(description="Widths in pixels.")

    def open(self, name: str, base: Path) -> "Stripes":
        return Stripes(name, self.stripes)


class Stripes:
    def __init__(self, name: str, widths: list[int]) -> None:
        self.name, self.widths, self.digest = name, widths, repr(widths)
        self.names = tuple(f"stripes of {width}" for width in widths)

    def __len__(self) -> int:
        return len(self.widths)

    def read(self, index: int) -> np.ndarray:
        row = np.arange(64) // self.widths[index] % 2 * 255
        return np.broadcast_to(row[None, :, None], (64, 64, 3)).astype(np.uint8)
'''


@pytest.fixture
def stripes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a package with a data source, as entry points have it."""
    install(tmp_path / "plugin", STRIPES, "stripes = stripes_plugin:StripesSettings")
    monkeypatch.syspath_prepend(str(tmp_path / "plugin"))
    data_kinds.cache_clear()
    yield
    data_kinds.cache_clear()


def install(folder: Path, code: str, entry: str) -> None:
    """Write a package of one module that registers an entry point."""
    about = folder / "stripes-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: stripes\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\n{entry}\n")
    (folder / "stripes_plugin.py").write_text(code)


RECIPE = """\
version: 1
model: {path: tiny.onnx, preprocess: unit, output: classes}
data:
  bars: {stripes: [1, 2, 4]}
analyses:
  cam: {kind: grad_cam, data: bars, layers: second, classes: "top:1"}
"""


@pytest.mark.usefixtures("stripes")
def test_a_source_of_another_package_is_like_any_other(tmp_path: Path) -> None:
    save_model(tmp_path / "tiny.onnx")
    recipe = parse_recipe(RECIPE, "r.yaml", tmp_path)
    done = run(recipe, tmp_path / "out")
    assert done.result.verdict == "finished"
    (card,) = done.result.data
    assert (card.kind, card.description, card.used) == ("stripes", "1, 2, 4", 3)
    lock = parse_recipe((tmp_path / "out" / "recipe.lock.yaml").read_text("utf-8"), "lock.yaml", tmp_path / "out")
    assert {job.key for job in make_plan(lock).jobs} == {job.key for job in make_plan(recipe).jobs}
    assert "StripesSettings" in json.dumps(json_schema())
    with pytest.raises(RecipeError, match="expected a list, not 'wide'"):
        parse_recipe(RECIPE.replace("[1, 2, 4]", "wide"), "r.yaml", tmp_path)
    with pytest.raises(RecipeError, match=r"'images', 'concepts', 'builtin', 'generator' and 'stripes'"):
        parse_recipe(RECIPE.replace("stripes: [1, 2, 4]", "stripes: [1], images: x"), "r.yaml", tmp_path)


def test_the_own_kinds_stand_in_the_order_in_which_images_are_looked_for() -> None:
    assert list(data_kinds()) == ["images", "concepts", "builtin", "generator"]
    for kind, cls in data_kinds().items():
        assert kind in cls.model_fields
        assert {path.partition(".")[0] for path in cls.paths} <= set(cls.model_fields)
        assert all(field.description for field in cls.model_fields.values())
        assert cls.__doc__


def test_explain_tells_of_each(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["explain", "data"]).output
    for cls in data_kinds().values():
        assert cls.__doc__
        assert cls.__doc__.splitlines()[0] in told


@pytest.mark.parametrize(
    ("code", "entry", "text"),
    [
        (
            STRIPES.replace('"stripes"', '"images"'),
            "s = stripes_plugin:StripesSettings",
            "two of onnxviz.data are called",
        ),
        ("Nothing = 3\n", "s = stripes_plugin:Nothing", "the entry point 's' is no DataSource"),
    ],
)
def test_what_is_no_source_of_its_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, entry: str, text: str
) -> None:
    import sys

    install(tmp_path / "plugin", code, entry)
    monkeypatch.syspath_prepend(str(tmp_path / "plugin"))
    monkeypatch.delitem(sys.modules, "stripes_plugin", raising=False)
    data_kinds.cache_clear()
    try:
        with pytest.raises(AnalysisError, match=text):
            data_kinds()
    finally:
        data_kinds.cache_clear()


def test_what_a_confined_process_must_read_is_told_by_the_source(tmp_path: Path) -> None:
    save_model(tmp_path / "tiny.onnx")
    (tmp_path / "photos").mkdir()
    (tmp_path / "made").mkdir()
    np.save(tmp_path / "mask.npy", np.zeros(3))
    text = RECIPE.replace("bars: {stripes: [1, 2, 4]}", "a: {images: photos/x*.png}\n  g: {generator: made/g.onnx}")
    text = text.replace("output: classes", "output: classes, inputs: {mask: mask.npy}").replace("data: bars", "data: a")
    found = paths_of(parse_recipe(text, "r.yaml", tmp_path))
    assert {tmp_path / "photos", tmp_path / "made", tmp_path / "mask.npy"} <= set(found)
    assert DataSource.model_config["extra"] == "forbid"
