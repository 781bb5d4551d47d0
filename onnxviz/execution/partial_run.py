"""A run of some of a recipe's analyses: what the folder's report has of the others stays in it."""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import dataclass, replace
from pathlib import Path

from onnxviz.core.errors import OutputError
from onnxviz.core.results import RunResult
from onnxviz.core.wording import listed
from onnxviz.execution.folder import read_run
from onnxviz.execution.schedule import Schedule
from onnxviz.execution.store import Store
from onnxviz.recipe.recipe import Recipe
from onnxviz.recipe.selection import analysis_of, restricted

LOST = "no longer in the report"
"""How the remark begins on what the folder's report had before."""
_NAMED = 10
"""Analyses that a sentence names; the rest are counted."""


@dataclass(frozen=True)
class Kept:
    """What a run does and its report has: analyses, their jobs, and what else is kept or lost, a sentence each."""

    recipe: Recipe
    schedule: Schedule
    remarks: tuple[str, ...] = ()


def with_reported(recipe: Recipe, asked: Set[str], folder: Path) -> Recipe:
    """Return the recipe with the analyses that are asked for and those that the report in a folder has."""
    if asked >= set(recipe.analyses):
        return recipe
    try:
        reported = {analysis.id for analysis in read_run(folder).analyses}
    except OutputError:  # none, or a damaged one, of which nothing can be kept
        reported = set()
    return restricted(recipe, [name for name in recipe.analyses if name in asked | reported])


def kept(whole: Recipe, planned: Recipe, schedule: Schedule, asked: Set[str], store: Store) -> Kept:
    """Leave out of the schedule of what was planned of a recipe what is neither asked for nor done."""
    there = schedule.cached(store)
    undone = {job.analysis for job in schedule.jobs if not job.job.intermediate and job.key not in there} - asked
    names = [name for name in planned.analyses if name not in undone]
    never = [name for name in whole.analyses if name not in planned.analyses]
    said = (
        ("kept in the report as before", [name for name in names if name not in asked]),
        (f"{LOST}, because not done as the recipe is now; a run without --only does it", undone),
        ("left out, as --only says", never),
    )
    if undone:
        jobs = tuple(job for job in schedule.jobs if job.analysis not in undone)
        planned, schedule = restricted(planned, names), replace(schedule, jobs=jobs)
    told = (f"{what}: {listed(sorted(which), _NAMED, length=40)}" for what, which in said if which)
    return Kept(planned, schedule, tuple(told))


def of_analyses(result: RunResult, names: Collection[str]) -> RunResult:
    """Return what a run found and decided by some of its analyses."""
    return replace(
        result,
        analyses=tuple(analysis for analysis in result.analyses if analysis.id in names),
        expectations=tuple(item for item in result.expectations if analysis_of(item.metric) in names),
    )
