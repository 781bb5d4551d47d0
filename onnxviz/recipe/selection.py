"""Running some of a recipe: which analyses are meant by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from onnxviz.core.errors import SelectionError, nearest, shorten
from onnxviz.recipe.recipe import Recipe
from onnxviz.recipe.schema import metric_parts

EVERY = "all"
"""Stands for every analysis."""


def restricted(recipe: Recipe, only: Sequence[str]) -> Recipe:
    """Return the recipe with these analyses only (all if none is named), and the expectations that speak of them."""
    if not only:
        return recipe
    kept = chosen(recipe, only, "--only")
    analyses = {name: analysis for name, analysis in recipe.analyses.items() if name in kept}
    expect = tuple(item for item in recipe.expect if analysis_of(item.metric) in kept)
    return dataclasses.replace(recipe, analyses=analyses, expect=expect)


def chosen(recipe: Recipe, names: Sequence[str], option: str) -> set[str]:
    """Return the ids of the analyses that are named; a name may also be the common start of a matrix' variants."""
    found: set[str] = set()
    for name in names:
        same = {known for known in recipe.analyses if name in (EVERY, known)}
        same = same or {known for known in recipe.analyses if known.startswith(f"{name}-")}
        if not same:
            hint = nearest(name, recipe.analyses) or f"known are {', '.join(map(shorten, recipe.analyses))}"
            raise SelectionError(f"{option}: no analysis is called {shorten(name)!r}", remedy=hint)
        found |= same
    return found


def analysis_of(metric: str) -> str:
    """Return the id of the analysis whose metric an expectation names, "" if it names none."""
    named = metric_parts(metric)
    return named[1] if named else ""
