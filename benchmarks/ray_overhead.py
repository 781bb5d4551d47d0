"""What Ray costs beside the built-in workers: the same jobs, the same number of workers, one Ray for all rounds.

Tiny jobs show what a job costs beyond its work; the quickstart recipe what is left of that in a real run. The time
until the first job has ended is listed by itself: planning, starting workers, loading PyTorch in each.

    python -m benchmarks.ray_overhead
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, machine, markdown
from onnxviz.execution.execute import run_file
from onnxviz.execution.observer import Observer
from onnxviz.execution.workers.cluster import RESULTS

ENGINES = (("local", ""), ("ray", "folder"), ("ray", "store"))


class Clock(Observer):
    """When the first and the last job ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.failed = 0

    def finished(self, *told: Any) -> None:
        """Note the time."""
        self.ends.append(time.monotonic())
        self.failed += "failed" in told


def measure(recipe: Path, folder: Path, engine: str, way: str, workers: int) -> list[object]:
    clock = Clock()
    os.environ[RESULTS] = way or "folder"
    begun = time.monotonic()
    run_file(recipe, folder, device="cpu", workers=workers, engine=engine, observer=clock)  # type: ignore[arg-type]
    ended = time.monotonic()
    assert not clock.failed, f"{clock.failed} jobs failed"
    first, last, count = clock.ends[0], clock.ends[-1], len(clock.ends)
    per_job = 1000 * (last - first) / (count - 1)
    name = (
        f"Ray, results through the {'object store' if way == 'store' else 'folder'}" if engine == "ray" else "built-in"
    )
    figures = [f"{first - begun:.1f}", f"{last - first:.2f}", f"{per_job:.2f}", f"{ended - last:.1f}"]
    return [name, workers, count, *figures, f"{ended - begun:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="*", default=[200, 2000], help="numbers of tiny jobs")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--quickstart", action="store_true", help="also the quickstart recipe, with the most workers")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    sys.path.insert(0, str(ROOT / "tests"))
    import worker_runs

    print(f"{machine()}; Ray {ray.__version__}; {os.environ['OMP_NUM_THREADS']} thread(s) for each worker; ", end="")
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = worker_runs.install(folder)
        os.environ["PYTHONPATH"] = made["PYTHONPATH"]
        sys.path[:0] = made["PYTHONPATH"].split(os.pathsep)
        begun = time.monotonic()
        ray.init(
            address="local", num_cpus=max(2, *given.workers), include_dashboard=False, log_to_driver=False,
            logging_level="ERROR", object_store_memory=100 << 20,
        )  # fmt: skip
        print(f"Ray has started in {time.monotonic() - begun:.1f} s\n")
        rows = []
        for count in given.jobs:
            recipe = worker_runs.write_recipe(folder, f"count: {count}")
            for workers in given.workers:
                for number, (engine, way) in enumerate(ENGINES):
                    out = folder / f"{count}-{workers}-{number}"
                    rows.append(measure(recipe, out, engine, way, workers))
        if given.quickstart:
            with resources.as_file(resources.files("onnxviz") / "quickstart.yaml") as recipe:
                for number, (engine, way) in enumerate(ENGINES):
                    out = folder / f"quickstart-{number}"
                    row = measure(recipe, out, engine, way, max(given.workers))
                    rows.append([f"quickstart: {row[0]}", *row[1:]])
        head = [
            "",
            "workers",
            "jobs",
            "until the first job ended, s",
            "jobs, s",
            "ms a job",
            "after the last, s",
            "all, s",
        ]
        print(markdown(head, rows))
        ray.shutdown()


if __name__ == "__main__":
    main()
