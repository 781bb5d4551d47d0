"""The recipes of docs/feature_visualization.md and of recipes/ are recipes, and the page leaves no choice out."""

from __future__ import annotations

import re
import shlex
import typing
from pathlib import Path

import pytest
import yaml

from onnxviz.analyses.activation_maximization.analysis import ActivationMaximization
from onnxviz.core.errors import RecipeError
from onnxviz.execution.plan import make_plan
from onnxviz.optimize.objectives import ObjectiveChoice
from onnxviz.recipe.recipe import parse_recipe, read_recipe
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


RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
BASE = ROOT / "recipes" / "presets" / "units.yaml"


@pytest.mark.parametrize("path", RECIPES, ids=[path.relative_to(ROOT).as_posix() for path in RECIPES])
def test_every_recipe_of_the_repository_is_valid(path: Path) -> None:
    """As far as their files are not asked for; what presets extend has no analyses of its own."""
    if path == BASE:
        with pytest.raises(RecipeError, match="analyses"):
            read_recipe(path)
        return
    assert read_recipe(path).analyses


PRESETS = [path for path in RECIPES if path.parent.name == "presets" and path != BASE]


@pytest.mark.parametrize("path", PRESETS, ids=[path.stem for path in PRESETS])
def test_a_preset_is_said_can_be_planned_and_stands_beside_the_others(path: Path) -> None:
    assert f"`{path.stem}`" in PAGE
    recipe = read_recipe(path)
    assert list(recipe.analyses) == [path.stem]
    assert make_plan(recipe).jobs
    together = read_recipe(ROOT / "recipes" / "presets.yaml").analyses
    assert together[path.stem] == recipe.analyses[path.stem]
    assert set(together) == {preset.stem for preset in PRESETS} | {"default"}


COMMENTS = "\n".join(re.sub(r"^# *", "", path.read_text("utf-8"), flags=re.MULTILINE) for path in RECIPES)
COMMANDS = re.findall(r"^onnxviz \w+ (recipes/\S+\.yaml)((?:.*\\\n)*.*)$", f"{PAGE}\n{COMMENTS}", re.MULTILINE)
SETS = [(file, options) for file, options in COMMANDS if "--set" in options]


@pytest.mark.parametrize(("file", "options"), SETS, ids=[str(number) for number in range(len(SETS))])
def test_every_command_with_a_preset_is_valid(file: str, options: str) -> None:
    """What `--set` changes is part of the recipe; files are not asked for."""
    words = shlex.split(options.replace("\\\n", " "))
    changes = [words[index + 1] for index, word in enumerate(words) if word == "--set"]
    assert changes
    assert read_recipe(ROOT / file, changes).analyses


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
