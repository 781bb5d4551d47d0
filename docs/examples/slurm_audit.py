"""Audit many models on SLURM: one run for each model, in a folder of its own, then a comparison.

    python slurm_audit.py audit.yaml models/*.onnx --out runs --partition gpu --gpus 1
    python slurm_audit.py audit.yaml models/*.onnx --out runs --cluster local      # the same on this machine

The recipe names one model (`model: {path: ..., preprocess: ...}`), whose path is set for each run. What is done already
is kept, so the same command goes on after a time limit or a failure. The exit code is that of the worst run: 0 all
expectations hold, 1 some do not, 2 a run was refused, 3 jobs failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import submitit


def audit(recipe: str, model: str, folder: str, options: list[str]) -> int:
    """Run the recipe on one model; returns the exit code. This is what happens on the node."""
    command = [sys.executable, "-m", "onnxviz", "run", recipe, "--set", f"model.path={model}"]
    return subprocess.run([*command, "--out", folder, "--no-open", *options], check=False).returncode


def folders(models: list[Path], out: Path) -> list[Path]:
    """Return a run folder for each model, by the file's name; by its folder's too where that is not enough."""
    names = [model.stem for model in models]
    return [
        out / (name if names.count(name) == 1 else f"{model.parent.name}-{name}")
        for name, model in zip(names, models, strict=True)
    ]


def main() -> int:
    """Submit the runs as one array of jobs, wait for them, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="a folder that all nodes share")
    parser.add_argument("--cluster", choices=("slurm", "local"), help="slurm where it is found, if not given")
    parser.add_argument("--partition")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of a run")
    parser.add_argument("--cpus", type=int, default=4, help="cores of a run")
    parser.add_argument("--memory", type=float, default=16, help="GB of a run")
    parser.add_argument("--hours", type=float, default=4, help="time limit of a run")
    parser.add_argument("--together", type=int, default=64, help="runs at a time")
    parser.add_argument("--option", action="append", default=[], help="given to `onnxviz run`: --option=--workers=2")
    given = parser.parse_args()

    out = given.out.resolve()
    models = [model.resolve() for model in given.models]
    runs = folders(models, out)
    if len(set(runs)) < len(runs):
        parser.error("two models have the same name and the same folder's name")
    executor = submitit.AutoExecutor(folder=out / "submitit" / "%j", cluster=given.cluster)
    executor.update_parameters(
        name="onnxviz",
        timeout_min=int(60 * given.hours),
        cpus_per_task=given.cpus,
        mem_gb=given.memory,
        gpus_per_node=given.gpus,
        slurm_array_parallelism=given.together,
        **({"slurm_partition": given.partition} if given.partition else {}),
    )
    count = len(models)
    recipes, options = [str(given.recipe.resolve())] * count, [given.option] * count
    # One array: SLURM takes thousands of tasks of it as one job, and begins as many at a time as it may.
    jobs = executor.map_array(audit, recipes, [str(m) for m in models], [str(r) for r in runs], options)

    codes = []
    for model, job in zip(models, jobs, strict=True):
        try:
            code = job.result()
        except Exception as error:  # killed by SLURM: out of time or memory, or the node is gone
            code = 2
            print(f"{model.name}: {error}", file=sys.stderr)
        print(f"{model.name}: exit code {code}")
        codes.append(code)
    finished = [str(run) for run in runs if (run / "run.json").is_file()]
    if len(finished) > 1:
        compare = [sys.executable, "-m", "onnxviz", "compare", *finished, "--out", str(out / "comparison"), "--no-open"]
        codes.append(subprocess.run(compare, check=False).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
