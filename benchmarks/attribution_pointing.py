"""The pointing game and energy by TorchRay's protocol: does a classifier's evidence lie on the objects of the class?

    OMP_NUM_THREADS=1 python -m benchmarks.attribution_pointing --data camvid --folder runs/pointing
    OMP_NUM_THREADS=1 python -m benchmarks.attribution_pointing --data photographs --folder runs/pointing

TorchRay (torchray/benchmark, examples/attribution_benchmark.py) explains VGG-16 and ResNet-50, fine-tuned to say which
of the classes of VOC an image has, by the highest place of each map. Here networks stay as ImageNet left them, and a
linear layer on their averaged last map learns which classes an image has (`linear_classifier`):

* camvid: crops of street scenes, classes by the pixel labels. It learns from the first half of each of the two films.
* photographs: whole photographs, classes by what a segmenter of 31 classes of ADE20K makes of them. It learns from
  every other photograph, and from crops of these.

The penalty is chosen by cross-validation within that half, and nothing else by results. Of the other half each image is
asked about every class that covers a hundredth of it or more, whether or not the classifier finds it, as in TorchRay.
Classes that the classifier finds no better than chance does in that half are left out (`Precision.counts`).

As in TorchRay: accuracy is that of each class, then averaged over classes; gradients are the largest absolute value of
the channels, blurred by 0.02 of the image's side; Grad-CAM is of the map before the last pooling; RISE weights masks by
the probability; 15 pixels of VOC's images, 375 on the shorter side, are forgiven, which is 9 of the 224 that are judged
here; difficult are the pairs of image and class in which the class covers less than a quarter and there is another one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from benchmarks.linear_classifier import (
    BACKBONES,
    Backbone,
    Precision,
    choose_strength,
    features,
    fit,
    precision,
    write,
)
from benchmarks.measure import arguments, markdown, prepare
from benchmarks.pointing_images import OBJECTS, Split, camvid_crops, camvid_frames, photographs
from onnxviz.analyses.attribution.faithfulness import enlarged
from onnxviz.analyses.attribution.localisation import TOLERANCE, localise, near, usual_tolerance
from onnxviz.analyses.attribution.method import Method
from onnxviz.analyses.attribution.methods import methods
from onnxviz.analyses.attribution.question import ForwardPass, Question
from onnxviz.analyses.attribution.simple_maps import EDGES, simple_maps
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.analyses.explained_score import Positions
from onnxviz.core.values import Layer, Preprocessing
from onnxviz.graph.targets import resolve_head
from onnxviz.model.model import Model, load

DATA = {"camvid": camvid_crops, "photographs": photographs}
SEGMENTER = "segmenter"
BLUR = 0.02
"""The standard deviation as a share of the image's longer side."""
FEWEST = 10
"""How many images to learn from have to have a class, and how many not."""
RESAMPLES = 2000
OWN: dict[str, dict[str, float]] = {
    "rise": {"masks": 400},
    "occlusion": {"stride": 0.1},
    "integrated_gradients": {"steps": 16},
}
"""Settings that are not the default, to save time; RISE has 8,000 masks in TorchRay."""
METHODS = (
    "gradient", "deconvnet", "guided_backpropagation", "grad_cam", "rise", "layer_cam", "integrated_gradients",
    "occlusion",
)  # fmt: skip
PUBLISHED = {
    "centre": (69.6, 42.4),
    "Gradient": (76.3, 56.9),
    "Deconvnet": (67.5, 44.2),
    "Guided backpropagation": (75.9, 53.0),
    "RISE": (86.9, 75.1),
    "Grad-CAM": (86.6, 74.0),
}
"""TorchRay's docs/pointing.csv, VGG-16 on VOC 2007: all, difficult."""
CHANCE = "by chance"
_DEVIATIONS = (72.126, 72.691, 69.904)
ESPNET = Preprocessing("BGR", (110.331, 108.409, 105.033), tuple(255 * value for value in _DEVIATIONS), fit="none")
"""How the authors of ESPNet prepare CamVid's images; the second division by 255 is theirs."""


@dataclass(frozen=True)
class Pair:
    """An image and a class that is in it: how each map meets the class.

    Attributes:
        group: the frame or photograph.
        name: the class.
        difficult: by TorchRay's rule.
        hits: by map, with each of the tolerances.
        energy: by map.
    """

    group: int
    name: str
    difficult: bool
    hits: Mapping[str, Sequence[float]]
    energy: Mapping[str, float]


def is_difficult(shares: npt.NDArray[np.float64], number: int, least: float) -> bool:
    """Tell whether a class is hard to point at: it covers less than a quarter, and another class is there.

    Args:
        shares: of the image, that each class covers, [classes].
        number: the class.
        least: the share from which a class counts as being there.

    Source: the difficult set of Zhang et al. 2018 (Top-down neural attention by excitation backprop).
    """
    return bool(shares[number] < 0.25 and (np.delete(shares, number) >= least).any())


def tolerances(mask: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return TorchRay's tolerance as a share of the image, and as so many pixels of it."""
    return usual_tolerance((mask.shape[0], mask.shape[1])), float(TOLERANCE)


# --- networks -------------------------------------------------------------------------------------------------------


def train(backbone: Backbone, split: Split, zoo: Path, path: Path) -> tuple[Model, list[Precision]]:
    """Fit the linear layer, write the whole network, and say how well it finds each class in the held-out images."""
    classes = len(split.classes)
    present, held_out = (
        np.stack([each.shares(classes) >= split.least for each in part]) for part in (split.learned, split.held_out)
    )
    enough = np.flatnonzero(np.minimum(present.sum(axis=0), (~present).sum(axis=0)) >= FEWEST)
    present, held_out = present[:, enough], held_out[:, enough]
    given = features(backbone, zoo, path.parent, [each.image for each in split.learned])
    strength = choose_strength(given, present, [each.block for each in split.learned])
    write(path, zoo / "zoo" / "onnx" / backbone.file, backbone.last_map, fit(given, present, strength))
    names = [split.classes[number] for number in enough]
    model = load(path, backbone.preprocessing, names, device="cpu", output="classes")
    scores = np.concatenate([model.scores(each.image[None]) for each in split.held_out])
    columns = zip(names, present.T, held_out.T, scores.T, strict=True)
    print(f"Penalty chosen by cross-validation on the {len(given)} images to learn from: C = {strength:g}\n")
    return model, [precision(key, int(learned.sum()), there, each) for key, learned, there, each in columns]


def opened_segmenter(zoo: Path, split: Split) -> Model:
    """Return ESPNet, and print how many pixels it names right."""
    path = zoo / "zoo" / "onnx" / "espnet_p_2_q_8_camvid.onnx"
    model = load(path, ESPNET, device="cpu", output="map_of_classes")
    layer = resolve_head(model.view, None, model.labels).scores
    assert layer is not None
    known = len(split.classes)
    right = []
    for each in split.held_out:
        predicted = model.measure(each.image[None], layer)[layer.name].argmax(axis=1)[0]
        right.append((predicted == each.labels)[each.labels < known].mean())
    print(f"Pixels named right: {np.mean(right):.1%}")
    return model


# --- maps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProbabilityTarget(ClassTarget):
    """The probability of a class by itself, as one of several labels: what TorchRay's RISE weights masks by."""

    def score(self, *values: torch.Tensor) -> torch.Tensor:
        """Return the sigmoid of the class's score."""
        return super().score(*values).sigmoid()


def chosen_methods(names: Sequence[str]) -> list[Method]:
    """Return methods by their names, with the settings of this benchmark."""
    return [methods()[name].model_validate(OWN.get(name, {})) for name in names]


def made_maps(question: Question, asked: Sequence[Method]) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    """Yield by name the maps of an image's class at the image's size, also those that know nothing of the network."""
    size = (int(question.images.shape[2]), int(question.images.shape[3]))
    (target,) = (cast("ClassTarget", each) for each in question.targets)
    probability = question.again(targets=[ProbabilityTarget(target.head, target.number, target.positions)])
    for method in asked:
        found = method.attribute(probability if method.heading == "RISE" else question)
        heat = enlarged(found.maps[-1].detach().numpy()[0], size)
        yield method.heading, _blurred(heat) if method.fine and method.needs_gradients else heat
    for name, values in simple_maps(question).items():
        heat = enlarged(values[0], size)
        yield name, _blurred(heat) if name == EDGES else heat


def _blurred(heat: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Blur a map with the detail of pixels, as TorchRay does."""
    return np.asarray(gaussian_filter(heat, BLUR * max(heat.shape), mode="nearest", truncate=4))


def judge(
    model: Model,
    layers: Sequence[Layer],
    split: Split,
    numbers: Mapping[str, int],
    asked: Sequence[Method],
    positions: Positions = "mean",
) -> Iterator[Pair]:
    """Play the pointing game on each asked image, for each class of `numbers` that it has.

    Args:
        model: the network.
        layers: whose maps are taken, of methods that make maps of layers.
        split: the images.
        numbers: by class the unit of the network that scores it.
        asked: methods.
        positions: how the scores of positions become one.
    """
    head = resolve_head(model.view, None, model.labels)
    assert head.scores is not None
    for place in split.asked:
        example = split.held_out[place]
        shares = example.shares(len(split.classes))
        forward = ForwardPass(model, torch.from_numpy(example.image)[None], layers, [head.scores], to_input=True)
        for name, unit in numbers.items():
            number = split.classes.index(name)
            if shares[number] < split.least:
                continue
            mask = example.labels == number
            question = forward.ask([ClassTarget(head, unit, positions)], indices=[place])
            forgiven = [near(mask, each) for each in tolerances(mask)]
            hits: dict[str, list[float]] = {CHANCE: [float(each.mean()) for each in forgiven]}
            energy = {CHANCE: float(mask.mean())}
            for key, heat in made_maps(question, asked):
                hits[key] = [localise(heat, each, 0).pointing for each in forgiven]
                energy[key] = localise(heat, mask, 0).energy
            yield Pair(example.group, name, is_difficult(shares, number, split.least), hits, energy)


# --- figures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Figures:
    """Accuracies of some pairs, over and over with other images drawn from them.

    Attributes:
        maps: their names.
        accuracy: of each map, the mean over classes of the accuracy in each.
        resampled: the same [RESAMPLES, maps] of images drawn with replacement.
        by_class: for each class of each map.
        energy: the mean over classes of the mean over pairs of each map.
        count: of pairs.
    """

    maps: list[str]
    accuracy: npt.NDArray[np.float64]
    resampled: npt.NDArray[np.float64]
    by_class: Mapping[str, npt.NDArray[np.float64]]
    energy: npt.NDArray[np.float64]
    count: int

    def interval(self, *names: str) -> tuple[float, float]:
        """Return the 95 % interval of a map's accuracy, or of how far it is above a second one's."""
        values = self.resampled[:, self.maps.index(names[0])]
        if len(names) > 1:
            values = values - self.resampled[:, self.maps.index(names[1])]
        low, high = np.percentile(values, (2.5, 97.5))
        return float(low), float(high)

    def correlation(self, published: Mapping[str, float]) -> tuple[float, float, float]:
        """Return Spearman's rank correlation of the published methods with published accuracies, and its interval."""
        places, other = [self.maps.index(name) for name in published], list(published.values())
        found = float(spearmanr(self.accuracy[places], other).statistic)
        low, high = np.percentile([spearmanr(each[places], other).statistic for each in self.resampled], (2.5, 97.5))
        return found, float(low), float(high)


def figures(pairs: Sequence[Pair], tolerance: int) -> Figures:
    """Average over the pairs of each class, then over classes, as TorchRay does, with images drawn anew."""
    maps, names = list(pairs[0].hits), sorted({pair.name for pair in pairs})
    groups, group_of = np.unique([pair.group for pair in pairs], return_inverse=True)
    classes = np.array([[pair.name == name for name in names] for pair in pairs], np.float64)
    hits = np.array([[pair.hits[key][tolerance] for key in maps] for pair in pairs])
    energy = np.array([[pair.energy[key] for key in maps] for pair in pairs])
    whole = _by_class(classes, hits, np.ones(len(pairs)))
    rng = np.random.default_rng(0)
    drawn = [np.bincount(rng.integers(0, len(groups), len(groups)), minlength=len(groups)) for _ in range(RESAMPLES)]
    resampled = np.stack(
        [np.nanmean(_by_class(classes, hits, weights[group_of].astype(np.float64)), axis=0) for weights in drawn]
    )
    known = np.isfinite(energy)  # a map without anything positive has none
    counts = classes.T @ known
    energies = np.where(counts > 0, classes.T @ np.where(known, energy, 0) / np.maximum(counts, 1), np.nan)
    by_class = dict(zip(names, whole, strict=True))
    return Figures(maps, whole.mean(axis=0), resampled, by_class, np.nanmean(energies, axis=0), len(pairs))


def _by_class(
    classes: npt.NDArray[np.float64], hits: npt.NDArray[np.float64], weights: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Return the accuracy of each map in each class, [classes, maps]; NaN for classes that no pair is of."""
    weighted = classes * weights[:, None]
    counts = weighted.sum(axis=0)[:, None]
    return np.where(counts > 0, weighted.T @ hits / np.maximum(counts, 1e-12), np.nan)


def report(pairs: Sequence[Pair]) -> None:
    """Print the tables of a run."""
    parts = {"all": list(pairs), "difficult": [pair for pair in pairs if pair.difficult]}
    found = {key: figures(part, 0) for key, part in parts.items()}
    rows = []
    for place, name in enumerate(found["all"].maps):
        row: list[object] = [name]
        for each in found.values():
            low, high = (100 * value for value in each.interval(name))
            row += [f"{100 * each.accuracy[place]:.1f} ({low:.0f} to {high:.0f})", f"{100 * each.energy[place]:.1f}"]
        rows.append([*row, " / ".join(map(str, PUBLISHED.get(name, ())))])
    counts = [f"{key} ({each.count})" for key, each in found.items()]
    print(markdown(["map", counts[0], "energy", counts[1], "energy", "TorchRay"], rows), end="\n\n")
    for place, key in enumerate(parts):
        for number in range(2):
            print(f"* {key}, {('9 of 224', '15')[number]} pixels forgiven: {_compared(parts[key], number, place)}")
    by_class = found["all"].by_class
    head = ["map", *(f"{name} ({sum(pair.name == name for pair in pairs)})" for name in by_class)]
    rows = [
        [name, *(f"{100 * values[place]:.0f}" for values in by_class.values())]
        for place, name in enumerate(found["all"].maps)
    ]
    print("\n" + markdown(head, rows))


def _compared(pairs: Sequence[Pair], tolerance: int, column: int) -> str:
    """Say how far Grad-CAM is above the centre, and how the order is like the published one where all are there."""
    each = figures(pairs, tolerance)
    low, high = (100 * value for value in each.interval("Grad-CAM", "centre"))
    gain = 100 * (each.accuracy[each.maps.index("Grad-CAM")] - each.accuracy[each.maps.index("centre")])
    said = f"Grad-CAM {gain:.1f} points above the centre ({low:.0f} to {high:.0f})"
    if set(PUBLISHED) <= set(each.maps):
        rank = each.correlation({name: values[column] for name, values in PUBLISHED.items()})
        said += f"; rank correlation with TorchRay's {rank[0]:.2f} ({rank[1]:.2f} to {rank[2]:.2f})"
    return said


def classifier(data: str, name: str, given: argparse.Namespace) -> Iterator[Pair]:
    """Train a classifier, say how good it is, and play the game."""
    split = DATA[data](given.zoo, given.images)
    print(f"{len(split.learned)} images to learn from, {len(split.held_out)} held out, {len(split.asked)} asked about")
    model, found = train(BACKBONES[name], split, given.zoo, given.folder / f"{data}_{name}.onnx")
    head = ["class", "learned from", "held out", "average precision", "by chance", "p", "counts"]
    rows = [
        [
            each.name,
            each.learned,
            each.present,
            f"{each.average:.2f}",
            f"{each.present / each.count:.2f}",
            f"{each.p:.3f}",
            "yes" if each.counts else "no",
        ]
        for each in found
    ]
    print(markdown(head, rows))
    missing = sorted(set(split.classes) - {each.name for each in found})
    print(f"\nNot learned, as too few images have them or lack them: {', '.join(missing) or 'none'}", flush=True)
    numbers = {each.name: unit for unit, each in enumerate(found) if each.counts}
    return judge(model, model.view.select("last_map"), split, numbers, chosen_methods(given.methods))


def segmenter(given: argparse.Namespace) -> Iterator[Pair]:
    """Play the game with ESPNet's own scores of the classes that are objects."""
    split = camvid_frames(given.zoo, given.images)
    model = opened_segmenter(given.zoo, split)
    numbers = {name: split.classes.index(name) for name in OBJECTS}
    layers = [model.view.layer(given.layer)]
    return judge(model, layers, split, numbers, chosen_methods(given.methods), given.positions)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=[*DATA, SEGMENTER])
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=list(BACKBONES))
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--images", type=int, default=48, help="of the held-out ones, how many are asked about")
    parser.add_argument("--folder", type=Path, required=True, help="where classifiers and pairs are kept")
    parser.add_argument("--tables", action="store_true", help="print the tables of the pairs that are there")
    parser.add_argument("--positions", default="mean", choices=["mean", "highest"], help="the segmenter's score")
    parser.add_argument("--layer", default="b3.act", help="layer of the segmenter whose maps are taken")
    given = parser.parse_args()
    prepare(given)
    given.folder.mkdir(parents=True, exist_ok=True)
    runs = [(data, name) for data in given.data for name in ([""] if data == SEGMENTER else given.backbones)]
    for data, name in runs:
        print(f"\n### {data}, {name or given.positions + ' of positions'}\n")
        path = given.folder / f"{data}_{name or given.positions}.json"
        if not given.tables:
            started = time.perf_counter(), time.process_time()
            pairs = []
            for pair in classifier(data, name, given) if name else segmenter(given):
                pairs.append(asdict(pair))
                path.write_text(json.dumps(pairs))
            seconds, processor = time.perf_counter() - started[0], time.process_time() - started[1]
            print(f"\n{seconds:.0f} s, {processor:.0f} s of the processor\n")
        report([Pair(**pair) for pair in json.loads(path.read_text())])


if __name__ == "__main__":
    main()
