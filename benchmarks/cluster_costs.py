"""What everything around the computing costs, measured here: the constants of `benchmarks.cluster_simulation`.

Times are those of the processor, which other work on the machine disturbs less than the clock on the wall. Each part
runs in a process of its own, so that its peak of memory is its own.

    python -m benchmarks.cluster_costs
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.measure import ROOT, machine, markdown

CHAINS = {"chain, 10 MB": (64, 70), "chain, 100 MB": (208, 64)}
"""Name -> channels and layers of networks that are nothing but 3x3 convolutions, for sizes that the zoo lacks."""
ZOO = ("cifar10_resnet20_dynamo20.onnx", "squeezenet_fp16.onnx", "coral_mobilenet_v2_1.0_224_qdq.onnx")
RECIPE = """\
version: 1
title: Costs
model: {MODEL}
analyses:
  units: {kind: activation_maximization, targets: [{layer: all_convs, units: all}], size: 224, steps: 1}
"""


def chain(path: Path, channels: int, layers: int) -> None:
    """Write a network of convolutions with random weights."""
    rng = np.random.default_rng(0)
    nodes, weights, inputs = [], [], 3
    for index in range(layers):
        values = (rng.standard_normal((channels, inputs, 3, 3)) / (9 * inputs) ** 0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{index}"))
        before = f"x{index}"
        nodes.append(helper.make_node("Conv", [before, f"w{index}"], [f"c{index}"], f"conv{index}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"x{index + 1}"], f"relu{index}"))
        inputs = channels
    nodes += [
        helper.make_node("GlobalAveragePool", [f"x{layers}"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", channels])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def memory(what: str = "VmHWM") -> float:
    """Return the peak of this process' memory in MB, or with "VmRSS" what it has now; Linux only."""
    # Not `resource`, whose peak is handed on by whoever starts a process.
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) / 1024


def timed(work: Callable[[], object]) -> tuple[float, object]:
    before = time.process_time()
    made = work()
    return time.process_time() - before, made


# --- parts, each run in a process of its own --------------------------------------------------------------------------


def model_part(model: str) -> dict[str, float]:
    """Plan a recipe for a model, convert it and prove its layers."""
    before = time.process_time()
    from onnxviz.execution.plan import make_plan
    from onnxviz.recipe.recipe import parse_recipe

    recipe = parse_recipe(RECIPE.replace("MODEL", model), "costs.yaml", Path.cwd())
    found = {"import_s": time.process_time() - before}
    rest = memory("VmRSS")
    found["plan_s"], plan = timed(lambda: make_plan(recipe, "cpu"))
    found["plan_kept_mb"] = memory("VmRSS") - rest
    found["jobs"], found["plan_peak_mb"] = len(plan.jobs), memory()  # type: ignore[attr-defined]
    subject, check = plan.subjects["model"], plan.parity_checks["model"]  # type: ignore[attr-defined]
    before = time.process_time()
    from onnxviz.execution.parity_job import measure_agreement
    from onnxviz.execution.workers.torch_setup import make_model, prepare_torch

    prepare_torch("cpu")
    found["torch_s"] = time.process_time() - before
    found["convert_s"], converted = timed(lambda: make_model(subject, "cpu"))
    found["prove_s"], (_, errors) = timed(lambda: measure_agreement(converted, subject, check))  # type: ignore[misc]
    found["unproved"] = len(errors)
    found["peak_mb"] = memory()
    return found


def schedule_part(count: int) -> dict[str, float]:
    """Encode, send, decode and keep a schedule of many jobs of one picture each."""
    from onnxviz.execution.dispatch import Item
    from onnxviz.execution.plan import make_plan
    from onnxviz.execution.store import key_of
    from onnxviz.execution.workers.messages import from_line, to_line
    from onnxviz.execution.workers.tasks import Said, Task
    from onnxviz.recipe.recipe import parse_recipe

    recipe = parse_recipe(RECIPE.replace("MODEL", "builtin: scenes"), "costs.yaml", Path.cwd())
    schedule = make_plan(recipe, "cpu")
    first = schedule.jobs[-1]  # of one picture; the first is of all units
    jobs = tuple(
        replace(first, key=key_of({"n": n}), job=replace(first.job, name=f"{first.job.name} {n}")) for n in range(count)
    )
    longer = replace(schedule, jobs=jobs)
    encode, text = timed(lambda: to_line(Said(schedule=longer)))
    decode, _ = timed(lambda: from_line(Said, text))  # type: ignore[arg-type]
    tracemalloc.start()
    kept = from_line(Said, text).schedule  # type: ignore[arg-type]
    size = tracemalloc.get_traced_memory()[0]
    items = [Item(f"{job.name}", job.alias, 1.0, lambda _, job=job: Task(job), _ignore) for job in kept.jobs]  # type: ignore[misc]
    item_size = tracemalloc.get_traced_memory()[0] - size
    assert len(items) == count
    assert len(kept.jobs) == count
    return {
        "bytes_per_job": len(text) / count,  # type: ignore[arg-type]
        "encode_s": encode / count,
        "decode_s": decode / count,
        "kept_bytes_per_job": size / count,
        "item_bytes": item_size / count,
    }


def _ignore(*_: object) -> None:
    """What an item is told at its end."""


def store_part(count: int) -> dict[str, float]:
    """Store results of one picture each, as jobs do, and look at them, as the parent does."""
    from onnxviz.core.findings import Column, Metric, Picture, Table, Tile, TileGrid
    from onnxviz.execution.store import Checked, Store, key_of

    rng = np.random.default_rng(0)
    # Noise at the scale of optimised pictures: smooth, so that JPEG has about as much to do as with them.
    small = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
    pixels = np.kron(small, np.ones((8, 8, 1), np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        keys = [key_of({"n": n}) for n in range(count)]
        grid = TileGrid("p", "P", (Tile("unit", pictures=(Picture(pixels, format="jpeg"),), curve=(0.5,) * 32),))
        found = [grid, Metric("m", 0.5), Table("t", "T", (Column("a", "number"),), ((0.5,),))]
        wall = time.monotonic()
        save, _ = timed(lambda: [store.save(key, found, {}) for key in keys])
        wall = time.monotonic() - wall
        checked = Checked(store, 10_000)
        note, _ = timed(lambda: [checked.note(key) for key in keys])
        write, _ = timed(checked.write)
        listing, _ = timed(store.stored_keys)
        load, _ = timed(lambda: [store.load(key) for key in keys[: min(count, 2000)]])
    return {
        "save_s": save / count,
        "save_wall_s": wall / count,
        "note_s": (note + write) / count,
        "list_s": listing / count,
        "load_s": load / min(count, 2000),
    }


def report_part(count: int) -> dict[str, float]:
    """Write run.json and the page of a run with many units, each with a picture, a curve and facts."""
    from onnxviz import report
    from onnxviz.core.findings import TileGrid
    from onnxviz.execution.execute import run
    from onnxviz.execution.folder import write_run
    from onnxviz.recipe.recipe import parse_recipe

    text = RECIPE.replace("MODEL", "builtin: scenes").replace("all_convs", "conv2").replace("units: all", "units: [0]")
    text = text.replace("steps: 1", "steps: 32")
    with tempfile.TemporaryDirectory() as folder:
        made = run(parse_recipe(text, "costs.yaml", Path(folder)), Path(folder) / "run", device="cpu", workers=0)
        (analysis,) = made.result.analyses
        (part,) = analysis.parts
        pictures = list((Path(folder) / "run" / "jobs").rglob("*.jpg"))
        grids = tuple(
            replace(item, tiles=item.tiles * count)
            if isinstance(item, TileGrid)
            else replace(item, rows=item.rows * count)
            for item in part.findings
            if hasattr(item, "tiles") or hasattr(item, "rows")
        )
        result = replace(made.result, analyses=(replace(analysis, parts=(replace(part, findings=grids),)),))
        before = memory()
        write, result = timed(lambda: write_run(result, made.folder))  # type: ignore[assignment]
        page, path = timed(lambda: report.write_report(result, made.folder))
        return {
            "picture_bytes": sum(item.stat().st_size for item in pictures) / max(1, len(pictures)),
            "write_s": write / count,
            "page_s": page / count,
            "run_bytes": (made.folder / "run.json").stat().st_size / count,
            "page_bytes": sum(f.stat().st_size for f in Path(path).parent.rglob("*.html")) / count,  # type: ignore[arg-type]
            "peak_bytes": max(0.0, memory() - before) * 2**20 / count,
        }


def trial_run(count: int, workers: int = 1, seconds: float = 0.0) -> dict[str, float]:
    """Run jobs that do nothing, or sleep, in worker processes; what the parent's processor does for each.

    Args:
        count: how many.
        workers: processes.
        seconds: that each job sleeps.
    """
    from onnxviz.execution.execute import run_file
    from onnxviz.execution.observer import Observer

    ends: list[tuple[float, float]] = []

    class Clock(Observer):
        def finished(self, *_: object) -> None:
            """Note the times."""
            ends.append((time.process_time(), time.monotonic()))

    sys.path.insert(0, str(ROOT / "tests"))
    import worker_runs

    before = os.environ.get("PYTHONPATH")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["PYTHONPATH"] = worker_runs.install(folder)["PYTHONPATH"]
        sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
        try:
            recipe = worker_runs.write_recipe(folder, f"count: {count}, seconds: {seconds}")
            begun = time.monotonic()
            run_file(recipe, folder / "run", device="cpu", workers=workers, observer=Clock())
            ended = time.monotonic()
        finally:
            del sys.path[: len(os.environ["PYTHONPATH"].split(os.pathsep)) + 1]
            os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    (first_cpu, first), (last_cpu, last) = ends[0], ends[-1]
    return {
        "parent_s": (last_cpu - first_cpu) / (count - 1),
        "job_wall_s": (last - first) / (count - 1),
        "start_wall_s": first - begun,
        "end_wall_s": ended - last,
    }


PARTS: dict[str, Callable[..., dict[str, float]]] = {
    "model": model_part,
    "schedule": lambda count: schedule_part(int(count)),
    "store": lambda count: store_part(int(count)),
    "report": lambda count: report_part(int(count)),
    "tiny": lambda count: trial_run(int(count)),
}


def apart(part: str, argument: str) -> dict[str, float]:
    """Measure a part in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cluster_costs", "--part", part, argument],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise SystemExit(f"{part} {argument}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs=2, metavar=("NAME", "ARGUMENT"), help=argparse.SUPPRESS)
    parser.add_argument("--zoo", type=Path, default=Path(os.environ.get("ONNXVIZ_ZOO", ROOT.parent / "shared")))
    parser.add_argument("--out", type=Path, help="write the figures as JSON, for the simulation")
    given = parser.parse_args()
    if given.part:
        print(json.dumps(PARTS[given.part[0]](given.part[1])))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(f"{machine()}; load of the machine before: {os.getloadavg()[0]:.1f}\n")
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = {"builtin scenes": ("builtin: scenes", 0.0)}
        for name in ZOO:
            path = given.zoo / "zoo" / "onnx" / name
            if path.is_file():
                models[name] = (f"path: {path}, preprocess: imagenet", path.stat().st_size / 1e6)
        for name, (channels, layers) in CHAINS.items():
            path = Path(folder) / f"{channels}.onnx"
            chain(path, channels, layers)
            models[name] = (f"path: {path}, preprocess: imagenet", path.stat().st_size / 1e6)
        rows = []
        for name, (text, size) in models.items():
            found[name] = measured = {"mb": size, **apart("model", text)}
            rows.append([name, f"{size:.1f}", *(f"{measured[key]:.4g}" for key in list(measured)[1:])])
            head = list(measured)
    print(markdown(["model", *head], rows), "\n")
    parts = [("schedule", "2000"), ("schedule", "20000"), ("store", "1000"), ("store", "20000"), ("report", "500")]
    parts += [("report", "5000"), ("report", "20000"), ("tiny", "200"), ("tiny", "2000")]
    for part, argument in parts:
        found[f"{part} {argument}"] = measured = apart(part, argument)
        print(f"{part} {argument}: " + ", ".join(f"{name} {value:.4g}" for name, value in measured.items()), flush=True)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
