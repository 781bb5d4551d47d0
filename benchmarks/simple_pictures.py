"""How units' pictures stand beside plain colours and gratings: by the default, and as it was before them.

    OMP_NUM_THREADS=1 python -m benchmarks.simple_pictures --layers conv1_2 --out runs/simple

For each layer one picture of each unit is made by three recipes and compared with the best of the plain colours and
gratings that `onnxviz/analyses/activation_maximization/simple_pictures.py` lists, measured in the same way: "former"
(the mean colour scaled like all else, nothing begun again), "alone" (the default without beginning again) and
"default". A unit of plain colour is one that the best plain colour excites more than the best grating does. `--out` is
a folder for contact sheets.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import arguments, markdown, prepare
from onnxviz.analyses.activation_maximization.analysis import ActivationMaximization
from onnxviz.analyses.activation_maximization.measurements import SIMPLE, Measured
from onnxviz.analyses.activation_maximization.simple_pictures import simple_pictures
from onnxviz.analyses.base import JobContext, Subject
from onnxviz.core.findings import Array, Table
from onnxviz.model.model import load
from onnxviz.optimize.color import to_pixels

RECIPES: dict[str, dict[str, Any]] = {
    "former": {"parameterization": {"kind": "fourier", "mean_color": 0}, "begin_again": False},
    "alone": {"begin_again": False},
    "default": {},
}


def made(context: JobContext, settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, Table, dict[str, float]]:
    """Return pictures, activations on simple pictures [simple, units], the table, and processor seconds by stage."""
    analysis = ActivationMaximization.model_validate(settings)
    found: dict[str, list[Any]] = {}
    seconds = {"simple": 0.0, "pictures": 0.0}
    jobs = list(analysis.jobs(context.subject))
    for job in jobs:
        start = time.process_time()
        found[job.name] = analysis.run(
            job, dataclasses.replace(context, found={name: found[name] for name in job.needs})
        )
        seconds["simple" if job.parameters.get("stage") == SIMPLE else "pictures"] += time.process_time() - start
    results = [entry for job in jobs for entry in found[job.name]]
    images = np.concatenate([entry.arrays["images"] for entry in results if isinstance(entry, Array)])
    simple = np.concatenate([entry.values for entry in results if isinstance(entry, Measured)], axis=1)
    combined = analysis.combine([found[job.name] for job in jobs if not job.intermediate], context.subject)
    (table,) = (entry for entry in combined if isinstance(entry, Table))
    return images, simple, table, seconds


def sheet(images: np.ndarray, columns: int = 16) -> Image.Image:
    """Return a contact sheet of images [N, 3, h, w]."""
    pixels = to_pixels(images)
    blank = np.full_like(pixels[:1], 255)
    rows = [pixels[start : start + columns] for start in range(0, len(pixels), columns)]
    full = [np.concatenate([row, np.repeat(blank, columns - len(row), axis=0)]) for row in rows]
    return Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in full]))


def measure_layer(context: JobContext, layer: str, given: argparse.Namespace) -> list[list[str]]:
    """Return a line for each recipe."""
    plain = sum(simple.other is None for simple in simple_pictures(3))
    lines, reference = [], None
    for name in given.recipes:
        targets = [{"layer": layer, "units": given.units}]
        settings = {"kind": "activation_maximization", "targets": targets, "size": given.size, "steps": given.steps}
        images, simple, table, seconds = made(context, {**settings, **RECIPES[name]})
        columns = [column.name for column in table.columns]
        after = np.array([row[columns.index("after")] for row in table.rows], np.float64)
        beaten = sum(row[columns.index("beaten")] == "yes" for row in table.rows)
        again = sum(bool(row[columns.index("begun with")]) for row in table.rows)
        colors, gratings = simple[:plain].max(axis=0), simple[plain:].max(axis=0)
        of_color = (colors > gratings) & (colors > 0)
        shares = after[of_color] / colors[of_color]
        reference = after if reference is None else reference
        both = (reference > 0) & (after > 0)
        if given.out:
            given.out.mkdir(parents=True, exist_ok=True)
            sheet(images).save(given.out / f"{layer.replace('/', '_')}_{name}.png")
        lines.append([
            layer, name, f"{beaten} of {len(after)}", str(again), str(len(shares)),
            f"{shares.min():.2f}, {np.median(shares):.2f}" if len(shares) else "",
            f"{(shares >= 0.95).sum()} of {len(shares)}",
            f"{np.exp(np.log(after[both] / reference[both]).mean()):.2f}",
            f"{seconds['simple']:.1f}", f"{seconds['pictures']:.1f}",
        ])  # fmt: skip
    return lines


def _unheard(done: int, total: int, note: str = "") -> None:
    """Tell nobody."""


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="squeezenet_fp16.onnx", help="file in the zoo")
    parser.add_argument("--preprocess", default="caffe")
    parser.add_argument("--layers", nargs="+", default=["conv1_2"])
    parser.add_argument("--units", default="all", help="as in a recipe (default all)")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--out", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    prepare(given)
    model = load(given.zoo / "zoo" / "onnx" / given.model, preprocess=given.preprocess, device="cpu")
    subject = Subject("model", model.view, model.preprocessing, model.labels, {}, 0)
    context = JobContext(subject, model, _unheard)
    lines = [line for layer in given.layers for line in measure_layer(context, layer, given)]
    head = ["layer", "recipe", "beaten", "begun again", "units of colour", "share of the best plain colour: least, "
            "median", "at least 95 %", "activation / first recipe's", "simple pictures, CPU s",
            "pictures, CPU s"]  # fmt: skip
    print(markdown(head, lines))


if __name__ == "__main__":
    main()
