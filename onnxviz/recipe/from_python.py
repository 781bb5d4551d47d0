"""Recipes and analyses of Python's values, as a program writes them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxviz.analyses.base import Analysis
from onnxviz.core.errors import Fault, RecipeError, shorten
from onnxviz.core.yaml_source import SourcePosition, dump, parse_source
from onnxviz.data.labelled.settings import ConceptsSettings
from onnxviz.recipe.faults import check, ordered, read_analysis
from onnxviz.recipe.recipe import Recipe, parse_recipe


def recipe_from(parts: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Make a recipe of a mapping, as a program writes it; its paths start in the working folder.

    Raises:
        RecipeError: with every fault that can be seen without opening the model.
    """
    return parse_recipe(_yaml(parts, "recipe", "no recipe can be made of this mapping: "), "recipe", Path(), overrides)


def analysis_from(kind: str, settings: Mapping[str, Any]) -> Analysis:
    """Make an analysis of settings as a recipe gives them; raises RecipeError with every fault of them."""
    text = _yaml({"kind": kind, **settings}, kind)
    node, faults = parse_source(text, kind, Path(), place=SourcePosition(kind))
    made, found = read_analysis(node) if node is not None else (None, [])
    if made is None or faults:
        raise RecipeError(ordered([*faults, *found]))
    return made


def concepts_from(settings: Mapping[str, Any]) -> ConceptsSettings:
    """Make labelled images of settings as a recipe gives them; raises RecipeError with every fault of them."""
    node, faults = parse_source(_yaml(settings, "concepts"), "concepts", Path(), place=SourcePosition("concepts"))
    made, found = check(ConceptsSettings, node) if node is not None else (None, [])
    if made is None or faults:
        raise RecipeError(ordered([*faults, *found]))
    return made


def _yaml(parts: Mapping[str, Any], name: str, refusal: str = "") -> str:
    try:
        return dump(_plain_values(parts))
    except (TypeError, RecursionError) as error:
        why = "it contains itself" if isinstance(error, RecursionError) else str(error)
        raise RecipeError([Fault(refusal + why, name)]) from None


def _plain_values(value: Any) -> Any:
    """Return what YAML can hold; raises TypeError if a part is nothing that a recipe may say."""
    if isinstance(value, Mapping):
        return {str(key): _plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_values(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{shorten(repr(value))} is {type(value).__name__}, not text, a number, a list or a mapping")
