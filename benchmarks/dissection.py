"""Network dissection: our counting of overlaps against a dense evaluation, our threshold against numpy's quantile.

    python -m benchmarks.dissection --images 40

Both sides get the same activations and labels; decoding and forward passes are timed apart. The dense evaluation
enlarges the maps of all units with torch, compares all pixels and counts with one matrix product an image. "exact"
says whether the thresholds are bit for bit numpy's Hazen quantile, and how many of the counted pixels differ between
the two evaluations, which is rounding at the threshold.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from benchmarks.measure import arguments, in_turns, markdown, medians, open_subject, prepare
from onnxviz.analyses.dissection.counting import Grid, Overlap, count_overlap
from onnxviz.analyses.dissection.thresholds import LargestValues
from onnxviz.core.values import Preprocessing
from onnxviz.data import builtin
from onnxviz.data.concepts import ConceptSet, MaskFolder
from onnxviz.data.images import fit_labels, load_batch
from onnxviz.model.model import Model

QUANTILE = 0.005
BATCH = 8
STRETCH = Preprocessing(fit="stretch")
LAYERS = {
    "squeezenet": ("fire9/concat_1", "fire5/concat_1", "fire2/concat_1", "conv1_2"),
    "builtin": ("Conv[-1]:act", "Conv[3]:act", "Conv[0]:act"),
}


def thresholds(values: np.ndarray) -> np.ndarray:
    """Return our exact thresholds of activations [images, units, h, w], taken in batches."""
    batches, positions = (values[start : start + BATCH] for start in range(0, len(values), BATCH)), values[:, 0].size
    return LargestValues.joined([LargestValues.of(batch, positions, QUANTILE) for batch in batches]).thresholds().values


def quantile(values: np.ndarray) -> np.ndarray:
    """Return numpy's Hazen quantile of each unit."""
    by_unit = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1).astype(np.float64)
    return np.quantile(by_unit, 1 - QUANTILE, axis=1, method="hazen")


def count(values: np.ndarray, cuts: np.ndarray, labels: np.ndarray, concepts: int) -> np.ndarray:
    """Return our counts, [units, concepts]."""
    overlap = Overlap.empty(values.shape[1], np.zeros(concepts, np.intp))
    grid = Grid.between(values.shape[2:], labels.shape[2:])
    for image in range(len(values)):
        count_overlap(overlap, values[image : image + 1], cuts, labels[image : image + 1], grid)
    return overlap.both


def count_densely(values: np.ndarray, cuts: np.ndarray, labels: np.ndarray, concepts: int) -> np.ndarray:
    """Return the same counts by enlarging every map and comparing every pixel."""
    both = torch.zeros(values.shape[1], concepts + 1, dtype=torch.float64)
    limits = torch.from_numpy(cuts).float()[:, None, None]
    for image, layers in zip(values, labels, strict=True):
        large = functional.interpolate(torch.from_numpy(image[None]), size=labels.shape[2:], mode="bilinear")[0]
        masks = (large > limits).flatten(1).float()
        for layer in layers:
            one_hot = functional.one_hot(torch.from_numpy(layer).long().flatten(), concepts + 1).float()
            both += (masks @ one_hot).double()
    return both[:, 1:].numpy().astype(np.int64)


def subject(name: str, zoo: Path, images: int) -> tuple[Model, ConceptSet]:
    """Return a model and pixel-labelled images for it."""
    model, _ = open_subject(name, zoo)
    if name == "builtin":
        return model, builtin.scenes(images)
    return model, MaskFolder.find("street", "camvid", zoo / "data", limit=images)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="squeezenet", choices=sorted(LAYERS), help="builtin needs no files")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--side", type=int, default=112, help="height and width at which pixels are compared")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    prepare(given)
    model, data = subject(given.model, given.zoo, given.images)
    number, size = len(data), (given.side, given.side)
    names = LAYERS[given.model]
    start = time.process_time()
    pictures = load_batch(data, range(number), STRETCH, model.input_size)
    decoded = time.process_time()
    labels = np.stack([fit_labels(data.read_labels(index), STRETCH, size) for index in range(number)])
    labelled = time.process_time()
    parts = [model.measure(pictures[at : at + BATCH], names) for at in range(0, number, BATCH)]
    forward = time.process_time()
    print(
        f"{given.model}, {number} images: decoding {decoded - start:.2f} s, labels {labelled - decoded:.2f} s, "
        f"forward passes of {len(names)} layers {forward - labelled:.2f} s\n"
    )
    concepts = max(concept.index for concept in data.concepts)
    rows = []
    for name in names:
        values = np.concatenate([part[name] for part in parts])
        cuts = thresholds(values)
        same = bool((cuts == quantile(values)).all())
        ours, dense = count(values, cuts, labels, concepts), count_densely(values, cuts, labels, concepts)
        middle = medians(
            in_turns(
                {
                    "top": lambda values=values: thresholds(values),
                    "quantile": lambda values=values: quantile(values),
                    "ours": lambda values=values, cuts=cuts: count(values, cuts, labels, concepts),
                    "dense": lambda values=values, cuts=cuts: count_densely(values, cuts, labels, concepts),
                },
                given.rounds,
            )
        )
        rows.append(
            [
                name, "x".join(map(str, values.shape[1:])), f"{middle['ours']:.3g}", f"{middle['dense']:.3g}",
                f"{middle['dense'] / middle['ours']:.1f}", f"{middle['top']:.3g}", f"{middle['quantile']:.3g}",
                f"{middle['quantile'] / middle['top']:.1f}",
                f"{'yes' if same else 'NO'}; {np.abs(ours - dense).sum()} of {ours.sum()}",
            ]
        )  # fmt: skip
    head = [
        "layer", "units x map", "counting s", "dense s", "dense / ours", "threshold s", "np.quantile s",
        "quantile / ours", "exact",
    ]  # fmt: skip
    print(f"{given.side}x{given.side} labels, {concepts} concepts, median of {given.rounds} rounds, CPU time\n")
    print(markdown(head, rows))


if __name__ == "__main__":
    main()
