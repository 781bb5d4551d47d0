"""Starts whoever does the jobs of a run, and has the recipe planned by them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onnxviz.core.devices import DeviceChoice, require_device, visible_gpus
from onnxviz.core.errors import OnnxvizError
from onnxviz.execution.schedule import Schedule
from onnxviz.execution.store import Store
from onnxviz.execution.workers import WORKERS
from onnxviz.execution.workers.pool import InProcessPool, Pool
from onnxviz.recipe.recipe import Recipe

if TYPE_CHECKING:
    from onnxviz.confinement import Limits


@dataclass(frozen=True)
class Engine:
    """Workers that are ready, and what they are to do."""

    schedule: Schedule
    pool: Pool


@contextlib.contextmanager
def started(
    recipe: Recipe,
    folder: Path,
    lock: int,
    *,
    device: DeviceChoice = "auto",
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    limits: Limits | None = None,
) -> Iterator[Engine]:
    """Plan a recipe and start the workers for it; they are ended when the context is left, however that happens.

    Args:
        recipe: what to do.
        folder: the run folder.
        lock: descriptor of the folder's lock, which worker processes hold too.
        device: what to compute on.
        workers: number of processes; as the device suggests if None, 0 for this process.
        engine: where the processes are.
        limits: what each is limited to; as the machine suggests if None.

    Raises:
        RecipeError: if the recipe, its models or its data are refused.
        OnnxvizError: if no worker can be started, the device is not there, or reading the models breaks a limit.
    """
    # The nodes of a cluster may have what this machine has not.
    chosen = require_device(device) if engine == "local" or device == "auto" else device
    count = worker_count(workers, chosen)
    store = Store(folder)
    if count == 0 and engine == "local":
        schedule, inside = InProcessPool.planned(recipe, store, chosen)
        yield Engine(schedule, inside)
        return
    from onnxviz.execution.workers.processes import ProcessPool

    local = ProcessPool(recipe, folder, chosen, limits, max(1, count), lock=lock)
    with contextlib.closing(local):
        schedule = local.plan()
        if engine == "local":
            yield Engine(schedule, local)
            return
        from onnxviz.execution.workers.cluster import RayPool

        remote = RayPool(recipe, folder, chosen, limits, workers, local)
        with contextlib.closing(remote):
            yield Engine(schedule, remote)


def worker_count(wanted: int | None, device: str) -> int:
    """Return how many processes to start: one for each GPU, one for the CPU, unless somebody says otherwise.

    Raises:
        OnnxvizError: if the environment says something that is no number.
    """
    if wanted is None and (given := os.environ.get(WORKERS)):
        if not given.isdecimal():
            raise OnnxvizError(f"{WORKERS} is {given!r}, not a number", remedy="set it to 0, 1, 2, ... or unset it")
        wanted = int(given)
    if wanted is None:
        return max(1, len(visible_gpus())) if device == "cuda" else 1
    return wanted
