"""The recipes of docs/feature_visualization.md are recipes, and it leaves no choice out."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest
import yaml

from onnxviz.analyses.activation_maximization import ActivationMaximization
from onnxviz.optimize.objectives import ObjectiveChoice
from onnxviz.recipe import parse_recipe, read_recipe
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "feature_visualization.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=[str(number) for number in range(len(BLOCKS))])
def test_every_recipe_is_valid(block: str, tmp_path: Path) -> None:
    given = yaml.safe_load(block)
    if "extends" in given:
        given["extends"] = str(ROOT / "recipes" / given["extends"])
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({"version": 1, **given}))
        assert read_recipe(tmp_path / "r.yaml").analyses
        return
    given = {"version": 1, "model": {"builtin": "scenes"}, **given}
    given["data"] = {"photos": {"images": "x"}, **given.get("data", {})}
    recipe = parse_recipe(yaml.safe_dump(given), "r.yaml", Path())
    assert all(isinstance(analysis, ActivationMaximization) for analysis in recipe.analyses.values())


def kinds(annotation: object) -> set[str]:
    """The kinds of all settings that an annotation accepts."""
    if isinstance(annotation, type):
        field = getattr(annotation, "model_fields", {}).get("kind")
        return set(typing.get_args(field.annotation)) if field else set()
    return {kind for part in typing.get_args(annotation) for kind in kinds(part)}


def test_every_choice_is_said() -> None:
    fields = ActivationMaximization.model_fields
    choices = kinds(ObjectiveChoice)
    for name in ("parameterization", "transforms", "regularizers", "edits", "optimizer"):
        choices |= kinds(fields[name].annotation)
    assert len(choices) > 30
    assert not {kind for kind in choices if f"`{kind}`" not in PAGE}
    usual = {"kind", "title", "batch"}
    assert not {name for name in set(fields) - usual if not re.search(rf"`{name}[`:]|^ +{name}:", PAGE, re.MULTILINE)}
