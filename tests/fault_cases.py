"""Everything that goes wrong with runs on purpose: disks, memory, images, files that change, models of an attacker."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hostile_models as attacks
import numpy as np
from fault_runs import Begun, Row, check, children, failed_jobs, leftovers, run, told, wait_for
from faulty_images import (
    BAD_MASKS,
    GOOD,
    KINDS,
    LATE_MASKS,
    Pixels,
    add_mask,
    png,
    write_concepts,
    write_photographs,
)
from hostile_models import Build
from worker_runs import PATIENCE, results_of, write_recipe

from onnxviz.data import builtin
from onnxviz.execution.execute import run_file
from onnxviz.execution.store import CHECKED

KILL_RECIPES = {"trial": "jobs that need each other", "real": "weights, class images, Grad-CAM, dissection"}
REAL = """\
version: 1
title: Real
model: {builtin: scenes}
data: {scenes: {builtin: scenes, count: 10}}
analyses:
  filters: {kind: weights, layers: first_conv}
  classes: {kind: activation_maximization, targets: [{layer: logits, units: 0-2}], size: 48, steps: 3}
  evidence: {kind: grad_cam, layers: all_convs, data: scenes, classes: "top:1", limit: 3}
  concepts: {kind: dissection, layers: last_conv, data: scenes}
"""


def write(folder: Path, text: str) -> Path:
    """Write a recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def write_kill_recipes(folder: Path) -> dict[str, Path]:
    """Write the recipes of runs in which something is killed."""
    (folder / "trial").mkdir(parents=True)
    jobs = (
        "count: 5, size: 8, seconds: 0.1, chain: true", "count: 6, size: 30, seconds: 0.05", "count: 20", "count: 3"
    )  # fmt: skip
    return {"trial": write_recipe(folder / "trial", *jobs), "real": write(folder / "real", REAL)}


# --- disks ------------------------------------------------------------------------------------------------------------


def write_disk_recipe(work: Path) -> tuple[Path, Path]:
    """Write a recipe with results of some size; return it, and where it was run undisturbed."""
    work.mkdir(parents=True, exist_ok=True)
    recipe, calm = (
        write_recipe(work, "count: 4, size: 120, seconds: 0.1, chain: true", "count: 3, size: 30"),
        work / "calm",
    )
    assert run(recipe, calm, 0).code == 0
    return recipe, calm


_MADE_LAST = {"tables", "arrays", "report", "run.json", "recipe.lock.yaml", "log.txt", CHECKED}


def full_disk(work: Path, recipe: Path, calm: Path, levels: int) -> Row:
    """Run on disks of different sizes, none of which suffices, then with more room."""
    row, disk = Row("disk full, at different moments"), work / "disk"
    disk.mkdir(parents=True)
    if os.geteuid() != 0 or _mount(disk, "size=1m"):
        row.remarks["no disk can be mounted by this user: not tried"] += 1
        return row
    subprocess.run(["umount", "-l", str(disk)], check=False)
    for level in range(levels):
        # With all jobs done before, it strikes when the parent writes tables, run.json and the report.
        share, done = (level // 2 + 0.5) / (levels / 2), level % 2 == 1
        size = int(_room(calm / "jobs") + share * (_room(calm) - _room(calm / "jobs")) if done else share * _room(calm))
        _mount(disk, f"size={size // 4096 * 4096}" + (",nr_inodes=24" if level == levels // 4 * 2 else ""))
        try:
            if done:
                shutil.copytree(calm, disk / "run", ignore=lambda *_: _MADE_LAST)
            _on_a_full_disk(row, recipe, disk, calm, f"{share:.0%} of the room{', jobs done' * done}")
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=False)
    return row


def _room(folder: Path) -> int:
    """Return the bytes that a folder takes on a disk of pages, links once."""
    found = {path.stat().st_ino: -(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file()}
    return sum(found.values())


def _on_a_full_disk(row: Row, recipe: Path, disk: Path, calm: Path, what: str) -> None:
    row.runs += 1
    done = run(recipe, disk / "run")
    if done.code == 0:
        row.remarks["had room"] += 1
    else:
        check(row, done, (2,))
        row.expect_named("No space left on device", done.said, what)
        place = done.said.split("/disk/run")[-1].split(":")[0].strip("/").split("/")[0]
        row.remarks[f"in {'the log or a temporary file' if not place or place.startswith('.') else place}"] += 1
    subprocess.run(["mount", "-o", "remount,size=64m,nr_inodes=10000", str(disk)], check=True)
    check(row, run(recipe, disk / "run"), (0,))
    row.compare(disk / "run", calm, what)
    row.expect(not leftovers(disk / "run"), f"{what}: left {leftovers(disk / 'run')}")


def _mount(folder: Path, options: str) -> int:
    return subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False, stderr=subprocess.DEVNULL
    ).returncode


def small_files(work: Path, recipe: Path, calm: Path, levels: int) -> Row:
    """Run with a bound on the size of files, for the parent too, then without."""
    row = Row("files bounded by the system (RLIMIT_FSIZE)")
    # Large ones only: what the command prints goes to a file too, here.
    sizes = sorted(
        {path.stat().st_size for path in calm.rglob("*") if path.is_file() and path.stat().st_size > 1 << 13}
    )
    for level in range(levels):
        row.runs += 1
        bound = sizes[int((level + 0.5) / levels * len(sizes))] - 1
        out = work / f"run-{level}"

        def bind(bound: int = bound) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (bound, resource.RLIM_INFINITY))

        done = run(recipe, out, preexec_fn=bind)
        check(row, done, (2,))
        row.expect_named("File too large", done.said, f"{bound} bytes")
        check(row, run(recipe, out), (0,))
        row.compare(out, calm, f"{bound} bytes")
    return row


# --- memory -----------------------------------------------------------------------------------------------------------

SQUEEZENET = """\
version: 1
title: Memory
model: {{path: {zoo}/zoo/onnx/squeezenet_fp16.onnx, preprocess: caffe}}
data:
  photos: {{images: {zoo}/data/imagenet_sample, limit: 24}}
  streets: {{concepts: {zoo}/data/camvid, limit: 12}}
limits: {{memory: {memory}}}
analyses:
  classes: {{kind: activation_maximization, targets: [{{layer: logits, units: 0-1}}], seeds: 8, size: 224, steps: 2}}
  evidence: {{kind: grad_cam, layers: all_convs, data: photos, classes: "top:12", limit: 1}}
  concepts: {{kind: dissection, layers: "fire2*concat*", data: streets}}
"""
MEMORIES = ("900MiB", "720MiB", "660MiB", "600MiB", "520MiB", "300MiB")
TOLERANCE = 2e-3
"""Of numbers of smaller batches, relative to the largest of a column: optimisation amplifies the last digits."""


def little_memory(work: Path, zoo: Path, memories: tuple[str, ...] = MEMORIES) -> Iterator[Row]:
    """Run a real network under limits on memory, from ample to hopeless."""
    if not (zoo / "zoo").is_dir():
        yield Row("memory of a worker limited; no real models: not tried")
        return
    calm = work / "calm"
    ample = run(write(work, SQUEEZENET.format(zoo=zoo, memory="8GiB")), calm)
    assert ample.code == 0, ample.said
    wanted = _numbers(calm)
    for memory in memories:
        row, out = Row(f"memory of a worker limited to {memory}", runs=1), work / memory
        done = run(write(work, SQUEEZENET.format(zoo=zoo, memory=memory)), out)
        check(row, done, (0, 2, 3))
        if done.code == 2:
            row.expect_named("memory", done.said)
            row.remarks["refused before anything ran"] += 1
            yield row
            continue
        errors, report = failed_jobs(out), told(out)
        row.remarks["jobs that failed"] += len(errors)
        for error in errors:
            row.expect_named("memory", error)
        smaller = report.count("at a time instead of") + report.count("with half the batch")
        row.remarks["events that tell of smaller batches"] += smaller
        found = _numbers(out)
        row.expect(errors != [] or wanted.keys() == found.keys(), "tables are missing, and nothing failed")
        worst = max((_apart(found[name], wanted[name]) for name in found.keys() & wanted.keys()), default=0.0)
        row.wrong += worst > TOLERANCE
        row.remarks[f"columns compared, the worst {worst:.1g} apart"] += len(found.keys() & wanted.keys())
        yield row


def _numbers(folder: Path) -> dict[str, np.ndarray]:
    """Return the columns of numbers of whatever was found in full, by analysis and table."""
    found: dict[str, np.ndarray] = {}
    for analysis in json.loads((folder / "run.json").read_text())["analyses"]:
        if analysis["parts"][0]["failed"]:
            continue
        for finding in analysis["parts"][0]["findings"]:
            if finding["type"] != "Table":
                continue
            for place, column in enumerate(finding["columns"]):
                values = [row[place] for row in finding["rows"]]
                if values and all(isinstance(value, int | float) for value in values):
                    name = f"{analysis['id']}/{finding['id']}/{column['name']}"
                    found[name] = np.asarray(values, np.float64)
    return found


def _apart(found: np.ndarray, wanted: np.ndarray) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    return float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-12))


# --- images -----------------------------------------------------------------------------------------------------------

ON_IMAGES = """\
version: 1
title: Images
model: {builtin: scenes}
data: {photos: {images: photos}}
analyses:
  evidence: {kind: grad_cam, layers: last_conv, data: photos, classes: "top:1"}
"""
ON_MASKS = """\
version: 1
title: Masks
model: {builtin: scenes}
data: {marked: {concepts: marked}}
analyses:
  concepts: {kind: dissection, layers: last_conv, data: marked}
"""


def pictures(count: int = 4, seed: int = 3) -> tuple[list[Pixels], list[np.ndarray], list[str]]:
    """Return generated scenes, masks of them, and the names of the masks' values."""
    scenes = builtin.scenes(count=count, seed=seed, size=64)
    masks = [scenes.read_labels(index)[0].astype(np.uint8) for index in range(count)]
    names = ["void", *(concept.name for concept in scenes.concepts)]
    return [scenes.read(index) for index in range(count)], masks, names


def odd_images(work: Path) -> Row:
    """Run on a folder with files of every odd kind, and on what they stand for as plain pictures."""
    row = Row("images: " + ", ".join(name.rsplit(".", 1)[0] if "called" not in name else name for name in KINDS))
    odd, plain = write(work / "odd", ON_IMAGES), write(work / "plain", ON_IMAGES)
    write_photographs(odd.parent / "photos", plain.parent / "photos", pictures()[0])
    for recipe in (odd, plain):
        verdict = run_file(recipe, recipe.parent / "run", workers=0).result.verdict
        row.expect(verdict == "finished", verdict)
    row.runs += len(KINDS)
    report = json.loads((odd.parent / "run/run.json").read_text())["data"][0]
    for name, kind in KINDS.items():
        if kind.reason or kind.remark:
            listed = dict(report["skipped" if kind.reason else "notes"])
            row.expect_named(kind.reason or kind.remark, listed.get(name, "nothing"), name)
        row.expect((kind.seen is not None) == (name not in dict(report["skipped"])), f"{name}: used or not")
    row.remarks["kinds used, the same as plain pictures"] += sum(kind.seen is not None for kind in KINDS.values())
    row.remarks["kinds left out"] += sum(kind.seen is None for kind in KINDS.values())
    for table in (plain.parent / "run/tables").glob("*.csv"):
        other = odd.parent / "run/tables" / table.name
        row.lost += not other.exists()
        row.wrong += other.exists() and other.read_bytes() != table.read_bytes()
        row.expect(all(name in table.read_text() for name in GOOD), f"{table.name} lacks images")
    inspected = subprocess.run(
        [sys.executable, "-m", "onnxviz", "inspect", str(builtin.MODELS["scenes"].path), "--images", "odd/photos"],
        cwd=work,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    row.expect(inspected.returncode in (0, 3), f"inspect: {inspected.stderr}")
    for name, kind in KINDS.items():
        if kind.reason:
            row.expect_named(kind.reason, "".join(line for line in inspected.stdout.splitlines() if name in line), name)
    return row


def odd_masks(work: Path) -> Row:
    """Dissect with masks that are none."""
    row = Row("masks: " + ", ".join(name.removeprefix("mask-") for name in BAD_MASKS), runs=len(BAD_MASKS))
    recipe, calm = write(work / "odd", ON_MASKS), write(work / "plain", ON_MASKS)
    scenes, masks, names = pictures(8)
    for path in (recipe, calm):
        write_concepts(path.parent / "marked", scenes, masks, names)
    for name in BAD_MASKS:
        (calm.parent / f"marked/images/{name}.png").unlink()
    for path in (recipe, calm):
        verdict = run_file(path, path.parent / "run", workers=0).result.verdict
        row.expect(verdict == "finished", verdict)
    skipped = dict(json.loads((recipe.parent / "run/run.json").read_text())["data"][0]["skipped"])
    for name, (_, reason) in BAD_MASKS.items():
        row.expect_named(reason, skipped.get(f"{name}.png", "nothing"), name)
    for table in (calm.parent / "run/tables").glob("*.csv"):
        row.wrong += (recipe.parent / "run/tables" / table.name).read_bytes() != table.read_bytes()
    return row


def late_masks(work: Path, names: tuple[str, ...] = tuple(LATE_MASKS)) -> Iterator[Row]:
    """Dissect with masks whose fault is found only when they are read: the job fails and names the file.

    There are more masks than are looked at before, and the faulty one is the last.
    """
    scenes, masks, values = pictures(30)
    for name in names:
        row, recipe = Row(f"masks: {name.removeprefix('mask-')}", runs=1), write(work / name, ON_MASKS)
        write_concepts(recipe.parent / "marked", scenes, masks, values)
        build, reason = LATE_MASKS[name]
        add_mask(recipe.parent / "marked", name, scenes[0], build(masks[0]))
        verdict = run_file(recipe, recipe.parent / "run", workers=0).result.verdict
        row.expect(verdict == "incomplete", verdict)
        errors = " ".join(failed_jobs(recipe.parent / "run"))
        row.expect_named(reason, errors)
        row.expect(name in errors, f"the file is not named: {errors}")
        yield row


# --- files that change while a run goes on ----------------------------------------------------------------------------


def _replace(path: Path, content: bytes | None) -> None:
    """Put other bytes in a file's place at once, with the same time of change; remove it if there are none."""
    if content is None:
        path.unlink()
        return
    status = path.stat()
    new = path.with_name("new.tmp")
    new.write_bytes(content)
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.replace(path)


def _other_picture(folder: Path) -> None:
    _replace(folder / "photos/2.png", png(pictures(1, seed=9)[0][0]))


def _other_model(folder: Path) -> None:
    import onnx
    from onnx import numpy_helper

    proto = onnx.load(folder / "m.onnx")
    tensor = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 4)
    tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    _replace(folder / "m.onnx", proto.SerializeToString())


def _other_mask(folder: Path) -> None:
    _replace(folder / "marked/labels/good-2.png", png(np.roll(pictures(4)[1][2], 20, axis=1)))


def _other_labels(folder: Path) -> None:
    names = (folder / "labels.txt").read_text().splitlines()
    _replace(folder / "labels.txt", "\n".join([names[-1], *names[:-1]]).encode())


CHANGES: dict[str, tuple[Callable[[Path], None], bool, str]] = {
    "an image replaced": (_other_picture, False, "2.png"),
    "an image emptied": (lambda folder: _replace(folder / "photos/2.png", b""), False, "2.png"),
    "an image removed": (lambda folder: _replace(folder / "photos/2.png", None), False, "2.png"),
    "a mask replaced": (_other_mask, False, "good-2.png"),
    "an image replaced, then the worker killed": (_other_picture, True, "data 'photos'"),
    "an image removed, then the worker killed": (
        lambda folder: _replace(folder / "photos/2.png", None), True, "data 'photos'",
    ),
    "the model replaced": (_other_model, False, ""),
    "the model replaced, then the worker killed": (_other_model, True, "model 'model'"),
    "the class names replaced, then the worker killed": (_other_labels, True, "labels of model 'model'"),
}  # fmt: skip
"""What changes -> how, whether the worker is killed afterwards, and what the failed job must name."""
ON_FILES = """\
version: 1
title: Files
model: {path: m.onnx, labels: labels.txt, preprocess: {channel_order: RGB, mean: 0, scale: 255}}
data: {photos: {images: photos}, marked: {concepts: marked}}
analyses:
  first: {kind: trial, count: 1, seconds: 2.0}
  evidence: {kind: grad_cam, layers: last_conv, data: photos, classes: "top:1"}
  concepts: {kind: dissection, layers: last_conv, data: marked}
"""


def changed_files(work: Path, name: str) -> Row:
    """Change a file that a run reads, after it was planned and before its jobs: nothing is stored under its old key."""
    change, killed, named = CHANGES[name]
    row = Row(f"while a run goes on: {name}", runs=1)
    recipe = write(work, ON_FILES)
    scenes, masks, values = pictures(4)
    shutil.copy(builtin.MODELS["scenes"].path, work / "m.onnx")
    (work / "labels.txt").write_text("\n".join(builtin.MODELS["scenes"].labels))
    (work / "photos").mkdir()
    for index, pixels in enumerate(scenes):
        (work / f"photos/{index}.png").write_bytes(png(pixels))
    write_concepts(work / "marked", scenes, masks, values)
    before, after, out = work / "before", work / "after", work / "run"
    check(row, run(recipe, before, 0), (0,))
    begun, log = Begun(recipe, out, 1), out / "log.txt"
    row.expect(wait_for(lambda: log.exists() and "first/0 begins" in log.read_text()), "the first job never began")
    change(work)
    if killed:
        for pid in children(begun.process.pid):
            os.kill(pid, signal.SIGKILL)
    done = begun.ended()
    check(row, done, (3,) if named else (0,))
    if named:
        errors = failed_jobs(out)
        row.expect(bool(errors), "no job failed")
        row.remarks["jobs failed"] += len(errors)
        for error in errors:
            row.expect_named(named, error)
    for file, content in results_of(before).items():
        if file.startswith("jobs/") and (out / file).exists() and (out / file).read_bytes() != content:
            row.wrong += 1
            row.faults.append(f"{name}: {file} is no result of its key")
    check(row, run(recipe, out), (0,))
    check(row, run(recipe, after, 0), (0,))
    row.compare(out, after, also=before)
    return row


# --- models of an attacker --------------------------------------------------------------------------------------------

ON_STRANGERS = """\
version: 1
title: Strangers
limits: {memory: 2GiB, job_seconds: 20}
models:
"""
ON_STRANGERS_END = """\
analyses:
  pictures: {kind: activation_maximization, targets: [{layer: "*"}], steps: 1, size: 8}
"""
PARENT_BYTES = 400 << 20
"""Most that the parent may take, which never opens a model."""
TOGETHER = 12
"""Models of one recipe; those that are refused are taken out, and the others run."""


def hostile() -> dict[str, dict[str, Build]]:
    """Return all hostile models by kind."""
    names = {repr(name)[:40] + str(index): name for index, name in enumerate(attacks.NAMES)}
    return {
        "bombs": attacks.BOMBS,
        "sizes": attacks.SIZES,
        "attributes": attacks.ATTRIBUTES,
        "graphs": attacks.GRAPHS,
        "names": {key: (lambda name=name: attacks.named(name).SerializeToString()) for key, name in names.items()},
    }


def hostile_models(work: Path, kind: str, builds: dict[str, Build]) -> Row:
    """Run models of an attacker under limits, several in one recipe; a refused one is taken out, the others go on."""
    row = Row(f"hostile models: {kind} (2 GiB, 20 s a job)")
    work.mkdir(parents=True)
    files: dict[str, Path] = {}
    for index, (name, build) in enumerate(builds.items()):
        files[name] = work / f"{index}.onnx"
        files[name].write_bytes(build())
    before = set(work.iterdir())
    waiting = [list(files)[start : start + TOGETHER] for start in range(0, len(files), TOGETHER)]
    while waiting:
        waiting = [*_attack(row, work, files, waiting[0]), *waiting[1:]]
    stray = {path.name for path in work.iterdir()} - {path.name for path in before}
    row.expect(stray <= {"recipe.yaml", "plugin", "run"}, f"wrote {stray}")
    return row


def _attack(row: Row, work: Path, files: dict[str, Path], names: list[str]) -> list[list[str]]:
    """Run some; returns those that are to be run again, in other company."""
    lines = "".join(f"  m{files[name].stem}: {{path: {files[name].name}}}\n" for name in names)
    recipe = write(work, ON_STRANGERS + lines + ON_STRANGERS_END)
    shutil.rmtree(work / "run", ignore_errors=True)
    begun = Begun(recipe, work / "run", 1)
    while begun.goes_on():
        time.sleep(0.05)
    done = begun.ended()
    row.expect(begun.peak < PARENT_BYTES, f"the parent took {begun.peak >> 20} MiB")
    check(row, done, (0, 1, 2, 3))
    if done.code == 2:
        refused = [name for name in names if _is_named(files[name], done.said)]
        if len(names) == 1:
            row.runs += 1
            limited = re.search(r"limit|the process that reads", done.said)
            row.expect_named("limit" if limited else "recipe.yaml:", done.said, names[0])
            row.remarks["ended by a limit while read" if limited else "refused"] += 1
            return []
        if refused:
            row.runs += len(refused)
            row.owed += len(refused)
            row.named += len(refused)
            row.remarks["refused"] += len(refused)
            rest = [name for name in names if name not in refused]
            return [rest] if rest else []
        return [names[: len(names) // 2], names[len(names) // 2 :]]
    row.runs += len(names)
    for part in json.loads((work / "run/run.json").read_text())["analyses"][0]["parts"]:
        errors = [job["error"] for job in part["failed"]]
        row.remarks["ran, all jobs done" if not errors else "ran, jobs failed by name"] += 1
        for error in errors:
            row.owed += 1
            row.named += bool(error.strip())
            row.expect(bool(error.strip()), f"{part['model']}: a job failed without a cause")
            row.remarks["causes in the words of Python only"] += "the full traceback is in log.txt" in error
    return []


def _is_named(file: Path, said: str) -> bool:
    """Whether a message is about a model; the recipe's line that it quotes below does not count."""
    lines = [line for line in said.splitlines() if not line.startswith("    ")]
    return any(re.search(rf"(?<!\w)({re.escape(file.name)}|m{file.stem})(?!\w)", line) for line in lines)
