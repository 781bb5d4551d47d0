"""Checks of worker processes that need CUDA: confinement with the driver, memory, and the same results as in process.

    python -m benchmarks.gpu_execution --out runs/gpu-execution

Prints one line for each check and ends with 1 if one does not hold. It needs a GPU and nothing but the repository.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT

sys.path.insert(0, str(ROOT / "tests"))

import worker_runs

RECIPE = """\
version: 1
model: {builtin: scenes}
data: {scenes: {builtin: scenes, count: 40}}
analyses:
  filters: {kind: weights, layers: all_convs}
  evidence: {kind: grad_cam, data: scenes, classes: "top:2", limit: 8}
  classes: {kind: activation_maximization, targets: [{layer: logits, units: all}], steps: 64}
  concepts: {kind: dissection, data: scenes}
"""
LARGE = """\
version: 1
model: {builtin: scenes}
analyses:
  large: {kind: activation_maximization, targets: [{layer: conv1, units: all}], steps: 4, size: 2048, batch: 256}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    out = parser.parse_args().out.absolute()
    out.mkdir(parents=True)
    broken = [check.__name__ for check in (confined, same_bytes, dies, fills_the_memory) if not _holds(check, out)]
    sys.exit(1 if broken else 0)


def _holds(check: Callable[[Path], str], out: Path) -> bool:
    try:
        print(f"holds   {check.__name__}: {check(out)}", flush=True)
    except AssertionError as error:
        print(f"BROKEN  {check.__name__}: {error}", flush=True)
        return False
    return True


def _run(out: Path, text: str, name: str, *options: str, workers: str = "1") -> Any:
    recipe = out / f"{name}.yaml"
    recipe.write_text(text)
    done = worker_runs.run(out, recipe, "--device", "cuda", *options, out=name, timeout=550, ONNXVIZ_WORKERS=workers)
    assert done.returncode in (0, 3), done.stderr[-2000:]
    return json.loads((out / name / "run.json").read_text())


def confined(out: Path) -> str:
    """The driver works in a process that is confined."""
    told = _run(out, RECIPE, "confined")
    failed = [job for item in told["analyses"] for job in item["parts"][0]["failed"]]
    assert not failed, failed
    active = [item["name"] for item in told["provenance"]["defences"] if item["active"]]
    assert {"files", "network", "processes"} <= set(active), told["provenance"]["defences"]
    return f"{told['provenance']['device']}; closed: {', '.join(active)}; {told['provenance']['seconds']} s"


def same_bytes(out: Path) -> str:
    """A worker, and this process, give the same results."""
    _run(out, RECIPE, "inside", workers="0")
    one, other = (worker_runs.results_of(out / name) for name in ("confined", "inside"))
    differing = [name for name in one if one[name] != other.get(name)]
    assert not differing, f"{len(differing)} of {len(one)} files differ: {differing[:3]}"
    return f"{len(one)} files are the same"


def dies(out: Path) -> str:
    """A worker that is killed is replaced on the same device."""
    recipe = worker_runs.write_recipe(out, "count: 3, trouble: killed, times: 1")
    done = worker_runs.run(out, recipe, "--device", "cuda", out="dies")
    assert done.returncode == 0, done.stdout + done.stderr
    return "; ".join(worker_runs.provenance(out, "dies")["events"])


def fills_the_memory(out: Path) -> str:
    """Pictures that do not fit together are made in smaller batches."""
    told = _run(out, LARGE, "large")
    failed = [job for item in told["analyses"] for job in item["parts"][0]["failed"]]
    assert not failed, failed
    return "; ".join(told["provenance"]["events"]) or "all fitted"


if __name__ == "__main__":
    main()
