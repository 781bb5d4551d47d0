"""Starts whoever does the jobs of a run, and has the recipe planned by them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypedDict, get_args

from onnxviz.confinement import Limits
from onnxviz.core.devices import DeviceChoice, require_device, visible_gpus
from onnxviz.core.errors import OnnxvizError, nearest, shorten
from onnxviz.execution.plan import make_plan
from onnxviz.execution.schedule import Schedule
from onnxviz.execution.store import Store
from onnxviz.execution.workers import WORKERS
from onnxviz.execution.workers.pool import InProcessPool, Pool
from onnxviz.recipe.recipe import Recipe

Engine = Literal["local", "ray"]
_ENGINES = get_args(Engine)


class Options(TypedDict, total=False):
    """How a recipe is run; none of it changes what is found.

    Attributes:
        device: what to compute on; "auto" takes CUDA where it is.
        workers: processes that do the jobs; one for each GPU, or one, if not given; 0 for this process.
        engine: "local" for processes of this machine, "ray" for a Ray cluster.
        limits: what each process that opens a model is limited to.
        force: ids of analyses that are done again although they are done already; "all" for all.
        only: ids of the only analyses to run; all if empty. What the folder's report has of the others stays in it, as
            far as it is what the recipe asks for.
        keep_going: whether the rest is done after a job has failed.
        log_file: where the run's log is written too.
    """

    device: DeviceChoice
    workers: int | None
    engine: Engine
    limits: Limits | None
    force: Sequence[str]
    only: Sequence[str]
    keep_going: bool
    log_file: Path | None


@contextlib.contextmanager
def started(recipe: Recipe, folder: Path, lock: int, options: Options) -> Iterator[tuple[Schedule, Pool]]:
    """Plan a recipe and start the workers for it; they are ended when the context is left, however that happens.

    Worker processes hold the run folder's lock, too, of which a descriptor is given.

    Raises:
        RecipeError: if the recipe, its models or its data are refused.
        OnnxvizError: if no worker can be started, the device is not there, or reading the models breaks a limit.
    """
    device, engine, workers = options.get("device", "auto"), options.get("engine", "local"), options.get("workers")
    if unknown := set(options) - set(Options.__annotations__):
        name = min(unknown)
        known = ", ".join(sorted(Options.__annotations__))
        raise OnnxvizError(
            f"a run has no option {shorten(name)!r}", remedy=nearest(name, Options.__annotations__) or known
        )
    if workers is not None and workers < 0:
        raise OnnxvizError(f"{workers} workers cannot be", remedy="give a number from 0 on, or leave it out")
    if engine not in _ENGINES:
        raise OnnxvizError(f"{engine!r} is no engine", remedy=f"write one of {', '.join(_ENGINES)}")
    # The nodes of a cluster may have what this machine has not.
    chosen = require_device(device) if engine == "local" or device == "auto" else device
    count = worker_count(workers, chosen)
    if count == 0 and engine == "local":
        plan = make_plan(recipe, chosen)
        yield plan, InProcessPool(recipe, plan, Store(folder))
        return
    from onnxviz.execution.workers.processes import ProcessPool

    limits = options.get("limits")
    with contextlib.closing(ProcessPool(recipe, folder, chosen, limits, max(1, count), lock=lock)) as local:
        schedule = local.plan()
        if engine == "local":
            yield schedule, local
            return
        from onnxviz.execution.workers.cluster import RayPool

        with contextlib.closing(RayPool(recipe, folder, chosen, limits, workers, local, schedule.choices)) as remote:
            yield schedule, remote


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
