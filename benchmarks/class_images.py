"""How a network that took no part in the optimization reads class images: ours by preset, and Lucent's.

    OMP_NUM_THREADS=1 python -m benchmarks.class_images --presets default lucent --out runs/classes

For each model, preset and class an image is made of the class logit, rounded to 8 bits, enlarged or reduced to the
judge's size and shown to the judge, which ONNX Runtime runs. The classes are every twentieth of ImageNet's by default,
0, 20, ... 980: a list that nobody has chosen by what comes out. Presets:

- NAME: the activation_maximization analysis of `recipes/NAME.yaml` or `recipes/presets/NAME.yaml`, FILE.yaml that of
  the file; with `:ID` where a recipe has several. Taken is everything but targets, steps, size and seeds.
- default: an analysis that says nothing but its targets.
- lucent: `render_vis` with its defaults (128 pixels asked for, seen at 224) on the same weights; lucent_224: the same
  with 224 pixels asked for.

`--out` is a folder: results.jsonl gets one line for each image, so that an interrupted sweep goes on where it was; the
pictures lie in a folder for each model and preset, with a contact sheet beside it to look at: a preset that convinces
the judge with noise is no progress. With another `--judge`, images that are there are only judged. A preset that says
something else, by its file or by `--set`, is another preset; after changes of the code take another folder.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image, ImageDraw

from benchmarks.lucent_peer import SIDE, class_image
from benchmarks.measure import ROOT, arguments, markdown, prepare
from onnxviz.analyses.base import Analysis, JobContext, Subject
from onnxviz.core.errors import OnnxvizError
from onnxviz.core.findings import Array
from onnxviz.model.model import Model, load
from onnxviz.recipe.recipe import parse_recipe, read_recipe

MODELS = {
    "squeezenet": ("squeezenet_fp16.onnx", "caffe"),
    "mobilenet": ("stm_mobilenet_v1_0.25_224_imagenet.onnx", "tf"),
}
"""Short name -> file and preprocessing of the models whose class images are made."""
JUDGE, OFFSET = "coral_mobilenet_v2_1.0_224_qdq.onnx", 1
LABELS = "imagenet_1000.txt"
LUCENT = {"lucent": SIDE, "lucent_224": 224}
KIND = "activation_maximization"
PLAIN = f"version: 1\nmodel: {{path: any.onnx}}\nanalyses:\n  classes: {{kind: {KIND}, targets: [{{layer: logits}}]}}\n"


TOGETHER = 4
"""Images of one call: so many share a pass on a CPU."""


class Judge:
    """A classifier of RGB images in NHWC, run by ONNX Runtime; takes 0..255 if its input is uint8, else -1..1."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (self.input,) = self.session.get_inputs()
        self.size = int(self.input.shape[1])

    def probabilities(self, picture: np.ndarray) -> np.ndarray:
        """Return the class probabilities of one picture, uint8 [height, width, 3]."""
        fitted = resized(picture, (self.size, self.size))[None]
        data = fitted if self.input.type == "tensor(uint8)" else fitted.astype(np.float32) / 127.5 - 1
        (output,) = self.session.run(None, {self.input.name: data})
        return np.asarray(output[0], np.float64) / output[0].sum(dtype=np.float64)


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a picture at another height and width."""
    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class Sweep:
    """What all images of a call have in common."""

    zoo: Path
    judge: Path
    offset: int
    steps: int
    seed: int
    size: int | None
    threads: int
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """One image; these make the difference between two lines of the results."""

    model: str
    preset: str
    unit: int
    steps: int
    seed: int
    digest: str

    @property
    def group(self) -> str:
        """Name of the folder for this and the images that belong to it."""
        return f"{self.model}-{self.preset.replace('/', '_')}-{self.steps}-{self.seed}-{self.digest}"


# --- presets ----------------------------------------------------------------------------------------------------------


@functools.cache
def analysis_of(preset: str, settings: tuple[str, ...]) -> Analysis:
    """Return the analysis that a preset names, changed by `--set`."""
    file, _, wanted = preset.partition(":")
    if file == "default":
        return parse_recipe(PLAIN, "default", ROOT, [f"classes.{text}" for text in settings]).analyses["classes"]
    places = [Path(file), ROOT / "recipes" / f"{file}.yaml", ROOT / "recipes" / "presets" / f"{file}.yaml"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise SystemExit(f"there is no preset {file!r}: no such file, and none of that name in recipes/")
    ids = [name for name, analysis in read_recipe(found).analyses.items() if _kind(analysis) == KIND]
    if (wanted and wanted not in ids) or (not wanted and len(ids) != 1):
        raise SystemExit(f"{found} has the {KIND} analyses {', '.join(ids) or 'none'}: say {file}:ID")
    name = wanted or ids[0]
    return read_recipe(found, [f"{name}.{text}" for text in settings]).analyses[name]


def _kind(analysis: Analysis) -> str:
    return str(analysis.model_dump()["kind"])


def _for_units(analysis: Analysis, units: list[int], steps: int, size: int | None) -> Analysis:
    """Return the analysis for some classes, everything else as it was."""
    target = {"layer": "logits", "units": units}
    own = {"targets": [target], "objectives": (), "steps": steps, "size": size, "seeds": 1, "keep_arrays": True}
    return type(analysis).model_validate(analysis.model_dump() | own)


def digest_of(preset: str, settings: tuple[str, ...], size: int | None = None) -> str:
    """Return a few letters that say whether two presets of one name are the same."""
    if preset in LUCENT:
        return "peer"
    text = _for_units(analysis_of(preset, settings), [0], 1, size).model_dump_json()
    return hashlib.sha256(text.encode()).hexdigest()[:6]


# --- one image --------------------------------------------------------------------------------------------------------


@functools.cache
def _opened(name: str, zoo: Path) -> Model:
    file, preprocessing = MODELS[name]
    return load(zoo / "zoo" / "onnx" / file, preprocessing, zoo / "zoo" / "labels" / LABELS, device="cpu")


@functools.cache
def _judge(path: Path, threads: int) -> Judge:
    return Judge(path, threads)


def pictures_of(tasks: Sequence[Task], sweep: Sweep) -> list[np.ndarray]:
    """Make images that differ in their classes only: uint8 [height, width, 3] each."""
    first = tasks[0]
    model = _opened(first.model, sweep.zoo)
    if first.preset in LUCENT:
        side = LUCENT[first.preset]
        images = [class_image(model, task.unit, side, task.steps, task.seed) for task in tasks]
    else:
        units = [task.unit for task in tasks]
        analysis = _for_units(analysis_of(first.preset, sweep.settings), units, first.steps, sweep.size)
        subject = Subject("model", model.view, model.preprocessing, model.labels, {}, first.seed)
        images = _made(analysis, subject, model)
    return [np.rint(255 * image.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0) for image in images]


def _made(analysis: Analysis, subject: Subject, model: Model) -> list[np.ndarray]:
    """Run the jobs of an analysis as a run does and return the images that they store."""
    found: dict[str, Any] = {}
    for job in analysis.jobs(subject):
        needed = {name: found[name] for name in job.needs}
        found[job.name] = analysis.run(job, JobContext(subject, model, lambda *_: None, needed))
    stored = [finding.arrays for parts in found.values() for finding in parts if isinstance(finding, Array)]
    return [image for arrays in stored if "images" in arrays for image in arrays["images"]]


def rank_of(probabilities: np.ndarray, place: int) -> int:
    """Return a class's rank, from 1; of classes with the same probability it comes last.

    A judge of 8 bits gives most classes exactly 0: that is no place among the first five where few others have more.
    """
    return int((probabilities >= probabilities[place]).sum())


def work(tasks: Sequence[Task], sweep: Sweep, made: Path | None) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Make and judge some images, or judge one that is made: what is found, and the picture, of each."""
    torch.set_num_threads(sweep.threads)
    before = time.process_time()
    pictures = pictures_of(tasks, sweep) if made is None else [np.asarray(Image.open(made))]
    seconds = {} if made is not None else {"seconds": (time.process_time() - before) / len(tasks)}
    return [
        (asdict(task) | judged(task, sweep, picture) | seconds, picture)
        for task, picture in zip(tasks, pictures, strict=True)
    ]


def judged(task: Task, sweep: Sweep, picture: np.ndarray) -> dict[str, Any]:
    """Return what the judge and the model itself see in a picture."""
    model = _opened(task.model, sweep.zoo)
    given = _judge(sweep.judge, sweep.threads).probabilities(picture)
    own = model.probabilities(resized(picture, model.input_size))[0]
    place = task.unit + sweep.offset
    assert model.labels is not None
    best = int(given.argmax()) - sweep.offset
    return {
        "judge": sweep.judge.name,
        "label": model.labels[task.unit],
        "probability": float(given[place]),
        "rank": rank_of(given, place),
        "seen_as": model.labels[best] if best >= 0 else "background",
        "own_probability": float(own[task.unit]),
        "own_rank": rank_of(own, task.unit),
    }


# --- all images -------------------------------------------------------------------------------------------------------


def sweep_all(tasks: Sequence[Task], sweep: Sweep, jobs: int, out: Path) -> None:
    """Make the images that are not there yet, and append a line for each; judge those that another judge has seen."""
    known = lines_of(out)
    made = {_task(line): line["seconds"] for line in known}
    judged = {_task(line) for line in known if line["judge"] == sweep.judge.name}
    left = [task for task in tasks if task not in judged]
    if not left:
        return
    print(f"{sum(task not in made for task in left)} of {len(tasks)} images to make", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.jsonl").write_text("".join(_text(line) for line in known), "utf-8")  # without a line cut off
    start = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, start) as pool, (out / "results.jsonl").open("a", encoding="utf-8") as results:
        files = {task: out / task.group / f"{task.unit:04}.png" for task in left}
        waiting = {
            pool.submit(work, tasks, sweep, files[tasks[0]] if tasks[0] in made else None): tasks
            for tasks in _together(left, made)
        }
        for ended in as_completed(waiting):
            for task, (line, picture) in zip(waiting[ended], ended.result(), strict=True):
                if task not in made:
                    files[task].parent.mkdir(exist_ok=True)
                    Image.fromarray(picture).save(files[task])
                results.write(_text({"seconds": made.get(task)} | line))
                results.flush()
                print(f"{task.group} {line['label']}: rank {line['rank']}, seen as {line['seen_as']}", flush=True)


def _together(tasks: Sequence[Task], made: Mapping[Task, float]) -> Iterator[list[Task]]:
    """Split tasks into those that are worked on in one call; images that are there are judged one by one."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        if task in made:
            yield [task]
        else:
            groups.setdefault(task.group, []).append(task)
    parts = [same[first : first + TOGETHER] for same in groups.values() for first in range(0, len(same), TOGETHER)]
    yield from parts


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def lines_of(out: Path) -> list[dict[str, Any]]:
    """Return what stands in the results; the last line may be cut off."""
    file = out / "results.jsonl"
    if not file.is_file():
        return []
    whole = file.read_text("utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _task(line: dict[str, Any]) -> Task:
    return Task(**{name: line[name] for name in Task.__dataclass_fields__})


def contact_sheet(lines: Sequence[dict[str, Any]], folder: Path, side: int = 168, columns: int = 10) -> Image.Image:
    """Return all pictures of a preset, each with its class, the rank that the judge gave it and what it saw instead."""
    height = side + 26
    sheet = Image.new("RGB", (columns * side, math.ceil(len(lines) / columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, line in enumerate(sorted(lines, key=lambda line: int(line["unit"]))):
        x, y = place % columns * side, place // columns * height
        picture = Image.open(folder / f"{line['unit']:04}.png")
        sheet.paste(picture.resize((side - 4, side - 4), Image.Resampling.LANCZOS), (x + 2, y + 2))
        color = {True: "#006000", False: "#a00000"}[line["rank"] <= 5]
        seen = "" if line["rank"] == 1 else f", not {line['seen_as']}"
        draw.text((x + 3, y + side - 1), f"{line['unit']} {line['label']}"[:27], fill="black")
        draw.text((x + 3, y + side + 11), f"rank {line['rank']}{seen}"[:27], fill=color)
    return sheet


def interval(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    z, rate = 1.959964, hits / count
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def in_words(hits: int, count: int) -> str:
    """Return a rate and its interval, in per cent."""
    low, high = interval(hits, count)
    return f"{hits / count:.0%} ({100 * low:.0f}-{100 * high:.0f})"


def table(lines: Sequence[dict[str, Any]]) -> Iterator[list[object]]:
    """Give the row of each model and preset."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault(_task(line).group, []).append(line)
    for same in sorted(groups.values(), key=lambda same: (same[0]["model"], same[0]["preset"])):
        count, first = len(same), same[0]
        top1, top5 = (sum(line["rank"] <= rank for line in same) for rank in (1, 5))
        own = sum(line["own_rank"] == 1 for line in same)
        yield [
            first["model"], first["preset"], first["digest"], first["steps"], first["seed"], count,
            in_words(top1, count), in_words(top5, count),
            f"{statistics.fmean(line['probability'] for line in same):.2f}", f"{own / count:.0%}",
            f"{statistics.median(line['seconds'] for line in same):.1f}",
        ]  # fmt: skip


def units_of(texts: Sequence[str]) -> list[int]:
    """Read class numbers and ranges START:STOP:STEP, each class once."""
    found: dict[int, None] = {}
    for text in texts:
        numbers = [int(part) for part in text.split(":")]
        found.update(dict.fromkeys(range(*numbers) if len(numbers) > 1 else numbers))
    if not found or not all(0 <= unit < 1000 for unit in found):
        raise SystemExit(f"ImageNet's classes are 0 to 999, not {' '.join(texts)}")
    return list(found)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--presets", nargs="+", default=["default", "lucent"], metavar="PRESET")
    parser.add_argument("--classes", nargs="+", default=["0:1000:20"], help="numbers and START:STOP:STEP")
    parser.add_argument("--steps", type=int, default=512)
    parser.add_argument("--size", type=int, help="pixels of the presets' images (default: the model's input size)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="changes the presets but Lucent's"
    )
    parser.add_argument("--judge", type=Path, help=f"a classifier in NHWC (default: {JUDGE} of the zoo)")
    parser.add_argument("--offset", type=int, default=OFFSET, help="the judge's index of a class minus ImageNet's")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/classes"), metavar="FOLDER")
    given = parser.parse_args()
    prepare(given)
    judge = given.judge or given.zoo / "zoo" / "onnx" / JUDGE
    sweep = Sweep(given.zoo, judge, given.offset, given.steps, given.seed, given.size, given.threads, tuple(given.set))
    units = units_of(given.classes)
    try:
        digests = {preset: digest_of(preset, sweep.settings, sweep.size) for preset in given.presets}
    except OnnxvizError as error:
        raise SystemExit(str(error)) from error
    # Class by class, so that what is there after a while can be compared.
    tasks = [
        Task(model, preset, unit, given.steps, given.seed, digests[preset])
        for unit in units
        for model in given.models
        for preset in given.presets
    ]
    sweep_all(tasks, sweep, given.jobs, given.out)
    lines = [line for line in lines_of(given.out) if line["judge"] == judge.name and line["unit"] in units]
    for group in dict.fromkeys(task.group for task in tasks):
        same = [line for line in lines if _task(line).group == group]
        contact_sheet(same, given.out / group).save(given.out / f"{group}.png")
    head = ["model", "preset", "settings", "steps", "seed", "images", "top-1 (95 %)", "top-5 (95 %)", "probability"]
    print(f"\nJudged by {judge.name}\n")
    print(markdown([*head, "own top-1", "CPU s"], list(table(lines))))


if __name__ == "__main__":
    main()
