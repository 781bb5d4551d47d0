"""What execution costs, and how far results depend on who executes.

Tiny jobs beyond their work, a run in which all is done, two workers against one, threads and batch sizes.

    python -m benchmarks.execution                     # all sections
    python -m benchmarks.execution overhead --jobs 10000

The tiny jobs are those of `tests/plugins/trial.py`: each draws a number from its seed. Their own work is measured by
calling the analysis without anything around it. Times are wall time of whole commands, started as a user starts them;
processor time of the command and its workers stands beside them, since that is what a busy machine leaves alone.
"""

from __future__ import annotations

import csv
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measure import ROOT, arguments, prepare

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tests" / "plugins"))

import trial
import worker_runs

SECTIONS = ("overhead", "cached", "workers", "repeatable")
PICTURES = """\
version: 1
model: {builtin: scenes}
analyses:
  channels: {kind: activation_maximization, targets: [{layer: conv6, units: 0-15}], steps: 400, batch: 1}
"""
REPEATED = """\
version: 1
model: {path: MODEL, preprocess: caffe}
data: {photos: {images: PHOTOS, limit: 4}}
analyses:
  evidence: {kind: grad_cam, data: photos, layers: all_convs, classes: "top:1"}
  classes: {kind: activation_maximization, targets: [{layer: logits, units: [9, 145]}], steps: 32}
"""


@dataclass(frozen=True)
class Taken:
    """What a command took, in seconds."""

    wall: float
    processor: float


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("sections", nargs="*", default=list(SECTIONS), help=f"some of {', '.join(SECTIONS)}")
    parser.add_argument("--jobs", type=int, default=10_000, help="tiny jobs")
    given = parser.parse_args()
    prepare(given)
    with tempfile.TemporaryDirectory(prefix="onnxviz-execution-") as folder:
        for section in given.sections:
            print(f"## {section}\n")
            globals()[section](Path(folder), given)
            print()


def command(folder: Path, recipe: Path, out: str, *options: str, **environment: str) -> Taken:
    """Run a recipe as a user does."""
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        worker_runs.command(recipe, folder / out, "--quiet", *options),
        env={**worker_runs.install(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - clock
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    return Taken(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def own_work(count: int) -> float:
    """Return the seconds that the tiny jobs take by themselves."""
    from types import SimpleNamespace

    analysis = trial.Trial(count=count)
    context = SimpleNamespace(subject=SimpleNamespace(seed=0), found={}, progress=lambda *_: None)
    jobs = list(analysis.jobs(context.subject))  # type: ignore[arg-type]
    clock = time.process_time()
    for job in jobs:
        analysis.run(job, context)  # type: ignore[arg-type]
    return time.process_time() - clock


def overhead(folder: Path, given: object) -> None:
    count = given.jobs  # type: ignore[attr-defined]
    work = own_work(count)
    print("| jobs | workers | wall s | processor s | beyond the work, ms a job: wall | processor |")
    print("|---|---|---|---|---|---|")
    for workers in ("1", "0"):
        few = command(folder, worker_runs.write_recipe(folder, "count: 10"), f"few{workers}", ONNXVIZ_WORKERS=workers)
        recipe = worker_runs.write_recipe(folder, f"count: {count}")
        many = command(folder, recipe, f"many{workers}", ONNXVIZ_WORKERS=workers)
        rest = [1000 * (getattr(many, key) - getattr(few, key) - work) / (count - 10) for key in ("wall", "processor")]
        print(f"| {count} | {workers} | {many.wall:.1f} | {many.processor:.1f} | {rest[0]:.2f} | {rest[1]:.2f} |")
    print(f"\nThe jobs' own work: {1000 * work / count:.3f} ms each.")
    again = command(folder, recipe, "many1", ONNXVIZ_WORKERS="1")
    print(f"The same run with all {count} jobs cached: {again.wall:.2f} s, {again.processor:.2f} s of processor time.")


def cached(folder: Path, given: object) -> None:
    del given
    recipe = ROOT / "recipes" / "quickstart.yaml"
    print("| recipe | first run s | all cached: wall s | processor s |\n|---|---|---|---|")
    first = command(folder, recipe, "quick")
    times = [command(folder, recipe, "quick") for _ in range(5)]
    wall, processor = (sorted(getattr(item, key) for item in times)[2] for key in ("wall", "processor"))
    print(f"| quickstart | {first.wall:.1f} | {wall:.2f} (median of 5) | {processor:.2f} |")


def workers(folder: Path, given: object) -> None:
    del given
    recipe = folder / "pictures.yaml"
    recipe.write_text(PICTURES)
    print("| workers | threads each | wall s | processor s |\n|---|---|---|---|")
    taken = {}
    for count, threads in (("1", "1"), ("1", "2"), ("2", "2")):
        each = str(max(1, int(threads) // int(count)))
        out = f"pictures-{count}-{threads}"
        taken[count, threads] = command(folder, recipe, out, ONNXVIZ_WORKERS=count, OMP_NUM_THREADS=threads)
        made = taken[count, threads]
        print(f"| {count} | {each} | {made.wall:.1f} | {made.processor:.1f} |")
    two = taken["2", "2"].wall
    print(f"\nTwo workers of one thread against one of one: {taken['1', '1'].wall / two:.2f} times as fast; "
          f"against one of two threads: {taken['1', '2'].wall / two:.2f}.")  # fmt: skip
    same = worker_runs.results_of(folder / "pictures-1-1") == worker_runs.results_of(folder / "pictures-2-2")
    print(f"Same bytes: {same}.")


def repeatable(folder: Path, given: object) -> None:
    zoo = given.zoo  # type: ignore[attr-defined]
    recipe = folder / "repeated.yaml"
    text = REPEATED.replace("MODEL", str(zoo / "zoo/onnx/squeezenet_fp16.onnx"))
    recipe.write_text(text.replace("PHOTOS", f'"{zoo}/data/imagenet_sample/*.JPEG"'))
    for name, threads in (("a", "1"), ("b", "1"), ("c", "2")):
        command(folder, recipe, f"repeat-{name}", OMP_NUM_THREADS=threads)
    a, b = (worker_runs.results_of(folder / f"repeat-{name}") for name in "ab")
    print(f"Two runs with one thread: the same bytes: {a == b}.")
    locked = folder / "repeat-a" / "recipe.lock.yaml"
    command(folder, locked, "repeat-lock", OMP_NUM_THREADS="1")
    print(f"recipe.lock.yaml: the same bytes: {worker_runs.results_of(folder / 'repeat-lock') == a}.")
    print("\n| one thread against two | largest difference, of the largest value |\n|---|---|")
    for path in sorted((folder / "repeat-a/arrays").glob("*.npz")):
        print(f"| {path.stem} | {_difference(path, folder / 'repeat-c/arrays' / path.name):.1e} |")
    for number in (0, 1):
        both = [_activations(folder / f"repeat-{name}/tables/classes-activations.csv") for name in "ac"]
        one, two = both[0][number], both[1][number]
        print(f"| activation reached by class picture {number + 1} | {abs(one - two) / abs(one):.1e} |")
    metrics = [json.loads((folder / f"repeat-{name}/run.json").read_text())["analyses"] for name in "ac"]
    numbers = [[value for item in found for value in item["parts"][0]["metrics"].values()] for found in metrics]
    print(f"| metrics | {max(abs(x - y) for x, y in zip(*numbers, strict=True)):.1e} (absolute) |")
    shutil.rmtree(folder / "repeat-lock")


def _activations(table: Path) -> list[float]:
    with table.open(encoding="utf-8-sig", newline="") as stream:
        return [float(row["after"]) for row in csv.DictReader(stream)]


def _difference(one: Path, other: Path) -> float:
    with np.load(one) as a, np.load(other) as b:
        found = [
            float(np.abs(a[name].astype(np.float64) - b[name]).max() / max(np.abs(a[name]).max(), 1e-30))
            for name in a.files
            if a[name].dtype.kind == "f" and a[name].size
        ]
    return max(found, default=0.0)


if __name__ == "__main__":
    main()
