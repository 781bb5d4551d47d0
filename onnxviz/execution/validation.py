"""What `onnxviz validate` asks of a worker process; who asks loads little else."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxviz.confinement import Limits
from onnxviz.core.devices import Device
from onnxviz.execution.workers.process import require_enough

if TYPE_CHECKING:
    from onnxviz.recipe.recipe import Recipe


@dataclass(frozen=True)
class Validity:
    """A recipe without faults; `left_out` are sentences on files that cannot be used."""

    jobs: int
    remarks: tuple[str, ...]
    left_out: tuple[str, ...]


def read_first(limits: Limits, path: str, overrides: Sequence[str]) -> tuple[Limits, list[Path], dict[str, Any]]:
    """Read a recipe, and return the limits as it tightens them, what it names, and itself.

    Raises:
        RecipeError: if nothing of it is sound.
        MemoryLimitError: if a limit suffices for no model.
    """
    from onnxviz.execution.workers.processes import paths_of
    from onnxviz.recipe.recipe import read_recipe

    recipe = read_recipe(path, tuple(overrides), partly=True)
    require_enough(limits.memory, compute=False, place=path)
    if recipe.limits is not None and (own := recipe.limits.memory_bytes) is not None:
        require_enough(own, compute=True, place=f"{path}: limits")  # for a run
        limits = dataclasses.replace(limits, memory=min(own, limits.memory or own))
    return limits, paths_of(recipe), {"recipe": recipe}


def validity(recipe: Recipe, device: Device) -> Validity:
    """Check a recipe's models and data.

    Raises:
        RecipeError: with all its faults.
    """
    from onnxviz.execution.plan import make_plan
    from onnxviz.execution.schedule import left_out

    made = make_plan(recipe, device)
    return Validity(len(made.jobs), made.remarks, tuple(left_out(made.data)))
